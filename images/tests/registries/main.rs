//! Pulls from registries that are wrong, slow, shy, limited or mirrored, and into stores that were damaged.

#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]

#[path = "../common/mod.rs"]
mod common;

mod credentials;
mod damage;
mod faults;
mod manifests;
mod mirrors;
mod resume;
mod secrets;
