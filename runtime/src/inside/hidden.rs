//! What of the kernel's own files a container may not see, or not change.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{devices, failed};
use crate::beneath::Root;
use crate::error::StartFailure;
use crate::mount::{NODEV, NOEXEC, NOSUID, RDONLY};
use crate::sys::mounts;

/// Makes these paths read-only, where they are.
pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), StartFailure> {
    for path in paths {
        let made = || -> io::Result<()> {
            let Some(place) = find(root, path)? else {
                return Ok(());
            };
            let copy = mounts::clone_mount_at(place.as_fd(), true)?;
            mounts::set_own_attributes(copy.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC)?;
            mounts::attach_mount(copy.as_fd(), place.as_fd())
        };
        made().map_err(failed(path))?;
    }
    Ok(())
}

/// Covers these paths, where they are: a file with the null device, a directory with an empty one. The
/// empty one is made in `dev`, a file system of this container alone.
pub(super) fn mask(root: &Root, paths: &[String], dev: &File) -> Result<(), StartFailure> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = devices::open_null(root)?;
    let spare = Spare::new(dev).map_err(failed("an empty directory"))?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let mut made = || -> io::Result<()> {
            let Some(place) = find(root, path)? else {
                return Ok(());
            };
            if !place.metadata()?.is_dir() {
                let cover = mounts::clone_mount_at(null.as_fd(), false)?;
                return mounts::attach_mount(cover.as_fd(), place.as_fd());
            }
            // One for all of them.
            let cover = match &empty {
                Some(attached) => mounts::clone_mount_at(attached.as_fd(), false)?,
                None => spare.mount()?,
            };
            mounts::attach_mount(cover.as_fd(), place.as_fd())?;
            empty.get_or_insert(cover);
            Ok(())
        };
        made().map_err(failed(path))?;
    }
    spare.remove().map_err(failed("an empty directory"))
}

/// An empty directory, removed once it is mounted where it is needed: nothing can be made in it any more. A file system
/// less than a tmpfs would be.
struct Spare<'a> {
    parent: &'a File,
}

impl<'a> Spare<'a> {
    const NAME: &'static str = ".empty";

    fn new(parent: &'a File) -> io::Result<Self> {
        mkdirat(parent, Self::NAME, Mode::from_bits_truncate(0o555))?;
        Ok(Self { parent })
    }

    /// Attached nowhere.
    fn mount(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = openat(self.parent, Self::NAME, flags, Mode::empty())?;
        let mount = mounts::clone_mount_at(dir.as_fd(), false)?;
        mounts::set_own_attributes(mount.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC)?;
        Ok(mount)
    }

    fn remove(self) -> io::Result<()> {
        let flags = UnlinkatFlags::RemoveDir;
        Ok(unlinkat(self.parent, Self::NAME, flags)?)
    }
}

/// `None` where this kernel has no such file. These are directories and files of proc and sysfs, on whose way no links
/// are.
fn find(root: &Root, path: &str) -> io::Result<Option<File>> {
    match root.find_plain(Path::new(path)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
