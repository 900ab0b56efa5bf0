//! Recovery: checkpoints × containers × boot → actions. Pure; `execute` carries them out.
//!
//! Nothing is run twice: a launch of which no container is found is reported, never repeated. Nothing runs unknown:
//! a container without a usable checkpoint is killed.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{Checkpoint, Log};
use crate::node::{Container, ContainerId, ContainerState, ExitRecord, Started};

/// One task's folder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) log: Log,
}

/// What to do. For one container at most one action that is about its task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// It runs: take it on.
    Adopt(ContainerId, Started),
    /// It ended while the agent was away.
    ReportExit(ContainerId, Box<ExitRecord>),
    /// The machine was booted anew under it.
    ReportLostAtReboot(ContainerId),
    /// It was on its way and never became a container.
    ReportDropped(ContainerId),
    /// It ran, and there is no trace of it.
    ReportVanished(ContainerId),
    /// Its end is told or being told: keep telling.
    KeepEnded(ContainerId),
    /// Kill and remove: nobody knows it, or its task has ended.
    RemoveContainer(ContainerId),
    /// A root file system that no running container needs.
    RemoveSnapshot(String),
}

/// The plan. Actions about tasks first, in the order of the checkpoints' container ids.
pub(crate) fn plan(
    recovered: &[Recovered],
    containers: &[Container],
    snapshots: &[String],
    boot_id: &str,
) -> Vec<Action> {
    let mut running_or_ended: BTreeMap<&ContainerId, &ContainerState> = containers
        .iter()
        .map(|container| (&container.id, &container.state))
        .collect();
    let mut in_use = BTreeSet::new();
    let mut actions = Vec::new();
    let mut removals = Vec::new();
    // What groups share goes with the last member.
    let mut held = BTreeSet::new();
    let mut sorted: Vec<_> = recovered.iter().collect();
    sorted.sort_by(|a, b| a.checkpoint.container.cmp(&b.checkpoint.container));
    for Recovered { checkpoint, log } in sorted {
        let id = &checkpoint.container;
        let state = running_or_ended.remove(id);
        let told_end = log
            .latest()
            .is_some_and(|status| status.state.is_terminal());
        if told_end {
            actions.push(Action::KeepEnded(id.clone()));
            // Its logs are kept with an ended container; one that runs has no business doing so.
            if matches!(
                state,
                Some(ContainerState::Running(_) | ContainerState::Starting)
            ) {
                removals.push(Action::RemoveContainer(id.clone()));
            }
            continue;
        }
        actions.push(match state {
            Some(ContainerState::Running(started)) => {
                in_use.insert(id.as_str());
                held.extend(&checkpoint.holder);
                Action::Adopt(id.clone(), started.clone())
            }
            Some(ContainerState::Exited(record)) => Action::ReportExit(id.clone(), record.clone()),
            // Recovery has waited for it; whatever it is doing, it is not to run behind our back.
            Some(ContainerState::Starting) => {
                removals.push(Action::RemoveContainer(id.clone()));
                Action::ReportDropped(id.clone())
            }
            None if checkpoint.boot_id != boot_id => Action::ReportLostAtReboot(id.clone()),
            None if log.updates.iter().any(|status| status.container.is_some()) => {
                Action::ReportVanished(id.clone())
            }
            None => Action::ReportDropped(id.clone()),
        });
    }
    removals.extend(
        running_or_ended
            .into_keys()
            .filter(|id| !held.contains(id))
            .map(|id| Action::RemoveContainer(id.clone())),
    );
    removals.sort_by_key(|action| format!("{action:?}"));
    actions.extend(removals);
    let mut unused: Vec<_> = snapshots
        .iter()
        .filter(|key| !in_use.contains(key.as_str()))
        .cloned()
        .collect();
    unused.sort();
    actions.extend(unused.into_iter().map(Action::RemoveSnapshot));
    actions
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{ContainerStatus, RoleName, TaskState, TaskStatus, Usage};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        node::ContainerExit,
        task::{status::tests::a_status, tests::a_task},
    };

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Told {
        Nothing,
        Pulling,
        Running,
        End,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Seen {
        Nothing,
        Starting,
        Running,
        Exited,
    }

    fn id(n: usize) -> ContainerId {
        ContainerId::derive("t", n as u64)
    }

    fn started() -> Started {
        Started {
            addresses: Vec::new(),
            pid: 7,
            cgroup: "/c".into(),
            started_at_ms: 3,
        }
    }

    fn exit() -> ExitRecord {
        ExitRecord {
            exit: ContainerExit::Code(0),
            oom_killed: false,
            memory_limit_bytes: None,
            started_at_ms: Some(3),
            finished_at_ms: 4,
            usage: Usage::default(),
        }
    }

    fn folder(n: usize, told: Told, boot: &str) -> Recovered {
        let status = |state, ran: bool| TaskStatus {
            state,
            container: ran.then(|| {
                Box::new(ContainerStatus {
                    ip_addresses: Vec::new(),
                    container_id: id(n).to_string(),
                    pid: 7,
                    cgroup_path: String::new(),
                    image_digest: String::new(),
                })
            }),
            ..a_status()
        };
        let updates = match told {
            Told::Nothing => vec![],
            Told::Pulling => vec![status(TaskState::Starting, false)],
            Told::Running => vec![status(TaskState::Running, true)],
            Told::End => vec![
                status(TaskState::Running, true),
                status(TaskState::Failed, true),
            ],
        };
        Recovered {
            checkpoint: Checkpoint {
                container: id(n),
                framework: "f".parse().unwrap(),
                role: RoleName::any(),
                boot_id: boot.into(),
                created_at_ms: 0,
                info: a_task("t"),
                grant: crate::resources::grant::Grant::default(),
                holder: None,
            },
            log: Log {
                updates,
                n_acknowledged: 0,
                forgotten: false,
            },
        }
    }

    fn container(n: usize, seen: Seen) -> Option<Container> {
        let state = match seen {
            Seen::Nothing => return None,
            Seen::Starting => ContainerState::Starting,
            Seen::Running => ContainerState::Running(started()),
            Seen::Exited => ContainerState::Exited(Box::new(exit())),
        };
        Some(Container {
            id: id(n),
            state,
            keeper_pid: None,
            labels: BTreeMap::new(),
        })
    }

    fn told() -> impl Strategy<Value = Option<Told>> {
        prop_oneof![
            Just(None),
            Just(Some(Told::Nothing)),
            Just(Some(Told::Pulling)),
            Just(Some(Told::Running)),
            Just(Some(Told::End)),
        ]
    }

    fn seen() -> impl Strategy<Value = Seen> {
        prop_oneof![
            Just(Seen::Nothing),
            Just(Seen::Starting),
            Just(Seen::Running),
            Just(Seen::Exited)
        ]
    }

    proptest! {
        #[test]
        fn the_plan_is_what_the_table_says(
            cases in prop::collection::vec((told(), seen(), any::<bool>(), any::<bool>()), 0..12),
        ) {
            let mut folders = Vec::new();
            let mut containers = Vec::new();
            let mut snapshots = Vec::new();
            let mut expected = Vec::new();
            for (n, (told, seen, same_boot, has_snapshot)) in cases.into_iter().enumerate() {
                folders.extend(told.map(|told| folder(n, told, if same_boot { "now" } else { "before" })));
                containers.extend(container(n, seen));
                let adopted = matches!((told, seen), (Some(Told::Nothing | Told::Pulling | Told::Running), Seen::Running));
                if has_snapshot {
                    snapshots.push(id(n).to_string());
                    if !adopted { expected.push(Action::RemoveSnapshot(id(n).to_string())); }
                }
                match (told, seen) {
                    (None, Seen::Nothing) => {}
                    (None, Seen::Starting | Seen::Running | Seen::Exited) => expected.push(Action::RemoveContainer(id(n))),
                    (Some(Told::End), seen) => {
                        expected.push(Action::KeepEnded(id(n)));
                        if matches!(seen, Seen::Running | Seen::Starting) { expected.push(Action::RemoveContainer(id(n))); }
                    }
                    (Some(_), Seen::Starting) => {
                        expected.push(Action::ReportDropped(id(n)));
                        expected.push(Action::RemoveContainer(id(n)));
                    }
                    (Some(_), Seen::Running) => expected.push(Action::Adopt(id(n), started())),
                    (Some(_), Seen::Exited) => expected.push(Action::ReportExit(id(n), Box::new(exit()))),
                    (Some(_), Seen::Nothing) if !same_boot => expected.push(Action::ReportLostAtReboot(id(n))),
                    (Some(Told::Running), Seen::Nothing) => expected.push(Action::ReportVanished(id(n))),
                    (Some(Told::Nothing | Told::Pulling), Seen::Nothing) => expected.push(Action::ReportDropped(id(n))),
                }
            }
            let mut got: Vec<_> = plan(&folders, &containers, &snapshots, "now").iter().map(|a| format!("{a:?}")).collect();
            let mut expected: Vec<_> = expected.iter().map(|a| format!("{a:?}")).collect();
            got.sort();
            expected.sort();
            prop_assert_eq!(got, expected);
        }
    }
}
