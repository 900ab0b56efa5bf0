//! What all guests of a checkout share, made once and kept below `target/vm`: the kernel, the initramfs, the root file
//! system of Debian guests, and what the probe guest showed. A lock on the folder lets many test programs ask at once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::accel::{self, Accel, Speed};
use super::guest::Guest;
use super::spec::{GuestSpec, Run};
use super::{debian, initramfs, package};
use crate::{paths, process};

/// A guest that answers later than this under KVM never will.
const KVM_DEADLINE: Duration = Duration::from_secs(12);
/// Software emulation boots in seconds; other work on the machine may make it tens.
const EMULATION_DEADLINE: Duration = Duration::from_secs(120);
/// Starts 60 processes, which is what tests do most.
const LOOP: &str =
    "i=0; while [ $i -lt 60 ]; do /bin/busybox true; /bin/busybox true x; i=$((i+1)); done";

/// Ready to boot guests.
#[derive(Debug, Clone)]
pub struct Bench {
    pub(super) dir: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) kernel_package: String,
    pub(super) modules: PathBuf,
    pub(super) release: String,
    pub(super) initramfs: PathBuf,
    pub(super) speed: Speed,
}

impl Bench {
    /// A program that the micro guest lacks, of one of Debian's packages: `("apparmor", "sbin/apparmor_parser")`.
    pub fn program(&self, package: &str, path: &str) -> Result<PathBuf> {
        let dir = self.dir.join("programs");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        package::program(&dir, package, path)
    }

    /// Makes what is not there yet. `guest_program` is the built `mezzo-guest`.
    pub fn prepare(guest_program: &Path) -> Result<Self> {
        let dir = paths::target()?.join("vm");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let _alone = lock(&dir.join("lock"))?;
        remove_stale_runs(&dir.join("run"));
        let kernels = dir.join("kernel");
        fs::create_dir_all(&kernels).with_context(|| format!("create {}", kernels.display()))?;
        let kernel = package::ensure(&kernels)?;
        let initramfs = initramfs::ensure(&dir, &kernel, guest_program)?;
        let mut bench = Self {
            dir,
            kernel: kernel.image,
            kernel_package: kernel.package,
            modules: kernel.modules,
            release: kernel.release,
            initramfs,
            speed: Speed {
                accel: Accel::Kvm,
                boot: KVM_DEADLINE,
                slowness: 1.0,
            },
        };
        let file = bench.dir.join("speed.json");
        let key = accel::key()?;
        if let Some(speed) = accel::remembered(&file, &key) {
            bench.speed = speed;
        } else {
            bench.speed = bench.probe()?;
            accel::remember(&file, &key, &bench.speed)?;
        }
        Ok(bench)
    }

    /// What the probe guest showed.
    pub fn speed(&self) -> &Speed {
        &self.speed
    }

    /// The kernel of the guests, as `uname -r` says it.
    pub fn kernel_release(&self) -> &str {
        &self.release
    }

    /// Makes the root file system of Debian guests if it is not there yet, and returns where it is. The first such
    /// guest does it else.
    pub fn prepare_debian(&self) -> Result<PathBuf> {
        debian::ensure(self)
    }

    fn probe(&mut self) -> Result<Speed> {
        if File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
        {
            match self.try_accel(Accel::Kvm, KVM_DEADLINE) {
                Ok(speed) => return Ok(speed),
                Err(error) if crate::interrupt::requested() => return Err(error),
                Err(error) => println!("no guest boots under KVM, emulation it is: {error:#}"),
            }
        }
        self.try_accel(Accel::Emulation, EMULATION_DEADLINE)
    }

    /// Boots a guest and lets it and this machine do the same.
    fn try_accel(&mut self, accel: Accel, deadline: Duration) -> Result<Speed> {
        self.speed = Speed {
            accel,
            boot: deadline,
            slowness: 1.0,
        };
        let start = Instant::now();
        let mut guest = Guest::boot_within(self, GuestSpec::new("probe"), deadline)?;
        let boot = start.elapsed();
        let start = Instant::now();
        let run = Run::new(&["/bin/busybox", "sh", "-c", LOOP]).within(deadline);
        guest.run(&run)?.ok()?;
        let inside = start.elapsed();
        guest.power_off()?;
        drop(guest);
        let start = Instant::now();
        process::output(Command::new("busybox").args(["sh", "-c", LOOP]))?;
        let outside = start.elapsed();
        Ok(Speed {
            accel,
            boot,
            slowness: inside.as_secs_f64() / outside.as_secs_f64().max(0.001),
        })
    }
}

/// Waits until nobody else has it.
pub(super) fn lock(path: &Path) -> Result<Flock<File>> {
    let context = || format!("lock {}", path.display());
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(context)?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(context)
}

/// Of test programs that were killed. The first part of a folder's name is its owner's process id.
fn remove_stale_runs(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            let _removed_by_another = fs::remove_dir_all(entry.path());
        }
    }
}
