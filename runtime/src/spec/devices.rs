//! Devices that a container is given: looked up on the host, made as nodes in its `/dev`, allowed in its device filter.
//! Pure, but for the look at the host.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::validate::BadSpec;
use crate::model::DeviceSpec;

/// A device of the host, under the name that the container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) is_block: bool,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// Permissions, as on the host.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Looks the devices up, as they are now: numbers can change with a reboot or a driver.
pub(crate) fn look_up(devices: &[DeviceSpec]) -> Result<Vec<HostDevice>, BadSpec> {
    let mut found = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let bad = |problem: String| BadSpec {
            field: format!("devices[{index}].source"),
            problem: format!("{}: {problem}", device.source.display()),
        };
        let metadata = fs::metadata(&device.source).map_err(|error| bad(error.to_string()))?;
        let kind = metadata.file_type();
        if !kind.is_char_device() && !kind.is_block_device() {
            return Err(bad("is no device".to_owned()));
        }
        found.push(HostDevice {
            source: device.source.clone(),
            target: device.target.clone(),
            is_block: kind.is_block_device(),
            major: nix::sys::stat::major(metadata.rdev()),
            minor: nix::sys::stat::minor(metadata.rdev()),
            mode: metadata.mode() & 0o777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        });
    }
    Ok(found)
}

impl HostDevice {
    fn kind(&self) -> LinuxDeviceType {
        if self.is_block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        }
    }

    /// The node to make.
    pub(super) fn node(&self) -> Result<LinuxDevice, String> {
        LinuxDeviceBuilder::default()
            .path(&self.target)
            .typ(self.kind())
            .major(signed(self.major))
            .minor(signed(self.minor))
            .file_mode(self.mode)
            .uid(self.uid)
            .gid(self.gid)
            .build()
            .map_err(|error| error.to_string())
    }

    /// What the filter lets through.
    pub(crate) fn rule(&self) -> Result<LinuxDeviceCgroup, String> {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(self.kind())
            .major(signed(self.major))
            .minor(signed(self.minor))
            .access("rwm")
            .build()
            .map_err(|error| error.to_string())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(source: &str) -> DeviceSpec {
        DeviceSpec {
            source: source.into(),
            target: "/dev/card".into(),
        }
    }

    #[test]
    fn a_device_is_known_by_its_numbers_and_what_is_none_is_refused_by_name() {
        let found = look_up(&[device("/dev/zero")]).unwrap();
        assert_eq!((found[0].major, found[0].minor), (1, 5));
        assert!(!found[0].is_block);
        let node = found[0].node().unwrap();
        assert_eq!(node.path(), &PathBuf::from("/dev/card"));
        assert_eq!(found[0].rule().unwrap().to_string(), "c 1:5 rwm");
        for (source, words) in [("/dev/no-such", "No such file"), ("/etc", "is no device")] {
            let refused = look_up(&[device("/dev/zero"), device(source)]).unwrap_err();
            assert_eq!(refused.field, "devices[1].source");
            assert!(refused.problem.contains(words), "{refused}");
        }
    }
}
