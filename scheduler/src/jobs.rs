//! Jobs: what runs at set times, after other jobs, or when somebody says so, and then ends. The part of Chronos.
//!
//! All pure; `docs/jobs.md` tells what it means to people. [`schedule`] (with [`cron`], [`repeat`] and [`zone`]) says
//! when, [`spec`] what ([`parse`] reads it, `json` writes it), [`graph`] after what. [`state`] is what is known of
//! runs, `core` moves it on (with `status`, `launch` and [`command`]), `record` is its durable form.

pub mod command;
pub(crate) mod core;
pub mod cron;
pub mod graph;
mod json;
mod launch;
pub mod name;
pub mod parse;
pub(crate) mod record;
pub mod repeat;
pub mod schedule;
pub mod spec;
pub mod state;
mod status;
mod task;
pub mod zone;

pub use name::JobName;
pub use parse::check_job_json;
pub use spec::Job;
