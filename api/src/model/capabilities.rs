//! Capabilities of Linux (capabilities(7)): the parts of root's power, by name, and which of them a container is to have.
//!
//! Pure. Names are read with or without `CAP_`, in any case, and written without it, in capitals.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Most names in one list, repetitions included.
pub const MOST_CAPABILITIES: usize = 128;

/// The word for all of them, which can be dropped.
const ALL: &str = "ALL";

/// Every capability up to `CAP_CHECKPOINT_RESTORE` (40), by number.
pub const LINUX_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One capability. Ordered by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinuxCapability(&'static str);

impl LinuxCapability {
    /// Without `CAP_`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// Text that names no capability.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidCapability {
    /// There is none of that name.
    #[error(
        "{0:?} is no capability of Linux; write it like NET_BIND_SERVICE or CAP_NET_BIND_SERVICE"
    )]
    Unknown(String),
    /// The word for all of them, where one is to be named.
    #[error(
        "ALL names no single capability: all can be dropped, and only a privileged container has all"
    )]
    All,
}

fn is_all(text: &str) -> bool {
    text.eq_ignore_ascii_case(ALL) || text.eq_ignore_ascii_case("CAP_ALL")
}

impl FromStr for LinuxCapability {
    type Err = InvalidCapability;

    fn from_str(text: &str) -> Result<Self, InvalidCapability> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = LINUX_CAPABILITIES.into_iter().find(|name| *name == bare);
        known.map(Self).ok_or_else(|| {
            if is_all(text) {
                InvalidCapability::All
            } else {
                InvalidCapability::Unknown(text.chars().take(80).collect())
            }
        })
    }
}

impl fmt::Display for LinuxCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl Serialize for LinuxCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for LinuxCapability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is taken from the default set; as JSON a list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// These.
    These(BTreeSet<LinuxCapability>),
    /// Every one.
    All,
}

impl Default for Dropped {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Dropped {
    /// One more; after `ALL` a single name says nothing new.
    ///
    /// # Errors
    ///
    /// When the text is neither `ALL` nor a capability.
    pub fn also(&mut self, text: &str) -> Result<(), InvalidCapability> {
        if is_all(text) {
            *self = Self::All;
            return Ok(());
        }
        let one = text.parse()?;
        match self {
            Self::These(names) => {
                names.insert(one);
            }
            Self::All => {}
        }
        Ok(())
    }

    /// Sorted, or `ALL` alone.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Self::These(names) => names.iter().map(|one| one.name()).collect(),
            Self::All => vec![ALL],
        }
    }
}

impl Serialize for Dropped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Dropped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut dropped = Self::default();
        for name in Vec::<String>::deserialize(deserializer)? {
            dropped.also(&name).map_err(serde::de::Error::custom)?;
        }
        Ok(dropped)
    }
}

/// How a container's set differs from the default one: first what is dropped goes, then what is added comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Beyond the default set only what the agent's operator allows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub add: BTreeSet<LinuxCapability>,
    /// Always allowed.
    #[serde(default)]
    pub drop: Dropped,
}

impl Capabilities {
    /// Whether the set is the default one.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The names of those that are added, sorted.
    #[must_use]
    pub fn added(&self) -> Vec<&'static str> {
        self.add.iter().map(|one| one.name()).collect()
    }

    /// The first that is both added and dropped by its name; to add after `ALL` is no contradiction.
    #[must_use]
    pub fn contradiction(&self) -> Option<LinuxCapability> {
        match &self.drop {
            Dropped::These(names) => self.add.intersection(names).next().copied(),
            Dropped::All => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_has_one_form_whatever_way_it_is_written() {
        for text in ["NET_RAW", "CAP_NET_RAW", "cap_net_raw", "Net_Raw"] {
            let one: LinuxCapability = text.parse().unwrap();
            assert_eq!(one.to_string(), "NET_RAW");
        }
        for text in ["", "CAP_", "NET-RAW", "CAP_CAP_NET_RAW", "ROOT", " NET_RAW"] {
            let error = text.parse::<LinuxCapability>().unwrap_err();
            assert!(error.to_string().contains("NET_BIND_SERVICE"), "{error}");
        }
        let long = "x".repeat(100_000).parse::<LinuxCapability>().unwrap_err();
        assert!(long.to_string().len() < 250, "{long}");
        for text in ["ALL", "all", "CAP_ALL"] {
            assert_eq!(
                text.parse::<LinuxCapability>(),
                Err(InvalidCapability::All),
                "{text}"
            );
        }
    }

    #[test]
    fn all_that_is_dropped_is_sorted_and_all_swallows_the_rest() {
        let dropped = |names: &[&str]| {
            let mut dropped = Dropped::default();
            for name in names {
                dropped.also(name).unwrap();
            }
            dropped.names()
        };
        assert_eq!(
            dropped(&["setuid", "CHOWN", "CAP_CHOWN"]),
            ["CHOWN", "SETUID"]
        );
        assert_eq!(dropped(&["CHOWN", "all", "KILL"]), ["ALL"]);
        assert!(Dropped::default().also("ROOT").is_err());
    }

    #[test]
    fn the_json_form_is_read_back_and_the_default_is_short() {
        for text in [
            r#"{"drop":[]}"#,
            r#"{"add":["NET_RAW"],"drop":["ALL"]}"#,
            r#"{"drop":["CHOWN","KILL"]}"#,
        ] {
            let read: Capabilities = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        let read: Capabilities = serde_json::from_str("{}").unwrap();
        assert!(read.is_default());
        assert!(serde_json::from_str::<Capabilities>(r#"{"add":["ALL"]}"#).is_err());
    }

    #[test]
    fn what_is_added_and_dropped_by_name_is_a_contradiction() {
        let read = |text: &str| serde_json::from_str::<Capabilities>(text).unwrap();
        let both = read(r#"{"add":["CHOWN","KILL"],"drop":["KILL"]}"#);
        assert_eq!(both.contradiction().unwrap().name(), "KILL");
        assert_eq!(
            read(r#"{"add":["CHOWN"],"drop":["ALL"]}"#).contradiction(),
            None
        );
    }
}
