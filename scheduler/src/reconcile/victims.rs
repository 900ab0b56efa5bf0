//! Which instances go first when there are too many.
//!
//! Pure. In order: late returners, other configurations, those of the fullest group if the app spreads over groups, those
//! not healthy before those that are (by how little is lost), then by age. Only the first ones are looked at.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use mezzo_api::model::TaskId;

use super::roster::{Class, Pick, Roster, Shelf};
use super::{Phase, is_active};
use crate::app::spec::KillSelection;

/// Whom everybody of this class goes before: the less, the earlier.
fn rank(class: &Class) -> (bool, bool, u8) {
    let loss = match class.phase {
        Phase::Leaving | Phase::Inactive | Phase::Abandoned => 0,
        Phase::Unreachable => 1,
        Phase::Launching => 2,
        Phase::Failing | Phase::FailingLong | Phase::Unhealthy => 3,
        Phase::Healthy => 4,
    };
    (!class.late, class.current, loss)
}

/// Those of such a class that count, by rank, the first to go in the first.
fn ranks<'r, 'a>(
    roster: &'r Roster<'a>,
    holds: impl Fn(&Class) -> bool,
) -> Vec<Vec<&'r Shelf<'a>>> {
    let mut ranks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for shelf in roster.shelves_of(|class| is_active(class) && holds(class)) {
        ranks.entry(rank(&shelf.class)).or_default().push(shelf);
    }
    ranks.into_values().collect()
}

/// The first `n` of one rank, by age alone.
fn by_age<'r>(
    shelves: &[&'r Shelf<'_>],
    n: usize,
    selection: KillSelection,
    except: &HashSet<&TaskId>,
) -> Vec<Pick<'r>> {
    let mut picks = Vec::new();
    for shelf in shelves {
        let class = shelf.class;
        let members = shelf.members.iter();
        let goes = |aged: &&'r (u64, TaskId)| !except.contains(&aged.1);
        let pick = |aged| Pick { class, aged };
        match selection {
            KillSelection::OldestFirst => picks.extend(members.filter(goes).take(n).map(pick)),
            KillSelection::YoungestFirst => {
                picks.extend(members.rev().filter(goes).take(n).map(pick));
            }
        }
    }
    if shelves.len() > 1 {
        match selection {
            KillSelection::OldestFirst => picks.sort_by(|a, b| a.aged.cmp(b.aged)),
            KillSelection::YoungestFirst => picks.sort_by(|a, b| b.aged.cmp(a.aged)),
        }
        picks.truncate(n);
    }
    picks
}

/// The `n` of such a class that go first, those in `except` left aside.
pub(super) fn victims<'r>(
    roster: &'r Roster<'_>,
    holds: impl Fn(&Class) -> bool,
    except: &HashSet<&TaskId>,
    n: u32,
    selection: KillSelection,
) -> Vec<Pick<'r>> {
    let n = n as usize;
    if n == 0 {
        return Vec::new();
    }
    let ranks = ranks(roster, holds);
    let mut shelves = ranks.iter().flatten();
    if shelves.any(|shelf| shelf.group.is_some()) {
        return by_fullest_group(&ranks, n, selection, except);
    }
    let mut chosen = Vec::new();
    for rank in &ranks {
        chosen.extend(by_age(rank, n - chosen.len(), selection, except));
    }
    chosen
}

/// Of the old at most `budget`, and at most `healthy_budget` healthy ones among them.
pub(super) fn spared<'r>(
    roster: &'r Roster<'_>,
    budget: u32,
    healthy_budget: u32,
    selection: KillSelection,
) -> Vec<Pick<'r>> {
    let (budget, mut healthy_budget) = (budget as usize, healthy_budget as usize);
    let mut chosen = Vec::new();
    for rank in ranks(roster, |class| !class.current) {
        let mut n = budget - chosen.len();
        let is_healthy = rank.iter().all(|shelf| shelf.class.phase == Phase::Healthy);
        if is_healthy {
            n = n.min(healthy_budget);
        }
        let picks = by_age(&rank, n, selection, &HashSet::new());
        if is_healthy {
            healthy_budget -= picks.len();
        }
        chosen.extend(picks);
    }
    chosen
}

/// The first `n`, within each run of equals (late or not, current or not) always from the group that has most left.
fn by_fullest_group<'r>(
    ranks: &[Vec<&'r Shelf<'_>>],
    n: usize,
    selection: KillSelection,
    except: &HashSet<&TaskId>,
) -> Vec<Pick<'r>> {
    type Group<'r> = &'r Option<Arc<str>>;
    let mut sizes: BTreeMap<Group<'r>, usize> = BTreeMap::new();
    for shelf in ranks.iter().flatten() {
        *sizes.entry(&shelf.group).or_default() += shelf
            .members
            .iter()
            .filter(|aged| !except.contains(&aged.1))
            .count();
    }
    let run = |rank: &Vec<&Shelf<'_>>| {
        rank.first()
            .map(|shelf| (shelf.class.late, shelf.class.current))
    };
    let mut chosen = Vec::new();
    for equals in ranks.chunk_by(|a, b| run(a) == run(b)) {
        let mut queues: BTreeMap<Group<'r>, VecDeque<Pick<'r>>> = BTreeMap::new();
        for rank in equals {
            let mut by_group: BTreeMap<Group<'r>, Vec<&'r Shelf<'_>>> = BTreeMap::new();
            for shelf in rank {
                by_group.entry(&shelf.group).or_default().push(shelf);
            }
            for (group, shelves) in by_group {
                let picks = by_age(&shelves, n, selection, except);
                queues.entry(group).or_default().extend(picks);
            }
        }
        while chosen.len() < n {
            let left = queues.iter().filter(|(_, queue)| !queue.is_empty());
            let fullest = left.max_by_key(|(group, _)| sizes.get(*group));
            let Some(group) = fullest.map(|(group, _)| *group) else {
                break;
            };
            chosen.extend(queues.get_mut(group).and_then(VecDeque::pop_front));
            if let Some(size) = sizes.get_mut(group) {
                *size -= 1;
            }
        }
    }
    chosen
}
