//! Tasks: what a framework describes. Their statuses are in `status`.

use std::time::Duration;

use super::{
    Invalid, Problems,
    common::millis,
    container::LONGEST_ARGS,
    limits::limit_problems,
    revocable_problems,
    status::{self, KnownIds},
};
use crate::{
    model::{
        AgentId, FrameworkId, MOST_HEALTH_CHECKS, MOST_POOLS, MOST_VOLUMES, PersistentVolume, Pool,
        Pools, Resources, RoleName, Scalar, Task, TaskInfo, TaskLimits,
    },
    proto,
};

const MOST_DATA: usize = 64 * 1024;

impl TryFrom<proto::TaskInfo> for TaskInfo {
    type Error = Invalid;

    fn try_from(info: proto::TaskInfo) -> Result<Self, Invalid> {
        Self::read(info, AtHand::default())
    }
}

impl TaskInfo {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// Every problem, with its field.
    pub fn read(info: proto::TaskInfo, at_hand: AtHand<'_>) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let task_id = problems.take("task_id", info.task_id.parse());
        let agent_id = AgentId::read(&info.agent_id, at_hand.agent_id);
        let agent_id = problems.take("agent_id", agent_id);
        problems.bound("name", &info.name, 1024);
        let resources: Option<Resources> = problems.take("resources", info.resources.try_into());
        let resources = resources.map(|resources| match at_hand.resources {
            Some(known) if *known == resources => known.clone(),
            Some(_) | None => resources,
        });
        let cpu_limit: Option<Scalar> = info.cpu_limit.map(Into::into);
        if cpu_limit.is_some_and(|limit| limit < Scalar::from_millis(1)) {
            problems.note("cpu_limit", "must be at least 0.001");
        }
        if info.pids_limit == Some(0) {
            problems.note("pids_limit", "must be at least 1");
        }
        if info.memory_limit_mb.is_some_and(|mb| mb > 1 << 40) {
            problems.note("memory_limit_mb", "is larger than 2^40");
        }
        let container = match info.container {
            None => problems.take("container", Err(Invalid::new("", "is missing"))),
            Some(container) => problems.take("container", container.try_into()),
        };
        let health_checks = problems.list("health_checks", info.health_checks, MOST_HEALTH_CHECKS);
        let readiness_check = info
            .readiness_check
            .and_then(|check| problems.take("readiness_check", check.try_into()))
            .map(Box::new);
        let check = info
            .check
            .and_then(|check| problems.take("check", check.try_into()))
            .map(Box::new);
        if info.data.len() > MOST_DATA {
            problems.note(
                "data",
                format!(
                    "is {} bytes; at most {MOST_DATA} are allowed",
                    info.data.len()
                ),
            );
        }
        let label_bytes: usize = info.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
        if info.labels.len() > 1024 || label_bytes > LONGEST_ARGS {
            problems.note("labels", "more than 1024, or longer than 1 MiB in all");
        }
        let limits = info.limits.map_or(Some(TaskLimits::default()), |limits| {
            problems.take("limits", limits.try_into())
        });
        if let (Some(limits), Some(resources)) = (&limits, &resources) {
            problems.extend(limit_problems(
                resources.cpus(),
                resources.mem(),
                info.memory_limit_mb,
                limits,
            ));
        }
        let group = info
            .group
            .and_then(|group| problems.take("group", group.try_into()))
            .map(Box::new);
        let reserved: Vec<Pool> = problems.list("reserved", info.reserved, MOST_POOLS);
        let persistent: Vec<PersistentVolume> =
            problems.list("persistent", info.persistent, MOST_VOLUMES);
        if let Some(resources) = &resources
            && let Err(error) = Pools::divided(resources, &reserved, &[])
        {
            problems.note("reserved", error.to_string());
        }
        let value = (|| {
            Some(Self {
                revocable: info.revocable,
                task_id: task_id?,
                name: info.name,
                agent_id: agent_id?,
                resources: resources?,
                cpu_limit,
                memory_limit_mb: info.memory_limit_mb,
                pids_limit: info.pids_limit,
                container: container?,
                kill_grace: info.kill_grace_ms.map(Duration::from_millis),
                health_checks,
                max_completion: info.max_completion_ms.map(Duration::from_millis),
                labels: info.labels,
                data: info.data,
                limits: limits?,
                group,
                readiness_check,
                check,
                reserved,
                persistent,
            })
        })();
        problems.extend(value.as_ref().map(revocable_problems).unwrap_or_default());
        problems.finish(value)
    }
}

impl From<TaskInfo> for proto::TaskInfo {
    fn from(info: TaskInfo) -> Self {
        let (task_id, agent_id) = (info.task_id.clone(), info.agent_id.clone());
        let resources = info.resources.clone();
        Self {
            task_id: task_id.into(),
            agent_id: agent_id.into(),
            resources: resources.into(),
            ..beside_what_is_taken(info)
        }
    }
}

/// All but which task it is, where it is, and what it takes of that.
pub(super) fn beside_what_is_taken(info: TaskInfo) -> proto::TaskInfo {
    proto::TaskInfo {
        task_id: String::new(),
        agent_id: String::new(),
        resources: Vec::new(),
        revocable: info.revocable,
        name: info.name,
        cpu_limit: info.cpu_limit.map(Into::into),
        memory_limit_mb: info.memory_limit_mb,
        pids_limit: info.pids_limit,
        container: Some(info.container.into()),
        kill_grace_ms: info.kill_grace.map(millis),
        health_checks: info.health_checks.into_iter().map(Into::into).collect(),
        max_completion_ms: info.max_completion.map(millis),
        labels: info.labels,
        data: info.data,
        limits: (!info.limits.is_default()).then(|| info.limits.into()),
        group: info.group.map(|group| (*group).into()),
        readiness_check: info.readiness_check.map(|check| (*check).into()),
        check: info.check.map(|check| (*check).into()),
        reserved: info.reserved.into_iter().map(Into::into).collect(),
        persistent: info.persistent.into_iter().map(Into::into).collect(),
    }
}

impl TryFrom<proto::Task> for Task {
    type Error = Invalid;

    fn try_from(task: proto::Task) -> Result<Self, Invalid> {
        Self::read(task, AtHand::default())
    }
}

/// What is known where a task is read: it shares what is its own, too. Tasks that an agent registers with, or that are launched
/// together, have nearly all of it in common, and whoever keeps them keeps it once.
#[derive(Debug, Clone, Copy, Default)]
pub struct AtHand<'a> {
    /// Where it is likely to be.
    pub agent_id: Option<&'a AgentId>,
    /// Whose it is likely to be.
    pub framework_id: Option<&'a FrameworkId>,
    /// In which role.
    pub role: Option<&'a RoleName>,
    /// What it is likely to take.
    pub resources: Option<&'a Resources>,
}

impl Task {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// Every problem, with its field.
    pub fn read(task: proto::Task, at_hand: AtHand<'_>) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let missing = || Invalid::new("", "is missing");
        let framework_id = FrameworkId::read(&task.framework_id, at_hand.framework_id);
        let framework_id = problems.take("framework_id", framework_id);
        let role = problems.take("role", RoleName::read(&task.role, at_hand.role));
        let info = task.info.ok_or_else(missing);
        let info = info.and_then(|info| TaskInfo::read(*info, at_hand));
        let info = problems.take("info", info);
        let known = KnownIds {
            task_id: info.as_ref().map(|info| &info.task_id),
            agent_id: info.as_ref().map(|info| &info.agent_id),
            framework_id: framework_id.as_ref(),
        };
        let status = task.status.ok_or_else(missing);
        let status = status.and_then(|status| status::read(status, known));
        let status = problems.take("status", status);
        let value = (|| {
            Some(Self {
                info: info?,
                framework_id: framework_id?,
                role: role?,
                status: status?,
                started_at_ms: task.started_at_ms,
            })
        })();
        problems.finish(value)
    }
}

impl From<Task> for proto::Task {
    fn from(task: Task) -> Self {
        Self {
            info: Some(Box::new(task.info.into())),
            framework_id: task.framework_id.into(),
            role: task.role.into(),
            status: Some(task.status.into()),
            started_at_ms: task.started_at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_a_task_is_named_with_its_field() {
        let error = TaskInfo::try_from(proto::TaskInfo {
            task_id: "../x".into(),
            agent_id: String::new(),
            container: Some(proto::ContainerInfo {
                env: vec![
                    proto::EnvVar {
                        name: "OK".into(),
                        value: String::new(),
                    },
                    proto::EnvVar {
                        name: "A=B".into(),
                        value: String::new(),
                    },
                ],
                working_dir: "relative".into(),
                volumes: vec![proto::Volume {
                    container_path: "/a/../b".into(),
                    read_only: false,
                    source: None,
                }],
                pull_secret: "../x".into(),
                ..Default::default()
            }),
            health_checks: vec![proto::HealthCheck {
                port: 70_000,
                ..Default::default()
            }],
            ..Default::default()
        })
        .unwrap_err();
        let fields: Vec<_> = error.problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "task_id",
                "agent_id",
                "container.image",
                "container.working_dir",
                "container.env[1].name",
                "container.volumes[0].container_path",
                "container.volumes[0].source",
                "container.pull_secret",
                "health_checks[0].kind",
                "health_checks[0].interval_ms",
                "health_checks[0].timeout_ms",
                "health_checks[0].port",
            ],
            "{error}"
        );
    }

    #[test]
    fn a_task_shares_what_is_at_hand_and_is_the_same_for_it() {
        let wire = |task: &str, framework: &str| proto::Task {
            info: Some(Box::new(proto::TaskInfo {
                task_id: task.into(),
                agent_id: "a".into(),
                resources: (&"mem:32;cpus:0.1".parse::<Resources>().unwrap()).into(),
                container: Some(proto::ContainerInfo {
                    image: "sleep:1".into(),
                    ..Default::default()
                }),
                ..Default::default()
            })),
            framework_id: framework.into(),
            role: "eng".into(),
            status: Some(proto::TaskStatus {
                task_id: task.into(),
                framework_id: framework.into(),
                agent_id: "a".into(),
                state: proto::TaskState::TaskRunning.into(),
                source: proto::StatusSource::Agent.into(),
                ..Default::default()
            }),
            started_at_ms: None,
        };
        let first = Task::try_from(wire("t1", "f")).unwrap();
        let at_hand = AtHand {
            agent_id: Some(&first.info.agent_id),
            framework_id: Some(&first.framework_id),
            role: Some(&first.role),
            resources: Some(&first.info.resources),
        };
        let at = |text: &str| text.as_ptr();
        let second = Task::read(wire("t2", "f"), at_hand).unwrap();
        assert_eq!(second, Task::try_from(wire("t2", "f")).unwrap());
        let framework = at(first.framework_id.as_str());
        assert_eq!(at(second.framework_id.as_str()), framework);
        assert_eq!(at(second.status.framework_id.as_str()), framework);
        assert_eq!(
            at(second.status.task_id.as_str()),
            at(second.info.task_id.as_str())
        );
        // What is another is read as ever, and checked.
        let other = Task::read(wire("t3", "g"), at_hand).unwrap();
        assert_eq!(other, Task::try_from(wire("t3", "g")).unwrap());
        assert!(Task::read(wire("t4", "../g"), at_hand).is_err());
    }

    #[test]
    fn a_task_has_so_many_health_checks_and_no_more() {
        let check = proto::HealthCheck {
            kind: proto::CheckKind::Tcp.into(),
            port: 80,
            interval_ms: 1,
            timeout_ms: 1,
            ..Default::default()
        };
        let with = |n: usize| proto::TaskInfo {
            task_id: "t".into(),
            agent_id: "a".into(),
            container: Some(proto::ContainerInfo {
                image: "sleep:1".into(),
                ..Default::default()
            }),
            health_checks: (1..=n)
                .map(|port| proto::HealthCheck {
                    port: u32::try_from(port).unwrap(),
                    ..check.clone()
                })
                .collect(),
            ..Default::default()
        };
        let most = with(MOST_HEALTH_CHECKS);
        let read = TaskInfo::try_from(most.clone()).unwrap();
        assert_eq!(
            proto::TaskInfo::from(read).health_checks,
            most.health_checks
        );
        let error = TaskInfo::try_from(with(MOST_HEALTH_CHECKS + 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "health_checks: has 17 entries; at most 16 are allowed"
        );
    }
}
