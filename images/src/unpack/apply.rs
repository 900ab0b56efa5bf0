//! The second half of unpacking: one entry after the other becomes a file beneath the layer's directory.
//!
//! Every parent is opened from the layer's root by `openat2` with BENEATH and NO_SYMLINKS; the last component is only
//! ever touched by calls that do not follow a link, and metadata is set through the descriptor of the file just made.
//! So whatever order of links and files an archive uses, nothing outside is reached (CVE-2021-32760, 2026-33056).
//! Descriptors of recent parents are kept: archives come in runs of neighbours.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, futimens, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, linkat, symlinkat, unlinkat};

use super::looks::{NOFOLLOW, dress, dress_by_name, failed, mark_opaque, spec, through};
use super::paths::LayerPath;
use super::tar::{Entry, Kind, TarReader, Time};
use super::{DeviceNodes, UnpackError, UnpackLimits, printable};
use crate::whiteout::{self, Name};

const KEPT_PARENTS: usize = 16;

/// Writes a layer's entries below one directory.
#[derive(Debug)]
pub(crate) struct LayerWriter {
    root: Rc<OwnedFd>,
    limits: UnpackLimits,
    entries: u64,
    /// Recently used parents, newest last.
    parents: Vec<(Vec<u8>, Rc<OwnedFd>)>,
    /// Set at the end: every file made in a directory changes its time.
    times: Vec<(LayerPath, Time)>,
    implied: BTreeSet<Vec<u8>>,
    opaque_root: bool,
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

impl LayerWriter {
    pub(crate) fn new(root: OwnedFd, limits: UnpackLimits) -> Self {
        Self {
            root: Rc::new(root),
            limits,
            entries: 0,
            parents: Vec::new(),
            times: Vec::new(),
            implied: BTreeSet::from([Vec::new()]),
            opaque_root: false,
        }
    }

    /// Makes what `entry` says, with its data from `tar`.
    pub(crate) fn apply<R: BufRead>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.count()?;
        let path = LayerPath::parse(&entry.path, &self.limits)?;
        let Some((directory, name)) = path.split() else {
            if entry.kind != Kind::Directory {
                return Err(refused(entry, "the root of a layer must be a directory"));
            }
            self.implied.remove(path.bytes());
            let root = Rc::clone(&self.root);
            return self.dress_directory(&root, entry, path);
        };
        if directory
            .split(|byte| *byte == b'/')
            .any(|part| part.starts_with(b".wh."))
        {
            return Err(refused(entry, "a whiteout is used as a directory"));
        }
        match whiteout::classify(name) {
            Name::Ordinary => {}
            Name::Ignored => return Ok(()),
            Name::Invalid => {
                return Err(refused(
                    entry,
                    "the whiteout names nothing in its directory",
                ));
            }
            Name::Opaque => return self.make_opaque(directory),
            Name::Hides(hidden) => return self.hide(directory, hidden, entry),
        }
        for (attribute, _) in &entry.xattrs {
            if attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.")
            {
                return Err(refused(
                    entry,
                    "it sets attributes that belong to overlayfs",
                ));
            }
        }
        let parent = self.parent(directory, entry)?;
        match entry.kind {
            Kind::Directory => self.directory(&parent, name, entry, path.clone()),
            Kind::File => self.file(&parent, name, entry, tar),
            Kind::HardLink => self.hard_link(&parent, name, entry, &path),
            Kind::Symlink => self.symlink(&parent, name, entry),
            Kind::Fifo => self.node(&parent, name, entry, SFlag::S_IFIFO, 0),
            Kind::CharDevice | Kind::BlockDevice => self.device(&parent, name, entry),
        }
    }

    /// Counts what is made. A directory that is only implied counts as well: a short entry may name hundreds.
    fn count(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(UnpackError::TooMuch {
                what: "entries",
                limit: self.limits.max_entries,
            });
        }
        Ok(())
    }

    /// Sets the directories' times; returns the directories that no entry described and whether the root is opaque.
    pub(crate) fn finish(self) -> Result<(Vec<Vec<u8>>, bool), UnpackError> {
        for (path, time) in &self.times {
            // A later entry may have put something else in its place.
            let Ok(directory) = open_directory(&self.root, path.bytes()) else {
                continue;
            };
            let time = spec(*time);
            futimens(&directory, &time, &time)
                .map_err(|e| failed("set the time of", path.bytes(), e))?;
        }
        Ok((self.implied.into_iter().collect(), self.opaque_root))
    }

    /// The directory that an entry goes into, made if no entry made it.
    fn parent(&mut self, path: &[u8], entry: &Entry) -> Result<Rc<OwnedFd>, UnpackError> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((_, found)) = self.parents.iter().rev().find(|(kept, _)| kept == path) {
            return Ok(Rc::clone(found));
        }
        let opened = match open_directory(&self.root, path) {
            Ok(opened) => opened,
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_parents(path, entry)?,
            Err(errno) => return Err(bad_parent(entry, errno)),
        };
        let opened = Rc::new(opened);
        if self.parents.len() == KEPT_PARENTS {
            self.parents.remove(0);
        }
        self.parents.push((path.to_vec(), Rc::clone(&opened)));
        Ok(opened)
    }

    fn make_parents(&mut self, path: &[u8], entry: &Entry) -> Result<OwnedFd, UnpackError> {
        let mut current = self.root.try_clone().map_err(|source| UnpackError::Io {
            operation: "open",
            path: printable(path),
            source,
        })?;
        let mut end = 0;
        for part in path.split(|byte| *byte == b'/') {
            end += part.len();
            let so_far = &path[..end];
            end += 1;
            current = match open_directory(&current, part) {
                Ok(next) => next,
                Err(Errno::ENOENT) => self.make_implied(&current, part, so_far)?,
                // Hidden by this very layer, and now there is something in it: a new directory in place of the old.
                Err(Errno::ENOTDIR) if is_whiteout(&current, part) => {
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
        self.count()?;
        mkdirat(parent, name, Mode::from_bits_truncate(0o755))
            .map_err(|e| failed("make directory", path, e))?;
        let made = open_directory(parent, name).map_err(|e| failed("open", path, e))?;
        // Not the group of a parent that is set-group-id: what no entry says must not hang on the order of entries.
        fchown(&made, Some(Uid::from_raw(0)), Some(Gid::from_raw(0)))
            .map_err(|e| failed("set the owner of", path, e))?;
        fchmod(&made, Mode::from_bits_truncate(0o755))
            .map_err(|e| failed("set the mode of", path, e))?;
        self.implied.insert(path.to_vec());
        Ok(made)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        path: LayerPath,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_bits_truncate(0o700);
        let mut replaced = false;
        if let Err(errno) = mkdirat(parent, name, mode) {
            if errno != Errno::EEXIST {
                return Err(failed("make directory", &entry.path, errno));
            }
            if !look(parent, name).is_ok_and(|found| is(&found, SFlag::S_IFDIR)) {
                self.clear(parent, name, entry)?;
                mkdirat(parent, name, mode)
                    .map_err(|e| failed("make directory", &entry.path, e))?;
                replaced = true;
            }
        }
        let made = open_directory(parent, name).map_err(|e| failed("open", &entry.path, e))?;
        if replaced {
            // What was here hid the layers below; the new directory must hide them as well.
            mark_opaque(&made, &entry.path)?;
        }
        self.implied.remove(path.bytes());
        self.dress_directory(&made, entry, path)
    }

    fn dress_directory(
        &mut self,
        made: &OwnedFd,
        entry: &Entry,
        path: LayerPath,
    ) -> Result<(), UnpackError> {
        dress(made, entry)?;
        self.times.push((path, entry.mtime));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let opened = match openat(parent, name, flags, mode) {
            Err(Errno::EEXIST) => {
                self.clear(parent, name, entry)?;
                openat(parent, name, flags, mode)
            }
            other => other,
        };
        let mut file = File::from(opened.map_err(|e| failed("create", &entry.path, e))?);
        tar.copy_data(|piece| {
            file.write_all(piece).map_err(|source| UnpackError::Io {
                operation: "write",
                path: printable(&entry.path),
                source,
            })
        })?;
        dress(&file, entry)?;
        let time = spec(entry.mtime);
        futimens(&file, &time, &time).map_err(|e| failed("set the time of", &entry.path, e))
    }

    /// The target is found like any parent: beneath the layer, through no link. It may be a symlink, not be one's way.
    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        path: &LayerPath,
    ) -> Result<(), UnpackError> {
        let target = LayerPath::parse(&entry.link, &self.limits)?;
        let Some((directory, target_name)) = target.split() else {
            return Err(refused(entry, "it is a hard link to a directory"));
        };
        if target == *path {
            return Err(refused(entry, "it is a hard link to itself"));
        }
        let from =
            open_directory(&self.root, directory).map_err(|errno| bad_target(entry, errno))?;
        let found = look(&from, target_name).map_err(|errno| bad_target(entry, errno))?;
        if is(&found, SFlag::S_IFDIR) {
            return Err(refused(entry, "it is a hard link to a directory"));
        }
        if is(&found, SFlag::S_IFCHR) && found.st_rdev == 0 {
            return Err(refused(entry, "it is a hard link to a whiteout"));
        }
        let link = |parent: &OwnedFd| linkat(&from, target_name, parent, name, AtFlags::empty());
        let linked = match link(parent) {
            Err(Errno::EEXIST) => {
                self.clear(parent, name, entry)?;
                link(parent)
            }
            other => other,
        };
        linked.map_err(|e| failed("link", &entry.path, e))
    }

    fn symlink(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if entry.link.is_empty()
            || entry.link.len() > self.limits.max_path_bytes
            || entry.link.contains(&0)
        {
            return Err(refused(
                entry,
                "the symlink's target is empty, too long or has a NUL byte",
            ));
        }
        let link = || symlinkat(entry.link.as_slice(), parent, name);
        let linked = match link() {
            Err(Errno::EEXIST) => {
                self.clear(parent, name, entry)?;
                link()
            }
            other => other,
        };
        linked.map_err(|e| failed("make symlink", &entry.path, e))?;
        dress_by_name(parent, name, entry)
    }

    fn device(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let (major, minor) = entry.device;
        if entry.kind == Kind::CharDevice && (major, minor) == (0, 0) {
            return Err(refused(
                entry,
                "device 0/0 is overlayfs's mark for a deleted file",
            ));
        }
        match self.limits.device_nodes {
            DeviceNodes::Skip => Ok(()),
            DeviceNodes::Refuse => Err(refused(
                entry,
                "device nodes are not allowed in images here",
            )),
            DeviceNodes::Create => {
                let kind = if entry.kind == Kind::CharDevice {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                };
                self.node(
                    parent,
                    name,
                    entry,
                    kind,
                    makedev(u64::from(major), u64::from(minor)),
                )
            }
        }
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        kind: SFlag,
        device: u64,
    ) -> Result<(), UnpackError> {
        self.clear(parent, name, entry)?;
        mknodat(parent, name, kind, Mode::empty(), device)
            .map_err(|e| failed("make node", &entry.path, e))?;
        dress_by_name(parent, name, entry)?;
        // fchmodat would follow a link if there were one; this node was made just now in a directory that is ours alone.
        let mode = Mode::from_bits_truncate(entry.mode);
        nix::sys::stat::fchmodat(
            parent,
            name,
            mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .map_err(|e| failed("set the mode of", &entry.path, e))
    }

    /// Removes what stands in the way of an entry, a whole tree if need be: the later entry wins, as in every tool.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let found = match look(parent, name) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed("look at", &entry.path, errno)),
        };
        if !is(&found, SFlag::S_IFDIR) {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
                .map_err(|e| failed("replace", &entry.path, e))?;
            return Ok(());
        }
        self.parents.clear();
        std::fs::remove_dir_all(through(parent, name)).map_err(|source| UnpackError::Io {
            operation: "replace",
            path: printable(&entry.path),
            source,
        })
    }

    fn make_opaque(&mut self, directory: &[u8]) -> Result<(), UnpackError> {
        if directory.is_empty() {
            // Overlayfs does not look at the mark on a layer's root: the snapshot leaves out what lies below.
            self.opaque_root = true;
            return Ok(());
        }
        let entry = marker(directory);
        let parent = self.parent(directory, &entry)?;
        mark_opaque(&parent, directory)
    }

    /// A deletion speaks of the layers below only: what this layer has itself stays.
    fn hide(&mut self, directory: &[u8], hidden: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        // In place of the directory there is a file, or a deletion, of this very layer (umoci writes both, and then a
        // deletion for each file that was in it): nothing of the layers below shows there.
        if let Err(Errno::ENOTDIR) = open_directory(&self.root, directory) {
            return Ok(());
        }
        let parent = self.parent(directory, entry)?;
        match look(&parent, hidden) {
            Err(Errno::ENOENT) => mknodat(&parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(|e| failed("make whiteout", &entry.path, e)),
            Ok(found) if is(&found, SFlag::S_IFDIR) => {
                let found =
                    open_directory(&parent, hidden).map_err(|e| failed("open", &entry.path, e))?;
                mark_opaque(&found, &entry.path)
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("look at", &entry.path, errno)),
        }
    }
}

fn look(parent: &OwnedFd, name: &[u8]) -> Result<FileStat, Errno> {
    fstatat(parent, name, NOFOLLOW)
}

fn is(found: &FileStat, kind: SFlag) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn is_whiteout(parent: &OwnedFd, name: &[u8]) -> bool {
    look(parent, name).is_ok_and(|found| is(&found, SFlag::S_IFCHR) && found.st_rdev == 0)
}

/// An entry that stands for an opaque marker in messages.
fn marker(directory: &[u8]) -> Entry {
    Entry {
        kind: Kind::File,
        path: [directory, b"/.wh..wh..opq"].concat(),
        link: Vec::new(),
        size: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn refused(entry: &Entry, reason: &'static str) -> UnpackError {
    UnpackError::Refused {
        path: printable(&entry.path),
        reason,
    }
}

fn bad_parent(entry: &Entry, errno: Errno) -> UnpackError {
    if errno == Errno::ELOOP {
        refused(entry, "a directory on its way is a symlink")
    } else if errno == Errno::ENOTDIR {
        refused(entry, "a directory on its way is a file")
    } else {
        failed("open the directory of", &entry.path, errno)
    }
}

fn bad_target(entry: &Entry, errno: Errno) -> UnpackError {
    if errno == Errno::ELOOP {
        refused(
            entry,
            "the way to the hard link's target leads through a symlink",
        )
    } else if errno == Errno::ENOENT || errno == Errno::ENOTDIR {
        refused(
            entry,
            "it is a hard link to a file that is not in this layer",
        )
    } else {
        failed("open the target of", &entry.path, errno)
    }
}
