//! [`Images`] on the `mezzo-images` crate: translation, no decisions.

use async_trait::async_trait;
use mezzo_images as im;
use tokio::sync::watch;

use super::{
    Collected, ContainerId, GcPolicy, ImageConfig, ImageError, Images, ImagesUsage, PreparedImage,
    PullProgress, Snapshot, runtime::chain,
};

/// The real image store.
#[derive(Clone)]
pub struct ImageFolder(im::ImageStore);

impl std::fmt::Debug for ImageFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageFolder").finish_non_exhaustive()
    }
}

impl ImageFolder {
    /// Opens it.
    pub async fn open(config: im::StoreConfig) -> Result<Self, ImageError> {
        im::ImageStore::open(config)
            .await
            .map(Self)
            .map_err(|error| ImageError::Unavailable(chain(&error)))
    }

    /// The store itself, for those who bring images in another way.
    #[must_use]
    pub fn store(&self) -> &im::ImageStore {
        &self.0
    }
}

#[async_trait]
impl Images for ImageFolder {
    async fn prepare(
        &self,
        reference: &str,
        force_pull: bool,
        id: &ContainerId,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PreparedImage, ImageError> {
        let reference: im::Reference = reference
            .parse()
            .map_err(|error: im::ReferenceError| ImageError::InvalidReference(chain(&error)))?;
        let policy = if force_pull {
            im::PullPolicy::Always
        } else {
            im::PullPolicy::IfNotPresent
        };
        let (seen, mut changes) = watch::channel(im::PullProgress::default());
        let pull = self.0.pull(&reference, policy, Some(seen));
        tokio::pin!(pull);
        let mut told = true;
        let image = loop {
            tokio::select! {
                biased;
                image = &mut pull => break image.map_err(|error| ImageError::Unavailable(chain(&error)))?,
                changed = changes.changed(), if told => {
                    told = changed.is_ok();
                    if told {
                        let now = *changes.borrow_and_update();
                        progress.send_replace(PullProgress { done: now.bytes_done, total: now.bytes_total });
                    }
                }
            }
        };
        let (store, key) = (self.0.clone(), id.to_string());
        tokio::task::spawn_blocking(move || {
            let snapshot = store
                .snapshot(&image, &key)
                .map_err(|error| ImageError::Unavailable(chain(&error)))?;
            Ok(PreparedImage {
                digest: image.manifest_digest.to_string(),
                config: ImageConfig {
                    entrypoint: image.config.entrypoint,
                    cmd: image.config.cmd,
                    env: image.config.env,
                    working_dir: image.config.working_dir,
                    user: image.config.user,
                    stop_signal: image.config.stop_signal,
                },
                snapshot: Snapshot {
                    lowers: snapshot.lowers,
                    upper: snapshot.upper,
                    work: snapshot.work,
                },
            })
        })
        .await
        .map_err(|error| {
            ImageError::Unavailable(format!("making the root file system broke: {error}"))
        })?
    }

    async fn remove_snapshot(&self, key: &str) -> Result<(), ImageError> {
        let (store, key) = (self.0.clone(), key.to_owned());
        tokio::task::spawn_blocking(move || store.remove_snapshot(&key))
            .await
            .map_err(|error| ImageError::Unavailable(error.to_string()))?
            .map_err(|error| ImageError::Unavailable(chain(&error)))
    }

    async fn collect_garbage(&self, policy: GcPolicy) -> Result<Option<Collected>, ImageError> {
        let policy = im::GcPolicy {
            high_percent: policy.high_percent,
            low_percent: policy.low_percent,
            min_age: policy.min_age,
        };
        let report = self
            .0
            .collect_garbage(policy)
            .await
            .map_err(|error| ImageError::Unavailable(chain(&error)))?;
        Ok(report.map(|report| Collected {
            removed: report.removed.iter().map(ToString::to_string).collect(),
            freed_bytes: report.freed_bytes,
            used_percent_before: report.used_percent_before,
            used_percent_after: report.used_percent_after,
            short_bytes: report.short_bytes,
            in_use: report.in_use,
            young: report.young,
        }))
    }

    async fn usage(&self) -> Result<ImagesUsage, ImageError> {
        let images = self
            .0
            .list()
            .await
            .map_err(|error| ImageError::Unavailable(chain(&error)))?;
        Ok(ImagesUsage {
            images: images.len() as u64,
            disk_bytes: self.0.disk_bytes(),
        })
    }

    async fn list_snapshots(&self) -> Result<Vec<String>, ImageError> {
        let store = self.0.clone();
        tokio::task::spawn_blocking(move || store.list_snapshots())
            .await
            .map_err(|error| ImageError::Unavailable(error.to_string()))?
            .map_err(|error| ImageError::Unavailable(chain(&error)))
    }
}
