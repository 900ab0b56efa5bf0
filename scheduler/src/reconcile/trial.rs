//! A few of the new beside the old: the first part of an update with a canary, or of blue and green.
//!
//! Pure.

use super::victims::victims;
use super::{Bounds, Changes, Member, Phase, bounds, count, failing, is_active, is_there, spared};
use crate::app::spec::{KillSelection, UpgradeStrategy};

/// `tried` of the new beside the old. They come in addition where there is room for that, else old ones go for them; more
/// of them only where the old are too few for `n`.
pub(super) fn trial(
    members: &[Member],
    n: u32,
    tried: u32,
    strategy: UpgradeStrategy,
    selection: KillSelection,
) -> Changes {
    let existing = count(members, is_there);
    let Bounds {
        min_healthy,
        max_capacity,
    } = bounds(n, strategy, existing);
    let old: Vec<&Member> = members
        .iter()
        .filter(|m| !m.current && is_active(m))
        .collect();
    let n_old = u32::try_from(old.len()).unwrap_or(u32::MAX);
    let new_active = count(members, |m| m.current && is_active(m));
    let new_healthy = count(members, |m| m.current && m.phase == Phase::Healthy);
    let healthy = count(members, |m| m.phase == Phase::Healthy);
    let target = tried.max(n.saturating_sub(n_old)).min(n);
    let missing = target.saturating_sub(new_active);
    let room = max_capacity.saturating_sub(existing);
    let launch = missing.min(room);
    // What is ending makes room, too.
    let leaving = count(members, |m| m.phase == Phase::Leaving);
    let budget = missing
        .saturating_sub(room.saturating_add(leaving))
        .min((n_old + new_healthy).saturating_sub(min_healthy))
        .min(n_old.saturating_sub(n.saturating_sub(tried)));
    let mut kill = spared(old, budget, healthy.saturating_sub(min_healthy), selection);
    let new_members = members
        .iter()
        .filter(|m| m.current && is_active(m))
        .collect();
    kill.extend(victims(
        new_members,
        new_active.saturating_sub(n),
        selection,
    ));
    failing::end_new(members, &mut kill);
    let lost = members
        .iter()
        .filter(|m| !m.current && m.phase == Phase::Inactive);
    kill.extend(lost.map(|m| m.id.clone()));
    let reached = kill.is_empty() && missing == 0 && new_healthy >= target;
    let waiting_for = if reached {
        String::new()
    } else {
        format!(
            "{new_healthy} of {target} new instances on trial running and healthy beside {n_old} old (at least \
             {min_healthy} healthy, at most {max_capacity} in all; {existing} exist)"
        )
    };
    Changes {
        launch,
        kill,
        reached,
        waiting_for,
    }
}
