//! Instances that have failed their health check for good: the replacement first, then the end, and never many at once.
//!
//! Pure. Marathon ended them first and all at once: a check that was wrong, or a database that everybody asks, took
//! down the whole app. Here a fifth of the app, at least one, is under replacement at a time; the others run on as
//! they are. One that has no room for a replacement beside it is ended after a while to make that room, again only as
//! many at a time.

use super::roster::{Class, Pick, Roster};
use super::{Kills, Phase, is_active};

/// The part of an app that is replaced at a time for its health.
const AT_A_TIME: u32 = 5;

/// Has failed for good.
pub(super) fn is_failing(class: &Class) -> bool {
    matches!(class.phase, Phase::Failing | Phase::FailingLong)
}

/// How many of `n` are under replacement for their health at a time, at most.
#[must_use]
pub fn at_a_time(n: u32) -> u32 {
    (n / AT_A_TIME).max(1)
}

/// Those that are under replacement now: they do not count any more towards the `n` that are wanted. Those that have
/// waited for long come first, then the elder, so that it is the same ones at each look.
pub(super) fn under_replacement<'r>(roster: &'r Roster<'_>, n: u32) -> Vec<Pick<'r>> {
    let mut failing: Vec<Pick<'_>> = roster.each(is_failing).collect();
    failing.sort_by_key(|pick| (pick.class.phase != Phase::FailingLong, pick.aged));
    failing.truncate(at_a_time(n) as usize);
    failing
}

/// How many more may end for their health without a replacement beside them. A gap that one of them left counts until it is
/// filled, or nobody can say any more that it did: its replacement may wait for back-off or for offers.
fn room(roster: &Roster<'_>, n: u32, under_way: u32) -> u32 {
    let gap = if roster.gap_is_of_sick {
        n.saturating_sub(roster.count(is_active))
    } else {
        0
    };
    at_a_time(n).saturating_sub(under_way + gap)
}

/// Those of `replaced` that may end now.
pub(super) fn done_with<'r>(roster: &Roster<'_>, replaced: &[Pick<'r>], n: u32) -> Vec<Pick<'r>> {
    let is_on_its_way = |class: &Class| matches!(class.phase, Phase::Launching | Phase::Unhealthy);
    let not_there_yet = roster.count(is_on_its_way);
    let beyond = roster.count(is_active).saturating_sub(n);
    let over = beyond.saturating_sub(not_there_yet) as usize;
    if over > 0 && !replaced.is_empty() {
        return replaced.iter().take(over).copied().collect();
    }
    let leaving = roster.count(|class| class.phase == Phase::Leaving);
    let room = room(roster, n, not_there_yet + leaving);
    let waited = replaced
        .iter()
        .filter(|pick| pick.class.phase == Phase::FailingLong);
    waited.take(room as usize).copied().collect()
}

/// While an update rolls, those of the new that fail for good make room for another try.
pub(super) fn end_new(roster: &Roster<'_>, kills: &mut Kills) {
    kills.extend(roster.each(|class| class.current && is_failing(class)));
}

/// While an update rolls, those of the old that have waited for so long make room for the new, as many at a time as ever.
/// Not in a trial: that has just as many of the new as it is to have.
pub(super) fn end_old(roster: &Roster<'_>, n: u32, kills: &mut Kills) {
    let under_way = roster.count(|class| matches!(class.phase, Phase::Leaving | Phase::Launching));
    let room = room(roster, n, under_way);
    let waited = roster.each(|class| !class.current && class.phase == Phase::FailingLong);
    kills.extend(waited.take(room as usize));
}
