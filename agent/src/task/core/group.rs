//! Task groups among the tasks: launched together, looked after together. What is decided is in `task::group`. Pure.

use std::{collections::BTreeMap, time::Duration};

use mezzo_api::model::{FrameworkId, RoleName, TaskInfo, TaskState, VolumeSource};

use super::Core;
use crate::{
    node::{Attachment, ContainerId, NetworkRequest},
    task::{
        Context, TaskKey,
        disk::{self, DiskUse, GroupUse},
        entry::{Entry, Gate, Next, Phase as TaskPhase},
        event::Effect,
        group::{self, Group, HeldGroup, Holding, Member, Phase, Stands, Step},
        status::{KillCause, Outcome},
    },
};

impl Core {
    pub(super) fn launch_group(
        &mut self,
        framework: &FrameworkId,
        role: &RoleName,
        infos: Vec<TaskInfo>,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(info) = infos.first().and_then(|first| first.group.clone()) else {
            return;
        };
        let keys: Vec<_> = infos
            .iter()
            .map(|info| TaskKey {
                framework: framework.clone(),
                task: info.task_id.clone(),
            })
            .collect();
        if keys.iter().any(|key| self.knows(key)) {
            // Sent twice: as for a single task, nothing runs again.
            for key in keys {
                self.tell_again(&key, effects);
            }
            return;
        }
        let holder = ContainerId::derive(info.id.as_str(), (ctx.random)() as u64);
        self.groups.insert(
            holder.clone(),
            Group {
                info,
                members: keys,
                phase: Phase::Gathering,
                lost: None,
                told: None,
                widens_for: None,
            },
        );
        for info in infos {
            let (framework, role) = (framework.clone(), role.clone());
            self.launch(framework, role, info, Some(holder.clone()), ctx, effects);
        }
    }

    fn knows(&self, key: &TaskKey) -> bool {
        self.tasks.contains_key(key) || self.tombstones.contains_key(key)
    }

    pub(super) fn held(
        &mut self,
        holder: &ContainerId,
        held: Result<Attachment, Outcome>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get_mut(holder) else {
            return;
        };
        match held {
            Ok(attachment) => {
                group.phase = Phase::Held(attachment);
                effects.push(Effect::Watch(holder.clone()));
            }
            Err(outcome) => {
                group.phase = Phase::Held(Attachment::default());
                group.lost = Some(format!(
                    "what its group shares could not be made: {}",
                    outcome.message
                ));
            }
        }
    }

    /// A container has ended that may be the holder of a group.
    pub(super) fn holder_lost(&mut self, id: &ContainerId) {
        if let Some(group) = self.groups.get_mut(id)
            && matches!(group.phase, Phase::Held(_))
            && group.lost.is_none()
        {
            group.lost = Some("what its group shares was lost".to_owned());
        }
    }

    /// Whether what groups share is still about.
    pub(crate) fn has_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The volumes of a group on the disk count to what its members hold of it together; beyond that all of them end.
    pub(super) fn group_disk(
        &mut self,
        holder: &ContainerId,
        volumes: DiskUse,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get(holder) else {
            return;
        };
        let entries = group.members.iter().filter_map(|key| self.tasks.get(key));
        let alive = entries.clone().filter(|entry| entry.is_alive());
        let on_disk = group.info.volumes.iter();
        let on_disk = on_disk.filter(|volume| volume.tmpfs_bytes.is_none());
        let place = |name: &str| {
            let all = entries.clone();
            let mut mounts = all.flat_map(|entry| &entry.info.container.volumes);
            let mount = mounts.find(
                |mount| matches!(&mount.source, VolumeSource::Group(mounted) if mounted == name),
            );
            mount.map(|mount| mount.container_path.as_str())
        };
        let all = GroupUse {
            volumes: on_disk
                .map(|volume| (volume.name.as_str(), place(&volume.name)))
                .collect(),
            held: &volumes,
            members: alive
                .map(|entry| (&entry.key.task, entry.disk_that_counts))
                .collect(),
        };
        let limit = disk::sum(entries.map(|entry| &entry.info));
        if let Some(message) = disk::group_breach(&all, limit) {
            for key in group.members.clone() {
                // Also those that are just starting: they end for this reason, not because the others do.
                let cause = KillCause::Disk(message.clone());
                self.kill(&key, Some(Duration::ZERO), cause, ctx, effects);
            }
        }
    }

    /// Groups of which what they share is there.
    pub(crate) fn held_groups(&self) -> impl Iterator<Item = HeldGroup> {
        let held = self
            .groups
            .iter()
            .filter(|(_, group)| matches!(group.phase, Phase::Held(_)) && group.lost.is_none());
        held.filter_map(|(holder, group)| {
            let alive = |key: &&TaskKey| self.tasks.get(*key).is_some_and(Entry::is_alive);
            let running = group.members.iter().filter(alive);
            Some(HeldGroup {
                holder: holder.clone(),
                framework: group.members.first()?.framework.clone(),
                group: group.info.id.clone(),
                running: running.map(|key| key.task.clone()).collect(),
            })
        })
    }

    /// Whether this container holds what a group shares.
    pub(crate) fn has_group(&self, holder: &str) -> bool {
        self.groups.keys().any(|known| known.as_str() == holder)
    }

    /// Brings every group a step forward, as long as there are steps.
    pub(super) fn keep_groups(&mut self, ctx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if self.groups.is_empty() {
            return;
        }
        let holders: Vec<_> = self.groups.keys().cloned().collect();
        for holder in holders {
            self.keep_group(&holder, ctx, effects);
        }
    }

    fn keep_group(
        &mut self,
        holder: &ContainerId,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get(holder) else {
            return;
        };
        let (phase, lost) = (group.phase.clone(), group.lost.clone());
        let members: Vec<_> = group.members.iter().map(|key| self.member(key)).collect();
        match group::step(&members, group.info.policy, &phase, lost.as_deref()) {
            Step::Wait => {}
            Step::Hold => {
                let holding = self.holding(holder);
                self.set_phase(holder, Phase::Holding);
                if let (Some(group), Some(holding)) = (self.groups.get_mut(holder), &holding) {
                    group.told = Some(holding.limits.clone());
                }
                effects.extend(holding.map(|holding| Effect::Hold(Box::new(holding))));
            }
            Step::Admit(index) => {
                let key = self
                    .groups
                    .get(holder)
                    .and_then(|group| group.members.get(index).cloned());
                if let (Some(entry), Phase::Held(attachment)) =
                    (key.and_then(|key| self.tasks.get_mut(&key)), phase)
                {
                    entry.gate = Gate::Open;
                    effects.push(Effect::Admit(entry.container.clone(), attachment));
                }
            }
            Step::KillAll(why) => {
                let members = group.members.clone();
                for key in members {
                    self.kill(&key, None, KillCause::Group(why.clone()), ctx, effects);
                }
            }
            Step::LetGo => {
                self.set_phase(holder, Phase::LettingGo);
                effects.push(Effect::LetGo(holder.clone()));
            }
        }
    }

    fn set_phase(&mut self, holder: &ContainerId, phase: Phase) {
        if let Some(group) = self.groups.get_mut(holder) {
            group.phase = phase;
        }
    }

    fn member(&self, key: &TaskKey) -> Member {
        let entry = self.tasks.get(key);
        let group = entry.and_then(|entry| entry.info.group.as_ref());
        Member {
            name: key.task.to_string(),
            init: group.is_some_and(|group| group.init),
            // Collected.
            stands: entry.map_or(Stands::Done, stands),
        }
    }

    /// What is to be made for a group, from all of its members.
    fn holding(&self, holder: &ContainerId) -> Option<Holding> {
        let group = self.groups.get(holder)?;
        let entries: Vec<&Entry> = group
            .members
            .iter()
            .filter_map(|key| self.tasks.get(key))
            .collect();
        let first = &entries.first()?.info.container;
        let limits: Vec<_> = entries
            .iter()
            .filter_map(|entry| self.wanted_limits(&entry.container))
            .collect();
        let ports = entries
            .iter()
            .flat_map(|entry| entry.info.container.port_mappings.iter().cloned());
        Some(Holding {
            holder: holder.clone(),
            group: (*group.info).clone(),
            network: first.network,
            request: first.network.is_own().then(|| NetworkRequest {
                name: first.network_name.clone(),
                labels: first.network_labels.clone(),
                ports: ports.collect(),
            }),
            limits: group::sum(&limits),
            disk_bytes: disk::volumes_limit(entries.iter().map(|entry| &entry.info)),
            host_users: entries.iter().any(|entry| {
                let container = &entry.info.container;
                container.privileged || container.host_users || !entry.grant.devices.is_empty()
            }),
        })
    }

    /// After recovery: groups of which a member is alive, from what each of them knows. Where a launch was interrupted, its
    /// member has ended without having run, and the others follow.
    pub(crate) fn rebuild_groups(&mut self, effects: &mut Vec<Effect>) {
        let mut groups: BTreeMap<ContainerId, Vec<&Entry>> = BTreeMap::new();
        for entry in self.tasks.values() {
            if let Some(holder) = &entry.holder {
                groups.entry(holder.clone()).or_default().push(entry);
            }
        }
        let mut rebuilt = Vec::new();
        for (holder, mut entries) in groups {
            let position = |entry: &&Entry| entry.info.group.as_ref().map(|group| group.position);
            entries.sort_by_key(position);
            let Some(info) = entries.first().and_then(|entry| entry.info.group.clone()) else {
                continue;
            };
            if entries.iter().all(|entry| entry.ended_at().is_some()) {
                continue;
            }
            let group = Group {
                info,
                members: entries.iter().map(|entry| entry.key.clone()).collect(),
                phase: Phase::Held(Attachment::default()),
                lost: None,
                told: None,
                widens_for: None,
            };
            rebuilt.push((holder, group));
        }
        for (holder, group) in rebuilt {
            effects.push(Effect::Watch(holder.clone()));
            self.groups.insert(holder, group);
        }
    }
}

fn stands(entry: &Entry) -> Stands {
    match (&entry.phase, entry.gate) {
        (TaskPhase::Creating(Next::Launch), _) | (TaskPhase::Launching { .. }, Gate::Pulling) => {
            Stands::Coming
        }
        (TaskPhase::Creating(Next::End(outcome)), _) => Stands::NeverRan(outcome.message.clone()),
        (TaskPhase::Launching { kill: Some(cause) }, Gate::Ready | Gate::Open) => {
            Stands::Ending(!matches!(cause, KillCause::Group(_)))
        }
        (TaskPhase::Launching { kill: None }, Gate::Ready) => Stands::Ready,
        (TaskPhase::Launching { kill: None }, Gate::Open) => Stands::Starting,
        (TaskPhase::Running { .. }, _) => Stands::Running,
        (TaskPhase::Killing { cause, .. }, _) => {
            Stands::Ending(!matches!(cause, KillCause::Group(_)))
        }
        (TaskPhase::Ended { .. }, _) => {
            let words = entry.latest.message.clone();
            if entry.latest.state == TaskState::Finished {
                Stands::Done
            } else if entry.started_at_ms.is_some() {
                Stands::Failed(words)
            } else {
                Stands::NeverRan(words)
            }
        }
    }
}
