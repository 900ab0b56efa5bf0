//! Where a container's root is put together: a small memory file system in a mount namespace of its own, of which the
//! host sees nothing and which ends with the container's last process.
//!
//! ```text
//! /sys/firmware        covered by the stage (only here): every kernel has it, nobody keeps anything in it, no
//!   │                  container sees it, and everybody may pass through it, also root of a user namespace,
//!   │                  who may not enter the state directory
//!   ├─ rootfs          the container's root file system
//!   ├─ layers-N        its read-only layers as its user namespace is to see their owners; volume-N: so its volumes;
//!   │                  sys: a sysfs, which a user namespace may not mount for a network that is not its own
//!   └─ start           a socket that libcontainer waits on, answered before it asks
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::StartFailure;
use crate::model::{MountSpec, Rootfs};
use crate::mount;
use crate::sys::mounts::{self, FsOption};
use crate::users::{UserRange, UserRanges};

/// A container's own users.
pub(crate) struct OwnUsers {
    pub(crate) namespace: OwnedFd,
}

impl OwnUsers {
    pub(crate) fn make(range: UserRange) -> Result<Self, StartFailure> {
        let namespace = mounts::new_user_namespace(&range.map())
            .map_err(|error| StartFailure::internal(format!("new user namespace: {error}")))?;
        Ok(Self { namespace })
    }
}

/// Mounts that were made ready for a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staged {
    /// In place of the sources of the container's binds, in their order.
    pub(crate) binds: Vec<PathBuf>,
    pub(crate) sys: PathBuf,
}

/// Whether containers can have users of their own, with what is below `dir` as their layers; if not, why.
pub(crate) fn probe_own_users(dir: &Path) -> Result<(), String> {
    let probe = || -> io::Result<()> {
        let range = UserRanges::default().first;
        let users = mounts::new_user_namespace(&format!("0 {range} 1"))?;
        let copy = mounts::clone_mount(dir, false)?;
        mounts::set_attributes(copy.as_fd(), mount::RDONLY, Some(users.as_fd()))
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if !overlays_shifted_layers(&release) {
        return Err(format!(
            "Linux {} cannot lay idmapped mounts over each other; 5.19 can",
            release.trim()
        ));
    }
    probe().map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => format!(
            "the file system of {} has no idmapped mounts; ext4, xfs, btrfs and tmpfs do",
            dir.display()
        ),
        Some(libc::ENOSPC | libc::EPERM) => {
            format!("no user namespace: {error}; see /proc/sys/user/max_user_namespaces")
        }
        _ => error.to_string(),
    })
}

/// Overlayfs takes idmapped layers from Linux 5.19 on. Pure.
fn overlays_shifted_layers(release: &str) -> bool {
    mount::version(release) >= (5, 19)
}

fn cannot_shift(path: &Path, error: &io::Error) -> StartFailure {
    let reason = match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            "its file system has no idmapped mounts, which a user namespace needs (ext4, xfs, btrfs and tmpfs have)"
                .to_owned()
        }
        _ => error.to_string(),
    };
    StartFailure::Mount {
        reason: format!("{}: {reason}", path.display()),
    }
}

/// The indices of equal values, in the order of their first. Pure.
fn groups(values: &[u64]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(u64, Vec<usize>)> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        match groups.iter_mut().find(|(known, _)| known == value) {
            Some((_, group)) => group.push(index),
            None => groups.push((*value, vec![index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The deepest directory that all of them are in or are. Pure.
fn common_parent<'a>(mut paths: impl Iterator<Item = &'a Path>) -> PathBuf {
    let mut common = paths.next().map(Path::to_owned).unwrap_or_default();
    for path in paths {
        while !path.starts_with(&common) && common.pop() {}
    }
    common
}

/// What the stage covers.
const PLACE: &str = "/sys/firmware";

/// The stage of one container, there for as long as this process's mount namespace.
pub(crate) struct Stage {
    place: PathBuf,
}

impl Stage {
    /// Gives this process a mount namespace from which nothing spreads to the host, with a stage in it.
    pub(crate) fn raise() -> Result<Self, StartFailure> {
        mount::private_namespace()?;
        let stage = Self {
            place: PathBuf::from(PLACE),
        };
        let raised = || -> io::Result<()> {
            let options = [
                FsOption::Text("mode", b"0755"),
                FsOption::Text("size", b"1m"),
            ];
            let mounted = mounts::fs_mount(c"tmpfs", &options, mount::NOSUID | mount::NODEV)?;
            mounts::attach_mount(mounted.as_fd(), fs::File::open(&stage.place)?.as_fd())?;
            fs::create_dir(stage.rootfs())
        };
        raised().map_err(|error| StartFailure::Mount {
            reason: format!("a memory file system at {PLACE}: {error}"),
        })?;
        Ok(stage)
    }

    /// Where the container's root file system is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.place.join("rootfs")
    }

    /// The same root file system with its layers as `users` is to see their owners.
    pub(crate) fn shifted(
        &self,
        rootfs: &Rootfs,
        users: &OwnUsers,
    ) -> Result<Rootfs, StartFailure> {
        match rootfs {
            Rootfs::Dir(dir) => self
                .attach_shifted("layers-0", dir, mount::NODEV, users)
                .map(Rootfs::Dir)
                .map_err(|error| cannot_shift(dir, &error)),
            Rootfs::Overlay {
                lowers,
                upper,
                work,
            } => Ok(Rootfs::Overlay {
                lowers: self.shifted_layers(lowers, users)?,
                upper: upper.clone(),
                work: work.clone(),
            }),
        }
    }

    /// Layers lie beside each other, as a rule all of them on one mount: so one idmapped mount of the directory above
    /// them will do for many.
    fn shifted_layers(
        &self,
        lowers: &[PathBuf],
        users: &OwnUsers,
    ) -> Result<Vec<PathBuf>, StartFailure> {
        let mut ids = Vec::new();
        for lower in lowers {
            ids.push(mounts::mount_id(lower).map_err(|error| cannot_shift(lower, &error))?);
        }
        let mut shifted = vec![PathBuf::new(); lowers.len()];
        for (n, group) in groups(&ids).into_iter().enumerate() {
            let above = common_parent(group.iter().map(|index| lowers[*index].as_path()));
            let name = format!("layers-{n}");
            let attributes = mount::RDONLY | mount::NODEV;
            let attached = self
                .attach_shifted(&name, &above, attributes, users)
                .map_err(|error| cannot_shift(&above, &error))?;
            for index in group {
                let below = lowers[index].strip_prefix(&above).unwrap_or(Path::new(""));
                shifted[index] = attached.join(below);
            }
        }
        Ok(shifted)
    }

    /// Volumes as `users` is to see their owners, in their order; and a sysfs of this process's network namespace.
    pub(crate) fn staged(
        &self,
        volumes: &[MountSpec],
        users: &OwnUsers,
    ) -> Result<Staged, StartFailure> {
        let mut binds = Vec::new();
        for volume in volumes {
            let MountSpec::Bind {
                source, readonly, ..
            } = volume
            else {
                continue;
            };
            let attributes =
                mount::NOSUID | mount::NODEV | if *readonly { mount::RDONLY } else { 0 };
            let name = format!("volume-{}", binds.len());
            let attached = self.attach_shifted(&name, source, attributes, users);
            binds.push(attached.map_err(|error| cannot_shift(source, &error))?);
        }
        let sys = self.place.join("sys");
        let mounted = || -> io::Result<()> {
            let attributes = mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC;
            let mounted = mounts::fs_mount(c"sysfs", &[], attributes)?;
            fs::create_dir(&sys)?;
            mounts::attach_mount(mounted.as_fd(), fs::File::open(&sys)?.as_fd())
        };
        mounted().map_err(|error| StartFailure::Mount {
            reason: format!("a sysfs: {error}"),
        })?;
        Ok(Staged { binds, sys })
    }

    fn attach_shifted(
        &self,
        name: &str,
        source: &Path,
        attributes: u32,
        users: &OwnUsers,
    ) -> io::Result<PathBuf> {
        let target = self.place.join(name);
        let copy = mounts::clone_mount(source, true)?;
        mounts::set_attributes(copy.as_fd(), attributes, Some(users.namespace.as_fd()))?;
        if fs::metadata(source)?.is_dir() {
            fs::create_dir(&target)?;
        } else {
            fs::File::create(&target)?;
        }
        mounts::attach_mount(copy.as_fd(), fs::File::open(&target)?.as_fd())?;
        Ok(target)
    }

    /// Its own directory, which no container sees.
    pub(crate) fn dir(&self) -> &Path {
        &self.place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_on_one_mount_share_the_directory_above_them() {
        assert_eq!(groups(&[7, 7, 9, 7]), [vec![0, 1, 3], vec![2]]);
        let parent = |paths: &[&str]| common_parent(paths.iter().map(Path::new));
        assert_eq!(
            parent(&["/s/layers/a/fs", "/s/layers/b/fs"]),
            Path::new("/s/layers")
        );
        assert_eq!(parent(&["/s/layers/a"]), Path::new("/s/layers/a"));
        assert_eq!(parent(&["/s/ab", "/s/a"]), Path::new("/s"));
        assert_eq!(parent(&["/s", "/t"]), Path::new("/"));
    }

    #[test]
    fn kernels_that_overlay_shifted_layers_are_known() {
        assert!(overlays_shifted_layers("6.1.0-56-cloud-amd64\n"));
        assert!(overlays_shifted_layers("5.19.0"));
        assert!(!overlays_shifted_layers("5.15.0-101-generic"));
        assert!(!overlays_shifted_layers(""));
    }
}
