//! Looking into a store that another process may have open, such as a running agent's: nothing is locked or changed.
//!
//! What is seen is what was there when it was opened; files that go meanwhile are as if they had not been there.

use std::path::{Path, PathBuf};

use super::open::Access;
use super::{
    ImageDetails, ImageStore, ImageSummary, MountedImage, OpenError, StoreConfig, StoreError,
};
use crate::reference::Reference;

/// A store to look into. One that is not there has no images.
#[derive(Debug, Clone)]
pub struct StoreReader(ImageStore);

impl StoreReader {
    /// Reads what is there now.
    pub async fn open(root: PathBuf) -> Result<Self, OpenError> {
        let config = StoreConfig {
            root,
            ..StoreConfig::default()
        };
        ImageStore::open_for(config, Access::Look).await.map(Self)
    }

    /// All images, by name.
    pub async fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        self.0.list().await
    }

    /// All there is to know of an image, if it is here.
    pub async fn inspect(&self, reference: &Reference) -> Result<Option<ImageDetails>, StoreError> {
        self.0.inspect(reference).await
    }

    /// What all layers that are here take on the disk, each counted once.
    pub fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes()
    }

    /// The images that are mounted now.
    pub fn mounts(&self) -> Result<Vec<MountedImage>, StoreError> {
        self.0.mounts()
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        self.0.root()
    }
}
