//! `cargo xtask bench pull`: images from a real registry on loopback into an empty store, and once more when all is
//! there, beside podman, containerd and skopeo, and beside the floor.
//!
//! The floor is what plain tools need for the same without checking anything: curl, the fastest decompressor there is
//! and tar, two layers at once. Each round has a file system of its own, each pull in it a new folder, and nothing is
//! deleted in between: ext4 makes files many times slower for minutes after many were removed. All mounts are in a
//! mount namespace of this process, and gone with it. The largest round takes 12 GB of the disk.

mod contenders;
mod images;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mezzo_integration::registry::Registry;
use mezzo_integration::{interrupt, paths, process};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use self::contenders::{Contender, Sample};
use self::images::{Compression, Kind};
use super::quiet;
use super::report::{self, Row, millis};
use crate::cargo;
use crate::setup::{self, Need};

/// How long to wait for other work on the machine to end, before each round.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the command.
pub(super) fn run(quick: bool) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "pulls are measured on a file system made for it: that needs root"
    );
    println!("{}", setup::ensure(&[Need::Build, Need::Cluster])?);
    let target = paths::target()?;
    let dir = target.join("bench/pull");
    cargo::run(&["build", "--release", "--package", "mezzo"])?;
    let mezzo = target.join("release/mezzo");
    hide_mounts()?;
    let registry = Registry::start(&dir.join("registry"))?;
    let cases: &[(Kind, Compression, u32)] = if quick {
        &[
            (Kind::Small, Compression::Gzip, 3),
            (Kind::Layers, Compression::Gzip, 2),
        ]
    } else {
        &[
            (Kind::Small, Compression::Gzip, 7),
            (Kind::Layers, Compression::Gzip, 5),
            (Kind::Layers, Compression::Zstd, 5),
            (Kind::Large, Compression::Gzip, 3),
            (Kind::Large, Compression::Zstd, 3),
        ]
    };
    let contenders = contenders::all(&mezzo);
    for missing in contenders::missing() {
        println!("without {missing}: it is not installed");
    }
    let mut rows = Vec::new();
    for (kind, compression, rounds) in cases {
        let Some(image) = images::prepare(&registry, &dir, *kind, *compression)? else {
            println!(
                "without {} in {compression}: no {compression} here",
                kind.name()
            );
            continue;
        };
        let name = format!("{} ({}), {compression}", kind.name(), image.describe());
        println!("\n{name}");
        let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for _ in 0..*rounds {
            let fresh = FreshDisk::make(dir.join("disk.img"))?;
            for contender in &contenders {
                ensure!(!interrupt::requested(), "interrupted");
                let place = fresh.folder.join(
                    contender
                        .name
                        .replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
                );
                fs::create_dir_all(&place)
                    .with_context(|| format!("create {}", place.display()))?;
                settle(&fresh.folder)?;
                if let Some(sample) = contender.pull(&image, &place)? {
                    println!("  {}: {}", contender.name, sample.tell());
                    samples.entry(contender.name).or_default().push(sample);
                }
            }
        }
        rows.extend(compare(&name, &contenders, &samples));
    }
    drop(registry);
    report::write("pull", &rows)
}

/// Every peer beside ours: cold, warm, and peak memory of the cold pull.
fn compare(
    name: &str,
    contenders: &[Contender],
    samples: &BTreeMap<&str, Vec<Sample>>,
) -> Vec<Row> {
    let of = |contender: &str, value: fn(&Sample) -> Option<f64>| -> Vec<f64> {
        let samples = samples.get(contender).map_or(&[][..], Vec::as_slice);
        samples.iter().filter_map(value).collect()
    };
    let cold: fn(&Sample) -> Option<f64> = |sample| Some(millis(&sample.cold));
    let warm: fn(&Sample) -> Option<f64> = |sample| sample.warm.as_ref().map(millis);
    let memory: fn(&Sample) -> Option<f64> = |sample| Some(sample.peak_bytes as f64 / 1e6);
    let mut rows = Vec::new();
    for (what, unit, value) in [
        ("cold", "ms", cold),
        ("warm", "ms", warm),
        ("peak memory", "MB", memory),
    ] {
        let told = |one: &&Contender| one.is_peer() && (unit == "ms" || one.is_whole());
        for contender in contenders.iter().filter(told) {
            rows.push(Row {
                case: format!("{name}: {what}"),
                unit,
                ours: of(contenders::OURS, value),
                peer: contender.name.to_owned(),
                peer_values: of(contender.name, value),
                floor: if what == "cold" {
                    of(contenders::FLOOR, value)
                } else {
                    Vec::new()
                },
            });
        }
    }
    // A peer that has no such value says nothing, unless there is no other.
    let any = |row: &Row| !row.peer_values.is_empty();
    let cases: Vec<String> = rows
        .iter()
        .filter(|row| any(row))
        .map(|row| row.case.clone())
        .collect();
    let mut lonely = Vec::new();
    rows.retain(|row| {
        let keep = any(row) || (!cases.contains(&row.case) && !lonely.contains(&row.case));
        lonely.push(row.case.clone());
        keep && !row.ours.is_empty()
    });
    rows
}

/// From here on no mount is seen outside of this process and its children, and all are gone with them.
fn hide_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make all mounts private")
}

/// Where the disk is mounted, in our own mount namespace: podman and sockets want short paths.
const MOUNT_POINT: &str = "/mnt";

/// An empty ext4 in a file.
struct FreshDisk {
    file: PathBuf,
    folder: PathBuf,
}

impl FreshDisk {
    fn make(file: PathBuf) -> Result<Self> {
        let disk = Self {
            file,
            folder: PathBuf::from(MOUNT_POINT),
        };
        // Holes: it takes what is written to it.
        let file = fs::File::create(&disk.file)
            .with_context(|| format!("create {}", disk.file.display()))?;
        file.set_len(40 << 30).context("size the file of a disk")?;
        process::output(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.file))?;
        process::output(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&disk.file, &disk.folder]),
        )?;
        Ok(disk)
    }
}

impl Drop for FreshDisk {
    fn drop(&mut self) {
        let gone = nix::mount::umount2(&self.folder, nix::mount::MntFlags::MNT_DETACH);
        let removed = fs::remove_file(&self.file);
        if gone.is_err() || removed.is_err() {
            eprintln!("removing {}: {gone:?}, {removed:?}", self.file.display());
        }
    }
}

/// Waits for what was written before, and for other work on the machine, but not forever.
fn settle(folder: &Path) -> Result<()> {
    let opened = fs::File::open(folder).context("open the disk")?;
    nix::unistd::syncfs(&opened).context("sync the disk")?;
    quiet::wait(PATIENCE)
}
