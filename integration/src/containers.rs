//! What really runs on this machine, read from `/proc` without asking mezzo: every first process of a container that
//! has a task id in its environment. The truth that scaling, recovery and "never twice under one task id" are
//! checked against.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The first process of a task's container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    /// `MESOS_TASK_ID`.
    pub task_id: String,
    /// `MARATHON_APP_ID`.
    pub app_id: String,
    /// In the machine's pid namespace.
    pub pid: i32,
    /// Clock ticks after boot: with the pid an identity that is not used again.
    pub started: u64,
    /// `SLEEP_VERSION`.
    pub version: String,
}

/// All of them, of all apps, in the cgroup `parent` of a cluster, by task id.
pub fn running(parent: &str) -> Vec<Running> {
    let inside = format!("{}/", parent.trim_end_matches('/'));
    let mut found: Vec<Running> = crate::leftovers::process_ids()
        .filter(|&pid| cgroup_of(pid).is_ok_and(|group| group.starts_with(&inside)))
        .filter_map(|pid| read_one(Path::new("/proc"), pid))
        .collect();
    found.sort();
    found
}

/// The first process of each container there, whoever launched it: its id, and when it began in clock ticks after boot.
pub fn first_processes(parent: &str) -> BTreeSet<(i32, u64)> {
    let inside = format!("{}/", parent.trim_end_matches('/'));
    let of = |pid: i32| {
        let dir = Path::new("/proc").join(pid.to_string());
        let status = fs::read_to_string(dir.join("status")).ok()?;
        if !is_first_of_namespace(&status) {
            return None;
        }
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        Some((pid, crate::leftovers::start_time(&stat)?))
    };
    crate::leftovers::process_ids()
        .filter(|&pid| cgroup_of(pid).is_ok_and(|group| group.starts_with(&inside)))
        .filter_map(of)
        .collect()
}

/// An error if a task id runs in two containers at this moment.
pub fn check_none_twice(running: &[Running]) -> Result<()> {
    let mut seen: BTreeMap<&str, i32> = BTreeMap::new();
    for one in running {
        if let Some(other) = seen.insert(&one.task_id, one.pid) {
            bail!(
                "task {} runs twice: as process {other} and as {}",
                one.task_id,
                one.pid
            );
        }
    }
    Ok(())
}

/// The cgroup of a process: on v1 that of the memory controller. As in [`crate::kernel`], relative to the hierarchy.
pub fn cgroup_of(pid: i32) -> Result<String> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let found = parse_cgroup(&text).with_context(|| format!("{path} names no cgroup"))?;
    Ok(found.to_owned())
}

fn parse_cgroup(text: &str) -> Option<&str> {
    let of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let names = parts.next()?;
            names
                .split(',')
                .any(|name| name == controller)
                .then(|| parts.next())
                .flatten()
        })
    };
    of("memory").or_else(|| of(""))
}

fn read_one(proc: &Path, pid: i32) -> Option<Running> {
    let dir = proc.join(pid.to_string());
    let environ = fs::read(dir.join("environ")).ok()?;
    let env = parse_environ(&environ);
    let task_id = env.get("MESOS_TASK_ID")?.clone();
    // Only the first process of a pid namespace: an exec session in the container has the same environment.
    let status = fs::read_to_string(dir.join("status")).ok()?;
    if !is_first_of_namespace(&status) {
        return None;
    }
    let started = crate::leftovers::start_time(&fs::read_to_string(dir.join("stat")).ok()?)?;
    let get = |key: &str| env.get(key).cloned().unwrap_or_default();
    Some(Running {
        task_id,
        app_id: get("MARATHON_APP_ID"),
        pid,
        started,
        version: get("SLEEP_VERSION"),
    })
}

fn parse_environ(environ: &[u8]) -> BTreeMap<String, String> {
    let words = environ.split(|&byte| byte == 0);
    let pairs = words.filter_map(|word| {
        let text = String::from_utf8_lossy(word);
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

fn is_first_of_namespace(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(task_id: &str, pid: i32) -> Running {
        Running {
            task_id: task_id.to_owned(),
            app_id: "/a".to_owned(),
            pid,
            started: 0,
            version: String::new(),
        }
    }

    #[test]
    fn reads_an_environment() {
        let env = parse_environ(b"A=1\0MESOS_TASK_ID=t.1=x\0broken\0");
        assert_eq!(env.get("MESOS_TASK_ID").map(String::as_str), Some("t.1=x"));
        assert_eq!(env.len(), 2);
    }

    #[test]
    fn only_the_first_process_of_a_namespace_counts() {
        assert!(is_first_of_namespace("Name:\tsleep\nNSpid:\t812\t1\n"));
        assert!(!is_first_of_namespace("Name:\tsh\nNSpid:\t813\t7\n"));
        assert!(!is_first_of_namespace("Name:\tinit\nNSpid:\t1\n"));
    }

    #[test]
    fn finds_the_cgroup_on_v1_and_v2() {
        assert_eq!(
            parse_cgroup("5:cpu,cpuacct:/a\n4:memory:/mezzo/b\n0::/\n"),
            Some("/mezzo/b")
        );
        assert_eq!(parse_cgroup("0::/mezzo/b\n"), Some("/mezzo/b"));
    }

    #[test]
    fn two_containers_of_one_task_are_an_error() {
        assert!(check_none_twice(&[one("a", 1), one("b", 2)]).is_ok());
        let error = check_none_twice(&[one("a", 1), one("a", 2)]).expect_err("twice");
        assert_eq!(
            error.to_string(),
            "task a runs twice: as process 1 and as 2"
        );
    }
}
