//! Limits of a task beyond its resources, and changes of them while it runs.
//!
//! Nothing here is booked: growing what is booked (`cpus`, `mem`, …) needs an offer, changing a limit does not. That is
//! why a [`LimitChange`] has no resources, and none of what only a start can set (pinning, rlimits).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::{Scalar, TaskInfo};

/// Names of the limits of setrlimit(2), as [`Rlimit::name`] writes them.
pub const RLIMIT_NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What a task may use beyond the resources that it takes from an offer.
///
/// On disk, what is not used is left out, so that an older program reads what a newer one wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskLimits {
    /// MiB above which memory is taken back and nothing killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_mb: Option<u64>,
    /// MiB that are taken back last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_low_mb: Option<u64>,
    /// MiB of swap on top of the memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_mb: Option<u64>,
    /// 1 to 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u32>,
    /// One entry per device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_max: Vec<IoLimit>,
    /// Whether processors are the task's alone.
    #[serde(skip_serializing_if = "CpuPinning::is_shared")]
    pub cpu_pinning: CpuPinning,
    /// One entry per name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// One entry per size.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub huge_pages: Vec<HugePages>,
    /// No memory limit; only `mem` is booked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub memory_unlimited: bool,
}

impl TaskLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Most that may be read from and written to one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimit {
    /// Which.
    pub device: IoDevice,
    /// Bytes read per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_sec: Option<u64>,
    /// Bytes written per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_sec: Option<u64>,
    /// Read operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_per_sec: Option<u64>,
    /// Write operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_per_sec: Option<u64>,
}

impl IoLimit {
    /// A device without a rate.
    #[must_use]
    pub fn new(device: IoDevice) -> Self {
        Self {
            device,
            read_bytes_per_sec: None,
            write_bytes_per_sec: None,
            reads_per_sec: None,
            writes_per_sec: None,
        }
    }

    /// The rates with their names.
    #[must_use]
    pub fn rates(&self) -> [(&'static str, Option<u64>); 4] {
        [
            ("read_bytes_per_sec", self.read_bytes_per_sec),
            ("write_bytes_per_sec", self.write_bytes_per_sec),
            ("reads_per_sec", self.reads_per_sec),
            ("writes_per_sec", self.writes_per_sec),
        ]
    }

    /// Whether it limits nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rates().iter().all(|(_, rate)| rate.is_none())
    }
}

/// A block device of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IoDevice {
    /// By its numbers.
    Number {
        /// The driver's.
        major: u32,
        /// The device's.
        minor: u32,
    },
    /// By an absolute path: the device, or anything on a file system on it.
    Path(String),
}

/// Text that names no block device.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is neither two numbers like \"8:0\" nor an absolute path without `..`")]
pub struct InvalidIoDevice(String);

impl FromStr for IoDevice {
    type Err = InvalidIoDevice;

    fn from_str(text: &str) -> Result<Self, InvalidIoDevice> {
        let invalid = || InvalidIoDevice(text.chars().take(80).collect());
        if text.starts_with('/') {
            let clean =
                text.len() <= 4095 && !text.contains('\0') && !text.split('/').any(|p| p == "..");
            return if clean {
                Ok(Self::Path(text.to_owned()))
            } else {
                Err(invalid())
            };
        }
        let numbers = text
            .split_once(':')
            .filter(|_| text.bytes().all(|b| b.is_ascii_digit() || b == b':'))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        numbers
            .map(|(major, minor)| Self::Number { major, minor })
            .ok_or_else(invalid)
    }
}

impl fmt::Display for IoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { major, minor } => write!(f, "{major}:{minor}"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

impl Serialize for IoDevice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IoDevice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a task has processors of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuPinning {
    /// Any processor that is not another task's alone.
    #[default]
    Shared,
    /// Whole processors, for it alone.
    Exclusive,
}

impl CpuPinning {
    /// Whether it is the default.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        match self {
            Self::Shared => true,
            Self::Exclusive => false,
        }
    }
}

/// A limit of setrlimit(2); `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// One of [`RLIMIT_NAMES`].
    pub name: String,
    /// In force.
    #[serde(default)]
    pub soft: Option<u64>,
    /// The highest that the process may set itself.
    #[serde(default)]
    pub hard: Option<u64>,
}

impl Rlimit {
    /// The name in the form of [`RLIMIT_NAMES`], if there is such a limit: `nofile` and `RLIMIT_NOFILE` are one.
    #[must_use]
    pub fn known(name: &str) -> Option<&'static str> {
        let lower = name.to_ascii_lowercase();
        let bare = lower.strip_prefix("rlimit_").unwrap_or(&lower);
        RLIMIT_NAMES.into_iter().find(|known| *known == bare)
    }
}

/// Most huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Size of one page in KiB.
    pub page_kb: u64,
    /// All of them together, in MiB.
    pub limit_mb: u64,
}

/// What becomes of one limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// Nothing.
    #[default]
    Keep,
    /// There is none any more.
    Clear,
    /// It is this.
    Set(T),
}

impl<T: Clone> Change<T> {
    fn apply(&self, now: &Option<T>) -> Option<T> {
        match self {
            Self::Keep => now.clone(),
            Self::Clear => None,
            Self::Set(value) => Some(value.clone()),
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub const fn is_keep(&self) -> bool {
        match self {
            Self::Keep => true,
            Self::Clear | Self::Set(_) => false,
        }
    }
}

/// A change of a running task's limits: what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitChange {
    /// Hard limit on processor time.
    pub cpu_limit: Change<Scalar>,
    /// Hard memory limit, at least the task's `mem`.
    pub memory_limit_mb: Change<u64>,
    /// Processes and threads.
    pub pids_limit: Change<u64>,
    /// See [`TaskLimits`].
    pub memory_high_mb: Change<u64>,
    /// See [`TaskLimits`].
    pub memory_low_mb: Change<u64>,
    /// See [`TaskLimits`].
    pub swap_mb: Change<u64>,
    /// See [`TaskLimits`].
    pub io_weight: Change<u32>,
    /// All devices' limits go, before those of `io_max` come.
    pub clear_io_max: bool,
    /// Each replaces that of its device; one without a rate removes it.
    pub io_max: Vec<IoLimit>,
    /// All sizes' limits go, before those of `huge_pages` come.
    pub clear_huge_pages: bool,
    /// Each replaces that of its size.
    pub huge_pages: Vec<HugePages>,
}

impl LimitChange {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The task as it is after the change. Whether that is allowed is for [`crate::convert::limit_problems`] to say.
    #[must_use]
    pub fn apply(&self, info: &TaskInfo) -> TaskInfo {
        let mut after = info.clone();
        after.cpu_limit = self.cpu_limit.apply(&info.cpu_limit);
        after.memory_limit_mb = self.memory_limit_mb.apply(&info.memory_limit_mb);
        after.pids_limit = self.pids_limit.apply(&info.pids_limit);
        let (limits, before) = (&mut after.limits, &info.limits);
        // A number, or the word that there is no number of its own, is also the end of "unlimited".
        limits.memory_unlimited = before.memory_unlimited && self.memory_limit_mb.is_keep();
        limits.memory_high_mb = self.memory_high_mb.apply(&before.memory_high_mb);
        limits.memory_low_mb = self.memory_low_mb.apply(&before.memory_low_mb);
        limits.swap_mb = self.swap_mb.apply(&before.swap_mb);
        limits.io_weight = self.io_weight.apply(&before.io_weight);
        if self.clear_io_max {
            limits.io_max.clear();
        }
        for limit in &self.io_max {
            limits.io_max.retain(|old| old.device != limit.device);
            if !limit.is_empty() {
                limits.io_max.push(limit.clone());
            }
        }
        if self.clear_huge_pages {
            limits.huge_pages.clear();
        }
        for pages in &self.huge_pages {
            limits.huge_pages.retain(|old| old.page_kb != pages.page_kb);
            limits.huge_pages.push(*pages);
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_numbers_or_a_path() {
        for good in ["8:0", "259:3", "/dev/sda", "/var/lib"] {
            let device: IoDevice = good.parse().unwrap();
            assert_eq!(device.to_string(), good);
        }
        for bad in [
            "",
            "sda",
            "8",
            "8:",
            ":0",
            "8:0:1",
            "+8:0",
            "-1:0",
            "8:99999999999",
            "/a/../b",
            "/a\0b",
        ] {
            assert!(bad.parse::<IoDevice>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rlimits_have_one_name_each() {
        assert_eq!(Rlimit::known("RLIMIT_NOFILE"), Some("nofile"));
        assert_eq!(Rlimit::known("nofile"), Some("nofile"));
        assert_eq!(Rlimit::known("files"), None);
    }

    #[test]
    fn what_is_not_used_is_not_written() {
        assert_eq!(serde_json::to_string(&TaskLimits::default()).unwrap(), "{}");
        let text = r#"{"io_max":[{"device":"8:0","writes_per_sec":5}],"cpu_pinning":"exclusive"}"#;
        let limits: TaskLimits = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&limits).unwrap(), text);
    }
}
