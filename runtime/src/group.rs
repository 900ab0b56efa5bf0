//! What the members of a group share, seen from the process that makes a member: the holder's namespaces, entered
//! through its pidfd, and the memory file systems in its mount namespace, of which copies are taken.
//!
//! The holder is a container as any other (keeper, lock, records, exit), whose first process executes nothing and waits
//! ([`crate::executor`]). So the namespaces live as long as the holder or a member does, whatever becomes of an agent
//! or a launcher, and recovery has nothing new to decide. Put aside: the first member as the holder (then an init
//! task's end would take the network along), and namespaces pinned by mounts (they outlive who made them).
//!
//! ```text
//! containers/GROUP           the control group with the group's limits
//!   ├─ .holder               the holder's own
//!   └─ MEMBER                each member's
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::error::StartFailure;
use crate::model::{MountSpec, SHARED_VOLUMES};
use crate::process::ProcessRef;
use crate::stage::{OwnUsers, Stage};
use crate::sys;
use crate::sys::mounts;

/// The holder's place beneath the group's control group; no container can have this name.
pub(crate) const HOLDER_CGROUP: &str = ".holder";

/// The control group above a holder's or member's own. Pure.
pub(crate) fn cgroup_above(cgroup: &str) -> &str {
    cgroup.rsplit_once('/').map_or("", |(above, _)| above)
}

/// Mounts of the holder that were made ready for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    /// In place of a `/dev/shm` of its own.
    pub(crate) shm: PathBuf,
    /// In place of the sources of the container's shared volumes, in their order.
    pub(crate) volumes: Vec<PathBuf>,
}

/// The holder of the group that a container is made a member of.
#[derive(Debug)]
pub(crate) struct Holder {
    process: ProcessRef,
    pidfd: OwnedFd,
}

impl Holder {
    pub(crate) fn open(process: ProcessRef) -> Result<Self, StartFailure> {
        let pidfd = process.open().ok_or_else(gone)?;
        Ok(Self { process, pidfd })
    }

    /// The user namespace, for members of a group with users of its own.
    pub(crate) fn users(&self) -> Result<OwnUsers, StartFailure> {
        let path = format!("/proc/{}/ns/user", self.process.pid);
        let namespace = File::open(&path).map_err(|error| failed(&path, &error))?;
        // Still there: so the number was still its own when the file was opened.
        if sys::wait_readable(self.pidfd.as_fd(), Some(Duration::ZERO))
            .map_err(|error| failed("looking at the holder", &error))?
        {
            return Err(gone());
        }
        Ok(OwnUsers {
            namespace: namespace.into(),
        })
    }

    /// Moves this process, which has one thread, into the network and the IPC namespace.
    pub(crate) fn enter(&self) -> Result<(), StartFailure> {
        let shared = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
        setns(&self.pidfd, shared)
            .map_err(|error| failed("entering the group's namespaces", &error.into()))
    }

    /// Takes copies of the memory file systems that the holder has for its members, onto the stage. Nobody in the group
    /// can put something else in their place: they are mount points of a mount namespace in which only the holder is,
    /// and links on the way are not followed.
    pub(crate) fn share(
        &self,
        stage: &Stage,
        mounts: &[MountSpec],
    ) -> Result<Shared, StartFailure> {
        let mut sources = vec![PathBuf::from("/dev/shm")];
        sources.extend(mounts.iter().filter_map(|mount| match mount {
            MountSpec::Shared { volume, .. } => Some(Path::new(SHARED_VOLUMES).join(volume)),
            MountSpec::Bind { .. } | MountSpec::Tmpfs { .. } => None,
        }));
        let copies = self
            .copies(&sources)
            .map_err(|error| failed("the group's memory file systems", &error))?;
        let mut placed = Vec::new();
        for (index, copy) in copies.iter().enumerate() {
            let name = format!("shared-{index}");
            let place = stage.attach(&name, copy.as_fd());
            placed.push(place.map_err(|error| failed("the group's memory file systems", &error))?);
        }
        let volumes = placed.split_off(1);
        match placed.pop() {
            Some(shm) => Ok(Shared { shm, volumes }),
            None => Err(StartFailure::internal("no /dev/shm was copied")),
        }
    }

    /// Mounts can be copied only from within their mount namespace.
    fn copies(&self, sources: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
        let own = File::open("/proc/self/ns/mnt")?;
        setns(&self.pidfd, CloneFlags::CLONE_NEWNS)?;
        let copies = sources
            .iter()
            .map(|source| {
                // A mount point is on another mount than what it is in.
                let above = source.parent().unwrap_or(Path::new("/"));
                if fs::canonicalize(source)? != *source
                    || mounts::mount_id(source)? == mounts::mount_id(above)?
                {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        format!("the holder has no {}", source.display()),
                    ));
                }
                mounts::clone_mount(source, false)
            })
            .collect();
        setns(&own, CloneFlags::CLONE_NEWNS)?;
        copies
    }
}

fn gone() -> StartFailure {
    StartFailure::internal("the holder of its group is gone")
}

fn failed(what: &str, error: &io::Error) -> StartFailure {
    StartFailure::internal(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_control_group_is_beneath_the_groups() {
        assert_eq!(
            cgroup_above("/mezzo/containers/g/web.1"),
            "/mezzo/containers/g"
        );
        assert_eq!(
            cgroup_above("/mezzo/containers/g/.holder"),
            "/mezzo/containers/g"
        );
    }
}
