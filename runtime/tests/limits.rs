//! Limits are enforced by the kernel, and usage is what the kernel says.

mod common;
#[path = "limits/memory.rs"]
mod memory;

use std::fs;
use std::time::{Duration, Instant};

use common::{Node, id, output, probe_in, tell, until, within};
use mezzo_runtime::{
    CpuSet, DeviceSpec, Exit, HugePageLimit, IoDevice, IoLimit, Limits, StartError, UpdateError,
    Usage,
};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_over_its_memory_limit_is_reported_as_killed_for_it() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["eat", "64"]);
    spec.limits.memory_bytes = Some(16 * MIB);
    node.runtime().start(&id("glutton"), spec).await.unwrap();
    // Without this a host with swap would let it have as much of that as there is.
    let swap = node.cgroup_dir("memory", "glutton").join("memory.swap.max");
    let swap = fs::read_to_string(swap);
    let record = within(node.runtime().wait(&id("glutton"))).await.unwrap();
    assert!(swap.is_err() || swap.is_ok_and(|most| most.trim() == "0"));
    assert_eq!(
        (&record.exit, record.oom_killed),
        (&Exit::Signal(libc::SIGKILL), true)
    );
    assert_eq!(record.memory_limit_bytes, Some(16 * MIB));
    let peak = record.usage.memory_peak_bytes.unwrap();
    assert!(peak > 15 * MIB && peak <= 16 * MIB, "{peak}");
    assert!(record.usage.oom_kills.unwrap() >= 1);
    if Node::v2() {
        assert!(record.usage.memory_max_events.unwrap() >= 1);
        assert!(record.usage.memory_oom_events.unwrap() >= 1);
    } else {
        assert_eq!(record.usage.memory_max_events, None);
    }
    // A plain SIGKILL is not one.
    node.runtime()
        .start(&id("plain"), node.spec(&["sleep"]))
        .await
        .unwrap();
    node.runtime()
        .signal(&id("plain"), libc::SIGKILL)
        .await
        .unwrap();
    let record = within(node.runtime().wait(&id("plain"))).await.unwrap();
    assert_eq!(
        (record.exit, record.oom_killed),
        (Exit::Signal(libc::SIGKILL), false)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_memory_is_enough_to_start() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["exit", "5"]);
    spec.limits.memory_bytes = Some(4 * MIB);
    let record = node.run("small", spec).await;
    assert_eq!((record.exit, record.oom_killed), (Exit::Code(5), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_limit_holds() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["fork", "50"]);
    spec.limits.pids = Some(10);
    node.runtime().start(&id("forks"), spec).await.unwrap();
    node.await_output("forks", "made").await;
    assert_eq!(
        node.stdout("forks"),
        "made 9: Resource temporarily unavailable\n"
    );
    assert_eq!(
        node.runtime().usage(&id("forks")).await.unwrap().pids,
        Some(10)
    );
    let refused = node.cgroup_text("pids", "forks", &["pids.events"]);
    let times: u64 = refused.strip_prefix("max ").unwrap().parse().unwrap();
    assert!(times >= 1, "{refused}");
    within(
        node.runtime()
            .stop(&id("forks"), Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_limit_throttles_and_the_weight_is_set() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["spin", "150"]);
    spec.limits.cpu_limit_millis = Some(200);
    spec.limits.cpu_millis_weight = 500;
    node.runtime().start(&id("spin"), spec).await.unwrap();
    node.await_output("spin", "done").await;
    let usage = node.runtime().usage(&id("spin")).await.unwrap();
    assert!(usage.throttled_us.unwrap() > 0, "{usage:?}");
    assert!(usage.cpu_program_us() >= 150_000, "{usage:?}");
    assert!(usage.cpu_throttled_periods.unwrap() > 0, "{usage:?}");
    assert!(
        usage.cpu_periods >= usage.cpu_throttled_periods,
        "{usage:?}"
    );
    let dir = node.cgroup_dir("cpu", "spin");
    match fs::read_to_string(dir.join("cpu.shares")) {
        Ok(shares) => {
            assert_eq!(shares.trim(), "512");
            assert_eq!(
                fs::read_to_string(dir.join("cpu.cfs_quota_us"))
                    .unwrap()
                    .trim(),
                "20000"
            );
        }
        Err(_) => {
            let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
            assert_eq!(text("cpu.max").trim(), "20000 100000");
            assert_eq!(text("cpu.weight").trim(), "50");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_the_kernel_says() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("eat"), node.spec(&["eat", "20"]))
        .await
        .unwrap();
    node.await_output("eat", "full").await;
    let number = |controller: &str, names: [&str; 2]| -> u64 {
        let dir = node.cgroup_dir(controller, "eat");
        let text = names
            .iter()
            .find_map(|name| fs::read_to_string(dir.join(name)).ok())
            .unwrap();
        text.trim().parse().unwrap()
    };
    // It sleeps, so two looks see the same; a moment of settling is given to the page counters.
    until("the figures agree", || {
        let usage = futures_now(node.runtime().usage(&id("eat"))).unwrap();
        usage.memory_bytes
            == Some(number(
                "memory",
                ["memory.usage_in_bytes", "memory.current"],
            ))
            && usage.memory_peak_bytes
                == Some(number(
                    "memory",
                    ["memory.max_usage_in_bytes", "memory.peak"],
                ))
            && usage.pids == Some(number("pids", ["pids.current", "pids.current"]))
    })
    .await;
    let usage = node.runtime().usage(&id("eat")).await.unwrap();
    assert!(usage.memory_anon_bytes.unwrap() >= 20 * MIB, "{usage:?}");
    assert!(usage.memory_working_set_bytes().unwrap() >= 20 * MIB);
    let dir = node.cgroup_dir("cpuacct", "eat");
    let kernel_us = match fs::read_to_string(dir.join("cpuacct.usage")) {
        Ok(nanos) => nanos.trim().parse::<u64>().unwrap() / 1000,
        Err(_) => {
            let text = fs::read_to_string(dir.join("cpu.stat")).unwrap();
            text.lines()
                .find_map(|line| line.strip_prefix("usage_usec "))
                .unwrap()
                .parse()
                .unwrap()
        }
    };
    assert!(
        usage.cpu_total_us.abs_diff(kernel_us) * 100 <= kernel_us,
        "{} {kernel_us}",
        usage.cpu_total_us
    );
    // After the end the last sample is told, with the same peak.
    let record = within(
        node.runtime()
            .stop(&id("eat"), Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
    assert_eq!(
        node.runtime().usage(&id("eat")).await.unwrap(),
        record.usage
    );
    assert!(record.usage.memory_peak_bytes >= usage.memory_peak_bytes);
    assert!(record.usage.cpu_total_us >= usage.cpu_total_us);
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

#[tokio::test(flavor = "multi_thread")]
async fn hard_limits_that_cannot_be_raised_stay_as_they_are() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["cat", "/proc/self/limits"]);
    let rlimit = |soft, hard| mezzo_runtime::Rlimit {
        kind: "RLIMIT_NOFILE".into(),
        soft,
        hard,
    };
    spec.rlimits = vec![rlimit(100, 200)];
    node.run("low", spec).await;
    let line = |name: &str| {
        let text = node.stdout(name);
        text.lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("low")[3..5], ["100", "200"]);
    let mut spec = node.spec(&["cat", "/proc/self/limits"]);
    spec.rlimits = vec![rlimit(1000, 1 << 30)];
    assert_eq!(node.run("high", spec).await.exit, Exit::Code(0));
    assert_eq!(line("high")[3], "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_version_2_can_limit_is_refused_elsewhere() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (field, limits) in [
        (
            "limits.memory_high",
            Limits {
                memory_high: Some(64 * MIB),
                ..Limits::default()
            },
        ),
        (
            "limits.memory_low",
            Limits {
                memory_low: Some(MIB),
                ..Limits::default()
            },
        ),
        (
            "limits.io_weight",
            Limits {
                io_weight: Some(300),
                ..Limits::default()
            },
        ),
    ] {
        let mut spec = node.spec(&["sleep"]);
        spec.limits = limits;
        let started = node.runtime().start(&id("limited"), spec).await;
        if Node::v2() {
            started.unwrap();
            let dir = |file: &str| node.cgroup_text("io", "limited", &[file]);
            match field {
                "limits.memory_high" => assert_eq!(dir("memory.high"), (64 * MIB).to_string()),
                "limits.memory_low" => assert_eq!(dir("memory.low"), MIB.to_string()),
                _ => {
                    // Each as far as the kernel has it; a container without any would have been refused.
                    let place = node.cgroup_dir("io", "limited");
                    for (file, weight) in [
                        ("io.weight", "default 300"),
                        ("io.bfq.weight", "default 118"),
                    ] {
                        if place.join(file).exists() {
                            tell(&format!("{file}: {weight}"));
                            assert_eq!(dir(file), weight);
                        }
                    }
                }
            }
            let container = id("limited");
            let stopped = node
                .runtime()
                .stop(&container, Duration::ZERO, libc::SIGKILL);
            within(stopped).await.unwrap();
            node.runtime().remove(&id("limited")).await.unwrap();
        } else {
            let error = started.unwrap_err();
            assert!(
                matches!(&error, StartError::BadSpec { problem, .. } if problem.field == field),
                "{error}"
            );
            assert!(error.to_string().contains("needs cgroup v2"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_containers_share_a_processor_by_their_weights() {
    let Some(node) = Node::new().await else {
        return;
    };
    for (name, weight) in [("one", 250), ("three", 750)] {
        let mut spec = node.spec(&["share"]);
        spec.limits.cpu_millis_weight = weight;
        node.runtime().start(&id(name), spec).await.unwrap();
    }
    for name in ["one", "three"] {
        node.await_output(name, "pin: ok").await;
    }
    let both = async || -> [Usage; 2] {
        let one = node.runtime().usage(&id("one")).await.unwrap();
        let three = node.runtime().usage(&id("three")).await.unwrap();
        [one, three]
    };
    let before = both().await;
    // However much the rest of the machine leaves to them: it is what they share that counts.
    let (used, after) = within(async {
        loop {
            let now = both().await;
            let used = [0, 1].map(|i| now[i].cpu_total_us - before[i].cpu_total_us);
            if used[0] + used[1] >= 3_000_000 {
                return (used, now);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let ratio = used[1] as f64 / used[0] as f64;
    tell(&format!(
        "weights 1:3 share 1:{ratio:.2} ({} and {} us)",
        used[0], used[1]
    ));
    assert!((2.5..3.6).contains(&ratio), "{used:?}");
    let pressure = after.map(|usage| usage.cpu_pressure);
    if !Node::v2() {
        assert_eq!(pressure, [None, None], "told by version 2 alone");
    } else if fs::exists("/proc/pressure/cpu").unwrap() {
        // The small one waits most of the time, the large one a quarter of it.
        let waited = pressure.map(|pressure| pressure.unwrap().some_us);
        tell(&format!("they waited {waited:?} us"));
        assert!(waited[0] > waited[1] && waited[1] > 0, "{waited:?}");
    }
}

fn writes_to(device: IoDevice, bytes_per_sec: u64) -> Limits {
    Limits {
        io_max: vec![IoLimit {
            device,
            read_bytes_per_sec: None,
            write_bytes_per_sec: Some(bytes_per_sec),
            reads_per_sec: None,
            writes_per_sec: None,
        }],
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_written_as_fast_as_allowed_also_when_that_changes() {
    let Some(node) = Node::new().await.filter(|_| v2()) else {
        return;
    };
    let mut spec = node.with_store(node.spec(&["store", "400", "/store/file", "direct"]));
    // Whichever disk the directory is on.
    let device = IoDevice::Path(node.path().to_owned());
    spec.limits = writes_to(device.clone(), 4 * MIB);
    match node.runtime().start(&id("writer"), spec).await {
        Err(StartError::BadSpec { problem, .. }) if problem.problem.contains("block device") => {
            tell(&format!("skipped: {problem}"));
            return;
        }
        started => started.unwrap(),
    };
    let (mut rates, mut fastest) = (Vec::new(), 0.0);
    for (most, measured) in [(4 * MIB, 12 * MIB), (MIB, 4 * MIB), (16 * MIB, 32 * MIB)] {
        let limits = writes_to(device.clone(), most);
        node.runtime().update(&id("writer"), limits).await.unwrap();
        let line = node.cgroup_text("io", "writer", &["io.max"]);
        assert!(line.contains(&format!("wbps={most} ")), "{line}");
        // A slow disk may be slower than allowed, none may be faster, but for the kernel's slices. What the limit
        // before allowed and was not used comes first, in one burst; that may be the whole of the first few measures.
        let mut rate = f64::MAX;
        for _ in 0..20 {
            rate = rate_of(&node, measured).await;
            rates.push(format!("{:.2} of {} MiB/s", rate / MIB as f64, most / MIB));
            if rate < most as f64 * 1.15 {
                break;
            }
        }
        assert!(rate < most as f64 * 1.15, "{rates:?}");
        fastest = rate;
    }
    tell(&format!("written: {}", rates.join(", ")));
    assert!(
        fastest > MIB as f64 * 1.15,
        "the last change is felt: {rates:?}"
    );
    let usage = node.runtime().usage(&id("writer")).await.unwrap();
    if fs::exists("/proc/pressure/io").unwrap() {
        assert!(usage.io_pressure.unwrap().some_us > 0, "{usage:?}");
    }
}

/// Bytes per second, while so many are written. Measured from before the first look to after the last, so that a test
/// that is held up sees less, never more.
async fn rate_of(node: &Node, bytes: u64) -> f64 {
    let from = Instant::now();
    let start = io_stat(node);
    within(async {
        loop {
            let written = io_stat(node) - start;
            if written >= bytes {
                return written as f64 / from.elapsed().as_secs_f64();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

fn io_stat(node: &Node) -> u64 {
    let text = node.cgroup_text("io", "writer", &["io.stat"]);
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_none_is_refused_by_its_name() {
    let Some(node) = Node::new().await.filter(|_| v2()) else {
        return;
    };
    let number = IoDevice::Number {
        major: 259,
        minor: 1_000_000,
    };
    for device in [IoDevice::Path("/proc".into()), number] {
        let mut spec = node.spec(&["sleep"]);
        spec.limits = writes_to(device, MIB);
        let error = node.runtime().start(&id("bad"), spec).await.unwrap_err();
        assert!(
            matches!(&error, StartError::BadSpec { problem, .. } if problem.field == "limits.io_max[0].device"),
            "{error}"
        );
    }
    assert_eq!(node.runtime().list().await.unwrap(), []);
}

/// Whether what only cgroup v2 does can be tested here; said loudly if not.
fn v2() -> bool {
    if !Node::v2() {
        tell("skipped: needs cgroup v2 (cargo xtask vm runtime)");
    }
    Node::v2()
}

/// The last processor of this machine that containers may use, and all of them.
#[expect(clippy::unwrap_used, reason = "test support")]
fn processors() -> (u32, CpuSet) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let text = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let all: CpuSet = text.parse().unwrap();
    (all.iter().last().unwrap(), all)
}

/// The processors of a process, as the kernel lists them.
#[expect(clippy::unwrap_used, reason = "test support")]
fn allowed(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let text = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    text.unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_on_its_own_processors_until_that_changes() {
    let Some(node) = Node::new().await else {
        return;
    };
    let (last, all) = processors();
    let mut spec = node.spec(&["sleep"]);
    spec.limits.cpuset = Some(CpuSet::from_iter([last]));
    let started = match node.runtime().start(&id("pinned"), spec).await {
        Err(StartError::BadSpec { problem, .. }) if problem.problem.contains("no cpuset") => {
            tell(&format!("skipped: {problem}"));
            return;
        }
        started => started.unwrap(),
    };
    assert_eq!(allowed(started.pid), last.to_string());
    let update = async |cpuset| {
        let limits = Limits {
            cpuset,
            ..Limits::default()
        };
        node.runtime().update(&id("pinned"), limits).await
    };
    update(None).await.unwrap();
    assert_eq!(allowed(started.pid), all.to_string());
    let first = all.iter().next().unwrap();
    update(Some(CpuSet::from_iter([first]))).await.unwrap();
    assert_eq!(allowed(started.pid), first.to_string());
    // A processor that is not there is refused by name, and changes nothing.
    let refused = update(Some(CpuSet::from_iter([9_999]))).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("limits.cpuset: processor 9999"),
        "{refused}"
    );
    assert_eq!(allowed(started.pid), first.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_chosen_while_it_runs_are_those_of_all_its_processes() {
    let Some(node) = Node::new().await else {
        return;
    };
    let (last, all) = processors();
    let spec = node.spec(&["fork", "3"]);
    let started = node.runtime().start(&id("late"), spec).await.unwrap();
    node.await_output("late", "made 3: all").await;
    assert_eq!(allowed(started.pid), all.to_string());
    let v1 = node.cgroup_dir("cpuset", "late");
    if !Node::v2() {
        assert!(!v1.exists(), "it is in a cpuset before anybody asked");
    }
    let limits = Limits {
        cpuset: Some(CpuSet::from_iter([last])),
        ..Limits::default()
    };
    match node.runtime().update(&id("late"), limits).await {
        Err(UpdateError::BadLimits { problem, .. }) if problem.problem.contains("no cpuset") => {
            tell(&format!("skipped: {problem}"));
            return;
        }
        updated => updated.unwrap(),
    }
    let text = fs::read_to_string(v1.join("cgroup.procs")).unwrap();
    let pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 4, "{pids:?}");
    for pid in pids {
        assert_eq!(allowed(pid), last.to_string());
    }
    // Who comes in later, too.
    let status = output(&node, "late", probe_in(&["status"])).await;
    let line = format!("Cpus_allowed_list:\t{last}");
    assert!(status.lines().any(|found| found == line), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_pages_are_limited_or_refused_by_name() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["sleep"]);
    let limit = |bytes| HugePageLimit {
        page_bytes: 2 * MIB,
        bytes,
    };
    spec.limits.huge_pages = vec![limit(4 * MIB)];
    match node.runtime().start(&id("huge"), spec).await {
        Err(StartError::BadSpec { problem, .. }) => {
            // Without the controller or pages of that size: told by field.
            assert!(problem.field.starts_with("limits.huge_pages"), "{problem}");
            tell(&format!("refused: {problem}"));
        }
        Ok(_) => {
            let files = ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"];
            let now = || node.cgroup_number("hugetlb", "huge", &files);
            assert_eq!(now(), 4 * MIB);
            let limits = Limits {
                huge_pages: vec![limit(0)],
                ..Limits::default()
            };
            node.runtime().update(&id("huge"), limits).await.unwrap();
            assert_eq!(now(), 0);
            let none = Limits::default();
            node.runtime().update(&id("huge"), none).await.unwrap();
            let text = node.cgroup_text("hugetlb", "huge", &files);
            assert!(
                text == "max" || text.parse::<u64>().unwrap() > 1 << 40,
                "{text}"
            );
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_given_is_let_through_under_its_new_name() {
    let Some(node) = Node::new().await else {
        return;
    };
    // Numbers for local use, which no driver has: who gets past the filter hears that there is no such device.
    let file = node.path().join("card");
    nix::sys::stat::mknod(
        &file,
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(61, 7),
    )
    .unwrap();
    let device = |source: &std::path::Path, target: &str| DeviceSpec {
        source: source.into(),
        target: target.into(),
    };
    let mut spec = node.spec(&["touch", "/dev/card7"]);
    spec.devices = vec![device(&file, "/dev/card7")];
    node.run("card", spec).await;
    let answer = node.stdout("card");
    assert!(
        answer.contains("No such device"),
        "past the filter: {answer}"
    );
    // One that works, in a directory of its own.
    let mut spec = node.spec(&["touch", "/dev/cards/full"]);
    spec.devices = vec![device("/dev/full".as_ref(), "/dev/cards/full")];
    assert_eq!(node.run("full", spec).await.exit, Exit::Code(0));
    let mut spec = node.spec(&["sleep"]);
    spec.devices = vec![device(&file.with_file_name("none"), "/dev/card7")];
    let refused = node.runtime().start(&id("none"), spec).await.unwrap_err();
    assert!(
        matches!(&refused, StartError::BadSpec { problem, .. } if problem.field == "devices[0].source"),
        "{refused}"
    );
}
