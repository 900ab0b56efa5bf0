//! Limits of a task that is in a group. The group's own are the sum of its members', so two change: first what all may use
//! together, as far as it grows; then the member's; at last what is left over is taken from the sum. Nobody is held up in
//! between by less than he had or asked for. Pure.

use super::{Core, change::refusal};
use crate::{
    node::{ContainerId, LimitError, Limits},
    task::{
        change::Changing,
        entry::Entry,
        event::Effect,
        group::{roomier, sum},
        limits,
    },
};

impl Core {
    /// Whether a change of some member is under way: the next one waits for it.
    pub(super) fn changes_group(&self, holder: &ContainerId) -> bool {
        let of_group = |entry: &&Entry| entry.holder.as_ref() == Some(holder);
        let mut members = self.tasks.values().filter(of_group);
        members.any(|entry| entry.changing.is_some())
    }

    /// Begins the change of a member that is written down already.
    pub(super) fn widen_group(
        &mut self,
        holder: &ContainerId,
        member: &ContainerId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(after) = self.group_limits(holder, |id| self.wanted_limits(id)) else {
            self.tell_limits(member, effects);
            return;
        };
        let on_record = |id: &ContainerId| {
            let entry = self.by_container(id)?;
            let processors = self.grants.processors(&entry.grant);
            let pids = self.settings.default_pids;
            Some(limits::limits(&entry.info, processors, pids))
        };
        let told = self.groups.get(holder).and_then(|group| group.told.clone());
        let before = told.clone();
        let before = before.or_else(|| self.group_limits(holder, on_record));
        let wide = before.map_or_else(|| after.clone(), |before| roomier(&before, &after));
        let Some(group) = self
            .groups
            .get_mut(holder)
            .filter(|_| told.as_ref() != Some(&wide))
        else {
            self.tell_limits(member, effects);
            return;
        };
        group.widens_for = Some(member.clone());
        group.told = Some(wide.clone());
        effects.push(Effect::Limit(holder.clone(), Box::new(wide)));
    }

    /// The runtime has been told what all members may use together.
    pub(super) fn group_limited(
        &mut self,
        holder: &ContainerId,
        told: &Limits,
        result: Result<(), LimitError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get_mut(holder) else {
            return;
        };
        // Others are on their way already: those decide.
        if group.told.as_ref() != Some(told) {
            return;
        }
        if result.is_err() {
            group.told = None;
        }
        match (group.widens_for.take(), result) {
            (Some(member), Ok(())) => self.tell_limits(&member, effects),
            (Some(member), Err(error)) => {
                if let Some(entry) = self.entry(&member)
                    && matches!(entry.changing, Some(Changing::Applying(_)))
                {
                    entry.changing = None;
                    effects.push(Effect::Answer(member, Err(refusal(error))));
                }
            }
            (None, Ok(()) | Err(LimitError::NotRunning)) => {}
            (None, Err(error)) => {
                tracing::warn!(%holder, %error, "a group may use other than the sum of its tasks");
            }
        }
    }

    /// After a change of this member, if it is one: what nobody has any more is taken from the sum.
    pub(super) fn settle_group(&mut self, member: &ContainerId, effects: &mut Vec<Effect>) {
        let Some(holder) = self
            .by_container(member)
            .and_then(|entry| entry.holder.clone())
        else {
            return;
        };
        let sum = self.group_limits(&holder, |id| self.wanted_limits(id));
        if let (Some(group), Some(sum)) = (self.groups.get_mut(&holder), sum)
            && group.told.as_ref() != Some(&sum)
        {
            group.told = Some(sum.clone());
            effects.push(Effect::Limit(holder, Box::new(sum)));
        }
    }

    /// The sum over all members, also of those that have ended: what they left in shared memory stays.
    fn group_limits(
        &self,
        holder: &ContainerId,
        of: impl Fn(&ContainerId) -> Option<Limits>,
    ) -> Option<Limits> {
        let members = self.groups.get(holder)?.members.iter();
        let entries = members.filter_map(|key| self.tasks.get(key));
        let limits: Vec<_> = entries.filter_map(|entry| of(&entry.container)).collect();
        (!limits.is_empty()).then(|| sum(&limits))
    }
}
