//! Trees are told and made again as they were, and nothing outside is reached, whatever either side tries.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn root(dir: &Path) -> OwnedFd {
    fs::File::open(dir).unwrap().into()
}

fn parts(dir: &Path, path: &str) -> Result<(Vec<Part>, Copied), CopyError> {
    let mut parts = Vec::new();
    let copied = read_tree(&root(dir), path.as_bytes(), &mut |part| {
        parts.push(part);
        true
    })?;
    Ok((parts, copied))
}

fn write(dir: &Path, path: &str, parts: Vec<Part>) -> Result<Copied, CopyError> {
    let mut writer = TreeWriter::open(&root(dir), path.as_bytes(), None)?;
    for part in parts {
        writer.take(part)?;
    }
    writer.finish()
}

fn names(parts: &[Part]) -> Vec<String> {
    parts
        .iter()
        .filter_map(|part| match part {
            Part::Entry(entry) => Some(String::from_utf8(entry.path.clone()).unwrap()),
            Part::Data(_) => None,
        })
        .collect()
}

fn entry(path: &str, kind: Kind) -> Part {
    Part::Entry(Entry {
        path: path.into(),
        kind,
        mode: 0o6755,
        modified_secs: 1_000_000,
    })
}

#[test]
fn a_tree_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    fs::create_dir_all(from.join("app/empty")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("app/file"), vec![7; 200_000]).unwrap();
    fs::write(from.join("app/nothing"), "").unwrap();
    fs::set_permissions(from.join("app/file"), fs::Permissions::from_mode(0o741)).unwrap();
    symlink("file", from.join("app/link")).unwrap();
    nix::unistd::mkfifo(&from.join("app/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (told, copied) = parts(&from, "/app").unwrap();
    assert_eq!(
        names(&told),
        ["app", "app/empty", "app/file", "app/link", "app/nothing"]
    );
    assert_eq!(
        (copied.entries, copied.bytes, copied.left_out),
        (5, 200_000, 1)
    );
    let made = write(&to, "/", told.clone()).unwrap();
    assert_eq!((made.entries, made.bytes), (5, 200_000));
    let file = fs::metadata(to.join("app/file")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o741);
    assert_eq!(
        file.mtime(),
        fs::metadata(from.join("app/file")).unwrap().mtime()
    );
    assert_eq!(fs::read(to.join("app/file")).unwrap(), vec![7; 200_000]);
    assert_eq!(
        fs::read_link(to.join("app/link")).unwrap(),
        Path::new("file")
    );
    assert!(to.join("app/empty").is_dir());
    // Under another name, and the contents alone.
    write(&to, "other", told).unwrap();
    assert!(to.join("other/file").is_file() && !to.join("other/app").exists());
    let (contents, _) = parts(&from, "app/.").unwrap();
    assert_eq!(names(&contents)[..2], ["", "empty"]);
    write(&to, "new", contents.clone()).unwrap();
    assert!(to.join("new/file").is_file());
    write(&to, "new", contents).unwrap();
    assert!(to.join("new/file").is_file() && !to.join("new/new").exists());
    let left: Vec<_> = fs::read_dir(to.join("new")).unwrap().flatten().collect();
    assert_eq!(left.len(), 4, "no temporary file: {left:?}");
}

#[test]
fn links_of_the_root_lead_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let root_dir = dir.path().join("root");
    fs::create_dir_all(root_dir.join("etc")).unwrap();
    fs::write(dir.path().join("secret"), "of the machine").unwrap();
    fs::write(root_dir.join("secret"), "inside").unwrap();
    // CVE-2018-15664: a component that is, or becomes, a link out.
    symlink("/", root_dir.join("out")).unwrap();
    symlink("../../../..", root_dir.join("up")).unwrap();
    for path in ["out/secret", "up/secret", "../secret", "/../../secret"] {
        let (told, _) = parts(&root_dir, path).unwrap();
        assert_eq!(told[1], Part::Data(b"inside".to_vec()), "{path}");
    }
    // A link that is named is told as a link.
    let (told, _) = parts(&root_dir, "out").unwrap();
    assert_eq!(told.len(), 1);
    assert!(matches!(
        &told[0],
        Part::Entry(Entry {
            kind: Kind::Link(_),
            ..
        })
    ));
    // Written "through" it, it stays inside.
    write(
        &root_dir,
        "up/etc",
        vec![entry("x", Kind::File(1)), Part::Data(vec![1])],
    )
    .unwrap();
    assert!(root_dir.join("etc/x").is_file());
    symlink(dir.path().join("secret"), root_dir.join("etc/victim")).unwrap();
    write(
        &root_dir,
        "/etc",
        vec![entry("victim", Kind::File(3)), Part::Data(b"new".to_vec())],
    )
    .unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("secret")).unwrap(),
        "of the machine"
    );
    let victim = fs::symlink_metadata(root_dir.join("etc/victim")).unwrap();
    assert!(victim.is_file(), "the link itself was replaced");
    // No set-id bits.
    assert_eq!(victim.mode() & 0o7777, 0o755);
    assert!(matches!(
        parts(&root_dir, "none"),
        Err(CopyError::NotFound(_))
    ));
    assert!(parts(&root_dir, "a\0b").is_err());
}

/// What a container sends lands beneath the folder that its receiver named, or nowhere.
#[test]
fn a_hostile_sender_reaches_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(dir.path().join("victim"), "old").unwrap();
    for path in [
        "../victim",
        "/victim",
        "a/../../victim",
        "./victim",
        "a//b",
        "..",
        ".",
        "a/",
    ] {
        let result = write(
            &to,
            ".",
            vec![entry(path, Kind::File(1)), Part::Data(vec![1])],
        );
        assert!(
            matches!(result, Err(CopyError::Nonsense(_))),
            "{path}: {result:?}"
        );
    }
    // A link of its own making, and then through it.
    let result = write(
        &to,
        ".",
        vec![
            entry("door", Kind::Link(b"..".to_vec())),
            entry("door/victim", Kind::File(1)),
            Part::Data(vec![1]),
        ],
    );
    assert!(
        matches!(result, Err(CopyError::Refused { .. })),
        "{result:?}"
    );
    assert!(fs::symlink_metadata(to.join("door")).unwrap().is_symlink());
    let result = write(&to, ".", vec![entry("door", Kind::Directory)]);
    assert!(
        matches!(result, Err(CopyError::Refused { .. })),
        "{result:?}"
    );
    // Bytes too many, of nothing, and too few.
    for parts in [
        vec![entry("f", Kind::File(1)), Part::Data(vec![1, 2])],
        vec![Part::Data(vec![1])],
        vec![entry("f", Kind::File(2)), Part::Data(vec![1])],
        vec![entry("f", Kind::File(2)), entry("g", Kind::File(0))],
        vec![entry("f", Kind::File(u64::MAX))],
        vec![entry("f", Kind::Link(Vec::new()))],
        vec![entry("", Kind::File(1))],
    ] {
        assert!(write(&to, ".", parts.clone()).is_err(), "{parts:?}");
    }
    let left: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["door"], "nothing half made stays");
    assert_eq!(
        fs::read_to_string(dir.path().join("victim")).unwrap(),
        "old"
    );
}

/// Directories are swapped for links out while they are copied; nothing of the outside is told or changed.
#[test]
fn a_race_with_links_is_never_won() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let root_dir = dir.path().join("root");
    let outside = dir.path().join("outside");
    fs::create_dir_all(root_dir.join("real")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(root_dir.join("real/file"), "inside").unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    symlink(&outside, root_dir.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let how = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            let (a, b) = (root_dir.join("real"), root_dir.join("link"));
            while !done.load(Ordering::Relaxed) {
                let here = nix::fcntl::AT_FDCWD;
                nix::fcntl::renameat2(here, &a, here, &b, how).unwrap();
            }
        });
        for _ in 0..2000 {
            if let Ok((told, _)) = parts(&root_dir, "real/file") {
                assert_eq!(told[1], Part::Data(b"inside".to_vec()));
            }
            if let Ok((told, _)) = parts(&root_dir, "real/.") {
                assert!(!told.contains(&Part::Data(b"outside".to_vec())));
            }
            let _ = write(
                &root_dir,
                ".",
                vec![entry("real/new", Kind::File(1)), Part::Data(vec![1])],
            );
        }
        done.store(true, Ordering::Relaxed);
    });
    let left: Vec<_> = fs::read_dir(&outside)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["file"]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "outside");
}

/// A volume of a container with user numbers of its own: the machine's root is nobody on such a mount.
#[test]
fn a_volume_shown_with_other_user_numbers_takes_what_its_root_is_given() {
    use std::os::fd::AsFd as _;

    use crate::sys::mounts;

    const ROOT: u32 = 1 << 30;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("theirs")).unwrap();
    let users = mounts::new_user_namespace(&format!("0 {ROOT} 65536")).unwrap();
    let volume = mounts::clone_mount(dir.path(), true).unwrap();
    match mounts::set_attributes(volume.as_fd(), 0, Some(users.as_fd())) {
        Ok(()) => {}
        Err(error) => {
            eprintln!("skipped: no idmapped mounts here: {error}");
            return;
        }
    }
    // In place of a directory, a file and a link of somebody else, who lets nobody in.
    std::os::unix::fs::chown(dir.path().join("theirs"), Some(7), Some(7)).unwrap();
    fs::set_permissions(dir.path().join("theirs"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.path().join("theirs/file"), "old").unwrap();
    let mut writer = TreeWriter::open(&volume, b"theirs", Some((ROOT, ROOT))).unwrap();
    for part in [
        entry("file", Kind::File(3)),
        Part::Data(b"new".to_vec()),
        entry("tree", Kind::Directory),
        entry("tree/link", Kind::Link(b"../file".to_vec())),
    ] {
        writer.take(part).unwrap();
    }
    writer.finish().unwrap();
    for path in ["theirs/file", "theirs/tree", "theirs/tree/link"] {
        let made = fs::symlink_metadata(dir.path().join(path)).unwrap();
        assert_eq!((made.uid(), made.gid()), (0, 0), "{path}: root's on disk");
    }
    assert_eq!(
        fs::read_to_string(dir.path().join("theirs/file")).unwrap(),
        "new"
    );
}
