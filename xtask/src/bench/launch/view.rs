//! What the peers see of this machine: a mount namespace of one thread, from which nothing spreads to the host and
//! which is gone, with all that they mount, when the thread and they are.
//!
//! crun refuses a host with hybrid cgroups, so there the view shows the controllers of version 1 alone. podman and
//! containerd want short paths for their sockets, so the folder of the benchmark is seen at `/mnt` too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the folder of the benchmark is seen.
pub(super) const SHORT: &str = "/mnt";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Gives the calling thread, and what it starts, the view of `dir`.
pub(super) fn enter(dir: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("make all mounts private")?;
    let unified = Path::new(CGROUPS).join("unified");
    if unified.join("cgroup.controllers").exists() {
        show_version_1(&dir.join("view"), &unified)?;
    }
    bind(dir, Path::new(SHORT), MsFlags::empty())
}

fn show_version_1(view: &Path, unified: &Path) -> Result<()> {
    fs::create_dir_all(view).with_context(|| format!("create {}", view.display()))?;
    mount(
        Some("mezzo-view"),
        view,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mount a tmpfs")?;
    let entries = fs::read_dir(CGROUPS).with_context(|| format!("list {CGROUPS}"))?;
    let found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    for hierarchy in found.iter().filter(|path| *path != unified) {
        let name = hierarchy.file_name().context("a hierarchy has no name")?;
        let seen = view.join(name);
        fs::create_dir(&seen).with_context(|| format!("create {}", seen.display()))?;
        bind(hierarchy, &seen, MsFlags::empty())?;
    }
    bind(view, Path::new(CGROUPS), MsFlags::MS_REC)
}

fn bind(from: &Path, to: &Path, more: MsFlags) -> Result<()> {
    mount(
        Some(from),
        to,
        None::<&str>,
        MsFlags::MS_BIND | more,
        None::<&str>,
    )
    .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}
