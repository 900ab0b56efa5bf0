//! What is on disk for one task: `task.json`, written once before anything starts, and `log.jsonl`, to which statuses
//! and acknowledgements are added. Pure text; `store` reads and writes it.
//!
//! Version 4. A newer agent reads every older version; when it starts it writes those folders anew as its own (`store`).
//! An older agent refuses to start on a newer version, before it touches anything (`versions`). So whatever an older agent
//! could not read raises the version: a field that it must not miss, a reason or a kind of record that it does not know.
//!
//! | version | what came |
//! |---|---|
//! | 1 | the first; later, left out where empty, `grant` and what is new in `TaskInfo` |
//! | 2 | statuses with `REASON_TASK_CHECK_STATUS_UPDATED`, `REASON_AGENT_DRAINING`, `REASON_CONTAINER_LIMITATION_DISK` |
//! | 3 | persistent volumes and reserved resources in `TaskInfo`; `revocable` tasks, whose resources an older agent would book twice, as it would volumes that members of a group share; `REASON_CONTAINER_PREEMPTED` |
//! | 4 | `health_checks` in `TaskInfo` in place of the one `health_check`; `health_results` of statuses; later, left out where there is none, `check` in `TaskInfo` and `check_result` of statuses: an agent that does not know them does not ask, and harms nothing |

use mezzo_api::model::{FrameworkId, RoleName, TaskInfo, TaskStatus, UpdateId};
use serde::{Deserialize, Serialize};

use crate::{node::ContainerId, resources::grant::Grant};

/// What this agent writes.
pub(crate) const VERSION: u32 = 4;
/// The oldest that it reads.
const OLDEST: u32 = 1;

/// A launch, as it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) container: ContainerId,
    pub(crate) framework: FrameworkId,
    pub(crate) role: RoleName,
    /// The machine's boot in which it was launched.
    pub(crate) boot_id: String,
    pub(crate) created_at_ms: u64,
    pub(crate) info: TaskInfo,
    /// What the agent picked for it. An older agent does not see it, and gives others what is the task's alone.
    #[serde(default, skip_serializing_if = "Grant::is_empty")]
    pub(crate) grant: Grant,
    /// Of a member of a group: the container that holds what the group shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<ContainerId>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogRecord {
    /// A status, durable before it is told.
    Update(Box<TaskStatus>),
    /// The framework has it.
    Acknowledged(UpdateId),
    /// Nobody asks any more.
    Forgotten,
}

/// What the log says, taken together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Log {
    /// In order.
    pub(crate) updates: Vec<TaskStatus>,
    /// So many of them, from the first, are acknowledged.
    pub(crate) n_acknowledged: usize,
    pub(crate) forgotten: bool,
}

/// Why a task's folder is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Corrupt {
    #[error("task.json does not parse: {0}")]
    Checkpoint(String),
    #[error("task.json has version {0}, this agent reads {OLDEST} to {VERSION}")]
    Version(u32),
    #[error("line {line} of log.jsonl does not parse: {error}")]
    Log { line: usize, error: String },
}

impl Checkpoint {
    /// The text of `task.json`.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&Versioned {
            version: VERSION,
            body: self,
        })
        .expect("a checkpoint has only string keys and finite numbers")
    }

    /// From the text of `task.json`, and which version it was of.
    pub(crate) fn from_json(text: &[u8]) -> Result<(Self, u32), Corrupt> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let corrupt = |error: serde_json::Error| Corrupt::Checkpoint(error.to_string());
        let head: Head = serde_json::from_slice(text).map_err(corrupt)?;
        if !(OLDEST..=VERSION).contains(&head.version) {
            return Err(Corrupt::Version(head.version));
        }
        let versioned: Versioned<Self> = serde_json::from_slice(text).map_err(corrupt)?;
        Ok((versioned.body, versioned.version))
    }
}

impl LogRecord {
    /// The line, with its end.
    pub(crate) fn to_line(&self) -> String {
        let mut line =
            serde_json::to_string(self).expect("a record has only string keys and finite numbers");
        line.push('\n');
        line
    }
}

impl Log {
    /// From the text of `log.jsonl`, and how much of it counts: a last line without its end was being written when
    /// the agent died, and nobody was told of it.
    pub(crate) fn parse(text: &[u8]) -> Result<(Self, usize), Corrupt> {
        let valid = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let mut log = Self::default();
        for (n, line) in text[..valid].split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let record = serde_json::from_slice(line).map_err(|error| Corrupt::Log {
                line: n + 1,
                error: error.to_string(),
            })?;
            log.apply(record);
        }
        Ok((log, valid))
    }

    fn apply(&mut self, record: LogRecord) {
        match record {
            LogRecord::Update(status) => self.updates.push(*status),
            LogRecord::Acknowledged(id) => {
                if let Some(at) = self
                    .updates
                    .iter()
                    .position(|status| status.update_id.as_ref() == Some(&id))
                {
                    self.n_acknowledged = self.n_acknowledged.max(at + 1);
                }
            }
            LogRecord::Forgotten => self.forgotten = true,
        }
    }

    /// The newest status.
    pub(crate) fn latest(&self) -> Option<&TaskStatus> {
        self.updates.last()
    }

    /// What each of the task's health checks said last. An agent that knew only one told no more than what that said.
    pub(crate) fn health(&self, n_checks: usize) -> Vec<Option<bool>> {
        match self.latest() {
            Some(latest) if latest.health_results.len() == n_checks => {
                latest.health_results.clone()
            }
            Some(latest) if n_checks == 1 => vec![latest.healthy],
            Some(_) | None => vec![None; n_checks],
        }
    }

    /// Those that nobody has acknowledged.
    pub(crate) fn unacknowledged(&self) -> &[TaskStatus] {
        self.updates.get(self.n_acknowledged..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::{status::tests::a_status, tests::a_task};

    fn update(n: usize) -> TaskStatus {
        TaskStatus {
            update_id: Some(format!("u{n}").parse().unwrap()),
            message: "a\nb".into(),
            ..a_status()
        }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            container: ContainerId::derive("t", 1),
            framework: "f".parse().unwrap(),
            role: RoleName::any(),
            boot_id: "b".into(),
            created_at_ms: 5,
            info: a_task("t"),
            grant: Grant {
                cpus: [3, 1].into(),
                devices: [("gpu".to_owned(), ["0".to_owned()].into())].into(),
            },
            holder: Some(ContainerId::derive("pod", 2)),
        }
    }

    #[test]
    fn a_checkpoint_survives_the_disk() {
        assert_eq!(
            Checkpoint::from_json(checkpoint().to_json().as_bytes()),
            Ok((checkpoint(), VERSION))
        );
    }

    #[test]
    fn every_earlier_shape_is_read() {
        let earlier: [(&str, &[u8], &str); 3] = [
            (
                "the first",
                include_bytes!("records/task-1-first.json"),
                "{}",
            ),
            (
                "with processors",
                include_bytes!("records/task-1-processors.json"),
                r#"{"cpus":[1,3]}"#,
            ),
            (
                "with devices",
                include_bytes!("records/task-1-devices.json"),
                r#"{"cpus":[1],"devices":{"gpu":["0"]}}"#,
            ),
        ];
        for (what, text, grant) in earlier {
            let (read, version) = Checkpoint::from_json(text).expect(what);
            assert_eq!(version, 1, "{what}");
            assert_eq!(read.container.as_str(), "web-0000000000000001", "{what}");
            assert_eq!(read.info.container.image, "sleep:1", "{what}");
            assert_eq!(
                read.info.resources,
                "cpus:1;mem:32;ports:[31000-31000]".parse().unwrap()
            );
            assert_eq!(serde_json::to_string(&read.grant).unwrap(), grant, "{what}");
            let checks = &read.info.health_checks;
            let asked: Vec<_> = checks.iter().map(ToString::to_string).collect();
            assert_eq!(asked, ["TCP on port 31000"], "{what}");
            // What it is written as now means the same.
            let written = read.to_json();
            assert_eq!(
                Checkpoint::from_json(written.as_bytes()),
                Ok((read, VERSION))
            );
        }
        let log = include_bytes!("records/log-1-first.jsonl");
        let (log, valid) = Log::parse(log).expect("the first log");
        assert_eq!(valid, include_bytes!("records/log-1-first.jsonl").len());
        assert_eq!((log.updates.len(), log.n_acknowledged), (3, 1));
        let states: Vec<_> = log
            .updates
            .iter()
            .map(|status| status.state.name())
            .collect();
        assert_eq!(states, ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
    }

    #[test]
    fn a_log_tells_what_each_check_said_also_one_of_an_agent_that_knew_only_one() {
        let (yes, no) = (Some(true), Some(false));
        let told = |healthy: Option<bool>, health_results: Vec<Option<bool>>| Log {
            updates: vec![TaskStatus {
                healthy,
                health_results,
                ..a_status()
            }],
            ..Log::default()
        };
        assert_eq!(Log::default().health(2), [None, None]);
        assert_eq!(told(None, vec![]).health(0), []);
        assert_eq!(told(no, vec![yes, no]).health(2), [yes, no]);
        assert_eq!(told(yes, vec![]).health(1), [yes], "an older agent");
        assert_eq!(told(yes, vec![]).health(2), [None, None]);
    }

    #[test]
    fn a_checkpoint_without_a_grant_is_what_an_older_agent_writes() {
        let mut plain = checkpoint();
        plain.grant = Grant::default();
        plain.holder = None;
        let text = plain.to_json();
        assert!(
            !text.contains("grant") && !text.contains("holder"),
            "{text}"
        );
        assert_eq!(Checkpoint::from_json(text.as_bytes()), Ok((plain, VERSION)));
    }

    #[test]
    fn an_unknown_version_and_half_a_file_are_told_apart() {
        let newer = checkpoint()
            .to_json()
            .replace(&format!("\"version\":{VERSION}"), "\"version\":9");
        assert_eq!(
            Checkpoint::from_json(newer.as_bytes()),
            Err(Corrupt::Version(9))
        );
        let text = checkpoint().to_json();
        assert!(matches!(
            Checkpoint::from_json(&text.as_bytes()[..text.len() / 2]),
            Err(Corrupt::Checkpoint(_))
        ));
        assert!(matches!(
            Checkpoint::from_json(b""),
            Err(Corrupt::Checkpoint(_))
        ));
    }

    proptest! {
        #[test]
        fn a_log_cut_anywhere_reads_as_the_records_before_the_cut(cut in 0_usize..3000) {
            let records: Vec<_> = (0..4).map(|n| LogRecord::Update(Box::new(update(n))))
                .chain([LogRecord::Acknowledged("u0".parse().unwrap()), LogRecord::Forgotten]).collect();
            let text: String = records.iter().map(LogRecord::to_line).collect();
            let cut = cut.min(text.len());
            let (log, valid) = Log::parse(&text.as_bytes()[..cut]).unwrap();
            let whole_lines = text[..cut].matches('\n').count();
            prop_assert!(valid <= cut);
            prop_assert_eq!(log.updates.len(), whole_lines.min(4));
            prop_assert_eq!(log.n_acknowledged, usize::from(whole_lines > 4));
            prop_assert_eq!(log.forgotten, whole_lines > 5);
        }
    }

    #[test]
    fn a_bad_line_in_the_middle_is_corruption() {
        let text = format!("garbage\n{}", LogRecord::Forgotten.to_line());
        assert!(matches!(
            Log::parse(text.as_bytes()),
            Err(Corrupt::Log { line: 1, .. })
        ));
    }
}
