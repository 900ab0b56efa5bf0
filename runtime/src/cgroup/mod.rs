//! Control groups: which hierarchies this host has, where a container's directories are, and making, joining and
//! removing them. `kill` ends what runs in them; `cpusets` are made late; limits are set by `settings`, which also changes
//! them while the container runs; which devices may be opened, by `devices`; `low` carries protection of memory to what is
//! above containers; `usage` and `stats` read.
//!
//! Every function takes an absolute cgroup path such as `/mezzo/containers/web`, the same in each hierarchy.

mod cpusets;
pub(crate) mod device;
pub(crate) mod devices;
pub(crate) mod hugetlb;
mod kill;
mod low;
pub(crate) mod settings;
pub(crate) mod stats;
pub(crate) mod usage;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cpuset::CpuSet;

fn is_cgroup_file_system(path: &Path) -> bool {
    use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
    statfs(path).is_ok_and(|found| {
        let kind = found.filesystem_type();
        kind == CGROUP_SUPER_MAGIC || kind == CGROUP2_SUPER_MAGIC
    })
}

/// Which generation of control groups holds the controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    /// Version 1 only.
    V1,
    /// Version 1 holds the controllers, an empty version 2 hierarchy stands beside it.
    Hybrid,
    /// Version 2 only.
    V2,
}

/// The cgroup file systems of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    pub(crate) mode: CgroupMode,
    v1: Vec<V1Hierarchy>,
    unified: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct V1Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

impl V1Hierarchy {
    fn is_cpuset(&self) -> bool {
        self.controllers.iter().any(|name| name == "cpuset")
    }
}

impl Hierarchies {
    /// Reads what is mounted here.
    pub(crate) fn detect() -> io::Result<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let found = Self::parse(&mountinfo).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup file system is mounted below /sys/fs/cgroup",
            )
        })?;
        // Something mounted over them would take plain directories for cgroups, and no limit would hold.
        let mut mounts = found.v1.iter().map(|one| &one.mount).chain(&found.unified);
        match mounts.find(|mount| !is_cgroup_file_system(mount)) {
            None => Ok(found),
            Some(hidden) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "the cgroup file system at {} is hidden by another one mounted over it; unmount that",
                    hidden.display()
                ),
            )),
        }
    }

    /// The same from the text of a mountinfo file. Pure.
    pub(crate) fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1: Vec<V1Hierarchy> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let mut fields = before.split(' ').skip(3);
            let (Some(root), Some(mount)) = (fields.next(), fields.next()) else {
                continue;
            };
            if root != "/" || !(mount == "/sys/fs/cgroup" || mount.starts_with("/sys/fs/cgroup/")) {
                continue;
            }
            let mut fields = after.split(' ');
            let (fs_type, options) = (fields.next(), fields.nth(1).unwrap_or(""));
            if fs_type == Some("cgroup2") {
                unified = unified.or_else(|| Some(PathBuf::from(mount)));
            } else if fs_type == Some("cgroup") {
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| is_controller(option))
                    .map(str::to_owned)
                    .collect();
                if !controllers.is_empty()
                    && !v1.iter().any(|known| known.controllers == controllers)
                {
                    v1.push(V1Hierarchy {
                        controllers,
                        mount: PathBuf::from(mount),
                    });
                }
            }
        }
        let has_v1_controllers = v1.iter().any(|one| {
            one.controllers
                .iter()
                .any(|name| !name.starts_with("name="))
        });
        let mode = match (has_v1_controllers, &unified) {
            (true, Some(_)) => CgroupMode::Hybrid,
            (true, None) => CgroupMode::V1,
            (false, Some(_)) => CgroupMode::V2,
            (false, None) => return None,
        };
        Some(Self { mode, v1, unified })
    }

    /// The directory in which a controller's files for `cgroup` are.
    pub(crate) fn controller_dir(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let mount = match self.mode {
            CgroupMode::V2 => self.unified.as_ref()?,
            CgroupMode::V1 | CgroupMode::Hybrid => {
                &self
                    .v1
                    .iter()
                    .find(|one| one.controllers.iter().any(|name| name == controller))?
                    .mount
            }
        };
        Some(below(mount, cgroup))
    }

    /// Controllers that can be used: bound to version 1, or offered by the root of version 2.
    pub(crate) fn controllers(&self) -> Vec<String> {
        match (self.mode, &self.unified) {
            (CgroupMode::V2, Some(mount)) => fs::read_to_string(mount.join("cgroup.controllers"))
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            (CgroupMode::V1 | CgroupMode::Hybrid | CgroupMode::V2, _) => self
                .v1
                .iter()
                .flat_map(|one| one.controllers.iter())
                .filter(|name| !name.starts_with("name="))
                .cloned()
                .collect(),
        }
    }

    /// Whether a controller limits what is in this cgroup, or below it.
    pub(crate) fn has_controller(&self, controller: &str, cgroup: &str) -> bool {
        match (self.mode, self.unified_dir(cgroup)) {
            (CgroupMode::V2, Some(dir)) => read_words(&dir, "cgroup.controllers")
                .iter()
                .any(|name| name == controller),
            (CgroupMode::V1 | CgroupMode::Hybrid | CgroupMode::V2, _) => {
                self.controller_dir(controller, cgroup).is_some()
            }
        }
    }

    /// The processors that may be chosen for what is below the parent of this cgroup; `None` where there is no choice.
    pub(crate) fn processors(&self, cgroup: &str) -> Option<CpuSet> {
        if !self.has_controller("cpuset", cgroup) {
            return None;
        }
        // A cgroup of version 1 that nobody has filled in yet has none, and takes over those above it.
        let mut above = cgroup.trim_end_matches('/');
        loop {
            above = above.rsplit_once('/').map_or("", |(parent, _)| parent);
            let dir = self.controller_dir("cpuset", above)?;
            let found = ["cpuset.cpus.effective", "cpuset.cpus"]
                .iter()
                .find_map(|name| fs::read_to_string(dir.join(name)).ok())
                .and_then(|text| text.parse().ok())
                .filter(|set: &CpuSet| !set.is_empty());
            if found.is_some() || above.is_empty() {
                return found;
            }
        }
    }

    /// The cgroup's directory in the unified hierarchy, if there is one.
    pub(crate) fn unified_dir(&self, cgroup: &str) -> Option<PathBuf> {
        self.unified.as_ref().map(|mount| below(mount, cgroup))
    }

    /// The cgroup's directory in every hierarchy.
    pub(crate) fn dirs(&self, cgroup: &str) -> Vec<PathBuf> {
        self.v1
            .iter()
            .map(|one| &one.mount)
            .chain(self.unified.as_ref())
            .map(|mount| below(mount, cgroup))
            .collect()
    }

    /// Makes the cgroup, and its parents, in every hierarchy.
    pub(crate) fn create(&self, cgroup: &str) -> io::Result<()> {
        self.dirs(cgroup)
            .iter()
            .try_for_each(|dir| fs::create_dir_all(dir).map_err(|error| at(dir, error)))
    }

    /// On version 2: lets the children of `cgroup`, which is `parent` or below it, have the controllers we use, from
    /// the top down, because a cgroup can only pass on what it has.
    ///
    /// A parent that has what containers need was given it: by systemd (`Delegate=yes`), or by an earlier walk. What
    /// is above it is then somebody else's and not written to. Elsewhere the walk begins at the root.
    /// Controllers that cannot be had are left out; a container that needs one fails with libcontainer's own
    /// message.
    pub(crate) fn delegate(&self, parent: &str, cgroup: &str) {
        if self.mode != CgroupMode::V2 {
            return;
        }
        let (parent, cgroup) = (parent.trim_matches('/'), cgroup.trim_matches('/'));
        let given = self.unified_dir(parent).is_some_and(|dir| {
            let offered = read_words(&dir, "cgroup.controllers");
            NEEDED
                .iter()
                .all(|name| offered.iter().any(|had| had == name))
        });
        let ends = cgroup.match_indices('/').map(|(end, _)| end);
        for end in std::iter::once(0).chain(ends).chain([cgroup.len()]) {
            if given && end < parent.len() {
                continue;
            }
            if let Some(dir) = self.unified_dir(&cgroup[..end]) {
                enable_controllers(&dir);
            }
        }
    }

    /// Makes the cgroup of one container, whose parents are there: in the hierarchies of version 1 whose controllers
    /// limit or measure containers, and in the unified one, where `cgroup.kill` is. In what is left out (freezer,
    /// network classes, performance events) nothing would be gained, and nothing in a cpuset before processors are
    /// chosen ([`Self::ensure_cpuset`]): making and unmaking one has the kernel look at all others, each time.
    pub(crate) fn create_for_container(&self, cgroup: &str) -> io::Result<()> {
        let unified = self.unified_dir(cgroup);
        self.v1_dirs(cgroup)
            .chain(unified)
            .try_for_each(|dir| ensure_dir(&dir))
    }

    /// Makes the cgroup above those of a group's containers.
    pub(crate) fn create_for_group(&self, cgroup: &str) -> io::Result<()> {
        self.create_for_container(cgroup)?;
        self.create_cpuset(cgroup)?;
        if self.mode == CgroupMode::V2
            && let Some(dir) = self.unified_dir(cgroup)
        {
            // Root of a container's users mounts what is below it, and has to pass through: a keeper's own umask would not
            // let it.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
                .map_err(|error| at(&dir, error))?;
            enable_controllers(&dir);
        }
        Ok(())
    }

    /// Removes the cgroup above those of a group's containers, if none is left in it.
    pub(crate) fn remove_group_if_empty(&self, cgroup: &str) {
        for dir in self.dirs(cgroup) {
            let _ = fs::remove_dir(dir);
        }
    }

    /// A container's cgroup in the unified hierarchy, for a process to be forked into.
    pub(crate) fn open_unified(&self, cgroup: &str) -> io::Result<Option<File>> {
        self.unified_dir(cgroup)
            .map(|dir| File::open(&dir).map_err(|error| at(&dir, error)))
            .transpose()
    }

    /// Moves this process, which has one thread, into a container's cgroup, in the hierarchies of version 1. By
    /// `tasks`: only a thread that moves itself need not wait for a grace period of RCU, milliseconds.
    pub(crate) fn enter_v1(&self, cgroup: &str) -> io::Result<()> {
        let enter = |dir: &Path| fs::write(dir.join("tasks"), "0");
        self.v1_dirs(cgroup)
            .try_for_each(|dir| enter(&dir).map_err(|error| at(&dir, error)))?;
        // The last: who makes a cpuset later finds us in the others.
        match self.v1_cpuset_dir(cgroup).map(|dir| (enter(&dir), dir)) {
            Some((Err(error), dir)) if error.kind() != io::ErrorKind::NotFound => {
                Err(at(&dir, error))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn v1_dirs(&self, cgroup: &str) -> impl Iterator<Item = PathBuf> {
        self.v1
            .iter()
            .filter(|one| {
                let mut controllers = one.controllers.iter();
                controllers.any(|name| FOR_CONTAINERS.contains(&name.as_str()))
            })
            .map(move |one| below(&one.mount, cgroup))
    }

    /// Moves this process into the cgroup, in every hierarchy but cpuset (which would need its sets filled in,
    /// and in which nothing is gained).
    pub(crate) fn join(&self, cgroup: &str) -> io::Result<()> {
        for one in &self.v1 {
            if !one.is_cpuset() {
                join_dir(&below(&one.mount, cgroup))?;
            }
        }
        self.unified_dir(cgroup)
            .map_or(Ok(()), |dir| join_dir(&dir))
    }

    /// The processes in the cgroup, in any hierarchy.
    pub(crate) fn processes(&self, cgroup: &str) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .dirs(cgroup)
            .iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
            .flat_map(|text| stats::parse_pids(&text))
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes the cgroup, with what is below it, from every hierarchy. A directory whose last process has just
    /// ended can be busy for a moment.
    pub(crate) fn remove(&self, cgroup: &str, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        self.dirs(cgroup)
            .iter()
            .try_for_each(|dir| remove_dir(dir, deadline))
    }

    /// Whether [`Self::remove`] has not been through with the cgroup.
    pub(crate) fn is_there(&self, cgroup: &str) -> bool {
        self.dirs(cgroup).last().is_some_and(|dir| dir.exists())
    }

    /// The names of the cgroups directly below `cgroup`, in any hierarchy.
    pub(crate) fn children(&self, cgroup: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .dirs(cgroup)
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn is_controller(option: &str) -> bool {
    option.starts_with("name=")
        || !matches!(
            option,
            "rw" | "ro" | "xattr" | "noprefix" | "clone_children" | "favordynmods"
        ) && !option.contains('=')
}

/// What containers are limited with.
const WANTED: [&str; 6] = ["cpu", "memory", "io", "pids", "hugetlb", "cpuset"];

/// The controllers of version 1 that containers are put under.
const FOR_CONTAINERS: [&str; 7] = [
    "cpu", "cpuacct", "memory", "pids", "devices", "blkio", "hugetlb",
];

/// Without these no container starts.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// One by one, so that one that cannot be had does not keep the others away; and only what is not there yet.
fn enable_controllers(dir: &Path) {
    let enabled = read_words(dir, "cgroup.subtree_control");
    let missing = WANTED
        .iter()
        .filter(|name| !enabled.iter().any(|had| had == *name));
    for controller in missing {
        let file = dir.join("cgroup.subtree_control");
        if let Err(error) = fs::write(file, format!("+{controller}")) {
            tracing::debug!(controller, dir = %dir.display(), %error, "controller not delegated");
        }
    }
}

/// The words in a file of a cgroup; none if it cannot be read.
fn read_words(dir: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn ensure_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| at(dir, error)),
    }
}

fn below(mount: &Path, cgroup: &str) -> PathBuf {
    mount.join(cgroup.trim_start_matches('/'))
}

fn join_dir(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), "0").map_err(|error| at(dir, error))
}

fn remove_dir(dir: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(200);
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // It has children, or its last process is not quite gone.
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                let children = fs::read_dir(dir).into_iter().flatten().flatten();
                for child in children.filter(|one| one.file_type().is_ok_and(|kind| kind.is_dir()))
                {
                    remove_dir(&child.path(), deadline)?;
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(error) => return Err(at(dir, error)),
        }
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:38 /sub /somewhere/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_is_told_by_its_mounts() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        assert_eq!(found.mode, CgroupMode::Hybrid);
        assert_eq!(found.controllers(), ["cpu", "cpuacct", "memory"]);
        assert_eq!(
            found.controller_dir("cpuacct", "/m/c"),
            Some("/sys/fs/cgroup/cpu,cpuacct/m/c".into())
        );
        assert_eq!(found.controller_dir("pids", "/m/c"), None);
        assert_eq!(
            found.unified_dir("/m"),
            Some("/sys/fs/cgroup/unified/m".into())
        );
        assert_eq!(found.dirs("/m").len(), 4);
    }

    #[test]
    fn a_unified_host_has_one_directory_for_all() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(text).unwrap();
        assert_eq!(found.mode, CgroupMode::V2);
        assert_eq!(
            found.controller_dir("memory", "/m"),
            Some("/sys/fs/cgroup/m".into())
        );
        assert_eq!(found.dirs("/m"), [PathBuf::from("/sys/fs/cgroup/m")]);
    }

    #[test]
    fn a_host_without_cgroups_is_told_so() {
        assert_eq!(
            Hierarchies::parse("22 1 0:21 / /proc rw - proc proc rw\nnonsense\n"),
            None
        );
    }

    /// A version 2 hierarchy of plain files: each cgroup with what it is offered and what it passes on.
    fn unified_tree(cgroups: &[(&str, &str, &str)]) -> (tempfile::TempDir, Hierarchies) {
        let root = tempfile::tempdir().unwrap();
        for (cgroup, offered, enabled) in cgroups {
            let dir = below(root.path(), cgroup);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.controllers"), offered).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), enabled).unwrap();
        }
        let hierarchies = Hierarchies {
            mode: CgroupMode::V2,
            v1: Vec::new(),
            unified: Some(root.path().to_owned()),
        };
        (root, hierarchies)
    }

    fn passed_on(root: &tempfile::TempDir, cgroup: &str) -> String {
        let file = below(root.path(), cgroup).join("cgroup.subtree_control");
        fs::read_to_string(file).unwrap()
    }

    #[test]
    fn nothing_is_written_above_a_parent_that_was_given_its_controllers() {
        // Systemd gave what it wants to give; cpuset is not among it.
        let (root, hierarchies) = unified_tree(&[
            ("/", "cpuset cpu io memory hugetlb pids", "cpu memory pids"),
            ("/system.slice", "cpu memory pids", "cpu memory pids"),
            ("/system.slice/tasks.service", "cpu memory pids", ""),
            ("/system.slice/tasks.service/containers", "", ""),
        ]);
        let parent = "/system.slice/tasks.service";
        hierarchies.delegate(parent, &format!("{parent}/containers"));
        assert_eq!(passed_on(&root, "/"), "cpu memory pids");
        assert_eq!(passed_on(&root, "/system.slice"), "cpu memory pids");
        // A plain file keeps what was written last.
        assert_eq!(passed_on(&root, parent), "+cpuset");
        assert_eq!(passed_on(&root, &format!("{parent}/containers")), "+cpuset");
    }

    #[test]
    fn where_nobody_delegates_controllers_are_enabled_from_the_root_down() {
        let all = "cpuset cpu io memory pids";
        let (root, hierarchies) =
            unified_tree(&[("/", all, ""), ("/mezzo", "", ""), ("/mezzo/c", "", "")]);
        hierarchies.delegate("/mezzo", "/mezzo/c");
        for cgroup in ["/", "/mezzo", "/mezzo/c"] {
            assert_eq!(passed_on(&root, cgroup), "+cpuset", "{cgroup}");
        }
    }

    #[test]
    fn what_is_enabled_is_not_written_again() {
        let all = "cpuset cpu io memory hugetlb pids";
        let (root, hierarchies) = unified_tree(&[("/", all, all), ("/mezzo", all, all)]);
        hierarchies.delegate("/mezzo", "/mezzo");
        assert_eq!(passed_on(&root, "/"), all);
        assert_eq!(passed_on(&root, "/mezzo"), all);
    }

    /// Needs root and a cgroup2 mount: a plain directory is never busy.
    #[test]
    fn a_busy_cgroup_is_removed_with_what_is_below_it_as_soon_as_its_last_process_is_gone() {
        let unified = Hierarchies::detect()
            .ok()
            .and_then(|found| found.unified_dir("/"));
        let Some(unified) = unified.filter(|_| nix::unistd::geteuid().is_root()) else {
            eprintln!("skipped: needs root and a cgroup2 mount");
            return;
        };
        let dir = unified.join(format!("mezzo-test-busy-{}", std::process::id()));
        let inner = dir.join("inner");
        fs::create_dir_all(&inner).unwrap();
        let mut process = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let entered = fs::write(inner.join("cgroup.procs"), process.id().to_string());
        let refused = remove_dir(&dir, Instant::now());
        let waiting = {
            let dir = dir.clone();
            std::thread::spawn(move || remove_dir(&dir, Instant::now() + Duration::from_secs(20)))
        };
        // It tries, and finds it busy, at least until now.
        let was_there = inner.exists();
        process.kill().unwrap();
        process.wait().unwrap();
        waiting.join().unwrap().unwrap();
        entered.unwrap();
        assert!(was_there && !dir.exists());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("mezzo-test-busy-"), "{refused}");
        // What is gone is removed.
        remove_dir(&dir, Instant::now()).unwrap();
    }
}
