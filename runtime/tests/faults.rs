//! What dies and what must happen then: the agent, the launcher, the keeper, in the middle of anything.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Node, TIMEOUT, alive, id, kill, tell, until, within};
use mezzo_runtime::{ContainerState, Exit};

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime_and_are_found_again() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let first = node
        .runtime()
        .start(&id("on"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let second = node
        .runtime()
        .start(&id("off"), node.spec(&["graceful"]))
        .await
        .unwrap();
    node.await_output("off", "ready").await;
    node.close();
    // One of them ends while nobody is there.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(second.pid),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    until("the second keeper is gone", || !alive(second.keeper_pid)).await;
    node.open().await;
    let record = within(node.runtime().wait(&id("off"))).await.unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    assert!(node.stdout("off").ends_with("bye\n"));
    let status = node.runtime().status(&id("on")).await.unwrap().unwrap();
    assert!(
        matches!(status.state, ContainerState::Running { pid, .. } if pid == first.pid),
        "{status:?}"
    );
    assert_eq!(status.keeper_pid, Some(first.keeper_pid));
    assert!(node.runtime().usage(&id("on")).await.unwrap().pids == Some(1));
    // And it is a full member: it can be stopped, and its end is seen.
    kill(first.pid);
    assert_eq!(
        within(node.runtime().wait(&id("on"))).await.unwrap().exit,
        Exit::Signal(libc::SIGKILL)
    );
}

/// Not a test by itself: the agent that is killed in the next one.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Ok(state) = std::env::var("MEZZO_TEST_VICTIM") else {
        return;
    };
    let config: Vec<&str> = state.split('|').collect();
    let mut runtime_config = mezzo_runtime::RuntimeConfig::new(config[0].into(), config[1].into());
    runtime_config.launcher =
        mezzo_runtime::LauncherProgram::Path(env!("CARGO_BIN_EXE_mezzo-launcher").into());
    let runtime = mezzo_runtime::Runtime::open(runtime_config).await.unwrap();
    println!("open");
    let mut number = 0;
    loop {
        let dir = |name: &str| {
            std::path::PathBuf::from(config[2])
                .join(format!("{name}-v{number}-{}", std::process::id()))
        };
        fs::create_dir(dir("upper")).unwrap();
        fs::create_dir(dir("work")).unwrap();
        let rootfs = mezzo_runtime::Rootfs::Overlay {
            lowers: vec![std::path::PathBuf::from(config[2]).join("image")],
            upper: dir("upper"),
            work: dir("work"),
        };
        let spec =
            mezzo_runtime::ContainerSpec::new(rootfs, vec!["/bin/probe".into(), "sleep".into()]);
        let name = id(&format!("v{}-{number}", std::process::id()));
        let started = runtime.start(&name, spec).await.unwrap();
        println!("{name} {} {}", started.pid, started.keeper_pid);
        number += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_the_middle_of_starts_loses_and_doubles_nothing() {
    let Some(mut node) = Node::closed() else {
        return;
    };
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(
                "MEZZO_TEST_VICTIM",
                format!(
                    "{}|{}|{}",
                    node.config.state_dir.display(),
                    node.config.cgroup_parent,
                    node.path().display()
                ),
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed after the n-th start, that is, in the middle of the next.
        let mut told = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.starts_with('v') && line.contains('-') {
                told.push(line);
            }
            if told.len() == 2 + round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let runtime = node.open().await.clone();
        let listed = runtime.list().await.unwrap();
        for line in &told {
            let mut words = line.split(' ');
            let name = id(words.next().unwrap());
            let pid: i32 = words.next().unwrap().parse().unwrap();
            let status = listed
                .iter()
                .find(|status| status.id == name)
                .expect("each container told of is found");
            assert!(
                matches!(status.state, ContainerState::Running { pid: found, .. } if found == pid),
                "{status:?}"
            );
            assert!(alive(pid));
        }
        // The one in the middle either runs, with a keeper, or is closed with a reason; nothing in between.
        let mut running = 0;
        for status in &listed {
            match &status.state {
                ContainerState::Running { pid, .. } => {
                    assert!(alive(*pid) && alive(status.keeper_pid.unwrap()));
                    running += 1;
                }
                ContainerState::Exited(record) => {
                    assert_eq!(record.exit, Exit::StartInterrupted, "{record:?}");
                }
                ContainerState::Starting => panic!("{status:?}"),
            }
        }
        assert_eq!(probes(&node), running, "no process beside the listed ones");
        node.close();
    }
}

/// Processes of the probe in this node's containers: those whose cgroup says so.
fn probes(node: &Node) -> usize {
    let mine = format!("{}/containers/", node.config.cgroup_parent);
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| text.contains(&mine))
        })
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                .is_some_and(alive)
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_dies_with_its_keeper_and_is_reported() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = node
        .runtime()
        .start(&id("orphan"), node.spec(&["sleep"]))
        .await
        .unwrap();
    kill(started.keeper_pid);
    let record = within(node.runtime().wait(&id("orphan"))).await.unwrap();
    assert_eq!(record.exit, Exit::KeeperLost);
    assert_eq!(record.started_at_ms, started.started_at_ms);
    assert!(record.usage.cpu_total_us > 0);
    assert!(!alive(started.pid));
    assert!(!node.cgroup_dir("memory", "orphan").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_to_all_in_the_cgroups_lets_programs_end_and_keepers_report() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = node
        .runtime()
        .start(&id("polite"), node.spec(&["graceful"]))
        .await
        .unwrap();
    node.await_output("polite", "ready").await;
    // As systemd does when it stops the unit they are in.
    for pid in [started.keeper_pid, started.pid] {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    let record = within(node.runtime().wait(&id("polite"))).await.unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    assert!(node.stdout("polite").ends_with("bye\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_lost_while_no_runtime_is_there_is_reported_by_the_next() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let started = node
        .runtime()
        .start(&id("orphan"), node.spec(&["sleep"]))
        .await
        .unwrap();
    node.close();
    kill(started.keeper_pid);
    until("the kernel kills the container with it", || {
        !alive(started.pid)
    })
    .await;
    node.open().await;
    assert_eq!(
        within(node.runtime().wait(&id("orphan")))
            .await
            .unwrap()
            .exit,
        Exit::KeeperLost
    );
    assert!(!node.cgroup_dir("memory", "orphan").exists());
}

/// A process that a signal cannot end, as one in uninterruptible sleep: version 1 freezes so deep. Thawed when dropped.
struct Frozen(PathBuf);

impl Frozen {
    /// `None`, said loudly, where there is no freezer of version 1.
    fn new(pid: i32) -> Option<Self> {
        let freezer = Path::new("/sys/fs/cgroup/freezer");
        if !freezer.join("cgroup.procs").exists() {
            tell("skipped: no freezer of cgroup version 1");
            return None;
        }
        let frozen = Self(freezer.join(format!("mezzo-test-frozen-{}", std::process::id())));
        fs::create_dir(&frozen.0).unwrap();
        frozen.write("cgroup.procs", &pid.to_string());
        frozen.write("freezer.state", "FROZEN");
        Some(frozen)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.0.join("freezer.state")).unwrap() == "FROZEN\n"
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.write("freezer.state", "THAWED");
        let deadline = Instant::now() + TIMEOUT;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_die_with_its_keeper_runs_until_it_does() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let started = node
        .runtime()
        .start(&id("stuck"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let Some(frozen) = Frozen::new(started.pid) else {
        return;
    };
    until("it is frozen", || frozen.is_frozen()).await;
    kill(started.keeper_pid);
    until("the keeper is gone", || !alive(started.keeper_pid)).await;
    // Longer than one try to end it. However long: it is there, so nobody may be told that it is not.
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        let status = node.runtime().status(&id("stuck")).await.unwrap().unwrap();
        assert!(
            matches!(status.state, ContainerState::Running { pid, .. } if pid == started.pid),
            "{status:?}"
        );
        assert!(alive(started.pid));
        // The next runtime finds the same.
        node.close();
        node.open().await;
    }
    drop(frozen);
    let record = within(node.runtime().wait(&id("stuck"))).await.unwrap();
    assert_eq!(record.exit, Exit::KeeperLost);
    assert_eq!(record.started_at_ms, started.started_at_ms);
    assert!(!alive(started.pid));
    assert!(!node.cgroup_dir("memory", "stuck").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_launcher_is_started_when_one_dies() {
    let Some(node) = Node::new().await else {
        return;
    };
    let before = node
        .runtime()
        .start(&id("before"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let launcher = i32::try_from(node.runtime().launcher_pid().await.unwrap()).unwrap();
    kill(launcher);
    until("the launcher is gone", || !alive(launcher)).await;
    assert_eq!(
        node.run("after", node.spec(&["true"])).await.exit,
        Exit::Code(0)
    );
    assert_ne!(
        node.runtime().launcher_pid().await,
        Some(launcher.unsigned_abs())
    );
    assert!(alive(before.pid) && alive(before.keeper_pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_known_before_the_cgroup_is_gone_whoever_is_killed() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    for round in 0..8 {
        let (at_record, watched) = (round % 2 == 0, round % 4 < 2);
        let name = format!("short-{round}");
        let dir = node.config.state_dir.join("containers").join(&name);
        let started = node
            .runtime()
            .start(&id(&name), node.spec(&["sleep"]))
            .await
            .unwrap();
        if !watched {
            node.close();
        }
        kill(started.pid);
        // Without a pause: the keeper is to be met at its work, as early as its record may be there or when its first
        // cgroup is gone. Wherever it is met, what must hold does.
        let cgroup = node.cgroup_dir("memory", &name);
        let (settled, put) = (dir.join("exit.json"), dir.join(".exit.json.new"));
        let deadline = Instant::now() + common::TIMEOUT;
        while if at_record {
            !put.exists() && !settled.exists()
        } else {
            cgroup.exists()
        } {
            assert!(Instant::now() < deadline, "the keeper does not do its work");
        }
        // The first of the two may be there and not be written yet.
        let known = !at_record || settled.exists();
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(started.keeper_pid),
            nix::sys::signal::Signal::SIGKILL,
        );
        if !watched {
            until("the keeper is gone", || !alive(started.keeper_pid)).await;
            node.open().await;
        }
        let record = within(node.runtime().wait(&id(&name))).await.unwrap();
        let lost = !known && record.exit == Exit::KeeperLost;
        assert!(
            lost || record.exit == Exit::Signal(libc::SIGKILL),
            "{record:?}"
        );
        assert_eq!(record.started_at_ms, started.started_at_ms);
        assert!(record.usage.cpu_total_us > 0, "{record:?}");
        assert!(!cgroup.exists());
        assert!(settled.exists() && !put.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_keeper_left_behind_is_settled_and_what_it_left_is_removed() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for (name, boot_id) in [("here", boot.trim()), ("rebooted", "00000000-another")] {
        node.run(name, node.spec(&["exit", "4"])).await;
        node.close();
        let dir = node.config.state_dir.join("containers").join(name);
        // As it dies between its record and the removal of the cgroup.
        fs::rename(dir.join("exit.json"), dir.join(".exit.json.new")).unwrap();
        let text = fs::read_to_string(dir.join("spec.json")).unwrap();
        fs::write(dir.join("spec.json"), text.replace(boot.trim(), boot_id)).unwrap();
        let cgroup = node.cgroup_dir("memory", name);
        fs::create_dir(&cgroup).unwrap();
        node.open().await;
        let record = within(node.runtime().wait(&id(name))).await.unwrap();
        assert_eq!(record.exit, Exit::Code(4), "{name}");
        assert!(record.usage.cpu_total_us > 0, "{record:?}");
        assert!(!cgroup.exists());
        assert!(dir.join("exit.json").exists() && !dir.join(".exit.json.new").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_boot_is_closed_as_lost() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("old"), node.spec(&["sleep"]))
        .await
        .unwrap();
    within(
        node.runtime()
            .stop(&id("old"), std::time::Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
    node.close();
    // What a power failure leaves: no exit record, and another boot's id.
    let dir = node.config.state_dir.join("containers/old");
    fs::remove_file(dir.join("exit.json")).unwrap();
    let text = fs::read_to_string(dir.join("spec.json")).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(
        dir.join("spec.json"),
        text.replace(boot.trim(), "00000000-another"),
    )
    .unwrap();
    node.open().await;
    assert_eq!(
        within(node.runtime().wait(&id("old"))).await.unwrap().exit,
        Exit::LostAtReboot
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_do_not_keep_the_others_from_being_found() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    node.run("good", node.spec(&["exit", "4"])).await;
    node.run("bad", node.spec(&["true"])).await;
    node.close();
    let containers = node.config.state_dir.join("containers");
    fs::write(containers.join("bad/spec.json"), "{\"version\":1,\"id\":").unwrap();
    fs::create_dir(containers.join("never-begun")).unwrap();
    let forgotten = node.cgroup_dir("memory", "forgotten");
    fs::create_dir(&forgotten).unwrap();
    fs::create_dir(node.config.state_dir.join("removing/half")).unwrap();
    node.open().await;
    let listed = node.runtime().list().await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|status| status.id.as_str())
            .collect::<Vec<_>>(),
        ["good"]
    );
    assert!(
        containers.join("bad").exists(),
        "kept for somebody to look at"
    );
    assert!(!containers.join("never-begun").exists());
    assert!(!forgotten.exists());
    assert!(!node.config.state_dir.join("removing/half").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn launchers_and_keepers_killed_in_the_middle_of_starts_leave_nothing_half_done() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..24 {
        let (runtime, spec) = (node.runtime().clone(), node.spec(&["sleep"]));
        starts.spawn(async move {
            let name = id(&format!("c{number}"));
            (name.clone(), runtime.start(&name, spec).await)
        });
    }
    let (mut results, mut kills, mut victims) = (Vec::new(), 0, Vec::new());
    while let Some(result) = within(starts.join_next()).await {
        results.push(result.unwrap());
        // After every few starts something dies, while the next ones are under way.
        match results.len() % 6 {
            2 => {
                if let Some(pid) = node.runtime().launcher_pid().await {
                    kill(i32::try_from(pid).unwrap());
                }
                kills += 1;
            }
            5 => {
                let listed = node.runtime().list().await.unwrap();
                let told: Vec<_> = listed
                    .iter()
                    .filter_map(|status| status.keeper_pid)
                    .collect();
                // A keeper that nobody has been told of yet: its start is under way.
                let victim = supervisors(&node)
                    .into_iter()
                    .find(|(pid, name)| name == "mezzo-keeper" && !told.contains(pid));
                if let Some((pid, _)) = victim {
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                    victims.push(pid);
                    kills += 1;
                }
            }
            _ => {}
        }
    }
    assert!(kills >= 4, "{kills}");
    // A keeper may have been killed just after its answer; its container's end is taken note of in a moment.
    until("every victim is taken note of", || {
        let listed = futures_now(node.runtime().list()).unwrap();
        !listed
            .iter()
            .any(|status| status.keeper_pid.is_some_and(|pid| victims.contains(&pid)))
    })
    .await;
    let mut running = 0;
    for (name, result) in &results {
        let status = node.runtime().status(name).await.unwrap();
        match result {
            Ok(started) => {
                let status = status.unwrap();
                match status.state {
                    ContainerState::Running { pid, .. } => {
                        assert!(pid == started.pid && alive(pid));
                        running += 1;
                    }
                    // The keeper was killed just after its answer.
                    ContainerState::Exited(record) => assert_eq!(record.exit, Exit::KeeperLost),
                    ContainerState::Starting => panic!("{name}"),
                }
            }
            Err(error) => {
                assert_eq!(status, None, "{error}");
                assert!(
                    !node
                        .config
                        .state_dir
                        .join("containers")
                        .join(name.as_str())
                        .exists()
                );
                assert!(!node.cgroup_dir("memory", name.as_str()).exists());
            }
        }
    }
    assert!(running >= 16, "{running}");
    until("nothing runs beside what is listed", || {
        probes(&node) == running
    })
    .await;
    // A new runtime sees the same.
    node.close();
    let listed = node.open().await.list().await.unwrap();
    let found = listed
        .iter()
        .filter(|status| matches!(status.state, ContainerState::Running { .. }))
        .count();
    assert_eq!(found, running, "{listed:?}");
}

/// The launcher and the keepers of this node, by pid and name.
fn supervisors(node: &Node) -> Vec<(i32, String)> {
    let mine = format!("{}/keepers", node.config.cgroup_parent);
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&mine) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            all.push((pid, name.trim().to_owned()));
        }
    }
    all
}

/// The result of a future that does not have to wait.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
