//! Counting a tree that somebody else may change meanwhile, and means to lead us astray.
//!
//! Every directory is opened from the descriptor of the one that holds it, never through a link and never onto another
//! file system: so the walk cannot leave the tree, whatever is moved or replaced meanwhile. What it holds (descriptors,
//! names, numbers of files with several names) is bounded. Blocks are counted, not sizes, and a file with several names
//! once.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

/// The kernel's unit of `st_blocks`.
const BLOCK: u64 = 512;
/// Entries between two questions whether to go on.
const STEP: u64 = 128;

/// What a walk may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files, directories and all else.
    pub entries: u64,
    /// Directories in each other: so many descriptors are open at once.
    pub depth: usize,
    /// Bytes of names that are kept for later.
    pub names: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            depth: 256,
            names: 32 << 20,
        }
    }
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All was counted.
    Complete,
    /// The caller had enough.
    Stopped,
    /// There are more files than the bounds allow.
    TooMany,
    /// Directories lie deeper in each other than the bounds allow.
    TooDeep,
}

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Of blocks on the disk: all, or at least so many where the end is not [`End::Complete`].
    pub bytes: u64,
    /// Names that were looked at.
    pub entries: u64,
    /// Whether that is all.
    pub end: End,
}

/// Counts the tree at `root`, which must be a directory itself. `go_on` is asked every now and then with the bytes so
/// far; it may take its time, to spread the work, or end the walk. What disappears meanwhile is not counted.
///
/// # Errors
///
/// `root` is no directory or cannot be opened.
pub fn walk(root: &Path, bounds: Bounds, go_on: &mut dyn FnMut(u64) -> bool) -> io::Result<Walked> {
    let dir = Dir::open(root, dir_flags(), Mode::empty())?;
    let status = fstat(&dir)?;
    let mut walk = Walk {
        bounds,
        device: status.st_dev,
        seen: HashSet::new(),
        names: 0,
        found: Walked {
            bytes: blocks(&status),
            entries: 1,
            end: End::Complete,
        },
    };
    walk.found.end = walk.run(dir, go_on);
    Ok(walk.found)
}

/// What some plain files take together; those that are not there take nothing. Links are not followed.
#[must_use]
pub fn files<'a>(paths: impl Iterator<Item = &'a Path>) -> u64 {
    let found = paths.filter_map(|path| nix::sys::stat::lstat(path).ok());
    found
        .filter(|status| kind(status) == SFlag::S_IFREG)
        .fold(0, |sum: u64, status| sum.saturating_add(blocks(&status)))
}

struct Walk {
    bounds: Bounds,
    device: u64,
    /// Files with several names that were counted.
    seen: HashSet<u64>,
    /// Bytes of all names that wait.
    names: usize,
    found: Walked,
}

/// A directory that was read, and those in it that were not.
struct Level {
    dir: Dir,
    waiting: Vec<CString>,
}

impl Walk {
    fn run(&mut self, root: Dir, go_on: &mut dyn FnMut(u64) -> bool) -> End {
        let mut levels = Vec::new();
        let mut too_deep = false;
        match self.read(root, go_on) {
            Ok(level) => levels.push(level),
            Err(end) => return end,
        }
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.waiting.pop() else {
                levels.pop();
                continue;
            };
            self.names -= name.as_bytes().len();
            if levels.len() >= self.bounds.depth {
                // The rest is counted nevertheless: it may be enough by itself.
                too_deep = true;
                continue;
            }
            let level = levels.last().expect("there was one just now");
            let Ok(dir) = Dir::openat(&level.dir, name.as_c_str(), dir_flags(), Mode::empty())
            else {
                // Gone, or something else by now.
                continue;
            };
            // Another file system may have been mounted there.
            if !fstat(&dir).is_ok_and(|status| status.st_dev == self.device) {
                continue;
            }
            match self.read(dir, go_on) {
                Ok(level) => levels.push(level),
                Err(end) => return end,
            }
        }
        if too_deep {
            End::TooDeep
        } else {
            End::Complete
        }
    }

    /// Counts what lies in a directory, and keeps the names of the directories in it.
    fn read(&mut self, mut dir: Dir, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Level, End> {
        let descriptor = nix::unistd::dup(&dir).map_err(|_| End::TooMany)?;
        let mut waiting = Vec::new();
        for entry in dir.iter() {
            // What cannot be read any further is gone.
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.found.entries += 1;
            if self.found.entries > self.bounds.entries {
                return Err(End::TooMany);
            }
            if self.found.entries.is_multiple_of(STEP) && !go_on(self.found.bytes) {
                return Err(End::Stopped);
            }
            let status = match fstatat(&descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(status) => status,
                Err(Errno::ENOENT) => continue,
                Err(_) => continue,
            };
            if status.st_dev != self.device {
                continue;
            }
            let is_dir = kind(&status) == SFlag::S_IFDIR;
            if is_dir {
                self.names += name.to_bytes().len();
                if self.names > self.bounds.names {
                    return Err(End::TooMany);
                }
                waiting.push(name.to_owned());
            }
            if is_dir || status.st_nlink < 2 || self.seen.insert(status.st_ino) {
                self.found.bytes = self.found.bytes.saturating_add(blocks(&status));
            }
        }
        Ok(Level { dir, waiting })
    }
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY
        | OFlag::O_DIRECTORY
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC
        | OFlag::O_NONBLOCK
        | OFlag::O_NOATIME
}

fn blocks(status: &FileStat) -> u64 {
    u64::try_from(status.st_blocks)
        .unwrap_or(0)
        .saturating_mul(BLOCK)
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn all(root: &Path) -> Walked {
        walk(root, Bounds::default(), &mut |_| true).unwrap()
    }

    fn blocks_of(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().blocks() * BLOCK
    }

    #[test]
    fn blocks_count_and_a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), vec![1; 300_000]).unwrap();
        fs::hard_link(root.join("a/file"), root.join("a/b/again")).unwrap();
        // 1 TiB of nothing.
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let told = [".", "a", "a/b", "a/file", "sparse"].map(|name| blocks_of(&root.join(name)));
        let found = all(&root);
        assert_eq!(found.bytes, told.iter().sum::<u64>());
        assert!(found.bytes >= 300_000 && found.bytes < 1 << 21, "{found:?}");
        assert_eq!((found.entries, found.end), (6, End::Complete));
    }

    #[test]
    fn no_link_is_followed_out_of_the_tree_or_around_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
        symlink(dir.path(), root.join("up")).unwrap();
        symlink(dir.path().join("outside"), root.join("file")).unwrap();
        symlink(".", root.join("round")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();
        let found = all(&root);
        assert_eq!((found.entries, found.end), (6, End::Complete));
        assert!(found.bytes < 1 << 20, "{found:?}");
        // Nor is the root itself one.
        symlink(&root, dir.path().join("link")).unwrap();
        assert!(walk(&dir.path().join("link"), Bounds::default(), &mut |_| true).is_err());
    }

    #[test]
    fn a_tree_beyond_the_bounds_says_so_and_costs_no_more_than_they_allow() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().join("deep");
        for _ in 0..20 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(dir.path().join("file"), vec![1; 50_000]).unwrap();
        let with = |bounds| walk(dir.path(), bounds, &mut |_| true).unwrap();
        let bounds = Bounds {
            depth: 10,
            ..Bounds::default()
        };
        let found = with(bounds);
        assert_eq!(found.end, End::TooDeep);
        assert!(
            found.bytes >= 50_000,
            "what is not so deep counts: {found:?}"
        );
        let few = Bounds {
            entries: 5,
            ..Bounds::default()
        };
        assert_eq!(with(few).end, End::TooMany);
        let short = Bounds {
            names: 3,
            ..Bounds::default()
        };
        assert_eq!(with(short).end, End::TooMany);
        assert_eq!(all(dir.path()).end, End::Complete);
    }

    #[test]
    fn the_caller_may_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..300 {
            fs::write(dir.path().join(n.to_string()), "x").unwrap();
        }
        let mut asked = 0;
        let found = walk(dir.path(), Bounds::default(), &mut |_| {
            asked += 1;
            asked < 2
        });
        assert_eq!((found.unwrap().end, asked), (End::Stopped, 2));
    }

    /// Whoever owns the tree moves and replaces directories as fast as possible: the walk never sees what is outside.
    #[test]
    fn a_tree_that_is_turned_over_meanwhile_leads_nowhere() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(outside.join("b/c")).unwrap();
        for at in ["big", "b/big", "b/c/big"] {
            fs::write(outside.join(at), vec![1; 1 << 20]).unwrap();
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = fs::rename(root.join("a"), root.join("x"));
                    let _ = symlink(&outside, root.join("a"));
                    std::thread::yield_now();
                    let _ = fs::remove_file(root.join("a"));
                    let _ = fs::rename(root.join("x"), root.join("a"));
                }
            });
            for _ in 0..500 {
                let found = all(&root);
                assert!(found.bytes < 1 << 20, "{found:?}");
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn only_plain_files_that_are_there_count_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, vec![1; 10_000]).unwrap();
        symlink(&file, &link).unwrap();
        let missing = dir.path().join("missing");
        let paths = [file.as_path(), &link, &missing, dir.path()];
        assert_eq!(files(paths.into_iter()), blocks_of(&file));
    }
}
