//! Turns offers into tasks, and asks for offers exactly while something waits for them.
//!
//! Pure. An instance is in the state, and so durable, in the same turn whose calls launch it.

use std::sync::Arc;

use mezzo_api::model::{Offer, Resources, Stack, TaskInfo};

use super::jobs::{JobsShare, take_placed};
use super::members::members;
use super::state::{AppState, Condition, Instance, Refusal};
use super::{Call, Core, Demand, Ids, Purpose};
use crate::app::AppId;
use crate::app::spec::Placing;
use crate::place::lack::REASONS;
use crate::place::{Ask, Need, Plan, Site, Tally, place};
use crate::resident::Holding;
use crate::task::pod::task_infos;
use crate::task::task_info;

/// Launched by one call at most, so that the message stays below gRPC's limit.
pub(super) const MAX_TASKS_PER_ACCEPT: usize = 1000;
/// Refusals kept per app.
const MAX_REFUSALS: usize = 20;
/// Between two questions for what the machines have, while something waits.
const SURVEY_INTERVAL_MS: u64 = 10_000;
/// The same while nothing does.
const SURVEY_IDLE_MS: u64 = 60_000;
/// So long something waits before the first of them.
const SURVEY_AFTER_MS: u64 = 1000;

/// What an instance gets of an offer.
pub(super) struct Given {
    pub(super) ports: Vec<u16>,
    /// With the ports, without persistent volumes.
    pub(super) resources: Resources,
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
        let role = &self.settings.resident_role;
        let (residents, offers): (Vec<Offer>, Vec<Offer>) =
            offers.into_iter().partition(|offer| offer.role == *role);
        self.use_resident_offers(residents, now, ids);
        if offers.is_empty() {
            return;
        }
        let needs = self.needs(&offers, now);
        // Whose first has waited longer goes first; the other takes from what is left.
        let jobs_first = self.jobs_wait_longer(&needs);
        let mut jobs = JobsShare::default();
        let mut offers = offers;
        if jobs_first {
            jobs = self.place_jobs(&mut offers, now, ids);
        }
        let mut plan = place(&offers, &needs, self.salt);
        let mut per_offer = vec![0usize; offers.len()];
        plan.placements.retain(|placement| {
            per_offer[placement.offer] += needs[placement.need].n_tasks;
            per_offer[placement.offer] <= MAX_TASKS_PER_ACCEPT
        });
        let mut tasks: Vec<Vec<TaskInfo>> = vec![Vec::new(); offers.len()];
        for placement in &plan.placements {
            let offer = &offers[placement.offer];
            let app = &needs[placement.need].app;
            let given = Given {
                ports: placement.ports.clone(),
                resources: placement.resources.clone(),
                holding: None,
            };
            tasks[placement.offer].extend(self.provision(app, offer, given, now, ids));
        }
        self.note_refusals(&offers, &needs, &plan, now);
        let placed = plan.placements.len();
        let wanted: u64 = needs.iter().map(|need| u64::from(need.count)).sum();
        if !jobs_first {
            take_placed(&mut offers, &plan);
            jobs = self.place_jobs(&mut offers, now, ids);
        }
        let unplaced = wanted.saturating_sub(placed as u64) + self.jobs.demand().len() as u64;
        for (tasks, more) in tasks.iter_mut().zip(jobs.tasks) {
            tasks.extend(more);
        }
        let refuse = self.settings.refuse;
        // The rest of a used offer comes back soon while anything still waits.
        let refuse_rest = if unplaced > 0 {
            std::time::Duration::ZERO
        } else {
            refuse
        };
        let mut unused = Vec::new();
        for (offer, tasks) in offers.into_iter().zip(tasks) {
            if tasks.is_empty() {
                unused.push(offer.offer_id);
                continue;
            }
            self.state.counters.offers_used += 1;
            self.calls.push(Call::Accept {
                offer: offer.offer_id,
                changes: Vec::new(),
                tasks,
                refuse: refuse_rest,
            });
        }
        if !unused.is_empty() {
            self.calls.push(Call::Decline {
                offers: unused,
                refuse,
            });
        }
    }

    /// The apps with instances that wait and may be launched now, longest waiting first.
    pub(super) fn hungry(&self, now: u64, purpose: Purpose) -> Vec<(AppId, Arc<AppState>, u32)> {
        let mut hungry: Vec<(u64, &AppId, &Arc<AppState>, u32)> = self
            .waiting
            .iter()
            .filter_map(|id| {
                let app = self.state.apps.get(id)?;
                let queue = app.queue.as_ref()?;
                let resident = app.active().app.residency.is_some();
                let asked = resident == (purpose == Purpose::Residents);
                (asked && app.backoff.left_ms(now) == 0).then_some((
                    queue.since,
                    id,
                    app,
                    queue.count,
                ))
            })
            .collect();
        hungry.sort_by_key(|(since, ..)| *since);
        hungry
            .into_iter()
            .map(|(_, id, app, count)| (id.clone(), Arc::clone(app), count))
            .collect()
    }

    /// What they need, seen from these offers.
    fn needs(&self, offers: &[Offer], now: u64) -> Vec<Need> {
        self.hungry(now, Purpose::Tasks)
            .into_iter()
            .map(|(id, app, count)| {
                let spec = &app.active().app;
                let placing = spec.placing;
                Need {
                    count,
                    n_tasks: spec.n_tasks(),
                    ask: Ask::of(spec),
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
            agent_id: offer.agent_id.clone(),
            hostname: offer.hostname.clone(),
            place: Site::from(offer).values(&version.app.constraints),
            ports: given.ports.clone(),
            holding: given.holding.as_ref().map(|(holding, _)| holding.id),
            addresses: Vec::new(),
            checked: version.app.health_check.is_some()
                || members.iter().any(|member| member.checked),
            staged_at: now,
            started_at: None,
            condition: Condition::Provisioned,
            healthy: None,
            patience_ms: version.app.health_patience_ms(),
            unhealthy_since: None,
            awaits_readiness: version.app.readiness_check.is_some(),
            readiness: None,
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
            return task_infos(&version, pod, &task_id, offer, &given.ports, holding);
        }
        let mut task = task_info(&version, &task_id, offer, &given.ports, given.resources);
        if let Some((holding, stack)) = &given.holding {
            task.reserved.push(holding.pool(stack));
            task.container.volumes.extend(holding.mounts(&version.app));
        }
        vec![task]
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

    /// Revives as soon as more is wanted than before, suppresses when nothing is.
    pub(super) fn ask_for_offers(&mut self, now: u64) {
        let demand = self.demand_for(now, Purpose::Tasks);
        let residents = self.demand_for(now, Purpose::Residents);
        let releases = self.to_give_back();
        let jobs = self.jobs.demand().clone();
        let grew = has_grown(&self.demand, &demand) || !jobs.is_subset(&self.job_demand);
        let residents_grew = has_grown(&self.resident_demand, &residents)
            || !releases.is_subset(&self.release_demand);
        let waited = !self.demand.is_empty()
            || !self.job_demand.is_empty()
            || !self.resident_demand.is_empty();
        let waits = !demand.is_empty() || !jobs.is_empty();
        let residents_wait = !residents.is_empty() || !releases.is_empty();
        let any_waits = waits || !residents.is_empty();
        if !waited && any_waits {
            self.survey_at = self.survey_at.min(now.saturating_add(SURVEY_AFTER_MS));
        }
        if self.state.connected {
            let mut ask = |purpose, grew: bool, waits: bool, suppressed: bool| {
                if grew || (suppressed && waits) {
                    self.calls.push(Call::Revive(purpose));
                } else if !waits && !suppressed {
                    self.calls.push(Call::Suppress(purpose));
                }
            };
            ask(Purpose::Tasks, grew, waits, self.suppressed);
            let suppressed = self.residents_suppressed;
            ask(
                Purpose::Residents,
                residents_grew,
                residents_wait,
                suppressed,
            );
            if now >= self.survey_at {
                let busy = any_waits || !self.state.releasing.is_empty();
                self.survey_at = now.saturating_add(if busy {
                    SURVEY_INTERVAL_MS
                } else {
                    SURVEY_IDLE_MS
                });
                self.calls.push(Call::Survey);
            }
        }
        self.suppressed = !waits;
        self.residents_suppressed = !residents_wait;
        self.demand = demand;
        self.resident_demand = residents;
        self.release_demand = releases;
        self.job_demand = jobs;
    }

    /// The same number of another configuration may fit where the former did not.
    fn demand_for(&self, now: u64, purpose: Purpose) -> Demand {
        self.hungry(now, purpose)
            .into_iter()
            .map(|(id, app, count)| (id, (count, app.active().config)))
            .collect()
    }
}

fn has_grown(before: &Demand, demand: &Demand) -> bool {
    demand.iter().any(|(app, (count, config))| {
        before
            .get(app)
            .is_none_or(|(former, of)| count > former || config != of)
    })
}
