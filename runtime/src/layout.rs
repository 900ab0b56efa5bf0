//! Where things are on disk, and how they are written: one directory (mode 0700) per container below the state
//! directory, files replaced whole (temporary file, fsync, rename, fsync of the directory).
//!
//! ```text
//! <state>/lock                 held by the one runtime that has this state open
//! <state>/containers/<id>/     its existence claims the id
//!     lock                     held by the keeper, from before it is forked until it is gone; in it, which process that
//!                              is, and before the program begins which process the container is
//!     spec.json                written before anything is started; replaced when limits change
//!     exit.json                how it ended (see `exit`); on disk before the cgroup goes, and durable before it is told
//!     stdout stdout.1 stderr …
//!     input                    a FIFO for what is typed, of a container with a terminal (see `terminal`)
//!     exec-<pid>/              a socket while a program is being executed in the container
//! <state>/removing/            what is being deleted
//! ```

mod exit;
pub(crate) mod versions;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::model::{ContainerSpec, Limits, Stream};
use crate::process::ProcessRef;
use crate::user::ResolvedUser;
use crate::users::UserRange;

/// Form of the records. A newer program reads all older ones; an older one does not open a state directory with newer
/// ones in it (see `versions`). 1 is the first; what came since is left out where it is not used.
pub(crate) const RECORD_VERSION: u32 = 1;
/// The oldest that is read.
pub(crate) const OLDEST_VERSION: u32 = 1;
/// Most bytes of a record that are read.
const MAX_RECORD_BYTES: u64 = 4 << 20;
/// How often a record is read that is written in place.
const READ_ATTEMPTS: u32 = 5;

/// What is known before a container starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpecRecord {
    pub(crate) version: u32,
    pub(crate) id: ContainerId,
    pub(crate) boot_id: String,
    pub(crate) created_at_ms: u64,
    pub(crate) cgroup: String,
    /// The user numbers that are its own, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_range: Option<UserRange>,
    pub(crate) spec: ContainerSpec,
}

/// Who watches over the container, and, once it runs, which process it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeeperRecord {
    pub(crate) version: u32,
    pub(crate) keeper: ProcessRef,
    pub(crate) running: Option<RunningRecord>,
}

/// The container's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningRecord {
    pub(crate) process: ProcessRef,
    pub(crate) started_at_ms: u64,
    /// `None` in records of older programs.
    #[serde(default)]
    pub(crate) start_cost: Option<StartCost>,
    /// Who its program runs as, for others that are executed beside it. `None` in records of older programs, which
    /// kept an OCI specification.
    #[serde(default)]
    pub(crate) user: Option<ResolvedUser>,
}

/// CPU time that a container had used when its program was about to be executed, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartCost {
    /// All that was charged to its cgroup.
    pub(crate) total_us: u64,
    /// Of that, what its first process used.
    pub(crate) own_us: u64,
}

/// Paths below a state directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub(crate) fn removing(&self) -> PathBuf {
        self.root.join("removing")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir {
            path: self.containers().join(id.as_str()),
        }
    }
}

/// Paths below a container's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ContainerDir {
    path: PathBuf,
}

impl ContainerDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Where programs before this one kept the OCI specification.
    pub(crate) fn earlier_specs(&self) -> [PathBuf; 2] {
        ["config.json", "bundle/config.json"].map(|name| self.path.join(name))
    }

    /// libcontainer's files of one execution.
    pub(crate) fn execution(&self, helper: u32) -> PathBuf {
        self.path.join(format!("exec-{helper}"))
    }

    /// Where what is typed on its terminal goes.
    pub(crate) fn input(&self) -> PathBuf {
        self.path.join("input")
    }

    pub(crate) fn log(&self, stream: Stream) -> PathBuf {
        self.path.join(stream.file_name())
    }

    pub(crate) fn read_spec(&self) -> io::Result<Option<SpecRecord>> {
        read_record(&self.path.join("spec.json"))
    }

    pub(crate) fn write_spec(&self, record: &SpecRecord) -> io::Result<()> {
        write_record(&self.path, "spec.json", record, Durability::Process)
    }

    /// The limits that the container runs under now: an update replaces the record of the start.
    pub(crate) fn read_limits(&self) -> Option<Limits> {
        Some(self.read_spec().ok().flatten()?.spec.limits)
    }

    pub(crate) fn read_keeper(&self) -> io::Result<Option<KeeperRecord>> {
        // Programs before this one had a file for it.
        if let Some(record) = read_record(&self.path.join("keeper.json"))? {
            return Ok(Some(record));
        }
        for _ in 0..READ_ATTEMPTS {
            match read_bounded(&self.lock(), MAX_RECORD_BYTES)? {
                Some(bytes) if !bytes.is_empty() => match parse_record(&self.lock(), &bytes) {
                    Ok(record) => return Ok(Some(record)),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                },
                Some(_) | None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// What a file must survive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The end of any process.
    Process,
    /// A power failure.
    Power,
}

pub(crate) fn write_record<T: Serialize>(
    dir: &Path,
    name: &str,
    record: &T,
    durability: Durability,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
    let temporary = dir.join(format!(".{name}.new"));
    let target = dir.join(name);
    let context =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", target.display()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(context)?;
    file.write_all(&bytes).map_err(context)?;
    if durability == Durability::Power {
        file.sync_all().map_err(context)?;
    }
    fs::rename(&temporary, &target).map_err(context)?;
    if durability == Durability::Power {
        File::open(dir)?.sync_all().map_err(context)?;
    }
    Ok(())
}

pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    read_bounded(path, MAX_RECORD_BYTES)?
        .map(|bytes| parse_record(path, &bytes))
        .transpose()
}

fn parse_record<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> io::Result<T> {
    let invalid = |error: &dyn std::fmt::Display| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is damaged: {error}", path.display()),
        )
    };
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| invalid(&error))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    let known = u64::from(OLDEST_VERSION)..=u64::from(RECORD_VERSION);
    if !version.is_some_and(|version| known.contains(&version)) {
        return Err(invalid(&format!(
            "version {version:?}, this program reads {OLDEST_VERSION} to {RECORD_VERSION}"
        )));
    }
    serde_json::from_value(value).map_err(|error| invalid(&error))
}

/// The file's bytes; `None` if there is none; an error if it is longer than `max`.
pub(crate) fn read_bounded(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let message = format!("{} is longer than {max} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Some(bytes))
}

/// Makes a directory that only we may enter; fails if it exists.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// A directory that only we may enter, made or taken over from whoever made it for us; those above it are left alone.
pub(crate) fn ensure_private_dir(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    match create_private_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, PermissionsExt::from_mode(0o700))
        }
        made => made,
    }
}

/// Opens (and makes) a lock file.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Has an open lock file tell who holds it, and what it watches over. A file of its own, exchanged by name, would be made
/// twice on the way to every program's first instruction. Nothing that ends the writer can cut it short; a reader in the
/// moment of writing looks again. Not forced to disk: after a power failure there is no keeper to find, and the boot id
/// says so.
pub(crate) fn sign_lock(lock: BorrowedFd<'_>, record: &KeeperRecord) -> io::Result<()> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
    match nix::sys::uio::pwrite(lock, &bytes, 0)? {
        written if written == bytes.len() => {}
        _ => return Err(io::ErrorKind::WriteZero.into()),
    }
    // A keeper that died in its start may have said more.
    Ok(nix::unistd::ftruncate(
        lock,
        i64::try_from(bytes.len()).map_err(io::Error::other)?,
    )?)
}

/// Takes the lock if nobody has it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn damaged_and_newer_records_are_told_by_their_path() {
        let dir = tempfile::tempdir().unwrap();
        let container = ContainerDir {
            path: dir.path().to_owned(),
        };
        assert!(container.read_keeper().unwrap().is_none());
        fs::write(dir.path().join("keeper.json"), "{\"version\":1,").unwrap();
        let error = container.read_keeper().unwrap_err().to_string();
        assert!(error.contains("keeper.json is damaged"), "{error}");
        fs::write(dir.path().join("keeper.json"), "{\"version\":2}").unwrap();
        let error = container.read_keeper().unwrap_err().to_string();
        assert!(
            error.contains("version Some(2), this program reads 1 to 1"),
            "{error}"
        );
    }

    #[test]
    fn a_lock_tells_who_holds_it_and_what_is_no_record_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let container = ContainerDir {
            path: dir.path().to_owned(),
        };
        let lock = open_lock(&container.lock()).unwrap();
        assert_eq!(container.read_keeper().unwrap(), None);
        let process = ProcessRef {
            pid: 7,
            start_ticks: 9,
        };
        let mut record = KeeperRecord {
            version: RECORD_VERSION,
            keeper: process,
            running: Some(RunningRecord {
                process,
                started_at_ms: 1,
                start_cost: None,
                user: None,
            }),
        };
        sign_lock(lock.as_fd(), &record).unwrap();
        assert_eq!(container.read_keeper().unwrap(), Some(record.clone()));
        record.running = None;
        sign_lock(lock.as_fd(), &record).unwrap();
        assert_eq!(container.read_keeper().unwrap(), Some(record));
        fs::write(container.lock(), "{\"version\":1,\0\0").unwrap();
        assert_eq!(container.read_keeper().unwrap(), None);
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = open_lock(&path).unwrap();
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&open_lock(&path).unwrap()).unwrap());
        drop(first);
        assert!(try_lock(&open_lock(&path).unwrap()).unwrap());
    }
}
