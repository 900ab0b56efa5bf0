//! Pools as text: Mesos' notation, read and written.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Pools;
use crate::model::{InvalidResources, Reservation, Resources, RoleName, Stack};

impl fmt::Display for Pools {
    /// Mesos' notation: `cpus:2;cpus(eng):1;disk(eng)[data]:100;disk(eng)[corpus]<SHARED>:100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.open.is_empty() {
            parts.push(self.open.to_string());
        }
        for (stack, resources) in &self.apart().reserved {
            parts.extend(
                resources
                    .iter()
                    .map(|(name, value)| format!("{name}{stack}:{value}")),
            );
        }
        for volume in self.apart().volumes.values() {
            parts.push(format!(
                "disk{}[{}]{}:{}",
                volume.stack,
                volume.id,
                if volume.shared { "<SHARED>" } else { "" },
                volume.size_mb
            ));
        }
        if parts.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&parts.join(";"))
    }
}

impl FromStr for Pools {
    type Err = InvalidResources;

    /// As an agent's settings have it: `cpus:2;cpus(eng):1;ports:[31000-31009]`. A role makes a static reservation.
    fn from_str(text: &str) -> Result<Self, InvalidResources> {
        let mut open = Vec::new();
        let mut by_role: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once(':').unwrap_or((part, ""));
            match name.split_once('(') {
                None => open.push(part),
                Some((name, role)) => {
                    let role =
                        role.trim_end()
                            .strip_suffix(')')
                            .ok_or_else(|| InvalidResources {
                                text: part.chars().take(80).collect(),
                                problem: "`)` is missing after the role".to_owned(),
                            })?;
                    let plain = format!("{}:{value}", name.trim());
                    by_role.entry(role).or_default().push(plain);
                }
            }
        }
        let mut pools = Self::open_to_all(open.join(";").parse()?);
        for (role, parts) in by_role {
            let invalid = |problem: String| InvalidResources {
                text: role.chars().take(80).collect(),
                problem,
            };
            let name: RoleName = role.parse().map_err(|error| invalid(format!("{error}")))?;
            let stack = Stack::single(Reservation::fixed(name));
            let stack = stack.map_err(|error| invalid(error.to_string()))?;
            pools = pools.with_reserved(&stack, parts.join(";").parse()?);
        }
        check_kinds(&pools)?;
        Ok(pools)
    }
}

/// A port or an item is had by one at a time, and a name is of one kind.
fn check_kinds(pools: &Pools) -> Result<(), InvalidResources> {
    let mut sum = Resources::new();
    let parts = std::iter::once(&pools.open).chain(pools.apart().reserved.values());
    for part in parts {
        let more = sum.checked_add(part);
        let disjoint = more
            .as_ref()
            .is_ok_and(|more| more.checked_sub(part).as_ref() == Some(&sum));
        match more {
            Ok(more) if disjoint => sum = more,
            Ok(_) | Err(_) => {
                return Err(InvalidResources {
                    text: part.to_string().chars().take(80).collect(),
                    problem:
                        "a part of it stands for another role too, or is of another kind there"
                            .to_owned(),
                });
            }
        }
    }
    Ok(())
}

impl Serialize for Pools {
    /// As text; for settings, which have no volumes and only static reservations.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pools {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
