//! Checks a specification before anything is made: bad input is one clear error that names the field. Pure.

use std::path::{Component, Path};

use crate::cgroup::CgroupMode;
use crate::cgroup::hugetlb;
use crate::cpuset::CpuSet;
use crate::model::{
    ContainerSpec, DeviceSpec, ExecSpec, HugePageLimit, IoDevice, IoLimit, Limits, MountSpec,
    Rootfs, UserNamespace,
};
use crate::spec::security::capability_name;

/// A field of a specification that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{field}: {problem}")]
pub struct BadSpec {
    /// Which field.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// Less than this does not hold even the process that sets the container up.
const MIN_MEMORY_BYTES: u64 = 4 << 20;
/// Most bytes of arguments and environment together (the kernel takes 2 MiB with the usual stack).
const MAX_ARGS_BYTES: usize = 1 << 20;
/// Smallest log file that still holds a useful end.
const MIN_LOG_BYTES: u64 = 4096;

fn bad(field: impl Into<String>, problem: impl Into<String>) -> BadSpec {
    BadSpec {
        field: field.into(),
        problem: problem.into(),
    }
}

/// The first problem of a container's specification.
pub(crate) fn check(spec: &ContainerSpec) -> Result<(), BadSpec> {
    check_rootfs(&spec.rootfs)?;
    check_program(&spec.args, &spec.env)?;
    inside("cwd", Path::new(&spec.cwd))?;
    if let Some(name) = &spec.hostname {
        let valid = !name.is_empty()
            && name.len() <= 63
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !valid {
            return Err(bad(
                "hostname",
                format!("{name:?} is not a host name of 1 to 63 letters, digits, '-', '.' or '_'"),
            ));
        }
    }
    check_limits(&spec.limits)?;
    check_log(spec)?;
    if spec.user_namespace == UserNamespace::Own {
        let needs_host = if spec.privileged {
            Some("a privileged container has")
        } else if !spec.devices.is_empty() {
            Some("a container that is given devices needs")
        } else {
            None
        };
        if let Some(needs_host) = needs_host {
            return Err(bad(
                "user_namespace",
                format!("{needs_host} the host's users: ask for those"),
            ));
        }
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        let field = format!("mounts[{index}]");
        match mount {
            MountSpec::Bind { source, target, .. } => {
                clean(&format!("{field}.source"), source)?;
                mount_target(&format!("{field}.target"), target)?;
            }
            MountSpec::Tmpfs {
                target,
                size_bytes,
                mode,
            } => {
                mount_target(&format!("{field}.target"), target)?;
                if *size_bytes == 0 {
                    return Err(bad(format!("{field}.size_bytes"), "must be more than 0"));
                }
                if *mode > 0o7777 {
                    return Err(bad(
                        format!("{field}.mode"),
                        format!("{mode:o} is not a mode up to 7777 (octal)"),
                    ));
                }
            }
        }
    }
    for (index, device) in spec.devices.iter().enumerate() {
        check_device(&format!("devices[{index}]"), device)?;
        let twice = |other: &DeviceSpec| other.target == device.target;
        if spec.devices[..index].iter().any(twice) {
            return Err(bad(
                format!("devices[{index}].target"),
                format!("{} is there twice", device.target.display()),
            ));
        }
    }
    for (field, names) in [
        ("capabilities_add", &spec.capabilities_add),
        ("capabilities_drop", &spec.capabilities_drop),
    ] {
        for name in names {
            let all = field == "capabilities_drop" && name.eq_ignore_ascii_case("all");
            if !all && capability_name(name).is_none() {
                return Err(bad(field, format!("{name:?} is not a capability of Linux")));
            }
        }
    }
    for (index, limit) in spec.rlimits.iter().enumerate() {
        if !RLIMITS.contains(&limit.kind.as_str()) {
            return Err(bad(
                format!("rlimits[{index}].kind"),
                format!("{:?} is not one of {RLIMITS:?}", limit.kind),
            ));
        }
        if limit.soft > limit.hard {
            return Err(bad(
                format!("rlimits[{index}].soft"),
                "is above the hard limit",
            ));
        }
    }
    if !(1..=64).contains(&spec.stop_signal) {
        return Err(bad(
            "stop_signal",
            format!("{} is not a signal number from 1 to 64", spec.stop_signal),
        ));
    }
    Ok(())
}

/// The first problem of a program to be executed in a container.
pub(crate) fn check_exec(spec: &ExecSpec) -> Result<(), BadSpec> {
    check_program(&spec.args, &spec.env)?;
    spec.cwd
        .as_deref()
        .map_or(Ok(()), |cwd| inside("cwd", Path::new(cwd)))
}

fn check_program(args: &[String], env: &[(String, String)]) -> Result<(), BadSpec> {
    if args.first().is_none_or(String::is_empty) {
        return Err(bad("args", "must begin with a program"));
    }
    let mut bytes = 0;
    for (index, argument) in args.iter().enumerate() {
        if argument.contains('\0') {
            return Err(bad(format!("args[{index}]"), "holds a NUL byte"));
        }
        bytes += argument.len() + 1;
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(bad(
                "env",
                format!("{name:?} is not a variable: no empty name, no '=' in a name, no NUL"),
            ));
        }
        bytes += name.len() + value.len() + 2;
    }
    if bytes > MAX_ARGS_BYTES {
        return Err(bad(
            "args",
            format!("arguments and environment take {bytes} bytes, at most {MAX_ARGS_BYTES} fit"),
        ));
    }
    Ok(())
}

fn check_rootfs(rootfs: &Rootfs) -> Result<(), BadSpec> {
    match rootfs {
        Rootfs::Dir(path) => clean("rootfs.dir", path),
        Rootfs::Overlay {
            lowers,
            upper,
            work,
        } => {
            if lowers.is_empty() || lowers.len() > 500 {
                return Err(bad(
                    "rootfs.overlay.lowers",
                    format!("{} layers; overlayfs takes 1 to 500", lowers.len()),
                ));
            }
            for (index, lower) in lowers.iter().enumerate() {
                clean(&format!("rootfs.overlay.lowers[{index}]"), lower)?;
            }
            clean("rootfs.overlay.upper", upper)?;
            clean("rootfs.overlay.work", work)
        }
    }
}

/// What every container has in its `/dev`.
const OWN_DEVICES: [&str; 16] = [
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
    "stdin", "stdout", "tty", "urandom", "zero",
];

fn check_device(field: &str, device: &DeviceSpec) -> Result<(), BadSpec> {
    clean(&format!("{field}.source"), &device.source)?;
    let target = format!("{field}.target");
    clean(&target, &device.target)?;
    let Ok(below) = device.target.strip_prefix("/dev") else {
        return Err(bad(
            target,
            format!("{} is not below /dev", device.target.display()),
        ));
    };
    let first = below.components().next();
    let is_own = |name: &str| first == Some(Component::Normal(name.as_ref()));
    if first.is_none() || OWN_DEVICES.into_iter().any(is_own) {
        return Err(bad(
            target,
            format!(
                "{} is every container's own; choose another name",
                device.target.display()
            ),
        ));
    }
    Ok(())
}

/// The first problem of limits, on whatever host.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), BadSpec> {
    for (field, bytes) in [
        ("limits.memory_bytes", limits.memory_bytes),
        ("limits.memory_high", limits.memory_high),
    ] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes < MIN_MEMORY_BYTES) {
            return Err(bad(
                field,
                format!("{bytes} is less than the least that works, {MIN_MEMORY_BYTES}"),
            ));
        }
    }
    if limits.memory_swap.is_some() && limits.memory_bytes.is_none() {
        return Err(bad(
            "limits.memory_swap",
            "needs limits.memory_bytes beside it",
        ));
    }
    if let Some(most) = limits.memory_bytes {
        for (field, bytes) in [
            ("limits.memory_high", limits.memory_high),
            ("limits.memory_low", limits.memory_low),
        ] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes > most) {
                return Err(bad(
                    field,
                    format!("{bytes} is above limits.memory_bytes, {most}, where it means nothing"),
                ));
            }
        }
    }
    if limits.pids == Some(0) {
        return Err(bad("limits.pids", "must be at least 1"));
    }
    if limits.cpu_limit_millis == Some(0) {
        return Err(bad("limits.cpu_limit_millis", "must be more than 0"));
    }
    if limits
        .io_weight
        .is_some_and(|weight| !(1..=10_000).contains(&weight))
    {
        return Err(bad("limits.io_weight", "must be 1 to 10000"));
    }
    if limits.cpuset.as_ref().is_some_and(CpuSet::is_empty) {
        return Err(bad("limits.cpuset", "holds no processor"));
    }
    for (index, limit) in limits.huge_pages.iter().enumerate() {
        let field = format!("limits.huge_pages[{index}]");
        if hugetlb::size(limit.page_bytes).is_none() {
            return Err(bad(
                format!("{field}.page_bytes"),
                format!("{} is no size of a huge page", limit.page_bytes),
            ));
        }
        if limit.bytes % limit.page_bytes != 0 {
            return Err(bad(
                format!("{field}.bytes"),
                format!("{} is no whole number of pages", limit.bytes),
            ));
        }
        let twice = |other: &HugePageLimit| other.page_bytes == limit.page_bytes;
        if limits.huge_pages[..index].iter().any(twice) {
            return Err(bad(field, "this size has a limit already"));
        }
    }
    for (index, limit) in limits.io_max.iter().enumerate() {
        check_io_limit(&format!("limits.io_max[{index}]"), limit)?;
    }
    Ok(())
}

fn check_io_limit(field: &str, limit: &IoLimit) -> Result<(), BadSpec> {
    if let IoDevice::Path(path) = &limit.device {
        clean(&format!("{field}.device"), path)?;
    }
    let rates = [
        ("read_bytes_per_sec", limit.read_bytes_per_sec),
        ("write_bytes_per_sec", limit.write_bytes_per_sec),
        ("reads_per_sec", limit.reads_per_sec),
        ("writes_per_sec", limit.writes_per_sec),
    ];
    if rates.iter().all(|(_, rate)| rate.is_none()) {
        return Err(bad(field, "limits nothing: give at least one rate"));
    }
    for (name, rate) in rates {
        if rate == Some(0) {
            return Err(bad(format!("{field}.{name}"), "must be more than 0"));
        }
        // The kernel counts operations in 32 bits and would quietly take less.
        if name.ends_with("s_per_sec")
            && !name.contains("bytes")
            && rate.is_some_and(|rate| rate > u64::from(u32::MAX))
        {
            return Err(bad(
                format!("{field}.{name}"),
                format!("must be at most {}", u32::MAX),
            ));
        }
    }
    Ok(())
}

/// What a host can limit.
#[derive(Clone, Debug)]
pub(crate) struct HostLimits {
    pub(crate) mode: CgroupMode,
    /// Whether swap is accounted.
    pub(crate) swap: bool,
    /// Those that containers may use; `None`: they cannot be chosen.
    pub(crate) processors: Option<CpuSet>,
    /// In bytes; `None`: they cannot be limited.
    pub(crate) huge_page_sizes: Option<Vec<u64>>,
}

/// The first limit that this host cannot enforce: refused, because a limit that does not hold is worse than none.
pub(crate) fn check_host(limits: &Limits, host: &HostLimits) -> Result<(), BadSpec> {
    if let Some(set) = &limits.cpuset {
        let Some(allowed) = &host.processors else {
            return Err(bad(
                "limits.cpuset",
                "this host has no cpuset controller for containers",
            ));
        };
        if let Some(missing) = set.missing_in(allowed) {
            return Err(bad(
                "limits.cpuset",
                format!(
                    "processor {missing} is not one of those that containers may use here, {allowed}"
                ),
            ));
        }
    }
    for (index, limit) in limits.huge_pages.iter().enumerate() {
        let Some(sizes) = &host.huge_page_sizes else {
            return Err(bad(
                "limits.huge_pages",
                "this host has no hugetlb controller for containers (a delegated cgroup must be given it, too)",
            ));
        };
        if !sizes.contains(&limit.page_bytes) {
            return Err(bad(
                format!("limits.huge_pages[{index}].page_bytes"),
                format!(
                    "this host has no pages of {} bytes, but of {sizes:?}",
                    limit.page_bytes
                ),
            ));
        }
    }
    if limits.memory_swap.is_some() && !host.swap {
        return Err(bad(
            "limits.memory_swap",
            "this host does not account swap (boot with swapaccount=1)",
        ));
    }
    let only_v2 = [
        ("limits.memory_high", limits.memory_high.is_some()),
        ("limits.memory_low", limits.memory_low.is_some()),
        ("limits.io_weight", limits.io_weight.is_some()),
        ("limits.io_max", !limits.io_max.is_empty()),
    ];
    match host.mode {
        CgroupMode::V2 => Ok(()),
        CgroupMode::V1 | CgroupMode::Hybrid => {
            only_v2
                .iter()
                .find(|(_, given)| *given)
                .map_or(Ok(()), |(field, _)| {
                    Err(bad(
                    *field,
                    "needs cgroup v2, and this host's controllers are on version 1 (boot with systemd.unified_cgroup_hierarchy=1)",
                ))
                })
        }
    }
}

fn check_log(spec: &ContainerSpec) -> Result<(), BadSpec> {
    if spec.log.max_bytes < MIN_LOG_BYTES {
        return Err(bad(
            "log.max_bytes",
            format!("must be at least {MIN_LOG_BYTES}"),
        ));
    }
    if !(1..=100).contains(&spec.log.files) {
        return Err(bad("log.files", "must be 1 to 100"));
    }
    if spec.log.max_age_secs == Some(0) {
        return Err(bad("log.max_age_secs", "must be at least 1"));
    }
    Ok(())
}

/// An absolute path without `..`, in UTF-8 and without NUL: what the OCI specification can hold.
fn clean(field: &str, path: &Path) -> Result<(), BadSpec> {
    let Some(text) = path.to_str() else {
        return Err(bad(field, format!("{} is not UTF-8", path.display())));
    };
    if text.contains('\0') {
        return Err(bad(field, "holds a NUL byte"));
    }
    if !path.is_absolute() {
        return Err(bad(field, format!("{text:?} is not an absolute path")));
    }
    if path
        .components()
        .any(|component| component == Component::ParentDir)
    {
        return Err(bad(field, format!("{text:?} holds '..'")));
    }
    Ok(())
}

/// A path inside the container; its links are resolved beneath the root later.
fn inside(field: &str, path: &Path) -> Result<(), BadSpec> {
    clean(field, path)
}

fn mount_target(field: &str, path: &Path) -> Result<(), BadSpec> {
    clean(field, path)?;
    let forbidden = path == Path::new("/") || path.starts_with("/proc") || path.starts_with("/sys");
    if forbidden {
        return Err(bad(
            field,
            format!("nothing may be mounted at {}", path.display()),
        ));
    }
    Ok(())
}

const RLIMITS: &[&str] = &[
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogLimits, Rlimit};

    fn problem_of(change: impl FnOnce(&mut ContainerSpec)) -> String {
        let mut spec = ContainerSpec::new(Rootfs::Dir("/image".into()), vec!["/app".into()]);
        change(&mut spec);
        check(&spec).map_or_else(|bad| bad.field, |()| "none".to_owned())
    }

    #[test]
    fn each_bad_field_is_named() {
        assert_eq!(problem_of(|_| {}), "none");
        assert_eq!(problem_of(|spec| spec.args.clear()), "args");
        assert_eq!(problem_of(|spec| spec.args[0] = String::new()), "args");
        assert_eq!(problem_of(|spec| spec.args.push("a\0".into())), "args[1]");
        assert_eq!(
            problem_of(|spec| spec.args.push("a".repeat(2 << 20))),
            "args"
        );
        assert_eq!(
            problem_of(|spec| spec.env.push(("A=B".into(), String::new()))),
            "env"
        );
        assert_eq!(problem_of(|spec| spec.cwd = "work".into()), "cwd");
        assert_eq!(problem_of(|spec| spec.cwd = "/a/../b".into()), "cwd");
        assert_eq!(
            problem_of(|spec| spec.hostname = Some("a b".into())),
            "hostname"
        );
        assert_eq!(
            problem_of(|spec| spec.limits.memory_bytes = Some(1)),
            "limits.memory_bytes"
        );
        assert_eq!(
            problem_of(|spec| spec.limits.memory_swap = Some(1)),
            "limits.memory_swap"
        );
        assert_eq!(problem_of(|spec| spec.limits.pids = Some(0)), "limits.pids");
        assert_eq!(
            problem_of(|spec| spec.limits.cpu_limit_millis = Some(0)),
            "limits.cpu_limit_millis"
        );
        assert_eq!(
            problem_of(|spec| spec.log = LogLimits {
                max_bytes: 1,
                files: 1,
                max_age_secs: None,
            }),
            "log.max_bytes"
        );
        assert_eq!(problem_of(|spec| spec.stop_signal = 0), "stop_signal");
        assert_eq!(
            problem_of(|spec| spec.capabilities_add.push("ROOT".into())),
            "capabilities_add"
        );
        assert_eq!(
            problem_of(|spec| spec.capabilities_add.push("ALL".into())),
            "capabilities_add"
        );
        let rlimit = Rlimit {
            kind: "RLIMIT_NOFILE".into(),
            soft: 2,
            hard: 1,
        };
        assert_eq!(
            problem_of(|spec| spec.rlimits.push(rlimit)),
            "rlimits[0].soft"
        );
    }

    #[test]
    fn devices_get_names_of_their_own_below_dev() {
        let given = |targets: &[&str]| {
            problem_of(|spec| {
                spec.devices = targets
                    .iter()
                    .map(|target| DeviceSpec {
                        source: "/dev/zero".into(),
                        target: target.into(),
                    })
                    .collect();
            })
        };
        assert_eq!(given(&["/dev/card0", "/dev/dri/card0"]), "none");
        for bad in [
            "/card0",
            "/dev",
            "/dev/null",
            "/dev/pts/5",
            "/dev/../etc/x",
            "dev/card0",
        ] {
            assert_eq!(given(&[bad]), "devices[0].target", "{bad}");
        }
        assert_eq!(given(&["/dev/a", "/dev/a"]), "devices[1].target");
    }

    fn io(device: IoDevice, rate: Option<u64>) -> IoLimit {
        IoLimit {
            device,
            read_bytes_per_sec: rate,
            write_bytes_per_sec: None,
            reads_per_sec: None,
            writes_per_sec: None,
        }
    }

    #[test]
    fn limits_that_mean_nothing_are_refused() {
        let field = |limits: Limits| {
            check_limits(&limits).map_or_else(|bad| bad.field, |()| "none".to_owned())
        };
        let memory = |memory_bytes, memory_high, memory_low| {
            field(Limits {
                memory_bytes,
                memory_high,
                memory_low,
                ..Limits::default()
            })
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(memory(Some(8 * MIB), Some(8 * MIB), Some(MIB)), "none");
        assert_eq!(memory(None, Some(MIB), None), "limits.memory_high");
        assert_eq!(
            memory(Some(8 * MIB), Some(9 * MIB), None),
            "limits.memory_high"
        );
        assert_eq!(
            memory(Some(8 * MIB), None, Some(9 * MIB)),
            "limits.memory_low"
        );
        let weight = |weight| {
            field(Limits {
                io_weight: Some(weight),
                ..Limits::default()
            })
        };
        assert_eq!(weight(10_000), "none");
        assert_eq!(weight(10_001), "limits.io_weight");
        let pages = |page_bytes, bytes| {
            let limit = HugePageLimit { page_bytes, bytes };
            field(Limits {
                huge_pages: vec![limit, limit],
                ..Limits::default()
            })
        };
        assert_eq!(pages(3 << 20, 0), "limits.huge_pages[0].page_bytes");
        assert_eq!(pages(2 << 20, 1 << 20), "limits.huge_pages[0].bytes");
        assert_eq!(pages(2 << 20, 2 << 20), "limits.huge_pages[1]");
        let none = Limits {
            cpuset: Some(CpuSet::default()),
            ..Limits::default()
        };
        assert_eq!(field(none), "limits.cpuset");
        let device = |limit| {
            field(Limits {
                io_max: vec![limit],
                ..Limits::default()
            })
        };
        assert_eq!(device(io(IoDevice::Path("/data".into()), Some(1))), "none");
        assert_eq!(
            device(io(IoDevice::Path("data".into()), Some(1))),
            "limits.io_max[0].device"
        );
        assert_eq!(
            device(io(IoDevice::Path("/data".into()), None)),
            "limits.io_max[0]"
        );
        let none = IoDevice::Number { major: 8, minor: 0 };
        assert_eq!(
            device(io(none.clone(), Some(0))),
            "limits.io_max[0].read_bytes_per_sec"
        );
        let mut many = io(none, None);
        many.writes_per_sec = Some(1 << 40);
        assert_eq!(device(many), "limits.io_max[0].writes_per_sec");
    }

    #[test]
    fn what_a_host_cannot_enforce_is_refused() {
        let limits = |memory_high, memory_swap| Limits {
            memory_high,
            memory_swap,
            ..Limits::default()
        };
        let problem = |limits: &Limits, mode, swap| {
            let host = HostLimits {
                mode,
                swap,
                processors: Some("0-3".parse().unwrap()),
                huge_page_sizes: Some(vec![2 << 20]),
            };
            check_host(limits, &host).map_or_else(|bad| bad.field, |()| "none".to_owned())
        };
        let cpus = |text: &str| Limits {
            cpuset: Some(text.parse().unwrap()),
            ..Limits::default()
        };
        assert_eq!(problem(&cpus("1-3"), CgroupMode::V1, false), "none");
        assert_eq!(
            problem(&cpus("3-4"), CgroupMode::V2, false),
            "limits.cpuset"
        );
        let pages = |page_bytes| Limits {
            huge_pages: vec![HugePageLimit {
                page_bytes,
                bytes: 0,
            }],
            ..Limits::default()
        };
        assert_eq!(problem(&pages(2 << 20), CgroupMode::V2, false), "none");
        assert_eq!(
            problem(&pages(1 << 30), CgroupMode::V2, false),
            "limits.huge_pages[0].page_bytes"
        );
        let nothing = HostLimits {
            mode: CgroupMode::V2,
            swap: true,
            processors: None,
            huge_page_sizes: None,
        };
        let field = |limits| check_host(&limits, &nothing).unwrap_err().field;
        assert_eq!(field(cpus("0")), "limits.cpuset");
        assert_eq!(field(pages(2 << 20)), "limits.huge_pages");
        let high = limits(Some(8 << 20), None);
        assert_eq!(problem(&high, CgroupMode::V2, false), "none");
        assert_eq!(
            problem(&high, CgroupMode::Hybrid, false),
            "limits.memory_high"
        );
        let swap = limits(None, Some(1));
        assert_eq!(problem(&swap, CgroupMode::V1, true), "none");
        assert_eq!(problem(&swap, CgroupMode::V2, false), "limits.memory_swap");
        let disk = Limits {
            io_max: vec![io(IoDevice::Path("/data".into()), Some(1))],
            ..Limits::default()
        };
        assert_eq!(problem(&disk, CgroupMode::V1, true), "limits.io_max");
    }

    #[test]
    fn mounts_stay_off_the_system_paths() {
        let bind = |target: &str| MountSpec::Bind {
            source: "/x".into(),
            target: target.into(),
            readonly: true,
        };
        for target in [
            "/",
            "/proc",
            "/proc/self",
            "/sys/fs",
            "relative",
            "/a/../../b",
        ] {
            assert_eq!(
                problem_of(|spec| spec.mounts.push(bind(target))),
                "mounts[0].target",
                "{target}"
            );
        }
        assert_eq!(
            problem_of(|spec| spec.mounts.push(bind("/etc/hosts"))),
            "none"
        );
        let tmpfs = MountSpec::Tmpfs {
            target: "/t".into(),
            size_bytes: 0,
            mode: 0o777,
        };
        assert_eq!(
            problem_of(|spec| spec.mounts.push(tmpfs)),
            "mounts[0].size_bytes"
        );
    }
}
