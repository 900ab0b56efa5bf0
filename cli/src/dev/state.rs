//! The state directory of `mezzo dev`: one process at a time has it, and `dev.json` tells who runs.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::plan::{Plan, Server};
use crate::failure::Failure;

const LOCK: &str = "dev.lock";
const FACTS: &str = "dev.json";

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing; refuses one that another `mezzo dev` uses.
    pub(crate) fn lock(path: &Path) -> Result<Self, Failure> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| {
            Failure::failed(format!(
                "cannot {what} the state directory {}: {error}; see --state-dir",
                path.display()
            ))
        };
        fs::create_dir_all(path).map_err(|error| wrong("make", &error))?;
        let path = fs::canonicalize(path).map_err(|error| wrong("find", &error))?;
        if path.to_str().is_none() {
            return Err(wrong("use", &"its name is not UTF-8"));
        }
        let file = path.join(LOCK);
        let opened = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&file);
        let mut lock = opened.map_err(|error| wrong("write to", &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is a courtesy: the refusal stands without it.
                let _ = lock.read_to_string(&mut holder);
                let holder: String = holder
                    .chars()
                    .filter(char::is_ascii_digit)
                    .take(10)
                    .collect();
                let who = if holder.is_empty() {
                    String::new()
                } else {
                    format!(" (pid {holder})")
                };
                return Err(Failure::failed(format!(
                    "another `mezzo dev`{who} uses {}: stop it, or give this one another --state-dir and other ports",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(wrong("lock", &error)),
        }
        let told = lock.set_len(0).and_then(|()| lock.rewind());
        told.and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| wrong("write to", &error))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes who runs, for people and scripts.
    pub(crate) fn write(&self, plan: &Plan, pids: &BTreeMap<Server, u32>) -> Result<(), Failure> {
        let mut facts = json!({ "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION") });
        for server in Server::ALL {
            facts[server.name()] = json!({
                "pid": pids.get(&server),
                "address": plan.reachable(server).to_string(),
                "log": self.path.join("log").join(format!("{}.log", server.name())),
            });
        }
        let file = self.path.join(FACTS);
        let fresh = self.path.join(format!("{FACTS}.new"));
        fs::write(&fresh, format!("{facts:#}\n"))
            .and_then(|()| fs::rename(&fresh, &file))
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))
    }

    /// Nobody runs any more.
    pub(crate) fn forget(&self) {
        // Stale facts mislead nobody who looks at the pid in them.
        let _ = fs::remove_file(self.path.join(FACTS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let first = StateDir::lock(&state).unwrap();
        let error = StateDir::lock(&state).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "another `mezzo dev` (pid {}) uses ",
                std::process::id()
            )),
            "{error}"
        );
        drop(first);
        StateDir::lock(&state).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = StateDir::lock(Path::new("/proc/mezzo"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/proc/mezzo") && error.contains("--state-dir"),
            "{error}"
        );
    }

    #[test]
    fn the_facts_name_every_server() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::lock(dir.path()).unwrap();
        let plan = Plan::new(
            state.path(),
            "127.0.0.1".parse().unwrap(),
            [1, 2, 3],
            vec![],
            None,
        );
        state.write(&plan, &[(Server::Master, 42)].into()).unwrap();
        let facts: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join(FACTS)).unwrap()).unwrap();
        assert_eq!(facts["master"]["pid"], 42);
        assert_eq!(facts["scheduler"]["address"], "127.0.0.1:3");
        assert!(facts["agent"]["pid"].is_null());
        state.forget();
        assert!(!dir.path().join(FACTS).exists());
    }
}
