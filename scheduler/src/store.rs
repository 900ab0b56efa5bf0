//! The durable state: one redb file, one record per key, one transaction per turn of the event loop.
//!
//! Edge. A commit is on disk when it returns. A lock file beside it keeps a second scheduler away; the kernel gives the
//! lock back however the first one ended. What the records mean is [`crate::core::record`]'s business.
//!
//! Of several schedulers the same records are in etcd (`etcd`); `Keep` is whichever of the two there is.

mod etcd;
mod keep;

pub(crate) use self::etcd::EtcdStore;
pub(crate) use self::keep::Keep;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::app::AppId;
use crate::core::record::{Key, Write, decode};
use crate::core::state::State;
use crate::deployment::DeploymentId;
use crate::resident::HoldingId;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// By name.
const JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("jobs");
/// By `NAME:NUMBER`.
const JOB_RUNS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("job_runs");
/// Of the records; see [`crate::core::record`].
const FORMAT: &[u8] = b"5";
/// The same, as etcd has it.
const FORMAT_NUMBER: u32 = 5;
/// Those that are read; the file is of [`FORMAT`] once it is open.
const OLDER: &[&[u8]] = &[b"1", b"2", b"3", b"4"];

/// What can go wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not to be had.
    #[error("cannot use the state directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A second scheduler.
    #[error(
        "another scheduler runs on the state directory {}: stop it, or give this one a directory of its own", path.display()
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "the state file {} is damaged: {problem}. Restore it from a backup, or move it away to begin anew (tasks that \
         run are then unknown and will be killed)", path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        problem: String,
    },
    /// The file is of a later mezzo.
    #[error("the state file {} has format {found}, this mezzo knows 5: use the newer mezzo again", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Another scheduler leads, or may lead by now. What was to be written may have been, or not.
    #[error("this scheduler does not lead any more")]
    Deposed,
    /// etcd cannot be used, or what is there.
    #[error("{problem}")]
    Etcd {
        /// What and why.
        problem: String,
    },
    /// A write failed.
    #[error("cannot write the state file {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// An open state file.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
    /// Held as long as the store is.
    _lock: File,
}

impl Store {
    /// Opens the state in `directory`, making both if they are not there, and reads it.
    ///
    /// # Errors
    ///
    /// When the directory is not usable, in use, or holds a damaged or newer state.
    pub fn open(directory: &Path) -> Result<(Self, State), StoreError> {
        let at = |source| StoreError::Directory {
            path: directory.to_owned(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(at)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("scheduler.lock"))
            .map_err(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: directory.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(at(source)),
        }
        let path = directory.join("scheduler.redb");
        // redb trusts a file that was closed cleanly and may panic on one that somebody else wrote to.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| load(&path)));
        match opened {
            Ok(Ok((database, state))) => Ok((
                Self {
                    database,
                    path,
                    _lock: lock,
                },
                state,
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StoreError::Damaged {
                path,
                problem: "its structure is inconsistent".to_owned(),
            }),
        }
    }

    /// Makes `writes` durable, all or none.
    ///
    /// # Errors
    ///
    /// When the disk fails or is full.
    pub fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.try_commit(writes).map_err(|source| StoreError::Write {
            path: self.path.clone(),
            source: Box::new(source),
        })
    }

    fn try_commit(&self, writes: &[Write]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut jobs = transaction.open_table(JOBS)?;
            let mut job_runs = transaction.open_table(JOB_RUNS)?;
            for write in writes {
                let key = key_text(&write.key);
                let table = match &write.key {
                    Key::Job(_) => &mut jobs,
                    Key::JobRun(..) => &mut job_runs,
                    Key::Framework
                    | Key::MasterTerm
                    | Key::App(_)
                    | Key::Version(..)
                    | Key::Instance(_)
                    | Key::Deployment(_)
                    | Key::Group(_)
                    | Key::GroupVersion(..)
                    | Key::Holding(..) => &mut records,
                };
                match &write.value {
                    Some(value) => {
                        table.insert(key.as_str(), value.as_slice())?;
                    }
                    None => {
                        table.remove(key.as_str())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn load(path: &Path) -> Result<(Database, State), StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let database = match Database::create(path) {
        Ok(database) => database,
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
            return Err(StoreError::InUse {
                path: path.to_owned(),
            });
        }
        Err(redb::DatabaseError::Storage(redb::StorageError::Io(source)))
            if matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::IsADirectory
            ) =>
        {
            return Err(StoreError::Directory {
                path: path.to_owned(),
                source,
            });
        }
        Err(error) => return Err(damaged(error.to_string())),
    };
    let (format, records) = read_all(&database).map_err(|error| damaged(error.to_string()))?;
    if format != FORMAT {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: String::from_utf8_lossy(&format).chars().take(20).collect(),
        });
    }
    let mut keyed = Vec::with_capacity(records.len());
    for (table, text, value) in records {
        let key = match table {
            Table::Records => parse_key(&text),
            Table::Jobs => text.parse().ok().map(Key::Job),
            Table::JobRuns => parse_run_key(&text),
        };
        let key = key.ok_or_else(|| damaged(format!("it has an unknown record {text:?}")))?;
        keyed.push((key, value));
    }
    let state = decode(keyed).map_err(|error| damaged(error.to_string()))?;
    Ok((database, state))
}

/// Where a record was read.
#[derive(Debug, Clone, Copy)]
enum Table {
    Records,
    Jobs,
    JobRuns,
}

type Records = Vec<(Table, String, Vec<u8>)>;

fn read_all(database: &Database) -> Result<(Vec<u8>, Records), redb::Error> {
    let transaction = database.begin_write()?;
    let format = {
        let mut meta = transaction.open_table(META)?;
        for table in [RECORDS, JOBS, JOB_RUNS] {
            transaction.open_table(table)?;
        }
        let known = meta.get("format")?.map(|value| value.value().to_vec());
        match known {
            Some(known) if OLDER.contains(&known.as_slice()) => {
                meta.insert("format", FORMAT)?;
                FORMAT.to_vec()
            }
            Some(known) => known,
            None => {
                meta.insert("format", FORMAT)?;
                FORMAT.to_vec()
            }
        }
    };
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let mut records = Vec::new();
    for (which, table) in [
        (Table::Records, RECORDS),
        (Table::Jobs, JOBS),
        (Table::JobRuns, JOB_RUNS),
    ] {
        for entry in transaction.open_table(table)?.iter()? {
            let (key, value) = entry?;
            records.push((which, key.value().to_owned(), value.value().to_vec()));
        }
    }
    Ok((format, records))
}

fn key_text(key: &Key) -> String {
    match key {
        Key::Framework => "framework".to_owned(),
        Key::MasterTerm => "masterterm".to_owned(),
        Key::App(id) => format!("app:{id}"),
        Key::Version(id, version) => format!("version:{id}:{}", version.millis()),
        Key::Instance(id) => format!("instance:{id}"),
        Key::Deployment(id) => format!("deployment:{id}"),
        Key::Group(id) => format!("group:{id}"),
        Key::GroupVersion(id, version) => format!("groupversion:{id}:{}", version.millis()),
        Key::Holding(app, id) => format!("holding:{app}:{id}"),
        Key::Job(name) => name.to_string(),
        Key::JobRun(name, number) => format!("{name}:{number}"),
    }
}

fn parse_key(text: &str) -> Option<Key> {
    if text == "framework" {
        return Some(Key::Framework);
    }
    if text == "masterterm" {
        return Some(Key::MasterTerm);
    }
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "app" => rest.parse::<AppId>().ok().map(Key::App),
        "version" => {
            let (id, version) = rest.rsplit_once(':')?;
            let version = crate::time::Timestamp::from_millis(version.parse().ok()?);
            Some(Key::Version(id.parse().ok()?, version))
        }
        "group" => rest.parse().ok().map(Key::Group),
        "groupversion" => {
            let (id, version) = rest.rsplit_once(':')?;
            let version = crate::time::Timestamp::from_millis(version.parse().ok()?);
            Some(Key::GroupVersion(id.parse().ok()?, version))
        }
        "holding" => {
            let (app, id) = rest.rsplit_once(':')?;
            Some(Key::Holding(app.parse().ok()?, HoldingId(id.parse().ok()?)))
        }
        "instance" => rest.parse().ok().map(Key::Instance),
        "deployment" => rest
            .parse()
            .ok()
            .map(|id| Key::Deployment(DeploymentId(id))),
        _ => None,
    }
}

fn parse_run_key(text: &str) -> Option<Key> {
    let (name, number) = text.rsplit_once(':')?;
    Some(Key::JobRun(name.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        for key in [
            Key::Framework,
            Key::MasterTerm,
            Key::App("/a/b".parse().expect("valid")),
            Key::Version(
                "/a/b".parse().expect("valid"),
                crate::time::Timestamp::from_millis(17),
            ),
            Key::Instance("a_b.instance-1._app.1".parse().expect("valid")),
            Key::Deployment(DeploymentId(uuid::Uuid::nil())),
            Key::Holding("/a/b".parse().expect("valid"), HoldingId(uuid::Uuid::nil())),
            Key::Group(crate::group::GroupId::root()),
            Key::GroupVersion(
                "/a/b".parse().expect("valid"),
                crate::time::Timestamp::from_millis(17),
            ),
        ] {
            assert_eq!(parse_key(&key_text(&key)), Some(key));
        }
        let run = Key::JobRun("a.b-c".parse().expect("valid"), 17);
        assert_eq!(parse_run_key(&key_text(&run)), Some(run));
    }

    #[test]
    fn what_is_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (store, state) = Store::open(directory.path()).expect("opens");
        assert!(state.framework_id.is_none());
        store
            .commit(&[Write {
                key: Key::Framework,
                value: Some(b"\"f-1\"".to_vec()),
            }])
            .expect("commits");
        drop(store);
        let (_, state) = Store::open(directory.path()).expect("opens again");
        assert_eq!(
            state.framework_id.map(|id| id.to_string()).as_deref(),
            Some("f-1")
        );
    }

    #[test]
    fn older_formats_are_read_and_a_newer_one_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for (format, known) in [
            (&b"1"[..], true),
            (b"2", true),
            (b"3", true),
            (b"4", true),
            (b"5", true),
            (b"6", false),
        ] {
            let path = directory.path().join("scheduler.redb");
            let database = Database::create(path).expect("opens");
            let transaction = database.begin_write().expect("begins");
            let mut meta = transaction.open_table(META).expect("opens");
            meta.insert("format", format).expect("written");
            drop(meta);
            transaction.commit().expect("commits");
            drop(database);
            match Store::open(directory.path()) {
                Ok(_) => assert!(known),
                Err(error) => assert!(!known && matches!(error, StoreError::Newer { .. })),
            }
        }
    }

    #[test]
    fn a_second_scheduler_is_told_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let _first = Store::open(directory.path()).expect("opens");
        let error = Store::open(directory.path()).expect_err("in use");
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("another scheduler"), "{error}");
    }

    #[test]
    fn damaged_files_give_one_clear_error() {
        for content in [
            &b"not a database at all"[..],
            &[0u8; 4096],
            &[0xffu8; 10_000],
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            std::fs::write(directory.path().join("scheduler.redb"), content).expect("written");
            let error = Store::open(directory.path()).expect_err("damaged");
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("scheduler.redb"), "{error}");
        }
    }

    #[test]
    fn a_truncated_file_never_gives_half_a_state() {
        let directory = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(directory.path()).expect("opens");
        for i in 0..200 {
            let write = Write {
                key: Key::Framework,
                value: Some(format!("\"f-{i}\"").into_bytes()),
            };
            store.commit(&[write]).expect("commits");
        }
        drop(store);
        let path = directory.path().join("scheduler.redb");
        let whole = std::fs::metadata(&path).expect("there").len();
        let file = OpenOptions::new().write(true).open(&path).expect("opens");
        file.set_len(whole / 2).expect("truncates");
        drop(file);
        match Store::open(directory.path()) {
            Err(StoreError::Damaged { .. }) => {}
            Ok((_, state)) => assert_eq!(
                state.framework_id.map(|id| id.to_string()).as_deref(),
                Some("f-199")
            ),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(directory.path()).expect("opens");
        let write = Write {
            key: Key::App("/web".parse().expect("valid")),
            value: Some(b"{\"half".to_vec()),
        };
        store.commit(&[write]).expect("commits");
        drop(store);
        let error = Store::open(directory.path())
            .expect_err("damaged")
            .to_string();
        assert!(
            error.contains("/web") && error.contains("scheduler.redb"),
            "{error}"
        );
    }
}
