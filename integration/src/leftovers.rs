//! Is the machine as it was? Lists of processes, mounts, cgroups (of every hierarchy), network links and files,
//! taken before and after, and their difference.
//!
//! On a machine where other people work the difference holds their doings too. What is ours, [`Scope`] tells by names:
//! the marker in a process's environment, the state folder, words in a cgroup's path. Mounts and links, which do not
//! come and go by themselves, always count. The rest is told, not held against us.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

use crate::wait;

/// Set in the environment of everything that is started by a test or a demo, and so inherited by what that starts.
pub const MARKER: &str = "MEZZO_XTASK_RUN";

/// Folders that programs leave things in. Two levels deep is where one would see them.
const FOLDERS: [&str; 6] = ["/tmp", "/var/tmp", "/run", "/var/lib", "/dev/shm", "/etc"];

/// What the machine looked like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By pid and start time.
    processes: BTreeMap<(i32, u64), Process>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    links: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    command: String,
    cgroups: String,
    marked: bool,
}

/// One thing that is there now and was not before, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// "process", "mount", "cgroup", "network link", "file", with "new" or "gone".
    pub kind: &'static str,
    /// Which.
    pub what: String,
    /// Whether mezzo, or we, made it.
    pub ours: bool,
}

/// How many of each a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Processes without kernel threads.
    pub processes: usize,
    /// Of this mount namespace.
    pub mounts: usize,
    /// Of all hierarchies.
    pub cgroups: usize,
    /// Of this network namespace.
    pub links: usize,
    /// In the folders looked at.
    pub files: usize,
}

impl Snapshot {
    /// Looks at the machine.
    pub fn take() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut files = BTreeSet::new();
        for folder in FOLDERS {
            list_files(Path::new(folder), 2, &mut files);
        }
        Self {
            processes: processes(),
            cgroups: cgroup_roots(&mounts)
                .iter()
                .flat_map(|root| folders_below(root))
                .collect(),
            mounts: mounts.lines().filter_map(mount_point).collect(),
            links: names_in(Path::new("/sys/class/net")),
            files,
        }
    }

    /// How many of each.
    pub fn counts(&self) -> Counts {
        Counts {
            processes: self.processes.len(),
            mounts: self.mounts.len(),
            cgroups: self.cgroups.len(),
            links: self.links.len(),
            files: self.files.len(),
        }
    }
}

/// What counts as ours.
#[derive(Debug, Clone)]
pub struct Scope {
    /// The folder that may hold what it likes, as long as nothing of it runs or is mounted.
    pub state: PathBuf,
    /// Words in the paths of our cgroups.
    pub cgroups: Vec<String>,
}

impl Scope {
    /// Everything that any mezzo, or a library or peer of it, may have made.
    pub fn any_mezzo(state: &Path) -> Self {
        Self {
            state: state.to_path_buf(),
            cgroups: vec!["mezzo".to_owned()],
        }
    }

    /// What the clusters on these state folders make.
    pub fn of_clusters(state: &Path, clusters: &[PathBuf]) -> Self {
        Self {
            state: state.to_path_buf(),
            cgroups: clusters.iter().map(|dir| cluster_cgroup(dir)).collect(),
        }
    }

    fn has_cgroup(&self, path: &str) -> bool {
        self.cgroups.iter().any(|word| path.contains(word.as_str()))
    }
}

/// The cgroup of all containers of the cluster whose state is in `dir`: `mezzo dev` gives its agent `dir/agent`, and
/// an agent names its cgroup after its state folder.
pub fn cluster_cgroup(dir: &Path) -> String {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let hash = Sha256::digest(dir.join("agent").as_os_str().as_encoded_bytes());
    format!(
        "/mezzo-{:02x}{:02x}{:02x}{:02x}",
        hash[0], hash[1], hash[2], hash[3]
    )
}

/// All differences.
pub fn compare(before: &Snapshot, after: &Snapshot, scope: &Scope) -> Vec<Difference> {
    let state = scope.state.to_string_lossy();
    let mut found = Vec::new();
    for (key, process) in &after.processes {
        if !before.processes.contains_key(key) {
            let ours = process.marked
                || scope.has_cgroup(&process.cgroups)
                || process.command.contains(&*state);
            found.push(Difference {
                kind: "new process",
                what: format!("{} {}", key.0, process.command),
                ours,
            });
        }
    }
    found.extend(sets(
        ["new mount", "missing mount"],
        &before.mounts,
        &after.mounts,
    ));
    found.extend(sets(
        ["new network link", "missing network link"],
        &before.links,
        &after.links,
    ));
    found.extend(after.cgroups.difference(&before.cgroups).map(|path| {
        let what = path.display().to_string();
        Difference {
            kind: "new cgroup",
            ours: scope.has_cgroup(&what),
            what,
        }
    }));
    let files = after.files.difference(&before.files);
    found.extend(
        files
            .filter(|path| !path.starts_with(&scope.state))
            .map(|path| {
                let what = path.display().to_string();
                let ours = ["mezzo", "youki", "libcontainer", "crun"]
                    .iter()
                    .any(|name| what.contains(name));
                Difference {
                    kind: "new file",
                    what,
                    ours,
                }
            }),
    );
    found
}

fn sets(
    kinds: [&'static str; 2],
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
) -> Vec<Difference> {
    let new = after.difference(before).map(|what| (kinds[0], what));
    let gone = before.difference(after).map(|what| (kinds[1], what));
    let all = new.chain(gone);
    all.map(|(kind, what)| Difference {
        kind,
        what: what.clone(),
        ours: true,
    })
    .collect()
}

/// Waits until nothing of ours is left (cgroups and namespaces end a moment after their last process), then returns
/// the differences that others made. What is still there at the end is the error.
pub fn check(before: &Snapshot, scope: &Scope, within: Duration) -> Result<Vec<Difference>> {
    wait::until("the machine to be as before", within, || {
        let differences = compare(before, &Snapshot::take(), scope);
        let (ours, others): (Vec<_>, Vec<_>) = differences
            .into_iter()
            .partition(|difference| difference.ours);
        if ours.is_empty() {
            return Ok(others);
        }
        let lines: Vec<String> = ours
            .iter()
            .map(|left| format!("  {}: {}", left.kind, left.what))
            .collect();
        bail!("left behind on this machine:\n{}", lines.join("\n"))
    })
}

/// The last resort when a cluster on `state` did not end in order: kills what it started, unmounts what is mounted
/// below `state`, removes its cgroups.
pub fn sweep(state: &Path) {
    let value = format!("{MARKER}={}", state.display());
    let group = cluster_cgroup(state);
    let ours = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        environ
            .split(|&byte| byte == 0)
            .any(|word| word == value.as_bytes())
            || groups.contains(&group)
    };
    let ended = wait::until("what was killed to end", Duration::from_secs(10), || {
        let left: Vec<i32> = process_ids().filter(ours).collect();
        for &pid in &left {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if left.is_empty() {
            Ok(())
        } else {
            bail!("{left:?} are still there")
        }
    });
    if let Err(error) = ended {
        eprintln!("cleaning up {}: {error:#}", state.display());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4))
    {
        if Path::new(point).starts_with(state) {
            let _busy = umount2(point, MntFlags::MNT_DETACH);
        }
    }
    let roots = cgroup_roots(&mounts).into_iter();
    let mut groups: Vec<PathBuf> = roots
        .map(|root| root.join(group.trim_start_matches('/')))
        .flat_map(|top| folders_below(&top).into_iter().chain([top]))
        .collect();
    groups.sort();
    // Deepest first.
    for group in groups.iter().rev() {
        let _in_use = fs::remove_dir(group);
    }
}

/// Of all processes, kernel threads too.
pub(crate) fn process_ids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Field 22 of `/proc/PID/stat`. The name in field 2 may hold spaces and brackets.
pub(crate) fn start_time(stat: &str) -> Option<u64> {
    stat[stat.rfind(')')? + 1..]
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

fn processes() -> BTreeMap<(i32, u64), Process> {
    let mut found = BTreeMap::new();
    for pid in process_ids() {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let Ok(stat) = fs::read_to_string(dir.join("stat")) else {
            continue;
        };
        let Some(start) = start_time(&stat) else {
            continue;
        };
        let command = fs::read(dir.join("cmdline")).unwrap_or_default();
        let environ = fs::read(dir.join("environ")).unwrap_or_default();
        // Kernel threads and zombies have neither.
        if command.is_empty() && environ.is_empty() {
            continue;
        }
        let words: Vec<_> = command
            .split(|&byte| byte == 0)
            .map(String::from_utf8_lossy)
            .collect();
        let process = Process {
            command: words.join(" ").trim().chars().take(160).collect(),
            cgroups: fs::read_to_string(dir.join("cgroup")).unwrap_or_default(),
            marked: pid != std::process::id() as i32 && has_marker(&environ),
        };
        found.insert((pid, start), process);
    }
    found
}

fn has_marker(environ: &[u8]) -> bool {
    let marker = format!("{MARKER}=");
    environ
        .split(|&byte| byte == 0)
        .any(|word| word.starts_with(marker.as_bytes()))
}

/// "MOUNT POINT (TYPE SOURCE)" of a line of mountinfo.
fn mount_point(line: &str) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    Some(format!(
        "{} ({} {})",
        left.split(' ').nth(4)?,
        right.next()?,
        right.next()?
    ))
}

/// Mount points of cgroup hierarchies, v1 and v2.
fn cgroup_roots(mountinfo: &str) -> Vec<PathBuf> {
    let of_cgroups = mountinfo
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "));
    of_cgroups
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)))
        .collect()
}

fn folders_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(folders.map(|entry| entry.path()));
        if dir != root {
            found.push(dir);
        }
    }
    found
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn list_files(dir: &Path, depth: u32, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(entry.path());
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list_files(&entry.path(), depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
28 27 0:24 / /sys/fs/cgroup rw,relatime shared:4 - tmpfs tmpfs rw,mode=755
36 28 0:32 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu
37 28 0:33 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    fn process(command: &str, marked: bool) -> Process {
        Process {
            command: command.to_owned(),
            cgroups: "0::/user".to_owned(),
            marked,
        }
    }

    #[test]
    fn reads_mounts_and_cgroup_hierarchies() {
        let mounts: Vec<_> = MOUNTS.lines().filter_map(mount_point).collect();
        assert_eq!(mounts[1], "/sys/fs/cgroup/cpu (cgroup cgroup)");
        let roots = cgroup_roots(MOUNTS);
        assert_eq!(
            roots,
            ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from)
        );
    }

    #[test]
    fn reads_the_start_time_behind_any_name() {
        let stat = "812 (a ) b) S 1 812 812 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(start_time(stat), Some(4711));
    }

    #[test]
    fn tells_ours_from_others() {
        let before = Snapshot::default();
        let mut after = Snapshot::default();
        after
            .processes
            .insert((1, 1), process("/usr/sbin/cron", false));
        after.processes.insert((2, 1), process("mezzo agent", true));
        after.processes.insert(
            (3, 1),
            process("docker-registry serve /state/config.yml", false),
        );
        after
            .cgroups
            .insert(PathBuf::from("/sys/fs/cgroup/cpu/user.slice"));
        after
            .cgroups
            .insert(PathBuf::from("/sys/fs/cgroup/cpu/mezzo-1/a"));
        after.files.insert(PathBuf::from("/tmp/editor"));
        after.files.insert(PathBuf::from("/run/youki"));
        after.files.insert(PathBuf::from("/state/mezzo"));
        after
            .mounts
            .insert("/state/merged (overlay overlay)".to_owned());
        let found = compare(&before, &after, &Scope::any_mezzo(Path::new("/state")));
        let ours: Vec<&str> = found
            .iter()
            .filter(|one| one.ours)
            .map(|one| one.what.as_str())
            .collect();
        assert_eq!(
            ours,
            [
                "2 mezzo agent",
                "3 docker-registry serve /state/config.yml",
                "/state/merged (overlay overlay)",
                "/sys/fs/cgroup/cpu/mezzo-1/a",
                "/run/youki",
            ]
        );
        let others: Vec<&str> = found
            .iter()
            .filter(|one| !one.ours)
            .map(|one| one.what.as_str())
            .collect();
        assert_eq!(
            others,
            [
                "1 /usr/sbin/cron",
                "/sys/fs/cgroup/cpu/user.slice",
                "/tmp/editor"
            ]
        );
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let snapshot = Snapshot::take();
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(snapshot.processes.keys().any(|(pid, _)| *pid == own));
        assert!(!snapshot.mounts.is_empty());
        assert!(snapshot.links.contains("lo"));
    }
}
