//! The scheduler's core against a simulated cluster: statuses late, tasks failing, agents lost, the line broken, the
//! scheduler killed between any two steps and started again from what was durable. Hundreds of seeds in seconds.
//!
//! Invariants: no task id is used twice (the world checks each launch); what is durable is always the whole state; in
//! the end exactly the wanted instances run and every deployment is over; no update leaves its bounds by a decision of the
//! scheduler, and one without failures not at all, in the world itself; a deployment under way says what it waits for; a
//! trial ends by its time or by a word, never by a restart; what fails its health check is replaced before it ends, and only a
//! set share of an app at a time; what is launched is launched on an offer of its app's role, and takes only what the app accepts.
//! `planted` shows that each of them bites.
//! `MEZZO_SIM_SEEDS=FROM..TO` runs other seeds.

mod commands;
mod planted;
mod residents;
mod rest;
mod roles;
mod rules;
mod runs;
mod sick;
mod sim;
mod world;

use runs::{roll, seeds, storm};

#[test]
fn whatever_happens_in_the_end_exactly_what_is_wanted_runs() {
    for seed in seeds(200) {
        storm(seed, None);
    }
}

#[test]
fn a_rolling_update_without_failures_never_leaves_its_bounds() {
    for seed in seeds(200) {
        roll(seed, None);
    }
}
