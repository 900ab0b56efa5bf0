//! Fetched files that are kept for the next task: `<state>/fetch/<SHA-256 of the URI>`. Blocking I/O in small steps.
//!
//! A file appears whole: it is written under another name, synced and renamed, so that a killed agent leaves only what the
//! next start removes. Tasks that want the same URI meanwhile wait for the one that fetches it. When there is more than the
//! bound, files go in the order of their last use; whoever has one open keeps it. As in Mesos, what is kept is never
//! compared with its source.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Seek as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};

use crate::store::private_dir;

/// Begins the names of files that are not whole.
const HALF: &str = ".new-";

/// The folder.
pub(super) struct Cache {
    folder: PathBuf,
    max_bytes: u64,
    /// Who wants to fetch waits here, by URI.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    next: AtomicU64,
}

impl Cache {
    /// Makes the folder and removes what is not whole.
    pub(super) fn open(folder: PathBuf, max_bytes: u64) -> io::Result<Self> {
        private_dir(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(HALF) {
                fs::remove_file(entry.path())?;
            }
        }
        let cache = Self {
            folder,
            max_bytes,
            turns: Mutex::default(),
            next: AtomicU64::new(0),
        };
        // The bound may be another one than last time.
        shrink(&cache.folder, max_bytes, "");
        Ok(cache)
    }

    /// Whether anything is kept.
    pub(super) fn is_on(&self) -> bool {
        self.max_bytes > 0
    }

    /// The file, from here or by `make`; read from its beginning. `waiting` is called when somebody else makes it.
    pub(super) async fn get(
        &self,
        uri: &str,
        waiting: impl FnOnce(),
        make: impl AsyncFnOnce(&mut File) -> Result<u64, String>,
    ) -> Result<File, String> {
        let key: String = Sha256::digest(uri)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let turn = self.turn(&key);
        let got = {
            let _mine = if let Ok(mine) = turn.try_lock() {
                mine
            } else {
                waiting();
                turn.lock().await
            };
            self.get_or_make(&key, make).await
        };
        drop(turn);
        self.forget_turn(&key);
        got
    }

    async fn get_or_make(
        &self,
        key: &str,
        make: impl AsyncFnOnce(&mut File) -> Result<u64, String>,
    ) -> Result<File, String> {
        let kept = self.folder.join(key);
        if let Ok(file) = File::open(&kept) {
            // The last use, for whoever has to choose what goes.
            let _ = file.set_modified(SystemTime::now());
            return Ok(file);
        }
        let io = |error: io::Error| format!("it cannot be kept here: {error}");
        // A name that nobody used before: a turn that was given up may still be writing.
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let half = Half(self.folder.join(format!("{HALF}{n}-{key}")));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&half.0)
            .map_err(io)?;
        make(&mut file).await?;
        let (folder, max_bytes, key) = (self.folder.clone(), self.max_bytes, key.to_owned());
        let placing = tokio::task::spawn_blocking(move || {
            file.sync_all()?;
            fs::rename(&half.0, &kept)?;
            shrink(&folder, max_bytes, &key);
            file.rewind()?;
            Ok(file)
        });
        match placing.await {
            Ok(placed) => placed.map_err(io),
            Err(error) => Err(format!("keeping it here broke: {error}")),
        }
    }

    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(key.to_owned()).or_default())
    }

    fn forget_turn(&self, key: &str) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else holds it, and nobody can get it while the table is locked.
        turns.retain(|known, turn| known != key || Arc::strong_count(turn) > 1);
    }
}

/// A file that is not whole; gone with this if it never becomes so.
struct Half(PathBuf);

impl Drop for Half {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes the files that were not used for the longest time, `newest` last, until no more than `max_bytes` are kept.
fn shrink(folder: &Path, max_bytes: u64, newest: &str) {
    let mut kept: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with(HALF))
        .filter_map(|entry| {
            let about = entry.metadata().ok()?;
            let is_newest = entry.file_name() == newest;
            Some((is_newest, about.modified().ok()?, about.len(), entry.path()))
        })
        .collect();
    kept.sort();
    let mut all: u64 = kept.iter().map(|(_, _, length, _)| length).sum();
    for (_, _, length, path) in kept {
        if all <= max_bytes {
            return;
        }
        match fs::remove_file(&path) {
            Ok(()) => all = all.saturating_sub(length),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a fetched file that is kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn open(dir: &Path, max_bytes: u64) -> Cache {
        Cache::open(dir.join("fetch"), max_bytes).unwrap()
    }

    async fn get(cache: &Cache, uri: &str, made: Result<&str, &str>) -> Result<String, String> {
        let make = async |file: &mut File| {
            let text = made.map_err(str::to_owned)?;
            file.write_all(text.as_bytes()).unwrap();
            Ok(text.len() as u64)
        };
        let mut file = cache.get(uri, || {}, make).await?;
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[tokio::test]
    async fn a_file_is_made_once_and_found_again_also_by_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), 100);
        assert_eq!(get(&cache, "u", Err("down")).await, Err("down".into()));
        assert_eq!(get(&cache, "u", Ok("words")).await.unwrap(), "words");
        assert_eq!(get(&cache, "u", Err("unused")).await.unwrap(), "words");
        let cache = open(dir.path(), 100);
        assert_eq!(get(&cache, "u", Err("unused")).await.unwrap(), "words");
        assert!(cache.turns.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_killed_agent_left_half_is_gone_and_never_served() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), 100);
        // Given up in the middle, as by a kill of the task.
        let stuck = cache.get(
            "u",
            || {},
            async |file: &mut File| {
                file.write_all(b"ha").unwrap();
                std::future::pending().await
            },
        );
        let cut = tokio::time::timeout(std::time::Duration::from_millis(20), stuck).await;
        assert!(cut.is_err());
        assert_eq!(get(&cache, "u", Ok("whole")).await.unwrap(), "whole");
        // As by a kill of the agent.
        fs::write(dir.path().join("fetch/.new-9-x"), "half").unwrap();
        let _cache = open(dir.path(), 100);
        let names: Vec<_> = fs::read_dir(dir.path().join("fetch"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(!names[0].starts_with(HALF));
    }

    #[tokio::test]
    async fn those_who_want_the_same_wait_for_the_one_who_fetches() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(open(dir.path(), 100));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let (begun, began) = tokio::sync::oneshot::channel::<()>();
        let first = {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let make = async |file: &mut File| {
                    begun.send(()).unwrap();
                    wait.await.unwrap();
                    file.write_all(b"once").unwrap();
                    Ok(4)
                };
                cache.get("u", || {}, make).await.map(|_| ())
            })
        };
        began.await.unwrap();
        let (told, was_told) = tokio::sync::oneshot::channel::<()>();
        let second = {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let waiting = || told.send(()).unwrap();
                let make = async |_: &mut File| Err("fetched twice".to_owned());
                cache.get("u", waiting, make).await.map(|_| ())
            })
        };
        was_told.await.unwrap();
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!(second.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn the_least_recently_used_files_go_when_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), 10);
        let old = SystemTime::UNIX_EPOCH;
        assert_eq!(get(&cache, "a", Ok("aaaa")).await.unwrap(), "aaaa");
        for entry in fs::read_dir(dir.path().join("fetch")).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path());
            file.unwrap().set_modified(old).unwrap();
        }
        assert_eq!(get(&cache, "b", Ok("bbbb")).await.unwrap(), "bbbb");
        assert_eq!(get(&cache, "c", Ok("cccc")).await.unwrap(), "cccc");
        assert_eq!(get(&cache, "a", Err("gone")).await, Err("gone".into()));
        assert_eq!(get(&cache, "b", Err("gone")).await.unwrap(), "bbbb");
        // One that is too large by itself is given, and not kept.
        assert_eq!(
            get(&cache, "d", Ok("ddddddddddd")).await.unwrap(),
            "ddddddddddd"
        );
        assert_eq!(get(&cache, "d", Err("gone")).await, Err("gone".into()));
    }
}
