//! Archives that try to get out of their layer, or to cost more than they may: each is refused or contained, and the
//! world outside looks the same before and after.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{
    Answer, Archive, Fake, Packed, config, image, not_found, pull_layers, skip_unless_root,
};
use mezzo_images::{DeviceNodes, ImageStore, PullError, PullPolicy, UnpackError, UnpackLimits};

/// Path to everything that could have been changed.
fn fingerprint(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let mut looks = format!(
            "mode {:o} owner {}:{} mtime {}.{} links {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
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

fn world(folder: &Path) -> PathBuf {
    let outside = folder.join("outside");
    std::fs::create_dir_all(outside.join("folder")).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::write(outside.join("folder/file"), "file").unwrap();
    symlink("secret", outside.join("link")).unwrap();
    std::fs::set_permissions(
        outside.join("secret"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    outside
}

/// Pulls the archive as an image; the world must stay as it is, and a refused layer must leave nothing behind.
async fn pull_evil(
    what: &str,
    make: impl Fn(&str) -> Vec<u8>,
) -> Result<(tempfile::TempDir, PathBuf), UnpackError> {
    let folder = tempfile::tempdir().unwrap();
    let outside = world(folder.path());
    let before = fingerprint(&outside);
    let archive = make(outside.to_str().unwrap());
    let result = pull_layers(folder.path(), &[(archive, Packed::Gzip)]).await;
    assert_eq!(
        fingerprint(&outside),
        before,
        "{what}: the world outside changed"
    );
    match result {
        Ok((_, lowers)) => Ok((folder, lowers[0].clone())),
        Err(PullError::Unpack { problem, .. }) => {
            for place in ["layers", "tmp", "references"] {
                let left = std::fs::read_dir(folder.path().join("store").join(place))
                    .unwrap()
                    .count();
                assert_eq!(left, 0, "{what}: something is left in {place}");
            }
            Err(std::sync::Arc::try_unwrap(problem).unwrap())
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_reach_outside_are_refused() {
    if skip_unless_root() {
        return;
    }
    type Make = fn(&str) -> Vec<u8>;
    let cases: &[(&str, Make)] = &[
        ("a name with ..", |out| {
            Archive::new()
                .file(&format!("../../../../../../..{out}/new"), b"x")
                .done()
        }),
        ("a name with .. in the middle", |_| {
            Archive::new().dir("a").file("a/../../x", b"x").done()
        }),
        ("a file through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .file("l/secret", b"x")
                .done()
        }),
        ("a directory through a symlink", |out| {
            Archive::new().symlink("l", out).dir("l/new").done()
        }),
        ("a file through a chain of symlinks", |out| {
            Archive::new()
                .symlink("a", "b")
                .symlink("b", out)
                .file("a/new", b"x")
                .done()
        }),
        ("a file through a relative symlink", |_| {
            Archive::new()
                .dir("d")
                .symlink("d/l", "../../../../../outside")
                .file("d/l/new", b"x")
                .done()
        }),
        ("a file through a symlink to /", |out| {
            Archive::new()
                .symlink("root", "/")
                .file(&format!("root{out}/new"), b"x")
                .done()
        }),
        ("a file through a magic link", |out| {
            Archive::new()
                .symlink("p", "/proc/self/root")
                .file(&format!("p{out}/new"), b"x")
                .done()
        }),
        ("a symlink through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .symlink("l/x", "/etc")
                .done()
        }),
        ("a directory that was kept open becomes a symlink", |out| {
            Archive::new()
                .dir("d")
                .file("d/a", b"x")
                .symlink("d", out)
                .file("d/new", b"x")
                .done()
        }),
        ("a hard link to an absolute name", |out| {
            Archive::new()
                .hard_link("h", &format!("{out}/secret"))
                .done()
        }),
        ("a hard link to a name with ..", |out| {
            Archive::new()
                .hard_link("h", &format!("../../../../../..{out}/secret"))
                .done()
        }),
        ("a hard link through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .hard_link("h", "l/secret")
                .done()
        }),
        ("a hard link into a directory behind a symlink", |out| {
            Archive::new()
                .file("a", b"x")
                .symlink("l", out)
                .hard_link("l/new", "a")
                .done()
        }),
        ("a hard link to itself", |_| {
            Archive::new().file("a", b"x").hard_link("a", "./a").done()
        }),
        ("a hard link to a directory", |_| {
            Archive::new().dir("d").hard_link("h", "d").done()
        }),
        ("a hard link to a whiteout", |_| {
            Archive::new().file(".wh.a", b"").hard_link("h", "a").done()
        }),
        ("a whiteout through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .file("l/.wh.secret", b"")
                .done()
        }),
        ("an opaque mark through a symlink", |out| {
            Archive::new()
                .symlink("l", out)
                .file("l/.wh..wh..opq", b"")
                .done()
        }),
        ("a whiteout of the directory above", |_| {
            Archive::new().dir("d").file("d/.wh...", b"").done()
        }),
        ("a whiteout of nothing", |_| {
            Archive::new().file(".wh.", b"").done()
        }),
        ("a whiteout used as a directory", |_| {
            Archive::new().file(".wh.d/file", b"x").done()
        }),
        ("a node that is overlayfs's mark", |_| {
            Archive::new().device("n", b'3', 0, 0).done()
        }),
        ("overlayfs's own attribute", |_| {
            Archive::new()
                .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
                .dir("d")
                .done()
        }),
        ("overlayfs's own attribute without privileges", |_| {
            Archive::new()
                .pax("SCHILY.xattr.user.overlay.opaque", b"y")
                .dir("d")
                .done()
        }),
        ("one path as both file and directory", |_| {
            Archive::new().file("p", b"x").file("p/x", b"x").done()
        }),
        ("a root that is a symlink", |out| {
            Archive::new().symlink("./", out).file("new", b"x").done()
        }),
        ("a name that is too deep", |_| {
            Archive::new().file(&"d/".repeat(1000), b"x").done()
        }),
        ("a part of a name that is too long", |_| {
            Archive::new().file(&"x".repeat(300), b"x").done()
        }),
        ("an owner beyond 32 bits", |_| {
            Archive::new()
                .pax("uid", b"4294967296")
                .file("a", b"x")
                .done()
        }),
        ("an archive that is cut", |_| {
            Archive::new().file("a", &[1; 5000]).done()[..3000].to_vec()
        }),
        ("no archive at all", |_| vec![b'x'; 4096]),
    ];
    for (what, make) in cases {
        match pull_evil(what, make).await {
            Ok(_) => panic!("{what}: was accepted"),
            Err(error) => println!("{what}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_only_look_evil_are_contained() {
    if skip_unless_root() {
        return;
    }
    let (_folder, root) = pull_evil("absolute names", |out| {
        Archive::new()
            .file(&format!("{out}/secret"), b"mine")
            .file("/etc/x", b"y")
            .done()
    })
    .await
    .unwrap();
    assert_eq!(std::fs::read(root.join("etc/x")).unwrap(), b"y");

    // CVE-2021-32760, 2026-33056: chmod and chown of the directory must not go through the link.
    let (_folder, root) = pull_evil("a symlink, then a directory of its name", |out| {
        Archive::new()
            .symlink("l", &format!("{out}/folder"))
            .mode(0o777)
            .owner(7, 7)
            .dir("l")
            .file("l/new", b"x")
            .done()
    })
    .await
    .unwrap();
    assert!(std::fs::symlink_metadata(root.join("l")).unwrap().is_dir());
    assert_eq!(std::fs::read(root.join("l/new")).unwrap(), b"x");

    let (_folder, root) = pull_evil("a symlink, then a file of its name", |out| {
        Archive::new()
            .symlink("l", &format!("{out}/secret"))
            .mode(0o6777)
            .file("l", b"mine")
            .done()
    })
    .await
    .unwrap();
    assert_eq!(std::fs::read(root.join("l")).unwrap(), b"mine");

    let (_folder, root) = pull_evil("a hard link to a symlink, then a file over it", |out| {
        Archive::new()
            .symlink("l", &format!("{out}/secret"))
            .hard_link("h", "l")
            .file("h", b"mine")
            .done()
    })
    .await
    .unwrap();
    assert!(std::fs::symlink_metadata(root.join("h")).unwrap().is_file());
    assert!(
        std::fs::symlink_metadata(root.join("l"))
            .unwrap()
            .is_symlink()
    );

    let (_folder, root) = pull_evil("attributes and times of a symlink", |out| {
        Archive::new()
            .pax("SCHILY.xattr.user.a", b"b")
            .owner(5, 6)
            .symlink("l", &format!("{out}/secret"))
            .done()
    })
    .await
    .unwrap();
    assert_eq!(std::fs::symlink_metadata(root.join("l")).unwrap().uid(), 5);

    let (_folder, root) = pull_evil("a directory full of links, replaced by a file", |out| {
        Archive::new()
            .dir("d")
            .symlink("d/l", out)
            .dir("d/e")
            .symlink("d/e/l", out)
            .file("d", b"x")
            .done()
    })
    .await
    .unwrap();
    assert!(std::fs::symlink_metadata(root.join("d")).unwrap().is_file());

    let (_folder, root) = pull_evil("devices and a fifo", |_| {
        Archive::new()
            .device("disk", b'4', 8, 0)
            .device("null", b'3', 1, 3)
            .device("fifo", b'6', 0, 0)
            .done()
    })
    .await
    .unwrap();
    assert!(!root.join("disk").exists() && !root.join("null").exists());
    assert!(
        std::fs::metadata(root.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

async fn pull_with(
    change: impl Fn(&mut mezzo_images::StoreConfig),
    archive: Vec<u8>,
    packed: Packed,
) -> Result<(), UnpackError> {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[&image("x", &[(archive, packed)])]);
    let mut config = config(&folder.path().join("store"));
    change(&mut config);
    let store = ImageStore::open(config).await.unwrap();
    match store
        .pull(&fake.reference("x"), PullPolicy::Always, None)
        .await
    {
        Ok(_) => Ok(()),
        Err(PullError::Unpack { problem, .. }) => {
            assert_eq!(
                std::fs::read_dir(folder.path().join("store/tmp"))
                    .unwrap()
                    .count(),
                0
            );
            Err(std::sync::Arc::try_unwrap(problem).unwrap())
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_cost_too_much_are_refused() {
    if skip_unless_root() {
        return;
    }
    let zeros = Archive::new().file("zeros", &vec![0; 40 << 20]).done();
    for packed in [Packed::Plain, Packed::Gzip, Packed::Zstd] {
        let error = pull_with(
            |config| config.max_unpacked_bytes = 10 << 20,
            zeros.clone(),
            packed,
        )
        .await
        .unwrap_err();
        assert!(matches!(error, UnpackError::TooMuch { .. }), "{error}");
        pull_with(|_| {}, zeros.clone(), packed).await.unwrap();
    }
    let many = (0..200)
        .fold(Archive::new(), |archive, n| {
            archive.file(&format!("f{n}"), b"")
        })
        .done();
    let few = |config: &mut mezzo_images::StoreConfig| {
        config.limits = UnpackLimits {
            max_entries: 100,
            ..UnpackLimits::default()
        };
    };
    let error = pull_with(few, many, Packed::Gzip).await.unwrap_err();
    assert!(
        matches!(
            error,
            UnpackError::TooMuch {
                what: "entries",
                limit: 100
            }
        ),
        "{error}"
    );
    let wide = Archive::new()
        .pax("comment", &vec![b'x'; 2 << 20])
        .file("a", b"")
        .done();
    let error = pull_with(|_| {}, wide, Packed::Gzip).await.unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn device_nodes_are_made_or_refused_as_the_operator_says() {
    if skip_unless_root() {
        return;
    }
    let null = Archive::new().device("null", b'3', 1, 3).done();
    let say = |nodes| {
        move |config: &mut mezzo_images::StoreConfig| {
            config.limits = UnpackLimits {
                device_nodes: nodes,
                ..UnpackLimits::default()
            };
        }
    };
    pull_with(say(DeviceNodes::Create), null.clone(), Packed::Gzip)
        .await
        .unwrap();
    let error = pull_with(say(DeviceNodes::Refuse), null, Packed::Gzip)
        .await
        .unwrap_err();
    assert!(matches!(error, UnpackError::Refused { .. }), "{error}");
}

/// A small generator: the tests need the same sequence each time, not a good one.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// One store and one registry for many images.
struct Mill {
    folder: tempfile::TempDir,
    outside: PathBuf,
    before: BTreeMap<PathBuf, String>,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    fake: Fake,
    store: ImageStore,
}

impl Mill {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outside = world(folder.path());
        let before = fingerprint(&outside);
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&answers);
        let fake = Fake::start(move |request| {
            known
                .lock()
                .unwrap()
                .get(&request.path)
                .cloned()
                .unwrap_or_else(not_found)
        });
        let store = common::open(&folder.path().join("store")).await;
        Self {
            folder,
            outside,
            before,
            answers,
            fake,
            store,
        }
    }

    /// Pulls an archive; true if it was accepted. The world must stay as it is, and nothing may be left of it.
    async fn grind(&self, what: &str, archive: Vec<u8>, packed: Packed) -> bool {
        *self.answers.lock().unwrap() = common::answers(&[&image("x", &[(archive, packed)])]);
        let reference = self.fake.reference("x");
        let accepted = match self.store.pull(&reference, PullPolicy::Always, None).await {
            Ok(_) => true,
            Err(PullError::Unpack { .. }) => false,
            Err(other) => panic!("{what}: {other}"),
        };
        assert_eq!(
            fingerprint(&self.outside),
            self.before,
            "{what} changed the world outside"
        );
        self.store.remove(&reference).await.unwrap();
        for place in ["layers", "tmp", "references", "blobs/sha256"] {
            let left = std::fs::read_dir(self.folder.path().join("store").join(place))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{what}: something is left in {place}");
        }
        accepted
    }
}

/// Many layers of random entries over few names, so that links, directories, files and deletions meet in every
/// order: whatever becomes of them, the world outside stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn random_orders_of_links_and_files_never_reach_outside() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let out = mill.outside.to_str().unwrap().to_string();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut accepted = 0;
    for round in 0..150 {
        let mut archive = Archive::new();
        for _ in 0..dice.below(12) + 1 {
            let part =
                |dice: &mut Dice| ["a", "b", "c", ".wh.a", ".", "secret", "folder"][dice.below(7)];
            let path = (0..dice.below(3) + 1)
                .map(|_| part(&mut dice))
                .collect::<Vec<_>>()
                .join("/");
            let deep = format!("{out}/{}", part(&mut dice));
            let target = [
                out.as_str(),
                "..",
                "../../..",
                "a",
                "/",
                "b/c",
                deep.as_str(),
            ][dice.below(7)];
            archive = match dice.below(6) {
                0 => archive.mode(0o777).owner(9, 9).dir(&path),
                1 => archive.symlink(&path, target),
                2 => archive.hard_link(&path, target),
                3 => archive.file(&format!("{path}/.wh..wh..opq"), b""),
                _ => archive.mode(0o4777).file(&path, b"evil"),
            };
        }
        accepted += usize::from(
            mill.grind(&format!("round {round}"), archive.done(), Packed::Plain)
                .await,
        );
    }
    assert!(
        (10..140).contains(&accepted),
        "the dice are loaded: {accepted} of 150 were accepted"
    );
}

/// Archives with random bytes flipped, cut or doubled: an error or an image, never a panic and never a hang.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_archives_are_survived() {
    if skip_unless_root() {
        return;
    }
    let mill = Mill::new().await;
    let sane = Archive::new()
        .dir("d")
        .pax("mtime", b"1.5")
        .pax("SCHILY.xattr.user.x", b"y")
        .file("d/file", &[b'x'; 1500])
        .symlink("d/link", "file")
        .hard_link("hard", "d/file")
        .file(&"long/".repeat(40), b"z")
        .file(".wh.gone", b"")
        .done();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..150 {
        let mut archive = sane.clone();
        for _ in 0..dice.below(4) + 1 {
            let at = dice.below(archive.len());
            match dice.below(4) {
                0 => archive.truncate(at.max(1)),
                1 => {
                    let block = archive[at / 512 * 512..]
                        .iter()
                        .take(512)
                        .copied()
                        .collect::<Vec<_>>();
                    archive.splice(at / 512 * 512..at / 512 * 512, block);
                }
                _ => archive[at] ^= 1 << dice.below(8),
            }
        }
        let packed = if round % 2 == 0 {
            Packed::Plain
        } else {
            Packed::Zstd
        };
        mill.grind(&format!("round {round}"), archive, packed).await;
    }
}
