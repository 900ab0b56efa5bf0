//! Real images, unpacked here and by `umoci`: the two trees are the same in every file's type, content, mode, owner,
//! attributes, time and links.
//!
//! The base layer is written by GNU tar from the files of installed Debian packages; the layers upon it by the tests'
//! own builder and by umoci (Go's writer). `skopeo` brings the image into Debian's registry, the store pulls it, and
//! overlayfs puts it together. Where the two may differ stands in `DIFFERENCES`, with the reason.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Archive, Registry, open, skip_unless_root};
use mezzo_images::{Digest, PullPolicy, Snapshot};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

/// Packages that every Debian has, with set-id programs, many links, and files of odd modes.
const PACKAGES: [&str; 5] = ["coreutils", "libc6", "passwd", "base-files", "tzdata"];

/// Where the two may differ, in what, and why.
const DIFFERENCES: [(&str, Part, &str); 5] = [
    (
        "dev/null",
        Part::All,
        "ours: device nodes are left out unless the operator wants them",
    ),
    (
        "trusted",
        Part::Attributes,
        "ours: attributes for root alone (trusted.*) are not carried",
    ),
    (
        "dev",
        Part::Time,
        "no entry gives it a time: each takes its own now",
    ),
    (
        "implied",
        Part::Time,
        "no entry gives it a time: each takes its own now",
    ),
    (
        "implied/by",
        Part::Time,
        "no entry gives it a time: each takes its own now",
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Attributes,
    Time,
}

/// None, loudly, if a program is missing.
fn tools() -> Option<()> {
    for (program, question) in [
        ("umoci", "--version"),
        ("skopeo", "--version"),
        ("dpkg", "--version"),
        ("tar", "--version"),
    ] {
        let told = Command::new(program)
            .arg(question)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !told.is_ok_and(|status| status.success()) {
            eprintln!("skipped: needs {program}");
            return None;
        }
    }
    Some(())
}

fn run(command: &mut Command) -> Vec<u8> {
    let done = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    done.stdout
}

/// An image as umoci keeps it.
struct Layout(PathBuf);

impl Layout {
    fn new(folder: &Path) -> Self {
        let layout = Self(folder.join("layout"));
        run(Command::new("umoci")
            .arg("init")
            .arg("--layout")
            .arg(&layout.0));
        run(Command::new("umoci")
            .arg("new")
            .arg("--image")
            .arg(layout.tagged()));
        layout
    }

    fn tagged(&self) -> String {
        format!("{}:1", self.0.display())
    }

    fn add(&self, layer: &[u8]) {
        let file = self.0.with_extension("tar");
        std::fs::write(&file, layer).unwrap();
        run(Command::new("umoci")
            .args(["raw", "add-layer", "--image", &self.tagged()])
            .arg(&file));
    }

    fn unpack(&self, bundle: &Path) -> PathBuf {
        run(Command::new("umoci")
            .args(["unpack", "--image", &self.tagged()])
            .arg(bundle));
        bundle.join("rootfs")
    }
}

/// The files of installed packages below /usr and /etc, as GNU tar writes them.
fn packages() -> Vec<u8> {
    let listed = run(Command::new("dpkg").arg("-L").args(PACKAGES));
    // The root is described as well.
    let mut names = BTreeSet::from([b"./".to_vec()]);
    for line in listed.split(|byte| *byte == b'\n') {
        let listed = Path::new(OsStr::from_bytes(line));
        // Programs are listed in /bin, which is a link today; and dpkg speaks of diversions in between.
        let (Some(parent), Some(name)) = (listed.parent(), listed.file_name()) else {
            continue;
        };
        let Ok(path) = parent.canonicalize().map(|parent| parent.join(name)) else {
            continue;
        };
        let wanted = path.starts_with("/usr") || path.starts_with("/etc");
        if wanted && path.symlink_metadata().is_ok() {
            // With all directories above: each has an entry of its own.
            let lines = path.ancestors().map(|path| path.as_os_str().as_bytes());
            names.extend(
                lines
                    .filter(|line| line.len() > 1)
                    .map(|line| line[1..].to_vec()),
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    std::fs::write(&list, names.into_iter().collect::<Vec<_>>().join(&b'\n')).unwrap();
    let mut tar = Command::new("tar");
    tar.args([
        "-C",
        "/",
        "--create",
        "--file",
        "-",
        "--format=pax",
        "--xattrs",
        "--no-recursion",
    ]);
    run(tar.arg("--files-from").arg(&list))
}

/// A layer with all that layers may hold, upon the packages.
fn changes() -> Vec<u8> {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Archive::new()
        // Deletions: a file, a directory, all of a directory but what is new, something that is not there.
        .file("usr/bin/.wh.yes", b"")
        .file("usr/share/doc/.wh.coreutils", b"")
        .file("usr/share/zoneinfo/Europe/.wh..wh..opq", b"")
        .file("usr/share/zoneinfo/Europe/Utopia", b"none")
        .file("etc/.wh.nothing", b"")
        // One kind in place of another.
        .dir("usr/bin/true")
        .file("usr/bin/true/file", b"in a directory that was a program")
        .file("usr/share/zoneinfo/Asia", b"a file that was a directory")
        .symlink("usr/bin/false", "true/file")
        .file(".wh.home", b"")
        .dir("home")
        .file("home/new", b"in a new directory")
        // Modes, owners, times.
        .mode(0o2751)
        .owner(33, 4_000_000_000)
        .pax("gid", b"4000000000")
        .pax("mtime", b"1234567890.123456789")
        .dir("new")
        .mode(0o4755)
        .owner(1, 2)
        .pax("mtime", b"-86400.75")
        .file("new/setuid", b"x")
        .mode(0)
        .pax("mtime", b"4102444800.000000001")
        .file("new/closed", b"x")
        .mode(0o1777)
        .dir("new/sticky")
        .owner(9, 9)
        .pax("mtime", b"1.5")
        .symlink("new/link", "nowhere/at/all")
        .mode(0o622)
        .device("new/fifo", b'6', 0, 0)
        // Links.
        .file("new/one", &[b'1'; 5000])
        .dir("new/sticky/deep")
        .hard_link("new/sticky/deep/two", "new/one")
        .hard_link("new/three", "new/sticky/deep/two")
        .hard_link("new/soft", "new/link")
        // Attributes.
        .pax("SCHILY.xattr.security.capability", capability)
        .pax("SCHILY.xattr.user.note", b"a=b\n\0c")
        .owner(1000, 1000)
        .mode(0o755)
        .file("new/capable", b"x")
        .pax("SCHILY.xattr.user.note", b"of a directory")
        .dir("new/noted")
        // Names and sizes.
        .dir(&format!("new/{}", "n".repeat(200)))
        .file(
            &format!("new/{}/{}", "n".repeat(200), "m".repeat(255)),
            b"long",
        )
        .file("new/späße und \u{1f980}", b"utf-8")
        .file("new/a\nb\\c\t\"d\"", b"odd")
        .file(b"new/not \xff utf-8", b"odd")
        .file("new/zeros", &vec![0; 3 << 20])
        .file("new/empty", b"")
        .symlink("new/far", &"far/".repeat(300))
        .file("implied/by/name", b"x")
        .device("dev/null", b'3', 1, 3)
        .pax("SCHILY.xattr.trusted.note", b"x")
        .file("trusted", b"x")
        .done()
}

/// A layer upon that: what was just made changes again.
fn changes_of_changes() -> Vec<u8> {
    Archive::new()
        .file("new/.wh.one", b"")
        .file("new/sticky/.wh..wh..opq", b"")
        .file("new/capable", b"no more")
        .file("usr/bin/true/second", b"x")
        .file("implied/by/other", b"x")
        .dir("new/empty")
        .hard_link("usr/again", "usr/bin/true/second")
        .file("home/.wh.new", b"")
        .mode(0o700)
        .pax("mtime", b"77.7")
        .dir("./")
        .done()
}

/// Brings the image through a registry into a store.
async fn pull(
    folder: &Path,
    layout: &Layout,
    registry: &Registry,
) -> (mezzo_images::ImageStore, Snapshot) {
    let reference = registry.reference("real:1");
    run(Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &format!("oci:{}", layout.tagged()),
        ])
        .arg(format!("docker://{reference}")));
    let store = open(&folder.join("store")).await;
    let image = store
        .pull(&reference, PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    let snapshot = store.snapshot(&image, "look").unwrap();
    (store, snapshot)
}

/// Everything about one file that the two must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Looks {
    what: String,
    mode: u32,
    owner: (u32, u32),
    time: (i64, i64),
    attributes: BTreeMap<String, Vec<u8>>,
    /// The first name of the same file.
    same_as: PathBuf,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Looks> {
    let mut found = BTreeMap::new();
    let mut first_names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(name) = todo.pop() {
        let path = root.join(&name);
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            let mut entries: Vec<_> = path
                .read_dir()
                .unwrap()
                .map(|entry| name.join(entry.unwrap().file_name()))
                .collect();
            entries.sort_by(|a, b| b.cmp(a));
            todo.extend(entries);
            "directory".to_string()
        } else if kind.is_symlink() {
            format!("link to {:?}", path.read_link().unwrap())
        } else if kind.is_file() {
            format!(
                "file of {} bytes, {}",
                meta.len(),
                Digest::of(&std::fs::read(&path).unwrap())
            )
        } else if kind.is_fifo() {
            "fifo".into()
        } else {
            format!("device {:x}", meta.rdev())
        };
        let attributes = xattr::list(&path).unwrap().map(|key| {
            let value = xattr::get(&path, &key).unwrap().unwrap_or_default();
            (key.to_string_lossy().into_owned(), value)
        });
        let same_as = if kind.is_dir() {
            name.clone()
        } else {
            first_names
                .entry((meta.dev(), meta.ino()))
                .or_insert_with(|| name.clone())
                .clone()
        };
        let looks = Looks {
            what,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            time: (meta.mtime(), meta.mtime_nsec()),
            // A file system may label everything that it holds.
            attributes: attributes
                .filter(|(key, _)| key != "security.selinux")
                .collect(),
            same_as,
        };
        found.insert(name, looks);
    }
    found
}

/// Puts the layers together as a container gets them, read-only, in a mount namespace that dies with the thread.
fn mounted(snapshot: Snapshot) -> BTreeMap<PathBuf, Looks> {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let point = tempfile::tempdir().unwrap();
        let lowers: Vec<_> = snapshot
            .lowers
            .iter()
            .map(|path| path.to_str().unwrap())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lowers.join(":"),
            snapshot.upper.display(),
            snapshot.work.display()
        );
        mount(
            Some("overlay"),
            point.path(),
            Some("overlay"),
            MsFlags::MS_RDONLY,
            Some(options.as_str()),
        )
        .unwrap();
        let found = look(point.path());
        nix::mount::umount(point.path()).unwrap();
        found
    })
    .join()
    .unwrap()
}

/// Fails with a list of all that differs and may not.
fn compare(ours: &BTreeMap<PathBuf, Looks>, theirs: &BTreeMap<PathBuf, Looks>) {
    let mut wrong = Vec::new();
    let names: BTreeSet<&PathBuf> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let excuse = DIFFERENCES
            .iter()
            .find(|(place, _, _)| name == Path::new(place))
            .map(|(_, part, _)| *part);
        let blind = |looks: &Looks| {
            let mut looks = looks.clone();
            match excuse {
                Some(Part::Attributes) => looks.attributes.clear(),
                Some(Part::Time) => looks.time = (0, 0),
                Some(Part::All) | None => {}
            }
            looks
        };
        let (our, their) = (ours.get(name).map(blind), theirs.get(name).map(blind));
        if our != their && excuse != Some(Part::All) {
            wrong.push(format!("{name:?}\n  ours:   {our:?}\n  theirs: {their:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} files differ:\n{}",
        wrong.len(),
        theirs.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_debian_packages_and_layers_of_all_kinds_is_what_umoci_makes_of_it() {
    if skip_unless_root() || tools().is_none() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    layout.add(&packages());
    layout.add(&changes());
    layout.add(&changes_of_changes());
    let theirs = look(&layout.unpack(&folder.path().join("bundle")));
    let (_store, snapshot) = pull(folder.path(), &layout, &registry).await;
    assert_eq!(snapshot.lowers.len(), 3);
    let ours = mounted(snapshot);
    println!("{} files compared", ours.len());
    assert!(
        ours.len() > 500,
        "the packages are not in it: {} files",
        ours.len()
    );
    compare(&ours, &theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_another_tool_wrote_is_what_that_tool_makes_of_it() {
    if skip_unless_root() || tools().is_none() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    layout.add(&packages());
    let bundle = folder.path().join("work");
    change_tree(&layout.unpack(&bundle));
    run(Command::new("umoci")
        .args(["repack", "--image", &layout.tagged()])
        .arg(&bundle));
    let theirs = look(&layout.unpack(&folder.path().join("bundle")));
    assert!(
        !theirs.contains_key(Path::new("usr/bin/yes")),
        "umoci's layer deletes nothing"
    );
    let (_store, snapshot) = pull(folder.path(), &layout, &registry).await;
    assert_eq!(snapshot.lowers.len(), 2);
    compare(&mounted(snapshot), &theirs);
}

/// What an `apt-get` or a `make install` in a Dockerfile does.
fn change_tree(root: &Path) {
    let path = |name: &str| root.join(name);
    std::fs::remove_file(path("usr/bin/yes")).unwrap();
    std::fs::remove_dir_all(path("usr/share/doc")).unwrap();
    std::fs::remove_dir_all(path("usr/share/zoneinfo/Asia")).unwrap();
    std::fs::write(path("usr/share/zoneinfo/Asia"), "a file now").unwrap();
    std::fs::remove_file(path("usr/bin/true")).unwrap();
    std::fs::create_dir_all(path("usr/bin/true/deep")).unwrap();
    std::fs::write(path("usr/bin/true/deep/file"), vec![7; 100_000]).unwrap();
    std::fs::hard_link(path("usr/bin/true/deep/file"), path("usr/bin/linked")).unwrap();
    std::fs::hard_link(path("usr/bin/true/deep/file"), path("etc/linked")).unwrap();
    symlink("../nowhere", path("etc/dangling")).unwrap();
    nix::unistd::mkfifo(&path("etc/fifo"), Mode::from_bits_truncate(0o640)).unwrap();
    nix::unistd::chown(&path("etc/fifo"), Some(12.into()), Some(34.into())).unwrap();
    std::fs::set_permissions(path("usr/bin/cat"), std::fs::Permissions::from_mode(0o6711)).unwrap();
    std::fs::set_permissions(
        path("usr/share/zoneinfo"),
        std::fs::Permissions::from_mode(0o1770),
    )
    .unwrap();
    xattr::set(path("usr/bin/cat"), "user.note", b"changed").unwrap();
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(path("usr/bin/ls"), "security.capability", capability).unwrap();
    std::fs::write(path(&format!("etc/{}", "long".repeat(60))), "long").unwrap();
    std::fs::write(
        root.join(OsStr::from_bytes("etc/späße".as_bytes())),
        "utf-8",
    )
    .unwrap();
}
