//! How guests are run, and how slow that is: KVM where a guest really boots under it, else software emulation.
//! `/dev/kvm` may be there and yet hang every guest, so the only proof is a guest that answers before a deadline.
//!
//! What was found is kept until the machine boots again: a hanging KVM costs its deadline only once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By translating them.
    Emulation,
}

impl Accel {
    /// The words for QEMU.
    pub(super) fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// What the probe guest showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// How guests are run.
    pub accel: Accel,
    /// From the start of QEMU to the guest's first word.
    pub boot: Duration,
    /// How many times longer starting processes takes in the guest than outside.
    pub slowness: f64,
}

impl Speed {
    /// A time limit that means the same on every machine: `limit` is for one that runs guests at full speed.
    pub fn stretch(&self, limit: Duration) -> Duration {
        limit.mul_f64(self.slowness.clamp(1.0, 60.0))
    }

    fn encode(&self, key: &str) -> Value {
        let kvm = self.accel == Accel::Kvm;
        json!({ "key": key, "kvm": kvm, "boot_secs": self.boot.as_secs_f64(), "slowness": self.slowness })
    }

    fn decode(value: &Value, key: &str) -> Option<Self> {
        if value["key"] != key {
            return None;
        }
        let accel = if value["kvm"].as_bool()? {
            Accel::Kvm
        } else {
            Accel::Emulation
        };
        let boot = Duration::try_from_secs_f64(value["boot_secs"].as_f64()?).ok()?;
        let slowness = value["slowness"].as_f64()?;
        Some(Self {
            accel,
            boot,
            slowness,
        })
    }
}

/// What was found since the machine booted.
pub(super) fn remembered(file: &Path, key: &str) -> Option<Speed> {
    let text = fs::read_to_string(file).ok()?;
    Speed::decode(&serde_json::from_str(&text).ok()?, key)
}

/// Keeps it for the next run.
pub(super) fn remember(file: &Path, key: &str, speed: &Speed) -> Result<()> {
    fs::write(file, speed.encode(key).to_string())
        .with_context(|| format!("write {}", file.display()))
}

/// Differs after every boot of this machine.
pub(super) fn key() -> Result<String> {
    let file = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stretch_but_never_shrink() {
        let speed = |slowness| Speed {
            accel: Accel::Emulation,
            boot: Duration::from_secs(3),
            slowness,
        };
        let second = Duration::from_secs(1);
        assert_eq!(speed(12.0).stretch(second), Duration::from_secs(12));
        assert_eq!(speed(0.5).stretch(second), second);
        assert_eq!(speed(1e9).stretch(second), Duration::from_secs(60));
    }

    #[test]
    fn what_was_found_is_kept_until_the_next_boot() {
        let speed = Speed {
            accel: Accel::Kvm,
            boot: Duration::from_millis(1500),
            slowness: 1.25,
        };
        let kept = speed.encode("this boot");
        assert_eq!(Speed::decode(&kept, "this boot"), Some(speed));
        assert_eq!(Speed::decode(&kept, "another boot"), None);
    }
}
