//! Brings what a machine lacks: Debian packages, `cargo deny`, a registry, Python's gRPC.
//!
//! Packages that only hold libraries and tools are installed with apt. `docker-registry` and `etcd-server` are only
//! unpacked below `target/tools`: installing them would start services. Everything that is not apt's stays in `target`.
//! Without root nothing is changed: the error is the exact command to run.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use mezzo_integration::{etcd, images, paths, process, registry};

const REGISTRY: &str = "docker-registry";
const ETCD: &str = "etcd-server";
const CARGO_DENY_VERSION: &str = "0.20.2";

/// How one sees that a package is there.
#[derive(Debug, Clone, Copy)]
enum Sign {
    /// A program on the PATH.
    Program(&'static str),
    /// A header below /usr/include, here or in the folder of the architecture.
    Header(&'static str),
    /// A folder, of what has nothing else that one could look for.
    Folder(&'static str),
    /// A module that Python can import.
    PythonModule(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct Package {
    name: &'static str,
    sign: Sign,
}

const fn package(name: &'static str, sign: Sign) -> Package {
    Package { name, sign }
}

/// What the servers are built with: libseccomp, and libbpf (compiled in) with its two libraries.
const BUILD: [Package; 6] = [
    package("gcc", Sign::Program("cc")),
    package("make", Sign::Program("make")),
    package("pkg-config", Sign::Program("pkg-config")),
    package("libseccomp-dev", Sign::Header("seccomp.h")),
    package("libelf-dev", Sign::Header("libelf.h")),
    package("zlib1g-dev", Sign::Header("zlib.h")),
];
const PYTHON: [Package; 2] = [
    package("python3", Sign::Program("python3")),
    package("python3-venv", Sign::PythonModule("ensurepip")),
];
/// What tests of containers' networks make their worlds with; mezzo itself executes none of it.
const NETWORK: Package = package("iproute2", Sign::Program("ip"));
const CRUN: Package = package("crun", Sign::Program("crun"));
/// Other tools that unpack images, to compare with.
const COMPARE: [Package; 2] = [
    package("umoci", Sign::Program("umoci")),
    package("skopeo", Sign::Program("skopeo")),
];
/// What looks at `vagrant/`. With them come Ruby and the libraries of libvirt, but no server.
const VAGRANT: [Package; 3] = [
    package("shellcheck", Sign::Program("shellcheck")),
    package("vagrant", Sign::Program("vagrant")),
    package(
        "vagrant-libvirt",
        Sign::Folder("/usr/share/doc/vagrant-libvirt"),
    ),
];
/// An emulator, what goes into its guests, and what prepares their modules and disks. The guests' kernel is only
/// unpacked below `target/vm`.
const VM: [Package; 5] = [
    package("qemu-system-x86", Sign::Program("qemu-system-x86_64")),
    package("busybox-static", Sign::Program("busybox")),
    package("kmod", Sign::Program("kmod")),
    package("e2fsprogs", Sign::Program("mke2fs")),
    package("xfsprogs", Sign::Program("mkfs.xfs")),
];
/// All but the first are on every Debian that has a compiler.
const PACKAGE: [Package; 4] = [
    package("dpkg", Sign::Program("dpkg-deb")),
    package("binutils", Sign::Program("objdump")),
    package("tar", Sign::Program("tar")),
    package("gzip", Sign::Program("gzip")),
];

/// What makes the root file system of a Debian guest, and its disks.
const DEBIAN: [Package; 2] = [
    package("mmdebstrap", Sign::Program("mmdebstrap")),
    package("qemu-utils", Sign::Program("qemu-img")),
];
/// How those who are not root make it.
const WITHOUT_ROOT: [Package; 2] = [
    package("uidmap", Sign::Program("newuidmap")),
    package("fakeroot", Sign::Program("fakeroot")),
];

/// What a command needs beside the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To compile the workspace.
    Build,
    /// Containers: root and a registry.
    Cluster,
    /// To measure against it. Goes without where it cannot be had.
    Crun,
    /// To run the example in Python.
    Python,
    /// `cargo deny`.
    Deny,
    /// To compare unpacked images with. Goes without where it cannot be had.
    Compare,
    /// To check `vagrant/`. Goes without where it cannot be had.
    Vagrant,
    /// Small virtual machines.
    Vm,
    /// To make a Debian package.
    Package,
    /// Those with Debian.
    Debian,
}

/// What a person must do first; ends with exit status 2.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Makes sure of everything in `needs`, and returns a sentence on what was done.
pub(crate) fn ensure(needs: &[Need]) -> Result<String> {
    let root = nix::unistd::geteuid().is_root();
    if needs.contains(&Need::Cluster) && !root {
        let line: Vec<String> = std::env::args().skip(1).collect();
        return Err(Missing(format!(
            "containers need root: run `sudo env \"PATH=$PATH\" cargo xtask {}`",
            line.join(" ")
        ))
        .into());
    }
    let mut wanted: Vec<Package> = Vec::new();
    if needs.contains(&Need::Build) {
        wanted.extend(BUILD);
    }
    if needs.contains(&Need::Cluster) {
        wanted.push(NETWORK);
    }
    if needs.contains(&Need::Python) {
        wanted.extend(PYTHON);
    }
    if needs.contains(&Need::Crun) {
        wanted.push(CRUN);
    }
    if needs.contains(&Need::Compare) {
        wanted.extend(COMPARE);
    }
    if needs.contains(&Need::Vagrant) {
        wanted.extend(VAGRANT);
    }
    if needs.contains(&Need::Vm) {
        wanted.extend(VM);
    }
    if needs.contains(&Need::Package) {
        wanted.extend(PACKAGE);
    }
    if needs.contains(&Need::Debian) {
        wanted.extend(DEBIAN);
        if !root {
            wanted.extend(WITHOUT_ROOT);
        }
    }
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|package| !is_there(package))
        .map(|package| package.name)
        .collect();
    let mut unpacked = Vec::new();
    if needs.contains(&Need::Cluster) && registry::find_binary().is_err() {
        unpacked.push(REGISTRY);
    }
    if needs.contains(&Need::Cluster) && etcd::find_binary().is_err() {
        unpacked.push(ETCD);
    }
    let mut done = Vec::new();
    if !missing.is_empty() || !unpacked.is_empty() {
        install(&missing, &unpacked, root)?;
        done.extend(missing.iter().map(|&name| name.to_owned()));
        let told = |name: &&str| format!("{name} (unpacked below target/tools)");
        done.extend(unpacked.iter().map(told));
    }
    if needs.contains(&Need::Deny) && ensure_deny()? {
        done.push(format!(
            "cargo-deny {CARGO_DENY_VERSION} (below target/tools)"
        ));
    }
    if needs.contains(&Need::Python) && ensure_python()? {
        done.push("grpcio (below target/tools)".to_owned());
    }
    Ok(if done.is_empty() {
        "nothing is missing".to_owned()
    } else {
        format!("installed {}", done.join(", "))
    })
}

/// Where `cargo deny` is, after [`ensure`].
pub(crate) fn deny_program() -> Result<PathBuf> {
    Ok(tools()?.join("bin/cargo-deny"))
}

/// The Python that can import grpc, after [`ensure`].
pub(crate) fn python_program() -> Result<PathBuf> {
    Ok(tools()?.join("python/bin/python"))
}

pub(crate) fn tools() -> Result<PathBuf> {
    Ok(paths::target()?.join("tools"))
}

fn is_there(package: &Package) -> bool {
    match package.sign {
        // Programs of administrators are not on everybody's PATH.
        Sign::Program(name) => {
            paths::on_path(name).is_some() || Path::new("/usr/sbin").join(name).is_file()
        }
        Sign::Header(name) => {
            let include = Path::new("/usr/include");
            let of_architecture = include.join(format!("{}-linux-gnu", std::env::consts::ARCH));
            include.join(name).exists() || of_architecture.join(name).exists()
        }
        Sign::Folder(path) => Path::new(path).is_dir(),
        Sign::PythonModule(name) => {
            process::output(Command::new("python3").args(["-c", &format!("import {name}")])).is_ok()
        }
    }
}

fn install(packages: &[&str], unpacked: &[&str], root: bool) -> Result<()> {
    let line = install_line(packages, unpacked);
    if paths::on_path("apt-get").is_none() {
        return Err(Missing(format!(
            "this machine lacks {} and has no apt-get to install them with; install what your system calls them",
            [packages, unpacked].concat().join(", ")
        ))
        .into());
    }
    if !root {
        return Err(Missing(format!(
            "this machine lacks packages; install them with\n\n    {line}\n"
        ))
        .into());
    }
    let apt = |words: &[&str]| {
        println!("  apt-get {}", words.join(" "));
        let mut command = Command::new("apt-get");
        command
            .args([
                "-q",
                "-o",
                "Dpkg::Use-Pty=0",
                "-o",
                "DPkg::Lock::Timeout=300",
            ])
            .args(words);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_MODE", "l");
        process::output(&mut command)
    };
    apt(&["update"])?;
    if !packages.is_empty() {
        let words = ["install", "-y", "--no-install-recommends"];
        let plain = apt(&[&words, packages].concat());
        if let (Err(error), Some(older)) = (&plain, older_tools(packages)) {
            println!("  {error:#}");
            apt(&[&words, packages, &["--allow-downgrades", &older]].concat())?;
        } else {
            plain?;
        }
    }
    unpacked.iter().try_for_each(|name| unpack(name))
}

/// An emulator cannot stand beside tools of a newer release (from backports, say) that apt cannot get the emulator
/// from: then the tools' package in the installed release.
fn older_tools(packages: &[&str]) -> Option<String> {
    let asked = packages.contains(&"qemu-system-x86") && paths::on_path("qemu-img").is_some();
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    asked.then(|| format!("qemu-utils/{codename}"))
}

fn install_line(packages: &[&str], unpacked: &[&str]) -> String {
    let mut line = String::from("sudo apt-get update");
    let all = [packages, unpacked].concat();
    line.push_str(&format!(
        " && sudo apt-get install -y --no-install-recommends {}",
        all.join(" ")
    ));
    line
}

/// A package's files below a folder of its name.
pub(crate) fn unpack(name: &str) -> Result<()> {
    let dir = tools()?.join(name);
    let download = tools()?.join("download");
    fs::create_dir_all(&download).with_context(|| format!("create {}", download.display()))?;
    println!("  apt-get download {name}");
    process::output(
        Command::new("apt-get")
            .args(["-q", "download", name])
            .current_dir(&download),
    )?;
    let mut packages = fs::read_dir(&download)
        .with_context(|| format!("list {}", download.display()))?
        .flatten();
    let package = packages
        .next()
        .context("apt-get downloaded nothing")?
        .path();
    process::output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&dir),
    )?;
    fs::remove_dir_all(&download).with_context(|| format!("remove {}", download.display()))
}

/// True if it had to be built.
fn ensure_deny() -> Result<bool> {
    let program = deny_program()?;
    let wanted = format!("cargo-deny {CARGO_DENY_VERSION}");
    if process::output(Command::new(&program).arg("--version"))
        .is_ok_and(|version| version.trim() == wanted)
    {
        return Ok(false);
    }
    println!("  cargo install cargo-deny {CARGO_DENY_VERSION} (once; takes a minute or two)");
    // Not optimised: that takes minutes to build, and saves seconds of what it does for us.
    let mut command = images::cargo();
    command.env("CARGO_PROFILE_DEV_DEBUG", "0");
    command.args([
        "install",
        "--quiet",
        "--debug",
        "--locked",
        "--force",
        "--version",
        CARGO_DENY_VERSION,
        "--root",
    ]);
    command.arg(tools()?).arg("cargo-deny");
    process::output(&mut command)?;
    Ok(true)
}

/// True if something had to be installed. The requirements that are installed are kept beside the environment.
fn ensure_python() -> Result<bool> {
    let wanted =
        fs::read_to_string(paths::workspace().join("examples/python-framework/requirements.txt"))
            .context("read the requirements of the example in Python")?;
    let dir = tools()?.join("python");
    let note = dir.join("installed-requirements.txt");
    if fs::read_to_string(&note).is_ok_and(|installed| installed == wanted) {
        return Ok(false);
    }
    println!(
        "  python3 -m venv; pip install {}",
        wanted.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    process::output(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&dir),
    )?;
    let mut pip = Command::new(dir.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ])
    .args(wanted.split_whitespace());
    process::output(&mut pip)?;
    if !dir.join("bin/python").is_file() {
        bail!(
            "python3 -m venv made no {}",
            dir.join("bin/python").display()
        );
    }
    fs::write(&note, wanted).with_context(|| format!("write {}", note.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_exact_command_to_run() {
        let line = install_line(&["make", "crun"], &[REGISTRY]);
        let wanted = "sudo apt-get update && sudo apt-get install -y --no-install-recommends make crun docker-registry";
        assert_eq!(line, wanted);
    }

    #[test]
    fn sees_programs_by_the_path() {
        assert!(is_there(&package("dash", Sign::Program("sh"))));
        assert!(!is_there(&package(
            "nothing",
            Sign::Program("no-such-program")
        )));
        assert!(!is_there(&package(
            "nothing",
            Sign::Header("no-such-header.h")
        )));
    }
}
