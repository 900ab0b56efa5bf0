//! Instances that have failed their health check for good: the replacement first, then the end, and never many at once.
//!
//! Pure. Marathon ended them first and all at once: a check that was wrong, or a database that everybody asks, took
//! down the whole app. Here a fifth of the app, at least one, is under replacement at a time; the others run on as
//! they are. One that has no room for a replacement beside it is ended after a while to make that room, again only as
//! many at a time.

use mezzo_api::model::TaskId;

use super::{Member, Phase, count};

/// The part of an app that is replaced at a time for its health.
const AT_A_TIME: u32 = 5;

/// Has failed for good.
pub(super) fn is_failing(member: &Member) -> bool {
    matches!(member.phase, Phase::Failing | Phase::FailingLong)
}

fn at_a_time(n: u32) -> usize {
    (n / AT_A_TIME).max(1) as usize
}

/// Those of `members` that are under replacement now: they do not count any more towards the `n` that are wanted.
pub(super) fn under_replacement(members: &[Member], n: u32) -> Vec<&Member> {
    let mut failing: Vec<&Member> = members.iter().filter(|member| is_failing(member)).collect();
    // By age, so that it is the same ones at each look.
    failing.sort_by(|a, b| {
        let waited = |member: &Member| member.phase != Phase::FailingLong;
        waited(a)
            .cmp(&waited(b))
            .then(a.staged_at.cmp(&b.staged_at))
            .then_with(|| a.id.cmp(&b.id))
    });
    failing.truncate(at_a_time(n));
    failing
}

/// Those of `replaced` that may end now. `active` are the others that count.
pub(super) fn done_with(
    members: &[Member],
    active: &[&Member],
    replaced: &[&Member],
    n: u32,
) -> Vec<TaskId> {
    let not_there_yet = active
        .iter()
        .filter(|member| matches!(member.phase, Phase::Launching | Phase::Unhealthy))
        .count();
    let there = active.len() + replaced.len();
    let beyond = there.saturating_sub(n as usize);
    let mut over: Vec<&Member> = replaced
        .iter()
        .take(beyond.saturating_sub(not_there_yet))
        .copied()
        .collect();
    if over.is_empty() {
        let leaving = count(members, |member| member.phase == Phase::Leaving) as usize;
        let room = at_a_time(n).saturating_sub(not_there_yet + leaving);
        let waited = replaced
            .iter()
            .filter(|member| member.phase == Phase::FailingLong);
        over.extend(waited.take(room));
    }
    over.into_iter().map(|member| member.id.clone()).collect()
}
