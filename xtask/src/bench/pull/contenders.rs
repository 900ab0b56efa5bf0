//! Who pulls: mezzo, the tools people use today, and the floor. Each gets an empty folder and tells what it took.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mezzo_integration::{paths, process};
use wait4::Wait4 as _;

use super::images::{Compression, Image};
use crate::bench::containerd::Containerd;

pub(super) const OURS: &str = "mezzo image pull";
pub(super) const FLOOR: &str = "curl | decompress | tar, 2 layers at once";

/// What one pull took.
#[derive(Debug)]
pub(super) struct Sample {
    /// Into an empty store.
    pub(super) cold: Duration,
    /// With a sync of the file system after it.
    pub(super) synced: Duration,
    /// Once more, when all is there.
    pub(super) warm: Option<Duration>,
    /// Of the largest process that was started for it; of the server if there is one.
    pub(super) peak_bytes: u64,
}

impl Sample {
    pub(super) fn tell(&self) -> String {
        let warm = self
            .warm
            .map_or(String::new(), |warm| format!(", warm {warm:.3?}"));
        let (cold, synced) = (self.cold, self.synced);
        format!(
            "{cold:.2?}, synced {synced:.2?}{warm}, {:.0} MB",
            self.peak_bytes as f64 / 1e6
        )
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    how: How,
}

#[derive(Debug)]
enum How {
    Mezzo(PathBuf),
    Podman,
    Containerd,
    Skopeo,
    Floor,
    /// Parts of the floor.
    Download,
    Decompress,
    Unpack,
}

/// What each needs.
const NEEDS: [(&str, &[&str]); 4] = [
    ("podman pull", &["podman"]),
    ("ctr images pull", &["containerd", "ctr"]),
    ("skopeo copy to an OCI layout", &["skopeo"]),
    (FLOOR, &["curl", "igzip"]),
];

fn is_there(name: &str) -> bool {
    let needs = NEEDS.iter().find(|(other, _)| *other == name);
    needs.is_none_or(|(_, programs)| {
        programs
            .iter()
            .all(|program| paths::on_path(program).is_some())
    })
}

/// Those that are missing.
pub(super) fn missing() -> impl Iterator<Item = &'static str> {
    NEEDS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !is_there(name))
}

/// Those that are here, ours first.
pub(super) fn all(mezzo: &Path) -> Vec<Contender> {
    let mut all = vec![
        (OURS, How::Mezzo(mezzo.to_path_buf())),
        (FLOOR, How::Floor),
        ("podman pull", How::Podman),
        ("ctr images pull", How::Containerd),
        ("skopeo copy to an OCI layout", How::Skopeo),
    ];
    if is_there(FLOOR) {
        all.extend([
            ("curl alone", How::Download),
            ("the decompressor alone", How::Decompress),
            ("tar alone, 2 layers at once", How::Unpack),
        ]);
    }
    all.retain(|(name, _)| is_there(name));
    all.into_iter()
        .map(|(name, how)| Contender { name, how })
        .collect()
}

impl Contender {
    /// All but ours.
    pub(super) fn is_peer(&self) -> bool {
        !matches!(self.how, How::Mezzo(_))
    }

    /// Does the whole of it, so that its memory can be compared with ours.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.how, How::Podman | How::Containerd | How::Skopeo)
    }

    /// Pulls into `place`; nothing where the tool knows no such image.
    pub(super) fn pull(&self, image: &Image, place: &Path) -> Result<Option<Sample>> {
        let name = &image.reference;
        let once = |command: &mut Command| measure(command, place);
        let twice = |command: &dyn Fn(bool) -> Command| -> Result<Sample> {
            let mut sample = measure(&mut command(false), place)?;
            sample.warm = Some(warm(|| command(true), place)?);
            Ok(sample)
        };
        let sample = match &self.how {
            How::Mezzo(program) => twice(&|again| {
                let mut command = Command::new(program);
                command
                    .args(["image", "pull", "--no-sync", name, "--store"])
                    .arg(place.join("store"));
                command.args(again.then_some("--always"));
                command
            })?,
            How::Podman => twice(&|_| {
                let mut command = Command::new("podman");
                for (flag, folder) in [
                    ("--root", "root"),
                    ("--runroot", "run"),
                    ("--tmpdir", "tmp"),
                ] {
                    command.arg(flag).arg(place.join(folder));
                }
                command.args([
                    "--storage-driver",
                    "overlay",
                    "--cgroup-manager",
                    "cgroupfs",
                ]);
                command.args([
                    "--events-backend",
                    "file",
                    "pull",
                    "-q",
                    "--tls-verify=false",
                    name,
                ]);
                command
            })?,
            How::Containerd => containerd(name, place)?,
            How::Skopeo => {
                let mut command = Command::new("skopeo");
                command
                    .args(["copy", "-q", "--src-tls-verify=false"])
                    .arg(format!("docker://{name}"));
                once(command.arg(format!("oci:{}:1", place.join("layout").display())))?
            }
            How::Floor => once(&mut shell(
                image,
                place,
                "tr ' ' '\\n' < urls | xargs -P 2 -I{} sh -c 'd=$(mktemp -d -p .) && curl -fsS \"{}\" | DECOMPRESS | tar -x -C $d'",
            )?)?,
            How::Download => once(&mut shell(
                image,
                place,
                "for url in $(cat urls); do curl -fsS -o /dev/null $url; done",
            )?)?,
            How::Decompress => {
                // Prepared outside of the measured time.
                process::output(&mut shell(
                    image,
                    place,
                    "for url in $(cat urls); do curl -fsS -O $url; done",
                )?)?;
                once(&mut shell(
                    image,
                    place,
                    "for blob in sha256:*; do DECOMPRESS < $blob > /dev/null; done",
                )?)?
            }
            How::Unpack => {
                let prepare = "for url in $(cat urls); do curl -fsS $url | DECOMPRESS > $(basename $url | tr : -).tar; done";
                process::output(&mut shell(image, place, prepare)?)?;
                once(&mut shell(
                    image,
                    place,
                    "ls *.tar | xargs -P 2 -I{} sh -c 'd=$(mktemp -d -p .) && tar -x -C $d -f {}'",
                )?)?
            }
        };
        Ok(Some(sample))
    }
}

/// A script in `place`, where `urls` has the layers' addresses. DECOMPRESS is the fastest decompressor that is known.
fn shell(image: &Image, place: &Path, script: &str) -> Result<Command> {
    fs::write(place.join("urls"), image.urls.join(" "))
        .context("write the addresses of the layers")?;
    let decompress = match image.compression {
        Compression::Gzip => "igzip -dc",
        Compression::Zstd => "zstd -dcq",
    };
    let mut command = Command::new("sh");
    command
        .arg("-ec")
        .arg(script.replace("DECOMPRESS", decompress))
        .current_dir(place);
    Ok(command)
}

/// Runs a command to its end.
fn measure(command: &mut Command, place: &Path) -> Result<Sample> {
    let log = fs::File::create(place.join("log")).context("create a log")?;
    // A child begins with the peak of the process that it was forked from: let ours be what we have now.
    fs::write("/proc/self/clear_refs", "5").context("reset our peak memory")?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let start = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let ended = child
        .wait4()
        .with_context(|| format!("wait for {command:?}"))?;
    let cold = start.elapsed();
    if !ended.status.success() {
        bail!(
            "{command:?} failed:\n{}",
            process::tail(&place.join("log"), 10)
        );
    }
    let opened = fs::File::open(place).context("open the folder")?;
    nix::unistd::syncfs(&opened).context("sync the disk")?;
    Ok(Sample {
        cold,
        synced: start.elapsed(),
        warm: None,
        peak_bytes: ended.rusage.maxrss,
    })
}

/// What it takes when all is there: the median of a few, for the disk may still be busy with what came before.
fn warm(command: impl Fn() -> Command, place: &Path) -> Result<Duration> {
    let mut times = (0..5)
        .map(|_| Ok(measure(&mut command(), place)?.cold))
        .collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[times.len() / 2])
}

/// A server of our own, all of it in `place`; its memory counts, its start does not.
fn containerd(name: &str, place: &Path) -> Result<Sample> {
    let server = Containerd::start(place)?;
    let pull = || {
        let mut command = server.ctr();
        command.args([
            "images",
            "pull",
            "--plain-http",
            "--snapshotter",
            "overlayfs",
            name,
        ]);
        command
    };
    let mut sample = measure(&mut pull(), place)?;
    sample.peak_bytes = peak_of(server.pid())?;
    sample.warm = Some(warm(pull, place)?);
    server.stop()?;
    Ok(sample)
}

/// The most memory that a running process ever had.
fn peak_of(pid: i32) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("read a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("a process's status tells no peak memory")? * 1024)
}
