//! [`Images`] on the `mezzo-images` crate: translation, no decisions. Pull secrets are read in `secrets`.

use std::path::PathBuf;

use async_trait::async_trait;
use mezzo_api::model::SecretSource;
use mezzo_images as im;
use tokio::sync::watch;

use super::{
    Collected, ContainerId, GcPolicy, ImageConfig, ImageError, Images, ImagesUsage, PreparedImage,
    PullProgress, Snapshot, runtime::chain, secrets::PullSecrets,
};

/// The real image store.
#[derive(Clone)]
pub struct ImageFolder {
    store: im::ImageStore,
    secrets: Option<PullSecrets>,
}

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
            .map(|store| Self {
                store,
                secrets: None,
            })
            .map_err(|error| ImageError::Unavailable(chain(&error)))
    }

    /// The same with a folder of pull secrets.
    #[must_use]
    pub fn with_pull_secrets(self, folder: Option<PathBuf>) -> Self {
        Self {
            secrets: folder.map(PullSecrets::new),
            ..self
        }
    }

    async fn secret(&self, source: &SecretSource) -> Result<im::PullSecret, ImageError> {
        let secrets = self.secrets.clone().ok_or_else(|| {
            ImageError::Unavailable(format!(
                "pull secret \"{source}\": this agent has no folder with such secrets (pull_secrets_dir)"
            ))
        })?;
        let source = source.clone();
        let read = tokio::task::spawn_blocking(move || secrets.read(&source)).await;
        read.map_err(|error| {
            ImageError::Unavailable(format!("reading a pull secret broke: {error}"))
        })?
        .map_err(ImageError::Unavailable)
    }

    /// The store itself, for those who bring images in another way.
    #[must_use]
    pub fn store(&self) -> &im::ImageStore {
        &self.store
    }
}

#[async_trait]
impl Images for ImageFolder {
    async fn prepare(
        &self,
        reference: &str,
        force_pull: bool,
        pull_secret: Option<&SecretSource>,
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
        let secret = match pull_secret {
            Some(source) => Some(self.secret(source).await?),
            None => None,
        };
        let pull = async {
            match &secret {
                Some(secret) => {
                    let pull = self
                        .store
                        .pull_with_secret(&reference, policy, secret, Some(seen));
                    pull.await
                }
                None => self.store.pull(&reference, policy, Some(seen)).await,
            }
        };
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
                        let waiting = now.waiting.map(|wait| {
                            let seconds = wait.as_secs_f64().round();
                            format!("{seconds} s for registry {} (rate limit)", reference.registry())
                        });
                        let (done, total) = (now.bytes_done, now.bytes_total);
                        progress.send_replace(PullProgress { done, total, waiting });
                    }
                }
            }
        };
        let (store, key) = (self.store.clone(), id.to_string());
        tokio::task::spawn_blocking(move || {
            let snapshot = store
                .snapshot(&image, &key)
                .map_err(|error| ImageError::Unavailable(chain(&error)))?;
            Ok(PreparedImage {
                digest: image.manifest_digest.to_string(),
                config: image.config.into(),
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

    fn changes_dir(&self, key: &str) -> PathBuf {
        self.store.snapshot_folder(key)
    }

    async fn remove_snapshot(&self, key: &str) -> Result<(), ImageError> {
        let (store, key) = (self.store.clone(), key.to_owned());
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
            .store
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
            .store
            .list()
            .await
            .map_err(|error| ImageError::Unavailable(chain(&error)))?;
        Ok(ImagesUsage {
            images: images.len() as u64,
            disk_bytes: self.store.disk_bytes(),
        })
    }

    async fn list_snapshots(&self) -> Result<Vec<String>, ImageError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.list_snapshots())
            .await
            .map_err(|error| ImageError::Unavailable(error.to_string()))?
            .map_err(|error| ImageError::Unavailable(chain(&error)))
    }
}

/// Each field is named: one that is new has to be thought of here. Labels are the maker's free text, and lead nowhere
/// (CVE-2026-53488).
impl From<mezzo_images::ImageConfig> for ImageConfig {
    fn from(config: mezzo_images::ImageConfig) -> Self {
        let mezzo_images::ImageConfig {
            entrypoint,
            cmd,
            env,
            working_dir,
            user,
            stop_signal,
            labels: _,
            exposed_ports: _,
            architecture: _,
            os: _,
        } = config;
        Self {
            entrypoint,
            cmd,
            env,
            working_dir,
            user,
            stop_signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pull_secret_that_is_not_here_is_one_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let config = im::StoreConfig {
            root: dir.path().join("images"),
            ..im::StoreConfig::default()
        };
        let folder = ImageFolder::open(config).await.unwrap();
        let refuse = async |folder: &ImageFolder| {
            let (source, id) = ("team/registry".parse().unwrap(), "c1".parse().unwrap());
            let (progress, _seen) = watch::channel(PullProgress::default());
            let image = "127.0.0.1:1/app:1";
            let prepared = folder.prepare(image, false, Some(&source), &id, progress);
            prepared.await.unwrap_err().to_string()
        };
        let error = refuse(&folder).await;
        assert!(
            error.contains("team/registry") && error.contains("pull_secrets_dir"),
            "{error}"
        );
        let secrets = dir.path().join("secrets");
        std::fs::create_dir_all(secrets.join("team")).unwrap();
        let folder = folder.with_pull_secrets(Some(secrets.clone()));
        let error = refuse(&folder).await;
        assert!(error.contains("no such file"), "{error}");
        // It says nothing about this registry: nothing is asked.
        let other = r#"{"auths": {"r.example": {"auth": "bWU6eA=="}}}"#;
        std::fs::write(secrets.join("team/registry"), other).unwrap();
        let error = refuse(&folder).await;
        assert!(
            error.contains("no \"auths\" entry for 127.0.0.1:1"),
            "{error}"
        );
    }
}
