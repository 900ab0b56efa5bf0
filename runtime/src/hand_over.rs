//! Giving a tree of files to the user that a container runs as: its numbers are known only when the root file system is
//! mounted, for a name may be one that only the image's `/etc/passwd` has.
//!
//! Nobody else writes to the tree, and yet what is in it was written by others: every directory is opened from the
//! descriptor of the one that holds it and never through a link, and a link itself is given away, not what it leads to.

use std::ffi::CString;
use std::io;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{Gid, Uid, dup, fchownat};

/// Directories in each other: so many descriptors are open at once. More than whoever unpacks allows.
const MAX_DEPTH: usize = 300;

/// A directory of which all entries are the user's, and the directories in it that were not looked into.
struct Level {
    dir: Dir,
    waiting: Vec<CString>,
}

/// Makes all that is in `root` the user's and the group's, but not `root` itself. Root's it is already, as a rule: then
/// nothing is done.
///
/// # Errors
///
/// `root` is no directory, something in it cannot be given away, or directories lie deeper in each other than 300.
pub(crate) fn hand_over(root: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    let mut levels = vec![level(Dir::open(root, dir_flags(), Mode::empty())?, owner)?];
    while let Some(deepest) = levels.last_mut() {
        let Some(name) = deepest.waiting.pop() else {
            levels.pop();
            continue;
        };
        let dir = Dir::openat(&deepest.dir, name.as_c_str(), dir_flags(), Mode::empty())?;
        if levels.len() >= MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} directories lie in each other");
            return Err(io::Error::other(problem));
        }
        levels.push(level(dir, owner)?);
    }
    Ok(())
}

/// Gives away what lies in a directory.
fn level(mut dir: Dir, (uid, gid): (Uid, Gid)) -> io::Result<Level> {
    let descriptor = dup(&dir)?;
    let mut waiting = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&descriptor, name, Some(uid), Some(gid), flags)?;
        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            // Not every file system says so with the name.
            None => {
                let mode = fstatat(&descriptor, name, flags)?.st_mode;
                SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR
            }
        };
        if is_dir {
            waiting.push(name.to_owned());
        }
    }
    Ok(Level { dir, waiting })
}

fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn owner(path: &Path) -> (u32, u32) {
        let about = fs::symlink_metadata(path).unwrap();
        (about.uid(), about.gid())
    }

    #[test]
    fn all_of_a_tree_becomes_the_users_and_nothing_beside_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (root, beside) = (dir.path().join("root"), dir.path().join("beside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("file"), "").unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        fs::set_permissions(root.join("a/b/file"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(root.join("top"), "").unwrap();
        symlink(&beside, root.join("a/out")).unwrap();
        symlink("../../../beside/file", root.join("a/b/link")).unwrap();
        hand_over(&root, 1234, 567).unwrap();
        for name in ["a", "a/b", "a/b/file", "top", "a/out", "a/b/link"] {
            assert_eq!(owner(&root.join(name)), (1234, 567), "{name}");
        }
        for path in [&root, &beside, &beside.join("file")] {
            assert_eq!(owner(path), (0, 0), "{}", path.display());
        }
        let mode = fs::metadata(root.join("a/b/file")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640);
        // Root's, it stays as it is.
        hand_over(&root, 0, 0).unwrap();
        assert_eq!(owner(&root.join("top")), (1234, 567));
    }

    #[test]
    fn what_is_no_directory_or_a_link_to_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        symlink("dir", dir.path().join("link")).unwrap();
        for name in ["file", "link", "missing"] {
            assert!(hand_over(&dir.path().join(name), 1, 1).is_err(), "{name}");
        }
    }
}
