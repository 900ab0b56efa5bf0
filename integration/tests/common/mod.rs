//! What every test on real containers shares: a stage with a registry and a cluster of its own, taken down and checked
//! for leftovers whatever happens in between.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mezzo_integration::cluster::{Cluster, Options, sleep_app};
use mezzo_integration::leftovers::{self, Scope, Snapshot};
use mezzo_integration::registry::Registry;
use mezzo_integration::{images, interrupt, paths, process};
use serde_json::Value;

/// A registry with `sleep:1` and `sleep:2`, and a cluster that may ask it.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) registry: Registry,
    pub(crate) mezzo: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Stage {
    fn start(name: &str) -> Result<Self> {
        let dir = folder(name)?;
        let mezzo = paths::program("mezzo")?;
        let registry = Registry::start(&dir.join("registry"))?;
        let sleep = images::build_sleep()?;
        for version in ["1", "2"] {
            images::pack_and_push(&mezzo, &sleep, &registry, version)?;
        }
        let options = Options {
            mezzo: mezzo.clone(),
            dir: dir.join("cluster"),
            registry: registry.address().to_owned(),
            // More than a small machine has: a rolling update runs two apps at once.
            resources: Some("cpus:8;mem:8192;disk:10000;ports:[31000-32000]".to_owned()),
        };
        let cluster = Cluster::start(options)?;
        Ok(Self {
            cluster,
            registry,
            mezzo,
            dir,
        })
    }

    /// An app of `sleep:1`.
    pub(crate) fn app(&self, id: &str, instances: u32) -> Value {
        sleep_app(id, &self.registry.reference("sleep:1"), instances)
    }

    /// A verb of mezzo, for its JSON.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<Value> {
        let text = process::output(&mut self.cluster.mezzo(&[words, &["-o", "json"]].concat()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("mezzo {} printed no JSON", words.join(" ")))
    }
}

/// Runs `act` on a fresh stage, takes it down, and checks that nothing is left. Needs root, and says so loudly.
pub(crate) fn on_stage(name: &str, act: impl FnOnce(&mut Stage) -> Result<()>) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    interrupt::install();
    assert!(!interrupt::requested(), "interrupted");
    let before = Snapshot::take();
    let played = panic::catch_unwind(AssertUnwindSafe(|| -> Result<PathBuf> {
        let mut stage = Stage::start(name)?;
        let acted = panic::catch_unwind(AssertUnwindSafe(|| act(&mut stage)));
        if !matches!(acted, Ok(Ok(()))) {
            eprintln!("{name}: {}", stage.cluster.logs());
        }
        let stopped = stage.cluster.stop();
        acted.unwrap_or_else(|cause| panic::resume_unwind(cause))?;
        stopped?;
        Ok(stage.dir.clone())
    }));
    let left = leftovers::check(&before, &scope(name), Duration::from_secs(60));
    match played {
        Err(panic) => panic::resume_unwind(panic),
        // The folder with the logs stays.
        Ok(Err(error)) => panic!("{name}: {error:#}"),
        Ok(Ok(dir)) => {
            left.expect("the machine is as it was");
            fs::remove_dir_all(dir).expect("remove the test's folder");
        }
    }
}

fn root() -> PathBuf {
    let target = || paths::target().unwrap_or_default().join("e2e");
    std::env::var_os("MEZZO_E2E_DIR").map_or_else(target, PathBuf::from)
}

fn scope(name: &str) -> Scope {
    Scope::of_clusters(&root(), &[root().join(name).join("cluster")])
}

/// An empty folder for one test.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let dir = root().join(name);
    if dir.exists() {
        leftovers::sweep(&dir.join("cluster"));
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// Whether the long runs are asked for.
pub(crate) fn all() -> bool {
    std::env::var_os("MEZZO_E2E_ALL").is_some()
}

/// An error with both texts unless one holds the other.
pub(crate) fn check_contains(text: &str, part: &str) -> Result<()> {
    if text.contains(part) {
        return Ok(());
    }
    bail!("'{part}' is missing in: {text}")
}
