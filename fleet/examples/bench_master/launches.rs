//! Launches until they are acknowledged: what every case begins with.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mezzo_framework::{
    Calls, Event, Framework, Room, Task,
    model::{Offer, TaskInfo, TaskState, TaskStatus},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    LOOK, PATIENCE, Size,
    process::{Process, cpu_of, start_master},
};

/// Acknowledgements wait so long for others.
const GATHER: Duration = Duration::from_millis(5);
/// As many go in one message.
const ACKNOWLEDGEMENTS: usize = 500;

/// A master, a fleet on it, and a framework.
pub(super) struct Bench {
    // In this order they end.
    pub(super) framework: Framework,
    pub(super) fleet: Process,
    pub(super) master: Process,
    pub(super) dir: tempfile::TempDir,
    pub(super) address: SocketAddr,
    launched: usize,
    /// Of the master, KiB: alone, and with the agents.
    pss: (f64, f64),
}

/// Processor time of master, fleet and framework.
#[derive(Debug, Clone, Copy)]
struct Cpu([f64; 3]);

impl Cpu {
    fn since(self, earlier: Self) -> Value {
        let spent = |at: usize| ((self.0[at] - earlier.0[at]) * 100.0).round() / 100.0;
        json!({"master": spent(0), "fleet": spent(1), "framework": spent(2)})
    }
}

impl Bench {
    pub(super) fn start(size: &Size, tasks: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (master, address) = start_master(SocketAddr::from(([127, 0, 0, 1], 0)), dir.path())?;
        let alone = master.pss()?;
        // Room for four times its share: no agent needs to be full.
        let share = tasks.div_ceil(size.agents) * 4;
        let words = [
            "fleet".to_owned(),
            address.to_string(),
            size.agents.to_string(),
            format!("cpus:{share};mem:{}", share * 32),
        ];
        let mut fleet = Process::start(&words)?;
        let told = fleet.line()?;
        ensure!(told == "connected", "the fleet said {told:?}");
        let pss = (alone, master.pss()?);
        let framework = Framework::builder("bench")
            .masters([address.to_string()])
            .failover_timeout(Duration::from_secs(600))
            .queue(4096)
            .spawn()?;
        Ok(Self {
            framework,
            fleet,
            master,
            dir,
            address,
            launched: 0,
            pss,
        })
    }

    fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu([
            self.master.cpu()?,
            self.fleet.cpu()?,
            cpu_of("self")?,
        ]))
    }

    /// Launches so many more tasks; until the agents know that the framework knows that all run.
    pub(super) async fn launch(&mut self, n: usize, size: &Size) -> Result<Launched> {
        let cpu = self.cpu()?;
        let started = Instant::now();
        let mut run = Run {
            calls: self.framework.calls(),
            work: JoinSet::new(),
            offers: VecDeque::new(),
            template: None,
            accepted_at: Vec::with_capacity(n),
            latencies: Vec::with_capacity(n),
            statuses: Vec::new(),
            first: self.launched,
            n,
        };
        self.launched += n;
        if run.calls.is_subscribed() {
            run.calls.revive(&[]).await?;
        }
        let mut gather = tokio::time::interval(GATHER);
        while run.latencies.len() < n {
            tokio::select! {
                biased;
                event = self.framework.next() => {
                    run.take(event.context("the events ended")??)?;
                    if run.statuses.len() >= ACKNOWLEDGEMENTS {
                        run.acknowledge();
                    }
                }
                // When no more has come, all that has come is answered.
                () = std::future::ready(()), if run.may_accept(size) => run.accept(size)?,
                _ = gather.tick() => run.acknowledge(),
                Some(done) = run.work.join_next() => done??,
                () = tokio::time::sleep(PATIENCE) => {
                    bail!("{} of {n} run, and nothing comes", run.latencies.len())
                }
            }
        }
        run.acknowledge();
        while let Some(done) = run.work.join_next().await {
            done??;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.fleet.ask("counts")?;
            ensure!(counts["overcommitted"] == 0, "overcommitted: {counts}");
            if counts["acknowledgements"].as_u64() >= Some(self.launched as u64) {
                break;
            }
            ensure!(Instant::now() < deadline, "not acknowledged: {counts}");
            tokio::time::sleep(LOOK).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        let cpu = self.cpu()?.since(cpu);
        run.calls.suppress(&[]).await?;
        run.calls.decline(&run.offers, Duration::ZERO).await?;
        run.latencies.sort_by(f64::total_cmp);
        Ok(Launched {
            n,
            seconds,
            latencies: run.latencies,
            cpu,
        })
    }
}

/// What every task is: an image, an argument, a variable and a label, as small programs have.
fn template(offer: &Offer) -> Result<TaskInfo> {
    let task = Task::new("template")
        .image("registry.example:5000/web:3")
        .args(["--serve"])
        .env("STAGE", "production")
        .label("team", "web")
        .cpus("0.01")
        .mem(1);
    Ok(Room::of(offer).place(&task)?)
}

/// Tasks on their way.
struct Run {
    calls: Calls,
    work: JoinSet<Result<()>>,
    /// Not used yet.
    offers: VecDeque<Offer>,
    template: Option<TaskInfo>,
    /// By number, from `first` on.
    accepted_at: Vec<Instant>,
    /// From Accept to TASK_RUNNING in the framework's hands, milliseconds.
    latencies: Vec<f64>,
    /// To be acknowledged.
    statuses: Vec<TaskStatus>,
    first: usize,
    n: usize,
}

impl Run {
    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Offers(offers) => self.offers.extend(offers),
            Event::Rescinded(id) => self.offers.retain(|offer| offer.offer_id != id),
            Event::Update(status) => {
                let number: usize = status.task_id.as_str()[1..].parse()?;
                ensure!(
                    status.state == TaskState::Running,
                    "a task ended: {status:?}"
                );
                let at = number.checked_sub(self.first);
                let at = at.and_then(|at| self.accepted_at.get(at));
                let at = at.with_context(|| format!("not launched now: {status:?}"))?;
                self.latencies.push(at.elapsed().as_secs_f64() * 1000.0);
                self.statuses.push(*status);
            }
            Event::Subscribed { .. } => {}
            other @ (Event::Disconnected { .. }
            | Event::AgentLost(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Operation(_)) => {
                bail!("{other:?}")
            }
        }
        Ok(())
    }

    /// How many tasks the next offer may be used for: as many as the window allows.
    fn next(&self, size: &Size) -> usize {
        let on_way = self.accepted_at.len() - self.latencies.len();
        let n = size.per_accept.min(self.n - self.accepted_at.len());
        if on_way > 0 && on_way + n > size.window {
            0
        } else {
            n
        }
    }

    fn may_accept(&self, size: &Size) -> bool {
        !self.offers.is_empty() && self.next(size) > 0
    }

    /// Uses the offers that are there, all of them in one call.
    fn accept(&mut self, size: &Size) -> Result<()> {
        let mut launches = Vec::new();
        while self.may_accept(size) {
            let n = self.next(size);
            let Some(offer) = self.offers.pop_front() else {
                break;
            };
            let template = match &self.template {
                Some(template) => template,
                None => self.template.insert(template(&offer)?),
            };
            let now = Instant::now();
            let mut tasks = Vec::with_capacity(n);
            for _ in 0..n {
                let mut info = template.clone();
                info.task_id = format!("t{:08}", self.first + self.accepted_at.len()).parse()?;
                info.agent_id = offer.agent_id.clone();
                tasks.push(info);
                self.accepted_at.push(now);
            }
            launches.push((offer.offer_id, tasks));
        }
        let calls = self.calls.clone();
        self.work
            .spawn(async move { Ok(calls.launch_each(launches, Duration::ZERO).await?) });
        Ok(())
    }

    fn acknowledge(&mut self) {
        if self.statuses.is_empty() {
            return;
        }
        let statuses = std::mem::take(&mut self.statuses);
        let calls = self.calls.clone();
        self.work
            .spawn(async move { Ok(calls.acknowledge_all(&statuses).await?) });
    }
}

/// What became of some tasks.
pub(super) struct Launched {
    n: usize,
    seconds: f64,
    /// Ascending.
    latencies: Vec<f64>,
    cpu: Value,
}

impl Launched {
    pub(super) fn json(&self) -> Value {
        let at = |share: f64| {
            let at = ((self.latencies.len() - 1) as f64 * share).round() as usize;
            (self.latencies[at] * 10.0).round() / 10.0
        };
        json!({
            "tasks": self.n, "seconds": self.seconds, "per_second": (self.n as f64 / self.seconds).round(),
            "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "cpu_seconds": self.cpu,
        })
    }
}

pub(super) async fn run(size: &Size) -> Result<()> {
    let most = size.tasks.iter().copied().max().unwrap_or(0);
    let mut bench = Bench::start(size, most)?;
    let per_agent = (bench.pss.1 - bench.pss.0) / size.agents as f64;
    println!(
        "{}",
        json!({"case": "agents", "agents": size.agents, "kib_per_agent": per_agent})
    );
    for total in &size.tasks {
        let more = total.saturating_sub(bench.launched);
        let launched = bench.launch(more, size).await?;
        let per_task = (bench.master.pss()? - bench.pss.1) / *total as f64;
        println!(
            "{}",
            json!({
                "case": "launches", "agents": size.agents, "total": total, "per_accept": size.per_accept,
                "launched": launched.json(), "kib_per_task": per_task,
            })
        );
    }
    Ok(())
}
