//! One container at a time: its whole life, or the time until its first instruction. One of each contender in a
//! round, so that what else the machine does meets all of them alike.

use std::time::Duration;

use anyhow::Result;

use super::driver::number;
use super::peers::Peer;
use super::{Bench, Sample};
use crate::bench::quiet;
use crate::bench::report::{self, Row};

/// Longest wait for other work to end, before each round.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is done once.
pub(super) struct One {
    name: &'static str,
    /// The driver's word for it.
    command: &'static str,
    peer: fn(&Peer) -> Result<Duration>,
}

/// From create to delete.
pub(super) const LIFE: One = One {
    name: "container of `true`, create to delete",
    command: "life",
    peer: Peer::life,
};

/// From the request to the program.
pub(super) const START: One = One {
    name: "time to the first instruction",
    command: "start",
    peer: Peer::start,
};

/// Runs the rounds.
pub(super) fn measure(bench: &mut Bench, one: &One) -> Result<Vec<Row>> {
    println!("\n{}, {} rounds", one.name, bench.rounds);
    let mut ours: Vec<Sample> = Vec::new();
    let mut theirs: Vec<Vec<Sample>> = vec![Vec::new(); bench.peers.len()];
    // Two rounds for warming up.
    for round in 0..bench.rounds + 2 {
        quiet::wait(PATIENCE)?;
        let driver = &mut bench.driver;
        let sample = Bench::sample(&bench.group, || {
            number(&driver.ask(one.command)?, "wall_ms")
        })?;
        ours.push(sample);
        for (peer, samples) in bench.peers.iter().zip(&mut theirs) {
            // Engines take a hundred times as long, and their spread is not the question.
            if peer.is_engine() && round % 4 != 2 && round != 0 {
                continue;
            }
            samples.push(Bench::sample(&bench.group, || {
                Ok(report::millis(&(one.peer)(peer)?))
            })?);
        }
        if round < 2 {
            ours.clear();
            theirs.iter_mut().for_each(Vec::clear);
        }
    }
    println!("  mezzo: {}", tell(&ours));
    for (peer, samples) in bench.peers.iter().zip(&theirs) {
        println!("  {}: {}", peer.name, tell(samples));
    }
    Ok(rows(one.name, &bench.peers, &ours, &theirs))
}

/// For who watches; the table at the end tells the rest.
fn tell(samples: &[Sample]) -> String {
    let wall: Vec<f64> = samples.iter().map(|one| one.wall_ms).collect();
    let cpu: Vec<f64> = samples.iter().filter_map(|one| one.cpu_ms).collect();
    let number = |values: &[f64]| match report::median(values) {
        Some(median) => format!("{median:.1}"),
        None => "no".to_owned(),
    };
    format!("{} ms, {} CPU ms", number(&wall), number(&cpu))
}

fn rows(name: &str, peers: &[Peer], ours: &[Sample], theirs: &[Vec<Sample>]) -> Vec<Row> {
    let wall: fn(&Sample) -> Option<f64> = |sample| Some(sample.wall_ms);
    let cpu: fn(&Sample) -> Option<f64> = |sample| sample.cpu_ms;
    let mut rows = Vec::new();
    for (suffix, unit, value) in [("", "ms", wall), (", CPU time", "CPU ms", cpu)] {
        let of = |samples: &[Sample]| -> Vec<f64> { samples.iter().filter_map(value).collect() };
        let floor = peers.iter().zip(theirs).find(|(peer, _)| peer.is_floor());
        let floor = floor.map_or(Vec::new(), |(_, samples)| of(samples));
        let case = format!("{name}{suffix}");
        for (peer, samples) in peers
            .iter()
            .zip(theirs)
            .filter(|(peer, _)| !peer.is_floor())
        {
            rows.push(Row {
                case: case.clone(),
                unit,
                ours: of(ours),
                peer: peer.name.clone(),
                peer_values: of(samples),
                floor: floor.clone(),
            });
        }
        if peers.iter().all(Peer::is_floor) {
            rows.push(Row {
                case,
                unit,
                ours: of(ours),
                peer: String::new(),
                peer_values: Vec::new(),
                floor,
            });
        }
    }
    rows.retain(|row| !row.ours.is_empty());
    rows
}
