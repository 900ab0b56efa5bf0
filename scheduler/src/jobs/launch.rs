//! Launches runs from offers that are shared with the apps.
//!
//! Pure. A run's task is in the state, and so durable, in the same turn whose calls launch it.

use mezzo_api::model::{Offer, Pools, Resources, RoleName, TaskInfo};

use super::core::JobCore;
use super::name::JobName;
use super::state::{Launch, Phase};
use super::task::task_info;
use crate::app::role::named;
use crate::core::Ids;
use crate::core::state::Condition;
use crate::place::{Ask, Site, Tally};
use crate::why::lacks_text;

/// Launched on one offer in one turn.
const MAX_PER_OFFER: usize = 500;

impl JobCore {
    /// The runs that may be launched now, each with the role of the offers that it waits for.
    pub(crate) fn demand(&self) -> impl Iterator<Item = (&RoleName, &(JobName, u64))> {
        self.waiting.iter().filter_map(|run| {
            let state = self.all.get(&run.0)?;
            Some((state.job.role_or(&self.default_role), run))
        })
    }

    /// Whether a run waits for offers of the role.
    pub(crate) fn waits_in(&self, role: &RoleName) -> bool {
        self.demand().any(|(of, _)| of == role)
    }

    /// Since when the first in line for offers of the role waits; those of high priority wait since ever.
    pub(crate) fn waits_since(&self, role: &RoleName) -> Option<u64> {
        self.queue(role).first().map(|(since, ..)| *since)
    }

    /// Puts as many waiting runs as fit on what is left of the offers, which are of the role, in the order in which they
    /// wait. Gives the tasks for each offer, and takes what they need from `left`.
    pub(crate) fn place(
        &mut self,
        role: &RoleName,
        offers: &[Offer],
        left: &mut [Pools],
        salt: u64,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Vec<Vec<TaskInfo>> {
        let mut tasks: Vec<Vec<TaskInfo>> = vec![Vec::new(); offers.len()];
        let n_offers = offers.len().max(1);
        let mut turn = usize::try_from(salt).unwrap_or(0) % n_offers;
        for (_, name, number) in self.queue(role) {
            let Some(job) = self
                .all
                .get(&name)
                .map(|state| std::sync::Arc::clone(&state.job))
            else {
                continue;
            };
            let resources = job.resources();
            let ask = Ask {
                scalars: resources.clone(),
                ports: Vec::new(),
                revocable: false,
            };
            // No run counts for another.
            let nobody = Tally::new(&job.constraints, []);
            let mut whys = Vec::new();
            // Round the machines, so that they share the work.
            let found = (0..offers.len())
                .map(|i| (turn + i) % n_offers)
                // What is lent may be taken back: no job asked for that.
                .filter(|&i| !offers[i].revocable)
                .find(|&i| {
                    let mut lacks = ask.lacks_of(job.accepts, &left[i], role);
                    let site = Site::from(&offers[i]).values(&job.constraints);
                    lacks.extend(nobody.refuses(&job.constraints, &site, 1));
                    if !lacks.is_empty() {
                        whys.push(format!("{} ({})", offers[i].hostname, lacks_text(&lacks)));
                    }
                    lacks.is_empty() && tasks[i].len() < MAX_PER_OFFER
                });
            let taken = found.and_then(|i| Some((i, job.accepts.take(&mut left[i], &resources)?)));
            let Some((at, reserved)) = taken else {
                whys.truncate(5);
                self.note_refusal(&name, number, whys.join("; "));
                continue;
            };
            turn = (at + 1) % n_offers;
            let reserved = named(reserved, &offers[at]);
            let task = self.launch(&name, number, &offers[at], resources, now, ids);
            tasks[at].extend(task.map(|task| TaskInfo { reserved, ..task }));
        }
        tasks
    }

    /// Those that wait for offers of the role, first come first served.
    fn queue(&self, role: &RoleName) -> Vec<(u64, JobName, u64)> {
        let mut queue: Vec<(u64, JobName, u64)> = self
            .demand()
            .filter(|(of, _)| *of == role)
            .filter_map(|(_, (name, number))| {
                let state = self.all.get(name)?;
                let Phase::Waiting { since } = state.runs.get(number)?.phase else {
                    return None;
                };
                let since = if state.job.high_priority { 0 } else { since };
                Some((since, name.clone(), *number))
            })
            .collect();
        queue.sort();
        queue
    }

    fn launch(
        &mut self,
        name: &JobName,
        number: u64,
        offer: &Offer,
        resources: Resources,
        now: u64,
        ids: &mut dyn Ids,
    ) -> Option<TaskInfo> {
        let job = std::sync::Arc::clone(&self.all.get(name)?.job);
        let run = self.run_mut(name, number)?;
        let task_id = name.task_id(run.due, run.attempt, ids.unique());
        let info = task_info(
            &job,
            run,
            &task_id,
            (&offer.agent_id, &offer.hostname),
            resources,
        );
        run.waits_because.clear();
        run.phase = Phase::Active(Launch {
            task_id: task_id.clone(),
            agent_id: offer.agent_id.clone(),
            hostname: offer.hostname.clone(),
            launched_at: now,
            started_at: None,
            condition: Condition::Provisioned,
            verdict: None,
            progress_at: now,
            message: String::new(),
        });
        self.tasks.insert(task_id, (name.clone(), number));
        self.waiting.remove(&(name.clone(), number));
        Some(info)
    }

    /// For people, and in memory only: nothing is written for it.
    fn note_refusal(&mut self, name: &JobName, number: u64, why: String) {
        if self
            .run(name, number)
            .is_none_or(|run| run.waits_because == why)
        {
            return;
        }
        let state = std::sync::Arc::make_mut(&mut self.all).get_mut(name);
        let run = state.and_then(|state| std::sync::Arc::make_mut(state).runs.get_mut(&number));
        if let Some(run) = run {
            std::sync::Arc::make_mut(run).waits_because = why;
            self.changed = true;
        }
    }
}
