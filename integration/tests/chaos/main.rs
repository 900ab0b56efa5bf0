//! Chaos: a framework of the test's own keeps a real master and a real agent busy with launches and kills, while
//! `kill -9` hits the agent, its launcher and random keepers at random moments. Then the history is judged: no status
//! lost, doubled or reordered, each task that was launched ends once, no task runs twice. And nothing has leaked.
//! Every third task has a network of its own behind a bridge: so all of this plays in a network namespace, away from the
//! machine's.
//!
//! Sampled (about 20 s) unless `--all` is asked for: then 200 containers and MEZZO_CHAOS_SECS (180). A run tells its seed;
//! MEZZO_CHAOS_SEED repeats what the test does, not what the machine does in between. A history that breaks a rule is
//! left in target/chaos.

#[path = "../common/mod.rs"]
mod common;
mod framework;
mod node;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Stage, all, on_stage};
use framework::{Orders, Played};
use mezzo_integration::cluster::{Cluster, PATIENCE, Server};
use mezzo_integration::history::{History, Look, Seen};
use mezzo_integration::{containers, interrupt, leftovers, paths, wait};
use node::Node;

/// So many tasks must have run.
const ENOUGH: usize = 30;

/// Longest load for their sake.
const MOST: Duration = Duration::from_secs(300);

/// How long the load goes on, and how much of it there is.
struct Size {
    load: Duration,
    /// After the last blow, with the load still on: what leaks in an agent shows only if it did something.
    calm: Duration,
    containers: usize,
}

/// A small generator of numbers, the same for the same seed: splitmix64.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// From 0 to below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

fn size() -> Result<Size> {
    let seconds = std::env::var("MEZZO_CHAOS_SECS").ok();
    let seconds = seconds.map(|text| {
        text.parse()
            .context("MEZZO_CHAOS_SECS is no number of seconds")
    });
    let seconds = seconds.transpose()?;
    Ok(if all() {
        Size {
            load: Duration::from_secs(seconds.unwrap_or(180)),
            calm: Duration::from_secs(10),
            containers: 200,
        }
    } else {
        Size {
            load: Duration::from_secs(seconds.unwrap_or(12)),
            calm: Duration::from_secs(3),
            containers: 60,
        }
    })
}

fn seed() -> Result<u64> {
    match std::env::var("MEZZO_CHAOS_SEED") {
        Ok(text) => text.parse().context("MEZZO_CHAOS_SEED is no number"),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            Ok(u64::from(now.subsec_nanos()) ^ now.as_secs())
        }
    }
}

/// Set where the test plays.
const ISOLATED: &str = "MEZZO_CHAOS_ISOLATED";

#[test]
fn a_launch_and_kill_load_survives_random_blows_without_a_trace() {
    if std::env::var_os(ISOLATED).is_some() {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("run ip").success(), "no loopback");
        on_stage("chaos", play);
    } else if nix::unistd::geteuid().is_root() {
        let again = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--nocapture", "a_launch_and_kill_load"])
            .env(ISOLATED, "1")
            .status();
        assert!(again.expect("run unshare").success(), "see above");
    } else {
        eprintln!("skipped: needs root");
    }
}

fn play(stage: &mut Stage) -> Result<()> {
    let (size, seed) = (size()?, seed()?);
    println!(
        "seed {seed}, {} containers, {} s",
        size.containers,
        size.load.as_secs()
    );
    let before = Node::look(&stage.cluster)?;
    let orders = Arc::new(Orders::new(size.containers));
    let setting = framework::Setting {
        master: stage.cluster.master().to_owned(),
        image: stage.registry.reference("sleep:1"),
        agent_tasks: stage.cluster.dir().join("agent/tasks"),
        dice: Dice(seed),
    };
    let done = AtomicBool::new(false);
    let cluster = &stage.cluster;
    let (struck, played, looks) = thread::scope(|scope| {
        let playing = scope.spawn({
            let orders = Arc::clone(&orders);
            || framework::play(setting, orders)
        });
        let watching = scope.spawn(|| watch(cluster, &done));
        let struck = strike(cluster, &size, &mut Dice(!seed), &orders);
        orders.finish();
        let played = playing.join();
        done.store(true, Ordering::Relaxed);
        (struck, played, watching.join())
    });
    let played = played.map_err(|_| anyhow::anyhow!("the framework panicked"))??;
    let looks = looks.map_err(|_| anyhow::anyhow!("the watch panicked"))?;
    let struck = struck?;
    judge(&played, looks, seed)?;
    println!("{struck}; {}", played.tell());
    ensure!(
        played.n_ran() >= ENOUGH,
        "too little ran to show anything: {}",
        played.tell()
    );
    nothing_leaked(&before, stage)
}

/// How often each was killed.
#[derive(Debug, Default)]
struct Struck {
    agents: usize,
    launchers: usize,
    keepers: usize,
}

impl std::fmt::Display for Struck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            agents,
            launchers,
            keepers,
        } = self;
        write!(
            f,
            "killed {agents} agents, {launchers} launchers, {keepers} keepers"
        )
    }
}

/// Blows at random moments, then a calm in which the load goes on.
fn strike(cluster: &Cluster, size: &Size, dice: &mut Dice, orders: &Orders) -> Result<Struck> {
    let (mut struck, begun) = (Struck::default(), Instant::now());
    // On a slow machine, until enough ran to show anything.
    let too_little = |begun: Instant| orders.n_ran() < ENOUGH && begun.elapsed() < MOST;
    while begun.elapsed() < size.load || too_little(begun) {
        pause(Duration::from_millis(100 + dice.roll(900)), orders)?;
        match dice.roll(10) {
            0..2 => {
                let pid = cluster.kill_server(Server::Agent)?;
                struck.agents += 1;
                // Half of the time the next blow falls on what is just coming up.
                if dice.roll(2) == 0 {
                    wait::until("another agent", PATIENCE, || {
                        ensure!(cluster.server_pid(Server::Agent)? != pid, "the same");
                        Ok(())
                    })?;
                }
            }
            2..5 => struck.launchers += node::kill_launcher(cluster),
            _ => {
                for _ in 0..=dice.roll(3) {
                    struck.keepers += node::kill_a_keeper(cluster, dice);
                }
            }
        }
    }
    wait::until("the agent to be back", PATIENCE, || {
        cluster.server_pid(Server::Agent)
    })?;
    pause(size.calm, orders)?;
    ensure!(
        struck.agents + struck.launchers + struck.keepers > 3,
        "no blows: {struck}"
    );
    Ok(struck)
}

/// A pause that ends early when there is no point in going on.
fn pause(length: Duration, orders: &Orders) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < length {
        ensure!(!interrupt::requested(), "interrupted");
        ensure!(!orders.has_failed(), "the framework gave up");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Looks at the kernel again and again.
fn watch(cluster: &Cluster, done: &AtomicBool) -> Vec<Look> {
    let parent = leftovers::cluster_cgroup(cluster.dir());
    let (begun, mut looks) = (Instant::now(), Vec::<Look>::new());
    loop {
        let last = done.load(Ordering::Relaxed);
        let at = begun.elapsed();
        let seen = containers::running(&parent).into_iter().map(|one| Seen {
            task: one.task_id,
            app: String::new(),
            machine: "this".to_owned(),
            boot: 1,
            pid: one.pid,
            started: one.started,
        });
        let seen: Vec<Seen> = seen.collect();
        // What did not change tells nothing new.
        if last || looks.last().is_none_or(|look| look.seen != seen) {
            looks.push(Look {
                at,
                seen,
                ..Look::default()
            });
        }
        if last {
            return looks;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn judge(played: &Played, looks: Vec<Look>, seed: u64) -> Result<()> {
    let history = History {
        looks,
        told: played.told.clone(),
        written: played.written.clone(),
        capacity_millis: u64::MAX,
        ..History::default()
    };
    let judged = history
        .check()
        .map_err(anyhow::Error::from)
        .and_then(|checked| {
            played.everything_ended_once()?;
            Ok(checked)
        });
    match judged {
        Ok(checked) => {
            println!("{checked}");
            Ok(())
        }
        Err(broken) => {
            let file = keep(&history, played, seed)?;
            Err(broken).with_context(|| format!("seed {seed}; history in {}", file.display()))
        }
    }
}

/// Writes the whole history down.
fn keep(history: &History, played: &Played, seed: u64) -> Result<PathBuf> {
    let dir = paths::target()?.join("chaos");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut text = String::new();
    for line in &played.journal {
        writeln!(text, "{line}")?;
    }
    for (task, written) in &history.written {
        for one in written {
            let update = one.update.as_deref().unwrap_or("-");
            writeln!(text, "on disk {task} {} {update}", one.state)?;
        }
    }
    for look in &history.looks {
        let seen = look
            .seen
            .iter()
            .map(|one| format!("{}={}", one.task, one.pid));
        let seen: Vec<String> = seen.collect();
        writeln!(text, "look {:.3} {}", look.at.as_secs_f64(), seen.join(" "))?;
    }
    let file = dir.join(format!("history-{seed}.txt"));
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// With nothing left to run, the node must look as it did before the first launch.
fn nothing_leaked(before: &Node, stage: &Stage) -> Result<()> {
    let after = wait::until("the node to be at rest", PATIENCE, || {
        let after = Node::look(&stage.cluster)?;
        after.check_against(before)?;
        Ok(after)
    })?;
    println!("before: {before}\nafter:  {after}");
    Ok(())
}
