//! The runtime's side of the launcher: starting one from a sealed copy of the program, sending it requests, and
//! starting another when it is gone. One mechanism serves the first start and every later one.

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::launcher::{ARGV0, MARK};
use crate::model::LauncherProgram;
use crate::protocol::{MAX_MESSAGE, Ready, Request};
use crate::sys;

/// Longest wait for a launcher to take a request.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the kernel to let go of the pages of the program's copy.
const SEAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts launchers and talks to the present one.
#[derive(Debug)]
pub(crate) struct LauncherLink {
    program: File,
    keepers_cgroup: String,
    present: Mutex<Option<Present>>,
}

#[derive(Debug)]
struct Present {
    socket: AsyncFd<OwnedFd>,
    child: Child,
}

impl LauncherLink {
    /// Makes the sealed copy. Nothing is started yet.
    pub(crate) fn new(program: &LauncherProgram, keepers_cgroup: String) -> io::Result<Self> {
        let source = match program {
            LauncherProgram::CurrentExe => File::open("/proc/self/exe")?,
            LauncherProgram::Path(path) => File::open(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?,
        };
        Ok(Self {
            program: sealed_copy(source)?,
            keepers_cgroup,
            present: Mutex::new(None),
        })
    }

    /// Makes sure that a launcher runs.
    pub(crate) async fn ensure(&self) -> io::Result<()> {
        let mut present = self.present.lock().await;
        self.ensure_locked(&mut present).await
    }

    async fn ensure_locked(&self, present: &mut Option<Present>) -> io::Result<()> {
        if let Some(launcher) = present {
            match launcher.child.try_wait() {
                Ok(None) => return Ok(()),
                Ok(Some(status)) => tracing::warn!(%status, "launcher is gone, starting another"),
                Err(error) => {
                    tracing::warn!(%error, "launcher cannot be waited for, starting another")
                }
            }
        }
        *present = Some(self.spawn().await?);
        Ok(())
    }

    async fn spawn(&self) -> io::Result<Present> {
        let (ours, theirs) = packet_socket_pair()?;
        let path = format!("/proc/self/fd/{}", self.program.as_raw_fd());
        let child = Command::new(path)
            .arg0(ARGV0)
            .arg(MARK)
            .arg(&self.keepers_cgroup)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        let socket = non_blocking(ours)?;
        match tokio::time::timeout(SEND_TIMEOUT, receive::<Ready>(&socket)).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => {
                return Err(io::Error::other(
                    "the launcher ended at once; its standard error says why",
                ));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the launcher does not become ready",
                ));
            }
        }
        tracing::debug!(pid = child.id(), "launcher started");
        Ok(Present { socket, child })
    }

    /// Sends a request and its descriptors; starts a new launcher, once, if the present one is gone.
    pub(crate) async fn request(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(request).map_err(io::Error::other)?;
        if bytes.len() > MAX_MESSAGE {
            let text = format!(
                "the request takes {} bytes, at most {MAX_MESSAGE} can be sent",
                bytes.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut present = self.present.lock().await;
        for attempt in 0..2 {
            self.ensure_locked(&mut present).await?;
            let Some(launcher) = present.as_mut() else {
                continue;
            };
            let sending = launcher.socket.async_io(Interest::WRITABLE, |socket| {
                sys::send_message(socket.as_fd(), &bytes, fds)
            });
            match tokio::time::timeout(SEND_TIMEOUT, sending).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if attempt == 0 => {
                    tracing::warn!(%error, "launcher does not take a request, starting another");
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => tracing::warn!("launcher is stuck, starting another"),
            }
            if let Some(mut launcher) = present.take() {
                let _ = launcher.child.start_kill();
                let _ = tokio::time::timeout(SEND_TIMEOUT, launcher.child.wait()).await;
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no launcher takes the request",
        ))
    }

    /// Ends the launcher and waits until it is gone.
    pub(crate) async fn close(&self) {
        if let Some(Present { socket, mut child }) = self.present.lock().await.take() {
            drop(socket);
            if tokio::time::timeout(SEND_TIMEOUT, child.wait())
                .await
                .is_err()
            {
                let _ = child.kill().await;
            }
        }
    }

    /// The launcher's process id, for tests and diagnosis.
    pub(crate) async fn pid(&self) -> Option<u32> {
        self.present
            .lock()
            .await
            .as_ref()
            .and_then(|launcher| launcher.child.id())
    }
}

/// A copy of a program in memory that nobody can change any more.
fn sealed_copy(mut source: File) -> io::Result<File> {
    const MFD_EXEC: u32 = 0x10;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, later ones may make memory files not executable without it.
    let copy = memfd_create(
        "mezzo-launcher",
        flags | MFdFlags::from_bits_retain(MFD_EXEC),
    )
    .or_else(|_| memfd_create("mezzo-launcher", flags))?;
    let mut copy = File::from(copy);
    source.rewind()?;
    io::copy(&mut source, &mut copy)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    seal(&copy, seals, Instant::now() + SEAL_TIMEOUT)?;
    Ok(copy)
}

/// Adds seals. The kernel refuses the one against writing while anything else holds one of the file's pages, which it does
/// itself for a while when it moves memory or writes it back: tried again until the deadline.
fn seal(file: &File, seals: SealFlag, deadline: Instant) -> io::Result<()> {
    loop {
        match fcntl(file, FcntlArg::F_ADD_SEALS(seals)) {
            Ok(_) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                let text = format!("its copy in memory cannot be sealed: {}", error.desc());
                return Err(io::Error::new(io::Error::from(error).kind(), text));
            }
        }
    }
}

/// Two connected sockets that keep messages apart.
pub(crate) fn packet_socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Hands a descriptor to tokio.
pub(crate) fn non_blocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = nix::fcntl::OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(
        &fd,
        FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    sys::register(fd, Interest::READABLE | Interest::WRITABLE)
}

/// Receives one message; `None` when the other side is gone.
pub(crate) async fn receive<T: DeserializeOwned>(
    socket: &AsyncFd<OwnedFd>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let message = socket
        .async_io(Interest::READABLE, |socket| {
            sys::receive_message(socket.as_fd(), MAX_MESSAGE)
        })
        .await;
    let Some((bytes, fds)) = (match message {
        // A process that died with our messages unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        other => other?,
    }) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::fcntl::{SpliceFFlags, splice};

    use super::*;

    /// A file in memory of which a pipe holds a page.
    fn held() -> (File, io::PipeReader) {
        let mut file = File::from(memfd_create("mezzo-test", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.write_all(&[1; 4096]).unwrap();
        file.rewind().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let flags = SpliceFFlags::empty();
        assert_eq!(
            splice(&file, None, &writer, None, 4096, flags),
            Ok(4096),
            "a page goes into the pipe"
        );
        (file, reader)
    }

    #[test]
    fn a_copy_is_sealed_once_nobody_holds_its_pages() {
        let (file, mut reader) = held();
        let error = seal(&file, SealFlag::F_SEAL_WRITE, Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("sealed"), "{error}");
        let letting_go = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            reader.read_exact(&mut [0; 4096]).unwrap();
            reader
        });
        seal(&file, SealFlag::F_SEAL_WRITE, Instant::now() + SEAL_TIMEOUT).unwrap();
        assert!((&file).write(&[2]).is_err());
        letting_go.join().unwrap();
    }
}
