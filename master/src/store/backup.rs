//! A copy of all that is durable, as one file: the same for the embedded store and for etcd. Pure.
//!
//! ```text
//! {"mezzo_backup":1,"format":1,"made_at_ms":…,"version":"0.1.0","bytes":…,"sha256":"…"}⏎
//! {"agents":[…],"removed_agents":[…],"frameworks":[…],…}⏎
//! ```
//!
//! The first line says what the rest is, how long, and with which checksum: a file that was cut off or changed anywhere is refused.
//! `format` is that of the store's records; a newer one is refused as the store itself refuses it. The term is not in it: a
//! restored master's is higher by the clock ([`mezzo_etcd::election::next_term`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{Change, FORMAT_VERSION, Saved};
use crate::allocator::DEFAULT_WEIGHT_MILLIS;

/// Of the file.
const VERSION: u32 = 1;

/// The longest first line.
const LONGEST_HEADER: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    mezzo_backup: u32,
    format: u32,
    made_at_ms: u64,
    version: String,
    bytes: u64,
    sha256: String,
}

/// A backup that was read and is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// When it was made, Unix milliseconds.
    pub made_at_ms: u64,
    /// Of the master that made it.
    pub version: String,
    /// All of it.
    pub saved: Saved,
}

/// Why a file is no backup.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidBackup {
    /// The first line is something else.
    #[error("it is no backup of a master")]
    Foreign,
    /// From a newer master.
    #[error("it has version {found} of {what}, this one reads up to {known}; use a newer mezzo")]
    TooNew {
        /// "the file" or "the records".
        what: &'static str,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Cut off, or something was added.
    #[error(
        "it has {found} bytes after its first line, and should have {expected}: it is not whole"
    )]
    Length {
        /// As the header says.
        expected: u64,
        /// As they are.
        found: u64,
    },
    /// Changed.
    #[error("its checksum is {found}, and should be {expected}: it is damaged")]
    Checksum {
        /// As the header says.
        expected: String,
        /// As it is.
        found: String,
    },
    /// A bug, or a forged checksum.
    #[error("its records cannot be read: {0}")]
    Records(String),
}

/// The file.
#[must_use]
pub fn write(saved: &Saved, made_at_ms: u64) -> Vec<u8> {
    let reason = "records hold only strings, numbers, lists and maps with string keys";
    let mut body = serde_json::to_vec(saved).expect(reason);
    body.push(b'\n');
    let header = Header {
        mezzo_backup: VERSION,
        format: FORMAT_VERSION,
        made_at_ms,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bytes: body.len() as u64,
        sha256: checksum(&body),
    };
    let mut file = serde_json::to_vec(&header).expect(reason);
    file.push(b'\n');
    file.extend(body);
    file
}

/// Checks and reads a file.
///
/// # Errors
///
/// When it is not exactly what [`write()`] wrote, or from a newer master.
pub fn read(file: &[u8]) -> Result<Backup, InvalidBackup> {
    let head = &file[..file.len().min(LONGEST_HEADER)];
    let end = head.iter().position(|byte| *byte == b'\n');
    let (head, body) = file.split_at(end.ok_or(InvalidBackup::Foreign)? + 1);
    /// What every version begins with.
    #[derive(Deserialize)]
    struct Any {
        mezzo_backup: u32,
    }
    let any: Any = serde_json::from_slice(head).map_err(|_| InvalidBackup::Foreign)?;
    if any.mezzo_backup > VERSION {
        return Err(InvalidBackup::TooNew {
            what: "the file",
            found: any.mezzo_backup,
            known: VERSION,
        });
    }
    let header: Header = serde_json::from_slice(head).map_err(|_| InvalidBackup::Foreign)?;
    if header.format > FORMAT_VERSION {
        return Err(InvalidBackup::TooNew {
            what: "the records",
            found: header.format,
            known: FORMAT_VERSION,
        });
    }
    if header.bytes != body.len() as u64 {
        return Err(InvalidBackup::Length {
            expected: header.bytes,
            found: body.len() as u64,
        });
    }
    let found = checksum(body);
    if found != header.sha256 {
        return Err(InvalidBackup::Checksum {
            expected: header.sha256,
            found,
        });
    }
    let saved = serde_json::from_slice(body);
    Ok(Backup {
        made_at_ms: header.made_at_ms,
        version: header.version,
        saved: saved.map_err(|error| InvalidBackup::Records(error.to_string()))?,
    })
}

fn checksum(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Saved {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What makes that of this. One transaction of these changes is a restore: all of it or nothing. A weight that is not wanted
    /// becomes the default one.
    #[must_use]
    pub fn changes_to(&self, wanted: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.tombstones_to(wanted, &mut changes);
        let ids: BTreeSet<_> = wanted
            .agents
            .iter()
            .map(|record| &record.agent_id)
            .collect();
        for record in self
            .agents
            .iter()
            .filter(|record| !ids.contains(&record.agent_id))
        {
            changes.push(Change::ForgetAgent(record.agent_id.clone()));
        }
        for record in wanted
            .agents
            .iter()
            .filter(|record| !self.agents.contains(record))
        {
            changes.push(Change::PutAgent(Box::new(record.clone())));
        }
        for record in wanted
            .frameworks
            .iter()
            .filter(|record| !self.frameworks.contains(record))
        {
            changes.push(Change::PutFramework(Box::new(record.clone())));
        }
        let weights: BTreeMap<_, _> = wanted
            .weights
            .iter()
            .map(|(role, weight)| (role, weight))
            .collect();
        for (role, weight) in &self.weights {
            if !weights.contains_key(role) && *weight != DEFAULT_WEIGHT_MILLIS {
                changes.push(Change::PutWeight {
                    role: role.clone(),
                    weight_millis: DEFAULT_WEIGHT_MILLIS,
                });
            }
        }
        for (role, weight_millis) in &wanted.weights {
            changes.push(Change::PutWeight {
                role: role.clone(),
                weight_millis: *weight_millis,
            });
        }
        let quotas: BTreeMap<_, _> = wanted
            .quotas
            .iter()
            .map(|(role, quota)| (role, quota))
            .collect();
        let roles = self.quotas.iter().map(|(role, _)| role);
        let roles: BTreeSet<_> = roles.chain(quotas.keys().copied()).collect();
        for role in roles {
            changes.push(Change::PutQuota {
                role: role.clone(),
                quota: quotas.get(role).map(|quota| (*quota).clone()),
            });
        }
        let windows: BTreeMap<_, _> = wanted
            .windows
            .iter()
            .map(|record| (&record.name, record))
            .collect();
        let names = self.windows.iter().map(|record| &record.name);
        let names: BTreeSet<_> = names.chain(windows.keys().copied()).collect();
        for name in names {
            changes.push(Change::PutWindow {
                name: name.clone(),
                window: windows.get(name).map(|record| Box::new((*record).clone())),
            });
        }
        changes
    }

    /// Ids that must not come back, and frameworks that are to go without leaving one.
    fn tombstones_to(&self, wanted: &Self, changes: &mut Vec<Change>) {
        let keep: BTreeMap<_, _> = wanted
            .removed_agents
            .iter()
            .map(|(id, at)| (id, at))
            .collect();
        for (id, _) in self
            .removed_agents
            .iter()
            .filter(|(id, _)| !keep.contains_key(id))
        {
            changes.push(Change::ForgetRemovedAgent(id.clone()));
        }
        for (agent_id, at_ms) in &wanted.removed_agents {
            changes.push(Change::RemoveAgent {
                agent_id: agent_id.clone(),
                at_ms: *at_ms,
            });
        }
        let keep: BTreeMap<_, _> = wanted
            .removed_frameworks
            .iter()
            .map(|(id, at)| (id, at))
            .collect();
        let stay: BTreeSet<_> = wanted
            .frameworks
            .iter()
            .map(|record| &record.framework_id)
            .collect();
        for record in self
            .frameworks
            .iter()
            .filter(|record| !stay.contains(&record.framework_id))
        {
            let framework_id = record.framework_id.clone();
            changes.push(Change::RemoveFramework {
                framework_id: framework_id.clone(),
                at_ms: 0,
            });
            if !keep.contains_key(&framework_id) {
                changes.push(Change::ForgetRemovedFramework(framework_id));
            }
        }
        for (id, _) in self
            .removed_frameworks
            .iter()
            .filter(|(id, _)| !keep.contains_key(id))
        {
            changes.push(Change::ForgetRemovedFramework(id.clone()));
        }
        for (framework_id, at_ms) in &wanted.removed_frameworks {
            changes.push(Change::RemoveFramework {
                framework_id: framework_id.clone(),
                at_ms: *at_ms,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{AgentInfo, CgroupMode, FrameworkInfo};
    use mezzo_api::proto;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        allocator::Quota,
        store::{AgentRecord, FrameworkRecord, WindowRecord, memory::MemoryStore},
    };

    fn agent(n: u8, at: u64) -> AgentRecord {
        AgentRecord {
            agent_id: format!("a{n}").parse().unwrap(),
            info: AgentInfo {
                hostname: format!("h{n}"),
                address: "h:1".to_owned(),
                resources: "cpus:1;mem:64;ports:[1-3]".parse().unwrap(),
                attributes: Vec::new(),
                region: String::new(),
                zone: String::new(),
                version: String::new(),
                kernel: String::new(),
                architecture: String::new(),
                cgroup_mode: CgroupMode::V2,
                reserved: Vec::new(),
                volumes: Vec::new(),
            },
            registered_at_ms: at,
            drain: None,
            deactivated_since_ms: (n % 2 == 1).then_some(at),
        }
    }

    fn framework(n: u8, at: u64) -> FrameworkRecord {
        let info = proto::FrameworkInfo {
            name: format!("f{n}"),
            roles: vec!["a".into()],
            ..proto::FrameworkInfo::default()
        };
        FrameworkRecord {
            framework_id: format!("f{n}").parse().unwrap(),
            info: FrameworkInfo::try_from(info).unwrap(),
            registered_at_ms: at,
            expires_at_ms: Some(at),
        }
    }

    /// Any state that a master can leave: ids are there or removed, not both.
    fn saved() -> impl Strategy<Value = Saved> {
        let some = || prop::collection::btree_map(0_u8..8, 1_u64..5, 0..8);
        (some(), some(), some(), some(), some(), some(), some()).prop_map(
            |(agents, no_agents, frameworks, no_frameworks, weights, quotas, windows)| Saved {
                removed_agents: (no_agents.iter().filter(|(n, _)| !agents.contains_key(n)))
                    .map(|(n, at)| (format!("a{n}").parse().unwrap(), *at))
                    .collect(),
                removed_frameworks: (no_frameworks.iter())
                    .filter(|(n, _)| !frameworks.contains_key(n))
                    .map(|(n, at)| (format!("f{n}").parse().unwrap(), *at))
                    .collect(),
                agents: agents.into_iter().map(|(n, at)| agent(n, at)).collect(),
                frameworks: frameworks
                    .into_iter()
                    .map(|(n, at)| framework(n, at))
                    .collect(),
                weights: (weights.into_iter())
                    .map(|(n, weight)| (format!("r{n}").parse().unwrap(), weight * 700))
                    .collect(),
                quotas: (quotas.into_iter())
                    .map(|(n, cpus)| {
                        let limits = [("cpus".to_owned(), cpus.to_string().parse().unwrap())];
                        let quota = Quota {
                            limits: limits.into(),
                            ..Quota::default()
                        };
                        (format!("r{n}").parse().unwrap(), quota)
                    })
                    .collect(),
                windows: (windows.into_iter())
                    .map(|(n, at)| WindowRecord {
                        name: format!("w{n}").parse().unwrap(),
                        agents: [format!("a{n}").parse().unwrap()].into(),
                        starts_at_ms: at,
                        drains_at_ms: at + 1,
                        ends_at_ms: None,
                        drained: Default::default(),
                    })
                    .collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_backup_comes_back_as_it_was(saved in saved(), at in 0_u64..9) {
            let file = write(&saved, at);
            let backup = read(&file).unwrap();
            prop_assert_eq!(backup.saved, saved);
            prop_assert_eq!(backup.made_at_ms, at);
        }

        #[test]
        fn a_restore_makes_any_state_the_wanted_one(former in saved(), wanted in saved()) {
            let store = MemoryStore::default();
            for change in Saved::default().changes_to(&former) {
                store.write(change);
            }
            prop_assert_eq!(&store.saved(), &former);
            for change in former.changes_to(&wanted) {
                store.write(change);
            }
            let mut found = store.saved();
            // A weight cannot be removed, only made the default.
            found.weights.retain(|(role, weight)| {
                *weight != DEFAULT_WEIGHT_MILLIS || wanted.weights.iter().any(|(other, _)| other == role)
            });
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn a_byte_that_is_changed_or_missing_is_found(saved in saved(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let file = write(&saved, 1_700_000_000_000);
            let mut changed = file.clone();
            changed[at.index(file.len())] ^= 1 << bit;
            // Of the header only time and version of the master are not covered; they decide nothing.
            if let Ok(backup) = read(&changed) {
                prop_assert_eq!(backup.saved, saved);
            }
            let cut = &file[..at.index(file.len())];
            prop_assert!(read(cut).is_err());
        }
    }

    #[test]
    fn what_is_newer_or_something_else_is_refused_in_words() {
        let file = String::from_utf8(write(&Saved::default(), 1)).unwrap();
        let newer = file.replace("\"mezzo_backup\":1", "\"mezzo_backup\":2");
        assert!(matches!(
            read(newer.as_bytes()),
            Err(InvalidBackup::TooNew {
                what: "the file",
                ..
            })
        ));
        let newer = file.replace("\"format\":1", "\"format\":99");
        assert!(matches!(
            read(newer.as_bytes()),
            Err(InvalidBackup::TooNew { found: 99, .. })
        ));
        for foreign in ["", "\n", "{}\n", "x\ny", "{\"mezzo_backup\":\"x\"}\n"] {
            assert_eq!(
                read(foreign.as_bytes()),
                Err(InvalidBackup::Foreign),
                "{foreign:?}"
            );
        }
    }
}
