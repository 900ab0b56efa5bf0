//! Cpusets of version 1, in which a container is only once its processors are chosen: making and unmaking one has the
//! kernel look at all others, each time, and nothing is gained by one that allows all.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Hierarchies, V1Hierarchy, at, below, ensure_dir, stats};

/// How long the processes of a running container may take to be moved.
const MOVE_TIMEOUT: Duration = Duration::from_secs(10);

impl Hierarchies {
    /// On version 1: gives `cgroup` the processors and the memory nodes of what is above it, without which nothing may
    /// enter a cpuset, and has the cgroups that are made in it take them over.
    pub(crate) fn fill_cpusets(&self, cgroup: &str) -> io::Result<()> {
        let Some(hierarchy) = self.v1_cpuset() else {
            return Ok(());
        };
        let mut dir = hierarchy.mount.clone();
        for part in cgroup.split('/').filter(|part| !part.is_empty()) {
            let above = dir.clone();
            dir.push(part);
            for name in ["cpuset.cpus", "cpuset.mems"] {
                let file = dir.join(name);
                let read = |file: &Path| fs::read_to_string(file).map_err(|error| at(file, error));
                if read(&file)?.trim().is_empty() {
                    let inherited = read(&above.join(name))?;
                    fs::write(&file, inherited.trim()).map_err(|error| at(&file, error))?;
                }
            }
        }
        let file = dir.join("cgroup.clone_children");
        fs::write(&file, "1").map_err(|error| at(&file, error))
    }

    /// On version 1: makes the cgroup, whose parents are there, in the hierarchy of cpusets too.
    pub(crate) fn create_cpuset(&self, cgroup: &str) -> io::Result<()> {
        self.v1_cpuset_dir(cgroup)
            .map_or(Ok(()), |dir| ensure_dir(&dir))
    }

    /// The same for a cgroup in which something runs, which is moved there. Idempotent. What is forked meanwhile is moved
    /// as well, or was born there.
    pub(crate) fn ensure_cpuset(&self, cgroup: &str) -> io::Result<()> {
        let Some(dir) = self.v1_cpuset_dir(cgroup) else {
            return Ok(());
        };
        ensure_dir(&dir)?;
        let file = dir.join("cgroup.procs");
        let members = |file: &Path| {
            let text = fs::read_to_string(file).map_err(|error| at(file, error))?;
            Ok::<_, io::Error>(stats::parse_pids(&text))
        };
        let deadline = Instant::now() + MOVE_TIMEOUT;
        loop {
            let inside: BTreeSet<i32> = members(&file)?.into_iter().collect();
            let outside: Vec<i32> = self
                .processes(cgroup)
                .into_iter()
                .filter(|pid| !inside.contains(pid))
                .collect();
            if outside.is_empty() {
                return Ok(());
            }
            for pid in outside {
                match fs::write(&file, pid.to_string()) {
                    // It has ended.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved.map_err(|error| at(&file, error))?,
                }
            }
            if Instant::now() >= deadline {
                let reason = format!(
                    "{}: new processes come faster than they are moved",
                    file.display()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
        }
    }

    fn v1_cpuset(&self) -> Option<&V1Hierarchy> {
        self.v1.iter().find(|one| one.is_cpuset())
    }

    pub(super) fn v1_cpuset_dir(&self, cgroup: &str) -> Option<PathBuf> {
        self.v1_cpuset().map(|one| below(&one.mount, cgroup))
    }
}
