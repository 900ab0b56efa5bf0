//! Simulated agents that speak the real agent API, thousands in one process: for tests, benchmarks, and whoever wants to
//! see a master with ten thousand machines.
//!
//! Tasks are timers: nothing runs, nothing is on a disk. All else is as with a true agent: one stream for each, statuses in
//! order and repeated until acknowledged, a new registration with everything that is held after a broken stream. One
//! thing is checked on the way: that no master ever gives an agent more than it has ([`Counts::overcommitted`]). What a
//! true agent remembers beyond its life (ids of ended tasks) these forget.
//!
//! `agent` decides and does nothing else (no clock, no I/O); `line` is one agent's stream, `wire` its bytes; `fleet` owns
//! them all;
//! `main.rs` is the program `mezzo-fleet`.
#![forbid(unsafe_code)]

mod agent;
mod config;
mod counts;
mod fleet;
mod line;
mod record;
mod wire;

pub use config::{Config, InvalidConfig};
pub use counts::Counts;
pub use fleet::{Fleet, NotInTime};
pub use record::{Happened, Record};
