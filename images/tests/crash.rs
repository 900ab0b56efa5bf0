//! A store that is killed at any moment, and one whose disk is full: the next process finds it whole.
//!
//! `MEZZO_CRASH_ROUNDS=100 cargo test -p mezzo-images --test crash` kills it a hundred times; ten by default.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Archive, Fake, Packed, TestImage, config, image, open, skip_unless_root};
use mezzo_images::{
    GcPolicy, ImageStore, ImportOptions, ImportSource, PullError, PullPolicy, Reference,
    VerifyOptions,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NAMES: [&str; 3] = ["x", "y", "z"];
/// Says to the child which store to work on.
const STORE: &str = "MEZZO_CRASH_STORE";
const HOST: &str = "MEZZO_CRASH_HOST";
const SEED: &str = "MEZZO_CRASH_SEED";

fn layer(word: &str, files: usize) -> Vec<u8> {
    let mut archive = Archive::new().dir("d");
    for n in 0..files {
        let text = format!("{word} {n} ").repeat(2000);
        archive = archive.file(&format!("d/{word}-{n}"), text.as_bytes());
    }
    archive.done()
}

/// Images that share their lowest layer.
fn images() -> Vec<TestImage> {
    let base = (layer("base", 30), Packed::Gzip);
    let of = |name: &&str| {
        let own = (layer(name, 20), Packed::Zstd);
        image(name, &[base.clone(), own, (layer("top", 5), Packed::Plain)])
    };
    NAMES.iter().map(of).collect()
}

/// Small numbers from a seed: the same run can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Not a test of its own: the process that is killed. Works on a store until then.
#[test]
fn child() {
    let Ok(root) = std::env::var(STORE) else {
        return;
    };
    let host = std::env::var(HOST).unwrap();
    let mut dice = Dice(std::env::var(SEED).unwrap().parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&root)).await;
        // The parent kills us long before; if it died, nobody else will.
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            work(&store, &host, &mut dice).await;
        }
    });
}

async fn work(store: &ImageStore, host: &str, dice: &mut Dice) {
    let name = |dice: &mut Dice| -> Reference {
        let which = usize::try_from(dice.roll(3)).unwrap();
        format!("{host}/{}", NAMES[which]).parse().unwrap()
    };
    let (one, two) = (name(dice), name(dice));
    let key = format!("container-{}", dice.roll(4));
    match dice.roll(10) {
        0..4 => {
            let (first, second) = tokio::join!(
                store.pull(&one, PullPolicy::Always, None),
                store.pull(&two, PullPolicy::IfNotPresent, None)
            );
            first.and(second).map(drop).unwrap();
        }
        4 => {
            let options = ImportOptions {
                source: ImportSource::Path(store.root().with_extension("tar")),
                name: Some(one),
                image: None,
            };
            store.import_archive(options, None).await.map(drop).unwrap();
        }
        5 => drop(store.remove(&one).await.unwrap()),
        6 => drop(store.prune(&BTreeSet::new()).await.unwrap()),
        7 => {
            if let Some(image) = store.get(&one).await.unwrap() {
                // There may be one of that key.
                let _ = store.snapshot(&image, &key);
            }
        }
        8 => store.remove_snapshot(&key).unwrap(),
        _ => {
            let report = store.verify(VerifyOptions::default()).await.unwrap();
            assert!(report.found_nothing(), "{report:#?}");
        }
    }
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_is_whole_for_the_next_process() {
    if skip_unless_root() {
        return;
    }
    let rounds = std::env::var("MEZZO_CRASH_ROUNDS").map_or(10, |rounds| {
        rounds.parse().expect("MEZZO_CRASH_ROUNDS is a number")
    });
    let seed = std::env::var(SEED).map_or_else(
        |_| 1 + u64::from(std::process::id()),
        |seed| seed.parse().expect("MEZZO_CRASH_SEED is a number"),
    );
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let images = images();
    let fake = Fake::serving(&images.iter().collect::<Vec<_>>());
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let archive = folder.path().join("store.tar");
    {
        let store = open(&folder.path().join("first")).await;
        let reference = fake.reference("x");
        store
            .pull(&reference, PullPolicy::IfNotPresent, None)
            .await
            .unwrap();
        let packed = store.export(&reference).await.unwrap();
        let file = std::fs::File::create(&archive).unwrap();
        packed.write_archive(&reference, file).unwrap();
    }
    let mut cut = 0;
    for round in 0..rounds {
        kill_a_child(&root, &fake.host, &mut dice);
        cut += u32::from(root.join("tmp").exists() && count(&root.join("tmp")) > 0);
        check(&root, &fake, round % 3 == 0).await;
    }
    println!("{cut} of {rounds} were killed in the middle of something");
}

/// Lets a child work on the store for a random while, then kills it.
fn kill_a_child(root: &Path, host: &str, dice: &mut Dice) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(STORE, root)
        .env(HOST, host)
        .env(SEED, (1 + dice.roll(u64::from(u32::MAX))).to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !root.join("lock").exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(dice.roll(300)));
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.signal(),
        Some(9),
        "it ended before it was killed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn check(root: &Path, fake: &Fake, empty_it: bool) {
    let store = open(root).await;
    assert_eq!(count(&root.join("tmp")), 0, "tmp is not empty");
    let report = store.verify(VerifyOptions::default()).await.unwrap();
    assert!(report.found_nothing(), "{report:#?}");
    for key in store.list_snapshots().unwrap() {
        let parts = count(&root.join("snapshots").join(&key));
        assert_eq!(parts, 3, "snapshot {key} is not whole");
        store.remove_snapshot(&key).unwrap();
    }
    assert_eq!(count(&root.join("snapshots")), 0);
    for name in NAMES {
        let image = store
            .pull(&fake.reference(name), PullPolicy::IfNotPresent, None)
            .await
            .unwrap();
        let lowers = store.snapshot(&image, "look").unwrap().lowers;
        let found: usize = lowers.iter().map(|lower| count(&lower.join("d"))).sum();
        // An import may have put another image by this name here, with as many files.
        assert_eq!(found, 55, "{name}");
        store.remove_snapshot("look").unwrap();
    }
    if empty_it {
        store.prune(&BTreeSet::new()).await.unwrap();
        for place in ["layers", "blobs/sha256", "references", "snapshots"] {
            assert_eq!(count(&root.join(place)), 0, "{place} is not empty");
        }
    }
}

/// A file system in memory of a size of its own, gone with this.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Self {
        let small = Self(tempfile::tempdir().unwrap());
        small.mount(size, MsFlags::empty());
        small
    }

    fn mount(&self, size: &str, flags: MsFlags) {
        mount(
            Some("tmpfs"),
            self.0.path(),
            Some("tmpfs"),
            flags,
            Some(format!("size={size}").as_str()),
        )
        .unwrap();
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

fn large(name: &str, megabytes: usize) -> TestImage {
    let mut noise = Dice(1 + u64::from(name.as_bytes()[0]));
    let bytes: Vec<u8> = (0..megabytes << 20)
        .map(|_| u8::try_from(noise.roll(256)).unwrap())
        .collect();
    let layer = Archive::new().dir("d").file(&format!("d/{name}"), &bytes);
    image(name, &[(layer.done(), Packed::Plain)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_be_full_and_a_pull_completes_when_there_is_room() {
    if skip_unless_root() {
        return;
    }
    let fake = Fake::serving(&[&large("x", 12)]);
    let small = Small::new("8m");
    let store = open(&small.store()).await;
    let reference = fake.reference("x");
    let pull = || store.pull(&reference, PullPolicy::IfNotPresent, None);
    let error = pull().await.unwrap_err();
    println!("{error}");
    assert!(matches!(error, PullError::NoSpace { .. }), "{error}");
    let text = error.to_string();
    let root = small.store().display().to_string();
    assert!(
        text.starts_with("no space left in the image store") && text.contains(&root),
        "{text}"
    );
    assert!(error.is_transient());
    for place in ["tmp", "layers", "references", "blobs/sha256"] {
        assert_eq!(count(&small.store().join(place)), 0, "{place}");
    }
    let report = store.verify(VerifyOptions::default()).await.unwrap();
    assert!(report.found_nothing(), "{report:?}");
    small.mount("32m", MsFlags::MS_REMOUNT);
    pull().await.unwrap();
    let report = store.verify(VerifyOptions::default()).await.unwrap();
    assert!(report.found_nothing(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_go_when_the_disk_fills_the_longest_unused_first() {
    if skip_unless_root() {
        return;
    }
    let names = ["a", "b", "c", "d"];
    let images: Vec<TestImage> = names.iter().map(|name| large(name, 6)).collect();
    let fake = Fake::serving(&images.iter().collect::<Vec<_>>());
    // Four images of 6 MiB fill three quarters of it.
    let small = Small::new("32m");
    let store = open(&small.store()).await;
    let mut ages = Vec::new();
    for (n, name) in (0u64..).zip(names) {
        let reference = fake.reference(name);
        store
            .pull(&reference, PullPolicy::IfNotPresent, None)
            .await
            .unwrap();
        ages.push((reference, n));
    }
    drop(store);
    // As if they had been used an hour ago, a second apart, "a" first.
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for file in std::fs::read_dir(small.store().join("references")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let of = |(reference, _): &&(Reference, u64)| text.contains(&reference.to_string());
        let (_, n) = ages.iter().find(of).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(hour_ago + Duration::from_secs(*n))
            .unwrap();
    }
    let store = open(&small.store()).await;
    let policy = |high_percent, low_percent, min_age| GcPolicy {
        high_percent,
        low_percent,
        min_age: Duration::from_secs(min_age),
    };
    let collect = |policy| store.collect_garbage(policy);
    assert_eq!(collect(policy(90, 80, 60)).await.unwrap(), None);
    // All of them are too young.
    let report = collect(policy(70, 50, 7200)).await.unwrap().unwrap();
    assert_eq!((report.removed.len(), report.young), (0, 4));
    assert!(report.short_bytes > 0, "{report:?}");

    // The oldest runs in a container: of the others the two oldest go.
    let oldest = store.get(&ages[0].0).await.unwrap().unwrap();
    store.snapshot(&oldest, "c").unwrap();
    let report = collect(policy(70, 45, 60)).await.unwrap().unwrap();
    assert_eq!(report.removed, [ages[1].0.clone(), ages[2].0.clone()]);
    assert_eq!((report.in_use, report.short_bytes), (1, 0), "{report:?}");
    assert!(report.freed_bytes >= 12 << 20 && report.used_percent_after <= 45);
    assert_eq!(collect(policy(70, 45, 60)).await.unwrap(), None);

    // More than can be had: what runs stays, and it is said how much is missing.
    let report = collect(policy(10, 1, 0)).await.unwrap().unwrap();
    assert_eq!(report.removed, [ages[3].0.clone()]);
    assert!(report.short_bytes > 0 && report.in_use == 1, "{report:?}");
    assert_eq!(store.list().await.unwrap().len(), 1);
    // Its container ended just now: it was used until then.
    store.remove_snapshot("c").unwrap();
    let report = collect(policy(10, 1, 60)).await.unwrap().unwrap();
    assert_eq!((report.removed.len(), report.young), (0, 1));
    assert_eq!(count(&small.store().join("tmp")), 0);
    let report = store.verify(VerifyOptions::default()).await.unwrap();
    assert!(report.found_nothing(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_into_a_full_store_says_so_as_well() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::serving(&[&large("x", 12)]);
    let whole = ImageStore::open(config(&folder.path().join("whole")))
        .await
        .unwrap();
    let reference = fake.reference("x");
    whole
        .pull(&reference, PullPolicy::IfNotPresent, None)
        .await
        .unwrap();
    let archive = folder.path().join("x.tar");
    let packed = whole.export(&reference).await.unwrap();
    packed
        .write_archive(&reference, std::fs::File::create(&archive).unwrap())
        .unwrap();
    let small = Small::new("8m");
    let store = open(&small.store()).await;
    let bytes = std::fs::read(&archive).unwrap();
    let sources = [
        ImportSource::Path(archive),
        ImportSource::Stream(Box::new(std::io::Cursor::new(bytes)), "a pipe".into()),
    ];
    for source in sources {
        let options = ImportOptions {
            source,
            name: None,
            image: None,
        };
        let error = store.import_archive(options, None).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("no space left in the image store"),
            "{text}"
        );
        assert_eq!(count(&small.store().join("tmp")), 0);
        assert_eq!(count(&small.store().join("layers")), 0);
    }
}
