//! One cgroup for everything that is measured: this program, the driver, the peers, their daemons and their
//! containers. Its CPU time is what a round costs, whoever forked whom and whoever waits for whom.
//!
//! It is a guard: dropping it moves this process back, kills what is still in the group and removes the group from
//! every hierarchy. Where CPU time is not accounted by cgroups, there are no figures for it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mezzo_integration::{interrupt, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The group.
#[derive(Debug)]
pub(super) struct Group {
    /// From the root of each hierarchy, with a slash in front.
    name: String,
    /// Where the hierarchies are mounted.
    roots: Vec<PathBuf>,
    /// Of the group that this process came from.
    home: Option<PathBuf>,
    usage: Option<Usage>,
}

/// An open file that tells CPU time: it stays readable in every mount namespace.
#[derive(Debug)]
struct Usage {
    file: File,
    /// Version 1 tells one number of nanoseconds, version 2 a table.
    version_1: bool,
}

impl Group {
    /// Only a name, for others to make what they want in it; what they leave is removed all the same.
    pub(super) fn reserve() -> Result<Self> {
        Ok(Self {
            name: format!("/mezzo-bench-{}", std::process::id()),
            roots: roots(&mounts()?),
            home: None,
            usage: None,
        })
    }

    /// Makes the group and moves this process into it.
    pub(super) fn enter() -> Result<Self> {
        let mut group = Self::reserve()?;
        let Some((root, version_1)) = accounting(&mounts()?) else {
            return Ok(group);
        };
        let top = group.below(&root);
        let runner = top.join("runner");
        fs::create_dir_all(&runner).with_context(|| format!("create {}", runner.display()))?;
        let own = fs::read_to_string("/proc/self/cgroup").context("read our own cgroup")?;
        group.home = own_path(&own, version_1).map(|path| root.join(path.trim_start_matches('/')));
        move_here(&runner)?;
        let file = top.join(if version_1 {
            "cpuacct.usage"
        } else {
            "cpu.stat"
        });
        let file = File::open(&file).with_context(|| format!("open {}", file.display()))?;
        group.usage = Some(Usage { file, version_1 });
        Ok(group)
    }

    /// The path of a group in it, from the root of each hierarchy.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// CPU time of all that is or was in it.
    pub(super) fn cpu(&self) -> Option<Duration> {
        let Usage { file, version_1 } = self.usage.as_ref()?;
        let mut file = file;
        let mut text = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        parse_usage(&text, *version_1)
    }

    fn below(&self, root: &Path) -> PathBuf {
        root.join(self.name.trim_start_matches('/'))
    }

    fn clean_up(&mut self) -> Result<()> {
        if let Some(home) = self.home.take() {
            move_here(&home)?;
        }
        wait::until("the group to be empty", Duration::from_secs(30), || {
            let mut n_left = 0;
            for top in self.roots.iter().map(|root| self.below(root)) {
                for folder in tree(&top).into_iter().rev() {
                    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                    for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
                        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                    n_left += usize::from(fs::remove_dir(&folder).is_err());
                }
            }
            ensure!(n_left == 0, "{n_left} cgroups of {} are in use", self.name);
            Ok(())
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A second look at the signal that began this would end the waiting.
        interrupt::take();
        if let Err(error) = self.clean_up() {
            eprintln!("cleaning up: {error:#}");
        }
    }
}

fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo").context("read the table of mounts")
}

fn move_here(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string())
        .with_context(|| format!("move into {}", group.display()))
}

/// A folder and those in it, each before what it holds; nothing if there is none.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![top.to_path_buf()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let folders = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(folders.map(|entry| entry.path()));
        found.push(folder);
    }
    found.sort();
    found
}

/// Mount points of hierarchies.
fn roots(mounts: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

/// The hierarchy that accounts CPU time, and whether it is of version 1.
fn accounting(mounts: &str) -> Option<(PathBuf, bool)> {
    let find = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let right = after.next() == Some(kind);
            let told = after.nth(1).unwrap_or_default().split(',');
            let right = right && (option.is_empty() || told.into_iter().any(|one| one == option));
            right.then(|| before.split(' ').nth(4))?.map(PathBuf::from)
        })
    };
    let version_1 = find("cgroup", "cpuacct").map(|root| (root, true));
    version_1.or_else(|| find("cgroup2", "").map(|root| (root, false)))
}

/// This process's group there.
fn own_path(text: &str, version_1: bool) -> Option<String> {
    text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let right = if version_1 {
            controllers.split(',').any(|one| one == "cpuacct")
        } else {
            controllers.is_empty()
        };
        right.then(|| path.to_owned())
    })
}

fn parse_usage(text: &str, version_1: bool) -> Option<Duration> {
    if version_1 {
        return text.trim().parse().ok().map(Duration::from_nanos);
    }
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    line?.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
33 28 0:30 / /sys/fs/cgroup/memory rw shared:4 - cgroup cgroup rw,memory
36 28 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
37 28 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn finds_where_cpu_time_is_accounted() {
        let (root, version_1) = accounting(HYBRID).expect("found");
        assert_eq!(
            (root, version_1),
            (PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), true)
        );
        let alone = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(
            accounting(alone),
            Some((PathBuf::from("/sys/fs/cgroup"), false))
        );
        assert_eq!(roots(HYBRID).len(), 3);
    }

    #[test]
    fn reads_our_own_group_and_its_usage() {
        let text = "4:memory:/m\n3:cpu,cpuacct:/user/1\n0::/unified\n";
        assert_eq!(own_path(text, true).as_deref(), Some("/user/1"));
        assert_eq!(own_path(text, false).as_deref(), Some("/unified"));
        assert_eq!(
            parse_usage("2500000\n", true),
            Some(Duration::from_micros(2500))
        );
        assert_eq!(
            parse_usage("usage_usec 77\nuser_usec 7\n", false),
            Some(Duration::from_micros(77))
        );
    }
}
