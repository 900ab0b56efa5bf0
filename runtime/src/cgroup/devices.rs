//! Which devices a container may open: every one is refused but the standard few. On version 1 by the devices
//! controller; on version 2 by a program, built with libcgroups' compiler and loaded here, not by its manager, which first raises RLIMIT_MEMLOCK to 128 MiB (and gives up where
//! it may not) though kernels since 5.11 do not need that, and which would have the container pay for the loading.
//! The container's process waits meanwhile: it executes its program only after this.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::spec::devices::HostDevice;
use libcgroups::v2::devices::bpf::prog;
use libcgroups::v2::devices::emulator::Emulator;
use libcgroups::v2::devices::program::Program;
use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxDeviceType};

use super::{CgroupMode, Hierarchies};

/// null, zero, full, random, urandom, tty, console, ptmx, and terminals.
const STANDARD: [(i64, Option<i64>); 9] = [
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

/// Refuses the container's cgroup all devices but the standard ones and those that it is given.
pub(crate) fn restrict(
    hierarchies: &Hierarchies,
    cgroup: &str,
    given: &[HostDevice],
) -> io::Result<()> {
    let dir = hierarchies.controller_dir("devices", cgroup);
    let dir = dir.ok_or_else(|| {
        io::Error::other("no controller refuses devices here: boot without cgroup_disable=devices")
    })?;
    match hierarchies.mode {
        CgroupMode::V2 => filter(&dir, given),
        CgroupMode::V1 | CgroupMode::Hybrid => refuse_v1(&dir, given),
    }
}

fn refuse_v1(dir: &Path, given: &[HostDevice]) -> io::Result<()> {
    let failed = |name: &'static str| {
        let file = dir.join(name);
        move |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()))
    };
    fs::write(dir.join("devices.deny"), "a").map_err(failed("devices.deny"))?;
    let failed = failed("devices.allow");
    let mut allow = fs::OpenOptions::new()
        .write(true)
        .open(dir.join("devices.allow"))
        .map_err(&failed)?;
    // A rule a write.
    for (major, minor) in STANDARD {
        let minor = minor.map_or("*".to_owned(), |minor| minor.to_string());
        let rule = format!("c {major}:{minor} rwm");
        allow.write_all(rule.as_bytes()).map_err(&failed)?;
    }
    for device in given {
        let rule = device.rule().map_err(io::Error::other)?.to_string();
        allow.write_all(rule.as_bytes()).map_err(&failed)?;
    }
    Ok(())
}

/// The same on version 2, for the cgroup at `dir`.
fn filter(dir: &Path, given: &[HostDevice]) -> io::Result<()> {
    let mut emulator = Emulator::with_default_allow(false);
    for (major, minor) in STANDARD {
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
    for device in given {
        emulator.add_rule(&device.rule().map_err(io::Error::other)?);
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

    /// Needs root and a cgroup2 mount: here the unified hierarchy of a hybrid host will do.
    #[test]
    fn devices_but_the_standard_ones_are_refused() {
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
        // A plain directory takes no program.
        let plain = tempfile::tempdir().unwrap();
        // Numbers for local use, which no driver has: who gets past the filter hears that there is no such device.
        for (name, minor) in [("given", 7), ("other", 8)] {
            use nix::sys::stat::{Mode, SFlag, makedev, mknod};
            let mode = Mode::from_bits_truncate(0o666);
            mknod(
                &plain.path().join(name),
                SFlag::S_IFCHR,
                mode,
                makedev(61, minor),
            )
            .unwrap();
        }
        let given = HostDevice {
            source: "/dev/given".into(),
            target: "/dev/given".into(),
            is_block: false,
            major: 61,
            minor: 7,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        assert!(filter(plain.path(), &[]).is_err());
        let dir = unified.join(format!("mezzo-test-devices-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let filtered = filter(&dir, &[given]);
        let script = format!(
            "echo $$ > {}/cgroup.procs; head -c1 /dev/zero | wc -c; head -c1 /dev/kmsg 2>&1 | grep -c 'not permitted'; for name in given other; do head -c1 {}/$name 2>&1 | grep -c 'No such device'; done; true",
            dir.display(),
            plain.path().display()
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
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\n1\n0\n");
    }
}
