//! Plans and their order on plain files in place of the kernel's.

use super::*;
use crate::model::IoDevice;

const MIB: u64 = 1 << 20;

fn fixture(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

/// As the kernel shows a version 2 cgroup without any limit.
fn fresh() -> tempfile::TempDir {
    fixture(&[
        ("cpu.weight", "100\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.low", "0\n"),
        ("memory.high", "max\n"),
        ("memory.max", "max\n"),
        ("memory.swap.max", "max\n"),
        ("memory.current", "8388608\n"),
        ("pids.max", "max\n"),
        ("io.weight", "default 100\n"),
        ("io.max", ""),
    ])
}

fn io_limits() -> Limits {
    Limits {
        io_max: vec![IoLimit {
            device: IoDevice::Path("/data".into()),
            read_bytes_per_sec: None,
            write_bytes_per_sec: Some(4 * MIB),
            reads_per_sec: None,
            writes_per_sec: Some(100),
        }],
        ..Limits::default()
    }
}

const DISK: DeviceNumber = DeviceNumber {
    major: 253,
    minor: 16,
};

fn apply(
    dir: &Path,
    limits: &Limits,
    mode: CgroupMode,
    devices: &[DeviceNumber],
) -> Result<Changed, (ChangeError, Vec<PathBuf>)> {
    let dir = dir.to_owned();
    change(&move |_| Some(dir.clone()), &wanted(limits, mode, devices))
}

/// The first limits of a new cgroup, all in one directory.
fn set_first(
    dir: &Path,
    limits: &Limits,
    mode: CgroupMode,
    devices: &[DeviceNumber],
) -> Result<(), ChangeError> {
    let dir = dir.to_owned();
    let all = wanted(limits, mode, devices);
    let writes = first_writes(&move |_| Some(dir.clone()), mode, all);
    open(&writes)?.set()
}

fn writes(seen: &Seen) -> Vec<String> {
    steps(seen)
        .into_iter()
        .map(|step| match step {
            Step::Write { file, value, .. } => {
                format!("{}={value}", file.file_name().unwrap().display())
            }
            Step::Fits { bytes, .. } => format!("fits {bytes}"),
        })
        .collect()
}

#[test]
fn weights_are_in_proportion_and_in_the_kernels_range() {
    assert_eq!(
        [0, 1, 20, 500, 1000, 2000, u64::MAX].map(weight),
        [1, 1, 2, 50, 100, 200, 10_000]
    );
}

#[test]
fn bfq_keeps_the_default_and_gets_the_rest_in_its_range() {
    assert_eq!(
        [0, 1, 50, 100, 101, 111, 300, 1000, 10_000, u64::MAX].map(beside::bfq_weight),
        [1, 1, 50, 100, 100, 101, 118, 181, 1000, 1000]
    );
}

#[test]
fn io_is_weighed_by_each_file_that_is_there_and_one_must_be() {
    let limits = |io_weight| Limits {
        io_weight,
        ..Limits::default()
    };
    let heavy = limits(Some(10_000));
    for (files, expected) in [
        (&["io.weight"][..], &["default 10000"][..]),
        (&["io.bfq.weight"], &["default 1000"]),
        (
            &["io.weight", "io.bfq.weight"],
            &["default 10000", "default 1000"],
        ),
    ] {
        let dir = fixture(&[("cpu.weight", "100\n")]);
        for name in files {
            fs::write(dir.path().join(name), "default 100\n8:0 50\n").unwrap();
        }
        assert!(has_io_weight(dir.path()));
        let texts = || -> Vec<String> {
            let text = |name: &&str| fs::read_to_string(dir.path().join(name)).unwrap();
            files.iter().map(text).collect()
        };
        set_first(dir.path(), &heavy, CgroupMode::V2, &[]).unwrap();
        assert_eq!(texts(), expected);
        // Back to what it was without one, and to what it had when that is undone.
        let changed = apply(dir.path(), &limits(None), CgroupMode::V2, &[]).unwrap();
        assert_eq!(texts(), vec!["default 100"; files.len()]);
        assert_eq!(changed.undo(), Vec::<PathBuf>::new());
        assert_eq!(texts(), expected);
    }
    let dir = fixture(&[("cpu.weight", "100\n")]);
    assert!(!has_io_weight(dir.path()));
    let first = set_first(dir.path(), &heavy, CgroupMode::V2, &[]).unwrap_err();
    let (later, _) = apply(dir.path(), &heavy, CgroupMode::V2, &[]).unwrap_err();
    for error in [first, later] {
        assert!(
            matches!(&error, ChangeError::Missing { file } if file.ends_with("io.weight")),
            "{error:?}"
        );
    }
}

#[test]
fn shares_stay_in_the_kernels_range() {
    assert_eq!(
        [
            shares(0),
            shares(1),
            shares(1000),
            shares(100),
            shares(u64::MAX)
        ],
        [2, 2, 1024, 102, 262_144]
    );
}

#[test]
fn a_new_cgroup_gets_what_was_asked_for_and_no_more() {
    let limits = Limits {
        cpu_millis_weight: 500,
        cpu_limit_millis: Some(1500),
        memory_bytes: Some(64 * MIB),
        memory_high: Some(32 * MIB),
        memory_low: Some(16 * MIB),
        pids: Some(20),
        io_weight: Some(300),
        ..io_limits()
    };
    let dir = fresh();
    set_first(dir.path(), &limits, CgroupMode::V2, &[DISK]).unwrap();
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        [text("cpu.weight"), text("cpu.max"), text("pids.max")],
        ["50", "150000 100000", "20"]
    );
    assert_eq!(
        ["memory.max", "memory.high", "memory.low", "memory.swap.max"].map(text),
        ["67108864", "33554432", "16777216", "0"]
    );
    assert_eq!(
        [text("io.weight"), text("io.max")],
        [
            "default 300",
            "253:16 rbps=max wbps=4194304 riops=max wiops=100"
        ]
    );
    // Nothing asked for: only the weight.
    let dir = fresh();
    set_first(dir.path(), &Limits::default(), CgroupMode::V2, &[]).unwrap();
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!([text("cpu.weight"), text("memory.max")], ["1", "max\n"]);
}

#[test]
fn a_new_version_1_cgroup_gets_the_same() {
    let limits = Limits {
        cpu_millis_weight: 500,
        cpu_limit_millis: Some(1500),
        memory_bytes: Some(64 * MIB),
        pids: Some(20),
        ..Limits::default()
    };
    let files = [
        "cpu.shares",
        "cpu.cfs_quota_us",
        "memory.limit_in_bytes",
        "pids.max",
    ];
    let dir = fixture(&files.map(|name| (name, "")));
    // Swap is not accounted: the file is missing, and nobody asked for swap.
    set_first(dir.path(), &limits, CgroupMode::Hybrid, &[]).unwrap();
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(files.map(text), ["512", "150000", "67108864", "20"]);
}

#[test]
fn a_limit_whose_file_is_missing_is_an_error_and_its_absence_is_none() {
    let dir = fixture(&[("cpu.weight", "100\n")]);
    let none = Limits::default();
    set_first(dir.path(), &none, CgroupMode::V2, &[]).unwrap();
    apply(dir.path(), &none, CgroupMode::V2, &[]).unwrap();
    let (error, stuck) = apply(dir.path(), &io_limits(), CgroupMode::V2, &[DISK]).unwrap_err();
    assert!(
        matches!(&error, ChangeError::Missing { file } if file.ends_with("io.max")),
        "{error:?}"
    );
    assert_eq!(stuck, Vec::<PathBuf>::new());
}

#[test]
fn what_was_changed_can_be_put_back() {
    let dir = fresh();
    let limits = Limits {
        cpu_millis_weight: 2000,
        memory_bytes: Some(64 * MIB),
        pids: Some(5),
        ..io_limits()
    };
    let changed = apply(dir.path(), &limits, CgroupMode::V2, &[DISK]).unwrap();
    let texts = || {
        ["cpu.weight", "memory.max", "pids.max", "io.max"]
            .map(|name| fs::read_to_string(dir.path().join(name)).unwrap())
    };
    let line = "253:16 rbps=max wbps=4194304 riops=max wiops=100";
    assert_eq!(texts(), ["200", "67108864", "5", line]);
    assert_eq!(changed.undo(), Vec::<PathBuf>::new());
    let line = "253:16 rbps=max wbps=max riops=max wiops=max";
    assert_eq!(texts(), ["100", "max", "max", line]);
}

#[test]
fn a_refused_change_puts_the_others_back_and_is_named() {
    let dir = fresh();
    // Readable, and not to be written even by root.
    fs::remove_file(dir.path().join("pids.max")).unwrap();
    std::os::unix::fs::symlink("/proc/version", dir.path().join("pids.max")).unwrap();
    let limits = Limits {
        cpu_millis_weight: 2000,
        memory_bytes: Some(64 * MIB),
        pids: Some(5),
        ..Limits::default()
    };
    let (error, stuck) = apply(dir.path(), &limits, CgroupMode::V2, &[]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("pids.max does not take \"5\""), "{text}");
    assert_eq!(stuck, Vec::<PathBuf>::new());
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        ["cpu.weight", "memory.max", "memory.swap.max"].map(text),
        ["100", "max", "max"]
    );
}

#[test]
fn less_memory_than_is_in_use_is_refused_and_nothing_changes() {
    let dir = fresh();
    let limits = Limits {
        cpu_millis_weight: 2000,
        memory_bytes: Some(4 * MIB),
        ..Limits::default()
    };
    let (error, stuck) = apply(dir.path(), &limits, CgroupMode::V2, &[]).unwrap_err();
    assert!(
        matches!(error, ChangeError::MemoryInUse { wanted, used } if (wanted, used) == (4 * MIB, 8 * MIB)),
        "{error:?}"
    );
    assert_eq!(stuck, Vec::<PathBuf>::new());
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        ["memory.high", "memory.max", "cpu.weight"].map(|name| text(name).trim().to_owned()),
        ["max", "max", "100"]
    );
}

#[test]
fn memory_is_taken_back_before_its_limit_is_lowered() {
    let dir = fresh();
    let limits = Limits {
        memory_bytes: Some(4 * MIB),
        cpu_millis_weight: 1000,
        ..Limits::default()
    };
    let seen = look(
        &|_| Some(dir.path().to_owned()),
        &wanted(&limits, CgroupMode::V2, &[]),
    )
    .unwrap();
    assert_eq!(
        writes(&seen),
        [
            "memory.high=4194304",
            "fits 4194304",
            "memory.max=4194304",
            "memory.high=max",
            "memory.swap.max=0"
        ]
    );
    // Never by raising what holds it down already.
    fs::write(dir.path().join("memory.high"), "2097152\n").unwrap();
    let seen = look(
        &|_| Some(dir.path().to_owned()),
        &wanted(&limits, CgroupMode::V2, &[]),
    )
    .unwrap();
    assert_eq!(writes(&seen)[..2], ["memory.high=2097152", "fits 4194304"]);
}

#[test]
fn on_version_1_the_limit_stays_below_the_one_that_counts_swap_in() {
    let files = |limit: &str, both: &str| {
        fixture(&[
            ("cpu.shares", "2\n"),
            ("memory.limit_in_bytes", limit),
            ("memory.memsw.limit_in_bytes", both),
            ("memory.usage_in_bytes", "4096\n"),
        ])
    };
    let order = |dir: &tempfile::TempDir, bytes: Option<u64>| {
        let limits = Limits {
            memory_bytes: bytes,
            ..Limits::default()
        };
        let wanted = wanted(&limits, CgroupMode::Hybrid, &[]);
        writes(&look(&|_| Some(dir.path().to_owned()), &wanted).unwrap())
    };
    let dir = files("8388608\n", "8388608\n");
    assert_eq!(
        order(&dir, Some(16 * MIB)),
        [
            "memory.memsw.limit_in_bytes=16777216",
            "memory.limit_in_bytes=16777216"
        ]
    );
    assert_eq!(
        order(&dir, None),
        ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]
    );
    assert_eq!(
        order(&dir, Some(4 * MIB)),
        [
            "memory.limit_in_bytes=4194304",
            "memory.memsw.limit_in_bytes=4194304"
        ]
    );
}

#[test]
fn a_device_that_is_no_longer_named_is_no_longer_limited() {
    let dir = fresh();
    let disk = "253:16 rbps=max wbps=1048576 riops=max wiops=max\n";
    let other = "8:0 rbps=5 wbps=max riops=max wiops=max\n";
    fs::write(dir.path().join("io.max"), format!("{disk}{other}")).unwrap();
    let seen = look(
        &|_| Some(dir.path().to_owned()),
        &wanted(&io_limits(), CgroupMode::V2, &[DISK]),
    )
    .unwrap();
    assert_eq!(
        writes(&seen),
        [
            "cpu.weight=1",
            "io.max=253:16 rbps=max wbps=4194304 riops=max wiops=100",
            "io.max=8:0 rbps=max wbps=max riops=max wiops=max"
        ]
    );
    assert_eq!(
        seen.found
            .iter()
            .filter(|one| one.file == "io.max")
            .map(|one| one.now.as_str())
            .collect::<Vec<_>>(),
        [disk.trim(), other.trim()]
    );
}

#[test]
fn processors_are_set_and_given_back_in_each_version() {
    let pinned = Limits {
        cpuset: Some("1".parse().unwrap()),
        ..Limits::default()
    };
    let cpus = |dir: &Path| fs::read_to_string(dir.join("cpuset.cpus")).unwrap();
    // Version 2 says nothing for "all that my parent has".
    let unified = fresh();
    for (name, text) in [("cpuset.cpus", "\n"), ("cpuset.cpus.effective", "0-3\n")] {
        fs::write(unified.path().join(name), text).unwrap();
    }
    apply(unified.path(), &pinned, CgroupMode::V2, &[]).unwrap();
    assert_eq!(cpus(unified.path()), "1");
    apply(unified.path(), &Limits::default(), CgroupMode::V2, &[]).unwrap();
    assert_eq!(cpus(unified.path()), "\n");
    // Version 1 must name them.
    let above = fixture(&[("cpuset.cpus", "0-3\n")]);
    let dir = above.path().join("task");
    fs::create_dir(&dir).unwrap();
    for (name, text) in [("cpuset.cpus", "0-3\n"), ("cpu.shares", "2\n")] {
        fs::write(dir.join(name), text).unwrap();
    }
    let changed = apply(&dir, &pinned, CgroupMode::V1, &[]).unwrap();
    assert_eq!(cpus(&dir), "1");
    assert_eq!(changed.undo(), Vec::<PathBuf>::new());
    assert_eq!(cpus(&dir), "0-3");
    apply(&dir, &pinned, CgroupMode::V1, &[]).unwrap();
    apply(&dir, &Limits::default(), CgroupMode::V1, &[]).unwrap();
    assert_eq!(cpus(&dir), "0-3");
}

#[test]
fn huge_pages_are_limited_by_size_and_a_limit_that_goes_is_lifted() {
    let dir = fresh();
    for name in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "hugetlb.1GB.max"] {
        fs::write(dir.path().join(name), "max\n").unwrap();
    }
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let limits = Limits {
        huge_pages: vec![crate::model::HugePageLimit {
            page_bytes: 2 * MIB,
            bytes: 8 * MIB,
        }],
        ..Limits::default()
    };
    set_first(dir.path(), &limits, CgroupMode::V2, &[]).unwrap();
    assert_eq!(
        [text("hugetlb.2MB.max"), text("hugetlb.2MB.rsvd.max")],
        ["8388608", "8388608"]
    );
    apply(dir.path(), &Limits::default(), CgroupMode::V2, &[]).unwrap();
    assert_eq!(
        [text("hugetlb.2MB.max"), text("hugetlb.1GB.max")],
        ["max", "max\n"]
    );
    // A size that the kernel does not have is not passed over when somebody asked for it.
    let missing = Limits {
        huge_pages: vec![crate::model::HugePageLimit {
            page_bytes: 16 * MIB,
            bytes: 0,
        }],
        ..Limits::default()
    };
    let refused = apply(dir.path(), &missing, CgroupMode::V2, &[]).unwrap_err();
    assert!(matches!(refused.0, ChangeError::Missing { .. }));
}

#[test]
fn what_yields_has_the_least_weight_and_then_none() {
    let limits = Limits {
        cpu_millis_weight: 2000,
        yields: true,
        ..Limits::default()
    };
    for (mode, weight, least) in [
        (CgroupMode::V2, "cpu.weight", "1"),
        (CgroupMode::V1, "cpu.shares", "2"),
    ] {
        let dir = fresh();
        let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(weight), "100\n").unwrap();
        // A kernel that does not know idle cgroups.
        set_first(dir.path(), &limits, mode, &[]).unwrap();
        assert_eq!(text(weight), least, "{mode:?}");
        assert!(!dir.path().join("cpu.idle").exists(), "{mode:?}");
        fs::write(dir.path().join("cpu.idle"), "0\n").unwrap();
        set_first(dir.path(), &limits, mode, &[]).unwrap();
        assert_eq!(text("cpu.idle"), "1", "{mode:?}");
        // As it reads then; a change of other limits leaves it alone.
        fs::write(dir.path().join(weight), "0\n").unwrap();
        let quota = Limits {
            cpu_limit_millis: Some(250),
            ..limits.clone()
        };
        fs::write(dir.path().join("cpu.cfs_quota_us"), "-1\n").unwrap();
        apply(dir.path(), &quota, mode, &[]).unwrap();
        assert_eq!(text(weight), "0\n", "{mode:?}");
        let limit = match mode {
            CgroupMode::V2 => text("cpu.max"),
            CgroupMode::V1 | CgroupMode::Hybrid => text("cpu.cfs_quota_us"),
        };
        assert!(limit.starts_with("25000"), "{mode:?}: {limit}");
    }
}
