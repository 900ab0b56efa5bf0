//! Limits written without libcgroups, for one case: cgroup v2 on a host whose root may not raise
//! RLIMIT_MEMLOCK. libcgroups raises it to 128 MiB before it loads the device filter and gives up when it
//! cannot; kernels since 5.11 do not need that. The container's process waits meanwhile: it executes its program
//! only after this.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use libcgroups::v2::devices::bpf::prog;
use libcgroups::v2::devices::emulator::Emulator;
use libcgroups::v2::devices::program::Program;
use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources,
};

/// What libcgroups raises RLIMIT_MEMLOCK to.
const MEMLOCK_WANTED: u64 = 128 << 20;

/// Whether libcgroups would give up: the hard limit is too low and may not be raised.
pub(crate) fn needed(hard_memlock: u64, may_raise_limits: bool) -> bool {
    !may_raise_limits && hard_memlock < MEMLOCK_WANTED
}

/// Sets the limits and the device filter of the version 2 cgroup at `dir`.
pub(crate) fn apply(dir: &Path, resources: &LinuxResources) -> io::Result<()> {
    let write = |name: &str, value: String| {
        let path = dir.join(name);
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    for (name, value) in resources.unified().iter().flatten() {
        write(name, value.clone())?;
    }
    if let Some(cpu) = resources.cpu()
        && let (Some(quota), Some(period)) = (cpu.quota(), cpu.period())
    {
        write("cpu.max", format!("{quota} {period}"))?;
    }
    if let Some(memory) = resources.memory()
        && let Some(limit) = memory.limit()
    {
        write("memory.max", limit.to_string())?;
    }
    if let Some(pids) = resources.pids() {
        write("pids.max", pids.limit().to_string())?;
    }
    filter_devices(dir, resources.devices().as_deref().unwrap_or_default())
}

/// Loads and attaches a device program: the given rules, then the standard devices.
fn filter_devices(dir: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let mut emulator = Emulator::with_default_allow(false);
    emulator.add_rules(rules);
    // null, zero, full, random, urandom, tty, console, ptmx, and terminals.
    let standard = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    for (major, minor) in standard {
        let mut rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(major)
            .access("rwm");
        if let Some(minor) = minor {
            rule = rule.minor(minor);
        }
        emulator.add_rule(&rule.build().map_err(io::Error::other)?);
    }
    let program =
        Program::from_rules(&emulator.rules, emulator.default_allow).map_err(io::Error::other)?;
    let loaded = prog::load("Apache\0", program.bytecodes()).map_err(io::Error::other)?;
    let cgroup = fs::File::open(dir)?;
    let attached = prog::attach(loaded, cgroup.as_raw_fd()).map_err(io::Error::other);
    // The cgroup holds the program from now on.
    crate::sys::close_raw(loaded);
    attached
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder,
    };

    #[test]
    fn only_a_low_limit_that_cannot_be_raised_needs_this() {
        assert!(needed(8 << 20, false));
        assert!(!needed(8 << 20, true));
        assert!(!needed(u64::MAX, false));
    }

    /// Needs root and a cgroup2 mount: here the unified hierarchy of a hybrid host will do.
    #[test]
    fn limits_are_written_and_devices_are_filtered() {
        let Some(unified) = crate::cgroup::Hierarchies::detect()
            .ok()
            .and_then(|found| found.unified_dir("/"))
        else {
            eprintln!("skipped: needs a cgroup2 mount");
            return;
        };
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let files = tempfile::tempdir().unwrap();
        let resources = LinuxResourcesBuilder::default()
            .cpu(
                LinuxCpuBuilder::default()
                    .quota(50_000)
                    .period(100_000_u64)
                    .build()
                    .unwrap(),
            )
            .memory(LinuxMemoryBuilder::default().limit(4096).build().unwrap())
            .pids(LinuxPidsBuilder::default().limit(7).build().unwrap())
            .unified(
                [("cpu.weight", "39"), ("memory.swap.max", "0")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned())),
            )
            .build()
            .unwrap();
        // A plain directory takes the limits; that it takes no program is the error at the end.
        assert!(apply(files.path(), &resources).is_err());
        let text = |name: &str| fs::read_to_string(files.path().join(name)).unwrap();
        assert_eq!(
            [text("cpu.weight"), text("cpu.max"), text("memory.max")],
            ["39", "50000 100000", "4096"]
        );
        assert_eq!([text("memory.swap.max"), text("pids.max")], ["0", "7"]);

        let dir = unified.join(format!("mezzo-test-direct-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let deny = LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()
            .unwrap();
        let filtered = filter_devices(&dir, &[deny]);
        let script = format!(
            "echo $$ > {}/cgroup.procs; head -c1 /dev/zero | wc -c; head -c1 /dev/kmsg 2>&1 | grep -c 'not permitted'; true",
            dir.display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        let removed = crate::cgroup::remove_dir(
            &dir,
            std::time::Instant::now() + std::time::Duration::from_secs(10),
        );
        filtered.unwrap();
        removed.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\n");
    }
}
