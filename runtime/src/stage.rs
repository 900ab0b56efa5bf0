//! Where a container's root is put together: a small memory file system in a mount namespace of its own, of which the
//! host sees nothing and which ends with the container's last process.
//!
//! ```text
//! /sys/firmware        covered by the stage (only here): every kernel has it, nobody keeps anything in it, no
//!   │                  container sees it, and everybody may pass through it, also root of a user namespace,
//!   │                  who may not enter the state directory
//!   ├─ rootfs          the container's root file system
//!   └─ start           a socket that libcontainer waits on, answered before it asks
//! ```

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use libcontainer::notify_socket::NotifyListener;

use crate::error::StartFailure;
use crate::mount;
use crate::sys::{self, FsOption};

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
            let mounted = sys::fs_mount(c"tmpfs", &options, mount::NOSUID | mount::NODEV)?;
            sys::attach_mount(mounted.as_fd(), fs::File::open(&stage.place)?.as_fd())?;
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

    /// libcontainer's word to go: given already, because our own word comes earlier (see `container`).
    pub(crate) fn started(&self) -> Result<NotifyListener, StartFailure> {
        let path = self.place.join("start");
        let listener = NotifyListener::new(&path).map_err(StartFailure::internal)?;
        UnixStream::connect(&path).map_err(StartFailure::internal)?;
        Ok(listener)
    }
}
