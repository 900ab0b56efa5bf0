//! Drives the runtime for `cargo xtask bench launch`, and alone for a profiler. It makes nothing but what a runtime makes
//! in `--dir` and below `--cgroup`, and takes all of it away again at its end, also after Ctrl-C.
//!
//! Without `--case` it reads commands from standard input, one a line, and answers each with one line of JSON; at the
//! end of the input it cleans up. With `--case` it runs that case for `--rounds` and tells medians:
//!
//! ```text
//! perf stat -d target/release/examples/bench_launch --dir DIR --program PATH --case life --rounds 500
//! ```
//!
//! The program is a static one that knows `true`, `stamp` (prints CLOCK_MONOTONIC in nanoseconds) and `sleep`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mezzo_runtime::{
    ContainerId, ContainerSpec, ExitRecord, Limits, Network, Rootfs, Runtime, RuntimeConfig, Stream,
};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: bench_launch --dir DIR --program PATH [--cgroup PATH] [--parallel N] [--overlay]
                    [--case life|start|many [--rounds N] [--count N]]";

/// As the program has it, which is where keepers come from.
#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

/// Most ends at once.
const PARALLEL_ENDS: usize = 8;

fn main() -> ExitCode {
    if let Some(code) = mezzo_runtime::launcher_main_if_requested() {
        return code;
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("bench_launch: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bench_launch: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(options));
    // A read of standard input may still be under way, and would hold up the end.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("bench_launch: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The command line.
#[derive(Debug)]
struct Options {
    dir: PathBuf,
    program: PathBuf,
    cgroup: String,
    parallel: usize,
    overlay: bool,
    case: Option<String>,
    rounds: u32,
    count: u32,
}

impl Options {
    fn parse(words: impl Iterator<Item = String>) -> Result<Self> {
        let mut words = words;
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        let mut overlay = false;
        while let Some(word) = words.next() {
            match word.as_str() {
                "--overlay" => overlay = true,
                "--dir" | "--program" | "--cgroup" | "--parallel" | "--case" | "--rounds"
                | "--count" => {
                    let value = words.next().ok_or(format!("{word} needs a value"))?;
                    values.insert(word, value);
                }
                _ => return Err(format!("{word} is not known").into()),
            }
        }
        let mut take = |name: &str| values.remove(name);
        let number = |text: Option<String>, default: u32| match text {
            Some(text) => text
                .parse::<u32>()
                .map_err(|_| format!("{text} is no number")),
            None => Ok(default),
        };
        Ok(Self {
            dir: take("--dir").ok_or("--dir is missing")?.into(),
            program: take("--program").ok_or("--program is missing")?.into(),
            cgroup: take("--cgroup")
                .unwrap_or_else(|| format!("/mezzo-bench-{}", std::process::id())),
            parallel: number(take("--parallel"), 4)? as usize,
            overlay,
            case: take("--case"),
            rounds: number(take("--rounds"), 100)?,
            count: number(take("--count"), 100)?,
        })
    }
}

async fn run(options: Options) -> Result<()> {
    let mut driver = Driver::open(&options).await?;
    let (mut interrupted, mut ended) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let work = async {
        match &options.case {
            Some(case) => alone(&mut driver, case, &options).await,
            None => serve(&mut driver).await,
        }
    };
    let done = tokio::select! {
        done = work => done,
        _ = interrupted.recv() => Err("interrupted".into()),
        _ = ended.recv() => Err("told to end".into()),
    };
    driver.runtime.purge().await?;
    fs::remove_dir_all(&driver.image)?;
    if options.overlay {
        fs::remove_dir_all(driver.dir.join("writable"))?;
    }
    done
}

/// Answers commands until there are no more.
async fn serve(driver: &mut Driver) -> Result<()> {
    println!("{}", json!({ "ready": true }));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (command, count) = line.split_once(' ').unwrap_or((&line, "1"));
        let count: u32 = count.parse()?;
        let answer = match command {
            "life" => driver.life().await?,
            "start" => driver.start().await?,
            "up" => driver.up(count).await?,
            "memory" => driver.memory().await?,
            "down" => driver.down().await?,
            _ => return Err(format!("no such command: {line}").into()),
        };
        println!("{answer}");
    }
    Ok(())
}

/// One case over and over, for a profiler.
async fn alone(driver: &mut Driver, case: &str, options: &Options) -> Result<()> {
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..options.rounds {
        let answers = match case {
            "life" => vec![driver.life().await?],
            "start" => vec![driver.start().await?],
            "many" => vec![
                driver.up(options.count).await?,
                driver.memory().await?,
                driver.down().await?,
            ],
            _ => return Err(format!("there is no case {case}").into()),
        };
        for (name, value) in answers.iter().filter_map(Value::as_object).flatten() {
            if let Some(value) = value.as_f64() {
                samples.entry(name.clone()).or_default().push(value);
            }
        }
    }
    for (name, mut values) in samples {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        println!(
            "{name}: median {:.3}, p99 {:.3}, least {:.3}, most {:.3}, {} times",
            at(0.5),
            at(0.99),
            at(0.0),
            at(1.0),
            values.len()
        );
    }
    Ok(())
}

/// A runtime and what runs in it.
#[derive(Debug)]
struct Driver {
    runtime: Runtime,
    dir: PathBuf,
    image: PathBuf,
    program: String,
    overlay: bool,
    n_made: u32,
    /// What `up` has started, with its keeper.
    running: Vec<(ContainerId, i32)>,
}

impl Driver {
    async fn open(options: &Options) -> Result<Self> {
        let dir = std::path::absolute(&options.dir)?;
        fs::create_dir_all(&dir)?;
        // The empty folders are where the standard file systems are mounted.
        let image = dir.join("image");
        for folder in ["proc", "dev", "sys"] {
            fs::create_dir_all(image.join(folder))?;
        }
        let name = options
            .program
            .file_name()
            .ok_or("--program names no file")?;
        fs::copy(&options.program, image.join(name))?;
        let mut config = RuntimeConfig::new(dir.join("state"), options.cgroup.clone());
        config.max_parallel_starts = options.parallel;
        Ok(Self {
            runtime: Runtime::open(config).await?,
            program: format!("/{}", name.display()),
            overlay: options.overlay,
            n_made: 0,
            running: Vec::new(),
            image,
            dir,
        })
    }

    /// An id never used before, and a container with what `xtask`'s bundles give the peers: the same limits, a
    /// network of its own, the same read-only root.
    fn next(&mut self, word: &str) -> Result<(ContainerId, ContainerSpec)> {
        self.n_made += 1;
        let id: ContainerId = format!("bench-{}", self.n_made).parse()?;
        let rootfs = if self.overlay {
            let [upper, work] = ["upper", "work"]
                .map(|name| self.dir.join("writable").join(id.to_string()).join(name));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            Rootfs::Overlay {
                lowers: vec![self.image.clone()],
                upper,
                work,
            }
        } else {
            Rootfs::Dir(self.image.clone())
        };
        let args = vec![self.program.clone(), word.to_owned()];
        let mut spec = ContainerSpec::new(rootfs, args);
        spec.readonly_rootfs = !self.overlay;
        spec.network = Network::None;
        spec.limits = Limits {
            cpu_millis_weight: 500,
            cpu_limit_millis: Some(500),
            memory_bytes: Some(64 << 20),
            pids: Some(256),
            ..Limits::default()
        };
        Ok((id, spec))
    }

    /// `true` from create to delete.
    async fn life(&mut self) -> Result<Value> {
        let (id, spec) = self.next("true")?;
        let begun = Instant::now();
        self.runtime.start(&id, spec).await?;
        let started = Instant::now();
        let record = self.runtime.wait(&id).await?;
        let ended = Instant::now();
        self.runtime.remove(&id).await?;
        let removed = Instant::now();
        ended_well(&record)?;
        Ok(json!({
            "wall_ms": millis(removed - begun), "start_ms": millis(started - begun),
            "wait_ms": millis(ended - started), "remove_ms": millis(removed - ended),
        }))
    }

    /// Until the container's first instruction has read the clock.
    async fn start(&mut self) -> Result<Value> {
        let (id, spec) = self.next("stamp")?;
        let begun = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        self.runtime.start(&id, spec).await?;
        let record = self.runtime.wait(&id).await?;
        ended_well(&record)?;
        let text = fs::read_to_string(self.runtime.log_path(&id, Stream::Stdout))?;
        let stamp = Duration::from_nanos(text.trim().parse()?);
        self.runtime.remove(&id).await?;
        let took = stamp
            .checked_sub(begun)
            .ok_or("the program ran before its start")?;
        Ok(json!({ "wall_ms": millis(took) }))
    }

    /// Many sleepers, all asked for at once.
    async fn up(&mut self, count: u32) -> Result<Value> {
        let mut wanted = Vec::new();
        for _ in 0..count {
            wanted.push(self.next("sleep")?);
        }
        let begun = Instant::now();
        let mut starts = JoinSet::new();
        for (id, spec) in wanted {
            let runtime = self.runtime.clone();
            starts.spawn(async move {
                let started = runtime.start(&id, spec).await;
                started.map(|started| (id, started.keeper_pid))
            });
        }
        while let Some(started) = starts.join_next().await {
            self.running.push(started??);
        }
        let took = begun.elapsed();
        Ok(json!({
            "up_wall_ms": millis(took), "starts_per_s": f64::from(count) / took.as_secs_f64(),
        }))
    }

    /// What everything of ours holds now, in KiB of PSS: keepers, launcher, this process.
    async fn memory(&self) -> Result<Value> {
        let keepers: Vec<u64> = self
            .running
            .iter()
            .map(|(_, keeper)| pss_kib(*keeper))
            .collect::<Result<_>>()?;
        let launcher = self
            .runtime
            .launcher_pid()
            .await
            .ok_or("there is no launcher")?;
        let launcher = pss_kib(i32::try_from(launcher)?)?;
        let own = pss_kib(i32::try_from(std::process::id())?)?;
        let sum: u64 = keepers.iter().sum();
        Ok(json!({
            "n_keepers": keepers.len(), "keepers_kib": sum, "launcher_kib": launcher, "own_kib": own,
            "all_kib": sum + launcher + own,
        }))
    }

    /// Kills and removes all that run.
    async fn down(&mut self) -> Result<Value> {
        let running = std::mem::take(&mut self.running);
        let count = running.len();
        let permits = Arc::new(Semaphore::new(PARALLEL_ENDS));
        let begun = Instant::now();
        let mut ends = JoinSet::new();
        for (id, _) in running {
            let (runtime, permits) = (self.runtime.clone(), Arc::clone(&permits));
            ends.spawn(async move {
                let _permit = permits.acquire_owned().await?;
                runtime.stop(&id, Duration::ZERO, libc::SIGKILL).await?;
                runtime.remove(&id).await?;
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            });
        }
        while let Some(ended) = ends.join_next().await {
            ended??;
        }
        let took = begun.elapsed();
        Ok(json!({
            "down_wall_ms": millis(took), "removals_per_s": count as f64 / took.as_secs_f64(),
        }))
    }
}

fn ended_well(record: &ExitRecord) -> Result<()> {
    if record.exit == mezzo_runtime::Exit::Code(0) {
        Ok(())
    } else {
        Err(format!("the program ended with {:?}", record.exit).into())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A process's proportional share of memory.
fn pss_kib(pid: i32) -> Result<u64> {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("smaps_rollup");
    let text =
        fs::read_to_string(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or_else(|| format!("{} tells no PSS", path.display()))?
        .parse()?)
}
