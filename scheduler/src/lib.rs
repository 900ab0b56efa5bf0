//! The Marathon-style scheduler of mezzo: keeps applications running on a cluster, behind Marathon's REST API.
//!
//! It is a framework like any other: everything it knows of the cluster comes over the public gRPC API. What it does
//! not know: how the master allocates, what a container is, where an image lies.
//!
//! * pure: [`app`] (what people ask for), [`reconcile`] (wanted against running), [`place`] (instances on offers),
//!   [`resident`] (what instances keep on machines), [`deployment`] (plans), [`backoff`], [`task`], [`events`], and
//!   [`core`], which puts them together;
//! * edges: `driver` (the one owner of the core, its event loop), `link` to the master, [`store`] (redb), `http` (REST
//!   over published snapshots), `server` (puts them together).

#![forbid(unsafe_code)]

pub mod app;
pub mod backoff;
pub mod config;
pub mod core;
pub mod deployment;
mod driver;
pub mod events;
pub mod group;
mod http;
pub mod jobs;
mod link;
pub mod place;
pub mod reconcile;
pub mod resident;
mod server;
pub mod store;
pub mod task;
pub mod time;
pub mod why;

pub use app::{Report, Unknown, check_app_json};
pub use config::Config;
pub use group::check_group_json;
pub use jobs::check_job_json;
pub use server::{Error, run};
