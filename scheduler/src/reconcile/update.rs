//! Updates: one that rolls, and one that begins with a few of the new beside the old (a canary, or blue and green).
//!
//! Pure. Both see the same members, and end the same ones but for how many of the old.

use std::collections::HashSet;

use super::roster::{Class, Roster};
use super::victims::{spared, victims};
use super::{Bounds, Changes, Kills, Phase, failing, is_active, is_there};
use crate::app::spec::KillSelection;

/// What an update finds.
struct Scene<'r> {
    roster: &'r Roster<'r>,
    n: u32,
    bounds: Bounds,
    selection: KillSelection,
    existing: u32,
    /// Of the old, those that count.
    n_old: u32,
    new_active: u32,
    new_healthy: u32,
    healthy: u32,
    leaving: u32,
    /// As many more may start now.
    room: u32,
}

impl<'r> Scene<'r> {
    fn of(roster: &'r Roster<'r>, n: u32, bounds: Bounds, selection: KillSelection) -> Self {
        let is_healthy = |class: &Class| class.phase == Phase::Healthy;
        let existing = roster.count(is_there);
        Self {
            roster,
            n,
            bounds,
            selection,
            existing,
            n_old: roster.count(|class| !class.current && is_active(class)),
            new_active: roster.count(|class| class.current && is_active(class)),
            new_healthy: roster.count(|class| class.current && is_healthy(class)),
            healthy: roster.count(is_healthy),
            leaving: roster.count(|class| class.phase == Phase::Leaving),
            room: bounds.max_capacity.saturating_sub(existing),
        }
    }

    /// Marathon's budget of old ones that may go.
    fn budget(&self) -> u32 {
        let there = self.n_old + self.new_healthy;
        there
            .saturating_sub(self.bounds.min_healthy)
            .min(self.n_old)
    }

    /// Old ones within `budget`; of the new those beyond what is wanted, and those that fail for good; old ones on lost
    /// machines. Never a healthy one below the minimum, however the others do.
    fn kills(&self, budget: u32) -> Kills {
        let may_go = |kills: &Kills| {
            let left = self.healthy.saturating_sub(kills.healthy);
            left.saturating_sub(self.bounds.min_healthy)
        };
        let mut kills = Kills::default();
        kills.extend(spared(self.roster, budget, may_go(&kills), self.selection));
        // One that came back late is first, but not before those that took its place are healthy.
        let surplus = self.new_active.saturating_sub(self.n);
        let is_new = |class: &Class| class.current;
        let mut healthy_budget = may_go(&kills);
        let mut picks = victims(
            self.roster,
            is_new,
            &HashSet::new(),
            surplus,
            self.selection,
        );
        picks.retain(|pick| {
            let goes = !pick.is_healthy() || healthy_budget > 0;
            healthy_budget -= u32::from(pick.is_healthy() && goes);
            goes
        });
        kills.extend(picks);
        failing::end_new(self.roster, &mut kills);
        let is_lost = |class: &Class| !class.current && class.phase == Phase::Inactive;
        kills.extend(self.roster.each(is_lost));
        kills
    }

    /// For people.
    fn within(&self) -> String {
        let Bounds {
            min_healthy,
            max_capacity,
        } = self.bounds;
        let existing = self.existing;
        format!("(at least {min_healthy} healthy, at most {max_capacity} in all; {existing} exist)")
    }
}

/// The new come and the old go, within bounds.
pub(super) fn restart<'r>(
    roster: &'r Roster<'r>,
    n: u32,
    bounds: Bounds,
    selection: KillSelection,
) -> Changes {
    let scene = Scene::of(roster, n, bounds, selection);
    let mut kills = scene.kills(scene.budget());
    failing::end_old(roster, n, &mut kills);
    let missing = n.saturating_sub(scene.new_active);
    let old_there = roster.count(|class| !class.current && is_there(class));
    let new_healthy = scene.new_healthy;
    let reached = kills.ids.is_empty()
        && missing == 0
        && new_healthy >= n
        && old_there == 0
        && scene.leaving == 0;
    let waiting_for = if reached {
        String::new()
    } else if new_healthy < n {
        format!(
            "{new_healthy} of {n} new instances running and healthy, {old_there} old left {}",
            scene.within()
        )
    } else {
        format!("{old_there} old instance(s) to end")
    };
    Changes {
        launch: missing.min(scene.room),
        kill: kills.ids,
        reached,
        waiting_for,
    }
}

/// `tried` of the new beside the old. They come in addition where there is room for that, else old ones go for them; more
/// of them only where the old are too few for `n`.
pub(super) fn trial<'r>(
    roster: &'r Roster<'r>,
    n: u32,
    tried: u32,
    bounds: Bounds,
    selection: KillSelection,
) -> Changes {
    let scene = Scene::of(roster, n, bounds, selection);
    let (n_old, new_healthy) = (scene.n_old, scene.new_healthy);
    let target = tried.max(n.saturating_sub(n_old)).min(n);
    let missing = target.saturating_sub(scene.new_active);
    // What is ending makes room, too.
    let budget = missing
        .saturating_sub(scene.room.saturating_add(scene.leaving))
        .min(scene.budget())
        .min(n_old.saturating_sub(n.saturating_sub(tried)));
    let kills = scene.kills(budget);
    let reached = kills.ids.is_empty() && missing == 0 && new_healthy >= target;
    let waiting_for = if reached {
        String::new()
    } else {
        format!(
            "{new_healthy} of {target} new instances on trial running and healthy beside {n_old} old {}",
            scene.within()
        )
    };
    Changes {
        launch: missing.min(scene.room),
        kill: kills.ids,
        reached,
        waiting_for,
    }
}
