//! What a guest starts from: busybox, kernel modules, `mezzo-guest` with its libraries, and scripts. Written once
//! per content, whose hash is in its name.
//!
//! The first script fills a file system in memory and moves into it, because `pivot_root` (which every container
//! does) refuses to leave the file system that the kernel unpacked the initramfs to. Where the kernel's command line
//! names a root file system, it moves there instead, and systemd takes over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::archive::Archive;
use super::package::Kernel;
use super::{elf, modules};
use crate::paths;

/// The programs of busybox that scripts in guests may use come from `busybox --install`.
const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t securityfs security /sys/kernel/security
load() {
    for module in $($B cat "/modules/$1"); do
        $B insmod "/modules/$module" || echo "init: no module $module"
    done
}
load devices
for word in $($B cat /proc/cmdline); do
    case $word in mezzo.root=*) . /debian "${word#mezzo.root=}" ;; esac
done
load containers
case " $($B cat /proc/cmdline) " in *" mezzo.data=xfs,"*) load xfs ;; esac
$B mount -t tmpfs -o mode=755,size=90% root /new
$B cp -a /bin /etc /lib /lib64 /sbin /usr /new/ 2>/dev/null
cd /new
if [ -b /dev/vda ]; then
    $B cpio -idmu < /dev/vda || echo "init: the first disk could not be unpacked"
fi
$B mkdir -p dev proc sys run tmp root var/lib mnt
$B mount --move /dev /new/dev
$B mount --move /proc /new/proc
$B mount --move /sys /new/sys
exec $B switch_root /new /sbin/init
"#;

/// Goes on for a guest with a disk, `$1`. The machine's id is written when all that the test gave is on the disk: so a
/// power cut before that is no first boot. What is ours lives in `/run`, which systemd leaves as it finds it.
const DEBIAN: &str = r#"
$B mount -t ext4 -o noinit_itable "$1" /new || echo "init: no root file system on $1"
cd /new
if [ ! -s etc/machine-id ]; then
    $B cpio -idmu < /dev/vda || echo "init: the first disk could not be unpacked"
    # The archive's folders all look the same.
    $B chmod 1777 tmp var/tmp && $B chmod 700 root
    $B sync
    $B tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
    $B sync
fi
if [ -b /dev/vdc ]; then
    $B mount -t ext4 /dev/vdc data || echo "init: the disk for data could not be mounted"
fi
for place in dev proc sys; do $B mount --move "/$place" "$place"; done
$B mount -t tmpfs -o mode=755,nosuid,nodev,size=20% run run
$B cp -a /sbin/mezzo-guest run/
$B mkdir -p run/systemd/system/sysinit.target.wants
$B cp /mezzo-guest.service run/systemd/system/
$B ln -s ../mezzo-guest.service run/systemd/system/sysinit.target.wants/
exec $B switch_root /new /sbin/init
"#;

/// Starts before all else and stays to the last, so that a boot or an end that hangs can be looked into.
const UNIT: &str = "[Unit]
Description=Hands of the test bench
DefaultDependencies=no
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate

[Service]
ExecStart=/run/mezzo-guest
StandardError=journal+console
TasksMax=infinity
";

/// As systemd would have it: one shared tree of mounts, cgroup v2, a loopback interface.
const BOOT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount --make-rshared /
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777,size=90% tmp /tmp
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
hostname guest
ip link set lo up
if [ -b /dev/vdb ]; then
    data=ext4,defaults
    for word in $(cat /proc/cmdline); do
        case $word in mezzo.data=*) data=${word#mezzo.data=} ;; esac
    done
    mkdir -p /data && mount -t "${data%%,*}" -o "${data#*,}" /dev/vdb /data
fi
"#;

const INITTAB: &str = "\
::sysinit:/etc/boot
::once:/bin/sh -c '/sbin/mezzo-guest; echo mezzo-guest ended with $?; poweroff -f'
";

/// The archive for this kernel and this `mezzo-guest`.
pub(super) fn ensure(dir: &Path, kernel: &Kernel, guest_program: &Path) -> Result<PathBuf> {
    let content = assemble(kernel, guest_program)?;
    let hash: String = Sha256::digest(&content)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = dir.join(format!("initramfs-{hash}.cpio"));
    if path.is_file() {
        return Ok(path);
    }
    // Those of earlier builds; guests have links of their own.
    for entry in fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .flatten()
    {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("initramfs-")
        {
            let _removed_by_another = fs::remove_file(entry.path());
        }
    }
    let draft = dir.join("initramfs-draft");
    fs::write(&draft, &content).with_context(|| format!("write {}", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("name {}", path.display()))?;
    Ok(path)
}

fn assemble(kernel: &Kernel, guest_program: &Path) -> Result<Vec<u8>> {
    let busybox = paths::on_path("busybox").context("busybox is not on the PATH")?;
    let mut archive = Archive::new(Vec::new());
    for folder in ["dev", "proc", "sys", "new", "usr/bin", "lib64"] {
        archive.directory(folder)?;
    }
    archive.bytes("/init", 0o755, INIT.as_bytes())?;
    archive.host(&busybox, "/bin/busybox", Some(0o755))?;
    archive.link("/sbin/init", "/bin/busybox")?;
    archive.bytes("/debian", 0o644, DEBIAN.as_bytes())?;
    archive.bytes("/mezzo-guest.service", 0o644, UNIT.as_bytes())?;
    archive.bytes("/etc/boot", 0o755, BOOT.as_bytes())?;
    archive.bytes("/etc/inittab", 0o644, INITTAB.as_bytes())?;
    archive.bytes("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.bytes("/etc/group", 0o644, b"root:x:0:\ntty:x:5:\n")?;
    archive.bytes("/etc/hosts", 0o644, b"127.0.0.1 localhost guest\n")?;
    archive.bytes(
        "/etc/os-release",
        0o644,
        b"ID=mezzo-guest\nPRETTY_NAME=\"guest of mezzo's test bench\"\n",
    )?;
    for file in elf::with_libraries(guest_program)?.iter().skip(1) {
        archive.host(file, &file.to_string_lossy(), None)?;
    }
    archive.host(guest_program, "/sbin/mezzo-guest", Some(0o755))?;

    let dep = kernel.modules.join("modules.dep");
    let dep = fs::read_to_string(&dep).with_context(|| format!("read {}", dep.display()))?;
    let devices = modules::load_order(&dep, &modules::DEVICES)?;
    let mut containers = modules::load_order(&dep, &modules::CONTAINERS)?;
    containers.retain(|file| !devices.contains(file));
    let mut xfs = modules::load_order(&dep, &modules::XFS)?;
    xfs.retain(|file| !devices.contains(file) && !containers.contains(file));
    for (list, files) in [
        ("devices", devices),
        ("containers", containers),
        ("xfs", xfs),
    ] {
        let mut order = String::new();
        for file in files {
            let name = file.rsplit('/').next().unwrap_or(&file);
            let path = format!("/modules/{name}");
            archive.host(&kernel.modules.join(&file), &path, None)?;
            order.push_str(name);
            order.push('\n');
        }
        archive.bytes(&format!("/modules/{list}"), 0o644, order.as_bytes())?;
    }
    archive.finish()
}
