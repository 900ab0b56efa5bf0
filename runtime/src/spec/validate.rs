//! Checks a specification before anything is made: bad input is one clear error that names the field.
//! Limits are checked in `limits`. Pure.

mod limits;

use std::path::{Component, Path};

use crate::id::ContainerId;
use crate::model::{ContainerSpec, DeviceSpec, ExecSpec, GroupPart, MountSpec, Rootfs};
use crate::secrets::{MAX_BYTES, MAX_COUNT, Secrets};
use crate::spec::security::capability_name;
use crate::users::UserNamespace;
pub(crate) use limits::{HostLimits, check_host, check_limits};

/// A field of a specification that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{field}: {problem}")]
pub struct BadSpec {
    /// Which field.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

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
    check_group(spec)?;
    check_program(&spec.args, &spec.env)?;
    working_dir(&spec.cwd)?;
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
    if spec.privileged && spec.seccomp.is_some() {
        return Err(bad("seccomp", "a privileged container has no filter"));
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
            MountSpec::Shared { volume, target, .. } => {
                mount_target(&format!("{field}.target"), target)?;
                if volume.parse::<ContainerId>().is_err() {
                    return Err(bad(
                        format!("{field}.volume"),
                        format!("{volume:?} is no name of letters, digits, '_', '.' and '-'"),
                    ));
                }
                if !matches!(spec.group, Some(GroupPart::Member { .. })) {
                    return Err(bad(field, "only members of a group share volumes"));
                }
            }
        }
    }
    for (index, dir) in spec.handed_over.iter().enumerate() {
        clean(&format!("handed_over[{index}]"), dir)?;
    }
    secrets(&spec.secrets)?;
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
    spec.cwd.as_deref().map_or(Ok(()), working_dir)
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

/// A holder runs nothing that an image could bring; all else about groups depends on who runs.
fn check_group(spec: &ContainerSpec) -> Result<(), BadSpec> {
    let holds = spec.group == Some(GroupPart::Holder);
    if holds != (spec.rootfs == Rootfs::Empty) {
        return Err(bad(
            "rootfs",
            "is empty for the holder of a group, and for nobody else",
        ));
    }
    if holds && (spec.privileged || !spec.devices.is_empty()) {
        return Err(bad("group", "the holder of a group is not privileged"));
    }
    if holds && spec.terminal {
        return Err(bad(
            "terminal",
            "the holder of a group runs nothing that could use one",
        ));
    }
    Ok(())
}

fn check_rootfs(rootfs: &Rootfs) -> Result<(), BadSpec> {
    match rootfs {
        Rootfs::Empty => Ok(()),
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

/// A path inside the container; its links are resolved beneath the root later. What the kernel shows of a process is no
/// place to work in: its links lead to whatever that process has open (CVE-2024-21626).
fn working_dir(cwd: &str) -> Result<(), BadSpec> {
    let path = Path::new(cwd);
    clean("cwd", path)?;
    let mut names = path.components().skip(1);
    let is_proc = names.next() == Some(Component::Normal("proc".as_ref()));
    let of_process = names.next().is_some_and(|name| {
        let name = name.as_os_str().as_encoded_bytes();
        name == b"self" || name == b"thread-self" || name.iter().all(u8::is_ascii_digit)
    });
    if is_proc && of_process {
        return Err(not_a_working_dir(
            cwd,
            "is what the kernel shows of a process",
        ));
    }
    Ok(())
}

/// A `cwd` that cannot be one, and what to do about it.
pub(crate) fn not_a_working_dir(cwd: &str, why: &str) -> BadSpec {
    bad(
        "cwd",
        format!("{cwd:?} {why}; name a directory of the image or of a volume, such as \"/\""),
    )
}

/// Each where a mount may be, all within their bounds.
fn secrets(secrets: &Secrets) -> Result<(), BadSpec> {
    let mut bytes = 0_usize;
    for (index, file) in secrets.files.iter().enumerate() {
        mount_target(&format!("secrets.files[{index}].target"), &file.target)?;
        bytes = bytes.saturating_add(file.content.expose().len());
    }
    for (index, (name, value)) in secrets.env.iter().enumerate() {
        let field = format!("secrets.env[{index}]");
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad(field, format!("{name:?} is no name of a variable")));
        }
        let value = value.expose();
        if value.contains(&0) || std::str::from_utf8(value).is_err() {
            return Err(bad(field, format!("what is to be in {name} is no text")));
        }
        if name.len() + value.len() + 2 > MAX_VARIABLE {
            return Err(bad(
                field,
                format!(
                    "{name} would be longer than the {MAX_VARIABLE} bytes that the kernel takes"
                ),
            ));
        }
        bytes = bytes.saturating_add(value.len());
    }
    if bytes > MAX_BYTES || secrets.files.len() + secrets.env.len() > MAX_COUNT {
        return Err(bad(
            "secrets",
            format!("more than {MAX_COUNT}, or than {MAX_BYTES} bytes together"),
        ));
    }
    Ok(())
}

/// The kernel's MAX_ARG_STRLEN.
const MAX_VARIABLE: usize = 128 * 1024;

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
        for (cwd, field) in [
            ("/proc/self/fd/7", "cwd"),
            ("//proc/./self/fd", "cwd"),
            ("/proc/thread-self/root", "cwd"),
            ("/proc/17/cwd", "cwd"),
            ("/proc/sys", "none"),
            ("/proc", "none"),
            ("/process/self", "none"),
            ("/srv/proc/self", "none"),
        ] {
            assert_eq!(problem_of(|spec| spec.cwd = cwd.into()), field, "{cwd}");
        }
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
