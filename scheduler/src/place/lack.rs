//! Reasons why an offer, or a machine, does not take an instance; in Marathon's names and in words.
//!
//! Pure.

use std::fmt;

use mezzo_api::model::{RoleName, Scalar};

use crate::app::role::Accepts;

/// Marathon's reasons, in the order in which it looks for them; those without a meaning here are told as never met.
pub const REASONS: [&str; 9] = [
    "UnfulfilledRole",
    "UnfulfilledConstraint",
    "NoCorrespondingReservationFound",
    "InsufficientCpus",
    "InsufficientMemory",
    "InsufficientDisk",
    "InsufficientGpus",
    "InsufficientPorts",
    "DeclinedScarceResources",
];

/// Why an offer takes no instance: something it has too little of, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// An amount.
    Scalar {
        /// Of what.
        name: &'static str,
        /// By one instance.
        asked: Scalar,
        /// In the offer, after what others took of it.
        offered: Scalar,
    },
    /// Any ports.
    Ports {
        /// By one instance.
        asked: u64,
        /// In the offer.
        offered: u64,
    },
    /// Certain ports.
    FixedPorts {
        /// Those that are not offered.
        missing: Vec<u16>,
    },
    /// What an instance keeps there is not in the offer.
    Reservation {
        /// The first part that is not.
        missing: String,
    },
    /// It is of the wrong role, or of the right one but not of what is accepted.
    Role {
        /// In words.
        problem: String,
    },
    /// It is the wrong machine.
    Constraint {
        /// As the app wrote it.
        constraint: String,
        /// What speaks against the machine.
        problem: String,
    },
}

impl Lack {
    /// The offer is of another role than what waits.
    #[must_use]
    pub fn other_role(offered: &RoleName, accepted: &RoleName) -> Self {
        Self::Role {
            problem: format!("offer of role {offered}, it accepts {accepted}"),
        }
    }

    /// The offer is of the right role, and what is accepted of it is not enough.
    #[must_use]
    pub fn not_accepted(accepts: Accepts, role: &RoleName) -> Self {
        let names = accepts.names(role).join(", ");
        Self::Role {
            problem: format!(
                "it accepts resources of role {names} alone, the offer of role {role} has others"
            ),
        }
    }

    /// Marathon's name for the reason, as `/v2/queue` counts it.
    #[must_use]
    pub fn marathon_reason(&self) -> &'static str {
        match self {
            Self::Scalar { name: "cpus", .. } => "InsufficientCpus",
            Self::Scalar { name: "mem", .. } => "InsufficientMemory",
            Self::Scalar { name: "disk", .. } => "InsufficientDisk",
            Self::Scalar { .. } => "InsufficientGpus",
            Self::Ports { .. } | Self::FixedPorts { .. } => "InsufficientPorts",
            Self::Role { .. } => "UnfulfilledRole",
            Self::Reservation { .. } => "NoCorrespondingReservationFound",
            Self::Constraint { .. } => "UnfulfilledConstraint",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar {
                name,
                asked,
                offered,
            } => write!(f, "{name}: asks for {asked}, {offered} offered"),
            Self::Ports { asked, offered } => {
                write!(f, "ports: asks for {asked}, {offered} offered")
            }
            Self::FixedPorts { missing } => {
                let missing: Vec<String> = missing.iter().map(u16::to_string).collect();
                write!(f, "ports: {} not offered", missing.join(", "))
            }
            Self::Reservation { missing } => {
                write!(f, "kept by an instance: {missing} not offered")
            }
            Self::Role { problem } => write!(f, "role: {problem}"),
            Self::Constraint {
                constraint,
                problem,
            } => write!(f, "constraint {constraint}: {problem}"),
        }
    }
}
