//! Does the store hold what it says? Hashes everything again, and tells (or drops) what is not as it was.
//!
//! Names → manifest → config → layers must all be there and belong together; every file of a layer must be as it was
//! recorded when it came (see `tree`); nothing may lie in the store's folders that nobody put there. A layer without a
//! record yet gets one now. What is dropped comes again with the next pull; layers in use are never dropped.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{self, read_bounded};
use super::index::Record;
use super::recorder::NAME;
use super::{ImageStore, Inner, StoreError, blocking, io_error, snapshot, write_back};
use crate::digest::{Digest, chain_id};
use crate::manifest::{self, Document, MAX_METADATA_BYTES};
use crate::reference::Reference;
use crate::tree::record::{self, TreeError};
use crate::unpack::directories::open_root;

/// What to look at, and whether to mend it.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// These images only; none: all of the store, left-overs too.
    pub references: Vec<Reference>,
    /// Drop what is damaged, so that the next pull brings it again.
    pub repair: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Every image that was looked at.
    pub images: Vec<VerifiedImage>,
    /// Every layer that was looked at, each once.
    pub layers: Vec<VerifiedLayer>,
    /// Files that nobody put there, and blobs that are not what their name says.
    pub strays: Vec<Stray>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedImage {
    /// Its name.
    pub reference: Reference,
    /// What is wrong with it, its layers' insides apart.
    pub problems: Vec<String>,
    /// The name was dropped.
    pub dropped: bool,
}

/// How a layer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Every file is as it was recorded.
    Intact,
    /// There was no record yet; now there is.
    NewlyRecorded,
    /// Not as it was.
    Damaged,
    /// Damaged, and dropped.
    Dropped,
    /// Damaged, and left alone because a container or a mount stands on it.
    DamagedInUse,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLayer {
    /// Which.
    pub chain_id: Digest,
    /// How it stands.
    pub state: LayerState,
    /// Files, directories and links in it.
    pub entries: u64,
    /// Bytes of content that were hashed.
    pub bytes: u64,
    /// What is wrong, the first few.
    pub problems: Vec<String>,
    /// How much is wrong in all.
    pub n_problems: u64,
}

/// Something that should not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Where.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// It was dropped.
    pub dropped: bool,
}

impl VerifyReport {
    /// Nothing is wrong, or nothing any more.
    pub fn is_clean(&self) -> bool {
        let good = |state: LayerState| match state {
            LayerState::Intact | LayerState::NewlyRecorded | LayerState::Dropped => true,
            LayerState::Damaged | LayerState::DamagedInUse => false,
        };
        self.layers.iter().all(|layer| good(layer.state))
            && self
                .images
                .iter()
                .all(|i| i.problems.is_empty() || i.dropped)
            && self.strays.iter().all(|stray| stray.dropped)
    }

    /// Nothing was wrong at all.
    pub fn found_nothing(&self) -> bool {
        let good = |state| matches!(state, LayerState::Intact | LayerState::NewlyRecorded);
        self.layers.iter().all(|layer| good(layer.state))
            && self.images.iter().all(|image| image.problems.is_empty())
            && self.strays.is_empty()
    }
}

impl ImageStore {
    /// Hashes everything again. Reads all of the store once; pulls and containers may go on beside it.
    pub async fn verify(&self, options: VerifyOptions) -> Result<VerifyReport, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || verify(&inner, &options)).await
    }
}

fn verify(inner: &Arc<Inner>, options: &VerifyOptions) -> Result<VerifyReport, StoreError> {
    let _alone = inner.recorder.shared().hold();
    let all = options.references.is_empty();
    let (records, every_layer) = {
        let state = inner.state();
        let wanted = |record: &&Record| all || options.references.contains(&record.reference);
        let records: Vec<Record> = state.images.values().filter(wanted).cloned().collect();
        (
            records,
            state.layers.keys().copied().collect::<BTreeSet<_>>(),
        )
    };
    let mut report = VerifyReport::default();
    if all {
        report.strays = strays(inner)?;
    }
    for record in &records {
        report.images.push(VerifiedImage {
            reference: record.reference.clone(),
            problems: image_problems(inner, record),
            dropped: false,
        });
    }
    let layers = if all {
        every_layer
    } else {
        let named = records.iter().flat_map(|record| record.layers.clone());
        named.collect()
    };
    for chain in layers {
        let _pins = inner.pin(&[chain]);
        // Collected meanwhile, or missing: then the image says so.
        if inner.layer(&chain).is_some() {
            report.layers.push(layer(inner, chain)?);
        }
    }
    if options.repair {
        repair(inner, &mut report)?;
    }
    Ok(report)
}

fn image_problems(inner: &Inner, record: &Record) -> Vec<String> {
    let mut problems = Vec::new();
    let blob = |what: &str, digest: &Digest| -> Result<Vec<u8>, String> {
        let path = inner.layout.blob(digest);
        let bytes = read_bounded(&path, MAX_METADATA_BYTES).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                format!("its {what} {digest} is missing")
            } else {
                format!("its {what} {digest} cannot be read: {error}")
            }
        })?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(format!("its {what} {digest} is damaged"))
        }
    };
    let parsed = blob("manifest", &record.manifest).and_then(|bytes| {
        manifest::parse_document(&bytes, None).map_err(|error| format!("its manifest: {error}"))
    });
    match parsed {
        Ok(Document::Manifest(manifest)) if manifest.config.digest == record.config => {}
        Ok(_) => problems.push("its manifest is of another image".into()),
        Err(problem) => problems.push(problem),
    }
    let parsed = blob("config", &record.config).and_then(|bytes| {
        manifest::parse_config(&bytes).map_err(|error| format!("its config: {error}"))
    });
    match parsed {
        Ok(config) => {
            let mut chains: Vec<Digest> = Vec::new();
            for diff_id in &config.diff_ids {
                chains.push(chain_id(chains.last(), diff_id));
            }
            if chains != record.layers {
                problems.push("its config speaks of other layers".into());
            }
        }
        Err(problem) => problems.push(problem),
    }
    let state = inner.state();
    for layer in &record.layers {
        if !state.layers.contains_key(layer) {
            problems.push(format!("its layer {layer} is missing"));
        }
    }
    problems
}

fn layer(inner: &Inner, chain: Digest) -> Result<VerifiedLayer, StoreError> {
    let folder = inner.layout.layer(&chain);
    let mut verified = VerifiedLayer {
        chain_id: chain,
        state: LayerState::Intact,
        entries: 0,
        bytes: 0,
        problems: Vec::new(),
        n_problems: 0,
    };
    if let Err(problem) = content::read_layer(&folder, &chain, &inner.boot_id) {
        verified.problems.push(problem);
    }
    let done = match File::open(folder.join(NAME)) {
        Ok(list) => open_root(&folder.join("fs"))
            .map_err(TreeError::from)
            .and_then(|root| record::compare(root, list))
            .map(|compared| {
                verified.entries = compared.entries;
                verified.bytes = compared.bytes;
                verified.n_problems = compared.n_problems;
                verified.problems.extend(compared.problems);
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => inner
            .recorder
            .shared()
            .list(&chain, &mut || true)
            .map(|recorded| {
                verified.entries = recorded.entries;
                verified.state = LayerState::NewlyRecorded;
            }),
        Err(error) => Err(TreeError::List(error)),
    };
    match done {
        Ok(()) => {}
        Err(TreeError::Layer(error)) => verified.problems.push(chain_of(&error)),
        Err(TreeError::List(source)) if source.kind() == io::ErrorKind::StorageFull => {
            return Err(io_error("record the files of", &folder, source));
        }
        Err(TreeError::List(error)) => verified
            .problems
            .push(format!("the list of its files cannot be read: {error}")),
        Err(TreeError::Stopped) => return Err(StoreError::Interrupted),
    }
    if !verified.problems.is_empty() {
        verified.state = LayerState::Damaged;
        verified.n_problems = verified.n_problems.max(verified.problems.len() as u64);
    }
    Ok(verified)
}

fn chain_of(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Files of the store that nobody put there. What is only unused is garbage, not stray: pruning takes it.
fn strays(inner: &Inner) -> Result<Vec<Stray>, StoreError> {
    let layout = &inner.layout;
    let (records, layers) = {
        let state = inner.state();
        let files: BTreeSet<String> = state.images.keys().map(Record::file_name).collect();
        let layers: BTreeSet<String> = state.layers.keys().map(Digest::hex).collect();
        (files, layers)
    };
    let mut strays = Vec::new();
    let mut look = |folder: PathBuf, known: &dyn Fn(&str) -> bool| -> Result<(), StoreError> {
        for (name, path) in listed(&folder)? {
            if !name.as_deref().is_some_and(known) {
                strays.push(Stray {
                    path,
                    problem: "nobody knows it".into(),
                    dropped: false,
                });
            }
        }
        Ok(())
    };
    // A store may be the root of a file system.
    let own = [
        "blobs",
        "layers",
        "lock",
        "lost+found",
        "mounts",
        "references",
        "snapshots",
        "store.json",
        "tmp",
    ];
    look(layout.root().into(), &|name| own.contains(&name))?;
    look(layout.root().join("blobs"), &|name| name == "sha256")?;
    look(layout.blobs(), &|name| Digest::from_hex(name).is_ok())?;
    look(layout.references(), &|name| records.contains(name))?;
    look(layout.layers(), &|name| layers.contains(name))?;
    for layer in &layers {
        let parts = [write_back::MARK, "fs", "layer.json", NAME];
        look(layout.layers().join(layer), &|name| parts.contains(&name))?;
    }
    look(layout.snapshots(), &|name| {
        snapshot::check_key(name).is_ok()
    })?;
    look(layout.mounts(), &|name| {
        name == "empty" || name.ends_with(".json")
    })?;
    // Whoever fetches or writes just now has things there.
    let idle = inner.permits.available_permits() >= inner.config.parallel_layers.max(1);
    if idle && inner.state().pins.is_empty() {
        look(layout.tmp(), &|_| false)?;
    }
    for (name, path) in listed(&layout.blobs())? {
        let Some(digest) = name.and_then(|name| Digest::from_hex(&name).ok()) else {
            continue;
        };
        let problem = match read_bounded(&path, MAX_METADATA_BYTES) {
            Ok(bytes) if Digest::of(&bytes) == digest => continue,
            Ok(_) => "it is damaged: its digest is not its name".into(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => format!("it cannot be read: {error}"),
        };
        strays.push(Stray {
            path,
            problem,
            dropped: false,
        });
    }
    Ok(strays)
}

fn listed(folder: &Path) -> Result<Vec<(Option<String>, PathBuf)>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("list", folder, source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io_error("list", folder, source))?;
        found.push((entry.file_name().into_string().ok(), entry.path()));
    }
    found.sort();
    Ok(found)
}

/// Drops what is damaged: names with a problem, strays, layers that nobody stands on.
fn repair(inner: &Inner, report: &mut VerifyReport) -> Result<(), StoreError> {
    for image in &mut report.images {
        if !image.problems.is_empty() {
            inner.forget(&image.reference)?;
            image.dropped = true;
        }
    }
    let mut trash = Vec::new();
    for stray in &mut report.strays {
        let discarded = inner.layout.discard(&stray.path);
        trash.extend(discarded.map_err(|source| io_error("remove", &stray.path, source))?);
        stray.dropped = true;
    }
    for layer in &mut report.layers {
        if layer.state != LayerState::Damaged {
            continue;
        }
        let mut state = inner.state();
        let used = inner.used_layers()?.contains(&layer.chain_id)
            || state.pins.contains_key(&layer.chain_id);
        if used {
            layer.state = LayerState::DamagedInUse;
            continue;
        }
        let path = inner.layout.layer(&layer.chain_id);
        let discarded = inner.layout.discard(&path);
        trash.extend(discarded.map_err(|source| io_error("remove", &path, source))?);
        state.layers.remove(&layer.chain_id);
        inner.recorder.shared().forget(&layer.chain_id);
        layer.state = LayerState::Dropped;
    }
    for path in trash {
        content::delete(&path).map_err(|source| io_error("delete", &path, source))?;
    }
    Ok(())
}
