//! The guests' kernel, and programs that only guests need: Debian's, downloaded with apt and unpacked below `target/vm`,
//! never installed on the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// The package that always depends on the newest kernel for virtual machines.
const META: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Name and version of the package.
    pub(super) package: String,
    /// What `uname -r` says in the guest.
    pub(super) release: String,
    /// The kernel.
    pub(super) image: PathBuf,
    /// The folder that `modules.dep` is in.
    pub(super) modules: PathBuf,
}

/// The newest kernel that apt knows, or one that was unpacked earlier where apt knows none (any longer).
pub(super) fn ensure(dir: &Path) -> Result<Kernel> {
    let known = process::output(Command::new("apt-cache").args(["show", META]));
    let Some((name, version)) = known.ok().as_deref().and_then(newest) else {
        return unpacked_earlier(dir).with_context(|| {
            format!("apt knows no {META} (Debian has it; `apt-get update` may be needed)")
        });
    };
    let home = dir.join(format!("{name}_{}", version.replace(':', "_")));
    if !home.is_dir() {
        download_kernel(&name, &version, &home)?;
    }
    look(&home)
}

/// Name and version of the package that the first stanza depends on: `Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-1)`.
fn newest(stanzas: &str) -> Option<(String, String)> {
    let depends = stanzas
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?;
    let first = depends.split(',').next()?;
    let (name, version) = first.split_once(" (= ")?;
    Some((name.to_owned(), version.strip_suffix(')')?.to_owned()))
}

fn unpacked_earlier(dir: &Path) -> Result<Kernel> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut homes: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    homes.sort();
    let found = homes.iter().rev().find_map(|home| look(home).ok());
    found.with_context(|| format!("no kernel in {}", dir.display()))
}

/// A program of a package, which is downloaded where it is not there yet.
pub(super) fn program(dir: &Path, package: &str, path: &str) -> Result<PathBuf> {
    let home = dir.join(package);
    if !home.is_dir() {
        download(package, &home, |_| Ok(()))?;
    }
    let program = home.join(path);
    if program.is_file() {
        return Ok(program);
    }
    bail!("{package} has no {path}")
}

fn download_kernel(name: &str, version: &str, home: &Path) -> Result<()> {
    download(&format!("{name}={version}"), home, |unpacked| {
        let kernel = look(unpacked)?;
        let mut depmod = Command::new(sbin("depmod"));
        process::output(depmod.arg("-b").arg(unpacked).arg(&kernel.release))?;
        Ok(())
    })
}

/// Downloads and unpacks beside `home`, and gives it its name when it is complete.
fn download(wanted: &str, home: &Path, complete: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let draft = home.with_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).with_context(|| format!("remove {}", draft.display()))?;
    }
    let unpacked = draft.join("tree");
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
    let mut fetch = Command::new("apt-get");
    fetch.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
    fetch.arg(wanted).current_dir(&draft);
    process::output(&mut fetch)?;
    let packages = fs::read_dir(&draft).with_context(|| format!("list {}", draft.display()))?;
    let mut packages = packages.flatten().map(|entry| entry.path());
    let package = packages.find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let package = package.with_context(|| format!("apt-get downloaded no {wanted}"))?;
    let mut unpack = Command::new("dpkg-deb");
    process::output(unpack.arg("--extract").arg(&package).arg(&unpacked))?;
    complete(&unpacked)?;
    fs::rename(&unpacked, home).with_context(|| format!("name {}", home.display()))?;
    fs::remove_dir_all(&draft).with_context(|| format!("remove {}", draft.display()))
}

fn look(home: &Path) -> Result<Kernel> {
    let boot = home.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("list {}", boot.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok(Kernel {
                package: home
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                release: release.to_owned(),
                image: entry.path(),
                modules: home.join("lib/modules").join(release),
            });
        }
    }
    bail!("no kernel in {}", boot.display())
}

/// Programs of administrators are not on everybody's PATH.
pub(super) fn sbin(name: &str) -> PathBuf {
    crate::paths::on_path(name).unwrap_or_else(|| Path::new("/usr/sbin").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_newest_kernel_from_apt() {
        let told = "Package: linux-image-cloud-amd64\nVersion: 6.1.2-1\n\
            Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-1)\n\n\
            Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-1-cloud-amd64 (= 6.1.1-1)\n";
        let wanted = ("linux-image-6.1.0-9-cloud-amd64", "6.1.2-1");
        let (name, version) = newest(told).expect("a package");
        assert_eq!((name.as_str(), version.as_str()), wanted);
        assert_eq!(newest("N: nothing\n"), None);
    }
}
