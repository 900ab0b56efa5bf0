//! What may be packed, what may not, and that the same input gives the same image.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::{open, skip_unless_root};
use mezzo_images::{PackError, PackOptions, pack};
use nix::fcntl::AT_FDCWD;

fn options(source: &Path) -> PackOptions {
    PackOptions {
        source: source.to_path_buf(),
        ..PackOptions::default()
    }
}

/// The smallest file that counts as a static program for this machine.
fn static_program() -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    let mut bytes = vec![0u8; 120];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..18].copy_from_slice(&2u16.to_le_bytes());
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
    bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
    bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
    bytes[64..68].copy_from_slice(&1u32.to_le_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_program_becomes_an_image_that_runs_it() {
    if skip_unless_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("sleep");
    std::fs::write(&program, static_program()).unwrap();
    let packed = pack(&options(&program)).unwrap();
    let store = open(&folder.path().join("store")).await;
    let image = store
        .import(&packed, &"local/sleep:1".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(image.config.entrypoint, ["/sleep"]);
    assert_eq!(image.manifest_digest, packed.digest());
    let lowers = store.snapshot(&image, "c").unwrap().lowers;
    let mode = std::fs::metadata(lowers[0].join("sleep"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o755, "it cannot be run");
}

#[test]
fn a_program_that_would_not_run_alone_is_refused_with_the_reason() {
    let error = pack(&options(Path::new("/proc/self/exe"))).unwrap_err();
    assert!(matches!(error, PackError::NotAProgram { .. }), "{error}");
    assert!(
        error.to_string().contains("/ld-linux") || error.to_string().contains("dynamically"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let error = pack(&options(&script)).unwrap_err();
    assert!(matches!(error, PackError::NotAProgram { .. }), "{error}");
    let error = pack(&options(&folder.path().join("nothing"))).unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn times_of_files_do_not_change_the_digest_but_contents_and_options_do() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, content: &str, at: u64| {
        let root = folder.path().join(name);
        std::fs::create_dir_all(root.join("d")).unwrap();
        for file in ["b", "a", "d/c"] {
            std::fs::write(root.join(file), content).unwrap();
            let time = UNIX_EPOCH + Duration::from_secs(at);
            std::fs::File::options()
                .write(true)
                .open(root.join(file))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        symlink("/nowhere", root.join("link")).unwrap();
        root
    };
    let one = pack(&options(&make("one", "x", 1))).unwrap().digest();
    assert_eq!(
        pack(&options(&make("two", "x", 2_000_000_000)))
            .unwrap()
            .digest(),
        one
    );
    let other = make("three", "y", 1);
    assert_ne!(pack(&options(&other)).unwrap().digest(), one);
    let mut later = options(&folder.path().join("one"));
    later.created = UNIX_EPOCH + Duration::from_secs(1);
    assert_ne!(pack(&later).unwrap().digest(), one);
}

#[test]
fn a_symlink_is_packed_as_one_and_never_followed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(folder.path().join("secret"), noise()).unwrap();
    symlink("../secret", root.join("link")).unwrap();
    symlink("..", root.join("all")).unwrap();
    let packed = pack(&options(&root)).unwrap();
    assert!(
        packed.size() < 4096,
        "something behind a link was packed: {} bytes",
        packed.size()
    );
}

/// 1 MiB that no compression makes small: an image that holds it shows it by its size.
fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(1 << 17).flatten().collect()
}

/// Ends the thread beside, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// CVE-2023-0778: what was a file or a directory when it was looked at is a link when it is opened.
#[test]
fn a_link_that_is_swapped_in_during_the_walk_is_never_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    for dir in [&outside, &root, &root.join("tree")] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(outside.join("secret"), noise()).unwrap();
    std::fs::write(root.join("file"), "harmless").unwrap();
    std::fs::write(root.join("tree/secret"), "harmless").unwrap();
    let links = folder.path().join("links");
    std::fs::create_dir(&links).unwrap();
    symlink("../outside", links.join("tree")).unwrap();
    symlink("../outside/secret", links.join("file")).unwrap();
    let done = AtomicBool::new(false);
    // What came of it: images, or that something changed under the packer's hands.
    let mut outcomes = BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let how = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                for name in ["tree", "file"] {
                    let (one, other) = (root.join(name), links.join(name));
                    nix::fcntl::renameat2(AT_FDCWD, &one, AT_FDCWD, &other, how).unwrap();
                }
            }
        });
        let _stopped_at_last = Stop(&done);
        let most = Instant::now() + Duration::from_secs(120);
        let mut n_packed = 0;
        // Files and links must have been seen, or nothing was tried.
        while n_packed < 300 || outcomes.len() < 2 {
            assert!(Instant::now() < most, "{n_packed}: {outcomes:?}");
            let packed = pack(&options(&root)).ok();
            let size = packed.as_ref().map_or(0, |packed| packed.size());
            assert!(size < 64 << 10, "what is outside was packed: {size} bytes");
            outcomes.insert(packed.map(|packed| packed.digest().to_string()));
            n_packed += 1;
        }
    });
}

#[test]
fn options_that_no_image_can_hold_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |change: &dyn Fn(&mut PackOptions)| {
        let mut options = options(folder.path());
        change(&mut options);
        let error = pack(&options).unwrap_err();
        assert!(matches!(error, PackError::BadOption { .. }), "{error}");
    };
    refuse(&|options| options.env = vec![("A=B".into(), "x".into())]);
    refuse(&|options| options.env = vec![(String::new(), "x".into())]);
    refuse(&|options| options.entrypoint = vec![String::new()]);
    refuse(&|options| options.cmd = vec!["a\0b".into()]);
    refuse(&|options| options.working_dir = Some("relative".into()));
    std::fs::write(folder.path().join(".wh.x"), "").unwrap();
    assert!(matches!(
        pack(&options(folder.path())),
        Err(PackError::Refused { .. })
    ));
}
