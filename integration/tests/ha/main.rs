//! Three masters on a real etcd: the leader is killed, frozen, cut off from etcd; etcd is restarted and compacted. All
//! the while an operator writes, and a framework launches, kills and asks on simulated agents. Nothing that was promised
//! is lost, no task is lost or begun twice, no status comes out of order, and no deposed leader writes or launches.
//!
//! The witness follows every key in etcd, revision by revision, and trusts no master; the agents tell who launched what.
//! `MEZZO_HA_ROUNDS` is how many blows there are (50 take about ten minutes); the times to a new leader are printed.

mod agent;
mod compaction;
mod load;
mod relay;
mod restore;
mod schedulers;
mod tasks;
mod witness;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mezzo_integration::etcd::Etcd;
use mezzo_integration::history::Checked;
use mezzo_integration::http::Rest;
use mezzo_integration::process::Managed;
use mezzo_integration::{leftovers, paths, ports, wait};
use nix::sys::signal::Signal;

use load::Load;
use relay::Relay;
use tasks::Tasks;
use witness::Witness;

const PATIENCE: Duration = Duration::from_secs(90);
/// A leader that was hit stays so for so long after another has taken its place: what it then does comes late.
const FAULT: Duration = Duration::from_secs(4);
/// What is promised: a new leader after at most that.
const PROMISED: Duration = Duration::from_secs(5);
const PREFIX: &str = "/ha/";

/// The tests of this file want the machine for themselves.
static ALONE: Mutex<()> = Mutex::new(());

struct Master {
    address: String,
    relay: Relay,
    process: Option<Managed>,
}

impl Master {
    fn start(dir: &Path, etcd: &str) -> Result<Self> {
        let mut master = Self {
            address: format!("127.0.0.1:{}", ports::free()?),
            relay: Relay::start(etcd)?,
            process: None,
        };
        master.run(dir)?;
        Ok(master)
    }

    fn run(&mut self, dir: &Path) -> Result<()> {
        let mut command = Command::new(paths::program("mezzo")?);
        command.arg("master").args(["--listen", &self.address]);
        let name = self.address.replace(':', "-");
        command.arg("--state-dir").arg(dir.join(&name));
        command.args(["--store", &format!("etcd://{}/ha", self.relay.address())]);
        command.env(leftovers::MARKER, "master");
        let log = dir.join(format!("{name}.log"));
        self.process = Some(Managed::spawn("a master", &mut command, &log)?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref();
        process.context("it does not run")?.signal(signal)
    }

    fn leads(&self) -> bool {
        let health = Rest::new(&self.address).get("/healthz");
        health.is_ok_and(|answer| answer.text.starts_with("ok"))
    }
}

/// The one that leads, not that one.
fn leader(masters: &[Master], not: Option<usize>) -> Result<usize> {
    wait::until("a master to lead", PATIENCE, || {
        let others = (0..masters.len()).filter(|i| Some(*i) != not);
        others
            .into_iter()
            .find(|i| masters[*i].leads())
            .context("nobody leads")
    })
}

/// How many blows, if somebody says so.
fn rounds() -> Result<Option<usize>> {
    match std::env::var("MEZZO_HA_ROUNDS") {
        Ok(text) => Ok(Some(text.parse().context("MEZZO_HA_ROUNDS is no number")?)),
        Err(_) => Ok(None),
    }
}

#[test]
fn a_leader_is_followed_by_another_and_nothing_is_lost_or_done_twice() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start(&dir.path().join("etcd"))?;
    let mut masters = Vec::new();
    for _ in 0..3 {
        masters.push(Master::start(dir.path(), etcd.address())?);
    }
    leader(&masters, None)?;
    let list: Vec<String> = masters.iter().map(|one| one.address.clone()).collect();
    let witness = Witness::start(etcd.address(), PREFIX);
    let load = Load::start(list.join(","));
    let seed = witness::unix_ms();
    println!("seed {seed}");
    let tasks = Tasks::start(list.clone(), seed);
    let more = |what: &str, count: &dyn Fn() -> u64| {
        let before = count();
        wait::until(what, PATIENCE, || {
            ensure!(count() > before + 5, "{} after {before}", count());
            Ok(())
        })
    };
    let mut times = Vec::new();
    for round in 0..rounds()?.unwrap_or(4) {
        more("more promises", &|| load.n_promised.load(Ordering::Relaxed))?;
        more("more tasks", &|| tasks.n_ran.load(Ordering::Relaxed))?;
        let hit = leader(&masters, None)?;
        let begun = Instant::now();
        let what = match round % 4 {
            0 => {
                masters[hit].signal(Signal::SIGKILL)?;
                leader(&masters, Some(hit))?;
                times.push(("killed", begun.elapsed()));
                if let Some(mut dead) = masters[hit].process.take() {
                    dead.wait(PATIENCE)?;
                }
                masters[hit].run(dir.path())?;
                "killed"
            }
            1 => {
                masters[hit].signal(Signal::SIGSTOP)?;
                leader(&masters, Some(hit))?;
                times.push(("frozen", begun.elapsed()));
                thread::sleep(FAULT);
                masters[hit].signal(Signal::SIGCONT)?;
                "frozen"
            }
            2 => {
                masters[hit].relay.cut(true);
                leader(&masters, Some(hit))?;
                times.push(("cut off", begun.elapsed()));
                // What its watch would go on from is gone when it is back.
                etcd.compact()?;
                thread::sleep(FAULT);
                // What was held up comes now, late.
                masters[hit].relay.cut(false);
                "cut off"
            }
            _ => {
                etcd.stop()?;
                etcd.run()?;
                leader(&masters, None)?;
                times.push(("etcd restarted", begun.elapsed()));
                etcd.compact()?;
                "etcd restarted"
            }
        };
        let last = times.last().map_or(Duration::ZERO, |(_, time)| *time);
        if last > PROMISED {
            println!("round {round}: {what}, a leader after {last:?}");
            for master in masters.iter().filter_map(|one| one.process.as_ref()) {
                println!("{}:\n{}", master.log().display(), master.log_tail(30));
            }
        }
    }
    let promised = load.finish()?;
    leader(&masters, None)?;
    promised.check_kept(&list.join(","))?;
    let played = tasks.finish()?;
    let seen = witness.finish()?;
    ensure!(seen.broken.is_empty(), "{:#?}", seen.broken);
    ensure!(seen.n_writes > 0 && seen.terms.len() > 1, "{seen:?}");
    let checked = played.check(&seen.terms)?;
    tell(&times, promised.n, &seen, &checked);
    println!("{} subscriptions of the framework", played.n_subscriptions);
    // Who says how many rounds measures, on a machine that can keep the time.
    let most = times.iter().map(|(_, time)| *time).max();
    ensure!(
        rounds()?.is_none() || most < Some(PROMISED),
        "a change of leader took {most:?}"
    );
    Ok(())
}

fn tell(times: &[(&str, Duration)], n_promised: u64, seen: &witness::Seen, checked: &Checked) {
    let mut all: Vec<f64> = times.iter().map(|(_, time)| time.as_secs_f64()).collect();
    all.sort_by(f64::total_cmp);
    for kind in ["killed", "frozen", "cut off", "etcd restarted"] {
        let of_kind = times.iter().filter(|(what, _)| *what == kind);
        let of_kind: Vec<String> = of_kind
            .map(|(_, time)| format!("{:.2}", time.as_secs_f64()))
            .collect();
        println!("{kind}: a leader after {} s", of_kind.join(", "));
    }
    println!(
        "median {:.2} s, most {:.2} s; {n_promised} promises kept; {} terms, {} writes seen; {checked}",
        all[all.len() / 2],
        all[all.len() - 1],
        seen.terms.len(),
        seen.n_writes
    );
}
