//! The kernel's own figures for one cgroup, read from its files without help from mezzo: what usage is checked against.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// Processor time used, in microseconds.
pub fn cpu_us(cgroup: &str) -> Result<u64> {
    if unified() {
        let text = read(&file("", cgroup, "cpu.stat"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        return number(line.context("cpu.stat has no usage_usec")?);
    }
    Ok(number(&read(&file("cpuacct", cgroup, "cpuacct.usage"))?)? / 1000)
}

/// Memory charged, page cache included.
pub fn memory_bytes(cgroup: &str) -> Result<u64> {
    let name = if unified() {
        "memory.current"
    } else {
        "memory.usage_in_bytes"
    };
    number(&read(&file("memory", cgroup, name))?)
}

/// Processes and threads.
pub fn pids(cgroup: &str) -> Result<u64> {
    number(&read(&file("pids", cgroup, "pids.current"))?)
}

/// The memory limit; `None` without one.
pub fn memory_limit(cgroup: &str) -> Result<Option<u64>> {
    let name = if unified() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    let text = read(&file("memory", cgroup, name))?;
    Ok(if text.trim() == "max" {
        None
    } else {
        Some(number(&text)?).filter(|&limit| limit < 1 << 60)
    })
}

/// Whether this machine has cgroup v2 alone.
fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn file(controller: &str, cgroup: &str, name: &str) -> PathBuf {
    let relative = cgroup.trim_start_matches('/');
    let root = if unified() {
        PathBuf::from(ROOT)
    } else {
        Path::new(ROOT).join(controller)
    };
    root.join(relative).join(name)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn number(text: &str) -> Result<u64> {
    text.trim()
        .parse()
        .with_context(|| format!("'{}' is no number", text.trim()))
}
