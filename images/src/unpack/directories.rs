//! The directories of a layer while it is written: found by descriptor, made where the archive only implies them, and
//! given at the end what must come last.
//!
//! Every directory is opened from the layer's root by `openat2` with BENEATH and NO_SYMLINKS, so that whatever order
//! of links and directories an archive uses, nothing outside is reached (CVE-2021-32760, 2026-33056). Descriptors of
//! recent ones are kept: archives come in runs of neighbours, and opening is a good part of what a small file costs.
//!
//! What would change the files made in a directory is set when all are there: its time (each new file changes it), its
//! set-group-id bit and its default ACL (both are handed on to new files).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, fstat, futimens, mkdirat, utimensat};
use nix::unistd::{UnlinkatFlags, getegid, geteuid, unlinkat};

use super::looks::{self, Dressing, failed, mark_opaque, spec};
use super::paths::LayerPath;
use super::tar::{Entry, Time};
use super::{UnpackError, printable};

const KEPT: usize = 16;
const SET_GID: u32 = 0o2000;

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// What is made in it gets this process's user and group, and no set-group-id bit.
    plain: bool,
}

/// What a directory gets at the end.
#[derive(Debug)]
struct Late {
    time: Time,
    mode: Option<u32>,
    default_acl: Option<Vec<u8>>,
}

/// The directories of one layer.
#[derive(Debug)]
pub(super) struct Directories {
    root: Rc<Directory>,
    /// By path, the most recently used last.
    recent: Vec<(Vec<u8>, Rc<Directory>)>,
    /// Made because something is in them; no entry has described them.
    implied: BTreeSet<Vec<u8>>,
    /// How many of those were made, also if an entry described them later.
    n_implied: u64,
    late: BTreeMap<Vec<u8>, Late>,
    owner: (u32, u32),
    /// The thread's umask is 0: what is made with a mode has that mode.
    exact_modes: bool,
}

/// Opens the directory that is to be a layer's root. Its path is ours, not the archive's.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, UnpackError> {
    open(
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| UnpackError::Io {
        operation: "open",
        path: path.display().to_string(),
        source: errno.into(),
    })
}

/// Opens a directory beneath `root` without following any link.
pub(crate) fn open_directory(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    loop {
        // EAGAIN: a rename elsewhere on the system raced with the check for "..".
        match openat2(root, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}

impl Directories {
    /// `exact_modes`: the caller's thread has a umask of 0.
    pub(super) fn new(root: OwnedFd, exact_modes: bool) -> Result<Self, UnpackError> {
        let owner = (geteuid().as_raw(), getegid().as_raw());
        let root = known(root, owner.1).map_err(|e| failed("look at", b"", e))?;
        Ok(Self {
            root: Rc::new(root),
            recent: Vec::new(),
            implied: BTreeSet::from([Vec::new()]),
            n_implied: 0,
            late: BTreeMap::new(),
            owner,
            exact_modes,
        })
    }

    /// How many directories were made because something is in them.
    pub(super) fn n_implied(&self) -> u64 {
        self.n_implied
    }

    pub(super) fn root(&self) -> Rc<Directory> {
        Rc::clone(&self.root)
    }

    /// The mode to make a new file or directory with.
    pub(super) fn first_mode(&self, entry: &Entry, otherwise: u32) -> Mode {
        Mode::from_bits_truncate(if self.exact_modes {
            entry.mode & 0o777
        } else {
            otherwise
        })
    }

    /// What of its looks a file or directory that was just made in `parent` by [`Self::first_mode`] lacks.
    pub(super) fn dressing(&self, parent: &Directory, entry: &Entry) -> Dressing {
        Dressing {
            owner: !(parent.plain && self.owner == (entry.uid, entry.gid)),
            mode: !(parent.plain && self.exact_modes && entry.mode & !0o777 == 0),
        }
    }

    /// The directory that an entry goes into, made if no entry made it.
    pub(super) fn parent(
        &mut self,
        path: &[u8],
        entry: &Entry,
    ) -> Result<Rc<Directory>, UnpackError> {
        match self.find(path) {
            Ok(found) => Ok(found),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                let made = self.make_all(path, entry)?;
                self.keep(path, made)
                    .map_err(|e| failed("look at", path, e))
            }
            Err(errno) => Err(bad_parent(entry, errno)),
        }
    }

    /// A directory that is there.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Rc<Directory>, Errno> {
        if path.is_empty() {
            return Ok(self.root());
        }
        if let Some(at) = self.recent.iter().rposition(|(kept, _)| kept == path) {
            let found = self.recent.remove(at);
            let directory = Rc::clone(&found.1);
            self.recent.push(found);
            return Ok(directory);
        }
        let opened = open_directory(&self.root.fd, path)?;
        self.keep(path, opened)
    }

    fn keep(&mut self, path: &[u8], opened: OwnedFd) -> Result<Rc<Directory>, Errno> {
        let directory = Rc::new(known(opened, self.owner.1)?);
        if self.recent.len() == KEPT {
            self.recent.remove(0);
        }
        self.recent.push((path.to_vec(), Rc::clone(&directory)));
        Ok(directory)
    }

    fn make_all(&mut self, path: &[u8], entry: &Entry) -> Result<OwnedFd, UnpackError> {
        let mut current = self.root.fd.try_clone().map_err(|e| io("open", path, e))?;
        let mut end = 0;
        for part in path.split(|byte| *byte == b'/') {
            end += part.len();
            let so_far = &path[..end];
            end += 1;
            current = match open_directory(&current, part) {
                Ok(next) => next,
                Err(Errno::ENOENT) => self.make_implied(&current, part, so_far)?,
                // Hidden by this very layer, and now there is something in it: a new directory in place of the old.
                Err(Errno::ENOTDIR) if looks::is_whiteout(&current, part) => {
                    unlinkat(&current, part, UnlinkatFlags::NoRemoveDir)
                        .map_err(|e| failed("replace", so_far, e))?;
                    let made = self.make_implied(&current, part, so_far)?;
                    mark_opaque(&made, so_far)?;
                    made
                }
                Err(errno) => return Err(bad_parent(entry, errno)),
            };
        }
        Ok(current)
    }

    fn make_implied(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
    ) -> Result<OwnedFd, UnpackError> {
        let mode = Mode::from_bits_truncate(0o755);
        mkdirat(parent, name, mode).map_err(|e| failed("make directory", path, e))?;
        let made = open_directory(parent, name).map_err(|e| failed("open", path, e))?;
        fchmod(&made, mode).map_err(|e| failed("set the mode of", path, e))?;
        self.implied.insert(path.to_vec());
        self.n_implied += 1;
        Ok(made)
    }

    /// Gives a directory that an entry describes its looks, now or at the end. `made` by [`Self::first_mode`] in its
    /// parent: `lacks` says what of them is missing; `replaces`: it must hide what lies below.
    pub(super) fn describe(
        &mut self,
        made: Option<(&Directory, &[u8])>,
        path: &LayerPath,
        entry: &Entry,
        lacks: Dressing,
        replaces: bool,
    ) -> Result<(), UnpackError> {
        let path = path.bytes();
        self.implied.remove(path);
        // The set-group-id bit waits; the others go with it in one call, then and now.
        let late_mode = (entry.mode & SET_GID != 0).then_some(entry.mode);
        let default_acl = entry
            .xattrs
            .iter()
            .find(|(name, _)| name == looks::DEFAULT_ACL);
        let carried = entry.xattrs.iter().any(|(name, _)| looks::is_carried(name));
        if lacks.owner || lacks.mode || replaces || carried || made.is_none() {
            let opened = match made {
                Some((parent, name)) => {
                    open_directory(&parent.fd, name).map_err(|e| failed("open", path, e))?
                }
                None => self.root.fd.try_clone().map_err(|e| io("open", path, e))?,
            };
            if replaces {
                mark_opaque(&opened, path)?;
            }
            looks::dress(&opened, entry, entry.mode & !SET_GID, lacks)?;
            // What is known of it from before says how it was.
            self.recent.retain(|(kept, _)| kept != path);
            let looked_at = if made.is_some() {
                self.keep(path, opened)
            } else {
                known(opened, self.owner.1).map(|root| {
                    self.root = Rc::new(root);
                    self.root()
                })
            };
            looked_at.map_err(|e| failed("look at", path, e))?;
        }
        let late = Late {
            time: entry.mtime,
            mode: late_mode,
            default_acl: default_acl.map(|(_, value)| value.clone()),
        };
        self.late.insert(path.to_vec(), late);
        Ok(())
    }

    /// Something at `path`, a directory maybe, is no longer there.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.recent.clear();
        let below = |other: &[u8]| {
            other
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        self.late.retain(|other, _| !below(other));
        self.implied.retain(|other| !below(other));
    }

    /// Gives all directories what comes last; returns those that no entry described, parents first.
    pub(super) fn finish(mut self) -> Result<Vec<Vec<u8>>, UnpackError> {
        for (path, late) in std::mem::take(&mut self.late) {
            let time = spec(late.time);
            let simple = late.mode.is_none() && late.default_acl.is_none();
            match path.iter().rposition(|byte| *byte == b'/') {
                // By name in its parent, which serves for all its neighbours: one call instead of three.
                Some(at) if simple => {
                    let parent = self
                        .find(&path[..at])
                        .map_err(|e| failed("open the directory of", &path, e))?;
                    let no_follow = UtimensatFlags::NoFollowSymlink;
                    utimensat(&parent.fd, &path[at + 1..], &time, &time, no_follow)
                        .map_err(|e| failed("set the time of", &path, e))?;
                }
                _ => {
                    let directory = open_directory(&self.root.fd, &path)
                        .map_err(|e| failed("open", &path, e))?;
                    if let Some(mode) = late.mode {
                        fchmod(&directory, Mode::from_bits_truncate(mode))
                            .map_err(|e| failed("set the mode of", &path, e))?;
                    }
                    if let Some(acl) = &late.default_acl {
                        looks::set_default_acl(&directory, &path, acl)?;
                    }
                    futimens(&directory, &time, &time)
                        .map_err(|e| failed("set the time of", &path, e))?;
                }
            }
        }
        Ok(self.implied.into_iter().collect())
    }
}

fn known(fd: OwnedFd, own_group: u32) -> Result<Directory, Errno> {
    let found = fstat(&fd)?;
    // Some file systems hand on the group without the bit, when they are mounted so.
    let plain = found.st_gid == own_group && found.st_mode & SET_GID == 0;
    Ok(Directory { fd, plain })
}

fn io(operation: &'static str, path: &[u8], source: std::io::Error) -> UnpackError {
    UnpackError::Io {
        operation,
        path: printable(path),
        source,
    }
}

fn bad_parent(entry: &Entry, errno: Errno) -> UnpackError {
    let refused = |reason| UnpackError::Refused {
        path: printable(&entry.path),
        reason,
    };
    if errno == Errno::ELOOP {
        refused("a directory on its way is a symlink")
    } else if errno == Errno::ENOTDIR {
        refused("a directory on its way is a file")
    } else {
        failed("open the directory of", &entry.path, errno)
    }
}
