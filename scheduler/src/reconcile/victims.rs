//! Which instances go first when there are too many.
//!
//! Pure.

use std::collections::{BTreeMap, VecDeque};

use mezzo_api::model::TaskId;

use super::{Member, Phase};
use crate::app::spec::KillSelection;

/// The `n` that go first: late returners, other configurations, those of the fullest group if the app spreads over
/// groups, those not healthy before those that are (by how little is lost), then by age.
pub(super) fn victims(mut members: Vec<&Member>, n: u32, selection: KillSelection) -> Vec<TaskId> {
    let rank = |member: &Member| match member.phase {
        Phase::Leaving | Phase::Inactive | Phase::Abandoned => 0,
        Phase::Unreachable => 1,
        Phase::Launching => 2,
        Phase::Failing | Phase::FailingLong | Phase::Unhealthy => 3,
        Phase::Healthy => 4,
    };
    let before_place = |a: &Member, b: &Member| b.late.cmp(&a.late).then(a.current.cmp(&b.current));
    members.sort_by(|a, b| {
        let by_age = match selection {
            KillSelection::YoungestFirst => b.staged_at.cmp(&a.staged_at),
            KillSelection::OldestFirst => a.staged_at.cmp(&b.staged_at),
        };
        before_place(a, b)
            .then(rank(a).cmp(&rank(b)))
            .then(by_age)
            .then_with(|| a.id.cmp(&b.id))
    });
    let n = n as usize;
    if n < members.len() && members.iter().any(|member| member.group.is_some()) {
        members = by_fullest_group(&members, n, before_place);
    }
    members
        .into_iter()
        .take(n)
        .map(|member| member.id.clone())
        .collect()
}

/// The first `n` of `members`, within each run of equals (by `before_place`) always from the group that has most left.
fn by_fullest_group<'m>(
    members: &[&'m Member],
    n: usize,
    before_place: impl Fn(&Member, &Member) -> std::cmp::Ordering,
) -> Vec<&'m Member> {
    let mut sizes: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    for member in members {
        *sizes.entry(&member.group).or_default() += 1;
    }
    let mut chosen = Vec::new();
    for equals in members.chunk_by(|a, b| before_place(a, b).is_eq()) {
        let mut queues: BTreeMap<&Option<String>, VecDeque<&'m Member>> = BTreeMap::new();
        for member in equals {
            queues.entry(&member.group).or_default().push_back(member);
        }
        while chosen.len() < n {
            let fullest = queues
                .iter()
                .filter_map(|(group, queue)| Some((sizes.get(*group)?, queue.front()?)))
                .max_by_key(|(size, _)| **size);
            let Some(member) = fullest.map(|(_, member)| *member) else {
                break;
            };
            if let Some(queue) = queues.get_mut(&member.group) {
                queue.pop_front();
            }
            if let Some(size) = sizes.get_mut(&member.group) {
                *size -= 1;
            }
            chosen.push(member);
        }
    }
    chosen
}
