//! What an operator decides about oversubscription.

use serde::{Deserialize, Serialize};

use super::{estimate, qos, tells_pressure};
use mezzo_api::model::CgroupMode;

/// How much is lent, and when it is taken back. Only with `oversubscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Oversubscription {
    /// How long a task must use less before most of the rest is lent, in seconds.
    pub window_secs: u64,
    /// Of what each ordinary task was given, in percent; never lent.
    pub safety_percent: u64,
    /// An ordinary task that waits for a processor more of the time than this, in percent, has them back; 100 turns that off.
    pub cpu_pressure_percent: u64,
    /// The same for memory.
    pub memory_pressure_percent: u64,
    /// Tasks that use more than this of what the machine offers, in percent, leave too little room for revocable ones.
    pub use_percent: u64,
    /// Between two revocable tasks that are killed, in seconds.
    pub pause_secs: u64,
}

impl Default for Oversubscription {
    fn default() -> Self {
        Self {
            window_secs: 300,
            safety_percent: 10,
            cpu_pressure_percent: 20,
            memory_pressure_percent: 10,
            use_percent: 95,
            pause_secs: 10,
        }
    }
}

impl Oversubscription {
    /// The first field that cannot be right, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, percent, least) in [
            ("oversubscription.safety_percent", self.safety_percent, 0),
            (
                "oversubscription.cpu_pressure_percent",
                self.cpu_pressure_percent,
                1,
            ),
            (
                "oversubscription.memory_pressure_percent",
                self.memory_pressure_percent,
                1,
            ),
            ("oversubscription.use_percent", self.use_percent, 1),
        ] {
            if !(least..=100).contains(&percent) {
                return Err((field, format!("{percent} is not within {least} to 100")));
            }
        }
        for (field, seconds) in [
            ("oversubscription.window_secs", self.window_secs),
            ("oversubscription.pause_secs", self.pause_secs),
        ] {
            if !(1..=86_400).contains(&seconds) {
                return Err((field, format!("{seconds} is not within 1 to 86400")));
            }
        }
        Ok(())
    }

    pub(crate) fn estimator(&self) -> estimate::Settings {
        estimate::Settings {
            window_ms: self.window_secs.saturating_mul(1000),
            safety_percent: self.safety_percent,
        }
    }

    pub(crate) fn controller(&self, mode: CgroupMode) -> qos::Settings {
        qos::Settings {
            cpu_pressure_percent: self.cpu_pressure_percent,
            memory_pressure_percent: self.memory_pressure_percent,
            use_percent: self.use_percent,
            pause_ms: self.pause_secs.saturating_mul(1000),
            by_task: tells_pressure(mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn it_is_off_by_itself_and_each_mistake_names_its_field() {
        assert!(!Config::default().oversubscribe);
        let config: Config =
            toml::from_str("oversubscribe = true\n[oversubscription]\nwindow_secs = 60\n").unwrap();
        config.check().unwrap();
        assert_eq!(config.oversubscription.window_secs, 60);
        for (text, field) in [
            ("use_percent = 101", "oversubscription.use_percent"),
            (
                "cpu_pressure_percent = 0",
                "oversubscription.cpu_pressure_percent",
            ),
            ("pause_secs = 0", "oversubscription.pause_secs"),
        ] {
            let config: Config = toml::from_str(&format!("[oversubscription]\n{text}\n")).unwrap();
            let words = config.check().unwrap_err().to_string();
            assert!(words.contains(field), "{words}");
        }
        assert!(toml::from_str::<Config>("[oversubscription]\nspeed = 1\n").is_err());
    }
}
