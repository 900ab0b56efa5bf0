//! Containers behind the machine's bridge: addresses, the way out, mapped ports from every side, what must not get
//! through, and what is left after ends and crashes.
//!
//! Each test runs in a process and a network namespace of its own (the test program executes itself again under
//! `unshare -n`), with a second namespace as the world outside: nothing here touches the machine's network.
//!
//! `world` is that world, `place` a container's place in the network; the tests are in `reach` (addresses and ways),
//! `ports` (what is mapped) and `leases` (who has what, also after a crash).

#![expect(clippy::unwrap_used, reason = "test")]

#[path = "../common/mod.rs"]
mod common;
mod leases;
mod place;
mod ports;
mod reach;
mod world;
