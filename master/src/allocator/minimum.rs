//! The least that is worth an offer, as an operator sets it: alternatives, each with all that it names.

use std::{fmt, str::FromStr};

use mezzo_api::model::{Pools, Resources, Scalar};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What an agent must have free to be offered: one of these. None: anything is enough.
///
/// Written as Mesos writes `--min_allocatable_resources`: `cpus:0.01|mem:32`, `cpus:1;mem:64|gpus:1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Minimum(Vec<Resources>);

/// A text that is no minimum.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidMinimum {
    /// Everything would be more.
    #[error(
        "{0:?} has an alternative that names nothing; give resources such as `cpus:0.01|mem:32`"
    )]
    Nothing(String),
    /// Not resources.
    #[error("{text:?} is no description of resources: {problem}")]
    Resources {
        /// What was read.
        text: String,
        /// Why not.
        problem: String,
    },
}

impl Default for Minimum {
    /// A hundredth of a processor, or 32 MiB.
    fn default() -> Self {
        Self(vec![
            Resources::new().with_scalar("cpus", Scalar::from_millis(10)),
            Resources::new().with_scalar("mem", Scalar::from_units(32)),
        ])
    }
}

impl Minimum {
    /// Whether `free` is worth an offer. What is reserved always is: else nobody could give it back. A shared volume is not by
    /// itself, for it is there after each offer too; it goes along with what is.
    #[must_use]
    pub fn is_met(&self, free: &Pools) -> bool {
        let open = free.open();
        let enough = match self.0.as_slice() {
            [] => !open.is_empty(),
            alternatives => alternatives.iter().any(|least| open.contains(least)),
        };
        enough || free.reserved().next().is_some() || free.volumes().any(|volume| !volume.shared)
    }
}

impl FromStr for Minimum {
    type Err = InvalidMinimum;

    fn from_str(text: &str) -> Result<Self, InvalidMinimum> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        let alternative = |part: &str| {
            let resources: Resources =
                part.trim()
                    .parse()
                    .map_err(|error: mezzo_api::model::InvalidResources| {
                        InvalidMinimum::Resources {
                            text: part.to_owned(),
                            problem: error.to_string(),
                        }
                    })?;
            if resources.is_empty() {
                return Err(InvalidMinimum::Nothing(text.to_owned()));
            }
            Ok(resources)
        };
        text.split('|')
            .map(alternative)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Minimum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, least) in self.0.iter().enumerate() {
            let before = if i == 0 { "" } else { "|" };
            write!(f, "{before}{least}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Minimum {
    type Error = InvalidMinimum;

    fn try_from(text: String) -> Result<Self, InvalidMinimum> {
        text.parse()
    }
}

impl From<Minimum> for String {
    fn from(minimum: Minimum) -> Self {
        minimum.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alternative_is_enough_and_all_of_it_is_needed() {
        let usual = Minimum::default();
        for (minimum, free, met) in [
            (usual.clone(), "cpus:0.01", true),
            (usual.clone(), "mem:32;cpus:0.009", true),
            (usual.clone(), "cpus:0.009;mem:31.999;disk:1000", false),
            // Both used up, as in Mesos: what else is free waits for them.
            (usual, "gpus:4;disk:1000;licences:3", false),
            ("cpus:0.01|mem:32|gpus:1".parse().unwrap(), "gpus:4", true),
            ("cpus:1;mem:64".parse().unwrap(), "cpus:8;mem:63", false),
            ("cpus:1;mem:64".parse().unwrap(), "cpus:1;mem:64", true),
            ("licences:1".parse().unwrap(), "cpus:8;mem:1024", false),
            (" ".parse().unwrap(), "licences:0.001", true),
            ("".parse().unwrap(), "", false),
        ] {
            let pools: Pools = free.parse().unwrap();
            assert_eq!(minimum.is_met(&pools), met, "{minimum}: {free}");
        }
        // What is reserved could not be given back otherwise.
        let minimum: Minimum = "cpus:4".parse().unwrap();
        assert!(minimum.is_met(&"cpus(a):1".parse().unwrap()));
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        assert_eq!(Minimum::default().to_string(), "cpus:0.01|mem:32");
        for text in ["cpus:0.01|mem:32", "cpus:1;mem:64|gpus:1", ""] {
            assert_eq!(text.parse::<Minimum>().unwrap().to_string(), text);
        }
        for bad in ["|", "cpus:1|", "cpus:0", "cpus", "cpus:1||mem:1"] {
            bad.parse::<Minimum>().unwrap_err();
        }
    }
}
