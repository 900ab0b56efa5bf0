//! The unsafe blocks for mounts and user namespaces: the mount API with descriptors, for which `nix` has no safe form.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::owned;

/// One value given to a file system that is being configured.
pub(crate) enum FsOption<'a> {
    Text(&'a str, &'a [u8]),
}

/// Makes a mount of a file system type through the mount API with descriptors: no length limit on options, no
/// escaping of `,` and `:` in paths. `attributes` are MOUNT_ATTR_* bits.
pub(crate) fn fs_mount(
    fs_type: &CStr,
    options: &[FsOption<'_>],
    attributes: u32,
) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    const SET_STRING: u32 = 1;
    const CMD_CREATE: u32 = 6;
    // SAFETY: the type is a C string; a result that is not negative is a new descriptor of ours.
    let context = unsafe {
        owned(libc::syscall(
            libc::SYS_fsopen,
            fs_type.as_ptr(),
            FSOPEN_CLOEXEC,
        ))?
    };
    let configure = |command: u32, key: Option<&CStr>, value: Option<&CStr>| {
        // SAFETY: key and value are null or C strings that live through the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key.map_or(std::ptr::null(), CStr::as_ptr),
                value.map_or(std::ptr::null(), CStr::as_ptr),
                0,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    for option in options {
        match option {
            FsOption::Text(key, value) => {
                configure(
                    SET_STRING,
                    Some(&CString::new(*key)?),
                    Some(&CString::new(*value)?),
                )?;
            }
        }
    }
    configure(CMD_CREATE, None, None)?;
    // SAFETY: integers only; a result that is not negative is a new descriptor of ours.
    unsafe {
        owned(libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes,
        ))
    }
}

/// Attaches a mount made by [`fs_mount`] at the directory behind `target`.
pub(crate) fn attach_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
    const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
    // SAFETY: both descriptors are borrowed for the call, both paths are empty C strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A copy of the mount that `path` is on, beginning there, attached nowhere; `recursive`: with the mounts below it.
pub(crate) fn clone_mount(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    open_tree(
        libc::AT_FDCWD,
        &path,
        if recursive { AT_RECURSIVE } else { 0 },
    )
}

/// The same, of the mount that an open file is on, beginning there.
pub(crate) fn clone_mount_at(file: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    open_tree(file.as_raw_fd(), c"", flags)
}

const AT_EMPTY_PATH: u32 = 0x1000;
const AT_RECURSIVE: u32 = 0x8000;

fn open_tree(dir: libc::c_int, path: &CStr, flags: u32) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let flags = OPEN_TREE_CLONE | u32::from_ne_bytes(libc::O_CLOEXEC.to_ne_bytes()) | flags;
    // SAFETY: a number, a C string that lives through the call, and numbers; a result that is not negative is a new
    // descriptor of ours.
    unsafe {
        owned(libc::syscall(
            libc::SYS_open_tree,
            dir,
            path.as_ptr(),
            flags,
        ))
    }
}

/// Sets MOUNT_ATTR_* bits of a mount that is attached nowhere, and of those below it. With `users`, files show the
/// owners that this user namespace's map says (an idmapped mount).
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: u32,
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    mount_setattr(mount, AT_RECURSIVE, attributes, users)
}

/// Sets MOUNT_ATTR_* bits of the mount whose root this is, and of no other.
pub(crate) fn set_own_attributes(mount: BorrowedFd<'_>, attributes: u32) -> io::Result<()> {
    mount_setattr(mount, 0, attributes, None)
}

fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: u32,
    attributes: u32,
    users: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    /// `struct mount_attr` of mount_setattr(2).
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        users: u64,
    }
    let attr = MountAttr {
        set: u64::from(attributes) | users.map_or(0, |_| MOUNT_ATTR_IDMAP),
        clear: 0,
        propagation: 0,
        users: match users {
            Some(fd) => u64::try_from(fd.as_raw_fd()).map_err(io::Error::other)?,
            None => 0,
        },
    };
    // SAFETY: an empty C string, and a struct of the told size that lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Which mount of this process's mount namespace a path is on.
pub(crate) fn mount_id(path: &Path) -> io::Result<u64> {
    const STATX_MNT_ID: u32 = 0x1000;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statx is plain data, for which all zero is valid; the path is a C string; the kernel writes just the
    // struct.
    let found = unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        if libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            STATX_MNT_ID,
            &raw mut found,
        ) < 0
        {
            return Err(io::Error::last_os_error());
        }
        found
    };
    if found.stx_mask & STATX_MNT_ID == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(found.stx_mnt_id)
}

/// A new user namespace with these lines as its maps of users and groups.
pub(crate) fn new_user_namespace(map: &str) -> io::Result<OwnedFd> {
    let holder = Holder::start()?;
    let proc = format!("/proc/{}", holder.child);
    std::fs::write(format!("{proc}/uid_map"), map)?;
    std::fs::write(format!("{proc}/gid_map"), map)?;
    Ok(File::open(format!("{proc}/ns/user"))?.into())
}

/// A process that has a new user namespace until that has been opened. It ends with this one, also when this one is killed.
struct Holder {
    child: libc::pid_t,
    _stack: Vec<u128>,
}

impl Holder {
    const STACK_BYTES: usize = 16 * 1024;

    fn start() -> io::Result<Self> {
        /// Its life.
        extern "C" fn hold(parent: *mut libc::c_void) -> libc::c_int {
            // SAFETY: takes numbers only. Neither call fails, so neither writes to `errno`, which is our parent's, too.
            let orphan = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::getppid() as usize != parent.addr()
            };
            if orphan {
                return 0;
            }
            loop {
                // SAFETY: takes nothing; nobody returns from it but to be killed.
                unsafe { libc::pause() };
            }
        }
        let mut stack = vec![0_u128; Self::STACK_BYTES / size_of::<u128>()];
        let flags = libc::CLONE_NEWUSER | libc::CLONE_VM | libc::SIGCHLD;
        // Its number, not a place.
        let me = std::ptr::without_provenance_mut(std::process::id() as usize);
        // SAFETY: the child shares our memory but not our stack, of which it gets one of its own, aligned, that lives until
        // the child has been waited for; it runs three system calls, which write nothing, until it is killed.
        let child = unsafe {
            let top = stack.as_mut_ptr().add(stack.len());
            libc::clone(hold, top.cast(), flags, me)
        };
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            child,
            _stack: stack,
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        while let Err(nix::errno::Errno::EINTR) = nix::sys::wait::waitpid(pid, None) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::process::ExitStatusExt as _,
        process::Command,
        time::{Duration, Instant},
    };

    /// Who starts a holder and is killed: this program again.
    const KILLED: &str = "MEZZO_TEST_KILLED_WITH_A_HOLDER";

    #[test]
    fn who_holds_a_namespace_ends_with_whoever_is_killed() {
        if std::env::var_os(KILLED).is_some() {
            let holder = Holder::start().unwrap();
            println!("holder {}", holder.child);
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: who_holds_a_namespace_ends_with_whoever_is_killed: needs root");
            return;
        }
        let mut killed = Command::new(std::env::current_exe().unwrap());
        killed
            .args(["--nocapture", "who_holds_a_namespace"])
            .env(KILLED, "1");
        let killed = killed.output().unwrap();
        assert_eq!(killed.status.signal(), Some(libc::SIGKILL));
        let told = String::from_utf8(killed.stdout).unwrap();
        let holder = told.split("holder ").nth(1).unwrap().trim();
        let began = Instant::now();
        let lives = || Path::new("/proc").join(holder).exists();
        while lives() {
            assert!(began.elapsed() < Duration::from_secs(60), "{holder} lives");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
