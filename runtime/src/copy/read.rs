//! Telling a tree: depth first, each thing opened from the descriptor of the directory that holds it.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::{
    CHUNK, Copied, CopyError, Entry, Kind, MAX_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_PATH, Part,
    failed, parent_in, refused,
};

/// Tells what lies at `path` inside `root`, part by part; `told` says whether anybody still listens. A link is told as a
/// link. The paths of entries begin with the name of what was asked for; with nothing, where the path names a directory
/// by `.` at its end.
///
/// # Errors
///
/// What is not there, what cannot be read, more than a million entries or 64 GiB.
pub fn read_tree(
    root: &OwnedFd,
    path: &[u8],
    told: &mut dyn FnMut(Part) -> bool,
) -> Result<Copied, CopyError> {
    let (parent, name) = parent_in(root, path)?;
    let mut reader = Reader {
        told,
        copied: Copied::default(),
        device: 0,
    };
    match name {
        Some(name) => {
            let status = status(&parent, &name, path)?;
            reader.device = status.st_dev;
            if is(&status, SFlag::S_IFDIR)
                || is(&status, SFlag::S_IFREG)
                || is(&status, SFlag::S_IFLNK)
            {
                reader.entry(&parent, &name, &name, 0)?;
            } else {
                return Err(refused(path, "is no file, directory or link"));
            }
        }
        None => {
            let dir = open_dir(&parent, b".", path)?;
            let status = nix::sys::stat::fstat(&dir).map_err(failed("look at", path))?;
            reader.device = status.st_dev;
            reader.tell_entry(b"", Kind::Directory, &status)?;
            reader.contents(dir, b"", 0)?;
        }
    }
    Ok(reader.copied)
}

fn status(dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<FileStat, CopyError> {
    fstatat(dir, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(failed("look at", path))
}

fn is(status: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) == kind
}

fn open_dir(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, CopyError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, OsStr::from_bytes(name), flags, Mode::empty()).map_err(failed("open", path))
}

struct Reader<'a> {
    told: &'a mut dyn FnMut(Part) -> bool,
    copied: Copied,
    /// The file system that is copied: what is mounted beneath it (`/proc`!) is not.
    device: u64,
}

impl Reader<'_> {
    fn tell(&mut self, part: Part) -> Result<(), CopyError> {
        if (self.told)(part) {
            Ok(())
        } else {
            Err(CopyError::Gone)
        }
    }

    fn tell_entry(&mut self, path: &[u8], kind: Kind, status: &FileStat) -> Result<(), CopyError> {
        self.copied.entries += 1;
        if self.copied.entries > MAX_ENTRIES {
            return Err(refused(path, "more than a million entries; copy a part"));
        }
        self.tell(Part::Entry(Entry {
            path: path.to_vec(),
            kind,
            mode: status.st_mode & 0o7777,
            modified_secs: status.st_mtime,
        }))
    }

    fn entry(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), CopyError> {
        let found = status(parent, name, path)?;
        if is(&found, SFlag::S_IFDIR) {
            let dir = open_dir(parent, name, path)?;
            let opened = nix::sys::stat::fstat(&dir).map_err(failed("look at", path))?;
            if opened.st_dev != self.device {
                self.copied.left_out += 1;
                return Ok(());
            }
            self.tell_entry(path, Kind::Directory, &opened)?;
            self.contents(dir, path, depth)
        } else if is(&found, SFlag::S_IFLNK) {
            let target = readlinkat(parent, OsStr::from_bytes(name))
                .map_err(failed("read the link", path))?;
            let target = target.as_bytes().to_vec();
            self.tell_entry(path, Kind::Link(target), &found)
        } else if is(&found, SFlag::S_IFREG) {
            self.file(parent, name, path)
        } else {
            self.copied.left_out += 1;
            Ok(())
        }
    }

    fn file(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), CopyError> {
        // It may have become a pipe or a device since it was looked at: opening must not block, and nothing but a plain
        // file is read.
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let file = openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
            .map_err(failed("open", path))?;
        let found = nix::sys::stat::fstat(file.as_fd()).map_err(failed("look at", path))?;
        if !is(&found, SFlag::S_IFREG) {
            self.copied.left_out += 1;
            return Ok(());
        }
        let size = u64::try_from(found.st_size).unwrap_or(0);
        if self.copied.bytes.saturating_add(size) > MAX_BYTES {
            return Err(refused(path, "more than 64 GiB in all; copy a part"));
        }
        self.tell_entry(path, Kind::File(size), &found)?;
        let mut file = File::from(file);
        let mut left = size;
        while left > 0 {
            let mut bytes = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
            let n = match file.read(&mut bytes) {
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(CopyError::Io {
                        operation: "read",
                        path: super::shown(path),
                        source,
                    });
                }
            };
            // One that shrinks while it is read ends in zeros: its size has been told.
            if n > 0 {
                bytes.truncate(n);
            }
            left -= bytes.len() as u64;
            self.copied.bytes += bytes.len() as u64;
            self.tell(Part::Data(bytes))?;
        }
        Ok(())
    }

    fn contents(&mut self, dir: OwnedFd, path: &[u8], depth: usize) -> Result<(), CopyError> {
        if depth >= MAX_DEPTH {
            return Err(refused(path, "nested too deeply"));
        }
        let again = dir.try_clone().map_err(|source| CopyError::Io {
            operation: "open",
            path: super::shown(path),
            source,
        })?;
        let mut listing = Dir::from_fd(again).map_err(failed("list", path))?;
        let mut names: Vec<CString> = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(failed("list", path))?;
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                names.push(name.to_owned());
            }
            if names.len() as u64 > MAX_ENTRIES {
                return Err(refused(path, "more than a million entries; copy a part"));
            }
        }
        drop(listing);
        names.sort_unstable();
        for name in names {
            let name = name.as_bytes();
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name);
            if below.len() > MAX_PATH {
                return Err(refused(&below, "too long a path"));
            }
            match self.entry(&dir, name, &below, depth + 1) {
                // Gone between the list and the look: as if it had not been there.
                Err(CopyError::NotFound(_)) => {}
                other => other?,
            }
        }
        Ok(())
    }
}
