//! `cargo xtask demo`: distributed sleep on this machine, every part real, every step checked and timed.
//!
//! It builds, starts a registry and a cluster below one folder, plays the scenes of `demo/scenes.rs`, ends everything
//! and compares the machine with what it was. Whatever fails, or Ctrl-C, ends in the same cleaning up.

mod scenes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mezzo_integration::cluster::{Cluster, Options};
use mezzo_integration::leftovers::{self, Scope, Snapshot};
use mezzo_integration::registry::Registry;
use mezzo_integration::{images, interrupt, paths, wait};

use crate::setup::{self, Need};
use crate::steps::Steps;
use crate::{DemoArgs, Profile, cargo, crun, suite};

/// Lies in a folder that a demo made, and may therefore remove.
const OWNER_FILE: &str = "made-by-mezzo-demo";

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("look for what is missing", || {
        setup::ensure(&[Need::Build, Need::Cluster, Need::Crun])
    })?;
    let target = paths::target()?;
    let dir = match &args.state_dir {
        Some(dir) => {
            std::path::absolute(dir).with_context(|| format!("the path {}", dir.display()))?
        }
        None => target.join("demo"),
    };
    take_folder(&dir)?;
    let before = Snapshot::take();
    let done = play(args, &mut steps, &target, &dir);
    interrupt::take();
    let cleaned = steps.run("nothing is left behind", || clean_up(&before, &dir));
    steps.print();
    done?;
    cleaned
}

fn play(args: &DemoArgs, steps: &mut Steps, target: &Path, dir: &Path) -> Result<()> {
    let mezzo = build(args.profile, steps, target)?;
    let mut sleep = PathBuf::new();
    steps.run("build the sleep program", || {
        sleep = images::build_sleep()?;
        let size = fs::metadata(&sleep)
            .with_context(|| format!("look at {}", sleep.display()))?
            .len();
        Ok(format!(
            "static, {} kB, needs no file of any machine",
            size / 1000
        ))
    })?;
    let mut registry = None;
    steps.run("start a registry", || {
        let started = Registry::start(&dir.join("registry"))?;
        let note = format!("docker-registry on {}", started.address());
        registry = Some(started);
        Ok(note)
    })?;
    let registry = registry.context("the registry")?;
    for version in ["1", "2"] {
        steps.run(&format!("pack and push sleep:{version}"), || {
            println!(
                "  $ {}",
                mezzo_integration::process::command_line(&images::pack_command(
                    &mezzo, &sleep, &registry, version
                ))
            );
            let size = images::pack_and_push(&mezzo, &sleep, &registry, version)?;
            Ok(format!("{} kB in the registry", size / 1000))
        })?;
    }
    let mut cluster = None;
    steps.run("start mezzo dev", || {
        let options = Options {
            mezzo: mezzo.clone(),
            dir: dir.join("cluster"),
            registry: registry.address().to_owned(),
            resources: None,
        };
        cluster = Some(Cluster::start(options)?);
        Ok("master, agent and scheduler".to_owned())
    })?;
    let mut cluster = cluster.context("the cluster")?;
    scenes::play(steps, &cluster, &registry, &sleep, dir, args.keep).inspect_err(|_| {
        if !interrupt::requested() {
            eprintln!("{}", cluster.logs());
        }
    })?;
    if args.keep {
        keep(&cluster, &registry)?;
    }
    steps.run("stop the cluster", || {
        cluster.stop()?;
        Ok(String::new())
    })
}

fn build(profile: Profile, steps: &mut Steps, target: &Path) -> Result<PathBuf> {
    let (flag, folder): (&[&str], &str) = match profile {
        Profile::Dev => (&[], "debug"),
        Profile::Release => (&["--release"], "release"),
    };
    steps.run(&format!("build mezzo ({folder})"), || {
        cargo::run(&[&["build", "--package", "mezzo"], flag].concat())?;
        Ok(String::new())
    })?;
    Ok(target.join(folder).join("mezzo"))
}

fn keep(cluster: &Cluster, registry: &Registry) -> Result<()> {
    let mezzo = cluster.program().display();
    println!(
        "\nThe cluster runs on. In another terminal, try:\n
  export MEZZO_MASTER={} MEZZO_SCHEDULER=http://{}
  alias mezzo={mezzo}
  mezzo status
  mezzo task list
  mezzo app scale sleep 5 --wait
  mezzo app update sleep --image {} --wait
  mezzo app show sleep
  curl -s http://{}/v2/apps/sleep

Ctrl-C here ends it and removes all of it.",
        cluster.master(),
        cluster.scheduler(),
        registry.reference("sleep:2"),
        cluster.scheduler(),
    );
    // Ctrl-C is the end that is wished for here.
    while !interrupt::requested() {
        std::thread::sleep(Duration::from_millis(100));
    }
    interrupt::take();
    Ok(())
}

/// An empty folder of our own: a new one, or one that an earlier demo left and that can be cleaned.
fn take_folder(dir: &Path) -> Result<()> {
    if dir.exists() {
        let entries = fs::read_dir(dir)
            .with_context(|| format!("list {}", dir.display()))?
            .count();
        if entries > 0 && !dir.join(OWNER_FILE).exists() {
            bail!(
                "{} holds something else; name an empty or a new folder with --state-dir",
                dir.display()
            );
        }
        leftovers::sweep(&dir.join("cluster"));
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::write(dir.join(OWNER_FILE), "").with_context(|| format!("write to {}", dir.display()))
}

fn clean_up(before: &Snapshot, dir: &Path) -> Result<String> {
    let mut scope = Scope::of_clusters(dir, &[dir.join("cluster")]);
    scope.cgroups.push(crun::NAME.to_owned());
    let others = leftovers::check(before, &scope, Duration::from_secs(15))?;
    // Logs and state are of use only to find out why something failed; then the error has named them already.
    wait::until("the folder to be removed", Duration::from_secs(5), || {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
    })?;
    Ok(suite::told(before, &others))
}
