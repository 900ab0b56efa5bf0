//! Capabilities and hidden paths. Pure. The lists are Docker's with what ordinary services do not need taken
//! out: no MKNOD (devices are given, not made), no NET_RAW (it forges packets), no AUDIT_WRITE, no SETFCAP.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use crate::model::ContainerSpec;

const DEFAULT: &[Capability] = &[
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability up to CAP_CHECKPOINT_RESTORE (40), by number.
const ALL: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The capability's name without `CAP_`, in capitals, if there is such a one.
pub(crate) fn capability_name(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.iter().copied().find(|known| *known == bare)
}

/// The capabilities of a container that asks for nothing: names without `CAP_`, sorted.
#[must_use]
pub fn default_set() -> Vec<String> {
    let mut names: Vec<String> = DEFAULT
        .iter()
        .filter_map(|capability| capability_name(&capability.to_string()))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names
}

/// The set a container gets, sorted by name: also what decides which seccomp rules apply.
pub(crate) fn capability_set(spec: &ContainerSpec) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = if spec.privileged {
        ALL.to_vec()
    } else {
        DEFAULT
            .iter()
            .filter_map(|capability| capability_name(&capability.to_string()))
            .collect()
    };
    if spec
        .capabilities_drop
        .iter()
        .any(|name| name.eq_ignore_ascii_case("all"))
    {
        names.clear();
    }
    let dropped: Vec<_> = spec
        .capabilities_drop
        .iter()
        .filter_map(|name| capability_name(name))
        .collect();
    names.retain(|name| !dropped.contains(name));
    names.extend(
        spec.capabilities_add
            .iter()
            .filter_map(|name| capability_name(name)),
    );
    names.sort_unstable();
    names.dedup();
    names
}

/// Those of the set that are not among `permitted`, a bit for each capability.
pub(super) fn missing(spec: &ContainerSpec, permitted: u64) -> Vec<&'static str> {
    let has = |name: &&str| {
        let number = ALL.iter().position(|known| known == name);
        number.is_none_or(|number| permitted & (1 << number) != 0)
    };
    let mut names = capability_set(spec);
    names.retain(|name| !has(name));
    names
}

/// The sets for the kernel. Inheritable and ambient stay empty (CVE-2022-29162): with them, any file with
/// inheritable file capabilities would give them to an unprivileged user of the container.
pub(super) fn capabilities(spec: &ContainerSpec) -> Result<LinuxCapabilities, String> {
    let mut set = HashSet::new();
    for name in capability_set(spec) {
        set.insert(
            Capability::from_str(name).map_err(|error| format!("capability {name}: {error}"))?,
        );
    }
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .map_err(|error| error.to_string())
}

pub(super) fn masked_paths(privileged: bool) -> Vec<String> {
    const PATHS: &[&str] = &[
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    list(PATHS, privileged)
}

pub(super) fn readonly_paths(privileged: bool) -> Vec<String> {
    list(
        &[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ],
        privileged,
    )
}

fn list(paths: &[&str], privileged: bool) -> Vec<String> {
    if privileged {
        Vec::new()
    } else {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Rootfs;

    fn set(privileged: bool, add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let mut spec = ContainerSpec::new(Rootfs::Dir("/".into()), vec!["x".into()]);
        spec.privileged = privileged;
        spec.capabilities_add = add.iter().map(|name| (*name).to_owned()).collect();
        spec.capabilities_drop = drop.iter().map(|name| (*name).to_owned()).collect();
        capability_set(&spec)
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_either_name() {
        assert_eq!(set(false, &[], &[]), default_set());
        assert_eq!(
            set(false, &["net_raw", "CAP_NET_RAW"], &["ALL"]),
            ["NET_RAW"]
        );
        assert!(!set(false, &[], &["cap_chown"]).contains(&"CHOWN"));
        assert_eq!(set(true, &[], &[]).len(), 41);
    }

    #[test]
    fn every_name_is_known_to_the_library() {
        for name in ALL {
            assert!(Capability::from_str(name).is_ok(), "{name}");
        }
    }
}
