//! Drives a real master over its gRPC API for `cargo xtask bench master`: launches, lists, memory, failover.
//!
//! ```text
//! bench_master launches --agents 5000 --tasks 10000,100000 [--per-accept 20] [--window 3000]
//! bench_master reads    --agents 5000 --tasks 150000 [--rounds 3] [--listed 100000]
//! bench_master failover --agents 40000 --tasks 400000
//! ```
//!
//! Master and fleet are processes of their own (this program again, as `part serve` and `part fleet`), so that processor
//! time and memory of each can be told apart; the framework, made with the SDK, is this process. They end with it: each
//! stops when its standard input closes. One line of JSON per measurement.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use mezzo_api::proto::{self, operator_service_client::OperatorServiceClient};
use mezzo_fleet::{Config, Fleet};
use mezzo_framework::{
    Calls, Event, Framework, Room, Task,
    model::{Offer, Resources, TaskInfo, TaskState, TaskStatus},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// For anything to happen at all; what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Acknowledgements wait so long for others.
const GATHER: Duration = Duration::from_millis(5);
/// As many go in one message.
const ACKNOWLEDGEMENTS: usize = 500;
/// Clock ticks per second in `/proc/PID/stat`: the same on every Linux that Rust knows.
const TICKS: f64 = 100.0;
/// Between the beginnings of two lists.
const LIST_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
enum What {
    /// Tasks until TASK_RUNNING is acknowledged
    Launches(Size),
    /// The same, with and without somebody who lists tasks
    Reads(Size),
    /// A master is killed; until the next one knows all agents and tasks again
    Failover(Size),
    #[command(subcommand, hide = true)]
    Part(Part),
}

#[derive(Debug, Args)]
struct Size {
    /// Simulated agents
    #[arg(long, default_value_t = 5000)]
    agents: usize,
    /// How many tasks; several numbers are reached one after the other
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    tasks: Vec<usize>,
    /// Tasks launched by one Accept, where the offer has room
    #[arg(long, default_value_t = 20)]
    per_accept: usize,
    /// Tasks that may be launched and not running yet
    #[arg(long, default_value_t = 3000)]
    window: usize,
    /// Of `reads`: how often, with and without
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Of `reads`: how long the list is
    #[arg(long, default_value_t = 100_000)]
    listed: usize,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Part {
    Serve {
        listen: SocketAddr,
        state_dir: PathBuf,
    },
    Fleet {
        master: SocketAddr,
        agents: usize,
        resources: Resources,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match What::parse() {
        What::Launches(size) => launches(&size).await,
        What::Reads(size) => reads(&size).await,
        What::Failover(size) => failover(&size).await,
        What::Part(Part::Serve { listen, state_dir }) => serve(listen, state_dir).await,
        What::Part(Part::Fleet {
            master,
            agents,
            resources,
        }) => fleet(master, agents, resources).await,
    }
}

/// A master with the defaults, until standard input closes.
async fn serve(listen: SocketAddr, state_dir: PathBuf) -> Result<()> {
    let config = mezzo_master::Config {
        listen,
        state_dir,
        ..mezzo_master::Config::default()
    };
    let shutdown = CancellationToken::new();
    let (ready, address) = tokio::sync::oneshot::channel();
    let run = mezzo_master::run_and_tell(config, shutdown.clone(), Some(ready));
    let run = tokio::spawn(run);
    if let Ok(address) = address.await {
        println!("{address}");
    }
    tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop)).await?;
    shutdown.cancel();
    Ok(run.await??)
}

/// Simulated agents; after they are connected, each line of standard input is answered with their counts.
async fn fleet(master: SocketAddr, agents: usize, resources: Resources) -> Result<()> {
    let fleet = Fleet::spawn(Config {
        masters: vec![master.to_string()],
        agents,
        resources,
        // As many as come at once: agents of a cluster do not wait for each other.
        registrations: 512,
        // A lost acknowledgement would be seen; slow ones are not to be answered with more work.
        repeat_after: Duration::from_secs(60),
        ..Config::default()
    })?;
    fleet.all_connected(PATIENCE).await?;
    println!("connected");
    let fleet = tokio::task::spawn_blocking(move || -> Result<Fleet> {
        for line in std::io::stdin().lines() {
            line?;
            let counts = fleet.counts();
            let told = json!({
                "connected": counts.connected, "registrations": counts.registrations,
                "launches": counts.launches, "tasks": counts.tasks, "repeats": counts.repeats,
                "acknowledgements": counts.acknowledgements, "overcommitted": counts.overcommitted,
            });
            println!("{told}");
        }
        Ok(fleet)
    });
    fleet.await??.stop().await;
    Ok(())
}

/// A part of this program as a process. Killed when it is dropped.
struct Process {
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(words: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("part")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {words:?}"))?;
        let words = child.stdin.take().context("its standard input")?;
        let answers = child.stdout.take().context("its standard output")?;
        Ok(Self {
            child,
            words,
            answers: BufReader::new(answers),
        })
    }

    /// Its next line.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line.ends_with('\n'), "a part of the benchmark ended");
        Ok(line.trim().to_owned())
    }

    fn counts(&mut self) -> Result<Value> {
        self.words.write_all(b"counts\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Seconds of processor time so far.
    fn cpu(&self) -> Result<f64> {
        cpu_of(&self.child.id().to_string())
    }

    /// KiB: its own pages, and its share of those that it has with others.
    fn pss(&self) -> Result<f64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("{path} has no Pss"))?.parse()?)
    }
}

/// Of a process, user and system, all its threads.
fn cpu_of(pid: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // Behind the name, which may hold anything.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// A master, a fleet on it, and a framework.
struct Bench {
    // In this order they end.
    framework: Framework,
    fleet: Process,
    master: Process,
    dir: tempfile::TempDir,
    address: SocketAddr,
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

fn start_master(listen: SocketAddr, dir: &Path) -> Result<(Process, SocketAddr)> {
    let dir = dir.display().to_string();
    let mut master = Process::start(&["serve".to_owned(), listen.to_string(), dir])?;
    let address = master.line()?.parse().context("the master's address")?;
    Ok((master, address))
}

impl Bench {
    fn start(size: &Size, tasks: usize) -> Result<Self> {
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
    async fn launch(&mut self, n: usize, size: &Size) -> Result<Launched> {
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
                    run.accept(size)?;
                    if run.statuses.len() >= ACKNOWLEDGEMENTS {
                        run.acknowledge();
                    }
                }
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
            let counts = self.fleet.counts()?;
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

    /// Uses offers as far as the window allows.
    fn accept(&mut self, size: &Size) -> Result<()> {
        loop {
            let on_way = self.accepted_at.len() - self.latencies.len();
            let n = size.per_accept.min(self.n - self.accepted_at.len());
            if n == 0 || (on_way > 0 && on_way + n > size.window) {
                return Ok(());
            }
            let Some(offer) = self.offers.pop_front() else {
                return Ok(());
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
            let calls = self.calls.clone();
            self.work
                .spawn(async move { Ok(calls.launch(&offer, tasks, Duration::ZERO).await?) });
        }
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
struct Launched {
    n: usize,
    seconds: f64,
    /// Ascending.
    latencies: Vec<f64>,
    cpu: Value,
}

impl Launched {
    fn json(&self) -> Value {
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

async fn launches(size: &Size) -> Result<()> {
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

async fn reads(size: &Size) -> Result<()> {
    let n = size.tasks.first().copied().unwrap_or(0);
    let mut bench = Bench::start(size, size.listed + n * 2 * size.rounds)?;
    bench.launch(size.listed, size).await?;
    for _ in 0..size.rounds {
        let quiet = bench.launch(n, size).await?;
        let reader = tokio::spawn(lists(bench.address, size.listed));
        let read = bench.launch(n, size).await;
        ensure!(!reader.is_finished(), "the list failed");
        reader.abort();
        println!(
            "{}",
            json!({
                "case": "reads", "agents": size.agents, "listed": size.listed,
                "without": quiet.json(), "with": read?.json(),
            })
        );
    }
    Ok(())
}

/// Lists again and again, until it is aborted.
async fn lists(master: SocketAddr, n: usize) {
    let mut next = tokio::time::interval(LIST_EVERY);
    loop {
        next.tick().await;
        let started = Instant::now();
        if let Err(error) = list(master, n).await {
            eprintln!("list: {error:#}");
            return;
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{}",
            json!({"case": "list", "tasks": n, "seconds": seconds})
        );
    }
}

/// The first tasks, page by page.
async fn list(master: SocketAddr, wanted: usize) -> Result<()> {
    let mut client = OperatorServiceClient::connect(format!("http://{master}"))
        .await?
        .max_decoding_message_size(64 << 20);
    let (mut n, mut page_token) = (0, String::new());
    while n < wanted {
        let request = proto::ListTasksRequest {
            page_token,
            ..proto::ListTasksRequest::default()
        };
        let page = client.list_tasks(request).await?.into_inner();
        n += page.tasks.len();
        page_token = page.next_page_token;
        ensure!(
            n >= wanted || !page_token.is_empty(),
            "only {n} tasks are listed"
        );
    }
    Ok(())
}

/// What the framework hears while the master is another one.
#[derive(Debug, Default)]
struct Heard {
    resubscribed: Option<f64>,
    updates: u64,
    broken: u64,
}

impl Heard {
    fn take(&mut self, event: &Event, since: Instant) {
        match event {
            Event::Subscribed { .. } => self.resubscribed = Some(since.elapsed().as_secs_f64()),
            Event::Update(_) => self.updates += 1,
            Event::Disconnected { .. } => self.broken += 1,
            Event::Offers(_)
            | Event::Rescinded(_)
            | Event::AgentLost(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Operation(_) => {}
        }
    }
}

async fn failover(size: &Size) -> Result<()> {
    let n = size.tasks.first().copied().unwrap_or(0);
    let mut bench = Bench::start(size, n)?;
    bench.launch(n, size).await?;
    let before = bench.fleet.counts()?;
    bench.master.child.kill()?;
    bench.master.child.wait()?;
    let (fleet_cpu, framework_cpu) = (bench.fleet.cpu()?, cpu_of("self")?);
    let died = Instant::now();
    (bench.master, _) = start_master(bench.address, bench.dir.path())?;
    let listens = died.elapsed().as_secs_f64();
    let mut heard = Heard::default();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", bench.address))?;
    let mut operator = OperatorServiceClient::new(endpoint.connect().await?);
    let mut agents_back = None;
    // A look counts all tasks: many of them would be what is measured.
    let mut look = tokio::time::interval(LOOK * 5);
    loop {
        ensure!(
            died.elapsed() < PATIENCE,
            "the new master does not know all"
        );
        tokio::select! {
            event = bench.framework.next() => heard.take(&event.context("the events ended")??, died),
            _ = look.tick() => {
                let cluster = operator.get_cluster(proto::GetClusterRequest {}).await?.into_inner();
                let all_agents = usize::try_from(cluster.agents_connected)? == size.agents;
                if all_agents {
                    agents_back.get_or_insert(died.elapsed().as_secs_f64());
                }
                let running = cluster.tasks_by_state.get("TASK_RUNNING").copied().unwrap_or(0);
                if all_agents && usize::try_from(running)? == n {
                    break;
                }
            }
        }
    }
    let seconds = died.elapsed().as_secs_f64();
    let cpu = json!({
        "master": bench.master.cpu()?,
        "fleet": bench.fleet.cpu()? - fleet_cpu,
        "framework": cpu_of("self")? - framework_cpu,
    });
    // The framework comes in its own time.
    let back = timeout(PATIENCE, async {
        while heard.resubscribed.is_none() {
            let event = bench.framework.next().await;
            heard.take(&event.context("the events ended")??, died);
        }
        anyhow::Ok(())
    });
    back.await.context("the framework did not come back")??;
    let after = bench.fleet.counts()?;
    ensure!(
        after["launches"] == before["launches"] && after["overcommitted"] == 0,
        "something ran twice: {before} {after}"
    );
    println!(
        "{}",
        json!({
            "case": "failover", "agents": size.agents, "tasks": n, "seconds": seconds, "listens": listens,
            "agents_back": agents_back, "resubscribed": heard.resubscribed, "broken": heard.broken,
            "updates": heard.updates, "cpu_seconds": cpu, "master_kib": bench.master.pss()?,
        })
    );
    Ok(())
}
