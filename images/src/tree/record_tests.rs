//! A list sees every kind of change, and nothing where nothing changed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::unpack::directories::open_root;

fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/one"), "1").unwrap();
    std::fs::write(root.join("a/b/two words"), "2".repeat(600_000)).unwrap();
    std::fs::write(root.join("a-"), "").unwrap();
    symlink("a/one", root.join("link")).unwrap();
    std::fs::hard_link(root.join("a/one"), root.join("z")).unwrap();
    folder
}

fn recorded(root: &Path) -> (File, Recorded) {
    let mut list = tempfile::tempfile().unwrap();
    let recorded = write(open_root(root).unwrap(), &mut list, &mut || true).unwrap();
    (list, recorded)
}

fn compared(root: &Path, list: &File) -> Compared {
    let mut list = list.try_clone().unwrap();
    list.seek(SeekFrom::Start(0)).unwrap();
    compare(open_root(root).unwrap(), list).unwrap()
}

#[test]
fn nothing_differs_where_nothing_changed() {
    let folder = filled();
    let (mut list, recorded) = recorded(folder.path());
    let found = compared(folder.path(), &list);
    assert_eq!(found.problems, Vec::<String>::new());
    assert_eq!((found.entries, found.bytes), (8, 600_001));
    assert_eq!(summary(&mut list).unwrap(), recorded);
    assert!(recorded.disk_bytes >= 600_000, "{recorded:?}");
}

#[test]
fn every_change_is_told_with_its_place() {
    type Change = fn(&Path) -> std::io::Result<()>;
    let cases: [(Change, &str); 9] = [
        (
            |root| {
                // The same size and time: only the content tells.
                let path = root.join("a/b/two words");
                let time = std::fs::metadata(&path)?.modified()?;
                std::fs::write(&path, "2".repeat(599_999) + "3")?;
                File::options().write(true).open(&path)?.set_modified(time)
            },
            "a/b/two%20words has another content or target",
        ),
        (
            |root| {
                std::fs::set_permissions(root.join("a-"), std::fs::Permissions::from_mode(0o4755))
            },
            "a- has another mode",
        ),
        (
            |root| {
                let file = File::options().write(true).open(root.join("a-"))?;
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1))
            },
            "a- has another time",
        ),
        (
            |root| std::fs::remove_file(root.join("a-")),
            "a- is missing",
        ),
        (|root| std::fs::remove_file(root.join("z")), "z is missing"),
        (
            |root| std::fs::write(root.join("a/b/new"), ""),
            "a/b/new should not be there",
        ),
        (
            |root| std::fs::write(root.join("zz"), ""),
            "zz should not be there",
        ),
        (
            |root| {
                std::fs::remove_file(root.join("link"))?;
                symlink("a/two", root.join("link"))
            },
            "link has another",
        ),
        (
            |root| {
                std::fs::remove_file(root.join("z"))?;
                std::fs::write(root.join("z"), "1")
            },
            "z has another kind",
        ),
    ];
    for (change, problem) in cases {
        let folder = filled();
        let (list, _) = recorded(folder.path());
        change(folder.path()).unwrap();
        let found = compared(folder.path(), &list);
        assert!(
            found.problems.iter().any(|told| told.starts_with(problem)),
            "{problem}: {found:?}"
        );
    }
}

#[test]
fn a_damaged_list_is_told_from_a_damaged_layer() {
    let folder = filled();
    let (mut list, _) = recorded(folder.path());
    let mut text = String::new();
    list.seek(SeekFrom::Start(0)).unwrap();
    list.read_to_string(&mut text).unwrap();
    for damaged in [
        text.replace("0777", "0776"),
        text[..text.len() - 70].to_string(),
    ] {
        let mut list = tempfile::tempfile().unwrap();
        list.write_all(damaged.as_bytes()).unwrap();
        let found = compared(folder.path(), &list);
        assert!(
            found
                .problems
                .contains(&"the list of its files is damaged".to_string()),
            "{found:?}"
        );
    }
    let mut other = tempfile::tempfile().unwrap();
    other.write_all(b"something else\n").unwrap();
    other.seek(SeekFrom::Start(0)).unwrap();
    assert!(compare(open_root(folder.path()).unwrap(), other).is_err());
}

#[test]
fn told_to_stop_it_stops() {
    let folder = filled();
    let mut list = tempfile::tempfile().unwrap();
    let mut asked = 0;
    let stopped = write(open_root(folder.path()).unwrap(), &mut list, &mut || {
        asked += 1;
        asked < 5
    });
    assert!(matches!(stopped, Err(TreeError::Stopped)));
    assert!(summary(&mut list).is_err());
}
