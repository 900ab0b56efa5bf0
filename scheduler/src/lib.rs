//! The Marathon-style scheduler of mezzo: keeps applications running on a cluster, behind Marathon's REST API.
//!
//! It is a framework like any other: everything it knows of the cluster comes over the public gRPC API. What it does
//! not know: how the master allocates, what a container is, where an image lies.
//!
//! * pure: [`app`] (what people ask for), [`reconcile`] (wanted against running), [`place`] (instances on offers),
//!   [`resident`] (what instances keep on machines), [`deployment`] (plans), [`backoff`], [`task`], [`events`], and
//!   [`core`], which puts them together;
//! * edges: `driver` (the one owner of the core, its event loop), `link` to the master, [`store`] (redb, or etcd), `http`
//!   (REST over published snapshots), `front`, `proxy` and `forwarded` (who answers on the socket), `server` (puts them together),
//!   `elected` (does so when this one leads).

#![forbid(unsafe_code)]

pub mod app;
pub mod backoff;
pub mod config;
pub mod core;
pub mod deployment;
mod driver;
mod elected;
pub mod events;
mod forwarded;
mod front;
pub mod group;
mod http;
pub mod jobs;
mod link;
pub mod place;
mod proxy;
pub mod reconcile;
pub mod resident;
mod server;
pub mod store;
pub mod task;
pub mod time;
pub mod why;

pub use app::{Report, Unknown, check_app_json, check_pod_json, is_pod_json};
pub use config::{Config, InvalidConfig, NewGroups, StoreAddress};
pub use group::check_group_json;
pub use jobs::check_job_json;
pub use server::{Error, run, run_reloading};
