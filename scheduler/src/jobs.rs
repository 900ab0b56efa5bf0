//! Jobs: what runs at set times, after other jobs, or when somebody says so, and then ends. The part of Chronos.
//!
//! All pure; see `docs/jobs.md`. [`schedule`] (with [`cron`], [`repeat`] and [`zone`]) says when.

pub mod cron;
pub mod repeat;
pub mod schedule;
pub mod zone;
