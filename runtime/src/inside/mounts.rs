//! One mount of a specification: made detached, attached to what its target stands for in the container's root.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::{Mode, mkdirat};
use oci_spec::runtime::Mount;

use crate::beneath::Root;
use crate::mount::{NODEV, NOEXEC, NOSUID, RDONLY};
use crate::spec::PART_OF_PARENT;
use crate::sys::mounts::{self, FsOption};

const STRICTATIME: u32 = 0x20;

/// What the options of a mount ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options<'a> {
    /// MOUNT_ATTR_* bits.
    attributes: u32,
    part_of_parent: bool,
    /// For the file system itself.
    own: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    /// Those that [`crate::spec`] uses; others are refused, for they would be a promise that nobody keeps. Pure.
    fn parse(options: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut parsed = Self::default();
        for option in options {
            match option {
                // A copy of a mount is made with all below it, whose attributes become the same.
                "nosuid" | "rnosuid" => parsed.attributes |= NOSUID,
                "nodev" | "rnodev" => parsed.attributes |= NODEV,
                "noexec" => parsed.attributes |= NOEXEC,
                "ro" | "rro" => parsed.attributes |= RDONLY,
                "strictatime" => parsed.attributes |= STRICTATIME,
                // As it is anyway: nothing spreads from or to this mount namespace, each devpts is a new one.
                "rw" | "relatime" | "rbind" | "rprivate" | "newinstance" => {}
                PART_OF_PARENT => parsed.part_of_parent = true,
                other => match other.split_once('=') {
                    Some(option) => parsed.own.push(option),
                    None => return Err(format!("mount option {other} is not known")),
                },
            }
        }
        Ok(parsed)
    }
}

pub(super) fn make(root: &Root, mount: &Mount) -> io::Result<()> {
    let target = mount.destination();
    let options = mount.options().iter().flatten().map(String::as_str);
    let options = Options::parse(options).map_err(io::Error::other)?;
    let source = mount.source().as_deref().unwrap_or(Path::new("none"));
    let (mounted, place) = match mount.typ().as_deref() {
        Some("bind") => {
            let copy = mounts::clone_mount(source, true)?;
            mounts::set_attributes(copy.as_fd(), options.attributes, None)?;
            let place = if fs::metadata(source)?.is_dir() {
                root.make_dir(target, None)?
            } else {
                root.make_file(target)?
            };
            (copy, place)
        }
        // A link here would have the kernel's own files appear where nobody looks for what must be hidden of them
        // (CVE-2019-19921, CVE-2023-27561).
        Some(kind @ ("proc" | "sysfs")) => {
            let mounted = new_file_system(kind, source, &options)?;
            root.make_dir(target, None)?;
            let place = root.find_plain(target)?;
            (mounted, place)
        }
        Some(_) if options.part_of_parent => part_of_parent(root, target, &options)?,
        Some(kind) => {
            let mounted = new_file_system(kind, source, &options)?;
            (mounted, root.make_dir(target, None)?)
        }
        None => return Err(io::Error::other("it has no type")),
    };
    mounts::attach_mount(mounted.as_fd(), place.as_fd())
}

/// A new directory of what is mounted above the target, as a mount with attributes of its own.
fn part_of_parent(
    root: &Root,
    target: &Path,
    options: &Options<'_>,
) -> io::Result<(OwnedFd, fs::File)> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mode = options.own.iter().find(|(key, _)| *key == "mode");
    let mode = mode.map_or(Ok(0o755), |(_, mode)| u32::from_str_radix(mode, 8));
    let mode = mode.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    mkdirat(&root.find(parent)?, name, Mode::from_bits_truncate(mode))?;
    let place = root.find_plain(target)?;
    let part = mounts::clone_mount_at(place.as_fd(), false)?;
    mounts::set_attributes(part.as_fd(), options.attributes, None)?;
    Ok((part, place))
}

fn new_file_system(kind: &str, source: &Path, options: &Options<'_>) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let kind = match kind {
        "cgroup" => c"cgroup2".to_owned(),
        other => CString::new(other)?,
    };
    let mut all = vec![FsOption::Text("source", source.as_os_str().as_bytes())];
    let own = options.own.iter();
    all.extend(own.map(|(key, value)| FsOption::Text(key, value.as_bytes())));
    mounts::fs_mount(&kind, &all, options.attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_attributes_or_the_file_systems_own() {
        let parse = |text: &'static str| Options::parse(text.split(','));
        assert_eq!(
            parse("rbind,rprivate,nosuid,nodev,rnosuid,rnodev,ro,rro").unwrap(),
            Options {
                attributes: NOSUID | NODEV | RDONLY,
                ..Options::default()
            }
        );
        assert_eq!(
            parse("noexec,strictatime,mode=1777,size=64k").unwrap(),
            Options {
                attributes: NOEXEC | STRICTATIME,
                part_of_parent: false,
                own: vec![("mode", "1777"), ("size", "64k")]
            }
        );
        let refused = parse("rw,dirsync").unwrap_err();
        assert_eq!(refused, "mount option dirsync is not known");
    }
}
