//! The tests of what a task may use: read back from the kernel's own files, on whichever cgroup version this machine has.

use std::fs;
use std::path::{Path, PathBuf};

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskError, TaskFailed, TaskRunning},
};

use crate::bench::{Bench, eventually, task};

/// Whether all controllers are on cgroup v2.
fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of a container's cgroup; the name that this machine's version has for it.
fn cgroup_file(cgroup: &str, controller: &str, v1: &str, unified: &str) -> PathBuf {
    let below = cgroup.trim_start_matches('/');
    if v2() {
        Path::new("/sys/fs/cgroup").join(below).join(unified)
    } else {
        let dir = Path::new("/sys/fs/cgroup").join(controller);
        dir.join(below).join(v1)
    }
}

fn read(path: &Path) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

pub(crate) fn pids_max(cgroup: &str) -> String {
    read(&cgroup_file(cgroup, "pids", "pids.max", "pids.max"))
}

pub(crate) fn memory_max(cgroup: &str) -> String {
    let names = ("memory.limit_in_bytes", "memory.max");
    read(&cgroup_file(cgroup, "memory", names.0, names.1))
}

pub(crate) async fn limits_reach_the_container_or_are_refused_by_name(bench: &mut Bench) {
    bench.start(1).await;
    let mut limited = task("limited", &["sleep"]);
    limited.pids_limit = Some(33);
    limited.memory_limit_mb = Some(48);
    limited.limits = Some(proto::TaskLimits {
        rlimits: vec![proto::Rlimit {
            name: "nofile".into(),
            soft: Some(100),
            hard: Some(200),
        }],
        ..proto::TaskLimits::default()
    });
    bench.launch(limited).await;
    let container = bench
        .master
        .status("limited", TaskRunning)
        .await
        .container
        .unwrap();
    assert_eq!(pids_max(&container.cgroup_path), "33");
    assert_eq!(memory_max(&container.cgroup_path), (48 << 20).to_string());
    let limits = read(Path::new(&format!("/proc/{}/limits", container.pid)));
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    let files: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["100", "200"], "{limits}");

    let mut soft = task("soft", &["sleep"]);
    soft.limits = Some(proto::TaskLimits {
        memory_high_mb: Some(16),
        io_weight: Some(300),
        ..proto::TaskLimits::default()
    });
    bench.launch(soft).await;
    if v2() {
        let container = bench.master.status("soft", TaskRunning).await.container;
        let cgroup = container.unwrap().cgroup_path;
        let file = |name: &str| read(&cgroup_file(&cgroup, "", name, name));
        assert_eq!(file("memory.high"), (16 << 20).to_string());
        assert_eq!(file("io.weight"), "default 300");
    } else {
        let end = bench.master.end("soft").await;
        assert_eq!(
            (end.state(), end.reason()),
            (TaskError, Reason::TaskInvalid),
            "{}",
            end.message
        );
        assert!(
            end.message
                .starts_with("limits.memory_high_mb: needs cgroup v2"),
            "{}",
            end.message
        );
    }
}

/// Whether the kernel limits huge pages of 2 MiB, and tells so in a container's cgroup.
fn has_huge_pages() -> bool {
    let hierarchy = if v2() {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
        let controllers = controllers.unwrap_or_default();
        controllers.split_whitespace().any(|name| name == "hugetlb")
    } else {
        Path::new("/sys/fs/cgroup/hugetlb/cgroup.procs").exists()
    };
    hierarchy && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists()
}

fn swap_of(cgroup: &str) -> u64 {
    let names = ("memory.memsw.limit_in_bytes", "memory.swap.max");
    let all: u64 = read(&cgroup_file(cgroup, "memory", names.0, names.1))
        .parse()
        .unwrap();
    // Version 1 counts both together.
    let memory = if v2() { "0".into() } else { memory_max(cgroup) };
    all - memory.parse::<u64>().unwrap()
}

fn huge_pages_of(cgroup: &str) -> String {
    let names = ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max");
    read(&cgroup_file(cgroup, "hugetlb", names.0, names.1))
}

/// The rates of the only disk that is limited.
fn rates_of(cgroup: &str) -> String {
    let text = read(&cgroup_file(cgroup, "blkio", "", "io.max"));
    let (device, rates) = text.split_once(' ').unwrap();
    assert!(device.contains(':') && !rates.contains('\n'), "{text}");
    rates.to_owned()
}

/// Each of them alone, so that one that this machine cannot enforce does not hide the others.
pub(crate) async fn swap_io_and_huge_pages_reach_the_kernel_or_are_refused_by_name(
    bench: &mut Bench,
) {
    bench.start(1).await;
    let disk = bench.config.state_dir.to_str().unwrap().to_owned();
    let io = |read_bytes_per_sec, writes_per_sec| proto::IoLimit {
        device: disk.clone(),
        read_bytes_per_sec,
        write_bytes_per_sec: Some(2 << 20),
        reads_per_sec: Some(300),
        writes_per_sec,
    };
    let huge = |limit_mb| proto::HugePages {
        page_kb: 2048,
        limit_mb,
    };
    let none = proto::TaskLimits::default;
    let swap = proto::TaskLimits {
        swap_mb: Some(16),
        ..none()
    };
    let rates = proto::TaskLimits {
        io_max: vec![io(Some(1 << 20), Some(400))],
        ..none()
    };
    let pages = proto::TaskLimits {
        huge_pages: vec![huge(4)],
        ..none()
    };
    let counts_swap = v2() || {
        let root = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes");
        root.exists()
    };
    let mut cgroups = Vec::new();
    for (id, limits, is_enforced) in [
        ("swap", swap, counts_swap),
        ("io_max", rates, v2()),
        ("huge_pages", pages, has_huge_pages()),
    ] {
        let limited = proto::TaskInfo {
            limits: Some(limits),
            ..task(id, &["sleep"])
        };
        bench.launch(limited).await;
        if is_enforced {
            let status = bench.master.status(id, TaskRunning).await;
            cgroups.push((id, status.container.unwrap().cgroup_path));
            continue;
        }
        let end = bench.master.end(id).await;
        let told = (end.state(), end.reason());
        assert_eq!(told, (TaskError, Reason::TaskInvalid), "{}", end.message);
        let field = format!("limits.{id}");
        assert!(end.message.starts_with(&field), "{}", end.message);
    }
    let found = || {
        cgroups.iter().map(|(id, cgroup)| match *id {
            "swap" => swap_of(cgroup).to_string(),
            "io_max" => rates_of(cgroup),
            _ => huge_pages_of(cgroup),
        })
    };
    let expected = |swap: u64, io: &str, huge: u64| -> Vec<String> {
        let wanted = |id| match id {
            "swap" => (swap << 20).to_string(),
            "io_max" => io.to_owned(),
            _ => (huge << 20).to_string(),
        };
        cgroups.iter().map(|(id, _)| wanted(*id)).collect()
    };
    let first = expected(16, "rbps=1048576 wbps=2097152 riops=300 wiops=400", 4);
    assert_eq!(found().collect::<Vec<_>>(), first);

    // They change while the task runs, and the next agent holds to that.
    let mut client = bench.client().await;
    for (id, _) in &cgroups {
        let wanted = match *id {
            "swap" => proto::UpdateTaskRequest {
                swap_mb: Some(8),
                ..change(id)
            },
            "io_max" => proto::UpdateTaskRequest {
                io_max: vec![io(None, Some(50))],
                ..change(id)
            },
            _ => proto::UpdateTaskRequest {
                huge_pages: vec![huge(0)],
                ..change(id)
            },
        };
        client.update_task(wanted).await.unwrap();
    }
    let changed = expected(8, "rbps=max wbps=2097152 riops=300 wiops=50", 0);
    assert_eq!(found().collect::<Vec<_>>(), changed);
    bench.kill_agent().await;
    bench.start(2).await;
    eventually("as before", || found().eq(changed.iter().cloned())).await;
    let there = |name: &str| cgroups.iter().any(|(id, _)| *id == name);
    let missing = ["swap", "io_max", "huge_pages"].map(|name| !there(name));
    assert!(
        std::env::var_os("MEZZO_TEST_GUEST").is_none() || missing == [false; 3],
        "a guest has all of them: {cgroups:?}"
    );
}

pub(crate) fn change(task: &str) -> proto::UpdateTaskRequest {
    proto::UpdateTaskRequest {
        task_id: task.into(),
        ..proto::UpdateTaskRequest::default()
    }
}

pub(crate) async fn limits_change_while_the_task_runs_and_outlive_the_agent(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("live", &["eat", "20"])).await;
    let container = bench
        .master
        .status("live", TaskRunning)
        .await
        .container
        .unwrap();
    let cgroup = container.cgroup_path.clone();
    let mut client = bench.client().await;
    let wanted = proto::UpdateTaskRequest {
        pids_limit: Some(44),
        memory_limit_mb: Some(64),
        cpu_limit: Some(proto::Scalar { millis: 500 }),
        ..change("live")
    };
    let answer = client.update_task(wanted).await.unwrap().into_inner();
    let info = answer.task.unwrap().info.unwrap();
    assert_eq!(
        (info.pids_limit, info.memory_limit_mb),
        (Some(44), Some(64))
    );
    assert_eq!(pids_max(&cgroup), "44");
    assert_eq!(memory_max(&cgroup), (64 << 20).to_string());
    let quota = cgroup_file(&cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(read(&quota).starts_with("50000"), "{}", read(&quota));

    // A refusal leaves everything as it is.
    let low = proto::UpdateTaskRequest {
        pids_limit: Some(55),
        memory_limit_mb: Some(16),
        ..change("live")
    };
    let refused = client.update_task(low).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(
        refused
            .message()
            .contains("memory_limit_mb: 16 is below the 32 MiB"),
        "{refused}"
    );
    let soft = proto::UpdateTaskRequest {
        memory_high_mb: Some(48),
        ..change("live")
    };
    let high = client.update_task(soft).await;
    if v2() {
        high.unwrap();
        let file = cgroup_file(&cgroup, "", "memory.high", "memory.high");
        assert_eq!(read(&file), (48 << 20).to_string());
    } else {
        let refused = high.unwrap_err();
        assert!(
            refused.message().contains("limits.memory_high_mb: needs"),
            "{refused}"
        );
    }
    assert_eq!(pids_max(&cgroup), "44");
    let nobody = client.update_task(change("nobody")).await.unwrap_err();
    assert_eq!(nobody.code(), tonic::Code::NotFound);

    // A new agent enforces what is on record, whatever the kernel was told meanwhile.
    bench.kill_agent().await;
    let file = cgroup_file(&cgroup, "pids", "pids.max", "pids.max");
    fs::write(&file, "7").unwrap();
    bench.start(2).await;
    let registered = bench.master.last_registration();
    let kept = registered.tasks[0].info.as_ref().unwrap();
    assert_eq!(
        (kept.pids_limit, kept.memory_limit_mb),
        (Some(44), Some(64))
    );
    eventually("the limit on record", || pids_max(&cgroup) == "44").await;
    let cleared = proto::UpdateTaskRequest {
        clear: vec!["memory_limit_mb".into(), "cpu_limit".into()],
        ..change("live")
    };
    let mut client = bench.client().await;
    client.update_task(cleared).await.unwrap();
    assert_eq!(memory_max(&cgroup), (32 << 20).to_string());
    bench.kill_task("live", None).await;
    bench.master.end("live").await;
    let ended = client.update_task(change("live")).await.unwrap_err();
    assert_eq!(ended.code(), tonic::Code::FailedPrecondition);
}

/// The processors of a process, as the kernel lists them.
pub(crate) fn processors(pid: u32) -> Vec<u32> {
    let status = read(Path::new(&format!("/proc/{pid}/status")));
    let text = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let parts = text.trim().split(',').map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    });
    parts.flatten().collect()
}

pub(crate) async fn whole_processors_are_one_tasks_alone_also_for_the_next_agent(
    bench: &mut Bench,
) {
    let all = processors(std::process::id());
    if all.len() < 2 {
        eprintln!("skipped: needs two processors");
        return;
    }
    bench.start(1).await;
    bench.launch(task("shared", &["sleep"])).await;
    let shared = bench.master.status("shared", TaskRunning).await;
    let shared = shared.container.unwrap().pid;
    assert_eq!(processors(shared), all);
    let pinned = |id: &str| {
        let mut pinned = task(id, &["sleep"]);
        pinned.resources[0].value = Some(proto::resource::Value::Scalar(proto::Scalar {
            millis: 1_000,
        }));
        pinned.limits = Some(proto::TaskLimits {
            cpu_pinning: proto::CpuPinning::Exclusive.into(),
            ..proto::TaskLimits::default()
        });
        pinned
    };
    bench.launch(pinned("own")).await;
    let own = bench.master.status("own", TaskRunning).await;
    let own = own.container.unwrap().pid;
    let its = processors(own);
    assert_eq!(its.len(), 1);
    let rest: Vec<u32> = all.iter().copied().filter(|n| *n != its[0]).collect();
    eventually("room made", || processors(shared) == rest).await;

    // A new agent keeps to what the one before picked.
    bench.kill_agent().await;
    bench.start(2).await;
    bench.launch(task("later", &["sleep"])).await;
    let later = bench.master.status("later", TaskRunning).await;
    assert_eq!(processors(later.container.unwrap().pid), rest);
    assert_eq!((processors(own), processors(shared)), (its, rest));
    if all.len() == 2 {
        // One always stays for those that share.
        bench.launch(pinned("too-many")).await;
        let end = bench.master.end("too-many").await;
        assert_eq!(end.reason(), Reason::ResourcesUnavailable);
        assert!(
            end.message.starts_with("limits.cpu_pinning: "),
            "{}",
            end.message
        );
    }
    bench.kill_task("own", None).await;
    bench.master.end("own").await;
    eventually("all given back", || processors(shared) == all).await;
}

pub(crate) async fn devices_are_picked_by_id_given_and_told(bench: &mut Bench) {
    let id = |number: &str, path: &str| (number.to_owned(), vec![path.to_owned()]);
    bench.config.devices = vec![mezzo_agent::DeviceSet {
        name: "card".into(),
        ids: [
            id("0", "/dev/zero:/dev/card0"),
            id("1", "/dev/full:/dev/cards/1"),
            id("9", "/dev/no-such:/dev/card9"),
        ]
        .into(),
        paths: vec!["/dev/null:/dev/cardctl".into()],
        env: vec!["VISIBLE_CARDS".into()],
        ..mezzo_agent::DeviceSet::default()
    }];
    bench.start(1).await;
    let offered = bench.master.last_registration().info.unwrap().resources;
    assert!(
        offered.iter().any(|resource| resource.name == "card"),
        "{offered:?}"
    );
    let with_card = |id: &str| {
        let mut task = task(id, &["sleep"]);
        task.resources.push(proto::Resource {
            name: "card".into(),
            value: Some(proto::resource::Value::Scalar(proto::Scalar {
                millis: 1_000,
            })),
        });
        task
    };
    /// Numbers of a device inside.
    fn numbers(pid: u32, path: &str) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let file = format!("/proc/{pid}/root{path}");
        let device = fs::metadata(file).ok()?.rdev();
        Some((nix::sys::stat::major(device), nix::sys::stat::minor(device)))
    }
    let told = |pid: u32| {
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let variables = environment.split('\0');
        let mut found: Vec<String> = variables
            .filter(|v| v.starts_with("MEZZO_DEVICES_") || v.starts_with("VISIBLE_CARDS"))
            .map(str::to_owned)
            .collect();
        found.sort();
        found
    };
    bench.launch(with_card("first")).await;
    let first = bench.master.status("first", TaskRunning).await;
    let first = first.container.unwrap().pid;
    assert_eq!(told(first), ["MEZZO_DEVICES_CARD=0", "VISIBLE_CARDS=0"]);
    assert_eq!(numbers(first, "/dev/card0"), Some((1, 5)));
    assert_eq!(numbers(first, "/dev/cardctl"), Some((1, 3)));
    assert_eq!(numbers(first, "/dev/cards/1"), None);

    // The next agent knows who has which.
    bench.kill_agent().await;
    bench.start(2).await;
    bench.launch(with_card("second")).await;
    let second = bench.master.status("second", TaskRunning).await;
    let second = second.container.unwrap().pid;
    assert_eq!(told(second), ["MEZZO_DEVICES_CARD=1", "VISIBLE_CARDS=1"]);
    assert_eq!(numbers(second, "/dev/cards/1"), Some((1, 7)));
    assert_eq!(numbers(second, "/dev/card0"), None);
    let folder = fs::metadata(format!("/proc/{second}/root/dev/cards")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&folder.permissions());
    assert_eq!(mode & 0o777, 0o755, "not everybody's");
    bench.launch(task("without", &["sleep"])).await;
    let without = bench.master.status("without", TaskRunning).await;
    let without = without.container.unwrap().pid;
    assert_eq!(told(without), Vec::<String>::new());
    assert_eq!(numbers(without, "/dev/cardctl"), None);
    // Declared but not there: it may run elsewhere.
    bench.launch(with_card("third")).await;
    let end = bench.master.end("third").await;
    assert_eq!(end.state(), TaskFailed, "{}", end.message);
    assert!(end.message.contains("/dev/no-such"), "{}", end.message);
    let mut many = with_card("many");
    let amount = proto::resource::Value::Scalar(proto::Scalar { millis: 1_500 });
    many.resources[2].value = Some(amount);
    bench.launch(many).await;
    let end = bench.master.end("many").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskError, Reason::ResourcesUnavailable),
        "{}",
        end.message
    );
    bench.kill_task("first", None).await;
    bench.master.end("first").await;
    bench.launch(with_card("fourth")).await;
    let fourth = bench.master.status("fourth", TaskRunning).await;
    assert_eq!(
        told(fourth.container.unwrap().pid)[0],
        "MEZZO_DEVICES_CARD=0"
    );
}
