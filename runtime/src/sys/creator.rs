//! For a while, this thread makes files as another user, with the rights that it has anyway.
//!
//! A file belongs at first to whoever makes it. On a mount that shows owners to a container as that container numbers
//! users, only the container's numbers mean anybody: the machine's root is nobody there, and all that it makes or
//! renames is refused (EOVERFLOW).

use std::io;
use std::marker::PhantomData;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// `CAP_SYS_RESOURCE`, with which the kernel lets a writer beyond the limits of a quota.
const CAP_SYS_RESOURCE: u32 = 24;
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`; two of them make 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// While this lives, its thread makes files as somebody else; then as before.
#[derive(Debug)]
pub(crate) struct Creator {
    uid: Uid,
    gid: Gid,
    /// Of this thread alone, so it stays there.
    _thread: PhantomData<*const ()>,
}

impl Creator {
    /// All rights of this thread stay, but for the one to exceed quotas: what is made for somebody is counted to him.
    pub(crate) fn become_user(uid: u32, gid: u32) -> io::Result<Self> {
        let before = capabilities()?;
        let creator = Self {
            gid: setfsgid(Gid::from_raw(gid)),
            uid: setfsuid(Uid::from_raw(uid)),
            _thread: PhantomData,
        };
        // The kernel took those about files away with the change of user.
        let mut wanted = before;
        wanted[0].effective &= !(1 << CAP_SYS_RESOURCE);
        set_capabilities(&wanted)?;
        Ok(creator)
    }
}

impl Drop for Creator {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
        // Back to all that are permitted, as for any process of root; without them nothing worse than a refusal follows.
        if let Ok(mut now) = capabilities() {
            for data in &mut now {
                data.effective = data.permitted;
            }
            let _ = set_capabilities(&now);
        }
    }
}

fn capabilities() -> io::Result<[CapData; 2]> {
    let mut header = header();
    let mut data = [CapData::default(); 2];
    // SAFETY: the kernel reads one header and, for this version, writes two data, which live through the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_capget,
            &raw mut header,
            (&raw mut data).cast::<CapData>(),
        )
    };
    if done == 0 {
        Ok(data)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_capabilities(data: &[CapData; 2]) -> io::Result<()> {
    let mut header = header();
    // SAFETY: the kernel reads one header and, for this version, two data, which live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The calling thread's.
fn header() -> CapHeader {
    CapHeader {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_somebody_elses_and_rights_come_back() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let effective = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("CapEff"));
            line.unwrap().to_owned()
        };
        let before = effective();
        {
            let _creator = Creator::become_user(4_000_000, 4_000_001).unwrap();
            // The directory is root's alone, and that is no hindrance.
            fs::write(dir.path().join("theirs"), "").unwrap();
        }
        fs::write(dir.path().join("ours"), "").unwrap();
        let owner = |name: &str| {
            let found = fs::metadata(dir.path().join(name)).unwrap();
            (found.uid(), found.gid())
        };
        assert_eq!(owner("theirs"), (4_000_000, 4_000_001));
        assert_eq!(owner("ours"), (0, 0));
        assert_eq!(effective(), before);
    }
}
