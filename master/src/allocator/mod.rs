//! Who is offered what: dominant resource fairness, as a pure function.
//!
//! [`allocate`] takes the free resources of some agents and the frameworks that want offers, and returns a plan; it
//! changes nothing, knows no clock and no protocol. Roles share by weight, frameworks within a role equally. `state`
//! keeps the books that it reads, and carries the plan out.

mod cycle;
mod filters;
mod quantities;
mod share;

pub use cycle::{Candidate, Claimant, Minimum, OfferPlan, Request, allocate};
pub use filters::AgentFilters;
pub use quantities::Quantities;
pub use share::{DEFAULT_WEIGHT_MILLIS, Share};
