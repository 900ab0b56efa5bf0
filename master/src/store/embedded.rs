//! The default store: one redb file in the state directory, locked by the process that has it.
//!
//! A batch of changes is one transaction, on disk when `apply` returns. redb repairs itself after a crash; what it
//! cannot read is reported with the file and the way out, never papered over.

use std::{
    fs, io, panic,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use mezzo_etcd::election::next_term;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{AgentRecord, Change, FORMAT_VERSION, FrameworkRecord, Saved, Store, StoreError};

const FILE: &str = "master.redb";

type Records = TableDefinition<'static, &'static str, &'static [u8]>;
type Numbers = TableDefinition<'static, &'static str, u64>;

const META: Numbers = TableDefinition::new("meta");
const AGENTS: Records = TableDefinition::new("agents");
const REMOVED_AGENTS: Numbers = TableDefinition::new("removed_agents");
const FRAMEWORKS: Records = TableDefinition::new("frameworks");
const REMOVED_FRAMEWORKS: Numbers = TableDefinition::new("removed_frameworks");
const WEIGHTS: Numbers = TableDefinition::new("weights");
/// Not there in files of masters that knew no quotas: made when such a file is opened.
const QUOTAS: Records = TableDefinition::new("quotas");
/// The same.
const WINDOWS: Records = TableDefinition::new("windows");

/// A redb file.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    path: PathBuf,
}

impl EmbeddedStore {
    /// Opens or makes the file in that directory.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, is another process's, is corrupt or from a newer master.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        // redb checks what it reads with assertions; on a damaged file they fail, and must not take the process down.
        panic::catch_unwind(|| {
            let store = Self::open_file(&path)?;
            store.prepare()?;
            Ok(store)
        })
        .unwrap_or_else(|cause| {
            let said = cause.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| cause.downcast_ref::<&str>().copied());
            Err(StoreError::Corrupt {
                path,
                problem: said.unwrap_or("its structure is broken").to_owned(),
            })
        })
    }

    fn open_file(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let open_error = |source| StoreError::Open {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(open_error)?;
        let database = Database::create(&path).map_err(|error| {
            if let DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch = error
            {
                return StoreError::InUse { path: path.clone() };
            }
            if let DatabaseError::Storage(StorageError::Io(source)) = error {
                // redb says InvalidData of a file that is not its own, and ends in the middle of one cut short.
                let foreign = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof]
                    .contains(&source.kind());
                if !foreign {
                    return StoreError::Open {
                        path: path.clone(),
                        source,
                    };
                }
                return StoreError::Corrupt {
                    path: path.clone(),
                    problem: source.to_string(),
                };
            }
            StoreError::Corrupt {
                path: path.clone(),
                problem: error.to_string(),
            }
        })?;
        Ok(Self {
            database: Arc::new(database),
            path,
        })
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let write = self
            .database
            .begin_write()
            .map_err(|error| self.corrupt(error))?;
        {
            let mut meta = write
                .open_table(META)
                .map_err(|error| self.corrupt(error))?;
            let found = meta
                .get("format")
                .map_err(|error| self.corrupt(error))?
                .map(|version| version.value());
            match found.map(u32::try_from) {
                None => {
                    meta.insert("format", u64::from(FORMAT_VERSION))
                        .map_err(|error| self.corrupt(error))?;
                }
                Some(Ok(found)) if found <= FORMAT_VERSION => {}
                Some(found) => {
                    return Err(StoreError::TooNew {
                        path: self.path.clone(),
                        found: found.unwrap_or(u32::MAX),
                    });
                }
            }
            for table in [AGENTS, FRAMEWORKS, QUOTAS, WINDOWS] {
                write
                    .open_table(table)
                    .map_err(|error| self.corrupt(error))?;
            }
            for table in [REMOVED_AGENTS, REMOVED_FRAMEWORKS, WEIGHTS] {
                write
                    .open_table(table)
                    .map_err(|error| self.corrupt(error))?;
            }
        }
        write.commit().map_err(|error| self.write_error(error))
    }

    fn raise_term(&self) -> Result<u64, redb::Error> {
        let write = self.database.begin_write()?;
        let term = {
            let mut meta = write.open_table(META)?;
            let last = meta.get("term")?.map_or(0, |term| term.value());
            let term = next_term(last);
            meta.insert("term", term)?;
            term
        };
        write.commit()?;
        Ok(term)
    }

    fn read(&self) -> Result<Saved, StoreError> {
        let read = self
            .database
            .begin_read()
            .map_err(|error| self.corrupt(error))?;
        let agents: Vec<AgentRecord> = self.records(
            &read
                .open_table(AGENTS)
                .map_err(|error| self.corrupt(error))?,
        )?;
        let frameworks: Vec<FrameworkRecord> = self.records(
            &read
                .open_table(FRAMEWORKS)
                .map_err(|error| self.corrupt(error))?,
        )?;
        let quotas = read
            .open_table(QUOTAS)
            .map_err(|error| self.corrupt(error))?;
        let windows = read
            .open_table(WINDOWS)
            .map_err(|error| self.corrupt(error))?;
        let numbers = |table: Numbers| read.open_table(table).map_err(|error| self.corrupt(error));
        Ok(Saved {
            agents,
            frameworks,
            removed_agents: self.numbers(&numbers(REMOVED_AGENTS)?)?,
            removed_frameworks: self.numbers(&numbers(REMOVED_FRAMEWORKS)?)?,
            weights: self.numbers(&numbers(WEIGHTS)?)?,
            quotas: self.keyed(&quotas)?,
            windows: self.records(&windows)?,
        })
    }

    fn records<T: DeserializeOwned>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = table.iter().map_err(|error| self.corrupt(error))?;
        rows.map(|row| {
            let (key, value) = row.map_err(|error| self.corrupt(error))?;
            serde_json::from_slice(value.value())
                .map_err(|error| self.corrupt(format_args!("record {:?}: {error}", key.value())))
        })
        .collect()
    }

    fn keyed<K: TryFrom<String, Error: std::fmt::Display>, T: DeserializeOwned>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Vec<(K, T)>, StoreError> {
        let rows = table.iter().map_err(|error| self.corrupt(error))?;
        rows.map(|row| {
            let (key, value) = row.map_err(|error| self.corrupt(error))?;
            let value = serde_json::from_slice(value.value())
                .map_err(|error| self.corrupt(format_args!("record {:?}: {error}", key.value())))?;
            let key = K::try_from(key.value().to_owned()).map_err(|error| self.corrupt(error))?;
            Ok((key, value))
        })
        .collect()
    }

    fn numbers<K: TryFrom<String, Error: std::fmt::Display>>(
        &self,
        table: &impl ReadableTable<&'static str, u64>,
    ) -> Result<Vec<(K, u64)>, StoreError> {
        let rows = table.iter().map_err(|error| self.corrupt(error))?;
        rows.map(|row| {
            let (key, value) = row.map_err(|error| self.corrupt(error))?;
            let key = K::try_from(key.value().to_owned()).map_err(|error| self.corrupt(error))?;
            Ok((key, value.value()))
        })
        .collect()
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut agents = write.open_table(AGENTS)?;
            let mut removed_agents = write.open_table(REMOVED_AGENTS)?;
            let mut frameworks = write.open_table(FRAMEWORKS)?;
            let mut removed_frameworks = write.open_table(REMOVED_FRAMEWORKS)?;
            let mut weights = write.open_table(WEIGHTS)?;
            let mut quotas = write.open_table(QUOTAS)?;
            let mut windows = write.open_table(WINDOWS)?;
            for change in changes {
                match change {
                    Change::PutAgent(record) => {
                        agents.insert(record.agent_id.as_str(), &*encode(record))?;
                    }
                    Change::ForgetAgent(agent_id) => {
                        agents.remove(agent_id.as_str())?;
                    }
                    Change::RemoveAgent { agent_id, at_ms } => {
                        agents.remove(agent_id.as_str())?;
                        removed_agents.insert(agent_id.as_str(), at_ms)?;
                    }
                    Change::ForgetRemovedAgent(agent_id) => {
                        removed_agents.remove(agent_id.as_str())?;
                    }
                    Change::PutFramework(record) => {
                        frameworks.insert(record.framework_id.as_str(), &*encode(record))?;
                    }
                    Change::RemoveFramework {
                        framework_id,
                        at_ms,
                    } => {
                        frameworks.remove(framework_id.as_str())?;
                        removed_frameworks.insert(framework_id.as_str(), at_ms)?;
                    }
                    Change::ForgetRemovedFramework(framework_id) => {
                        removed_frameworks.remove(framework_id.as_str())?;
                    }
                    Change::PutWeight {
                        role,
                        weight_millis,
                    } => {
                        weights.insert(role.as_str(), weight_millis)?;
                    }
                    Change::PutQuota { role, quota } => match quota {
                        Some(quota) => {
                            quotas.insert(role.as_str(), &*encode(quota))?;
                        }
                        None => {
                            quotas.remove(role.as_str())?;
                        }
                    },
                    Change::PutWindow { name, window } => match window {
                        Some(window) => {
                            windows.insert(name.as_str(), &*encode(window))?;
                        }
                        None => {
                            windows.remove(name.as_str())?;
                        }
                    },
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    fn corrupt(&self, problem: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }

    fn write_error(&self, problem: impl std::fmt::Display) -> StoreError {
        StoreError::Write {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record)
        .expect("records hold only strings, numbers, lists and maps with string keys")
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn begin_term(&self) -> Result<u64, StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            this.raise_term().map_err(|error| this.write_error(error))
        })
        .await
        .unwrap_or_else(|error| Err(self.write_error(error)))
    }

    async fn load(&self) -> Result<Saved, StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.read())
            .await
            .unwrap_or_else(|error| Err(self.corrupt(error)))
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            this.write(&changes)
                .map_err(|error| this.write_error(error))
        })
        .await
        .unwrap_or_else(|error| Err(self.write_error(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(role: &str, weight_millis: u64) -> Change {
        Change::PutWeight {
            role: role.parse().unwrap(),
            weight_millis,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_the_store_was_closed() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let removed = Change::RemoveFramework {
            framework_id: "f".parse().unwrap(),
            at_ms: 7,
        };
        store
            .apply(vec![
                change("a", 1),
                change("b", 2000),
                removed,
                change("a", 3),
            ])
            .await
            .unwrap();
        drop(store);
        let saved = EmbeddedStore::open(dir.path())
            .unwrap()
            .load()
            .await
            .unwrap();
        assert_eq!(
            saved.weights,
            [("a".parse().unwrap(), 3), ("b".parse().unwrap(), 2000)]
        );
        assert_eq!(saved.removed_frameworks, [("f".parse().unwrap(), 7)]);
    }

    #[tokio::test]
    async fn each_term_is_higher_than_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let store = EmbeddedStore::open(dir.path()).unwrap();
            let term = store.begin_term().await.unwrap();
            assert!(term > last, "{term} after {last}");
            last = term;
        }
    }

    #[test]
    fn a_second_master_on_the_same_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = EmbeddedStore::open(dir.path()).unwrap();
        let error = EmbeddedStore::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn any_damage_is_one_error_that_names_the_file_or_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        drop(EmbeddedStore::open(dir.path()).unwrap());
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let mut damaged = vec![
            b"not a database".to_vec(),
            vec![0; 8192],
            whole[..100].to_vec(),
        ];
        damaged.extend([1, 2, 3].map(|quarter| whole[..whole.len() / 4 * quarter].to_vec()));
        for (at, byte) in [(0, 0xff), (16, 0xff), (64, 0xff), (200, 0xff), (4096, 0xff)] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            damaged.push(bytes);
        }
        for (i, bytes) in damaged.into_iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            if let Err(error) = EmbeddedStore::open(dir.path()) {
                assert!(matches!(error, StoreError::Corrupt { .. }), "{i}: {error}");
                assert!(error.to_string().contains(FILE), "{i}: {error}");
            }
        }
    }

    /// Records as the first master wrote them: what came later has a default.
    #[tokio::test]
    async fn a_file_of_the_first_master_is_read() {
        let agent = r#"{"agent_id":"a1","info":{"hostname":"node1","address":"10.0.0.1:5051","resources":
            "cpus:3.5;ports:[31000-32000]","attributes":[{"name":"rack","value":"r1"},
            {"name":"level","value":"2.5"}],"region":"eu","zone":"eu-1","version":"0.1.0","kernel":"6.1.0",
            "architecture":"x86_64","cgroup_mode":"hybrid"},"registered_at_ms":1700000000000}"#;
        let framework = r#"{"framework_id":"f1","info":{"framework_id":"f1","name":"marathon","user":"root","roles":["*"],
            "failover_timeout":{"secs":604800,"nanos":0},"hostname":"h","principal":"","webui_url":"",
            "labels":{"team":"web"}},"registered_at_ms":1700000000001,"expires_at_ms":1700000000002}"#;
        let dir = tempfile::tempdir().unwrap();
        let database = Database::create(dir.path().join(FILE)).unwrap();
        let write = database.begin_write().unwrap();
        let put = |table, key, value: &str| {
            let mut table = write.open_table(table).unwrap();
            table.insert(key, value.as_bytes()).unwrap();
        };
        put(AGENTS, "a1", agent);
        put(FRAMEWORKS, "f1", framework);
        let numbers = |table, key, value| {
            let mut table = write.open_table(table).unwrap();
            table.insert(key, value).unwrap();
        };
        numbers(META, "format", 1);
        numbers(WEIGHTS, "web", 2500);
        numbers(REMOVED_AGENTS, "a0", 1_700_000_000_003);
        write.commit().unwrap();
        drop(database);
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let saved = store.load().await.unwrap();
        let agent = &saved.agents[0];
        assert_eq!(
            agent.info.resources.to_string(),
            "cpus:3.5;ports:[31000-32000]"
        );
        assert_eq!(agent.info.attributes.len(), 2);
        assert!(agent.info.reserved.is_empty() && agent.drain.is_none());
        let framework = &saved.frameworks[0];
        assert_eq!(framework.info.failover_timeout.as_secs(), 604_800);
        assert_eq!(framework.expires_at_ms, Some(1_700_000_000_002));
        assert!(framework.info.capabilities.is_empty());
        assert_eq!(saved.weights, [("web".parse().unwrap(), 2500)]);
        assert_eq!(
            saved.removed_agents,
            [("a0".parse().unwrap(), 1_700_000_000_003)]
        );
        assert!(saved.quotas.is_empty() && saved.windows.is_empty());
    }

    #[test]
    fn a_file_of_a_newer_master_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let write = store.database.begin_write().unwrap();
        write
            .open_table(META)
            .unwrap()
            .insert("format", 99)
            .unwrap();
        write.commit().unwrap();
        drop(store);
        assert!(matches!(
            EmbeddedStore::open(dir.path()),
            Err(StoreError::TooNew { found: 99, .. })
        ));
    }
}
