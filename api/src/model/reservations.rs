//! Reservations and persistent volumes: whose a part of an agent's resources is.
//!
//! A reservation can be refined: what is reserved for `eng` can be reserved again for `eng/web` within it, and falls back
//! to `eng` when that ends. So what belongs together carries a [`Stack`] of reservations, the first made at the bottom.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Resources, RoleName, Scalar, VolumeId};

/// Who made a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationKind {
    /// The agent's own settings. It ends only with those.
    Static,
    /// A framework or an operator, while the agent runs.
    Dynamic,
}

/// Resources are kept for a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reservation {
    /// For frameworks of this role and of those below it; never `*`.
    pub role: RoleName,
    /// How it came about.
    pub kind: ReservationKind,
    /// Who made it; empty where nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// Keep otherwise equal reservations apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Reservation {
    /// By the agent's settings.
    #[must_use]
    pub fn fixed(role: RoleName) -> Self {
        Self {
            role,
            kind: ReservationKind::Static,
            principal: String::new(),
            labels: BTreeMap::new(),
        }
    }

    /// By a framework or an operator.
    #[must_use]
    pub fn dynamic(role: RoleName, principal: &str) -> Self {
        Self {
            kind: ReservationKind::Dynamic,
            principal: principal.to_owned(),
            ..Self::fixed(role)
        }
    }
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.role)?;
        if !self.principal.is_empty() {
            write!(f, ",{}", self.principal)?;
        }
        for (name, value) in &self.labels {
            write!(f, ",{name}={value}")?;
        }
        Ok(())
    }
}

/// A stack of reservations that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadStack {
    /// Unreserved resources have no stack.
    #[error("a reservation names no role")]
    Empty,
    /// Nothing is kept for everybody.
    #[error("nothing can be reserved for role `*`; name one")]
    Everybody,
    /// Refinement goes down the tree of roles.
    #[error(
        "role {above} does not lie below {below}, for which the resources are reserved already"
    )]
    NotBelow {
        /// The role of the refinement.
        above: RoleName,
        /// The role that it refines.
        below: RoleName,
    },
    /// The agent's settings come first.
    #[error(
        "a static reservation (for role {0}) lies upon another one; only the agent's settings make those"
    )]
    StaticAbove(RoleName),
    /// More than anybody needs.
    #[error("more than {} reservations lie upon each other", Stack::HIGHEST)]
    TooHigh,
}

/// Reservations upon each other, at least one: each one's role lies strictly below that of the one under it, and only
/// the lowest can be static.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Reservation>", into = "Vec<Reservation>")]
pub struct Stack(Vec<Reservation>);

impl Stack {
    /// Roles are not deeper nested either.
    pub const HIGHEST: usize = 16;

    /// One reservation of what was nobody's.
    ///
    /// # Errors
    ///
    /// For `*`.
    pub fn single(reservation: Reservation) -> Result<Self, BadStack> {
        vec![reservation].try_into()
    }

    /// The same with one more on top.
    ///
    /// # Errors
    ///
    /// When its role does not lie below, or it is static.
    pub fn refined(&self, reservation: Reservation) -> Result<Self, BadStack> {
        let mut all = self.0.clone();
        all.push(reservation);
        all.try_into()
    }

    /// The last one made: it says whose the resources are.
    #[must_use]
    pub fn top(&self) -> &Reservation {
        self.0.last().expect("a stack is never empty")
    }

    /// Whose the resources are.
    #[must_use]
    pub fn role(&self) -> &RoleName {
        &self.top().role
    }

    /// What is left without the last one; `None`: unreserved.
    #[must_use]
    pub fn below(&self) -> Option<Self> {
        let rest = &self.0[..self.0.len() - 1];
        (!rest.is_empty()).then(|| Self(rest.to_vec()))
    }

    /// The part that the agent's settings made.
    #[must_use]
    pub fn fixed(&self) -> Option<Self> {
        let lowest = self.0.first()?;
        (lowest.kind == ReservationKind::Static).then(|| Self(vec![lowest.clone()]))
    }

    /// The first made first.
    #[must_use]
    pub fn as_slice(&self) -> &[Reservation] {
        &self.0
    }

    /// Whether a task may use it without naming it: no label keeps it for somebody.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|one| one.labels.is_empty())
    }
}

impl TryFrom<Vec<Reservation>> for Stack {
    type Error = BadStack;

    fn try_from(all: Vec<Reservation>) -> Result<Self, BadStack> {
        if all.is_empty() {
            return Err(BadStack::Empty);
        }
        if all.len() > Self::HIGHEST {
            return Err(BadStack::TooHigh);
        }
        if all.iter().any(|one| one.role == RoleName::any()) {
            return Err(BadStack::Everybody);
        }
        for pair in all.windows(2) {
            let (below, above) = (&pair[0], &pair[1]);
            if above.kind == ReservationKind::Static {
                return Err(BadStack::StaticAbove(above.role.clone()));
            }
            if above.role == below.role || !above.role.is_within(&below.role) {
                return Err(BadStack::NotBelow {
                    above: above.role.clone(),
                    below: below.role.clone(),
                });
            }
        }
        Ok(Self(all))
    }
}

impl From<Stack> for Vec<Reservation> {
    fn from(stack: Stack) -> Self {
        stack.0
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|one| write!(f, "({one})"))
    }
}

/// A part of an agent's resources that is reserved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    /// For whom.
    pub stack: Stack,
    /// What, without the disk of volumes.
    pub resources: Resources,
}

/// Names a persistent volume on one agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeKey {
    /// Whose it is.
    pub role: RoleName,
    /// Which of theirs.
    pub id: VolumeId,
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of role {}", self.id, self.role)
    }
}

/// Reserved disk whose content outlives tasks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PersistentVolume {
    /// Unique on the agent among those of its role.
    pub id: VolumeId,
    /// From which reservation its disk is.
    pub stack: Stack,
    /// In MiB; at most [`PersistentVolume::LARGEST_MB`].
    pub size_mb: u64,
    /// Who made it; empty where nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// Any number of tasks may have it at once: nobody's having it takes it from others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

impl PersistentVolume {
    /// As much as any scalar from the wire.
    pub const LARGEST_MB: u64 = 1_000_000_000_000;

    /// Its name.
    #[must_use]
    pub fn key(&self) -> VolumeKey {
        VolumeKey {
            role: self.stack.role().clone(),
            id: self.id.clone(),
        }
    }

    /// What of the `disk` it is made of.
    #[must_use]
    pub fn disk(&self) -> Scalar {
        Scalar::from_units(i64::try_from(self.size_mb).unwrap_or(i64::MAX / 1000))
    }

    /// The same as resources.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources::new().with_scalar("disk", self.disk())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic(role: &str) -> Reservation {
        Reservation::dynamic(role.parse().unwrap(), "")
    }

    #[test]
    fn a_stack_goes_down_the_tree_of_roles() {
        let eng = Stack::single(dynamic("eng")).unwrap();
        let web = eng.refined(dynamic("eng/web")).unwrap();
        assert_eq!(web.role().as_str(), "eng/web");
        assert_eq!(web.below(), Some(eng.clone()));
        assert_eq!(eng.below(), None);
        for bad in ["eng", "ops", "engine", "*"] {
            assert!(eng.refined(dynamic(bad)).is_err(), "{bad}");
        }
        let fixed = Reservation::fixed("eng/web".parse().unwrap());
        assert!(eng.refined(fixed.clone()).is_err());
        assert!(Stack::single(fixed).unwrap().fixed().is_some() && eng.fixed().is_none());
        assert_eq!(Stack::try_from(Vec::new()), Err(BadStack::Empty));
        assert_eq!(Stack::single(dynamic("*")), Err(BadStack::Everybody));
        assert_eq!(web.to_string(), "(eng)(eng/web)");
    }

    #[test]
    fn a_bad_stack_is_not_read_from_disk_either() {
        let good = Stack::single(dynamic("eng")).unwrap();
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Stack>(&text).unwrap(), good);
        let bad = text.replace("eng", "*");
        assert!(
            serde_json::from_str::<Stack>(&bad)
                .unwrap_err()
                .to_string()
                .contains("`*`")
        );
    }
}
