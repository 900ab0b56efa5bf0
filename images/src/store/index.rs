//! Which names stand for which images: one small JSON file per name.
//!
//! The files are written by temp, fsync, rename, fsync of the directory; their names are hashes, so that a name with
//! slashes needs no escaping. A file that cannot be read says nothing that a registry does not know: it is set aside
//! with a warning and the image is pulled again. A file of a newer version is an error, for then this program is too
//! old for the store.
//!
//! A file's own time tells when its image was last used: set at most once a minute, and not forced to the disk, because
//! all that depends on it is which of two unused images goes first.
//!
//! Versions: 1 is the first. A reader must refuse a higher number; new fields need a new number only if an old reader
//! that drops them would do harm.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::OpenError;
use super::content::{Layout, read_bounded};
use crate::digest::Digest;
use crate::reference::Reference;

const VERSION: u32 = 1;
const MAX_RECORD: u64 = 1 << 20;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) reference: Reference,
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    /// Chain ids, bottom first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) size_compressed: u64,
    pub(crate) size_unpacked: u64,
    /// Seconds since 1970; none in records of before it was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pulled_at: Option<u64>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Record {
    pub(crate) fn version() -> u32 {
        VERSION
    }

    /// The name of the file that holds the record of `reference`.
    pub(crate) fn file_name(reference: &Reference) -> String {
        format!(
            "{}.json",
            Digest::of(reference.to_string().as_bytes()).hex()
        )
    }

    /// The same image by the same name, whenever it was pulled.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let timeless = |record: &Self| Self {
            pulled_at: None,
            ..record.clone()
        };
        timeless(self) == timeless(other)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a record has string keys only");
        text.push(b'\n');
        text
    }
}

/// Reads all records, each with the time when its image was last used.
pub(crate) fn load(
    layout: &Layout,
) -> Result<BTreeMap<Reference, (Record, SystemTime)>, OpenError> {
    let folder = layout.references();
    let io = |source| OpenError::Io {
        operation: "read",
        path: folder.clone(),
        source,
    };
    let mut records = BTreeMap::new();
    for file in std::fs::read_dir(&folder).map_err(io)? {
        let path = file.map_err(io)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path)? {
            Ok(record) => {
                let used = std::fs::metadata(&path)
                    .and_then(|file| file.modified())
                    .unwrap_or(UNIX_EPOCH);
                records.insert(record.reference.clone(), (record, used));
            }
            Err(problem) => {
                tracing::warn!(file = %path.display(), problem, "set a damaged image record aside; the image will be pulled again");
                std::fs::rename(&path, path.with_extension("corrupt")).map_err(io)?;
            }
        }
    }
    Ok(records)
}

fn read(path: &Path) -> Result<Result<Record, String>, OpenError> {
    let text = match read_bounded(path, MAX_RECORD) {
        Ok(text) => text,
        Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            return Ok(Err(source.to_string()));
        }
        Err(source) => {
            return Err(OpenError::Io {
                operation: "read",
                path: path.into(),
                source,
            });
        }
    };
    if let Ok(VersionOnly { version }) = serde_json::from_slice(&text)
        && version > VERSION
    {
        return Err(OpenError::NewerFormat {
            path: path.into(),
            found: version,
            known: VERSION,
        });
    }
    let record: Record = match serde_json::from_slice(&text) {
        Ok(record) => record,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let expected = Record::file_name(&record.reference);
    if path
        .file_name()
        .is_none_or(|name| name != expected.as_str())
    {
        return Ok(Err(format!(
            "it speaks of {}, whose file would be {expected}",
            record.reference
        )));
    }
    Ok(Ok(record))
}
