//! Protection of memory (`memory.low`) above the containers. The kernel gives a cgroup no more of it than each cgroup above
//! has, so that a container's own counts for nothing until those above have it too. They get the sum of what is below
//! them, not "max": where cgroups are mounted with `memory_recursiveprot`, as systemd does, what nobody below asked for goes
//! to all, and "max" would protect every container from the rest of the machine.
//!
//! ```text
//! CGROUP_PARENT          the sum, if it is ours: of a unit it is systemd's to set (MemoryLow=)
//!   └─ containers        the sum
//!        ├─ CONTAINER    what was asked for
//!        └─ GROUP        the sum of its members'
//!             └─ MEMBER  what was asked for
//! ```
//!
//! By level: everything is read anew each time, so that it does not matter what changed, or whether somebody died in between.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{CgroupMode, Hierarchies, at, stats};
use crate::group::{HOLDER_CGROUP, cgroup_above};

const LOW: &str = "memory.low";

/// Held from the first look to the last write, or an older sum could be written over a newer one. It guards files of the
/// kernel, not data.
static CARRYING: Mutex<()> = Mutex::new(());

impl Hierarchies {
    /// Gives what is above the containers the protection that they have together. `containers` is the cgroup that all of
    /// them are below.
    pub(crate) fn carry_memory_low(&self, containers: &str) {
        self.carry_low_if(containers, |_| true);
    }

    /// The same after a container's end, where any protection was carried.
    pub(crate) fn carry_less_memory_low(&self, containers: &str) {
        self.carry_low_if(containers, |dir| read(dir) > 0);
    }

    fn carry_low_if(&self, containers: &str, needed: impl FnOnce(&Path) -> bool) {
        let (CgroupMode::V2, Some(dir)) = (self.mode, self.unified_dir(containers)) else {
            return;
        };
        let _one_at_a_time = CARRYING.lock().unwrap_or_else(PoisonError::into_inner);
        if !needed(&dir) {
            return;
        }
        let parent = cgroup_above(containers);
        let above = self.unified_dir(parent).filter(|_| is_ours(parent));
        if let Err(error) = carry(&dir, above.as_deref()) {
            tracing::warn!(containers, %error, "memory.low of containers has less effect than asked for");
        }
    }
}

/// Whether that cgroup is neither the root nor a unit of systemd, which alone writes to its units' own files. Pure.
fn is_ours(cgroup: &str) -> bool {
    let name = cgroup.rsplit('/').next().unwrap_or_default();
    let unit = [".service", ".scope", ".slice"];
    !name.is_empty() && !unit.iter().any(|end| name.ends_with(end))
}

fn carry(containers: &Path, above: Option<&Path>) -> io::Result<()> {
    let mut sum = 0_u64;
    for dir in children(containers)? {
        if dir.join(HOLDER_CGROUP).is_dir() {
            let members = children(&dir)?;
            let members = members.iter().map(|member| read(member));
            write(&dir, members.fold(0, u64::saturating_add))?;
        }
        sum = sum.saturating_add(read(&dir));
    }
    above.map_or(Ok(()), |above| write(above, sum))?;
    write(containers, sum)
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(|error| at(dir, error))?;
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// What a cgroup has; one that is gone, or has no such file, has none.
fn read(dir: &Path) -> u64 {
    match fs::read_to_string(dir.join(LOW)) {
        Ok(text) if text.trim() == "max" => u64::MAX,
        Ok(text) => stats::parse_single(&text).unwrap_or(0),
        Err(_) => 0,
    }
}

/// Only what changes is written; a cgroup that is gone, or was not given the controller, has nothing to protect.
fn write(dir: &Path, low: u64) -> io::Result<()> {
    let file = dir.join(LOW);
    if !file.exists() || read(dir) == low {
        return Ok(());
    }
    let text = match low {
        u64::MAX => "max".to_owned(),
        bytes => bytes.to_string(),
    };
    match fs::write(&file, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(|error| at(&file, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cgroups with what each has.
    fn tree(cgroups: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (cgroup, low) in cgroups {
            let dir = root.path().join(cgroup);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(LOW), low).unwrap();
        }
        root
    }

    #[test]
    fn cgroups_above_have_the_sum_of_what_is_below_and_groups_that_of_their_members() {
        let root = tree(&[
            ("p", "0\n"),
            ("p/containers", "7\n"),
            ("p/containers/one", "100\n"),
            ("p/containers/none", "0\n"),
            // What a container makes below itself is its own affair.
            ("p/containers/one/inner", "5000\n"),
            ("p/containers/pod", "0\n"),
            ("p/containers/pod/.holder", "0\n"),
            ("p/containers/pod/a", "20\n"),
            ("p/containers/pod/b", "3\n"),
        ]);
        let (parent, containers) = (root.path().join("p"), root.path().join("p/containers"));
        carry(&containers, Some(&parent)).unwrap();
        let low = |dir: &Path| read(dir);
        assert_eq!(
            (low(&parent), low(&containers), low(&containers.join("pod"))),
            (123, 123, 23)
        );
        // One ends, and a sum that no number holds is all there is.
        fs::remove_dir_all(containers.join("pod/a")).unwrap();
        fs::write(containers.join("none").join(LOW), "max\n").unwrap();
        carry(&containers, None).unwrap();
        let text = fs::read_to_string(containers.join(LOW)).unwrap();
        assert_eq!((text.as_str(), low(&containers.join("pod"))), ("max", 3));
        assert_eq!(low(&parent), 123, "it was not told of");
    }

    #[test]
    fn without_the_controller_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("containers")).unwrap();
        carry(&root.path().join("containers"), Some(root.path())).unwrap();
        assert!(!root.path().join(LOW).exists());
    }

    #[test]
    fn units_of_systemd_are_its_own() {
        for (cgroup, ours) in [
            ("/mezzo-1a2b", true),
            ("/system.slice/mezzo-tasks.service/own", true),
            ("/system.slice/mezzo-tasks.service", false),
            ("/machine.slice", false),
            ("/user.slice/x.scope", false),
            ("", false),
            ("/", false),
        ] {
            assert_eq!(is_ours(cgroup), ours, "{cgroup}");
        }
    }
}
