//! A program's terminal, made in the container whose program it is, and handed over to who watches over the program.
//!
//! ```text
//! program's process   open (the container's own devpts), give to its user ─► send ─► streams, controlling terminal, execve
//! keeper or helper                                                            └────► receive ─► log, or the caller
//! ```
//!
//! All by descriptors: the master is opened on what must be a devpts, and its other side is asked of the master, never
//! looked up by the name that it has (CVE-2025-52565). What is typed on the terminal of a container: [`input`].

pub(crate) mod input;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{FsType, fstatfs};

use crate::beneath::Root;
use crate::sys;

/// Columns and rows of a terminal that nobody looks at.
pub(crate) const USUAL_SIZE: (u16, u16) = (80, 24);
/// What a program is told of its terminal, in `TERM`: what about everything that shows one understands.
pub(crate) const USUAL_KIND: &str = "xterm";

/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS: u32 = 0x1cd1;
/// Major and minor number of `/dev/pts/ptmx`.
const PTMX: (u64, u64) = (5, 2);

/// Both sides of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The supervisor's. Never waits.
    pub(crate) master: OwnedFd,
    /// The program's.
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// A new one of the devpts in this root, which belongs to `uid` as users are numbered there. Its group stays the one
    /// that may write to terminals.
    pub(crate) fn open(root: &Root, uid: u32, (columns, rows): (u16, u16)) -> io::Result<Self> {
        let master = root.open_device(Path::new("/dev/pts/ptmx"))?;
        let number = master.metadata()?.rdev();
        let is_devpts = fstatfs(&master)?.filesystem_type() == FsType(DEVPTS.into());
        if !is_devpts || (major(number), minor(number)) != PTMX {
            return Err(io::Error::other("/dev/pts is not what was mounted there"));
        }
        let slave = sys::terminal::open_terminal_peer(master.as_fd())?;
        nix::unistd::fchown(&slave, Some(uid.into()), None)?;
        sys::terminal::set_terminal_size(slave.as_fd(), columns, rows)?;
        Ok(Self {
            master: master.into(),
            slave,
        })
    }

    /// Both sides to whoever has the other end of this socket.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        sys::send_message(socket, b"t", &[self.master.as_fd(), self.slave.as_fd()])
    }

    /// What was sent before this is called.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let none = || io::Error::other("no terminal came");
        if !sys::wait_readable(socket, Some(Duration::ZERO))? {
            return Err(none());
        }
        let (_, fds) = sys::receive_message(socket, 16)?.ok_or_else(none)?;
        match <[OwnedFd; 2]>::try_from(fds) {
            Ok([master, slave]) => Ok(Self { master, slave }),
            Err(_) => Err(none()),
        }
    }

    /// A program's three standard streams, each of which is the terminal. The master is closed.
    pub(crate) fn into_streams(self) -> io::Result<[OwnedFd; 3]> {
        Ok([self.slave.try_clone()?, self.slave.try_clone()?, self.slave])
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};

    use super::*;

    /// The machine's own devpts, seen as a container would.
    #[test]
    fn both_sides_go_over_a_socket_and_belong_together() {
        let root = Root::open(Path::new("/")).unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let Ok(made) = Terminal::open(&root, uid, (101, 7)) else {
            eprintln!("skipped: /dev/pts is no devpts here");
            return;
        };
        let (ours, theirs) = crate::link::packet_socket_pair().unwrap();
        assert!(Terminal::receive(ours.as_fd()).is_err(), "nothing came yet");
        made.send(theirs.as_fd()).unwrap();
        drop(made);
        let received = Terminal::receive(ours.as_fd()).unwrap();
        let mut master = fs::File::from(received.master.try_clone().unwrap());
        let [_stdin, mut stdout, stderr] = received.into_streams().unwrap().map(fs::File::from);
        stdout.write_all(b"one\n").unwrap();
        drop((stdout, stderr));
        let mut text = [0; 16];
        let length = master.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"one\r\n");
    }

    #[test]
    fn what_is_no_devpts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let open = || Terminal::open(&root, 0, USUAL_SIZE).unwrap_err();
        assert_eq!(open().kind(), io::ErrorKind::NotFound);
        fs::create_dir_all(dir.path().join("dev/pts")).unwrap();
        fs::write(dir.path().join("dev/pts/ptmx"), "").unwrap();
        let problem = open().to_string();
        assert!(problem.contains("not what was mounted there"), "{problem}");
        fs::remove_file(dir.path().join("dev/pts/ptmx")).unwrap();
        std::os::unix::fs::symlink("/dev/pts/ptmx", dir.path().join("dev/pts/ptmx")).unwrap();
        assert_eq!(open().raw_os_error(), Some(libc::ELOOP));
    }
}
