//! The second half of unpacking: one entry after the other becomes a file beneath the layer's directory.
//!
//! Where an entry goes is found by `directories`, through no link; the last component is only ever touched by calls
//! that do not follow a link, and looks are set through the descriptor of the file just made. What the kernel gave a
//! new file already is not set once more: a small file costs open, write, time and close.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, futimens, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::directories::{Directories, Directory, open_directory};
use super::looks::{Dressing, dress, dress_by_name, failed, is, look, mark_opaque, spec, through};
use super::paths::LayerPath;
use super::tar::{Entry, Kind, TarReader};
use super::{DeviceNodes, UnpackError, UnpackLimits, printable};
use crate::whiteout::{self, Name};

/// Writes a layer's entries below one directory.
#[derive(Debug)]
pub(crate) struct LayerWriter {
    directories: Directories,
    limits: UnpackLimits,
    entries: u64,
    opaque_root: bool,
    /// Names of whiteouts mean what they say.
    has_whiteouts: bool,
}

impl LayerWriter {
    /// `exact_modes`: the thread that writes has a umask of 0, so that modes need not be set a second time.
    pub(crate) fn new(
        root: OwnedFd,
        limits: UnpackLimits,
        exact_modes: bool,
    ) -> Result<Self, UnpackError> {
        Ok(Self {
            directories: Directories::new(root, exact_modes)?,
            limits,
            entries: 0,
            opaque_root: false,
            has_whiteouts: true,
        })
    }

    /// Of files that are no layer: a name is only a name.
    pub(crate) fn of_files(root: OwnedFd, limits: UnpackLimits) -> Result<Self, UnpackError> {
        Ok(Self {
            has_whiteouts: false,
            ..Self::new(root, limits, false)?
        })
    }

    /// A new, empty file in the root directory itself, for [`Self::adopt`].
    pub(crate) fn spool(&mut self, name: &[u8]) -> Result<File, UnpackError> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = self.directories.root();
        let file = openat(&root.fd, name, flags, Mode::from_bits_truncate(0o600));
        file.map(File::from).map_err(|e| failed("create", name, e))
    }

    /// Moves a file from the root directory to where `entry` says, and gives it the entry's looks.
    pub(crate) fn adopt(&mut self, from: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        self.entries += 1;
        self.check_count()?;
        let path = LayerPath::parse(&entry.path, &self.limits)?;
        let Some((directory, name)) = path.split() else {
            return Err(refused(entry, "it has no name"));
        };
        let root = self.directories.root();
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file =
            openat(&root.fd, from, flags, Mode::empty()).map_err(|e| failed("open", from, e))?;
        dress(&file, entry, entry.mode, Dressing::FULL)?;
        let place = Place {
            parent: self.directories.parent(directory, entry)?,
            name,
            path: &path,
        };
        self.clear(&place, entry)?;
        renameat(&root.fd, from, &place.parent.fd, name)
            .map_err(|e| failed("place", &entry.path, e))
    }

    /// Makes what `entry` says, with its data from `tar`.
    pub(crate) fn apply<R: BufRead>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        self.check_count()?;
        let path = LayerPath::parse(&entry.path, &self.limits)?;
        let Some((directory, name)) = path.split() else {
            if entry.kind != Kind::Directory {
                return Err(refused(entry, "the root of a layer must be a directory"));
            }
            return self
                .directories
                .describe(None, &path, entry, Dressing::FULL, false);
        };
        if self.has_whiteouts
            && directory
                .split(|byte| *byte == b'/')
                .any(|part| part.starts_with(b".wh."))
        {
            return Err(refused(entry, "a whiteout is used as a directory"));
        }
        let meaning = if self.has_whiteouts {
            whiteout::classify(name)
        } else {
            Name::Ordinary
        };
        match meaning {
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
        let place = Place {
            parent: self.directories.parent(directory, entry)?,
            name,
            path: &path,
        };
        match entry.kind {
            Kind::Directory => self.directory(&place, entry),
            Kind::File => self.file(&place, entry, tar),
            Kind::HardLink => self.hard_link(&place, entry),
            Kind::Symlink => self.symlink(&place, entry),
            Kind::Fifo => self.node(&place, entry, SFlag::S_IFIFO, 0),
            Kind::CharDevice | Kind::BlockDevice => self.device(&place, entry),
        }
    }

    /// A directory that is only implied counts as well: a short entry may name hundreds.
    fn check_count(&self) -> Result<(), UnpackError> {
        let limit = self.limits.max_entries;
        if self.entries + self.directories.n_implied() > limit {
            return Err(UnpackError::TooMuch {
                what: "entries",
                limit,
            });
        }
        Ok(())
    }

    /// Gives the directories what comes last; returns those that no entry described and whether the root is opaque.
    pub(crate) fn finish(self) -> Result<(Vec<Vec<u8>>, bool), UnpackError> {
        self.check_count()?;
        Ok((self.directories.finish()?, self.opaque_root))
    }

    fn directory(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let (parent, name) = (&place.parent, place.name);
        let mode = self.directories.first_mode(entry, 0o700);
        let mut lacks = self.directories.dressing(parent, entry);
        let mut replaced = false;
        if let Err(errno) = mkdirat(&parent.fd, name, mode) {
            if errno != Errno::EEXIST {
                return Err(failed("make directory", &entry.path, errno));
            }
            if look(&parent.fd, name).is_ok_and(|found| is(&found, SFlag::S_IFDIR)) {
                lacks = Dressing::FULL;
            } else {
                self.clear(place, entry)?;
                mkdirat(&parent.fd, name, mode)
                    .map_err(|e| failed("make directory", &entry.path, e))?;
                // What was here hid the layers below; the new directory must hide them as well.
                replaced = self.has_whiteouts;
            }
        }
        self.directories
            .describe(Some((parent, name)), place.path, entry, lacks, replaced)
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = self.directories.first_mode(entry, 0o600);
        let file = self.make("create", place, entry, |parent| {
            openat(parent, place.name, flags, mode)
        })?;
        let mut file = File::from(file);
        let failure = |source| UnpackError::Io {
            operation: "write",
            path: printable(&entry.path),
            source,
        };
        match &entry.sparse {
            None => tar.copy_data(|piece| file.write_all(piece).map_err(failure))?,
            Some(sparse) => {
                let mut places = sparse.places();
                tar.copy_data(|piece| {
                    places
                        .each(piece, |part, offset| file.write_all_at(part, offset))
                        .map_err(failure)
                })?;
                file.set_len(sparse.size()).map_err(failure)?;
            }
        }
        let lacks = self.directories.dressing(&place.parent, entry);
        dress(&file, entry, entry.mode, lacks)?;
        let time = spec(entry.mtime);
        futimens(&file, &time, &time).map_err(|e| failed("set the time of", &entry.path, e))
    }

    /// The target is found like any parent: beneath the layer, through no link. It may be a symlink, not be one's way.
    fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let target = LayerPath::parse(&entry.link, &self.limits)?;
        let Some((directory, target_name)) = target.split() else {
            return Err(refused(entry, "it is a hard link to a directory"));
        };
        if target == *place.path {
            return Err(refused(entry, "it is a hard link to itself"));
        }
        let from = self.directories.find(directory);
        let from = from.map_err(|errno| bad_target(entry, errno))?;
        let found = look(&from.fd, target_name).map_err(|errno| bad_target(entry, errno))?;
        if is(&found, SFlag::S_IFDIR) {
            return Err(refused(entry, "it is a hard link to a directory"));
        }
        if is(&found, SFlag::S_IFCHR) && found.st_rdev == 0 {
            return Err(refused(entry, "it is a hard link to a whiteout"));
        }
        self.make("link", place, entry, |parent| {
            linkat(&from.fd, target_name, parent, place.name, AtFlags::empty())
        })
    }

    fn symlink(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        if entry.link.is_empty()
            || entry.link.len() > self.limits.max_path_bytes
            || entry.link.contains(&0)
        {
            return Err(refused(
                entry,
                "the symlink's target is empty, too long or has a NUL byte",
            ));
        }
        self.make("make symlink", place, entry, |parent| {
            symlinkat(entry.link.as_slice(), parent, place.name)
        })?;
        let lacks = self.directories.dressing(&place.parent, entry);
        dress_by_name(&place.parent.fd, place.name, entry, lacks)
    }

    fn device(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let (major, minor) = entry.device;
        if entry.kind == Kind::CharDevice && (major, minor) == (0, 0) {
            return Err(refused(
                entry,
                "device 0/0 is overlayfs's mark for a deleted file",
            ));
        }
        match self.limits.device_nodes {
            DeviceNodes::Skip => Ok(()),
            DeviceNodes::Refuse => Err(refused(entry, "device nodes are not allowed here")),
            DeviceNodes::Create => {
                let kind = if entry.kind == Kind::CharDevice {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                };
                let device = makedev(u64::from(major), u64::from(minor));
                self.node(place, entry, kind, device)
            }
        }
    }

    fn node(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        kind: SFlag,
        device: u64,
    ) -> Result<(), UnpackError> {
        self.make("make node", place, entry, |parent| {
            mknodat(parent, place.name, kind, Mode::empty(), device)
        })?;
        let parent = &place.parent.fd;
        dress_by_name(parent, place.name, entry, Dressing::FULL)?;
        // fchmodat would follow a link if there were one; this node was made just now in a directory that is ours alone.
        let mode = Mode::from_bits_truncate(entry.mode);
        nix::sys::stat::fchmodat(
            parent,
            place.name,
            mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )
        .map_err(|e| failed("set the mode of", &entry.path, e))
    }

    /// Makes something new at `place`; what stands in its way goes, for the later entry wins, as in every tool.
    fn make<T>(
        &mut self,
        operation: &'static str,
        place: &Place<'_>,
        entry: &Entry,
        new: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        let made = match new(&place.parent.fd) {
            Err(Errno::EEXIST) => {
                self.clear(place, entry)?;
                new(&place.parent.fd)
            }
            other => other,
        };
        made.map_err(|e| failed(operation, &entry.path, e))
    }

    /// Removes what stands in the way of an entry, a whole tree if need be.
    fn clear(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let (parent, name) = (&place.parent.fd, place.name);
        let found = match look(parent, name) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed("look at", &entry.path, errno)),
        };
        if !is(&found, SFlag::S_IFDIR) {
            return unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
                .map_err(|e| failed("replace", &entry.path, e));
        }
        self.directories.forget(place.path.bytes());
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
        let entry = Entry::marker([directory, b"/.wh..wh..opq"].concat());
        let parent = self.directories.parent(directory, &entry)?;
        mark_opaque(&parent.fd, directory)
    }

    /// A deletion speaks of the layers below only: what this layer has itself stays.
    fn hide(&mut self, directory: &[u8], hidden: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        // In place of the directory there is a file, or a deletion, of this very layer (umoci writes both, and then a
        // deletion for each file that was in it): nothing of the layers below shows there.
        if let Err(Errno::ENOTDIR) = self.directories.find(directory) {
            return Ok(());
        }
        let parent = self.directories.parent(directory, entry)?;
        match look(&parent.fd, hidden) {
            Err(Errno::ENOENT) => mknodat(&parent.fd, hidden, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(|e| failed("make whiteout", &entry.path, e)),
            Ok(found) if is(&found, SFlag::S_IFDIR) => {
                let found = open_directory(&parent.fd, hidden)
                    .map_err(|e| failed("open", &entry.path, e))?;
                mark_opaque(&found, &entry.path)
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(failed("look at", &entry.path, errno)),
        }
    }
}

/// Where an entry goes.
struct Place<'a> {
    parent: Rc<Directory>,
    name: &'a [u8],
    path: &'a LayerPath,
}

fn refused(entry: &Entry, reason: &'static str) -> UnpackError {
    UnpackError::Refused {
        path: printable(&entry.path),
        reason,
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
