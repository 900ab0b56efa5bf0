//! Many containers that only sleep: started as fast as possible, their supervisors' memory taken, all killed and
//! removed. The peers go through `xargs -P 4`; ours has four starts at once, too.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::driver::number;
use super::peers::Peer;
use super::{Bench, Sample};
use crate::bench::quiet;
use crate::bench::report::{self, Row};

const PATIENCE: Duration = Duration::from_secs(5);

/// The two cases that one run of many serves.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) rates: Vec<Row>,
    pub(super) memory: Vec<Row>,
}

/// One round of one contender.
#[derive(Debug, Clone, Copy)]
struct Round {
    up: Sample,
    down: Sample,
    /// Of all that looks after containers, for each container.
    kib_each: f64,
}

/// Runs the rounds.
pub(super) fn measure(bench: &mut Bench) -> Result<Found> {
    let mut found = Found::default();
    let sizes: &[(u32, u32)] = if bench.quick {
        &[(100, 1)]
    } else {
        &[(100, 3), (1000, 2)]
    };
    for &(count, rounds) in sizes {
        println!("\n{count} sleepers, {rounds} rounds");
        let mut ours: Vec<Round> = Vec::new();
        let mut theirs: Vec<Vec<Round>> = vec![Vec::new(); bench.peers.len()];
        for _ in 0..rounds {
            quiet::wait(PATIENCE)?;
            let round = our_round(bench, count)?;
            println!("  mezzo: {}", tell(&round, count));
            ours.push(round);
            for (peer, samples) in bench.peers.iter().zip(&mut theirs) {
                if peer.starts_many(count) {
                    let round = their_round(bench, peer, count)?;
                    println!("  {}: {}", peer.name, tell(&round, count));
                    samples.push(round);
                }
            }
        }
        let peers = bench.peers.iter().zip(&theirs);
        let peers: Vec<_> = peers.filter(|(_, rounds)| !rounds.is_empty()).collect();
        add_rows(&mut found, count, &ours, &peers);
    }
    Ok(found)
}

fn per_second(sample: &Sample, count: u32) -> f64 {
    f64::from(count) / (sample.wall_ms / 1000.0)
}

fn cpu_each(sample: &Sample, count: u32) -> Option<f64> {
    sample.cpu_ms.map(|cpu| cpu / f64::from(count))
}

fn tell(round: &Round, count: u32) -> String {
    let cpu = |sample| match cpu_each(sample, count) {
        Some(cpu) => format!(" ({cpu:.1} CPU ms each)"),
        None => String::new(),
    };
    format!(
        "{:.0} starts/s{}, {:.0} removals/s{}, {:.0} KiB each",
        per_second(&round.up, count),
        cpu(&round.up),
        per_second(&round.down, count),
        cpu(&round.down),
        round.kib_each
    )
}

fn our_round(bench: &mut Bench, count: u32) -> Result<Round> {
    let (driver, group) = (&mut bench.driver, &bench.group);
    let before = number(&driver.ask("memory")?, "all_kib")?;
    let up = Bench::sample(group, || {
        number(&driver.ask(&format!("up {count}"))?, "up_wall_ms")
    })?;
    let memory = driver.ask("memory")?;
    ensure!(
        number(&memory, "n_keepers")? == f64::from(count),
        "not all run: {memory}"
    );
    let after = number(&memory, "all_kib")?;
    let down = Bench::sample(group, || number(&driver.ask("down")?, "down_wall_ms"))?;
    Ok(Round {
        up,
        down,
        kib_each: (after - before) / f64::from(count),
    })
}

fn their_round(bench: &Bench, peer: &Peer, count: u32) -> Result<Round> {
    peer.prepare(count)?;
    let strangers: BTreeSet<i32> = peer.supervisors().into_iter().collect();
    let before = sum_of_pss(&strangers)?;
    let up = Bench::sample(&bench.group, || Ok(report::millis(&peer.up()?)));
    let measured = up.and_then(|up| {
        let all: BTreeSet<i32> = peer.supervisors().into_iter().collect();
        Ok((up, sum_of_pss(&all)? - before))
    });
    // Also after a failure: what runs must end.
    let down = Bench::sample(&bench.group, || Ok(report::millis(&peer.down()?)));
    super::reap_zombies();
    let (up, kib) = measured.with_context(|| peer.name.clone())?;
    Ok(Round {
        up,
        down: down.with_context(|| peer.name.clone())?,
        kib_each: kib / f64::from(count),
    })
}

fn sum_of_pss(pids: &BTreeSet<i32>) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        // It may have ended since it was found.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.and_then(|number| number.parse::<f64>().ok());
        sum += number.with_context(|| format!("{path} tells no PSS"))?;
    }
    Ok(sum)
}

fn add_rows(found: &mut Found, count: u32, ours: &[Round], peers: &[(&Peer, &Vec<Round>)]) {
    type Value<'a> = &'a dyn Fn(&Round) -> Option<f64>;
    let mut add = |memory: bool, case: String, unit: &'static str, value: Value<'_>| {
        let of = |rounds: &[Round]| -> Vec<f64> { rounds.iter().filter_map(value).collect() };
        let mut rows: Vec<Row> = Vec::new();
        for (peer, rounds) in peers {
            rows.push(Row {
                case: case.clone(),
                unit,
                ours: of(ours),
                peer: peer.name.clone(),
                peer_values: of(rounds),
                floor: Vec::new(),
            });
        }
        if rows.is_empty() {
            rows.push(Row {
                case,
                unit,
                ours: of(ours),
                peer: String::new(),
                peer_values: Vec::new(),
                floor: Vec::new(),
            });
        }
        rows.retain(|row| !row.ours.is_empty());
        let list = if memory {
            &mut found.memory
        } else {
            &mut found.rates
        };
        list.extend(rows);
    };
    add(false, format!("{count} sleepers: starts"), "1/s", &|one| {
        Some(per_second(&one.up, count))
    });
    add(
        false,
        format!("{count} sleepers: a start, CPU time"),
        "CPU ms",
        &|one| cpu_each(&one.up, count),
    );
    add(
        false,
        format!("{count} sleepers: removals"),
        "1/s",
        &|one| Some(per_second(&one.down, count)),
    );
    add(
        false,
        format!("{count} sleepers: a removal, CPU time"),
        "CPU ms",
        &|one| cpu_each(&one.down, count),
    );
    add(
        true,
        format!("memory for each of {count} sleepers, without their own"),
        "KiB",
        &|one| Some(one.kib_each),
    );
}
