//! The *debian* guest: systemd on a disk, as a real node has it, so that mezzo's own package can be installed,
//! upgraded and removed in one, and power cuts find what they would find in a data centre.
//!
//! ```text
//! apt's sources here ─ mmdebstrap ─ tar ─ mkfs.ext4 -d ─► target/vm/debian-….ext4     once per content
//!                                                            └─ root.qcow2 of each guest: its own changes
//! initramfs: mounts that disk, unpacks the test's files at the first boot, puts mezzo-guest and its unit into /run
//! ```
//!
//! Nothing of ours is on the image, so another `mezzo-guest` needs no other image. Nothing is mounted on this machine
//! to make it, and a builder that is ended half-way leaves only a draft that the next one removes. What the guest's
//! initramfs does is in `initramfs.rs`; `apt.rs` tells where packages come from, `build.rs` makes the image.

mod apt;
mod build;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::bench::{self, Bench};
use super::guest::Guest;
use super::spec::Run;
use crate::process;

/// The guest's disk, in its folder. It holds what differs from the image.
pub(super) const ROOT: &str = "root.qcow2";
/// The image under it: a second name, which stays when the bench makes another one.
const BASE: &str = "base.ext4";
/// Beside the words that every kernel of a guest gets. The second disk is the root; interfaces keep the kernel's names;
/// the console tells of services that fail or take long.
pub(super) const KERNEL_WORDS: &str = "mezzo.root=/dev/vdb net.ifnames=0 systemd.show_status=error";
/// From the guest's first word to the last job of its boot, at full speed; stretched.
const SERVICES_LIMIT: Duration = Duration::from_secs(30);
/// What tells most about a boot that does not end.
const WHY_NOT_UP: &str =
    "systemctl list-jobs; systemctl --failed; journalctl -b -p warning -n 20 --no-pager";

/// The root file system for this kernel; makes it if it is not there, which takes a minute or two.
pub(super) fn ensure(bench: &Bench) -> Result<PathBuf> {
    let codename = apt::codename()?;
    let key = key(&codename, &bench.kernel_package);
    let image = bench.dir.join(format!("debian-{codename}-{key}.ext4"));
    if image.is_file() {
        return Ok(image);
    }
    let _alone = bench::lock(&bench.dir.join("debian.lock"))?;
    if image.is_file() {
        // Whoever had the lock before us made it.
        return Ok(image);
    }
    let draft = build::image(&bench.dir, &codename, &bench.modules)?;
    remove_images(&bench.dir)?;
    fs::rename(&draft, &image).with_context(|| format!("name {}", image.display()))?;
    build::remove_drafts(&bench.dir);
    Ok(image)
}

/// Changes with all that the image is made of but the versions of packages: those are as new as the image.
fn key(codename: &str, kernel_package: &str) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update(part.as_bytes());
        hash.update([0]);
    };
    add(codename);
    add(kernel_package);
    build::recipe().for_each(add);
    let hash = hash.finalize();
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Those of earlier kernels and recipes.
fn remove_images(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("debian-") && name.ends_with(".ext4") {
            let path = entry.path();
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Gives a guest its disk, which lasts as long as its folder.
pub(super) fn make_disk(bench: &Bench, dir: &Path) -> Result<()> {
    let image = ensure(bench)?;
    let base = dir.join(BASE);
    fs::hard_link(&image, &base).with_context(|| format!("link {}", base.display()))?;
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", BASE, ROOT]);
    process::output(create.current_dir(dir)).map(drop)
}

/// Waits until systemd has done all that belongs to the boot. Units that failed are the test's to look at.
pub(super) fn wait_for_services(guest: &Guest) -> Result<()> {
    let wait = Run::new(&["systemctl", "is-system-running", "--wait"]).within(SERVICES_LIMIT);
    let state = guest.run(&wait).map(|ended| ended.stdout);
    match state.as_deref().map(str::trim) {
        Ok("running" | "degraded") => Ok(()),
        Ok(other) => bail!("systemd is {other:?} after the boot: {}", why(guest)),
        Err(error) => bail!("{error:#}: {}", why(guest)),
    }
}

/// What systemd and its units said since the last boot.
pub(super) fn journal(guest: &Guest) -> Result<String> {
    guest.sh("journalctl -b --no-pager")
}

fn why(guest: &Guest) -> String {
    guest
        .sh(WHY_NOT_UP)
        .unwrap_or_else(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_or_release_is_another_image() {
        let one = key("bookworm", "linux-image-6.1.0-9-cloud-amd64_6.1.2-1");
        assert_eq!(one.len(), 16);
        assert_eq!(
            one,
            key("bookworm", "linux-image-6.1.0-9-cloud-amd64_6.1.2-1")
        );
        for (codename, kernel) in [
            ("trixie", "linux-image-6.1.0-9-cloud-amd64_6.1.2-1"),
            ("bookworm", "linux-image-6.1.0-9-cloud-amd64_6.1.3-1"),
        ] {
            assert_ne!(one, key(codename, kernel));
        }
    }
}
