//! A year of jobs against a simulated cluster: statuses late, repeated and in another order, tasks failing, agents
//! lost, the line broken, the scheduler killed between any two steps and away for days.
//!
//! Shown: each slot of the year ran exactly once (one task of it finished), no task of a slot beside another, none
//! after one that finished; a job that allows no two never had two tasks; a slot that did not run says why; each
//! success of a parent started its child once; in odd seeds jobs have roles, and start on offers of theirs. `MEZZO_SIM_SEEDS=FROM..TO` runs other seeds.

#[path = "../simulation/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{AgentId, RoleName, TaskId, TaskState};
use mezzo_scheduler::core::command::Command;
use mezzo_scheduler::core::record::{Key, decode};
use mezzo_scheduler::core::state::State;
use mezzo_scheduler::core::{Call, Core, Ids, Settings};
use mezzo_scheduler::jobs::command::JobCommand;
use mezzo_scheduler::jobs::parse::Kind;
use mezzo_scheduler::jobs::state::{Outcome, Phase, Run};
use mezzo_scheduler::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;
use world::{Message, Rng, World, framework};

const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

struct Counter(u128);

impl Ids for Counter {
    fn unique(&mut self) -> Uuid {
        self.0 += 1;
        Uuid::from_u128(self.0)
    }
}

fn millis(text: &str) -> u64 {
    text.parse::<Timestamp>().expect("a timestamp").millis()
}

/// Job and due time of a task, as its id says.
fn parts(task: &TaskId) -> (String, u64) {
    let parts: Vec<&str> = task.as_str().split(':').collect();
    (parts[3].to_owned(), parts[1].parse().expect("a time"))
}

struct Sim {
    seed: u64,
    rng: Rng,
    now: u64,
    core: Core,
    disk: BTreeMap<Key, Vec<u8>>,
    world: World,
    ids: Counter,
    wake_at: Option<u64>,
    faults: bool,
    crashes: u32,
    /// Jobs of which no two tasks may live.
    alone: BTreeSet<&'static str>,
    /// How many tasks of each slot finished.
    finished: BTreeMap<(String, u64), u32>,
    /// Each run as it was last made durable.
    runs: BTreeMap<(String, u64), Run>,
}

impl Sim {
    fn new(seed: u64, now: u64, alone: &[&'static str]) -> Self {
        let mut sim = Self {
            seed,
            rng: Rng(seed),
            now,
            core: Core::new(State::default(), Settings::default()),
            disk: BTreeMap::new(),
            world: World::new(2),
            ids: Counter(u128::from(seed) << 64),
            wake_at: None,
            faults: false,
            crashes: 0,
            alone: alone.iter().copied().collect(),
            finished: BTreeMap::new(),
            runs: BTreeMap::new(),
        };
        // A year of them, and nobody looks.
        sim.world.surveys = false;
        sim.connect();
        sim
    }

    fn put(&mut self, body: Value) {
        let mut body = body;
        body["container"] = json!({"image": "x:1"});
        body["cpus"] = json!(0.5);
        body["mem"] = json!(64);
        body["disk"] = json!(0);
        if self.seed % 2 == 1 {
            // One that has reserved resources, one that has none, and everybody's.
            let at = body["name"].as_str().map_or(0, str::len);
            body["role"] = json!(["b", "other", "*"][at % 3]);
        }
        let command = JobCommand::Put {
            name: None,
            body,
            kind: Kind::Any,
            create_only: false,
        };
        self.core
            .command(Command::Job(command), self.now, &mut self.ids)
            .expect("a valid job");
        self.turn();
    }

    /// `kill -9`: memory is gone, the disk is not.
    fn crash(&mut self) {
        self.crashes += 1;
        self.world.disconnect();
        let state = decode(self.disk.clone()).expect("what was committed can be read");
        self.core = Core::new(state, Settings::default());
        self.wake_at = Some(self.now);
    }

    fn maybe_crash(&mut self, one_in: u64) -> bool {
        let crash = self.faults && self.rng.one_in(one_in);
        if crash {
            self.crash();
        }
        crash
    }

    fn turn(&mut self) {
        let effects = self.core.turn(self.now, &mut self.ids);
        if self.maybe_crash(300) {
            return;
        }
        for write in effects.writes {
            if let (Key::JobRun(name, number), Some(value)) = (&write.key, &write.value) {
                let run: Run = serde_json::from_slice(value).expect("a run");
                self.runs.insert((name.to_string(), *number), run);
            }
            match write.value {
                Some(value) => self.disk.insert(write.key, value),
                None => self.disk.remove(&write.key),
            };
        }
        self.wake_at = effects.wake_at;
        for call in effects.calls {
            if self.maybe_crash(300) {
                return;
            }
            if !self.world.connected {
                break;
            }
            if let Call::Accept { offer, tasks, .. } = &call {
                let role = self.world.role_of(offer);
                for task in tasks {
                    self.check_role(&task.task_id, role);
                    self.check_launch(&task.task_id);
                }
            }
            let prompt = self.rng.one_in(2);
            self.world.perform(call, self.now, prompt);
        }
    }

    fn check_role(&self, id: &TaskId, offered: Option<&RoleName>) {
        let (name, _) = parts(id);
        let job = self
            .core
            .state()
            .jobs
            .iter()
            .find(|(of, _)| of.as_str() == name);
        let (_, state) = job.expect("tasks are of jobs");
        let of = state.job.role.as_ref();
        assert!(
            offered.is_none() || offered == of,
            "seed {}: {id} on an offer of {offered:?}, its job has {of:?}",
            self.seed
        );
    }

    fn check_launch(&self, id: &TaskId) {
        let (job, due) = parts(id);
        let seed = self.seed;
        assert_eq!(
            self.finished.get(&(job.clone(), due)),
            None,
            "seed {seed}: {id} after one that finished"
        );
        for (other, task) in self.world.tasks.iter().filter(|(_, task)| task.lives()) {
            let (its_job, its_due) = parts(other);
            let clash = its_job == job && (its_due == due || self.alone.contains(job.as_str()));
            assert!(!clash, "seed {seed}: {id} beside {other}, {:?}", task.state);
        }
    }

    fn check_disk(&self) {
        let durable = decode(self.disk.clone()).expect("what was committed can be read");
        let without_words = |state: &State| {
            let mut jobs = (*state.jobs).clone();
            for job in jobs.values_mut() {
                for run in std::sync::Arc::make_mut(job).runs.values_mut() {
                    std::sync::Arc::make_mut(run).waits_because.clear();
                }
            }
            jobs
        };
        assert_eq!(
            without_words(&durable),
            without_words(self.core.state()),
            "seed {}",
            self.seed
        );
    }

    fn connect(&mut self) {
        if !self.world.connected {
            self.core.disconnected();
            let suppressed = self.core.suppressed_roles();
            self.world.connect(self.core.roles(), &suppressed);
            self.core.subscribed(&framework(), self.now);
            self.turn();
        }
    }

    /// All that is on its way, now and then in another order.
    fn deliver(&mut self) {
        while let Some(message) = self.next_message() {
            match message {
                Message::Offers(offers) => self.core.offered(offers),
                Message::Rescind(offer) => self.core.rescinded(&offer),
                Message::Status(status) => self.core.status(&status, self.now),
                Message::Machines(machines) => self.core.surveyed(machines),
            }
            if self.rng.one_in(3) {
                self.turn();
            }
        }
        self.turn();
    }

    fn next_message(&mut self) -> Option<Message> {
        let task = |message: &Message| match message {
            Message::Status(status) => Some(status.task_id.clone()),
            Message::Offers(_) | Message::Rescind(_) | Message::Machines(_) => None,
        };
        let queue = &mut self.world.to_core;
        // Statuses of one task stay in order; those of different tasks come as they like.
        if queue.len() > 1
            && let (Some(a), Some(b)) = (task(&queue[0]), task(&queue[1]))
            && a != b
            && self.rng.one_in(2)
        {
            queue.swap(0, 1);
        }
        queue.pop_front()
    }

    /// Agents move their tasks on, whoever listens.
    fn progress(&mut self) {
        let live: Vec<TaskId> = self
            .world
            .tasks
            .iter()
            .filter(|(_, task)| task.lives())
            .map(|(id, _)| id.clone())
            .collect();
        for id in live {
            if self.rng.one_in(3) {
                continue;
            }
            let fails = self.faults && self.rng.one_in(12);
            let ends = [
                TaskState::Failed,
                TaskState::Killed,
                TaskState::Error,
                TaskState::Gone,
            ];
            let next = match self.world.tasks[&id].state {
                TaskState::Killing => TaskState::Killed,
                _ if fails => ends[self.rng.below(4) as usize],
                TaskState::Staging => TaskState::Starting,
                TaskState::Running => TaskState::Finished,
                TaskState::Starting
                | TaskState::Finished
                | TaskState::Failed
                | TaskState::Killed
                | TaskState::Error
                | TaskState::Dropped
                | TaskState::Unreachable
                | TaskState::Gone
                | TaskState::Unknown => TaskState::Running,
            };
            self.world.move_task(&id, next);
            if next == TaskState::Finished {
                *self.finished.entry(parts(&id)).or_default() += 1;
            }
            if self.rng.one_in(10) {
                self.world.repeat(&id);
            }
        }
    }

    fn agent(&mut self) -> AgentId {
        let at = self.rng.below(self.world.agents.len() as u64) as usize;
        self.world
            .agents
            .keys()
            .nth(at)
            .cloned()
            .expect("there are agents")
    }

    fn trouble(&mut self) {
        match self.rng.below(100) {
            0 => self.crash(),
            1 => {
                self.world.disconnect();
                self.core.disconnected();
                self.turn();
            }
            2 => {
                self.world.restart_master();
                self.core.disconnected();
                self.turn();
            }
            3 | 4 => {
                let agent = self.agent();
                self.world.lose_agent(&agent);
            }
            5 if self.rng.one_in(6) => {
                // Away for up to two days, while the agents go on.
                self.crash();
                self.now += self.rng.below(2 * DAY);
                for _ in 0..3 {
                    self.progress();
                }
            }
            _ => {}
        }
    }

    /// One round; then time goes on, to the next slot when there is nothing to do.
    fn round(&mut self) {
        if self.faults {
            self.trouble();
        }
        if self.rng.one_in(3) {
            self.connect();
        }
        if self.rng.one_in(4) {
            for agent in self.world.agents.keys().cloned().collect::<Vec<_>>() {
                self.world.return_agent(&agent);
            }
        }
        self.progress();
        self.world.make_offers(self.now);
        self.deliver();
        if self.rng.one_in(400) {
            self.check_disk();
        }
        let busy = !self.world.tasks.is_empty()
            || self
                .core
                .state()
                .jobs
                .values()
                .any(|job| job.under_way().next().is_some());
        let wake = self.wake_at.unwrap_or(self.now + HOUR).max(self.now + 1);
        self.now = if busy {
            wake.min(self.now + 1 + self.rng.below(5000))
        } else {
            wake
        };
    }

    fn run_until(&mut self, end: u64) {
        self.faults = true;
        while self.now < end {
            self.round();
        }
        // Calm: whatever is under way comes to its end, and no slot more is looked at.
        self.faults = false;
        for job in self.core.state().jobs.keys().cloned().collect::<Vec<_>>() {
            let command = JobCommand::Enable {
                name: job,
                enabled: false,
            };
            self.core
                .command(Command::Job(command), self.now, &mut self.ids)
                .expect("there");
        }
        let give_up = self.now + 30 * DAY;
        while self
            .core
            .state()
            .jobs
            .values()
            .any(|job| job.under_way().next().is_some())
        {
            assert!(
                self.now < give_up,
                "seed {}: never ends: {:#?}",
                self.seed,
                self.core.state().jobs
            );
            self.round();
        }
        self.check_disk();
    }

    fn outcome(&self, run: &Run) -> Outcome {
        match &run.phase {
            Phase::Over { outcome, .. } => outcome.clone(),
            other @ (Phase::Waiting { .. } | Phase::Delayed { .. } | Phase::Active(_)) => {
                panic!("seed {}: run {} is {other:?}", self.seed, run.number)
            }
        }
    }

    /// The runs of a job by when they were due; each of those is there once.
    fn by_due(&self, job: &str) -> BTreeMap<u64, &Run> {
        let mut by_due = BTreeMap::new();
        for ((_, number), run) in self.runs.iter().filter(|((name, _), _)| name == job) {
            let before = by_due.insert(run.due, run);
            assert!(
                before.is_none(),
                "seed {}: {job}: {} came twice, as run {number} too",
                self.seed,
                run.due
            );
        }
        by_due
    }

    fn check_each_ran_once(&self, job: &str, slots: &[u64], end: u64) {
        let by_due = self.by_due(job);
        for slot in slots.iter().filter(|slot| **slot < end) {
            let at = Timestamp::from_millis(*slot);
            let run = by_due
                .get(slot)
                .unwrap_or_else(|| panic!("seed {}: {job}: {at} was lost", self.seed));
            assert_eq!(
                self.outcome(run),
                Outcome::Succeeded,
                "seed {}: {job} at {at}",
                self.seed
            );
            let finished = self.finished.get(&(job.to_owned(), *slot));
            assert_eq!(finished, Some(&1), "seed {}: {job} at {at}", self.seed);
        }
        let known: BTreeSet<u64> = slots.iter().copied().collect();
        assert!(
            by_due.keys().all(|due| known.contains(due)),
            "seed {}: {job} ran at no slot",
            self.seed
        );
    }
}

/// 02:30 in Berlin, each day of 2026 and the first of the next, by the rule of the European Union.
fn berlin_half_past_two() -> Vec<u64> {
    let start = millis("2026-01-01T00:00:00.000Z");
    let (spring, autumn) = (
        millis("2026-03-29T00:00:00.000Z"),
        millis("2026-10-25T00:00:00.000Z"),
    );
    (0..400)
        .map(|day| start + day * DAY)
        .map(|day| match day {
            // The clocks go from two to three: at the end of the gap.
            day if day == spring => day + HOUR,
            // Summer; on the day of the change the first of the two.
            day if day > spring && day <= autumn => day + HOUR / 2,
            day => day + HOUR + HOUR / 2,
        })
        .collect()
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("MEZZO_SIM_SEEDS") else {
        return 0..default;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn each_slot_of_a_year_ran_exactly_once_through_restarts() {
    let start = millis("2026-01-01T00:00:00.000Z");
    let end = start + 365 * DAY;
    let mut crashes = 0;
    for seed in seeds(16) {
        let mut sim = Sim::new(seed, start, &["child"]);
        let patient = |body: Value| {
            let mut body = body;
            body["catchUpSeconds"] = json!(7 * 86_400);
            body["retries"] = json!(1000);
            body["retryDelaySeconds"] = json!(30);
            body
        };
        sim.put(patient(json!({
            "name": "nightly", "cron": "30 2 * * *", "scheduleTimeZone": "Europe/Berlin", "concurrencyPolicy": "allow",
        })));
        sim.put(patient(json!({
            "name": "monthly", "schedule": "R/2026-01-31T12:00:00Z/P1M", "concurrencyPolicy": "allow",
        })));
        sim.put(patient(json!({
            "name": "threedays", "schedule": "R50/2026-01-02T00:00:00Z/PT72H", "concurrencyPolicy": "allow",
        })));
        sim.put(patient(json!({"name": "child", "parents": ["monthly"]})));
        sim.run_until(end);

        sim.check_each_ran_once("nightly", &berlin_half_past_two(), sim.now);
        let last_days = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31];
        let months: Vec<u64> = (0..13)
            .map(|i| {
                let (year, month) = (2026 + i / 12, i % 12 + 1);
                millis(&format!("{year}-{month:02}-{:02}T12:00:00Z", last_days[i]))
            })
            .collect();
        sim.check_each_ran_once("monthly", &months, sim.now);
        let threes: Vec<u64> = (0..50).map(|i| start + DAY + i * 3 * DAY).collect();
        sim.check_each_ran_once("threedays", &threes, sim.now);
        let all_done = sim
            .core
            .state()
            .jobs
            .values()
            .find(|job| job.job.name.as_str() == "threedays");
        assert!(all_done.expect("there").job.disabled, "its 50 are over");
        // The child: once per success of its parent, but for what the calm at the end cut off.
        let parent = sim
            .core
            .state()
            .jobs
            .values()
            .find(|job| job.job.name.as_str() == "monthly");
        let successes = parent.expect("there").tally.successes;
        let children = sim.by_due("child").len() as u64;
        assert!(
            children == successes || children + 1 == successes,
            "seed {seed}: {children} of {successes}"
        );
        crashes += sim.crashes;
    }
    assert!(crashes > 0, "the restarts are the point");
}

#[test]
fn a_job_that_allows_no_two_never_had_two_and_says_what_it_skipped() {
    let start = millis("2026-01-01T00:00:00.000Z");
    let mut n_seen = 0;
    for seed in seeds(40) {
        let mut sim = Sim::new(seed, start, &["forbid", "replace"]);
        let often = |name: &str, policy: &str| {
            json!({
                "name": name, "schedule": "R/2026-01-01T00:00:00Z/PT20S", "concurrencyPolicy": policy,
                "catchUpSeconds": 120, "retries": 2, "retryDelaySeconds": 10,
            })
        };
        sim.put(often("forbid", "forbid"));
        sim.put(often("replace", "replace"));
        sim.run_until(start + 3 * HOUR);
        for job in ["forbid", "replace"] {
            let by_due = sim.by_due(job);
            let mut missed_until = 0;
            for (due, run) in &by_due {
                let outcome = sim.outcome(run);
                let finished = sim
                    .finished
                    .get(&(job.to_owned(), *due))
                    .copied()
                    .unwrap_or(0);
                assert!(finished <= 1, "seed {seed}: {job} {due}");
                assert_eq!(
                    finished == 1,
                    outcome == Outcome::Succeeded,
                    "seed {seed}: {job} {due}: {outcome:?}"
                );
                if let Outcome::Missed { until } = outcome {
                    missed_until = until;
                }
                // No slot between this and the next is without a word.
                let next = due + 20_000;
                let is_last = by_due.keys().next_back() == Some(due);
                assert!(
                    is_last || by_due.contains_key(&next) || next <= missed_until,
                    "seed {seed}: {job}: {next} was lost"
                );
                if next <= missed_until {
                    let after = by_due.range(next..).next().map(|(due, _)| *due);
                    let hole = after.is_some_and(|after| after > missed_until + 20_000);
                    assert!(!hole, "seed {seed}: {job}: a hole after {missed_until}");
                }
            }
            n_seen += by_due.len();
        }
    }
    // A scheduler that was away for the whole of it is one case, not all.
    assert!(n_seen > 100, "{n_seen} slots are no test");
}
