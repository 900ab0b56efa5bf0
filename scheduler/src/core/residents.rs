//! Apps and pods with persistent volumes: launches on what instances keep, makes it where there is none yet, gives back what nobody wants
//! any more.
//!
//! Pure. What is kept is reserved for the role of its app (of one with the role `*`, for which nothing can be reserved, for the
//! scheduler's role for residents), and offered to that role alone. What a machine keeps is looked at as it
//! is, in offers and in what the master says of its agents, never as it should be after some call: so it makes no difference
//! which call was lost. A holding is durable before it is asked for, and forgotten only when the master, asked after that,
//! no longer knows of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use mezzo_api::model::{Offer, RoleName, TaskInfo};

use super::launch::{Given, Hands, MAX_TASKS_PER_ACCEPT};
use super::record::Key;
use super::state::AppState;
use super::{Core, Ids};
use crate::app::AppId;
use crate::app::role::Accepts;
use crate::place::{Ask, Need, Plan, Refused, Tally, place};
use crate::resident::{Holding, HoldingId, Stage, giving_back, ranges, relaunch};

impl Core {
    /// Launches residents on these offers of their role. Whether some still wait.
    pub(super) fn launch_residents(
        &mut self,
        role: &RoleName,
        hungry: Vec<(AppId, Arc<AppState>, u32)>,
        hands: &mut Hands,
        now: u64,
        ids: &mut dyn Ids,
    ) -> bool {
        let mut needs = Vec::new();
        let mut refused = Vec::new();
        let mut wanted = 0;
        for (id, app, count) in hungry {
            let Need { ask, .. } = &need_of(&id, &app, count, Tally::default());
            let free = app.free_holdings();
            let free: Vec<&Holding> = free
                .iter()
                .map(|one| &**one)
                .filter(|one| one.stack.role() == role)
                .collect();
            let (offers, left) = (&hands.offers, &mut hands.left);
            let (placed, lacking) = relaunch(&free, count as usize, ask, offers, left, self.salt);
            let missing = count.saturating_sub(u32::try_from(placed.len()).unwrap_or(u32::MAX));
            wanted += missing;
            let lacking = lacking.into_iter().filter(|_| missing > 0);
            refused.extend(lacking.map(|(offer, lacks)| Refused {
                need: needs.len(),
                offer,
                lacks,
            }));
            for one in placed {
                let offer = &hands.offers[one.offer];
                let tasks = self.resume(&id, one.holding, offer, &one.stack, one.ports, now, ids);
                hands.uses[one.offer].tasks.extend(tasks);
            }
            // What it keeps anew is kept for its role of now.
            let is_own = self.launch_role(&app.active().app) == role;
            let count = if is_own {
                missing.min(app.may_make(now))
            } else {
                0
            };
            needs.push(need_of(&id, &app, count, self.tally(&id, &app)));
        }
        let mut plan = self.place_new(role, hands, &needs, now, ids);
        wanted = wanted.saturating_sub(u32::try_from(plan.placements.len()).unwrap_or(u32::MAX));
        plan.refused.extend(refused);
        self.note_refusals(&hands.offers, &needs, &plan, now);
        wanted > 0
    }

    /// The tasks of an instance on what one before it kept.
    #[expect(clippy::too_many_arguments, reason = "all of it is one placement")]
    fn resume(
        &mut self,
        id: &AppId,
        holding: HoldingId,
        offer: &Offer,
        stack: &mezzo_api::model::Stack,
        ports: Vec<u16>,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Vec<TaskInfo> {
        let app = self.app_mut(id);
        let Some(kept) = app.and_then(|app| app.holdings.get_mut(&holding)) else {
            return Vec::new();
        };
        Arc::make_mut(kept).used_at = now;
        let kept = Arc::clone(kept);
        self.dirty.insert(Key::Holding(id.clone(), holding));
        let given = Given {
            resources: kept.resources.clone().with_ranges("ports", ranges(&ports)),
            reserved: Vec::new(),
            ports,
            holding: Some((kept, stack.clone())),
        };
        self.provision(id, offer, given, now, ids)
    }

    /// Makes new holdings of what offers have open, and launches on them.
    fn place_new(
        &mut self,
        role: &RoleName,
        hands: &mut Hands,
        needs: &[Need],
        now: u64,
        ids: &mut dyn Ids,
    ) -> Plan {
        let mut plan = place(&hands.offers, &mut hands.left, needs, self.salt);
        plan.placements.retain(|placement| {
            let using = &mut hands.uses[placement.offer];
            if using.tasks.len() + needs[placement.need].n_tasks > MAX_TASKS_PER_ACCEPT {
                return false;
            }
            let offer = &hands.offers[placement.offer];
            let id = &needs[placement.need].app;
            let holding = HoldingId(ids.unique());
            let Some(app) = self.app_mut(id) else {
                return false;
            };
            let Some(new) = Holding::new(holding, &app.active().app, role, offer, now) else {
                return false;
            };
            let new = Arc::new(new);
            app.holdings.insert(holding, Arc::clone(&new));
            self.dirty.insert(Key::Holding(id.clone(), holding));
            using.changes.extend(new.making());
            let stack = new.stack.clone();
            let given = Given {
                resources: new
                    .resources
                    .clone()
                    .with_ranges("ports", ranges(&placement.ports)),
                reserved: Vec::new(),
                ports: placement.ports.clone(),
                holding: Some((new, stack)),
            };
            using
                .tasks
                .extend(self.provision(id, offer, given, now, ids));
            true
        });
        plan
    }

    /// Gives back what is not wanted any more of what these offers have.
    pub(super) fn give_back(&self, hands: &mut Hands) {
        for holding in self.state.releasing.values() {
            for (offer, using) in hands.offers.iter().zip(&mut hands.uses) {
                if offer.agent_id == holding.agent_id {
                    using.changes.extend(giving_back(holding.id, offer));
                }
            }
        }
    }

    /// Takes out of an app what no task uses and nobody wants: wiped, or never begun on.
    pub(super) fn settle_holdings(&mut self, id: &AppId) {
        let Some(app) = self.state.apps.get(id) else {
            return;
        };
        if app.holdings.values().all(|one| one.stage == Stage::Kept) {
            return;
        }
        let used = app.used_holdings();
        let over: Vec<HoldingId> = app
            .holdings
            .values()
            .filter(|one| one.stage != Stage::Kept && !used.contains(&one.id))
            .map(|one| one.id)
            .collect();
        self.release(id, over);
    }

    /// From here on these are given back.
    pub(super) fn release(&mut self, id: &AppId, holdings: Vec<HoldingId>) {
        for holding in holdings {
            let Some(app) = self.state.apps.get_mut(id) else {
                return;
            };
            if let Some(mut one) = Arc::make_mut(app).holdings.remove(&holding) {
                Arc::make_mut(&mut one).stage = Stage::Wiped;
                self.state.releasing.insert(holding, one);
                self.dirty.insert(Key::Holding(id.clone(), holding));
                self.changed = true;
                // What the master knows of its machine is older than this.
                self.survey_at = 0;
            }
        }
    }

    /// Marks what goes when its task has ended.
    pub(super) fn wipe(&mut self, id: &AppId, holdings: BTreeSet<HoldingId>) {
        let Some(app) = self.app_mut(id) else {
            return;
        };
        let mut wiped = Vec::new();
        for holding in holdings {
            if let Some(one) = app.holdings.get_mut(&holding)
                && one.stage != Stage::Wiped
            {
                Arc::make_mut(one).stage = Stage::Wiped;
                wiped.push(Key::Holding(id.clone(), holding));
            }
        }
        self.dirty.extend(wiped);
    }

    /// A task has begun on it: it may have data.
    pub(super) fn keep(&mut self, id: &AppId, holding: HoldingId) {
        let Some(app) = self.state.apps.get_mut(id) else {
            return;
        };
        if !app
            .holdings
            .get(&holding)
            .is_some_and(|one| one.stage == Stage::New)
        {
            return;
        }
        if let Some(one) = Arc::make_mut(app).holdings.get_mut(&holding) {
            Arc::make_mut(one).stage = Stage::Kept;
            self.dirty.insert(Key::Holding(id.clone(), holding));
        }
    }

    /// Forgets what is given back: its machine is there, and the master knows of nothing there.
    pub(super) fn forget_released(&mut self) {
        let machines = &self.state.machines;
        let gone: Vec<Arc<Holding>> = self
            .state
            .releasing
            .values()
            .filter(|one| {
                let held = machines
                    .get(&one.agent_id)
                    .and_then(|machine| machine.held.as_ref());
                held.is_some_and(|held| !held.contains(&one.id))
            })
            .cloned()
            .collect();
        for one in gone {
            self.state.releasing.remove(&one.id);
            self.dirty.insert(Key::Holding(one.app.clone(), one.id));
            self.changed = true;
        }
    }

    /// What is to be given back and, as far as the master has told, is there.
    pub(super) fn to_give_back(&self) -> impl Iterator<Item = &Arc<Holding>> {
        let there = |one: &&Arc<Holding>| {
            let machine = self.state.machines.get(&one.agent_id);
            let held = machine.and_then(|machine| machine.held.as_ref());
            held.is_some_and(|held| held.contains(&one.id))
        };
        self.state.releasing.values().filter(there)
    }
}

fn need_of(id: &AppId, app: &AppState, count: u32, tally: Tally) -> Need {
    let spec = &app.active().app;
    Need {
        app: id.clone(),
        count,
        n_tasks: spec.n_tasks(),
        ask: Ask::of(spec),
        accepts: Accepts::Unreserved,
        constraints: spec.constraints.clone(),
        tally,
        wanted: spec.instances,
        placing: spec.placing,
        there: Vec::new(),
    }
}
