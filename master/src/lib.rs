//! The master: offers the resources of agents to frameworks, and carries what they decide.
//!
//! `state` and `allocator` decide and do nothing else (no clock, no I/O); `actor` owns them; `grpc` and `http` are thin
//! fronts; `store` keeps what must survive; `server` wires it all, `elected` for one master among several. The master does not know what a container is, how
//! a task is run, or why a framework wants it.
#![forbid(unsafe_code)]

mod actor;
pub mod allocator;
mod config;
mod elected;
mod front;
mod grpc;
mod http;
mod listener;
mod metrics;
mod server;
#[cfg(test)]
mod simulation;
mod standby;
pub mod state;
pub mod store;

pub use config::{Config, DEFAULT_PORT, InvalidConfig, StoreAddress};
pub use server::{Error, run, run_and_tell, run_on};
