//! Whether what is in force is what the store has, and so what the next master goes by. For the simulator.

use std::{collections::BTreeMap, fmt::Debug};

use super::{Core, frameworks::FrameworkLink};
use crate::store::Saved;

impl Core {
    /// Compares all that is durable, kind by kind.
    pub(crate) fn audit_store(&self, saved: &Saved) -> Result<(), String> {
        same("quotas", &self.quotas(), &saved.quotas)?;
        same("windows", &self.window_records(), &saved.windows)?;
        let weights: BTreeMap<_, _> = saved.weights.iter().cloned().collect();
        same("weights", &self.weights, &weights)?;
        let removed: BTreeMap<_, _> = saved.removed_agents.iter().cloned().collect();
        same("removed agents", self.removed_agents.since(), &removed)?;
        let removed: BTreeMap<_, _> = saved.removed_frameworks.iter().cloned().collect();
        same(
            "removed frameworks",
            self.removed_frameworks.since(),
            &removed,
        )?;

        let agents = self.agents.iter().map(|(id, entry)| entry.record(id));
        let agents: BTreeMap<_, _> = agents
            .map(|agent| (agent.agent_id.clone(), agent))
            .collect();
        let stored = saved.agents.iter().cloned().map(Box::new);
        let stored: BTreeMap<_, _> = stored
            .map(|agent| (agent.agent_id.clone(), agent))
            .collect();
        same("agents", &agents, &stored)?;

        let frameworks = self
            .frameworks
            .iter()
            .filter(|(_, entry)| !entry.is_removed());
        let ids: Vec<_> = frameworks.clone().map(|(id, _)| id).collect();
        let stored: Vec<_> = saved
            .frameworks
            .iter()
            .map(|one| &one.framework_id)
            .collect();
        same("frameworks", &ids, &stored)?;
        for ((id, entry), stored) in frameworks.zip(&saved.frameworks) {
            let what = format!("framework {id}");
            same(&what, &entry.info, &stored.info)?;
            same(&what, &entry.registered_at_ms, &stored.registered_at_ms)?;
            // Who has not been heard of since the last start has a time that the start gave it.
            let fits = match (&entry.link, stored.expires_at_ms) {
                (FrameworkLink::Connected { .. }, expires) => expires.is_none(),
                (FrameworkLink::Disconnected { expires_at_ms }, Some(stored)) => {
                    *expires_at_ms >= stored
                }
                (FrameworkLink::Disconnected { .. } | FrameworkLink::Removed, _) => true,
            };
            if !fits {
                return Err(format!(
                    "the time of {what} in the store is not the one in force"
                ));
            }
        }
        Ok(())
    }
}

fn same<T: PartialEq + Debug>(what: &str, in_force: &T, stored: &T) -> Result<(), String> {
    if in_force == stored {
        return Ok(());
    }
    Err(format!(
        "the {what} in the store are not those in force: {stored:?}, and not {in_force:?}"
    ))
}
