//! Turns offers into tasks.
//!
//! Pure. Offers are of a role, and go to apps and jobs of that role and to nobody else. Which are asked for is in `interest`. An instance is in the state, and so durable, in the same turn whose calls launch it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mezzo_api::model::{Offer, Pool, PoolChange, Pools, Resources, RoleName, Stack, TaskInfo};

use super::health::checks;
use super::members::members;
use super::state::{AppState, Condition, Instance, Refusal};
use super::{Call, Core, Ids};
use crate::app::AppId;
use crate::app::role::Accepts;
use crate::app::spec::Placing;
use crate::place::lack::REASONS;
use crate::place::{Ask, Lack, Need, Plan, Site, Tally, place, room_of};
use crate::resident::Holding;
use crate::task::pod::task_infos;
use crate::task::task_info;

/// Launched by one call at most, so that the message stays below gRPC's limit.
pub(super) const MAX_TASKS_PER_ACCEPT: usize = 1000;
/// Refusals kept per app.
const MAX_REFUSALS: usize = 20;
/// The same of offers in roles that it does not wait for.
const MAX_OTHERS: usize = 5;

/// What is done with one offer.
#[derive(Debug, Clone, Default)]
pub(super) struct Use {
    pub(super) changes: Vec<PoolChange>,
    pub(super) tasks: Vec<TaskInfo>,
}

/// Offers of one role on their way through those who want something of them.
pub(super) struct Hands {
    pub(super) offers: Vec<Offer>,
    /// By offer: what nobody took yet.
    pub(super) left: Vec<Pools>,
    pub(super) uses: Vec<Use>,
}

impl Hands {
    fn of(offers: Vec<Offer>) -> Self {
        Self {
            left: offers.iter().map(room_of).collect(),
            uses: vec![Use::default(); offers.len()],
            offers,
        }
    }
}

/// What an instance gets of an offer.
pub(super) struct Given {
    pub(super) ports: Vec<u16>,
    /// With the ports, without persistent volumes.
    pub(super) resources: Resources,
    /// What of them is from which reservation for the role; of a holding's not.
    pub(super) reserved: Vec<Pool>,
    /// Of which holding, by which reservation of the offer.
    pub(super) holding: Option<(Arc<Holding>, Stack)>,
}

impl Core {
    pub(super) fn use_offers(&mut self, now: u64, ids: &mut dyn Ids) {
        let offers = std::mem::take(&mut self.offers);
        if offers.is_empty() || !self.state.connected {
            return;
        }
        self.salt = self.salt.wrapping_add(7);
        let mut by_role: BTreeMap<RoleName, Vec<Offer>> = BTreeMap::new();
        for offer in offers {
            by_role.entry(offer.role.clone()).or_default().push(offer);
        }
        self.note_other_roles(&by_role, now);
        for (role, offers) in by_role {
            let mut hands = Hands::of(offers);
            self.give_back(&mut hands);
            let hungry = self.hungry(now);
            let (residents, others): (Vec<_>, Vec<_>) = hungry
                .into_iter()
                .filter(|(_, app, _)| self.offer_roles(app).contains(&role))
                .partition(|(_, app, _)| app.active().app.residency.is_some());
            let residents_wait = self.launch_residents(&role, residents, &mut hands, now, ids);
            let others_wait = self.launch_others(&role, others, &mut hands, now, ids);
            self.answer(hands, residents_wait || others_wait);
        }
    }

    /// Launches what keeps nothing on these offers of its role. Whether something still waits.
    fn launch_others(
        &mut self,
        role: &RoleName,
        hungry: Vec<(AppId, Arc<AppState>, u32)>,
        hands: &mut Hands,
        now: u64,
        ids: &mut dyn Ids,
    ) -> bool {
        let needs = self.needs(hungry, &hands.offers);
        // Whose first has waited longer goes first; the other takes from what is left.
        let jobs_first = self.jobs_wait_longer(role, &needs);
        if jobs_first {
            self.place_jobs(role, hands, now, ids);
        }
        let mut plan = place(&hands.offers, &mut hands.left, &needs, self.salt);
        let mut per_offer: Vec<usize> = hands.uses.iter().map(|using| using.tasks.len()).collect();
        plan.placements.retain(|placement| {
            per_offer[placement.offer] += needs[placement.need].n_tasks;
            per_offer[placement.offer] <= MAX_TASKS_PER_ACCEPT
        });
        for placement in &plan.placements {
            let app = &needs[placement.need].app;
            let given = Given {
                ports: placement.ports.clone(),
                resources: placement.resources.clone(),
                reserved: placement.reserved.clone(),
                holding: None,
            };
            let offer = &hands.offers[placement.offer];
            let tasks = self.provision(app, offer, given, now, ids);
            hands.uses[placement.offer].tasks.extend(tasks);
        }
        self.note_refusals(&hands.offers, &needs, &plan, now);
        if !jobs_first {
            self.place_jobs(role, hands, now, ids);
        }
        let wanted: u64 = needs.iter().map(|need| u64::from(need.count)).sum();
        wanted > plan.placements.len() as u64 || self.jobs.waits_in(role)
    }

    /// Uses what is to be used, and gives back the rest; soon again where it is used and something still waits.
    fn answer(&mut self, hands: Hands, waits: bool) {
        let refuse = self.settings.refuse;
        let mut unused = Vec::new();
        for (offer, using) in hands.offers.into_iter().zip(hands.uses) {
            if using.changes.is_empty() && using.tasks.is_empty() {
                unused.push(offer.offer_id);
                continue;
            }
            self.state.counters.offers_used += 1;
            // What only gives back is not repeated at once if an agent does not take it.
            let again_soon = waits && !using.tasks.is_empty();
            self.calls.push(Call::Accept {
                offer: offer.offer_id,
                changes: using.changes,
                tasks: using.tasks,
                refuse: match again_soon {
                    true => std::time::Duration::ZERO,
                    false => refuse,
                },
            });
        }
        if !unused.is_empty() {
            self.calls.push(Call::Decline {
                offers: unused,
                refuse,
            });
        }
    }

    /// What they need, seen from these offers.
    fn needs(&self, hungry: Vec<(AppId, Arc<AppState>, u32)>, offers: &[Offer]) -> Vec<Need> {
        hungry
            .into_iter()
            .map(|(id, app, count)| {
                let spec = &app.active().app;
                let placing = spec.placing;
                Need {
                    count,
                    n_tasks: spec.n_tasks(),
                    ask: Ask::of(spec),
                    accepts: spec.accepts,
                    constraints: spec.constraints.clone(),
                    tally: self.tally(&id, &app),
                    wanted: spec.instances,
                    placing,
                    there: match placing {
                        Placing::Spread => self.there(&id, offers),
                        Placing::BestFit => Vec::new(),
                    },
                    app: id,
                }
            })
            .collect()
    }

    /// [`AppState::tally`], without going through all instances where they are counted.
    pub(super) fn tally(&self, id: &AppId, app: &AppState) -> Tally {
        match self.books.get(id) {
            Some(books) => books.tally().clone(),
            None => app.tally(),
        }
    }

    /// How many instances of the app each offer's machine has.
    fn there(&self, id: &AppId, offers: &[Offer]) -> Vec<u32> {
        let books = self.books.get(id);
        let count = |offer: &Offer| books.map_or(0, |books| books.on(&offer.agent_id));
        offers.iter().map(count).collect()
    }

    /// The tasks of a new instance: one, or of a pod one per container.
    pub(super) fn provision(
        &mut self,
        id: &AppId,
        offer: &Offer,
        given: Given,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Vec<TaskInfo> {
        let Some(app) = self.state.apps.get(id) else {
            return Vec::new();
        };
        let version = Arc::clone(app.active());
        let pod = version.app.pod.as_deref();
        let task_id = match pod {
            None => id.task_id(ids.unique()),
            Some(_) => id.instance_id(ids.unique()),
        };
        let members = pod.map_or_else(Vec::new, |pod| members(&version.app, pod, &task_id, now));
        let instance = Instance {
            task_id: task_id.clone(),
            app: id.clone(),
            version: version.version,
            config: version.config,
            role: offer.role.clone(),
            agent_id: offer.agent_id.clone(),
            hostname: offer.hostname.clone(),
            place: Site::from(offer).values(&version.app.constraints),
            ports: given.ports.clone(),
            holding: given.holding.as_ref().map(|(holding, _)| holding.id),
            addresses: Vec::new(),
            checked: !version.app.health_checks.is_empty()
                || members.iter().any(|member| member.checked),
            staged_at: now,
            started_at: None,
            condition: Condition::Provisioned,
            healthy: None,
            patience_ms: version.app.most_patience_ms(),
            unhealthy_since: None,
            checks: checks(&version.app),
            awaits_readiness: version.app.readiness_check.is_some(),
            readiness: None,
            check_result: None,
            sentence: None,
            late: false,
            progress_at: now,
            message: String::new(),
            members,
        };
        let instance = Arc::new(instance);
        self.put_instance(id, Arc::clone(&instance));
        for task in instance.names() {
            self.tasks.insert(task.clone(), id.clone());
        }
        self.state.counters.launched += instance.live_tasks().count() as u64;
        self.tell_launched(instance);
        if let Some(pod) = pod {
            let holding = given.holding.as_ref();
            let holding = holding.map(|(holding, stack)| (&**holding, stack));
            let mut tasks = task_infos(&version, pod, &task_id, offer, &given.ports, holding);
            share_out(&given.resources, &given.reserved, &mut tasks);
            return tasks;
        }
        let mut task = task_info(&version, &task_id, offer, &given.ports, given.resources);
        task.reserved = given.reserved;
        if let Some((holding, stack)) = &given.holding {
            task.reserved.push(holding.pool(stack));
            task.container.volumes.extend(holding.mounts(&version.app));
        }
        vec![task]
    }

    /// Offers that came in other roles than those that an app waits for, told as long as nothing weightier is known of the
    /// machine.
    fn note_other_roles(&mut self, offers: &BTreeMap<RoleName, Vec<Offer>>, now: u64) {
        for (id, app, _) in self.hungry(now) {
            let Some(queue) = &app.queue else { continue };
            let roles = self.offer_roles(&app);
            let is_known = |offer: &Offer| {
                let mut known = queue.refusals.iter().map(|known| &known.offer.agent_id);
                known.any(|agent| *agent == offer.agent_id)
            };
            let others = offers.iter().filter(|(role, _)| !roles.contains(role));
            let own = self.launch_role(&app.active().app);
            let new: Vec<Refusal> = others
                .flat_map(|(role, offers)| offers.iter().map(move |offer| (role, offer)))
                .filter(|(_, offer)| !is_known(offer))
                .take(MAX_OTHERS.saturating_sub(queue.refusals.len()))
                .map(|(role, offer)| Refusal {
                    at: now,
                    offer: offer.clone(),
                    lacks: vec![Lack::other_role(role, own)],
                })
                .collect();
            if new.is_empty() {
                continue;
            }
            if let Some(queue) = self.app_mut(&id).and_then(|app| app.queue.as_mut()) {
                queue.offers_seen += new.len() as u64;
                let reason = new[0].lacks[0].marathon_reason();
                *queue.rejected.entry(reason).or_default() += new.len() as u64;
                queue.refusals.extend(new);
            }
        }
    }

    pub(super) fn note_refusals(
        &mut self,
        offers: &[Offer],
        needs: &[Need],
        plan: &Plan,
        now: u64,
    ) {
        for (index, need) in needs.iter().enumerate() {
            let refused: Vec<Refusal> = plan
                .refused
                .iter()
                .filter(|refused| refused.need == index)
                .map(|refused| Refusal {
                    at: now,
                    offer: offers[refused.offer].clone(),
                    lacks: refused.lacks.clone(),
                })
                .collect();
            let Some(app) = self.app_mut(&need.app) else {
                continue;
            };
            let Some(queue) = &mut app.queue else {
                continue;
            };
            queue.offers_seen += offers.len() as u64;
            for refusal in refused {
                if let Some(first) = REASONS.iter().find(|reason| refusal.has(reason)) {
                    *queue.rejected.entry(first).or_default() += 1;
                }
                queue
                    .refusals
                    .retain(|known| known.offer.agent_id != refusal.offer.agent_id);
                queue.refusals.push(refusal);
            }
            let excess = queue.refusals.len().saturating_sub(MAX_REFUSALS);
            queue.refusals.drain(..excess);
        }
    }
}

/// Divides what an instance takes of reservations among its tasks.
fn share_out(total: &Resources, reserved: &[Pool], tasks: &mut [TaskInfo]) {
    let Some(first) = reserved.first() else {
        return;
    };
    let nothing = Pool {
        stack: first.stack.clone(),
        resources: Resources::new(),
    };
    let mut left = Pools::divided(total, reserved, &[]).unwrap_or_default();
    for task in tasks {
        let taken = Accepts::Both.take(&mut left, &task.resources);
        task.reserved = taken.unwrap_or_default();
        if task.reserved.is_empty() {
            task.reserved.push(nothing.clone());
        }
    }
}
