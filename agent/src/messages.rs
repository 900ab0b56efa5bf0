//! Delivers a framework's message to a task: one datagram on `messages.sock`, which the task may bind in its sandbox.
//!
//! The sandbox belongs to the task, so nothing in it is followed: the socket is opened beneath the sandbox without
//! links, checked to be a socket, and addressed through the descriptor.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::FileTypeExt as _, net::UnixDatagram},
    },
    path::Path,
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

/// Sends without waiting; a task that does not listen or whose queue is full misses the message.
pub(crate) fn deliver(sandbox: &Path, data: &[u8]) -> io::Result<()> {
    let folder = File::open(sandbox)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .mode(Mode::empty())
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    let socket = File::from(openat2(&folder, "messages.sock", how)?);
    if !socket.metadata()?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "messages.sock is no socket",
        ));
    }
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    let sent = sender.send_to(data, format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    if sent == data.len() {
        Ok(())
    } else {
        Err(io::Error::other("the message was cut short"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_socket_gets_the_message_and_a_link_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (sandbox, outside) = (dir.path().join("sandbox"), dir.path().join("outside.sock"));
        std::fs::create_dir(&sandbox).unwrap();
        assert_eq!(
            deliver(&sandbox, b"x").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let receiver = UnixDatagram::bind(sandbox.join("messages.sock")).unwrap();
        deliver(&sandbox, b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
        std::fs::remove_file(sandbox.join("messages.sock")).unwrap();
        let _outside = UnixDatagram::bind(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, sandbox.join("messages.sock")).unwrap();
        assert!(deliver(&sandbox, b"x").is_err());
        std::fs::remove_file(sandbox.join("messages.sock")).unwrap();
        std::fs::write(sandbox.join("messages.sock"), "").unwrap();
        assert!(deliver(&sandbox, b"x").is_err());
    }
}
