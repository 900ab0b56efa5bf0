//! One machine of the cluster: registers with the master, launches tasks, reports on them, survives its own death.
//!
//! The decisions are pure (`task::core`, `task::updates`, `recovery::plan`, `resources::ledger`): state + event + now
//! give new state + effects. One owner task (`actor`) drives them and performs the effects. What runs containers and
//! what holds images stand behind the two traits of [`node`].
//!
//! ```text
//! master ⇄ master_link ──►  actor  ──► store    (checkpoints and updates, durable before they are told)
//!              grpc, http ──►  │    ──► launch   (image, snapshot, ports, files: fetch, container)
//!                             core  ──► watch    (waits for the end), health, usage → stats, image_gc
//! ```

mod actor;
mod config;
mod disk;
mod error;
mod fetch;
mod grpc;
mod health;
mod http;
mod image_gc;
mod launch;
mod master_link;
mod master_term;
mod messages;
mod metrics;
pub mod node;
mod purge;
mod recovery;
mod resources;
mod server;
mod slack;
mod stats;
mod store;
mod task;
mod usage;

pub use config::{Config, NetworkSettings};
pub use error::Error;
pub use purge::purge;
pub use resources::devices::DeviceSet;
pub use server::{Ready, run, run_reloading, run_with};
pub use slack::settings::Oversubscription;
