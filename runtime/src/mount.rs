//! The root file system of one container, mounted in a mount namespace of its own: the host's mount table shows
//! nothing, and when the last process of that namespace ends nothing is left.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::error::StartFailure;
use crate::model::Rootfs;
use crate::sys::mounts::{self, FsOption};

pub(crate) const RDONLY: u32 = 1;
pub(crate) const NOSUID: u32 = 2;
pub(crate) const NODEV: u32 = 4;
pub(crate) const NOEXEC: u32 = 8;
/// What the mounts of containers are called in the table of mounts.
const SOURCE: &str = "mezzo";
/// A page, of which the last byte is the end.
const MAX_OPTIONS: usize = 4096;

/// Gives this process a mount namespace from which nothing spreads to the host.
pub(crate) fn private_namespace() -> Result<(), StartFailure> {
    let failed = |what: &str, error: nix::Error| StartFailure::Mount {
        reason: format!("{what}: {error}"),
    };
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|error| failed("new mount namespace", error))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|error| failed("making mounts private", error))
}

/// Mounts the root file system at `target`. Device files in images do not work (`nodev`): a container gets its
/// devices in a `/dev` of its own. With `owner`, the writable layer is that user's, as the host numbers users.
pub(crate) fn mount_rootfs(
    rootfs: &Rootfs,
    target: &Path,
    owner: Option<u32>,
) -> Result<(), StartFailure> {
    let failed = |what: String| {
        move |error: io::Error| StartFailure::Mount {
            reason: format!("{what}: {error}"),
        }
    };
    match rootfs {
        Rootfs::Empty => {
            let owner = owner.unwrap_or(0).to_string();
            let options = [
                FsOption::Text("mode", b"0755"),
                FsOption::Text("size", b"64k"),
                FsOption::Text("uid", owner.as_bytes()),
                FsOption::Text("gid", owner.as_bytes()),
            ];
            mounts::fs_mount(c"tmpfs", &options, NOSUID | NODEV)
                .and_then(|mounted| {
                    mounts::attach_mount(mounted.as_fd(), File::open(target)?.as_fd())
                })
                .map_err(failed("an empty root".to_owned()))
        }
        Rootfs::Dir(dir) => {
            let name = format!("binding {}", dir.display());
            mount(
                Some(dir),
                target,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )
            .map_err(|error| failed(name.clone())(error.into()))?;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NODEV;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
                .map_err(|error| failed(name)(error.into()))
        }
        Rootfs::Overlay {
            lowers,
            upper,
            work,
        } => {
            for dir in lowers.iter().chain([upper, work]) {
                if !dir.is_dir() {
                    let reason = format!("overlay: {} is not a directory", dir.display());
                    return Err(StartFailure::Mount { reason });
                }
            }
            if let Some(owner) = owner {
                std::os::unix::fs::chown(upper, Some(owner), Some(owner))
                    .map_err(failed(format!("giving {} to its user", upper.display())))?;
            }
            let overlay = Overlay {
                source: SOURCE,
                lowers,
                changes: Some((upper, work)),
            };
            overlay.mount(target).map_err(failed("overlay".to_owned()))
        }
    }
}

/// Mounts layers, topmost first and at least two, at `target` for somebody to look at: read-only, and neither set-id
/// bits nor device files in them work. The mount stays until somebody undoes it; `source` is its name in the table of mounts.
pub fn mount_read_only(source: &str, lowers: &[PathBuf], target: &Path) -> io::Result<()> {
    let overlay = Overlay {
        source,
        lowers,
        changes: None,
    };
    overlay.mount(target)
}

/// One overlay mount.
struct Overlay<'a> {
    source: &'a str,
    /// Topmost first.
    lowers: &'a [PathBuf],
    /// The upper and the work directory; without them nothing can be written.
    changes: Option<(&'a Path, &'a Path)>,
}

impl Overlay<'_> {
    fn mount(&self, target: &Path) -> io::Result<()> {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        if !takes_layers_one_by_one(&release) {
            return self.mount_by_options(target);
        }
        match self.mount_by_descriptors(target) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                self.mount_by_options(target)
            }
            done => done,
        }
    }

    fn mount_by_descriptors(&self, target: &Path) -> io::Result<()> {
        let mut options = vec![FsOption::Text("source", self.source.as_bytes())];
        options.extend(
            self.lowers
                .iter()
                .map(|lower| path_option("lowerdir+", lower)),
        );
        let mut attributes = NODEV;
        match self.changes {
            Some((upper, work)) => {
                options.extend([path_option("upperdir", upper), path_option("workdir", work)])
            }
            None => attributes |= RDONLY | NOSUID,
        }
        let mounted = mounts::fs_mount(c"overlay", &options, attributes)?;
        let target = File::open(target)?;
        mounts::attach_mount(mounted.as_fd(), target.as_fd())
    }

    fn mount_by_options(&self, target: &Path) -> io::Result<()> {
        let mut options = overlay_options(self.lowers, self.changes);
        // The kernel takes one page and cuts the rest off without a word: then layers go by short names.
        let held: Vec<File>;
        if options.len() >= MAX_OPTIONS {
            held = self
                .lowers
                .iter()
                .map(File::open)
                .collect::<io::Result<_>>()?;
            let short = |dir: &File| PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            let short: Vec<PathBuf> = held.iter().map(short).collect();
            options = overlay_options(&short, self.changes);
        }
        if options.len() >= MAX_OPTIONS {
            let message = format!(
                "{} layers need {} bytes of options; this kernel takes 4095",
                self.lowers.len(),
                options.len()
            );
            return Err(io::Error::other(message));
        }
        let mut flags = MsFlags::MS_NODEV;
        if self.changes.is_none() {
            flags |= MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
        }
        mount(
            Some(self.source),
            target,
            Some("overlay"),
            flags,
            Some(options.as_os_str()),
        )
        .map_err(io::Error::from)
    }
}

fn path_option<'a>(key: &'a str, path: &'a Path) -> FsOption<'a> {
    FsOption::Text(key, path.as_os_str().as_bytes())
}

/// From Linux 6.5 on (it came with one of the releases after it). Older ones are not even asked: they would write
/// a line about every container into the kernel's log. Pure.
fn takes_layers_one_by_one(release: &str) -> bool {
    version(release) >= (6, 5)
}

/// The first two numbers of a kernel's release, such as 6 and 18. Pure.
pub(crate) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Overlayfs' options as one text, with the characters escaped that mean something in it. Pure.
fn overlay_options(lowers: &[PathBuf], changes: Option<(&Path, &Path)>) -> OsString {
    let escaped = |path: &Path, special: &[u8]| {
        let mut bytes = Vec::new();
        for byte in path.as_os_str().as_bytes() {
            if special.contains(byte) {
                bytes.push(b'\\');
            }
            bytes.push(*byte);
        }
        bytes
    };
    let mut text = b"lowerdir=".to_vec();
    let lowers: Vec<_> = lowers.iter().map(|lower| escaped(lower, b"\\:,")).collect();
    text.extend(lowers.join(&b':'));
    if let Some((upper, work)) = changes {
        text.extend(b",upperdir=");
        text.extend(escaped(upper, b"\\,"));
        text.extend(b",workdir=");
        text.extend(escaped(work, b"\\,"));
    }
    std::os::unix::ffi::OsStringExt::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_in_paths_are_escaped() {
        let options = overlay_options(
            &["/a:b".into(), "/c,d".into()],
            Some((Path::new("/u,p"), Path::new("/w"))),
        );
        assert_eq!(options, r"lowerdir=/a\:b:/c\,d,upperdir=/u\,p,workdir=/w");
        let options = overlay_options(&["/a".into(), "/b".into()], None);
        assert_eq!(options, "lowerdir=/a:/b");
    }

    #[test]
    fn kernels_that_take_layers_one_by_one_are_known() {
        for (release, takes) in [
            ("6.18.44-x\n", true),
            ("6.5.0", true),
            ("6.1.0-56-cloud-amd64\n", false),
            ("5.15.0", false),
            ("10.0.0", true),
            ("", false),
        ] {
            assert_eq!(takes_layers_one_by_one(release), takes, "{release}");
        }
    }
}
