//! Project quotas on a file system of the test's own: ext4 on a loop device, gone with the test. Where this machine
//! cannot make or mount one, the test says so and checks nothing; a kernel needs `CONFIG_QFMT_V2` (Debian's: the module
//! `quota_v2`).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mezzo_runtime::disk::{Bounds, Projects, walk};
use nix::mount::{MntFlags, umount2};

/// A mounted file system in a file.
struct Disk {
    /// Removed after the mount is undone.
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    fn make() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut disk = Self {
            dir,
            mounted: false,
        };
        let (image, at) = (disk.dir.path().join("image"), disk.path());
        fs::create_dir(&at).map_err(|error| error.to_string())?;
        fs::File::create(&image)
            .and_then(|file| file.set_len(64 << 20))
            .map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-O", "quota,project"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop,prjquota"])
            .arg(&image)
            .arg(&at))?;
        disk.mounted = true;
        Ok(disk)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // The loop device goes with the mount.
            umount2(&self.path(), MntFlags::MNT_DETACH).expect("what was mounted can be unmounted");
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(said.lines().next().unwrap_or_default().to_owned())
}

/// A process that has no power over quotas, as a container's has not: writes until it is refused.
fn fill(file: &Path) -> u64 {
    use std::os::unix::process::CommandExt as _;
    let mut child = Command::new("dd");
    child
        .arg("if=/dev/zero")
        .arg(format!("of={}", file.display()))
        .args(["bs=64k", "count=400"])
        .uid(65534)
        .gid(65534);
    let _ = child.output().expect("dd is on every machine");
    fs::metadata(file).map_or(0, |found| found.len())
}

#[test]
fn a_project_is_counted_and_bounded_by_the_file_system() {
    let disk = match Disk::make() {
        Ok(disk) => disk,
        Err(reason) => {
            println!(
                "skipped: a_project_is_counted_and_bounded_by_the_file_system: no ext4 with project quotas here: {reason}"
            );
            return;
        }
    };
    let projects = Projects::open(&disk.path(), (5000, 5010), 3).unwrap();
    let tree = |name: &str| {
        let (upper, sandbox) = (
            disk.path().join(name).join("upper"),
            disk.path().join(name).join("sandbox"),
        );
        for dir in [&upper, &sandbox] {
            fs::create_dir_all(dir).unwrap();
            std::os::unix::fs::chown(dir, Some(65534), Some(65534)).unwrap();
        }
        (upper, sandbox)
    };
    let (upper, sandbox) = tree("one");
    let one = projects.limit(&[&upper, &sandbox], 4 << 20).unwrap();
    assert_eq!(projects.project(&sandbox), Some(one));
    // Both directories together have one bound.
    let written = fill(&upper.join("file"));
    assert!((3 << 20..=4 << 20).contains(&written), "{written}");
    assert!(fill(&sandbox.join("file")) < 1 << 20);
    let used = projects.used(one).unwrap();
    assert!((3 << 20..=(4 << 20)).contains(&used), "{used}");
    // A walk agrees.
    let walked: u64 = [&upper, &sandbox]
        .map(|dir| {
            let found = walk(dir, Bounds::default(), &mut |_| true);
            found.unwrap().bytes
        })
        .iter()
        .sum();
    assert_eq!(walked, used);
    // A neighbour has a project and a bound of its own.
    let (upper_2, sandbox_2) = tree("two");
    let two = projects.limit(&[&upper_2, &sandbox_2], 2 << 20).unwrap();
    assert_ne!(one, two);
    let written = fill(&upper_2.join("file"));
    assert!((1 << 20..=2 << 20).contains(&written), "{written}");
    // What is deleted but still open counts, which no walk sees.
    let held = fs::File::open(upper.join("file")).unwrap();
    fs::remove_file(upper.join("file")).unwrap();
    assert!(projects.used(one).unwrap() >= 3 << 20);
    drop(held);
    // Another look, as after a restart, knows the tree's project; a higher bound is taken.
    let again = Projects::open(&disk.path(), (5000, 5010), 3).unwrap();
    assert_eq!(again.project(&upper), Some(one));
    assert_eq!(again.limit(&[&upper, &sandbox], 8 << 20).unwrap(), one);
    assert!(fill(&upper.join("file")) > 4 << 20);
    // An id whose files are gone can be taken again.
    fs::remove_dir_all(disk.path().join("two")).unwrap();
    again.forget(two).unwrap();
    let mut taken = Vec::new();
    for n in 0..10 {
        let dir = disk.path().join(format!("more-{n}"));
        fs::create_dir(&dir).unwrap();
        taken.push(again.limit(&[&dir], 1 << 20).unwrap());
    }
    assert!(taken.contains(&two), "{taken:?}");
    let dir = disk.path().join("beyond");
    fs::create_dir(&dir).unwrap();
    let error = again.limit(&[&dir], 1 << 20).unwrap_err();
    assert!(error.to_string().contains("5000 to 5010"), "{error}");
    let mut log = fs::File::create(disk.path().join("free")).unwrap();
    log.write_all(b"what has no project has no bound").unwrap();
}
