//! The master: offers the resources of agents to frameworks, and carries what they decide.
//!
//! `state` and `allocator` decide and do nothing else (no clock, no I/O); `actor` owns them; `grpc` and `http` are thin
//! fronts behind `auth`, which says who may call; `store` keeps what must survive, `restore` puts a backup into it; `event_log` is
//! what watchers follow; `server` wires it all, `elected` for one master among several. The master does not know what a container is, how
//! a task is run, or why a framework wants it.
#![forbid(unsafe_code)]

mod actor;
pub mod allocator;
mod auth;
mod config;
mod elected;
mod event_log;
mod front;
mod grpc;
mod http;
mod listener;
mod metrics;
mod planted;
mod restore;
mod server;
#[cfg(test)]
mod simulation;
mod standby;
pub mod state;
pub mod store;

pub use auth::{CredentialsError, InvalidCredentials, new_credential};
pub use config::{Config, DEFAULT_PORT, InvalidConfig, InvalidMinimum, Minimum, StoreAddress};
pub use restore::{RestoreError, restore};
pub use server::{Error, run, run_and_tell, run_on, run_reloading};
