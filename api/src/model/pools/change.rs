//! What turns resources into others of the same sum, and why it may not.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Pools;
use crate::model::{
    BadStack, Excess, PersistentVolume, Reservation, Resources, RoleName, Stack, VolumeKey,
};

/// Turns resources into others of the same sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolChange {
    /// Puts a reservation upon what is open, or upon another reservation.
    Reserve {
        /// `None`: what is open to all.
        from: Option<Stack>,
        /// The new one.
        with: Reservation,
        /// How much.
        resources: Resources,
    },
    /// Takes the topmost reservation away.
    Unreserve {
        /// With the one that goes.
        stack: Stack,
        /// How much.
        resources: Resources,
    },
    /// Makes a volume of reserved disk.
    Create(PersistentVolume),
    /// Makes reserved disk of a volume. Its content is lost.
    Destroy(VolumeKey),
}

impl PoolChange {
    /// Whose reservation or volume it is about.
    #[must_use]
    pub fn role(&self) -> &RoleName {
        match self {
            Self::Reserve { with, .. } => &with.role,
            Self::Unreserve { stack, .. } => stack.role(),
            Self::Create(volume) => volume.stack.role(),
            Self::Destroy(key) => &key.role,
        }
    }
}

impl fmt::Display for PoolChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve {
                with, resources, ..
            } => write!(f, "reserve {resources} for role {}", with.role),
            Self::Unreserve { stack, resources } => {
                write!(f, "unreserve {resources} of role {}", stack.role())
            }
            Self::Create(volume) => write!(f, "create volume {}", volume.key()),
            Self::Destroy(key) => write!(f, "destroy volume {key}"),
        }
    }
}

/// What a [`PoolChange`] takes, and what it makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// Is there before.
    pub consumed: Pools,
    /// Is there after.
    pub produced: Pools,
}

/// Why a change cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeProblem {
    /// The reservation cannot be.
    #[error(transparent)]
    Stack(#[from] BadStack),
    /// The agent's settings say so.
    #[error(
        "the reservation for role {0} is static: it ends when the agent's settings no longer name it"
    )]
    Static(RoleName),
    /// Names are used once at a time.
    #[error("volume {0} exists already")]
    VolumeThere(VolumeKey),
    /// No such volume.
    #[error("there is no volume {0}")]
    NoVolume(VolumeKey),
    /// Too much kept apart.
    #[error(transparent)]
    Excess(#[from] Excess),
    /// A change of nothing.
    #[error("it names no resources")]
    Nothing,
    /// It takes what is not there.
    #[error("it takes {wanted}, and there is {have}")]
    NotThere {
        /// What it takes.
        wanted: String,
        /// What there is.
        have: String,
    },
}
