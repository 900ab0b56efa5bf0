//! What the validation tests of opencontainers/runtime-tools and youki's contest ask of a runtime, asked of this one: as far
//! as it applies to a library that is called, not to a command that reads bundles. `docs/conformance.md` has each of their
//! names beside a test of ours, or the reason why there is none.
//!
//! Most of it is looked at from the host, through /proc/PID of the container's first process.

#![expect(clippy::unwrap_used, reason = "test")]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod life;
mod mounts;
mod namespaces;
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use common::{Node, chain, id};
use mezzo_runtime::{ContainerSpec, Started};

/// Starts a container that goes on.
async fn start(node: &Node, name: &str, spec: ContainerSpec) -> Started {
    let started = node.runtime().start(&id(name), spec).await;
    started.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)))
}

/// A path of a running container, as the host reaches it.
fn inside(started: &Started, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{path}", started.pid))
}

/// A file of /proc/PID.
fn proc_file(started: &Started, name: &str) -> String {
    let path = format!("/proc/{}/{name}", started.pid);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A field of /proc/PID/status.
fn status_field(started: &Started, name: &str) -> String {
    let text = proc_file(started, "status");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in {text}"))
        .trim()
        .to_owned()
}

/// One line of a mountinfo.
#[derive(Debug, Clone)]
struct Mount {
    kind: String,
    /// Of the mount, then of the file system.
    options: Vec<String>,
    /// "shared:3" and the like.
    propagation: Vec<String>,
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|one| one == option)
    }
}

/// The mounts that a process of the container sees; of those on one another, the topmost.
fn mounts_of(started: &Started) -> BTreeMap<String, Mount> {
    let text = proc_file(started, "mountinfo");
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let options = left[5].split(',').chain(right[2].split(','));
        let mount = Mount {
            kind: right[0].to_owned(),
            options: options.map(str::to_owned).collect(),
            propagation: left[6..].iter().map(|&one| one.to_owned()).collect(),
        };
        Some((left[4].to_owned(), mount))
    };
    text.lines().filter_map(parse).collect()
}
