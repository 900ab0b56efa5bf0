//! `cargo xtask dist`: a Debian package and an archive, both of one tree below `target/dist`.
//!
//! ```text
//!   build mezzo ─► lay out the tree (tree) ─► look at the units ─► .deb (deb) ─► .tar.gz ─► SHA256SUMS
//! ```
//!
//! What is not built comes from `packaging/`. The same commit gives the same files, as far as the compiler does: times
//! are the last commit's (or `SOURCE_DATE_EPOCH`), owners are root, names are sorted.

mod deb;
mod libraries;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use mezzo_integration::{paths, process};

use crate::setup::{self, Need};
use crate::steps::Steps;
use crate::{Profile, cargo};

/// The version of the whole workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The package's revision of that version.
const REVISION: &str = "1";

#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// How mezzo is built. `dev` is for trying the package: it builds in a third of the time and is larger and slower
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// What all parts of a build agree on.
#[derive(Debug)]
struct Build {
    profile: Profile,
    /// Debian's name of the processor's architecture, such as `amd64`.
    architecture: String,
    /// Seconds since 1970 that every file in the package is dated with.
    epoch: u64,
    /// Where the files that go out are written to.
    out: PathBuf,
    /// The tree; removed at the end.
    stage: PathBuf,
}

impl Build {
    fn package_version() -> String {
        format!("{VERSION}-{REVISION}")
    }

    fn deb(&self) -> PathBuf {
        let (version, architecture) = (Self::package_version(), &self.architecture);
        self.out.join(format!("mezzo_{version}_{architecture}.deb"))
    }

    /// The archive's name without its ending, which is also the folder in it.
    fn archive_name() -> String {
        format!("mezzo-{VERSION}-{}-linux", std::env::consts::ARCH)
    }

    fn archive(&self) -> PathBuf {
        self.out.join(format!("{}.tar.gz", Self::archive_name()))
    }
}

/// Runs the command.
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    let mut steps = Steps::default();
    let made = make(&mut steps, args.profile);
    steps.print();
    let build = made?;
    for path in [build.deb(), build.archive(), build.out.join("SHA256SUMS")] {
        println!("{:>8}  {}", size(&path)?, path.display());
    }
    Ok(())
}

/// Makes everything, and tells where the package is.
pub(crate) fn deb(steps: &mut Steps, profile: Profile) -> Result<PathBuf> {
    make(steps, profile).map(|build| build.deb())
}

fn make(steps: &mut Steps, profile: Profile) -> Result<Build> {
    steps.run("look for what a package needs", || {
        setup::ensure(&[Need::Build, Need::Package])
    })?;
    let target = paths::target()?;
    let out = target.join("dist");
    let build = Build {
        profile,
        architecture: process::output(Command::new("dpkg").arg("--print-architecture"))?
            .trim()
            .to_owned(),
        epoch: epoch()?,
        stage: out.join("stage"),
        out,
    };
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    steps.run(&format!("build mezzo ({folder})"), || {
        match profile {
            Profile::Dev => cargo::build_program("mezzo")?,
            Profile::Release => {
                cargo::run(&["build", "--locked", "--package", "mezzo", "--release"])?;
            }
        }
        Ok(String::new())
    })?;
    let program = target.join(folder).join("mezzo");
    fresh_folder(&build.stage)?;
    let made = package(&build, &program, steps);
    let removed = fs::remove_dir_all(&build.stage)
        .with_context(|| format!("remove {}", build.stage.display()));
    made.and(removed).map(|()| build)
}

fn package(build: &Build, program: &Path, steps: &mut Steps) -> Result<()> {
    let root = build.stage.join(Build::archive_name());
    steps.run("lay out the tree", || tree::lay_out(build, program, &root))?;
    steps.run("look at the units", || verify_units(&root))?;
    steps.run("make the package", || {
        deb::build(build, &root)?;
        size(&build.deb())
    })?;
    steps.run("make the archive", || {
        archive(build, &root)?;
        size(&build.archive())
    })?;
    steps.run("write the checksums", || {
        let files = [build.deb(), build.archive()];
        let names = files.iter().filter_map(|file| file.file_name());
        let mut command = Command::new("sha256sum");
        let sums = process::output(command.args(names).current_dir(&build.out))?;
        write(&build.out.join("SHA256SUMS"), &sums)?;
        Ok(String::new())
    })
}

/// What systemd itself says about the units, with the tree as the root of its machine.
fn verify_units(root: &Path) -> Result<String> {
    let mut command = Command::new("systemd-analyze");
    let version = process::output(command.arg("--version"))
        .ok()
        .and_then(|text| systemd_version(&text));
    if version.is_none_or(|version| version < 250) {
        return Ok("not looked at: needs systemd-analyze 250 or newer".to_owned());
    }
    let units = tree::units()?;
    let mut command = Command::new("systemd-analyze");
    command
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(format!("--root={}", root.display()))
        .args(&units);
    let done = command.output().context("run systemd-analyze")?;
    // It complains about unknown keys and ends with 0.
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if !done.status.success() || !said.is_empty() {
        bail!("systemd-analyze verify: {said}");
    }
    Ok(format!("systemd takes all {}", units.len()))
}

/// Of "systemd 252 (252.38-1~deb12u1)". Pure.
fn systemd_version(told: &str) -> Option<u32> {
    told.split_whitespace().nth(1)?.parse().ok()
}

fn archive(build: &Build, root: &Path) -> Result<()> {
    let packaging = tree::packaging();
    tree::install(&packaging.join("INSTALL"), &root.join("INSTALL"), 0o644)?;
    tree::install(
        &paths::workspace().join("LICENSE"),
        &root.join("LICENSE"),
        0o644,
    )?;
    let tar = build.stage.join("archive.tar");
    let mut command = Command::new("tar");
    command
        .args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0"])
        .arg(format!("--mtime=@{}", build.epoch))
        .arg(format!("--file={}", tar.display()))
        .arg(format!("--directory={}", build.stage.display()))
        .arg(Build::archive_name());
    process::output(&mut command)?;
    tree::gzip(&tar)?;
    let packed = build.stage.join("archive.tar.gz");
    fs::rename(&packed, build.archive())
        .with_context(|| format!("move {} to {}", packed.display(), build.archive().display()))
}

/// `SOURCE_DATE_EPOCH`, or the time of the last commit, or (without git) now.
fn epoch() -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH `{text}` is not a number of seconds"));
    }
    let mut command = Command::new("git");
    command.args(["log", "-1", "--format=%ct"]);
    let told = process::output(command.current_dir(paths::workspace()));
    if let Some(epoch) = told.ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(epoch);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs())
}

fn fresh_folder(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn size(path: &Path) -> Result<String> {
    let found = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(match found.len() {
        bytes @ 0..100_000 => format!("{bytes} B"),
        bytes => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_systemd() {
        assert_eq!(
            systemd_version("systemd 252 (252.38-1~deb12u1)\n+PAM"),
            Some(252)
        );
        assert_eq!(systemd_version("something else"), None);
    }
}
