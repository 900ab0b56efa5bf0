//! What this host offers and lacks for running containers, each with the fix: the runtime's part of
//! `mezzo doctor`. Reads only, except for one namespace made in a process that ends at once.

use std::fs;
use std::path::Path;

use crate::apparmor::Support;
use crate::cgroup::{CgroupMode, Hierarchies};
use crate::container::{CAP_SYS_RESOURCE, has_capability};

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Containers run, with something less.
    Warning,
    /// Containers do not run.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it stands.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
}

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// One entry per thing.
    pub checks: Vec<Check>,
    /// Which generation of control groups holds the controllers; `None` if there are none.
    pub cgroup_mode: Option<CgroupMode>,
    /// The controllers that can be used, such as `cpuset`.
    pub controllers: Vec<String>,
}

impl HostReport {
    /// Whether containers can run.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.checks
            .iter()
            .all(|check| check.state != CheckState::Missing)
    }
}

/// Looks at this host.
#[must_use]
pub fn inspect_host() -> HostReport {
    let hierarchies = Hierarchies::detect().ok();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut checks = vec![
        root(nix::unistd::geteuid().is_root()),
        kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        cgroups(hierarchies.as_ref()),
    ];
    if let Some(hierarchies) = &hierarchies {
        checks.push(controllers(hierarchies.mode, &hierarchies.controllers()));
    }
    checks.extend([
        overlay(
            &fs::read_to_string("/proc/filesystems").unwrap_or_default(),
            Path::new("/sys/module/overlay").exists(),
        ),
        seccomp(&fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default()),
        apparmor(crate::apparmor::support()),
        namespaces(Path::new("/proc/self/ns")),
        own_users(crate::stage::probe_own_users(Path::new("/var/lib"))),
        sys_resource(has_capability(&status, CAP_SYS_RESOURCE)),
        memory_files(),
    ]);
    HostReport {
        controllers: hierarchies
            .as_ref()
            .map(Hierarchies::controllers)
            .unwrap_or_default(),
        checks,
        cgroup_mode: hierarchies.map(|found| found.mode),
    }
}

fn check(name: &str, state: CheckState, found: impl Into<String>, fix: &str) -> Check {
    let fix = if state == CheckState::Ok { "" } else { fix };
    Check {
        name: name.to_owned(),
        state,
        found: found.into(),
        fix: fix.to_owned(),
    }
}

fn root(is_root: bool) -> Check {
    let (state, found) = if is_root {
        (CheckState::Ok, "running as root")
    } else {
        (CheckState::Missing, "not running as root")
    };
    check("root", state, found, "run the agent as root (sudo)")
}

fn kernel(release: &str) -> Check {
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // 5.12: mount_setattr, the newest call that has no way round it.
    let state = if version >= (5, 19) {
        CheckState::Ok
    } else if version >= (5, 12) {
        CheckState::Warning
    } else {
        CheckState::Missing
    };
    check(
        "kernel",
        state,
        release,
        "Linux 5.12 is needed; from 5.19 on the memory peak is told, from 6.5 on hundreds of layers work",
    )
}

fn cgroups(hierarchies: Option<&Hierarchies>) -> Check {
    let (state, found) = match hierarchies.map(|found| found.mode) {
        Some(CgroupMode::V2) => (CheckState::Ok, "cgroup v2"),
        Some(CgroupMode::Hybrid) => (
            CheckState::Warning,
            "hybrid: the controllers are bound to cgroup v1",
        ),
        Some(CgroupMode::V1) => (CheckState::Warning, "cgroup v1"),
        None => (
            CheckState::Missing,
            "no cgroup file system below /sys/fs/cgroup",
        ),
    };
    let fix = "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup; v1 works, with pressure figures absent";
    check("control groups", state, found, fix)
}

fn controllers(mode: CgroupMode, present: &[String]) -> Check {
    let wanted: &[&str] = match mode {
        CgroupMode::V2 => &["cpu", "memory", "pids", "io"],
        CgroupMode::V1 | CgroupMode::Hybrid => &[
            "cpu", "cpuacct", "memory", "pids", "devices", "blkio", "freezer",
        ],
    };
    let missing: Vec<_> = wanted
        .iter()
        .filter(|name| !present.iter().any(|known| known == *name))
        .copied()
        .collect();
    let state = if missing.is_empty() {
        CheckState::Ok
    } else if missing
        .iter()
        .any(|name| ["cpu", "memory", "pids", "devices", "cpuacct"].contains(name))
    {
        CheckState::Missing
    } else {
        CheckState::Warning
    };
    let found = if missing.is_empty() {
        present.join(" ")
    } else {
        format!("missing: {}", missing.join(" "))
    };
    check(
        "controllers",
        state,
        found,
        "boot with cgroup_enable=memory (and without cgroup_disable=), or enable them in the parent's cgroup.subtree_control",
    )
}

fn overlay(filesystems: &str, module_loaded: bool) -> Check {
    let known = module_loaded
        || filesystems
            .lines()
            .any(|line| line.split_whitespace().last() == Some("overlay"));
    let (state, found) = if known {
        (CheckState::Ok, "overlayfs")
    } else {
        (CheckState::Missing, "no overlayfs")
    };
    check("overlayfs", state, found, "modprobe overlay")
}

fn apparmor(support: Support) -> Check {
    let (state, found) = match support {
        Support::None => (CheckState::Ok, "not in this kernel".to_owned()),
        Support::Ready(parser) => (CheckState::Ok, format!("on, with {parser}")),
        Support::Without(what) => (CheckState::Warning, format!("on, but {what}")),
    };
    check(
        "apparmor",
        state,
        found,
        "install the package apparmor, if containers are to be confined by its profiles too",
    )
}

fn seccomp(actions: &str) -> Check {
    let known = actions.split_whitespace().any(|action| action == "errno");
    let (state, found) = if known {
        (CheckState::Ok, "filters")
    } else {
        (CheckState::Missing, "no seccomp filters")
    };
    check(
        "seccomp",
        state,
        found,
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn namespaces(dir: &Path) -> Check {
    let missing: Vec<_> = ["pid", "mnt", "ipc", "uts", "net", "cgroup"]
        .into_iter()
        .filter(|name| !dir.join(name).exists())
        .collect();
    let state = if missing.is_empty() {
        CheckState::Ok
    } else {
        CheckState::Missing
    };
    let found = if missing.is_empty() {
        "all six".to_owned()
    } else {
        format!("missing: {}", missing.join(" "))
    };
    check(
        "namespaces",
        state,
        found,
        "use a kernel with CONFIG_NAMESPACES and all of its kinds",
    )
}

fn own_users(probed: Result<(), String>) -> Check {
    let (state, found) = match probed {
        Ok(()) => (
            CheckState::Ok,
            "containers have users of their own".to_owned(),
        ),
        Err(reason) => (
            CheckState::Warning,
            format!("containers have the machine's users: {reason}"),
        ),
    };
    check(
        "user namespaces",
        state,
        found,
        "use Linux 5.19 or later, and ext4, xfs or btrfs for the agent's state",
    )
}

fn sys_resource(present: bool) -> Check {
    if present {
        return check("CAP_SYS_RESOURCE", CheckState::Ok, "present", "");
    }
    check(
        "CAP_SYS_RESOURCE",
        CheckState::Warning,
        "absent: hard limits cannot be raised and stay as they are",
        "give the agent CAP_SYS_RESOURCE",
    )
}

fn memory_files() -> Check {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let policy = fs::read_to_string("/proc/sys/vm/memfd_noexec").unwrap_or_default();
    let refused = policy.trim() == "2";
    match memfd_create(
        "mezzo-doctor",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    ) {
        Ok(_) if !refused => check(
            "sealed program copy",
            CheckState::Ok,
            "memory files can be sealed and executed",
            "",
        ),
        Ok(_) => check(
            "sealed program copy",
            CheckState::Missing,
            "vm.memfd_noexec=2 forbids executing memory files",
            "sysctl vm.memfd_noexec=0",
        ),
        Err(error) => check(
            "sealed program copy",
            CheckState::Missing,
            error.desc(),
            "use a kernel with CONFIG_MEMFD_CREATE",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(kernel("6.18.44-x\n").state, CheckState::Ok);
        assert_eq!(kernel("5.15.0-101-generic").state, CheckState::Warning);
        assert_eq!(kernel("5.12.0").state, CheckState::Warning);
        assert_eq!(kernel("5.11.22").state, CheckState::Missing);
        assert_eq!(kernel("4.19.0").state, CheckState::Missing);
        assert_eq!(kernel("").state, CheckState::Missing);
    }

    #[test]
    fn what_is_missing_is_named_with_its_fix() {
        let present = ["cpu".to_owned(), "pids".to_owned()];
        let report = controllers(CgroupMode::V2, &present);
        assert_eq!(
            (report.state, report.found.as_str()),
            (CheckState::Missing, "missing: memory io")
        );
        assert!(report.fix.contains("cgroup_enable=memory"));
        assert_eq!(
            overlay("nodev\tsysfs\n\text4\n", false).state,
            CheckState::Missing
        );
        assert_eq!(overlay("nodev\toverlay\n", false).state, CheckState::Ok);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        assert!(inspect_host().checks.len() >= 8);
    }
}
