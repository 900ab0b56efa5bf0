//! What an app keeps on machines: its persistent volumes, and what becomes of an instance whose machine is away.
//!
//! Pure. An app has a residency exactly when it has persistent volumes, as in Marathon.

use serde_json::{Value, json};

use super::spec::{App, UnreachableStrategy};

/// One persistent volume of each instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentMount {
    /// As the app wrote it: absolute, or relative to the sandbox. Of a pod: the volume's name.
    pub container_path: String,
    /// In MiB.
    pub size_mb: u64,
}

/// What becomes of an instance whose machine cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TaskLost {
    /// It is waited for: its data is there and nowhere else.
    #[default]
    WaitForever,
    /// After a while another starts elsewhere, with empty volumes.
    RelaunchAfterTimeout,
}

impl TaskLost {
    /// By Marathon's names.
    pub const NAMES: [(&'static str, Self); 2] = [
        ("WAIT_FOREVER", Self::WaitForever),
        ("RELAUNCH_AFTER_TIMEOUT", Self::RelaunchAfterTimeout),
    ];

    /// Marathon's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WaitForever => "WAIT_FOREVER",
            Self::RelaunchAfterTimeout => "RELAUNCH_AFTER_TIMEOUT",
        }
    }
}

/// `residency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residency {
    /// `taskLostBehavior`.
    pub lost: TaskLost,
    /// `relaunchEscalationTimeoutSeconds`, for [`TaskLost::RelaunchAfterTimeout`].
    pub relaunch_ms: u64,
}

impl Default for Residency {
    /// Marathon's: wait for ever; an hour.
    fn default() -> Self {
        Self {
            lost: TaskLost::WaitForever,
            relaunch_ms: 3_600_000,
        }
    }
}

impl Residency {
    /// As the app's JSON has it.
    #[must_use]
    pub fn to_json(self) -> Value {
        json!({
            "taskLostBehavior": self.lost.name(),
            "relaunchEscalationTimeoutSeconds": super::json::seconds(self.relaunch_ms),
        })
    }
}

impl App {
    /// When instances on machines that are away are given up.
    #[must_use]
    pub fn when_unreachable(&self) -> UnreachableStrategy {
        match self.residency {
            Some(Residency {
                lost: TaskLost::RelaunchAfterTimeout,
                relaunch_ms,
            }) => UnreachableStrategy::After {
                inactive_ms: relaunch_ms,
                expunge_ms: relaunch_ms,
            },
            Some(_) | None => self.unreachable,
        }
    }

    /// Disk of all its persistent volumes, in MiB.
    #[must_use]
    pub fn volumes_mb(&self) -> u64 {
        let sizes = self.container.persistent.iter().map(|mount| mount.size_mb);
        sizes.fold(0, u64::saturating_add)
    }

    /// What about an update speaks against it: instances run on with what they keep, so that cannot change. By path.
    #[must_use]
    pub fn resident_changes(&self, to: &Self) -> Vec<(&'static str, &'static str)> {
        const RESOURCES: &str = "Resident Tasks may not change resource requirements!";
        if self.residency.is_none() && to.residency.is_none() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        if self.container.persistent != to.container.persistent {
            let path = match to.pod.is_some() {
                true => "/volumes",
                false => "/container/volumes",
            };
            problems.push((path, "Persistent volumes can not be changed!"));
        }
        for (path, differs) in [
            ("/cpus", self.cpus != to.cpus),
            ("/mem", self.mem != to.mem),
            ("/disk", self.disk != to.disk),
            ("/gpus", self.gpus != to.gpus),
        ] {
            // Of a pod it is the sum of its containers' that stays.
            let path = if to.pod.is_some() {
                "/containers"
            } else {
                path
            };
            if differs {
                problems.push((path, RESOURCES));
            }
        }
        problems
    }
}
