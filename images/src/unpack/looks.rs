//! How what was made shall look: owner, mode, times and extended attributes, never through a link.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, utimensat,
};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use xattr::FileExt;

use super::tar::{Entry, Time};
use super::{UnpackError, printable};

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// The ACL that new files in a directory get.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Whether an extended attribute of an archive is set on the file. Overlayfs's own are handled before.
pub(crate) fn is_carried(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

/// What of its looks something that was just made still lacks; each costs a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dressing {
    pub(crate) owner: bool,
    pub(crate) mode: bool,
}

impl Dressing {
    /// All that there is to give.
    pub(crate) const FULL: Self = Self {
        owner: true,
        mode: true,
    };
}

/// Owner, then mode (a change of owner clears set-id bits), then attributes (it clears capabilities, too). A default
/// ACL is left to [`set_default_acl`].
pub(crate) fn dress(
    made: &impl AsFd,
    entry: &Entry,
    mode: u32,
    lacks: Dressing,
) -> Result<(), UnpackError> {
    let made = made.as_fd();
    if lacks.owner {
        fchown(
            made,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(|e| failed("set the owner of", &entry.path, e))?;
    }
    if lacks.mode {
        fchmod(made, Mode::from_bits_truncate(mode))
            .map_err(|e| failed("set the mode of", &entry.path, e))?;
    }
    let carried = |(name, _): &&(Vec<u8>, Vec<u8>)| is_carried(name) && name != DEFAULT_ACL;
    if entry.xattrs.iter().any(|attribute| carried(&attribute)) {
        let file = owned(made, &entry.path)?;
        for (name, value) in entry.xattrs.iter().filter(carried) {
            let set = file.set_xattr(std::ffi::OsStr::from_bytes(name), value);
            attribute_result(set, file.as_fd(), &entry.path)?;
        }
    }
    Ok(())
}

/// The ACL that new files in a directory get: set when no more of the archive's files will come.
pub(crate) fn set_default_acl(
    directory: &OwnedFd,
    path: &[u8],
    acl: &[u8],
) -> Result<(), UnpackError> {
    let name = std::ffi::OsStr::from_bytes(DEFAULT_ACL);
    let set = owned(directory.as_fd(), path)?.set_xattr(name, acl);
    attribute_result(set, directory.as_fd(), path)
}

fn owned(made: BorrowedFd<'_>, path: &[u8]) -> Result<File, UnpackError> {
    let owned = made.try_clone_to_owned();
    owned.map(File::from).map_err(|source| UnpackError::Io {
        operation: "open",
        path: printable(path),
        source,
    })
}

/// For what cannot be opened without side effects: symlinks and nodes.
pub(crate) fn dress_by_name(
    parent: &OwnedFd,
    name: &[u8],
    entry: &Entry,
    lacks: Dressing,
) -> Result<(), UnpackError> {
    if lacks.owner {
        fchownat(
            parent,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            NOFOLLOW,
        )
        .map_err(|e| failed("set the owner of", &entry.path, e))?;
    }
    for (attribute, value) in &entry.xattrs {
        // The kernel allows user.* on files and directories only.
        if is_carried(attribute) && !attribute.starts_with(b"user.") {
            let set = xattr::set(
                through(parent, name),
                std::ffi::OsStr::from_bytes(attribute),
                value,
            );
            attribute_result(set, parent.as_fd(), &entry.path)?;
        }
    }
    let time = spec(entry.mtime);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|e| failed("set the time of", &entry.path, e))
}

/// A file system without extended attributes is no reason to refuse an image. One that has no room for those of one file
/// (a block or so) says that it is full: with room for files, it is the image that asks for too much.
fn attribute_result(
    result: std::io::Result<()>,
    place: BorrowedFd<'_>,
    path: &[u8],
) -> Result<(), UnpackError> {
    match result {
        Err(e)
            if e.raw_os_error() == Some(Errno::ENOSPC as i32)
                && fstatvfs(place).is_ok_and(|now| now.blocks_available() > 64) =>
        {
            Err(UnpackError::Refused {
                path: printable(path),
                reason: "it has more extended attributes than the file system takes",
            })
        }
        Err(e) if e.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            tracing::debug!(
                path = printable(path),
                "the file system holds no such extended attribute"
            );
            Ok(())
        }
        Err(source) => Err(UnpackError::Io {
            operation: "set an attribute of",
            path: printable(path),
            source,
        }),
        Ok(()) => Ok(()),
    }
}

pub(crate) fn mark_opaque(directory: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
    let io = |source| UnpackError::Io {
        operation: "mark as opaque",
        path: printable(path),
        source,
    };
    File::from(directory.try_clone().map_err(io)?)
        .set_xattr(OPAQUE, b"y")
        .map_err(io)
}

/// What is there by this name, a link itself and not its target.
pub(crate) fn look(parent: &OwnedFd, name: &[u8]) -> Result<FileStat, Errno> {
    fstatat(parent, name, NOFOLLOW)
}

pub(crate) fn is(found: &FileStat, kind: SFlag) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Whether it hides what lies below.
pub(crate) fn is_whiteout(parent: &OwnedFd, name: &[u8]) -> bool {
    look(parent, name).is_ok_and(|found| is(&found, SFlag::S_IFCHR) && found.st_rdev == 0)
}

/// Mode, owner, times and the extended attributes that are not overlayfs's own, from one directory to another.
pub(crate) fn copy_looks(from: &OwnedFd, to: &OwnedFd) -> Result<(), std::io::Error> {
    let looks = fstat(from)?;
    fchown(
        to,
        Some(Uid::from_raw(looks.st_uid)),
        Some(Gid::from_raw(looks.st_gid)),
    )?;
    fchmod(to, Mode::from_bits_truncate(looks.st_mode & 0o7777))?;
    let (from_file, to_file) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
    for name in from_file.list_xattr()? {
        if is_carried(name.as_encoded_bytes())
            && let Some(value) = from_file.get_xattr(&name)?
        {
            to_file.set_xattr(&name, &value)?;
        }
    }
    let mtime = TimeSpec::new(looks.st_mtime, looks.st_mtime_nsec);
    futimens(to, &mtime, &mtime)?;
    Ok(())
}

pub(crate) fn spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.secs, i64::from(time.nanos))
}

pub(crate) fn failed(operation: &'static str, path: &[u8], errno: Errno) -> UnpackError {
    UnpackError::Io {
        operation,
        path: printable(path),
        source: errno.into(),
    }
}

/// The path that leads through an open directory to one name in it, without following that name.
pub(crate) fn through(directory: &OwnedFd, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

/// No following of symlinks: what every call here wants.
pub(crate) const NOFOLLOW: AtFlags = AtFlags::AT_SYMLINK_NOFOLLOW;
