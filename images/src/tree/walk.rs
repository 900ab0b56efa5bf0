//! Walks an unpacked layer: a directory before what is in it, names in the order of their bytes.
//!
//! By descriptors that follow no link: the files are an image's, whoever made it. The second name of a file says which
//! was the first.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use xattr::FileExt;

use crate::unpack::looks::{NOFOLLOW, OPAQUE, failed, is_carried, through};
use crate::unpack::{UnpackError, printable};

/// A layer has no deeper directories: unpacking would have refused them.
const MAX_DEPTH: usize = 300;

/// What a file is.
#[derive(Debug)]
pub(crate) enum What {
    Directory,
    /// Open for reading.
    File(File),
    Symlink(Vec<u8>),
    /// Another name of the file at this path, which came before.
    HardLink(Vec<u8>),
    CharDevice,
    BlockDevice,
    Fifo,
}

/// Names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// One file of a layer.
#[derive(Debug)]
pub(crate) struct Found<'w> {
    /// From the layer's root, which is the empty path.
    pub(crate) path: &'w [u8],
    pub(crate) stat: FileStat,
    pub(crate) what: What,
    /// Those that images carry, sorted by name, and overlayfs's mark for an opaque directory.
    pub(crate) xattrs: Attributes,
}

/// Calls `visit` for every file of a layer; the first error ends it.
pub(crate) fn walk<E: From<UnpackError>>(
    root: OwnedFd,
    visit: &mut dyn FnMut(Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut walker = Walker {
        first_names: HashMap::new(),
        visit,
    };
    let stat = fstat(&root).map_err(|e| failed("look at", b"", e))?;
    let directory = File::from(root);
    let xattrs = attributes_of(&directory, b"")?;
    (walker.visit)(Found {
        path: b"",
        stat,
        what: What::Directory,
        xattrs,
    })?;
    walker.directory(&directory.into(), b"", 0)
}

struct Walker<'v, E> {
    /// Inodes with several names, and the first of them.
    first_names: HashMap<u64, Vec<u8>>,
    visit: &'v mut dyn FnMut(Found<'_>) -> Result<(), E>,
}

impl<E: From<UnpackError>> Walker<'_, E> {
    fn directory(&mut self, folder: &OwnedFd, path: &[u8], depth: usize) -> Result<(), E> {
        if depth > MAX_DEPTH {
            return Err(UnpackError::Refused {
                path: printable(path),
                reason: "too many directories deep",
            }
            .into());
        }
        for name in names(folder, path)? {
            let inside = if path.is_empty() {
                name.clone()
            } else {
                [path, b"/", &name].concat()
            };
            self.entry(folder, &name, &inside, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], depth: usize) -> Result<(), E> {
        let stat = fstatat(folder, name, NOFOLLOW).map_err(|e| failed("look at", path, e))?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let opened =
                openat(folder, name, flags, Mode::empty()).map_err(|e| failed("open", path, e))?;
            let directory = File::from(opened);
            let xattrs = attributes_of(&directory, path)?;
            (self.visit)(Found {
                path,
                stat,
                what: What::Directory,
                xattrs,
            })?;
            return self.directory(&directory.into(), path, depth + 1);
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.first_names.get(&stat.st_ino) {
                let what = What::HardLink(first.clone());
                return (self.visit)(Found {
                    path,
                    stat,
                    what,
                    xattrs: Vec::new(),
                });
            }
            self.first_names.insert(stat.st_ino, path.to_vec());
        }
        let (what, xattrs) = match kind {
            SFlag::S_IFREG => {
                let flags =
                    OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let opened = openat(folder, name, flags, Mode::empty())
                    .map_err(|e| failed("open", path, e))?;
                let file = File::from(opened);
                let xattrs = attributes_of(&file, path)?;
                (What::File(file), xattrs)
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(folder, name).map_err(|e| failed("read link", path, e))?;
                let what = What::Symlink(target.as_bytes().to_vec());
                (what, attributes_by_name(folder, name, path)?)
            }
            SFlag::S_IFCHR => (What::CharDevice, attributes_by_name(folder, name, path)?),
            SFlag::S_IFBLK => (What::BlockDevice, attributes_by_name(folder, name, path)?),
            SFlag::S_IFIFO => (What::Fifo, attributes_by_name(folder, name, path)?),
            _ => {
                return Err(UnpackError::Refused {
                    path: printable(path),
                    reason: "it is a socket, which no layer has",
                }
                .into());
            }
        };
        (self.visit)(Found {
            path,
            stat,
            what,
            xattrs,
        })
    }
}

fn names(folder: &OwnedFd, path: &[u8]) -> Result<Vec<Vec<u8>>, UnpackError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let again = openat(folder, ".", flags, Mode::empty()).map_err(|e| failed("open", path, e))?;
    let mut listing = Dir::from_fd(again).map_err(|e| failed("list", path, e))?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(|e| failed("list", path, e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn attributes_of(file: &File, path: &[u8]) -> Result<Attributes, UnpackError> {
    let listed = file.list_xattr().map(Iterator::collect);
    attributes(listed, path, |name| file.get_xattr(name))
}

fn attributes_by_name(
    folder: &OwnedFd,
    name: &[u8],
    path: &[u8],
) -> Result<Attributes, UnpackError> {
    let file = through(folder, name);
    let listed = xattr::list(&file).map(Iterator::collect);
    attributes(listed, path, |name| xattr::get(&file, name))
}

fn attributes(
    listed: std::io::Result<Vec<std::ffi::OsString>>,
    path: &[u8],
    get: impl Fn(&std::ffi::OsStr) -> std::io::Result<Option<Vec<u8>>>,
) -> Result<Attributes, UnpackError> {
    let io = |source| UnpackError::Io {
        operation: "read the attributes of",
        path: printable(path),
        source,
    };
    let names = match listed {
        Ok(names) => names,
        // A file system without extended attributes: unpacking could not set any.
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => Vec::new(),
        Err(source) => return Err(io(source)),
    };
    let mut found = Vec::new();
    for name in names {
        let bytes = name.as_bytes();
        if (is_carried(bytes) || bytes == OPAQUE.as_bytes())
            && let Some(value) = get(&name).map_err(io)?
        {
            found.push((bytes.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}
