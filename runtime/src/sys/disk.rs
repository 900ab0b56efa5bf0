//! The unsafe blocks for disk use: project ids of files, quotas of projects, and a thread that yields to everybody.
//!
//! Layouts and numbers: `linux/fs.h` (`fsxattr`), `linux/quota.h`, `linux/dqblk_xfs.h`. The generic calls work on ext4 and
//! on XFS alike: the kernel turns one form into the other.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const PROJECT_QUOTA: libc::c_int = 2;
const Q_GETQUOTA: libc::c_int = 0x80_0007;
const Q_SETQUOTA: libc::c_int = 0x80_0008;
/// `Q_XGETQSTAT`: what is counted and what is enforced.
const Q_XGETQSTAT: libc::c_int = 0x5805;
const PROJECT_ENFORCED: u16 = 1 << 5;
/// Limits of space are what is set.
const QIF_BLIMITS: u32 = 1;
/// The kernel's unit for limits of space.
const QUOTA_BLOCK: u64 = 1024;
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// What is made in a directory belongs to its project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    n_extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    pad: [u8; 8],
}

/// What the files of a project take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProjectUse {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// 0: none.
    pub(crate) limit_bytes: u64,
}

fn get_attributes(file: BorrowedFd<'_>) -> io::Result<FsXattr> {
    let mut attributes = FsXattr::default();
    // SAFETY: the request writes one `fsxattr`, to a struct of that layout that lives through the call.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            FS_IOC_FSGETXATTR as _,
            &raw mut attributes,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(attributes)
    }
}

/// The project that a file or directory belongs to; 0 is everybody's.
pub(crate) fn project_of(file: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(get_attributes(file)?.project)
}

/// Gives a directory, and what is made in it from now on, to a project.
pub(crate) fn give_to_project(dir: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = get_attributes(dir)?;
    attributes.project = project;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the request reads one `fsxattr`, from a struct of that layout that lives through the call.
    let result = unsafe {
        libc::ioctl(
            dir.as_raw_fd(),
            FS_IOC_FSSETXATTR as _,
            &raw const attributes,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `quotactl_fd(2)`, from Linux 5.14 on.
///
/// # Safety
///
/// `address` points to what the command reads or writes.
unsafe fn quotactl(
    on: BorrowedFd<'_>,
    command: libc::c_int,
    project: u32,
    address: *mut libc::c_void,
) -> io::Result<()> {
    const SYS_QUOTACTL_FD: libc::c_long = 443;
    let command = (command << 8) | PROJECT_QUOTA;
    // SAFETY: the address is the caller's promise; all else are numbers and a borrowed descriptor.
    let result =
        unsafe { libc::syscall(SYS_QUOTACTL_FD, on.as_raw_fd(), command, project, address) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether the file system refuses what is beyond a project's quota.
pub(crate) fn enforces_projects(on: BorrowedFd<'_>) -> io::Result<bool> {
    // `struct fs_quota_stat` has 80 bytes; the flags are the 16 bits after the version and its padding.
    let mut state = [0_u16; 64];
    // SAFETY: the command writes 80 bytes, to an array of 128 that lives through the call and is aligned to 16 bits;
    // the kernel copies bytes and asks for no alignment.
    unsafe { quotactl(on, Q_XGETQSTAT, 0, state.as_mut_ptr().cast())? };
    Ok(state[1] & PROJECT_ENFORCED != 0)
}

/// What a project takes on the file system that `on` is on.
pub(crate) fn project_use(on: BorrowedFd<'_>, project: u32) -> io::Result<ProjectUse> {
    // SAFETY: `dqblk` is plain numbers, for which all zero is valid.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    // SAFETY: the command writes one `if_dqblk`, which is libc's `dqblk`, and it lives through the call.
    unsafe { quotactl(on, Q_GETQUOTA, project, (&raw mut quota).cast())? };
    Ok(ProjectUse {
        bytes: quota.dqb_curspace,
        inodes: quota.dqb_curinodes,
        limit_bytes: quota.dqb_bhardlimit.saturating_mul(QUOTA_BLOCK),
    })
}

/// Bounds what a project may take there; 0 takes the bound away.
pub(crate) fn limit_project(on: BorrowedFd<'_>, project: u32, bytes: u64) -> io::Result<()> {
    // SAFETY: `dqblk` is plain numbers, for which all zero is valid.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    quota.dqb_bhardlimit = bytes.div_ceil(QUOTA_BLOCK);
    quota.dqb_bsoftlimit = 0;
    quota.dqb_valid = QIF_BLIMITS;
    // SAFETY: the command reads one `if_dqblk`, which is libc's `dqblk`, and it lives through the call.
    unsafe { quotactl(on, Q_SETQUOTA, project, (&raw mut quota).cast()) }
}

/// Lets everybody else go first, on the processors and on the disks: this thread alone.
pub(crate) fn yield_to_everybody() {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;
    // SAFETY: numbers only; 0 means the calling thread for both. A refusal changes nothing that matters.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 19);
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        assert_eq!(size_of::<FsXattr>(), 28);
        // Eight words, the flags and what fills the last word up.
        assert_eq!(size_of::<libc::dqblk>(), 72);
    }

    /// Memory file systems have no projects: an error, and nothing else happens.
    #[test]
    fn where_there_are_no_projects_it_is_an_error() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(project_of(proc.as_fd()).is_err());
        assert!(give_to_project(proc.as_fd(), 7).is_err());
        assert!(enforces_projects(proc.as_fd()).is_err());
        assert!(project_use(proc.as_fd(), 7).is_err());
        assert!(limit_project(proc.as_fd(), 7, 1).is_err());
    }
}
