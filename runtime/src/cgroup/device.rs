//! From a name for a block device to the numbers that `io.max` wants. The kernel limits whole disks only, so that
//! a partition becomes the disk it is on.

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::model::IoDevice;

/// A whole block device's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u64,
    pub(crate) minor: u64,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

/// Looks a device up; `sys` is where sysfs is mounted. The error says what is wrong with the name, and what
/// would be right.
pub(crate) fn resolve(device: &IoDevice, sys: &Path) -> Result<DeviceNumber, String> {
    match device {
        IoDevice::Number { major, minor } => whole_disk(
            DeviceNumber {
                major: u64::from(*major),
                minor: u64::from(*minor),
            },
            sys,
        )
        .map_err(|problem| format!("{major}:{minor}: {problem}")),
        IoDevice::Path(path) => {
            let metadata =
                fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let number = if metadata.file_type().is_block_device() {
                metadata.rdev()
            } else {
                metadata.dev()
            };
            let number = DeviceNumber {
                major: nix::sys::stat::major(number),
                minor: nix::sys::stat::minor(number),
            };
            whole_disk(number, sys).map_err(|problem| format!("{}: {problem}", path.display()))
        }
    }
}

fn whole_disk(number: DeviceNumber, sys: &Path) -> Result<DeviceNumber, String> {
    // Overlay, tmpfs, network file systems, and those on several disks have numbers of their own.
    if number.major == 0 {
        return Err(
            "this file system is not on one block device; name the device itself".to_owned(),
        );
    }
    let link = sys.join("dev/block").join(number.to_string());
    let dir: PathBuf = fs::canonicalize(&link)
        .map_err(|_| format!("this host has no block device {number} (see lsblk)"))?;
    if !dir.join("partition").exists() {
        return Ok(number);
    }
    let file = dir
        .parent()
        .ok_or_else(|| format!("partition {number} has no disk"))?
        .join("dev");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.trim()
        .split_once(':')
        .and_then(|(major, minor)| {
            Some(DeviceNumber {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        })
        .ok_or_else(|| format!("{} holds {text:?}, not two numbers", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(major: u32, minor: u32) -> IoDevice {
        IoDevice::Number { major, minor }
    }

    #[test]
    fn a_partition_stands_for_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/vda");
        fs::create_dir_all(disk.join("vda1")).unwrap();
        fs::create_dir_all(sys.path().join("dev/block")).unwrap();
        fs::write(disk.join("dev"), "253:16\n").unwrap();
        fs::write(disk.join("vda1/partition"), "1\n").unwrap();
        for (number, target) in [("253:16", "vda"), ("253:17", "vda/vda1")] {
            let link = sys.path().join("dev/block").join(number);
            std::os::unix::fs::symlink(format!("../../devices/{target}"), link).unwrap();
        }
        let found = |minor| resolve(&number(253, minor), sys.path()).map(|one| one.to_string());
        assert_eq!(found(16).unwrap(), "253:16");
        assert_eq!(found(17).unwrap(), "253:16");
        let unknown = found(18).unwrap_err();
        assert!(
            unknown.contains("253:18: this host has no block device"),
            "{unknown}"
        );
    }

    #[test]
    fn what_is_on_no_device_is_told_so() {
        let sys = tempfile::tempdir().unwrap();
        let proc = resolve(&IoDevice::Path("/proc".into()), sys.path()).unwrap_err();
        assert!(proc.contains("/proc: this file system is not on one block device"));
        let missing = IoDevice::Path("/no/such/device".into());
        assert!(
            resolve(&missing, sys.path())
                .unwrap_err()
                .contains("/no/such/device: No such file")
        );
    }
}
