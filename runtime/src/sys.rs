//! Every unsafe block of the crate: raw system calls that `nix` has no safe form for, forking, and taking
//! ownership of descriptors that arrive over a socket. Each wrapper is safe to call; what a caller must still
//! mind (only fork while single-threaded) is said at the function.

#![expect(unsafe_code, reason = "the one place for it; see the house style")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

pub(crate) mod creator;
pub(crate) mod disk;
pub(crate) mod mounts;
pub(crate) mod terminal;

/// Which side of a fork this is.
pub(crate) enum Forked {
    Parent(i32),
    Child,
}

/// Forks. Only for the launcher and what descends from it, which have one thread.
pub(crate) fn fork_single_threaded() -> io::Result<Forked> {
    // SAFETY: launcher and helpers never start a thread, a keeper only after its last fork, so no lock of libc or of the
    // allocator can be held by somebody else at this moment, and the child may go on to run ordinary code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Forks a child that begins in the cgroup of version 2 behind `cgroup`, if there is one, and with new namespaces as these
/// flags (CLONE_NEW*) say: a process that is moved into a cgroup later waits for a grace period of RCU, milliseconds. Only
/// for a process with one thread.
pub(crate) fn fork_into(
    cgroup: Option<BorrowedFd<'_>>,
    namespaces: libc::c_int,
) -> io::Result<Forked> {
    // libc's own constant is too narrow for it.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: all zero is a valid `clone_args`: no flags, no stack of its own, nothing written anywhere.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::try_from(namespaces).map_err(io::Error::other)?;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    // SAFETY: without a stack and without shared memory this is a fork, in a process with one thread as in
    // `fork_single_threaded`. The raw call leaves out the C library's handlers for forks, of which we have none.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(
            i32::try_from(pid).map_err(io::Error::other)?,
        )),
    }
}

/// Forks a child of this process's own parent, with new namespaces as these flags (CLONE_NEW*) say. Only for a process
/// with one thread.
pub(crate) fn fork_sibling(namespaces: libc::c_int) -> io::Result<Forked> {
    let flags = libc::CLONE_PARENT | namespaces;
    // SAFETY: without a stack and without shared memory this is a fork, in a process with one thread as in
    // `fork_single_threaded`. The raw call leaves out the C library's handlers for forks, of which we have none.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(
            i32::try_from(pid).map_err(io::Error::other)?,
        )),
    }
}

/// Gives what the allocator holds and nobody uses back to the kernel, and puts the rest in order: a process forked
/// afterwards need not, and keeps its pages shared.
pub(crate) fn tidy_heap() {
    // SAFETY: takes a number; the allocator's own locks make it safe at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ends a forked child without running the parent's exit handlers or destructors.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Opens a descriptor that stands for process `pid`, whatever happens to the number afterwards.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; a result that is not negative is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        owned(fd)
    }
}

/// Sends a signal to the process behind a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits until `fd` is readable or hung up; `false` when the time is over.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut item = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = timeout.map_or(-1, |time| {
        i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
    });
    loop {
        // SAFETY: one pollfd that lives through the call.
        let ready = unsafe { libc::poll(&raw mut item, 1, millis) };
        if ready >= 0 {
            return Ok(ready > 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends one message with descriptors over a sequenced-packet socket.
pub(crate) fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[io::IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::Error::other("the message was sent in part")),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Most descriptors that one message may carry.
const MAX_FDS: usize = 8;

/// Receives one message and the descriptors that came with it; `None` at the end of the stream.
pub(crate) fn receive_message(
    socket: BorrowedFd<'_>,
    max_bytes: usize,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    // As long as the message and no longer: a big buffer, written anew for each request, would leave every keeper
    // forked meanwhile with a copy of the old one.
    let mut buffer = vec![0_u8; next_length(socket)?.min(max_bytes)];
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let (length, truncated, fds) = loop {
        let mut slices = [io::IoSliceMut::new(&mut buffer)];
        match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs().map_err(io::Error::from)? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        for fd in raw {
                            // SAFETY: the kernel has just put this descriptor into our table for us alone.
                            fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                        }
                    }
                }
                break (
                    message.bytes,
                    message.flags.contains(MsgFlags::MSG_TRUNC),
                    fds,
                );
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if truncated {
        return Err(io::Error::other("the message is longer than allowed"));
    }
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    buffer.truncate(length);
    Ok(Some((buffer, fds)))
}

/// The length of the next packet; what fits a page for sockets that know no packets.
fn next_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, sockopt};
    if getsockopt(&socket, sockopt::SockType)? == SockType::Stream {
        return Ok(4096);
    }
    loop {
        match recv(
            socket.as_raw_fd(),
            &mut [],
            MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC,
        ) {
            // One byte more, so that the end of the stream and an empty buffer are not the same.
            Ok(length) => return Ok(length + 1),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Puts every signal back to its default action and unblocks all: an ignored signal survives `execve`, and a
/// container must not inherit what the supervisor ignores.
pub(crate) fn reset_signals() {
    /// The kernel's own form of `sigaction`; all zero means the default action.
    #[repr(C)]
    #[derive(Default)]
    struct KernelSigaction {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let default = KernelSigaction::default();
    for signal in 1..=64 {
        // SAFETY: the struct lives through the call and has the size that is told. The raw call, because libc
        // hides signals 32 and 33, which are inherited like the others.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null::<libc::c_void>(),
                8,
            );
        }
    }
    // SAFETY: an empty, initialised set is passed to a call that copies it.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Ignores one signal in this process.
pub(crate) fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is valid for every catchable signal.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives a signal its default action back.
pub(crate) fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL is valid for every signal.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Loads a compiled seccomp program for the calling thread, which must have `no_new_privs` set.
pub(crate) fn load_seccomp(program: &[u8]) -> io::Result<()> {
    let size = size_of::<libc::sock_filter>();
    let length = u16::try_from(program.len() / size)
        .map_err(|_| io::Error::other("the seccomp program is too long"))?;
    // Copied so that the instructions are aligned, whatever the bytes came from.
    let mut filters: Vec<libc::sock_filter> = Vec::with_capacity(usize::from(length));
    for chunk in program.chunks_exact(size) {
        filters.push(libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        });
    }
    let header = libc::sock_fprog {
        len: length,
        filter: filters.as_mut_ptr(),
    };
    // SAFETY: the header points to `length` initialised instructions that live through the call; the kernel
    // copies and checks them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const header,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes into a descriptor that the caller's process holds but does not own as a Rust value.
pub(crate) fn write_raw(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and the length describe a live slice; a bad descriptor is an error result.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Reads one byte from a descriptor that the caller's process holds but does not own as a Rust value; `false` at the
/// end of the stream.
pub(crate) fn read_byte(fd: RawFd) -> bool {
    let mut byte = 0_u8;
    loop {
        // SAFETY: one byte that lives through the call; a bad descriptor is an error result.
        match unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } {
            1 => return true,
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

/// Whether the other end of the pipe or socket `fd` is gone.
pub(crate) fn is_hung_up(fd: RawFd) -> bool {
    let mut item = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that lives through the call.
    let ready = unsafe { libc::poll(&raw mut item, 1, 0) };
    ready > 0 && item.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
}

/// Closes a descriptor that was inherited over a fork and that no Rust value of this process owns.
pub(crate) fn close_raw(fd: RawFd) {
    // SAFETY: closing an integer; callers pass only descriptors that no other value here closes.
    unsafe { libc::close(fd) };
}

/// Moves this thread into a network namespace of its own, with loopback up.
pub(crate) fn new_network_namespace() -> io::Result<()> {
    let named =
        |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|error| named("new network namespace", error.into()))?;
    loopback_up().map_err(|error| named("bringing loopback up", error))
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: a fresh socket that we own; ifreq is plain data, zeroed, with a name shorter than its field; both
    // ioctls read and write just that struct.
    unsafe {
        let socket = owned(i64::from(libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        )))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Marks every descriptor from 3 up as close-on-exec, so that nothing of ours reaches an executed program.
pub(crate) fn close_on_exec_from_3() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: integers only; no descriptor is closed, a flag is set on each.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Closes every descriptor but the standard streams. For a process that from here on uses none.
pub(crate) fn close_from_3() {
    // SAFETY: integers only. Values that own descriptors are still about, but their process does nothing any more with
    // them: it waits for a signal that ends it.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Duplicates `fd` onto the standard stream `target` (0, 1 or 2), which stays open over exec.
pub(crate) fn replace_stdio(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 onto one of the three standard streams, which std never treats as owned.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The standard input as an owned descriptor; it is replaced by `/dev/null`.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    replace_stdio(null.as_fd(), 0)?;
    Ok(taken)
}

/// Has the kernel end a program, which is about to be started, with the thread that starts it, and so with this process.
/// For threads that wait for what they start.
pub(crate) fn end_with_this_thread(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let ask = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            // It has died before.
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec two system calls are made, nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(ask) };
}

/// Registers a descriptor with tokio; must be called within its runtime.
pub(crate) fn register(
    fd: OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives, and it lives in the `AsyncFd`.
    let registered = unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}

/// Wraps the result of a call that makes a descriptor.
///
/// # Safety
/// A `fd` that is not negative must be a new open descriptor that nobody else owns.
unsafe fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: promised by the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
