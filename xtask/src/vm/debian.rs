//! `cargo xtask vm debian`: a guest as a real node is, Debian with systemd; `--deb` plays the life of an installation
//! in it, by hand and by the script that vagrant runs.

mod package;
mod provision;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use mezzo_integration::vm::{Bench, Guest, GuestSpec};

use super::{Scratch, unified};
use crate::setup::Need;
use crate::steps::Steps;

#[derive(Debug, Args)]
pub(super) struct DebianArgs {
    /// Install this package of mezzo's, run 50 tasks with it, restart, upgrade and remove it; then the same machine as
    /// vagrant provisions it
    #[arg(long, value_name = "PATH")]
    pub(super) deb: Option<PathBuf>,
    /// What it is upgraded to [default: the same package once more]
    #[arg(long, value_name = "PATH", requires = "deb")]
    pub(super) upgrade: Option<PathBuf>,
}

impl DebianArgs {
    /// On top of what all guests need.
    pub(super) fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::Debian];
        if self.deb.is_some() {
            // For the registry.
            needs.push(Need::Cluster);
        }
        needs
    }
}

/// Runs the command.
pub(super) fn run(bench: &Bench, steps: &mut Steps, args: &DebianArgs) -> Result<()> {
    steps.run("make Debian's root file system", || {
        let image = bench.prepare_debian()?;
        let about = fs::metadata(&image).with_context(|| format!("look at {}", image.display()))?;
        Ok(format!("{} MB on disk", about.blocks() / 2048))
    })?;
    let scratch = Scratch::create()?;
    let mut spec = GuestSpec::debian("debian");
    if let Some(deb) = &args.deb {
        steps.run("build what it deploys", || {
            let upgrade = args.upgrade.as_ref().unwrap_or(deb);
            package::fill(&mut spec, &scratch, deb, upgrade)?;
            provision::fill(&mut spec, &scratch)?;
            Ok(String::new())
        })?;
    }
    let mut guest = None;
    steps.run("boot it", || {
        let guest = guest.insert(Guest::boot(bench, spec)?);
        let told = guest.sh("systemd-analyze time")?;
        Ok(told.lines().next().unwrap_or_default().to_owned())
    })?;
    let mut guest = guest.context("the guest was not booted")?;
    let mut done = steps.run("it is up, on cgroup v2", || look(&guest));
    if args.deb.is_some() && done.is_ok() {
        done = package::play(steps, &guest).and_then(|()| provision::play(steps, &guest));
    }
    if done.is_err() {
        println!("{}", guest.sh("journalctl -b --no-pager -n 20")?);
        guest.keep_console();
    }
    done?;
    steps.run("power off", || guest.power_off().map(|()| String::new()))
}

fn look(guest: &Guest) -> Result<String> {
    let state =
        guest.sh("systemctl is-system-running || systemctl --failed --plain --no-legend")?;
    ensure!(state.trim() == "running", "systemd is {}", state.trim());
    let controllers = unified(guest)?;
    println!("{}", guest.sh("systemd-cgls --no-pager; free -m; df -h /")?);
    Ok(format!("{}, {controllers}", state.trim()))
}
