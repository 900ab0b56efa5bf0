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

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

/// The names of the tests in a source file, as `file::name`.
fn tests_in(file: &Path) -> Vec<String> {
    let module = file.file_stem().unwrap().to_str().unwrap();
    let source = fs::read_to_string(file).unwrap();
    let mut lines = source.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let is_mark = line.starts_with("#[tokio::test") || line == "#[test]";
        if let Some(rest) = is_mark.then(|| lines.next()).flatten() {
            let name = rest
                .trim_start_matches("async ")
                .strip_prefix("fn ")
                .unwrap_or_default();
            found.push(format!("{module}::{}", name.split('(').next().unwrap()));
        }
    }
    found
}

#[test]
fn the_table_names_these_tests_and_none_that_is_not_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let document = tests.join("../../docs/conformance.md");
    if !document.exists() {
        eprintln!("skipped: the sources are not on this machine");
        return;
    }
    let sources = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "rs"))
            .collect()
    };
    let all = |dir: &Path| -> BTreeSet<String> {
        sources(dir)
            .iter()
            .flat_map(|file| tests_in(file))
            .collect()
    };
    let mut ours = all(&tests.join("conformance"));
    ours.retain(|name| !name.starts_with("main::"));
    let others = all(&tests);
    let table = fs::read_to_string(document).unwrap();
    let named: BTreeSet<String> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains("::") && *word != "file::test")
        .map(str::to_owned)
        .collect();
    // Each row: what is asked, the tests that ask it here, or why none does.
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<Vec<&str>> = rows
        .map(|row| row.split('|').map(str::trim).collect())
        .filter(|row: &Vec<&str>| !matches!(row.get(1), Some(&("test" | "group"))))
        .collect();
    assert!(rows.len() > 70, "{} rows", rows.len());
    for row in rows {
        let ["", what, tests, reason, ""] = row[..] else {
            panic!("a row of docs/conformance.md has not three columns: {row:?}");
        };
        assert!(
            tests.contains("::") || !reason.is_empty(),
            "docs/conformance.md: {what}: neither a test nor a reason"
        );
    }
    let missing: Vec<_> = ours.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "not in docs/conformance.md: {missing:?}"
    );
    let unknown: Vec<_> = named
        .iter()
        .filter(|name| !ours.contains(*name) && !others.contains(*name))
        .collect();
    assert!(
        unknown.is_empty(),
        "only in docs/conformance.md: {unknown:?}"
    );
    assert!(ours.len() > 20, "{ours:?}");
}
