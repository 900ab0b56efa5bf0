//! The world outside of a layer: a tree that no archive may touch, and a look that sees everything that could have
//! been changed in it.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A tree called `outside`, and how it looked at first.
#[derive(Debug)]
pub(crate) struct Canary {
    pub(crate) outside: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Makes the tree beside where layers are unpacked.
    pub(crate) fn new(folder: &Path) -> Self {
        let outside = folder.join("outside");
        std::fs::create_dir_all(outside.join("folder")).unwrap();
        std::fs::create_dir(outside.join("empty")).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        std::fs::write(outside.join("folder/file"), "file").unwrap();
        symlink("secret", outside.join("link")).unwrap();
        symlink("folder", outside.join("way")).unwrap();
        std::fs::set_permissions(
            outside.join("secret"),
            std::fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        let before = fingerprint(&outside);
        Self { outside, before }
    }

    /// Where it is, for names in archives.
    pub(crate) fn path(&self) -> &str {
        self.outside.to_str().unwrap()
    }

    /// Panics if anything in the tree is not as it was.
    pub(crate) fn check(&self, what: &str) {
        assert_eq!(
            fingerprint(&self.outside),
            self.before,
            "{what}: the world outside changed"
        );
    }
}

/// Path to everything that could have been changed.
pub(crate) fn fingerprint(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let mut looks = format!(
            "mode {:o} owner {}:{} mtime {}.{} ctime {}.{} links {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            meta.nlink()
        );
        if meta.is_dir() {
            todo.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if meta.is_symlink() {
            looks += &format!(" to {:?}", std::fs::read_link(&path).unwrap());
        } else {
            looks += &format!(" holds {:?}", std::fs::read(&path).unwrap());
        }
        for name in xattr::list(&path).unwrap() {
            looks += &format!(" {name:?}={:?}", xattr::get(&path, &name).unwrap());
        }
        found.insert(path, looks);
    }
    found
}
