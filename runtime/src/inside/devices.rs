//! A container's `/dev`: the devices that every program expects, those that it was given, and the usual links.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknodat};
use nix::unistd::{fchownat, symlinkat};

use super::failed;
use crate::beneath::Root;
use crate::error::StartFailure;
use crate::spec::devices::HostDevice;
use crate::sys::mounts;
use crate::terminal::{Terminal, USUAL_SIZE};

/// Name and number of the character devices that the OCI runtime specification asks for ("Default Devices").
const USUAL: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// From where to where ("Default Devices", `/dev/ptmx`; and what runc and crun make, too).
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("kcore", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Fills `/dev`. A user namespace may make no devices: there the host's own are bound.
pub(super) fn make(root: &Root, given: &[HostDevice], own_users: bool) -> Result<(), StartFailure> {
    let dev = Path::new("/dev");
    let dir = root.make_dir(dev, None).map_err(failed("/dev"))?;
    for (name, to) in LINKS {
        symlinkat(to, &dir, name)
            .map_err(|error| failed(dev.join(name).display())(error.into()))?;
    }
    for (name, major, minor) in USUAL {
        let target = dev.join(name);
        let made = if own_users {
            bind(root, &target, &target)
        } else {
            let mode = Mode::from_bits_truncate(0o666);
            mknodat(&dir, name, SFlag::S_IFCHR, mode, makedev(major, minor))
                .map_err(io::Error::from)
        };
        made.map_err(failed(target.display()))?;
    }
    for device in given {
        let made = if own_users {
            bind(root, &device.source, &device.target)
        } else {
            node(root, device)
        };
        made.map_err(failed(device.target.display()))?;
    }
    Ok(())
}

fn bind(root: &Root, source: &Path, target: &Path) -> io::Result<()> {
    let copy = mounts::clone_mount(source, false)?;
    mounts::attach_mount(copy.as_fd(), root.make_file(target)?.as_fd())
}

fn node(root: &Root, device: &HostDevice) -> io::Result<()> {
    let (Some(parent), Some(name)) = (device.target.parent(), device.target.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = root.make_dir(parent, None)?;
    let kind = if device.is_block {
        SFlag::S_IFBLK
    } else {
        SFlag::S_IFCHR
    };
    let mode = Mode::from_bits_truncate(device.mode);
    mknodat(&dir, name, kind, mode, makedev(device.major, device.minor))?;
    let (uid, gid) = (Some(device.uid.into()), Some(device.gid.into()));
    fchownat(&dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// A terminal of the container's own for its program, shown as `/dev/console`.
pub(super) fn console(root: &Root, uid: u32) -> Result<Terminal, StartFailure> {
    let terminal = Terminal::open(root, uid, USUAL_SIZE).map_err(failed("a terminal"))?;
    let target = Path::new("/dev/console");
    let show = || {
        // What was opened, not what has its name (CVE-2025-52565).
        let copy = mounts::clone_mount_at(terminal.slave.as_fd(), false)?;
        mounts::attach_mount(copy.as_fd(), root.make_file(target)?.as_fd())
    };
    show().map_err(failed(target.display()))?;
    Ok(terminal)
}

/// The container's `/dev/null`, which is that and nothing else (CVE-2025-31133).
pub(super) fn open_null(root: &Root) -> Result<File, StartFailure> {
    let open = || -> io::Result<File> {
        let null = root.open_device(Path::new("/dev/null"))?;
        let number = null.metadata()?.rdev();
        if (major(number), minor(number)) == (1, 3) {
            // It is to be somebody's standard input.
            fcntl(&null, FcntlArg::F_SETFL(OFlag::empty()))?;
            Ok(null)
        } else {
            Err(io::Error::other("it is not the null device"))
        }
    };
    open().map_err(failed("/dev/null"))
}
