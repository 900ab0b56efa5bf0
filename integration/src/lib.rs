//! What whole-system tests and `cargo xtask demo` stand on: a real registry, a real cluster, and a look at the
//! machine that does not ask mezzo.
//!
//! Everything that is started here is a guard: dropping it (also in a panic, or after Ctrl-C, which makes every wait
//! fail) ends the processes and removes what they made. [`leftovers`] then compares the machine with what it was.
//! The library is small on purpose, because xtask builds it before anything else; gRPC clients live in `tests/`.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod containers;
pub mod etcd;
pub mod history;
pub mod http;
pub mod images;
pub mod interrupt;
pub mod kernel;
pub mod leftovers;
pub mod paths;
pub mod ports;
pub mod process;
pub mod registry;
pub mod vm;
pub mod wait;
