//! Removes what an agent left that was killed and will not come back: containers, cgroups, root file systems. For
//! `mezzo dev` and for tests; blocking, for callers without a tokio runtime.

use crate::{
    Config, Error,
    node::{Images as _, runtime::chain},
    server::{lock, open_images, runtime_config},
};

/// Ends every container of that agent and removes what it stood on. Idempotent; fails if the agent runs. Task folders
/// and images stay: the next agent on the folder tells what became of the tasks.
pub fn purge(config: &Config) -> Result<(), Error> {
    if !config.state_dir.exists() {
        return Ok(());
    }
    let _lock = lock(&config.state_dir)?;
    mezzo_runtime::purge_dir(&runtime_config(config))
        .map_err(|error| Error::Runtime(chain(&error)))?;
    if !config.state_dir.join("images").exists() {
        return Ok(());
    }
    // A thread of its own, because the caller's may be inside a runtime that forbids waiting.
    std::thread::scope(|scope| {
        let remove = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Error::Images(error.to_string()))?;
            runtime.block_on(async {
                let images = open_images(config).await?;
                for key in images
                    .list_snapshots()
                    .await
                    .map_err(|error| Error::Images(error.to_string()))?
                {
                    images
                        .remove_snapshot(&key)
                        .await
                        .map_err(|error| Error::Images(error.to_string()))?;
                }
                Ok(())
            })
        });
        remove
            .join()
            .unwrap_or_else(|_| Err(Error::Images("removing root file systems broke".into())))
    })
}
