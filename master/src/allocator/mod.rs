//! Who is offered what: dominant resource fairness over a tree of roles, with quotas, as a pure function.
//!
//! [`allocate`] takes the free resources of some agents and the frameworks that want offers, and returns a plan; it
//! changes nothing, knows no clock and no protocol. Roles share by weight at each level of the tree, frameworks within
//! a role equally. `state` keeps the books that it reads, and carries the plan out.

mod axes;
mod constraints;
mod cycle;
mod filters;
mod minimum;
mod quantities;
pub mod quota;
mod reserved;
mod share;
mod tally;
#[cfg(test)]
mod tests;
mod tree;

pub use constraints::{Constraints, InvalidPattern};
pub use cycle::{Candidate, Claimant, OfferPlan, Outcome, Request, allocate};
pub use filters::{AgentFilters, ClaimantKey};
pub use minimum::{InvalidMinimum, Minimum};
pub use quantities::Quantities;
pub use quota::Quota;
pub use share::{DEFAULT_WEIGHT_MILLIS, Share};
pub use tally::{PassRecord, Tally};
