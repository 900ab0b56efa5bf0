//! Removing everything of an instance, without a runtime: after the agent is gone for good, in tests, and as the
//! last part of `Runtime::purge`. Blocking.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::Hierarchies;
use crate::layout::{Layout, open_lock, try_lock};
use crate::model::RuntimeConfig;
use crate::network::Networks;
use crate::supervise;

/// How long killed processes may take to be gone.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why not everything could be removed.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// A runtime has the state directory open: stop it, or let it purge.
    #[error("{} is in use by a runtime", path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// Processes are still there after they were killed.
    #[error("processes below cgroup {cgroup} are still there after being killed")]
    WillNotDie {
        /// The cgroup.
        cgroup: String,
    },
    /// The system refused.
    #[error("cannot remove {object}")]
    Io {
        /// What.
        object: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Kills everything of the instance and removes its cgroups and its state. Idempotent.
pub fn purge_dir(config: &RuntimeConfig) -> Result<(), PurgeError> {
    let layout = Layout::new(config.state_dir.clone());
    let lock = layout.lock();
    if lock.exists() {
        let error = |source| PurgeError::Io {
            object: lock.display().to_string(),
            source,
        };
        let file = open_lock(&lock).map_err(error)?;
        if !try_lock(&file).map_err(error)? {
            return Err(PurgeError::InUse {
                path: config.state_dir.clone(),
            });
        }
        purge_unlocked(config, &layout)?;
        drop(file);
    } else {
        purge_unlocked(config, &layout)?;
    }
    for path in [lock, config.state_dir.clone()] {
        let removed = if path.is_dir() {
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(source)
                if !matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Err(PurgeError::Io {
                    object: path.display().to_string(),
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The same for somebody who holds the lock.
pub(crate) fn purge_unlocked(config: &RuntimeConfig, layout: &Layout) -> Result<(), PurgeError> {
    let root = config.cgroup_parent.trim_end_matches('/');
    let hierarchies = Hierarchies::detect().map_err(|source| PurgeError::Io {
        object: "control groups".to_owned(),
        source,
    })?;
    // Containers first: their keepers then end by themselves, with exit records and all.
    let containers = format!("{root}/containers");
    for name in hierarchies.children(&containers) {
        kill(&hierarchies, &format!("{containers}/{name}"))?;
    }
    if let Ok(entries) = fs::read_dir(layout.containers()) {
        for entry in entries.flatten() {
            if let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                let _ = supervise::wait_for_lock(&layout.container(&id), Duration::from_secs(5));
            }
        }
    }
    // Then keepers that do not end, and a launcher whose agent was stopped rather than killed. Once more the
    // containers: a keeper may have been just about to start one.
    kill(&hierarchies, &format!("{root}/keepers"))?;
    for name in hierarchies.children(&containers) {
        kill(&hierarchies, &format!("{containers}/{name}"))?;
    }
    for ours in [containers, format!("{root}/keepers")] {
        let error = |source| PurgeError::Io {
            object: format!("cgroup {ours}"),
            source,
        };
        hierarchies.remove(&ours, TIMEOUT).map_err(error)?;
    }
    // The parent may be a service's own cgroup, with the agent still in it: it goes only if nothing else is there.
    for dir in hierarchies.dirs(root) {
        let _ = fs::remove_dir(dir);
    }
    for dir in [layout.containers(), layout.removing()] {
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PurgeError::Io {
                    object: dir.display().to_string(),
                    source,
                });
            }
            Ok(()) | Err(_) => {}
        }
    }
    let networks = || -> io::Result<()> {
        let boot_id = crate::process::boot_id()?;
        Networks::open(config.network.clone(), layout.root(), &boot_id)?.purge();
        match fs::remove_dir_all(layout.root().join("network")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    networks().map_err(|source| PurgeError::Io {
        object: "containers' networks".to_owned(),
        source,
    })
}

fn kill(hierarchies: &Hierarchies, cgroup: &str) -> Result<(), PurgeError> {
    if hierarchies.kill_with_children(cgroup, TIMEOUT) {
        Ok(())
    } else {
        Err(PurgeError::WillNotDie {
            cgroup: cgroup.to_owned(),
        })
    }
}
