//! What a container sees, made by its own first process: namespaces, file systems, devices, what is hidden from it, and
//! at last the switch to the new root. Carries out the parts of an OCI specification that are about places; who the
//! process is (user, capabilities, limits) libcontainer does afterwards.
//!
//! All through descriptors: a path is resolved beneath the root once ([`crate::beneath`]), a mount is made detached and
//! attached to what was found (fsopen(2), open_tree(2), move_mount(2)). An image's links lead nowhere else, and nobody
//! can exchange a name in between. libcontainer does the same by way of a file system of its own for each step, which
//! is 700 system calls and a fifth of a start (docs/benchmarks.md).

mod devices;
mod hidden;
mod mounts;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use oci_spec::runtime::Spec;

use crate::beneath::Root;
use crate::error::StartFailure;
use crate::mount::RDONLY;
use crate::program;
use crate::spec::devices::HostDevice;
use crate::sys;
use crate::terminal::Terminal;

/// What of the host goes into a container.
pub(crate) struct Inside<'a> {
    pub(crate) spec: &'a Spec,
    /// The mount that becomes the root.
    pub(crate) rootfs: &'a Path,
    pub(crate) devices: &'a [HostDevice],
    /// Whether this process is in a user namespace of the container.
    pub(crate) own_users: bool,
    /// Whether it is in the IPC namespace that it is to have: its group's.
    pub(crate) in_group: bool,
    /// Whether the program has a terminal.
    pub(crate) terminal: bool,
}

/// What was opened inside for the program.
pub(crate) struct Opened {
    /// The container's own `/dev/null`.
    pub(crate) null: File,
    /// The terminal that its `/dev/console` is.
    pub(crate) terminal: Option<Terminal>,
}

impl Inside<'_> {
    /// Makes it all and enters it.
    pub(crate) fn enter(&self) -> Result<Opened, StartFailure> {
        self.namespaces()?;
        let before = umask(Mode::empty());
        let opened = self.build()?;
        umask(before);
        Ok(opened)
    }

    fn build(&self) -> Result<Opened, StartFailure> {
        let root = Root::open(self.rootfs).map_err(failed("the root file system"))?;
        // What is mounted first there is this container's own, whatever may be mounted over it.
        let mut dev = None;
        for mount in self.spec.mounts().iter().flatten() {
            let target = mount.destination();
            mounts::make(&root, mount).map_err(failed(target.display()))?;
            if dev.is_none() && target == Path::new("/dev") {
                dev = Some(root.find(target).map_err(failed(target.display()))?);
            }
        }
        devices::make(&root, self.devices, self.own_users)?;
        let uid = program::uid(self.spec);
        let terminal = self.terminal.then(|| devices::console(&root, uid));
        let terminal = terminal.transpose()?;
        let linux = self.spec.linux().as_ref();
        let paths =
            |paths: Option<&Option<Vec<String>>>| paths.cloned().flatten().unwrap_or_default();
        hidden::make_read_only(&root, &paths(linux.map(|linux| linux.readonly_paths())))?;
        let masked = paths(linux.map(|linux| linux.masked_paths()));
        let no_dev = || StartFailure::internal("the specification has no /dev");
        hidden::mask(&root, &masked, &dev.ok_or_else(no_dev)?)?;
        let readonly = self.spec.root().as_ref().and_then(|root| root.readonly());
        if readonly == Some(true) {
            sys::mounts::set_own_attributes(root.dir().as_fd(), RDONLY)
                .map_err(failed("the root file system, read-only"))?;
        }
        let null = devices::open_null(&root)?;
        switch_root(&root).map_err(failed("the switch to the new root"))?;
        Ok(Opened { null, terminal })
    }

    /// All that are still to be made, in one step: pid, network and user namespace have been entered.
    fn namespaces(&self) -> Result<(), StartFailure> {
        let internal =
            |what: &str, error: nix::Error| StartFailure::internal(format!("{what}: {error}"));
        let mut flags = CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
        if !self.in_group {
            flags |= CloneFlags::CLONE_NEWIPC;
        }
        // The mount namespace of the process that forked this one is ours alone, but the host's root made it: root of a
        // user namespace may mount only where that namespace is the owner.
        if self.own_users {
            flags |= CloneFlags::CLONE_NEWNS;
        }
        nix::sched::unshare(flags).map_err(|error| internal("new namespaces", error))?;
        if let Some(name) = self.spec.hostname() {
            nix::unistd::sethostname(name).map_err(|error| internal("the host name", error))?;
        }
        if self.own_users {
            // What was mounted by somebody with more rights is locked in place, but a copy is not.
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(
                Some(self.rootfs),
                self.rootfs,
                None::<&str>,
                flags,
                None::<&str>,
            )
            .map_err(|error| failed("the root file system")(error.into()))?;
        }
        Ok(())
    }
}

/// The failure of a mount, with where it was to be.
fn failed(what: impl std::fmt::Display) -> impl Fn(io::Error) -> StartFailure {
    move |error| StartFailure::Mount {
        reason: format!("{what}: {error}"),
    }
}

/// Makes the root of this mount namespace what was mounted for it, with nothing left of the old one.
fn switch_root(root: &Root) -> io::Result<()> {
    let old = File::open("/")?;
    nix::unistd::fchdir(root.dir())?;
    // The old root comes to lie over the new one (pivot_root(2)), from where it is taken.
    nix::unistd::pivot_root(".", ".")?;
    nix::unistd::fchdir(&old)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    Ok(())
}
