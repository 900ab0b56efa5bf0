//! The store of tests: forgets with the process, shared by clones so that a "restarted" master finds it again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use mezzo_api::model::{AgentId, FrameworkId, RoleName};

use crate::allocator::Quota;

use super::{AgentRecord, Change, FrameworkRecord, Saved, Store, StoreError};

#[derive(Debug, Default)]
struct Tables {
    term: u64,
    agents: BTreeMap<AgentId, AgentRecord>,
    removed_agents: BTreeMap<AgentId, u64>,
    frameworks: BTreeMap<FrameworkId, FrameworkRecord>,
    removed_frameworks: BTreeMap<FrameworkId, u64>,
    weights: BTreeMap<RoleName, u64>,
    quotas: BTreeMap<RoleName, Quota>,
}

/// Keeps everything in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

impl MemoryStore {
    /// What a master would load now.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Saved {
            agents: tables.agents.values().cloned().collect(),
            removed_agents: tables
                .removed_agents
                .iter()
                .map(|(id, at)| (id.clone(), *at))
                .collect(),
            frameworks: tables.frameworks.values().cloned().collect(),
            removed_frameworks: tables
                .removed_frameworks
                .iter()
                .map(|(id, at)| (id.clone(), *at))
                .collect(),
            weights: tables
                .weights
                .iter()
                .map(|(role, weight)| (role.clone(), *weight))
                .collect(),
            quotas: tables.quotas.clone().into_iter().collect(),
        }
    }

    /// As [`Store::apply`], without waiting.
    pub fn write(&self, change: Change) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::PutAgent(record) => {
                tables.agents.insert(record.agent_id.clone(), *record);
            }
            Change::ForgetAgent(agent_id) => {
                tables.agents.remove(&agent_id);
            }
            Change::RemoveAgent { agent_id, at_ms } => {
                tables.agents.remove(&agent_id);
                tables.removed_agents.insert(agent_id, at_ms);
            }
            Change::ForgetRemovedAgent(agent_id) => {
                tables.removed_agents.remove(&agent_id);
            }
            Change::PutFramework(record) => {
                tables
                    .frameworks
                    .insert(record.framework_id.clone(), *record);
            }
            Change::RemoveFramework {
                framework_id,
                at_ms,
            } => {
                tables.frameworks.remove(&framework_id);
                tables.removed_frameworks.insert(framework_id, at_ms);
            }
            Change::ForgetRemovedFramework(framework_id) => {
                tables.removed_frameworks.remove(&framework_id);
            }
            Change::PutWeight {
                role,
                weight_millis,
            } => {
                tables.weights.insert(role, weight_millis);
            }
            Change::PutQuota { role, quota } => {
                match quota {
                    Some(quota) => tables.quotas.insert(role, quota),
                    None => tables.quotas.remove(&role),
                };
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin_term(&self) -> Result<u64, StoreError> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.term += 1;
        Ok(tables.term)
    }

    async fn load(&self) -> Result<Saved, StoreError> {
        Ok(self.saved())
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        changes.into_iter().for_each(|change| self.write(change));
        Ok(())
    }
}
