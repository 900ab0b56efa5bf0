//! Three schedulers on a real etcd, a master, simulated agents: the leader is killed and frozen amid a deployment, gives
//! the lead away, etcd is restarted and compacted. Every request goes to any of them. What was answered with a deployment
//! is done by whoever leads next; each instance is launched once, none is killed, and no deposed leader writes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mezzo_fleet::Fleet;
use mezzo_integration::etcd::Etcd;
use mezzo_integration::http::{Answer, Rest};
use mezzo_integration::process::Managed;
use mezzo_integration::{leftovers, paths, ports, wait};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::witness::Witness;
use crate::{ALONE, FAULT, PATIENCE};

const APP: &str = "/v2/apps//web";

struct Scheduler {
    address: String,
    process: Option<Managed>,
}

impl Scheduler {
    fn run(&mut self, dir: &Path, etcd: &str, master: &str) -> Result<()> {
        let mut command = Command::new(paths::program("mezzo")?);
        command.arg("scheduler").args(["--listen", &self.address]);
        let name = self.address.replace(':', "-");
        command.arg("--state-dir").arg(dir.join(&name));
        command.args(["--store", &format!("etcd://{etcd}/ha"), "--master", master]);
        command.env(leftovers::MARKER, "scheduler");
        let log = dir.join(format!("{name}.log"));
        self.process = Some(Managed::spawn("a scheduler", &mut command, &log)?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.as_ref();
        process.context("it does not run")?.signal(signal)
    }

    fn leads(&self) -> bool {
        let health = Rest::new(&self.address).get("/healthz");
        health.is_ok_and(|answer| answer.status == 200 && answer.json["status"] == "ok")
    }
}

struct Schedulers(Vec<Scheduler>);

impl Schedulers {
    fn leader(&self, not: Option<usize>) -> Result<usize> {
        wait::until("a scheduler to lead", PATIENCE, || {
            let others = (0..self.0.len()).filter(|i| Some(*i) != not);
            others
                .into_iter()
                .find(|i| self.0[*i].leads())
                .context("nobody leads")
        })
    }

    /// Asks the `nth` that is not `not`, until it answers with a success.
    fn ask(
        &self,
        nth: usize,
        not: Option<usize>,
        call: impl Fn(&Rest) -> Result<Answer>,
    ) -> Result<Answer> {
        let others: Vec<usize> = (0..self.0.len()).filter(|i| Some(*i) != not).collect();
        let rest = Rest::new(&self.0[others[nth % others.len()]].address);
        wait::until("an answer", PATIENCE, || call(&rest)?.ok())
    }

    /// The ids of all tasks, once so many run and no deployment is under way.
    fn settled(
        &self,
        nth: usize,
        not: Option<usize>,
        instances: usize,
    ) -> Result<BTreeSet<String>> {
        wait::until("the app to settle", PATIENCE, || {
            let answer = self.ask(nth, not, |rest| rest.get(APP))?;
            let app = &answer.json["app"];
            ensure!(
                app["tasksRunning"] == instances && app["deployments"] == json!([]),
                "{} of {instances} run, {}",
                app["tasksRunning"],
                app["deployments"]
            );
            let tasks = app["tasks"].as_array().context("no tasks")?;
            let ids = tasks.iter().filter_map(|task| task["id"].as_str());
            Ok(ids.map(str::to_owned).collect())
        })
    }
}

fn start_master(dir: &Path) -> Result<(Managed, String)> {
    let address = format!("127.0.0.1:{}", ports::free()?);
    let mut command = Command::new(paths::program("mezzo")?);
    command.args(["master", "--listen", &address]);
    command.arg("--state-dir").arg(dir.join("master"));
    command.env(leftovers::MARKER, "master");
    let process = Managed::spawn("the master", &mut command, &dir.join("master.log"))?;
    wait::until("the master to lead", PATIENCE, || {
        Rest::new(&address).get("/healthz")?.ok()
    })?;
    Ok((process, address))
}

#[test]
fn a_leading_scheduler_is_followed_by_another_and_no_task_ends() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start(&dir.path().join("etcd"))?;
    let (_master, master) = start_master(dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let resources = "cpus:8;mem:32768;disk:100000;ports:[31000-32000]".parse()?;
    let fleet = runtime.block_on(async {
        Fleet::spawn(mezzo_fleet::Config {
            masters: vec![master.clone()],
            agents: 5,
            resources,
            repeat_after: Duration::from_secs(1),
            ..mezzo_fleet::Config::default()
        })
    })?;
    let mut schedulers = Schedulers(Vec::new());
    for _ in 0..3 {
        let mut scheduler = Scheduler {
            address: format!("127.0.0.1:{}", ports::free()?),
            process: None,
        };
        scheduler.run(dir.path(), etcd.address(), &master)?;
        schedulers.0.push(scheduler);
    }
    let first = schedulers.leader(None)?;
    let witness = Witness::start(etcd.address(), "/ha-scheduler/");
    let app = json!({
        "id": "/web",
        "cmd": "run",
        "cpus": 0.1,
        "mem": 32,
        "instances": 10,
        "container": {"type": "DOCKER", "docker": {"image": "i"}},
    });
    // A follower hands it on, and says who leads.
    let answer = schedulers.ask(0, Some(first), |rest| {
        rest.post("/v2/apps", app.to_string())
    })?;
    let leads = answer.headers.get("x-marathon-leader");
    // On a busy machine another may lead by now.
    let urls = [first, schedulers.leader(None)?].map(|nth| {
        let address = &schedulers.0[nth].address;
        format!("http://{address}")
    });
    ensure!(
        leads.is_some_and(|url| urls.contains(url)),
        "{leads:?} instead of one of {urls:?}"
    );
    let mut instances = 10;
    let mut known = schedulers.settled(1, Some(first), instances)?;

    for round in 0..4 {
        let hit = schedulers.leader(None)?;
        instances += 5;
        // Answered, so it is to be done; the blow comes right after.
        let change = json!({ "instances": instances }).to_string();
        schedulers.ask(round, None, |rest| rest.put(APP, &change))?;
        match round {
            0 => {
                schedulers.0[hit].signal(Signal::SIGKILL)?;
                schedulers.leader(Some(hit))?;
            }
            1 => {
                schedulers.0[hit].signal(Signal::SIGSTOP)?;
                schedulers.leader(Some(hit))?;
                schedulers.settled(round, Some(hit), instances)?;
                thread::sleep(FAULT);
                schedulers.0[hit].signal(Signal::SIGCONT)?;
            }
            2 => {
                let told = Rest::new(&schedulers.0[hit].address)
                    .delete("/v2/leader")?
                    .ok()?;
                ensure!(
                    told.json["message"] == "Leadership abdicated",
                    "{}",
                    told.text
                );
                schedulers.leader(None)?;
            }
            _ => {
                etcd.stop()?;
                etcd.run()?;
                schedulers.leader(None)?;
                etcd.compact()?;
            }
        }
        let dead = (round == 0).then_some(hit);
        let now = schedulers.settled(round + 1, dead, instances)?;
        ensure!(known.is_subset(&now), "{known:?} were there, {now:?} are");
        known = now;
        if round == 0 {
            if let Some(mut dead) = schedulers.0[hit].process.take() {
                dead.wait(PATIENCE)?;
            }
            schedulers.0[hit].run(dir.path(), etcd.address(), &master)?;
        }
    }

    // The agents' word: as many tasks as instances, each begun once, none told to end.
    let counts = fleet.counts();
    ensure!(
        counts.tasks == instances as u64 && counts.launches == counts.tasks,
        "{instances} instances: {counts:?}"
    );
    ensure!(counts.kills == 0 && counts.overcommitted == 0, "{counts:?}");
    let seen = witness.finish()?;
    ensure!(seen.broken.is_empty(), "{:#?}", seen.broken);
    println!(
        "{} terms, {} writes of schedulers seen",
        seen.terms.len(),
        seen.n_writes
    );
    runtime.block_on(fleet.stop());
    Ok(())
}
