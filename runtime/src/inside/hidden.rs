//! What of the kernel's own files a container may not see, or not change.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{devices, failed};
use crate::beneath::Root;
use crate::error::StartFailure;
use crate::mount::{NODEV, NOEXEC, NOSUID, RDONLY};
use crate::sys::mounts::{self, FsOption};

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

/// Covers these paths, where they are: a file with the null device, a directory with an empty one.
pub(super) fn mask(root: &Root, paths: &[String]) -> Result<(), StartFailure> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = devices::open_null(root)?;
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
                None => mounts::fs_mount(
                    c"tmpfs",
                    &[
                        FsOption::Text("source", b"tmpfs"),
                        FsOption::Text("size", b"0"),
                    ],
                    RDONLY | NOSUID | NODEV | NOEXEC,
                )?,
            };
            mounts::attach_mount(cover.as_fd(), place.as_fd())?;
            empty.get_or_insert(cover);
            Ok(())
        };
        made().map_err(failed(path))?;
    }
    Ok(())
}

/// `None` where this kernel has no such file. These are directories and files of proc and sysfs, on whose way no links
/// are.
fn find(root: &Root, path: &str) -> io::Result<Option<std::fs::File>> {
    match root.find_plain(Path::new(path)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
