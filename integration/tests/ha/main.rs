//! Three masters on a real etcd: the leader is killed, frozen, cut off from etcd; etcd is restarted and compacted. All
//! the while an operator writes. Nothing that was promised is lost, no write comes late, and no deposed leader writes.
//!
//! The witness follows every key in etcd, revision by revision, and trusts no master. `MEZZO_HA_ROUNDS` is how many
//! blows there are (50 take about ten minutes); the times to a new leader are printed.

mod load;
mod relay;
mod witness;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mezzo_integration::etcd::Etcd;
use mezzo_integration::http::Rest;
use mezzo_integration::process::Managed;
use mezzo_integration::{leftovers, paths, ports, wait};
use nix::sys::signal::Signal;

use load::Load;
use relay::Relay;
use witness::Witness;

const PATIENCE: Duration = Duration::from_secs(90);
/// Longer than a lease: another leads by then, or would.
const FAULT: Duration = Duration::from_secs(5);

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

fn rounds() -> Result<usize> {
    match std::env::var("MEZZO_HA_ROUNDS") {
        Ok(text) => text.parse().context("MEZZO_HA_ROUNDS is no number"),
        Err(_) => Ok(4),
    }
}

#[test]
fn a_leader_is_followed_by_another_and_nothing_that_was_promised_is_lost() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start(&dir.path().join("etcd"))?;
    let mut masters = Vec::new();
    for _ in 0..3 {
        masters.push(Master::start(dir.path(), etcd.address())?);
    }
    leader(&masters, None)?;
    let list: Vec<String> = masters.iter().map(|one| one.address.clone()).collect();
    let witness = Witness::start(etcd.address());
    let load = Load::start(list.join(","));
    let mut times = Vec::new();
    for round in 0..rounds()? {
        let hit = leader(&masters, None)?;
        let before = load.n_promised.load(Ordering::Relaxed);
        let begun = Instant::now();
        match round % 4 {
            0 => {
                masters[hit].signal(Signal::SIGKILL)?;
                leader(&masters, Some(hit))?;
                times.push(("killed", begun.elapsed()));
                if let Some(mut dead) = masters[hit].process.take() {
                    dead.wait(PATIENCE)?;
                }
                masters[hit].run(dir.path())?;
            }
            1 => {
                masters[hit].signal(Signal::SIGSTOP)?;
                leader(&masters, Some(hit))?;
                times.push(("frozen", begun.elapsed()));
                thread::sleep(FAULT.saturating_sub(begun.elapsed()));
                masters[hit].signal(Signal::SIGCONT)?;
            }
            2 => {
                masters[hit].relay.cut(true);
                leader(&masters, Some(hit))?;
                times.push(("cut off", begun.elapsed()));
                thread::sleep(FAULT.saturating_sub(begun.elapsed()));
                // What was held up comes now, late.
                masters[hit].relay.cut(false);
            }
            _ => {
                etcd.stop()?;
                etcd.run()?;
                leader(&masters, None)?;
                times.push(("etcd restarted", begun.elapsed()));
                etcd.compact()?;
            }
        }
        wait::until("more promises", PATIENCE, || {
            let now = load.n_promised.load(Ordering::Relaxed);
            ensure!(now > before + 5, "{now} promises, {before} before");
            Ok(())
        })?;
    }
    let promised = load.finish()?;
    leader(&masters, None)?;
    promised.check_kept(&list.join(","))?;
    let seen = witness.finish()?;
    tell(&times, promised.n, &seen);
    ensure!(seen.broken.is_empty(), "{:#?}", seen.broken);
    ensure!(seen.n_writes > 0 && seen.n_terms > 1, "{seen:?}");
    Ok(())
}

fn tell(times: &[(&str, Duration)], n_promised: u64, seen: &witness::Seen) {
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
        "median {:.2} s, most {:.2} s; {n_promised} promises kept; {} terms, {} writes seen",
        all[all.len() / 2],
        all[all.len() - 1],
        seen.n_terms,
        seen.n_writes
    );
}
