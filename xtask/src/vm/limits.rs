//! `cargo xtask vm limits`: what an app asks for, read back from the files of cgroup v2 in a guest: limits, the
//! shares of busy tasks, throttling, the OOM kill, the place of keepers, and that all of it survives a killed agent.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::vm::{Bench, Guest, GuestSpec, Job, Run};
use mezzo_integration::{images, registry, wait};
use serde_json::{Value, json};

use super::{Scratch, add_program, unified};
use crate::cargo;
use crate::steps::Steps;

const REGISTRY: &str = "127.0.0.1:5000";
const STATE: &str = "/data/mezzo";
const MIB: u64 = 1 << 20;
/// At full speed; stretched.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long busy tasks are watched. In the guest's own time, so not stretched.
const WATCH: Duration = Duration::from_secs(20);

/// Runs the command.
pub(super) fn run(bench: &Bench, steps: &mut Steps) -> Result<()> {
    let scratch = Scratch::create()?;
    let mut spec = GuestSpec::new("limits");
    steps.run("build mezzo", || {
        cargo::build_program("mezzo")?;
        fill(&mut spec, &scratch)?;
        Ok(String::new())
    })?;
    let mut guest = None;
    steps.run("boot a guest", || {
        unified(guest.insert(Guest::boot(bench, spec)?))
    })?;
    let mut guest = guest.context("the guest was not booted")?;
    let played = play(steps, &guest);
    if played.is_err() {
        println!("{}", guest.sh("tail -n 20 /data/mezzo/log/*.log || true")?);
        guest.keep_console();
    }
    played?;
    guest.power_off()
}

fn fill(spec: &mut GuestSpec, scratch: &Scratch) -> Result<()> {
    spec.memory_mb = 1024;
    spec.disk_mb = Some(2048);
    add_program(spec, "mezzo", "/usr/local/bin/mezzo")?;
    spec.with_program(&registry::find_binary()?, "/usr/local/bin/docker-registry")?;
    spec.with(&images::build_sleep()?, "/usr/local/lib/sleep");
    let config = json!({
        "version": 0.1, "log": { "level": "warn", "accesslog": { "disabled": true } },
        "storage": { "filesystem": { "rootdirectory": "/data/registry" } }, "http": { "addr": REGISTRY },
    });
    let path = scratch.0.join("registry.yml");
    fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
    spec.with(&path, "/etc/registry.yml");
    Ok(())
}

fn play(steps: &mut Steps, guest: &Guest) -> Result<()> {
    let failed_before = steps.failed();
    let _registry = guest.start(
        &Run::new(&["docker-registry", "serve", "/etc/registry.yml"])
            .env("OTEL_TRACES_EXPORTER", "none"),
    )?;
    steps.run("pack and push", || {
        let pack = format!(
            "mezzo image pack /usr/local/lib/sleep -t {REGISTRY}/sleep:1 --push --insecure-registry {REGISTRY}"
        );
        wait::until("the registry", guest.limit(PATIENCE), || guest.sh(&pack))?;
        Ok(String::new())
    })?;
    let mut dev = None;
    steps.run("start mezzo dev", || {
        let resources = "cpus:8;mem:1024;disk:1000;ports:[31000-31100]";
        let words = [
            "mezzo",
            "dev",
            "--state-dir",
            STATE,
            "--insecure-registry",
            REGISTRY,
        ];
        let run = Run::new(
            &[
                &words[..],
                &["--resources", resources, "--ready-timeout", "300s"],
            ]
            .concat(),
        );
        dev = Some(guest.start(&run)?);
        wait::until("a connected node", guest.limit(PATIENCE), || {
            let nodes = guest.sh("mezzo node list -o json")?;
            ensure!(
                nodes.contains("\"connected\""),
                "no node is connected: {nodes}"
            );
            Ok(String::new())
        })
    })?;
    let dev = dev.context("mezzo dev")?;
    let _in_the_table = steps.run("limits are the kernel's", || limits(guest));
    let _in_the_table = steps.run("limits change while it runs", || changed(guest));
    let _in_the_table = steps.run("busy tasks share as asked", || shares(guest));
    let _in_the_table = steps.run("a limited task is throttled", || throttled(guest));
    let _in_the_table = steps.run("too much memory is told as such", || oom(guest));
    let _in_the_table = steps.run("a killed agent finds them again", || adoption(guest));
    steps.run("stop mezzo dev: no cgroup stays", || stop(guest, dev))?;
    let n_failed = steps.failed() - failed_before;
    if n_failed > 0 {
        bail!("{n_failed} of the steps failed");
    }
    Ok(())
}

fn deploy(guest: &Guest, app: &Value) -> Result<()> {
    guest.put("/tmp/app.json", 0o644, app.to_string().as_bytes())?;
    let add = Run::new(&["mezzo", "app", "add", "/tmp/app.json", "--wait"]).within(PATIENCE);
    guest.run(&add)?.ok().map(drop)
}

fn app(id: &str, cpus: f64, args: &[&str]) -> Value {
    json!({
        "id": id, "cpus": cpus, "mem": 48, "instances": 1, "args": args,
        "container": { "type": "MESOS", "docker": { "image": format!("{REGISTRY}/sleep:1") } },
    })
}

/// The cgroups of the running containers of an app.
fn cgroups(guest: &Guest, app: &str) -> Result<Vec<String>> {
    let script = format!(
        "grep -lz '^MARATHON_APP_ID=/{app}$' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | while read pid; do
            cut -d: -f3 /proc/$pid/cgroup 2>/dev/null; done | sort -u"
    );
    let told = guest.sh(&script)?;
    let groups = told.lines().filter(|line| line.contains("/containers/"));
    Ok(groups
        .map(|group| format!("/sys/fs/cgroup{group}"))
        .collect())
}

fn cgroup(guest: &Guest, app: &str) -> Result<String> {
    wait::until("a container", guest.limit(PATIENCE), || {
        let mut groups = cgroups(guest, app)?;
        ensure!(groups.len() == 1, "{app} runs in {groups:?}");
        groups.pop().context("no cgroup")
    })
}

fn limits(guest: &Guest) -> Result<String> {
    let mut limited = app("limited", 0.5, &["--memory-mb", "20"]);
    limited["resourceLimits"] =
        json!({ "cpus": 0.75, "memHigh": 40, "memLow": 8, "ioWeight": 300, "pids": 99 });
    deploy(guest, &limited)?;
    let group = cgroup(guest, "limited")?;
    let file = |name: &str| -> Result<String> {
        let text = guest.read(&format!("{group}/{name}"))?;
        Ok(text.trim().to_owned())
    };
    println!("  {group}");
    for name in [
        "cgroup.controllers",
        "cgroup.procs",
        "cpu.weight",
        "cpu.max",
        "memory.max",
        "memory.current",
        "memory.peak",
        "memory.swap.max",
        "memory.oom.group",
        "memory.high",
        "memory.low",
        "pids.max",
        "pids.current",
    ] {
        println!(
            "  {name:20} {}",
            file(name)
                .unwrap_or_else(|error| format!("{error:#}"))
                .replace('\n', " ")
        );
    }
    ensure!(
        file("cpu.max")? == "75000 100000",
        "cpu.max is {}",
        file("cpu.max")?
    );
    ensure!(
        file("memory.max")? == (48 * MIB).to_string(),
        "memory.max is {}",
        file("memory.max")?
    );
    ensure!(
        file("memory.swap.max")? == "0",
        "memory.swap.max is {}",
        file("memory.swap.max")?
    );
    for (name, wanted) in [
        ("pids.max", "99".to_owned()),
        ("memory.high", (40 * MIB).to_string()),
        ("memory.low", (8 * MIB).to_string()),
        ("io.weight", "default 300".to_owned()),
    ] {
        let found = file(name)?;
        ensure!(found == wanted, "{name} is {found}, not {wanted}");
    }
    // It runs before it has filled its memory.
    wait::until("the memory to be filled", guest.limit(PATIENCE), || {
        let current: u64 = file("memory.current")?.parse().context("memory.current")?;
        ensure!(current >= 20 * MIB, "memory.current is {current}");
        Ok(())
    })?;
    // Keepers are charged to themselves, and outlive the agent's own cgroup.
    let keepers = guest.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q keeper && cut -d: -f3 $p/cgroup; done | sort -u")?;
    println!("  keepers in {}", keepers.trim());
    Ok("cpu.max, memory.max, high and low, io.weight, pids.max as asked".to_owned())
}

fn changed(guest: &Guest) -> Result<String> {
    let group = cgroup(guest, "limited")?;
    let told = guest.sh("mezzo task limit limited --memory-high 44M --pids 77 --io-weight none")?;
    ensure_changed(guest, &group)?;
    // All or none: what is booked stays, and with it the rest of the change.
    let refused = guest.sh("mezzo task limit limited --memory 16M --pids 66 2>&1 || true")?;
    ensure!(refused.contains("memory_limit_mb"), "{refused}");
    ensure_changed(guest, &group)?;
    Ok(told.trim().to_owned())
}

fn ensure_changed(guest: &Guest, group: &str) -> Result<()> {
    for (name, wanted) in [
        ("pids.max", "77".to_owned()),
        ("memory.high", (44 * MIB).to_string()),
        ("io.weight", "default 100".to_owned()),
    ] {
        let found = guest.read(&format!("{group}/{name}"))?;
        ensure!(found.trim() == wanted, "{name} is {found}, not {wanted}");
    }
    Ok(())
}

fn usage_us(guest: &Guest, group: &str) -> Result<(u64, Instant)> {
    let text = guest.read(&format!("{group}/cpu.stat"))?;
    let at = Instant::now();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    let used = line.context("cpu.stat has no usage_usec")?.trim().parse();
    Ok((used.context("usage_usec")?, at))
}

/// How many processors each group used while watched.
fn rates(guest: &Guest, groups: &[String]) -> Result<Vec<f64>> {
    let before: Vec<_> = groups
        .iter()
        .map(|group| usage_us(guest, group))
        .collect::<Result<_>>()?;
    thread::sleep(WATCH);
    let rate = |(group, (used, at)): (&String, &(u64, Instant))| {
        let (now_used, now) = usage_us(guest, group)?;
        Ok(now_used.saturating_sub(*used) as f64 / (now - *at).as_micros() as f64)
    };
    groups.iter().zip(&before).map(rate).collect()
}

fn remove(guest: &Guest, app: &str) -> Result<()> {
    guest
        .run(&Run::new(&["mezzo", "app", "remove", app, "--wait"]).within(PATIENCE))?
        .ok()
        .map(drop)
}

fn shares(guest: &Guest) -> Result<String> {
    let busy = ["--cpu-ms", "36000000"];
    deploy(guest, &app("small", 0.5, &busy))?;
    deploy(guest, &app("large", 2.0, &busy))?;
    let groups = [cgroup(guest, "small")?, cgroup(guest, "large")?];
    for group in &groups {
        println!(
            "  {} {}",
            guest.read(&format!("{group}/cpu.weight"))?.trim(),
            group
        );
    }
    let found = rates(guest, &groups)?;
    remove(guest, "small")?;
    remove(guest, "large")?;
    let ratio = found[1] / found[0].max(1e-6);
    let told = format!(
        "0.5 and 2 cpus asked on one: used {:.3} and {:.3}, 1:{ratio:.2}",
        found[0], found[1]
    );
    ensure!((3.2..4.8).contains(&ratio), "{told}");
    Ok(told)
}

fn throttled(guest: &Guest) -> Result<String> {
    let mut slow = app("slow", 0.1, &["--cpu-ms", "36000000"]);
    slow["resourceLimits"] = json!({ "cpus": 0.2 });
    deploy(guest, &slow)?;
    let group = cgroup(guest, "slow")?;
    let found = rates(guest, std::slice::from_ref(&group))?;
    let waited = wait::until("the throttling to be told", guest.limit(PATIENCE), || {
        told_to_wait(guest)
    })?;
    let stat = guest
        .read(&format!("{group}/cpu.stat"))?
        .replace('\n', ", ");
    remove(guest, "slow")?;
    let told = format!("limit 0.2, used {:.3}; {waited}", found[0]);
    println!("  {stat}");
    ensure!((0.16..0.22).contains(&found[0]), "{told}");
    Ok(told)
}

/// What the operator is told of a task that its limit holds back.
fn told_to_wait(guest: &Guest) -> Result<String> {
    let tasks: Value = serde_json::from_str(&guest.sh("mezzo task list -o json")?)?;
    let tasks = tasks.as_array().context("no list of tasks")?;
    let figure = |name: &str| {
        let told = tasks
            .iter()
            .filter_map(|task| task["usage"][name].as_u64())
            .max();
        told.filter(|value| *value > 0)
            .with_context(|| format!("no task is told to have {name}"))
    };
    Ok(format!(
        "throttled in {} periods, waited {} us for a processor",
        figure("cpu_throttled_periods")?,
        figure("cpu_pressure_some_us")?
    ))
}

fn oom(guest: &Guest) -> Result<String> {
    let glutton = app("glutton", 0.5, &["--memory-mb", "200"]);
    guest.put("/tmp/app.json", 0o644, glutton.to_string().as_bytes())?;
    guest.sh("mezzo app add /tmp/app.json")?;
    let told = wait::until("the OOM kill to be told", guest.limit(PATIENCE), || {
        let told = guest.sh("mezzo app show glutton")?;
        ensure!(told.to_lowercase().contains("memory limit"), "{told}");
        Ok(told)
    })?;
    println!("{told}");
    guest.sh("mezzo app remove glutton")?;
    let line = told
        .lines()
        .find(|line| line.to_lowercase().contains("memory limit"));
    Ok(line.unwrap_or_default().trim().to_owned())
}

fn server_pid(guest: &Guest) -> Result<i64> {
    let facts: Value = serde_json::from_str(&guest.read(&format!("{STATE}/dev.json"))?)?;
    let pid = facts["agent"]["pid"]
        .as_i64()
        .context("dev.json names no agent")?;
    guest.sh(&format!(
        "tr '\\0' ' ' < /proc/{pid}/cmdline | grep -q ' agent '"
    ))?;
    Ok(pid)
}

fn adoption(guest: &Guest) -> Result<String> {
    let group = cgroup(guest, "limited")?;
    let before = guest.read(&format!("{group}/cgroup.procs"))?;
    let pid = server_pid(guest)?;
    guest.sh(&format!("kill -9 {pid}"))?;
    wait::until("another agent", guest.limit(PATIENCE), || {
        let now = server_pid(guest)?;
        ensure!(now != pid, "it is still {pid}");
        let nodes = guest.sh("mezzo node list -o json")?;
        ensure!(nodes.contains("\"connected\""), "{nodes}");
        let tasks = guest.sh("mezzo task list -o json")?;
        ensure!(tasks.contains("limited"), "{tasks}");
        Ok(())
    })?;
    let after = guest.read(&format!("{group}/cgroup.procs"))?;
    ensure!(
        before == after,
        "other processes: {before:?}, then {after:?}"
    );
    ensure_changed(guest, &group)?;
    println!("{}", guest.sh("mezzo task list; mezzo status")?);
    Ok(format!(
        "the same process {}",
        after.trim().replace('\n', " ")
    ))
}

fn stop(guest: &Guest, dev: Job<'_>) -> Result<String> {
    dev.signal(nix::libc::SIGTERM)?;
    let ended = dev.wait(PATIENCE)?;
    println!("{}", ended.stdout);
    ended.ok()?;
    let left =
        guest.sh("find /sys/fs/cgroup -mindepth 1 -type d; grep overlay /proc/mounts || true")?;
    ensure!(
        left.trim().is_empty(),
        "left behind: {}",
        left.trim().replace('\n', ", ")
    );
    Ok("no cgroup, no overlay".to_owned())
}
