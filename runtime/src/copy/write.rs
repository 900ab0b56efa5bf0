//! Making a tree from its parts, beneath one directory and nowhere else.
//!
//! Files come under a name of their own and are renamed when they are whole: what was there before is replaced, not
//! written into, so that no link, device or running program is reached through it. Whoever looks meanwhile sees the old
//! file or the new one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use super::{
    Copied, CopyError, Entry, Kind, MAX_BYTES, MAX_ENTRIES, MAX_PATH, Part, failed, is_plain,
    open_beneath, parent_in, refused, shown,
};
use crate::sys::creator::Creator;

/// Makes a tree.
#[derive(Debug)]
pub struct TreeWriter {
    base: OwnedFd,
    /// Instead of the first name of every path.
    rename: Option<Vec<u8>>,
    /// Who owns what is made; whoever makes it, when absent.
    owner: Option<(u32, u32)>,
    file: Option<Pending>,
    copied: Copied,
}

/// A file that is not whole yet; removed if it never is.
#[derive(Debug)]
struct Pending {
    dir: OwnedFd,
    temporary: OsString,
    name: OsString,
    path: Vec<u8>,
    file: File,
    left: u64,
    entry: Entry,
    placed: bool,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.placed {
            let _ = unlinkat(
                &self.dir,
                self.temporary.as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}

impl TreeWriter {
    /// For a tree at `path` inside `root`: into the directory, if there is one (links to one are followed, inside the
    /// root); under that name, if there is none.
    ///
    /// # Errors
    ///
    /// When the directory above is not there.
    pub fn open(root: &OwnedFd, path: &[u8], owner: Option<(u32, u32)>) -> Result<Self, CopyError> {
        let new = |base, rename| Self {
            base,
            rename,
            owner,
            file: None,
            copied: Copied::default(),
        };
        let whole = if path.iter().all(|byte| *byte == b'/') {
            b"."
        } else {
            path
        };
        let opened = open_beneath(
            root,
            Path::new(OsStr::from_bytes(whole)),
            OFlag::O_PATH | OFlag::O_DIRECTORY,
            ResolveFlag::RESOLVE_IN_ROOT,
        );
        match opened {
            Ok(base) => Ok(new(base, None)),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) if !path.ends_with(b"/") => {
                let (parent, name) = parent_in(root, path)?;
                match name {
                    Some(name) if is_plain(&name) => Ok(new(parent, Some(name))),
                    Some(_) | None => Err(CopyError::NotFound(shown(path))),
                }
            }
            Err(error) => Err(failed("open", path)(error)),
        }
    }

    /// Takes the next part. With an owner, this thread acts as that user meanwhile (see `Creator`).
    ///
    /// # Errors
    ///
    /// What cannot be made, and what no honest sender sends. What was made before stays.
    pub fn take(&mut self, part: Part) -> Result<(), CopyError> {
        // On a volume that is shown with a container's own user numbers nobody else makes anything.
        let _creator = match self.owner {
            None => None,
            Some((uid, gid)) => {
                let creator = Creator::become_user(uid, gid).map_err(|source| CopyError::Io {
                    operation: "act as the owner of",
                    path: part.path(),
                    source,
                })?;
                Some(creator)
            }
        };
        match part {
            Part::Entry(entry) => self.entry(entry),
            Part::Data(bytes) => self.data(&bytes),
        }
    }

    /// The tree is complete.
    ///
    /// # Errors
    ///
    /// When the last file is not.
    pub fn finish(self) -> Result<Copied, CopyError> {
        match &self.file {
            None => Ok(self.copied.clone()),
            Some(file) => Err(CopyError::Nonsense(format!(
                "{} bytes of {} are missing",
                file.left,
                shown(&file.path)
            ))),
        }
    }

    fn entry(&mut self, mut entry: Entry) -> Result<(), CopyError> {
        if let Some(file) = &self.file {
            return Err(CopyError::Nonsense(format!(
                "{} bytes of {} are missing",
                file.left,
                shown(&file.path)
            )));
        }
        self.copied.entries += 1;
        if self.copied.entries > MAX_ENTRIES {
            return Err(refused(&entry.path, "more than a million entries"));
        }
        let names = self.names(&entry.path)?;
        let Some((name, above)) = names.split_last() else {
            // The directory itself: it is there, or is made under the new name.
            return match (&self.rename, &entry.kind) {
                (None, Kind::Directory) => Ok(()),
                (Some(name), Kind::Directory) => {
                    let name = name.clone();
                    let base = self.again()?;
                    self.directory(&base, &name, &entry)?;
                    let made = self.beneath(&name)?;
                    self.base = made;
                    self.rename = None;
                    Ok(())
                }
                (_, Kind::File(_) | Kind::Link(_)) => {
                    Err(CopyError::Nonsense("an entry without a name".to_owned()))
                }
            };
        };
        let dir = if above.is_empty() {
            self.again()?
        } else {
            self.beneath(&above.join(&b'/'))?
        };
        entry.path = names.join(&b'/');
        match &entry.kind {
            Kind::Directory => self.directory(&dir, name, &entry),
            Kind::Link(target) => self.link(&dir, name, target, &entry.path),
            Kind::File(size) => {
                let size = *size;
                self.file(dir, name.clone(), entry, size)
            }
        }
    }

    /// The names of a path, the first replaced where another was asked for.
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, CopyError> {
        if path.is_empty() {
            return Ok(Vec::new());
        }
        let mut names: Vec<Vec<u8>> = path
            .split(|byte| *byte == b'/')
            .map(<[u8]>::to_vec)
            .collect();
        if path.len() > MAX_PATH || !names.iter().all(|name| is_plain(name)) {
            return Err(CopyError::Nonsense(format!("the path {}", shown(path))));
        }
        if let (Some(first), Some(rename)) = (names.first_mut(), &self.rename) {
            first.clone_from(rename);
        }
        Ok(names)
    }

    fn again(&self) -> Result<OwnedFd, CopyError> {
        self.base.try_clone().map_err(|source| CopyError::Io {
            operation: "open",
            path: ".".to_owned(),
            source,
        })
    }

    /// A directory beneath the base, reached through no link.
    fn beneath(&self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        open_beneath(
            &self.base,
            Path::new(OsStr::from_bytes(path)),
            OFlag::O_PATH | OFlag::O_DIRECTORY,
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
        )
        .map_err(failed("open", path))
    }

    fn directory(&self, dir: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), CopyError> {
        let os_name = OsStr::from_bytes(name);
        match mkdirat(dir, os_name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {}
            Err(nix::Error::EEXIST) => {
                let there = fstatat(dir, os_name, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(failed("look at", &entry.path))?;
                let kind = SFlag::from_bits_truncate(there.st_mode & SFlag::S_IFMT.bits());
                return if kind == SFlag::S_IFDIR {
                    Ok(())
                } else {
                    Err(refused(&entry.path, "is there and is no directory"))
                };
            }
            Err(error) => return Err(failed("make", &entry.path)(error)),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made =
            openat(dir, os_name, flags, Mode::empty()).map_err(failed("open", &entry.path))?;
        self.own(made.as_fd(), entry)
    }

    /// Owner and permissions; no set-id bits, whoever sends them.
    fn own(&self, file: std::os::fd::BorrowedFd<'_>, entry: &Entry) -> Result<(), CopyError> {
        if let Some((uid, gid)) = self.owner {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(failed("give away", &entry.path))?;
        }
        fchmod(file, Mode::from_bits_truncate(entry.mode & 0o777))
            .map_err(failed("set the mode of", &entry.path))
    }

    fn link(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        target: &[u8],
        path: &[u8],
    ) -> Result<(), CopyError> {
        if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
            return Err(CopyError::Nonsense(format!("the link {}", shown(path))));
        }
        let temporary = temporary_name();
        symlinkat(OsStr::from_bytes(target), dir, temporary.as_os_str())
            .map_err(failed("make the link", path))?;
        if let Some((uid, gid)) = self.owner {
            let _ = fchownat(
                dir,
                temporary.as_os_str(),
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            );
        }
        renameat(dir, temporary.as_os_str(), dir, OsStr::from_bytes(name)).map_err(|error| {
            let _ = unlinkat(dir, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
            failed("place", path)(error)
        })
    }

    fn file(
        &mut self,
        dir: OwnedFd,
        name: Vec<u8>,
        entry: Entry,
        size: u64,
    ) -> Result<(), CopyError> {
        if self.copied.bytes.saturating_add(size) > MAX_BYTES {
            return Err(refused(&entry.path, "more than 64 GiB in all"));
        }
        let temporary = temporary_name();
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(
            &dir,
            temporary.as_os_str(),
            flags,
            Mode::from_bits_truncate(0o600),
        )
        .map_err(failed("make", &entry.path))?;
        self.file = Some(Pending {
            dir,
            temporary,
            name: OsString::from_vec(name),
            path: entry.path.clone(),
            file: File::from(file),
            left: size,
            entry,
            placed: false,
        });
        if size == 0 { self.place() } else { Ok(()) }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        let Some(pending) = &mut self.file else {
            return Err(CopyError::Nonsense("bytes of no file".to_owned()));
        };
        let length = bytes.len() as u64;
        if length > pending.left {
            return Err(CopyError::Nonsense(format!(
                "more bytes of {} than its size",
                shown(&pending.path)
            )));
        }
        pending
            .file
            .write_all(bytes)
            .map_err(|source| CopyError::Io {
                operation: "write",
                path: shown(&pending.path),
                source,
            })?;
        pending.left -= length;
        self.copied.bytes += length;
        if pending.left == 0 {
            self.place()
        } else {
            Ok(())
        }
    }

    /// The file is whole.
    fn place(&mut self) -> Result<(), CopyError> {
        let Some(mut pending) = self.file.take() else {
            return Ok(());
        };
        self.own(pending.file.as_fd(), &pending.entry)?;
        let time = TimeSpec::new(pending.entry.modified_secs, 0);
        let _ = futimens(&pending.file, &time, &time);
        renameat(
            &pending.dir,
            pending.temporary.as_os_str(),
            &pending.dir,
            pending.name.as_os_str(),
        )
        .map_err(failed("place", &pending.path))?;
        pending.placed = true;
        Ok(())
    }
}

/// A name that nobody else uses: not a secret, `O_EXCL` guards it.
fn temporary_name() -> OsString {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let clock = crate::process::now_ms();
    format!(".mezzo-copy-{}-{clock}-{number}", std::process::id()).into()
}
