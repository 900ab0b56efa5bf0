//! Where a server keeps its state, as its settings say it: `file:`, `file:/folder`, or `etcd://host:port,…/prefix`. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Address, InvalidAddress};

/// Where the durable state of a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreAddress {
    /// One file in the state directory: a single server.
    StateDir,
    /// One file in that folder: a single server.
    Folder(PathBuf),
    /// etcd: several servers, of which one leads.
    Etcd(Address),
}

/// Why a text names no store.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidStore {
    /// Neither scheme.
    #[error("`{0}` is no store; give file:, file:/folder or etcd://host:port,host:port/prefix")]
    Unknown(String),
    /// See there.
    #[error(transparent)]
    Etcd(#[from] InvalidAddress),
}

impl TryFrom<String> for StoreAddress {
    type Error = InvalidStore;

    fn try_from(text: String) -> Result<Self, InvalidStore> {
        if text.starts_with("etcd:") {
            return Ok(Self::Etcd(text.parse()?));
        }
        match text.strip_prefix("file:") {
            Some("") => Ok(Self::StateDir),
            Some(folder) if folder.starts_with('/') => {
                // file:///folder is how others write it.
                let folder = folder.strip_prefix("//").unwrap_or(folder);
                Ok(Self::Folder(PathBuf::from(folder)))
            }
            Some(_) | None => Err(InvalidStore::Unknown(text)),
        }
    }
}

impl From<StoreAddress> for String {
    fn from(store: StoreAddress) -> Self {
        match store {
            StoreAddress::StateDir => "file:".to_owned(),
            StoreAddress::Folder(folder) => format!("file:{}", folder.display()),
            StoreAddress::Etcd(address) => address.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_and_told_again() {
        for (text, told) in [
            ("file:", "file:"),
            ("file:///x", "file:/x"),
            ("etcd://a:2379", "etcd://a:2379/mezzo"),
        ] {
            let place = StoreAddress::try_from(text.to_owned()).unwrap();
            assert_eq!(String::from(place), told);
        }
        for text in ["", "redis://x", "file:x", "etcd://a"] {
            let error = StoreAddress::try_from(text.to_owned()).unwrap_err();
            assert!(error.to_string().contains("give "), "{error}");
        }
    }
}
