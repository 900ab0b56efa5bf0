//! Paths in somebody else's root, as the program in it would see them: no link leads out, and none that only the kernel
//! can follow (`/proc/self/exe` and the like) leads anywhere. Each is resolved once, to a descriptor, which is then used:
//! what happens to names meanwhile makes no difference.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Enough on any machine that does something else too.
const MAX_RETRIES: u32 = 1000;

/// A directory that is, or will be, the root of a container.
#[derive(Debug)]
pub(crate) struct Root {
    dir: File,
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let dir = File::open(path)?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &File {
        &self.dir
    }

    /// What a path stands for, not opened for reading or writing (`O_PATH`).
    pub(crate) fn find(&self, path: &Path) -> io::Result<File> {
        Ok(self.resolve(path, OFlag::O_PATH, ResolveFlag::empty())?)
    }

    /// The same, for a path on which no link may be at all.
    pub(crate) fn find_plain(&self, path: &Path) -> io::Result<File> {
        Ok(self.resolve(path, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_SYMLINKS)?)
    }

    /// A device, opened for reading and writing; never a terminal that becomes ours.
    pub(crate) fn open_device(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(self.resolve(path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)?)
    }

    fn resolve(&self, path: &Path, flags: OFlag, more: ResolveFlag) -> nix::Result<File> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | more);
        let mut retries = 0;
        loop {
            match openat2(&self.dir, path, how) {
                // The kernel gives up on a `..` while anybody anywhere renames or mounts: "the caller may retry".
                Err(Errno::EAGAIN) if retries < MAX_RETRIES => retries += 1,
                opened => return opened.map(File::from),
            }
        }
    }

    /// The text of a file, or nothing: only a regular file is read (never a FIFO that blocks), and of it at most `max`
    /// bytes.
    pub(crate) fn read(&self, path: &str, max: u64) -> String {
        let read = || -> io::Result<String> {
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            let file = self.resolve(Path::new(path), flags, ResolveFlag::empty())?;
            if !file.metadata()?.is_file() {
                return Ok(String::new());
            }
            let mut bytes = Vec::new();
            file.take(max).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// The directory of this path, made with its parents where it is missing, each step resolved beneath the root. With
    /// `owner`, what is made is that user's.
    pub(crate) fn make_dir(&self, path: &Path, owner: Option<u32>) -> io::Result<File> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let open = |path: &Path| self.resolve(path, flags, ResolveFlag::empty());
        // As a rule it is there.
        match open(path) {
            Err(Errno::ENOENT) => {}
            found => return Ok(found?),
        }
        let (mut parent, mut so_far) = (open(Path::new("/"))?, PathBuf::new());
        for part in path.components() {
            let part = match part {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            so_far.push(part);
            parent = match open(&so_far) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&parent, part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) => {
                            let made = open(&so_far)?;
                            if let Some(owner) = owner {
                                give_to(&made, owner)?;
                            }
                            made
                        }
                        Err(Errno::EEXIST) => open(&so_far)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                found => found?,
            };
        }
        Ok(parent)
    }

    /// What is at this path; where nothing is, an empty file made for it, with its parents.
    pub(crate) fn make_file(&self, path: &Path) -> io::Result<File> {
        match self.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let parent = self.make_dir(parent, None)?;
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(&parent, name, flags, Mode::from_bits_truncate(0o644))?;
        Ok(made.into())
    }
}

/// Makes what an `O_PATH` descriptor stands for a user's, and that user's group's.
fn give_to(file: &File, owner: u32) -> io::Result<()> {
    let (uid, gid) = (Some(owner.into()), Some(owner.into()));
    nix::unistd::fchownat(file, "", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_beneath(root: &Path, path: &str, max: u64) -> String {
        Root::open(root).unwrap().read(path, max)
    }

    #[test]
    fn links_out_of_a_root_are_resolved_inside_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/hostname", dir.path().join("etc/passwd"))
            .unwrap();
        assert_eq!(read_beneath(dir.path(), "etc/passwd", 100), "");
        std::fs::write(dir.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(read_beneath(dir.path(), "etc/passwd", 100), "inside");
        assert_eq!(read_beneath(dir.path(), "etc/passwd", 3), "ins");
    }

    /// CVE-2024-9676, 2026-47262: an image's user files are its own, plain and short, or they are nothing.
    #[test]
    fn only_so_much_of_a_plain_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        // 1 TiB, sparse: read to its bound and no further.
        let huge = File::create(etc.join("passwd")).unwrap();
        huge.set_len(1 << 40).unwrap();
        assert_eq!(
            read_beneath(dir.path(), "etc/passwd", 1 << 20).len(),
            1 << 20
        );
        std::fs::remove_file(etc.join("passwd")).unwrap();
        // A FIFO would block whoever opens it.
        nix::unistd::mkfifo(&etc.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_beneath(dir.path(), "etc/passwd", 100), "");
        std::fs::remove_file(etc.join("passwd")).unwrap();
        std::fs::create_dir(etc.join("passwd")).unwrap();
        assert_eq!(read_beneath(dir.path(), "etc/passwd", 100), "");
        std::fs::remove_dir(etc.join("passwd")).unwrap();
        // Out of the root, around in circles, and through a link that only the kernel can follow.
        for target in [
            "/etc/passwd",
            "../../../../etc/passwd",
            "passwd",
            "/proc/self/root/etc/passwd",
        ] {
            std::os::unix::fs::symlink(target, etc.join("passwd")).unwrap();
            assert_eq!(read_beneath(dir.path(), "etc/passwd", 100), "", "{target}");
            std::fs::remove_file(etc.join("passwd")).unwrap();
        }
    }

    #[test]
    fn directories_are_made_inside_the_root_even_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::os::unix::fs::symlink("/../real", root.join("link")).unwrap();
        let inside = Root::open(&root).unwrap();
        inside.make_dir(Path::new("/link/a/b"), None).unwrap();
        assert!(root.join("real/a/b").is_dir());
        std::fs::write(root.join("file"), "").unwrap();
        assert!(inside.make_dir(Path::new("/file/x"), None).is_err());
        inside.make_dir(Path::new("/"), None).unwrap();
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing beside the root"
        );
    }
}
