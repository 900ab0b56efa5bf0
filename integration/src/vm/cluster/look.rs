//! What is so in a cluster, and what was so: waits, looks at all kernels, and the judgement of the history.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{CGROUP, Cluster, MASTER, Machine, PACE, PATIENCE};
use crate::history::{Checked, Look, Seen, Status};
use crate::interrupt;
use crate::vm::net;
use crate::vm::spec::Run;

impl Cluster {
    /// Waits for a state of the cluster. Every look is also a look at all kernels, for the history.
    pub fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (limit, start) = (self.limit(within), Instant::now());
        loop {
            self.look()?;
            if interrupt::requested() {
                bail!("interrupted while waiting for {what}");
            }
            match probe(self) {
                Ok(found) => return Ok(found),
                Err(reason) if start.elapsed() >= limit => {
                    let secs = limit.as_secs();
                    return Err(reason).with_context(|| format!("waited {secs} s for {what}"));
                }
                Err(_) => thread::sleep(PACE),
            }
        }
    }

    /// Looks for as long as `during` (of this machine's clock) lasts; fails when `probe` does.
    pub fn always(
        &mut self,
        what: &str,
        during: Duration,
        mut probe: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < during {
            self.look()?;
            if interrupt::requested() {
                bail!("interrupted while watching that {what}");
            }
            probe(self).with_context(|| what.to_owned())?;
            thread::sleep(PACE);
        }
        Ok(())
    }

    /// Asks every kernel what runs.
    fn look(&mut self) -> Result<()> {
        let at = self.began.elapsed();
        let mut seen = Vec::new();
        for machine in self.machines().into_iter().skip(1) {
            if !self.guest(machine).is_on() || self.frozen.contains(&machine) {
                continue;
            }
            let boot = self.boots[usize::from(machine.0) - 1];
            let run = Run::new(&["/sbin/mezzo-guest", "running", CGROUP]).within(PATIENCE);
            let told = self.guest(machine).run(&run)?.ok()?;
            let lines = told.lines().map(|line| parse_seen(line, machine, boot));
            seen.extend(lines.collect::<Result<Vec<_>>>()?);
        }
        let cut_off = self.cut_off.iter().map(|machine| machine.name()).collect();
        self.history.looks.push(Look { at, seen, cut_off });
        Ok(())
    }

    /// What ran of an app at the latest look, on machines that are not cut off.
    pub fn running(&self, app: &str) -> Vec<Seen> {
        let app = format!("/{}", app.trim_start_matches('/'));
        let Some(look) = self.history.looks.last() else {
            return Vec::new();
        };
        let seen = look.seen.iter();
        seen.filter(|one| one.app == app && !look.cut_off.contains(&one.machine))
            .cloned()
            .collect()
    }

    /// Waits until the API and the kernels agree that exactly `count` of an app run and nothing is under way.
    pub fn wait_running(&mut self, app: &str, count: usize, within: Duration) -> Result<Vec<Seen>> {
        let path = format!("/v2/apps/{}", app.trim_start_matches('/'));
        let what = format!("{count} running tasks of {app}");
        let lonely: BTreeSet<Machine> = self.cut_off.clone();
        let found = self.until(&what, within, |cluster| {
            let told = cluster.rest("GET", &path, "")?.ok()?.json;
            let n_told = told["app"]["tasksRunning"].as_u64();
            let n_under_way = told["app"]["deployments"].as_array().map_or(0, Vec::len);
            let running = cluster.running(app);
            ensure!(
                n_told == Some(count as u64) && running.len() == count && n_under_way == 0,
                "the API tells {n_told:?} running and {n_under_way} deployments, {} run; last failure: {}",
                running.len(),
                told["app"]["lastTaskFailure"]["message"]
            );
            Ok(running)
        })?;
        // Of a machine that is reached again, everything counts from here on.
        if lonely.iter().all(|machine| self.is_connected(*machine)) {
            self.cut_off.clear();
            self.frozen.clear();
        }
        Ok(found)
    }

    /// The tasks of which the scheduler has been told the end so far.
    pub fn ended(&self) -> BTreeSet<String> {
        let heard = self.guest(MASTER).heard("scheduler");
        let told = heard.lines().filter_map(parse_told);
        told.filter(Status::is_terminal)
            .map(|status| status.task)
            .collect()
    }

    /// All apps.
    pub fn app_ids(&self) -> Result<Vec<String>> {
        let told = self.rest("GET", "/v2/apps", "")?.ok()?.json;
        let apps = told["apps"].as_array().context("no list of apps")?.iter();
        let ids = apps.filter_map(|app| app["id"].as_str().map(str::to_owned));
        Ok(ids.collect())
    }

    /// How often the kernels were looked at.
    pub fn n_looks(&self) -> usize {
        self.history.looks.len()
    }

    fn is_connected(&self, machine: Machine) -> bool {
        let agents = self.agents().unwrap_or_default();
        agents
            .iter()
            .any(|(name, state)| *name == machine.name() && state == "connected")
    }

    /// Names and states of the agents, as the master tells them.
    pub fn agents(&self) -> Result<Vec<(String, String)>> {
        let list = format!(
            "mezzo node list -o json --master {}:5050",
            net::address(MASTER.0)
        );
        let told: Value = serde_json::from_str(&self.guest(MASTER).sh(&list)?)
            .context("the list of nodes is no JSON")?;
        let nodes = told.as_array().or_else(|| told["nodes"].as_array());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let nodes = nodes.context("the list of nodes is none")?.iter();
        Ok(nodes
            .map(|node| (text(&node["hostname"]), text(&node["state"])))
            .collect())
    }

    /// Waits until so many agents are connected.
    pub fn wait_agents(&mut self, count: usize) -> Result<()> {
        self.until(&format!("{count} connected agents"), PATIENCE, |cluster| {
            let agents = cluster.agents()?;
            let n_connected = agents
                .iter()
                .filter(|(_, state)| state == "connected")
                .count();
            ensure!(n_connected == count, "the master tells {agents:?}");
            Ok(())
        })
    }

    /// Waits until the witnesses have nothing more to tell, and judges the whole history.
    pub fn check(&mut self) -> Result<Checked> {
        self.until("a history that keeps the rules", PATIENCE, |cluster| {
            cluster.gather()?;
            match cluster.history.check() {
                Err(broken) if broken.may_heal => Err(broken.into()),
                judged => Ok(judged),
            }
        })?
        .map_err(Into::into)
    }

    /// Asks the scheduler's log and the agents' disks.
    fn gather(&mut self) -> Result<()> {
        let heard = self.guest(MASTER).heard("scheduler");
        self.history.told = heard.lines().filter_map(parse_told).collect();
        let mut written: BTreeMap<String, Vec<Status>> = BTreeMap::new();
        for machine in self.machines().into_iter().skip(1) {
            let is_on = self.guest(machine).is_on();
            ensure!(is_on, "{} is off: its disk tells nothing", machine.name());
            let logs = "find /data/agent/tasks -name log.jsonl -exec cat {} + 2>/dev/null || true";
            let run = Run::new(&["/bin/sh", "-c", logs]).within(PATIENCE);
            let text = self.guest(machine).run(&run)?.ok()?;
            for status in text.lines().filter_map(parse_written) {
                written.entry(status.task.clone()).or_default().push(status);
            }
        }
        self.history.written = written;
        Ok(())
    }
}

/// A line of `mezzo-guest running`.
fn parse_seen(line: &str, machine: Machine, boot: u32) -> Result<Seen> {
    let context = || format!("{}: not a running task: {line}", machine.name());
    let value: Value = serde_json::from_str(line).with_context(context)?;
    let text = |name: &str| {
        value[name]
            .as_str()
            .map(str::to_owned)
            .with_context(context)
    };
    let number = |name: &str| value[name].as_u64().with_context(context);
    Ok(Seen {
        task: text("task")?,
        app: text("app")?,
        machine: machine.name(),
        boot,
        pid: i32::try_from(number("pid")?).with_context(context)?,
        started: number("started")?,
    })
}

/// A line of the scheduler's log, if it is about a status.
fn parse_told(line: &str) -> Option<Status> {
    let value: Value = serde_json::from_str(line).ok()?;
    let fields = &value["fields"];
    let text = |name: &str| fields[name].as_str().map(str::to_owned);
    (fields["message"] == "status").then_some(())?;
    Some(Status {
        task: text("task")?,
        state: text("state")?,
        update: text("update"),
    })
}

/// A line of a task's log on an agent's disk, if it is a status.
fn parse_written(line: &str) -> Option<Status> {
    let value: Value = serde_json::from_str(line).ok()?;
    let update = &value["update"];
    let text = |name: &str| update[name].as_str().map(str::to_owned);
    Some(Status {
        task: text("task_id")?,
        state: format!("TASK_{}", text("state")?),
        update: text("update_id"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_scheduler_was_told() {
        let line = r#"{"level":"DEBUG","fields":{"message":"status","task":"t","state":"TASK_RUNNING","update":"u","text":""}}"#;
        let status = parse_told(line).expect("a status");
        assert_eq!(
            (status.task.as_str(), status.update.as_deref()),
            ("t", Some("u"))
        );
        assert_eq!(parse_told(r#"{"fields":{"message":"subscribed"}}"#), None);
        assert_eq!(parse_told("scheduler ended with 1"), None);
    }

    #[test]
    fn reads_what_an_agent_wrote() {
        let line = r#"{"update":{"task_id":"t","state":"FAILED","update_id":"u"}}"#;
        let status = parse_written(line).expect("a status");
        assert!(status.is_terminal());
        assert_eq!(parse_written(r#"{"acknowledged":"u"}"#), None);
    }
}
