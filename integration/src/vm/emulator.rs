//! QEMU's command line, the disks that it shows to a guest, and the socket that it makes for us.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::bench::Bench;
use super::line::Line;
use super::net::Plug;
use super::package::sbin;
use super::spec::{DataDisk, GuestFile, GuestSpec, System};
use super::{debian, protocol, qmp};
use crate::leftovers;
use crate::process::{self, Managed};

/// The program.
pub(super) const EMULATOR: &str = "qemu-system-x86_64";
/// What QEMU itself says.
pub(super) const LOG: &str = "qemu.log";
/// What it starts from, also when it is switched on again and the bench has newer ones by then.
const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs.cpio";
/// What a test puts into a guest.
const FILES: &str = "files.cpio";
/// What survives a power cut.
const DATA: &str = "data.img";
/// What QEMU calls it.
pub(super) const DATA_DRIVE: &str = "data";
/// A guest that panics is over. On a busy machine an emulated timer may miss the few ticks that the kernel gives it to
/// prove itself, which would be a panic.
const KERNEL_WORDS: &str =
    "console=ttyS0 loglevel=4 panic=-1 no_timer_check cgroup_no_v1=all psi=1 random.trust_cpu=on";
/// QEMU makes its socket at once.
const SOCKET_LIMIT: Duration = Duration::from_secs(20);
/// A guest that does not read for so long (stretched) hangs.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// A guest under power. Dropped in this order: a guest whose line is dead powers itself off.
#[derive(Debug)]
pub(super) struct Power {
    pub(super) line: Line,
    pub(super) emulator: Managed,
    /// On the network for as long.
    _plug: Option<Plug>,
}

/// Makes the disks of a guest in `dir`.
pub(super) fn make_disks(bench: &Bench, spec: &GuestSpec, dir: &Path) -> Result<()> {
    for (from, name) in [(&bench.kernel, KERNEL), (&bench.initramfs, INITRAMFS)] {
        fs::hard_link(from, dir.join(name)).with_context(|| format!("link {}", from.display()))?;
    }
    write_payload(&spec.files, &dir.join(FILES))?;
    if spec.system == System::Debian {
        debian::make_disk(bench, dir)?;
    }
    match spec.disk_mb {
        Some(size_mb) => make_disk(&dir.join(DATA), size_mb, spec.data),
        None => Ok(()),
    }
}

/// Starts the guest whose disks are in `dir` and connects its line.
pub(super) fn start(bench: &Bench, spec: &GuestSpec, dir: &Path) -> Result<Power> {
    let payload = dir.join(FILES);
    let payload = fs::metadata(&payload).with_context(|| format!("look at {}", payload.display()));
    let payload_mb = payload?.len().div_ceil(1 << 20);
    let mut command = Command::new(EMULATOR);
    command.current_dir(dir).env(leftovers::MARKER, "vm");
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    command
        .args(["-machine", "pc", "-name", &spec.name])
        .args(bench.speed.accel.args());
    command.args(["-smp", &spec.cpus.to_string()]);
    // Once on the disk (cached while it is read), once in the file system.
    let payload_mb = match spec.system {
        System::Micro => 2 * payload_mb,
        System::Debian => 0,
    };
    command.args(["-m", &format!("{}M", spec.memory_mb + payload_mb)]);
    command
        .args(["-kernel", KERNEL])
        .args(["-initrd", INITRAMFS]);
    let words = [
        KERNEL_WORDS,
        spec.system.kernel_words(),
        spec.data.kernel_words(),
    ];
    let words = words.join(" ");
    command.args(["-append", words.trim_end()]);
    // A guest that is switched on again goes on with its console.
    command.args(["-chardev", "file,id=console,path=console.log,append=on"]);
    command.args(["-serial", "chardev:console", "-device", "virtio-rng-pci"]);
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", qmp::SOCKET)]);
    command.args([
        "-chardev",
        "socket,id=line,path=line.sock,server=on,wait=off",
    ]);
    command.args(["-device", "virtio-serial-pci", "-device"]);
    command.arg(format!(
        "virtserialport,chardev=line,name={}",
        protocol::PORT
    ));
    // The first disk is always there, so that the second is always the second.
    disk(&mut command, "files", FILES, "raw,readonly=on");
    if spec.system == System::Debian {
        disk(
            &mut command,
            "root",
            debian::ROOT,
            "qcow2,cache=unsafe,discard=unmap",
        );
    }
    if spec.disk_mb.is_some() {
        disk(
            &mut command,
            DATA_DRIVE,
            DATA,
            "raw,cache=unsafe,discard=unmap",
        );
    }
    let plug = match &spec.nic {
        Some(nic) => {
            command.args(nic.args());
            Some(nic.plug(dir)?)
        }
        None => None,
    };
    let mut emulator = Managed::spawn(EMULATOR, &mut command, &dir.join(LOG))?;
    let stream = connect(dir, &mut emulator)?;
    let line = Line::new(stream, bench.speed.stretch(WRITE_LIMIT))?;
    Ok(Power {
        line,
        emulator,
        _plug: plug,
    })
}

fn disk(command: &mut Command, name: &str, file: &str, format: &str) {
    let drive = format!("id={name},file={file},if=none,format={format}");
    let device = format!("virtio-blk-pci,drive={name},serial={name}");
    command.args(["-drive", &drive, "-device", &device]);
}

fn write_payload(files: &[GuestFile], path: &Path) -> Result<()> {
    let mut archive = Archive::create(path)?;
    for file in files {
        archive.host(&file.host, &file.guest, file.mode)?;
    }
    archive.finish().map(drop)
}

fn make_disk(path: &Path, size_mb: u64, data: DataDisk) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.set_len(size_mb << 20)
        .with_context(|| format!("size {}", path.display()))?;
    let (program, options) = data.mkfs().split_first().context("a disk without mkfs")?;
    let mut mkfs = Command::new(sbin(program));
    process::output(mkfs.args(options).arg(path)).map(drop)
}

/// The path of a socket may have 107 bytes, checkouts lie deep: the way through our own descriptor is short.
fn connect(dir: &Path, emulator: &mut Managed) -> Result<UnixStream> {
    let folder = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    let path = format!("/proc/self/fd/{}/line.sock", folder.as_raw_fd());
    crate::wait::until("QEMU's socket", SOCKET_LIMIT, || {
        emulator.check_running()?;
        UnixStream::connect(&path)
            .with_context(|| format!("connect to {}/line.sock", dir.display()))
    })
}
