//! A real master, simulated agents and a framework over gRPC: how fast launches go as tasks become many, what lists cost them
//! meanwhile, what the master's memory holds, how long a new master needs to know everything.
//!
//! The driver (`fleet/examples/bench_master.rs`) starts all parts as processes of their own and prints a line of JSON for each
//! measurement; here lines become rows. Rates depend on who shares the processors: the processor time of each part
//! is told beside them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mezzo_integration::paths;
use serde_json::Value;

use super::super::report::Row;
use crate::cargo;

/// The words for the driver.
fn plan(quick: bool) -> [&'static str; 4] {
    if quick {
        [
            "launches --agents 1000 --tasks 10000,50000",
            "launches --agents 1000 --tasks 10000 --per-accept 1",
            "reads --agents 1000 --tasks 50000 --rounds 1",
            "failover --agents 2000 --tasks 20000",
        ]
    } else {
        [
            "launches --agents 5000 --tasks 10000,100000,1000000",
            "launches --agents 5000 --tasks 10000,100000 --per-accept 1",
            "reads --agents 5000 --tasks 150000 --rounds 5",
            "failover --agents 40000 --tasks 400000",
        ]
    }
}

pub(super) fn run(quick: bool) -> Result<Vec<Row>> {
    let words = [
        "build",
        "--release",
        "--package",
        "mezzo-fleet",
        "--example",
        "bench_master",
    ];
    cargo::run(&words)?;
    let driver = paths::target()?.join("release/examples/bench_master");
    let mut rows: Vec<Row> = Vec::new();
    for words in plan(quick) {
        let mut child = Command::new(&driver)
            .args(words.split(' '))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", driver.display()))?;
        let output = child.stdout.take().context("the driver's output")?;
        for line in BufReader::new(output).lines() {
            print!(".");
            for row in rows_of(&line?)? {
                add(&mut rows, row);
            }
        }
        let status = child.wait().context("wait for the driver")?;
        ensure!(
            status.success(),
            "the driver failed ({status}): {} {words}",
            driver.display()
        );
    }
    Ok(rows)
}

/// Rounds of one case are one row.
fn add(rows: &mut Vec<Row>, row: Row) {
    let same = |have: &&mut Row| have.case == row.case && have.unit == row.unit;
    match rows.iter_mut().find(same) {
        Some(have) => {
            have.ours.extend(row.ours);
            have.peer_values.extend(row.peer_values);
        }
        None => rows.push(row),
    }
}

fn row(case: &str, unit: &'static str, value: f64) -> Row {
    Row {
        case: case.to_owned(),
        unit,
        ours: vec![value],
        peer: String::new(),
        peer_values: Vec::new(),
        floor: Vec::new(),
    }
}

/// What one line of the driver tells.
fn rows_of(line: &str) -> Result<Vec<Row>> {
    let told: Value =
        serde_json::from_str(line).with_context(|| format!("the driver said {line:?}"))?;
    let number = |pointer: &str| {
        let value = told.pointer(pointer).and_then(Value::as_f64);
        value.with_context(|| format!("the driver said {line:?}, without {pointer:?}"))
    };
    // Of everybody, for each task, in microseconds.
    let cpu = |launched: &str| -> Result<f64> {
        let mut sum = 0.0;
        for part in ["master", "fleet", "framework"] {
            sum += number(&format!("{launched}/cpu_seconds/{part}"))?;
        }
        Ok(sum * 1e6 / number(&format!("{launched}/tasks"))?)
    };
    let rows = match told["case"].as_str() {
        Some("agents") => vec![row(
            &format!("memory of the master, {} agents", told["agents"]),
            "KiB per agent",
            number("/kib_per_agent")?,
        )],
        Some("launches") => {
            let case = format!(
                "launches up to {} tasks on {} agents, {} in each accept",
                told["total"], told["agents"], told["per_accept"]
            );
            let master = number("/launched/cpu_seconds/master")? * 1e6 / number("/launched/tasks")?;
            vec![
                row(&case, "per s", number("/launched/per_second")?),
                row(
                    &case,
                    "ms to running, 99 of 100",
                    number("/launched/p99_ms")?,
                ),
                row(&case, "CPU µs per launch, all", cpu("/launched")?),
                row(&case, "CPU µs per launch, master", master),
                row(
                    &format!("memory of the master, {} tasks", told["total"]),
                    "KiB per task",
                    number("/kib_per_task")?,
                ),
            ]
        }
        Some("reads") => {
            let case = "launches while somebody lists 100,000 tasks every 10 s";
            let beside = |unit, with, without| Row {
                peer: "without lists".to_owned(),
                peer_values: vec![without],
                ..row(case, unit, with)
            };
            vec![
                beside(
                    "per s",
                    number("/with/per_second")?,
                    number("/without/per_second")?,
                ),
                beside("CPU µs per launch, all", cpu("/with")?, cpu("/without")?),
            ]
        }
        Some("list") => vec![row(
            "a list of 100,000 tasks meanwhile",
            "s",
            number("/seconds")?,
        )],
        Some("failover") => {
            let case = format!(
                "a new master knows {} agents and {} tasks",
                told["agents"], told["tasks"]
            );
            vec![
                row(&case, "s", number("/seconds")?),
                row(&case, "CPU s, master", number("/cpu_seconds/master")?),
            ]
        }
        Some(_) | None => Vec::new(),
    };
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAUNCHED: &str = r#"{"tasks":1000,"seconds":0.5,"per_second":2000,"p50_ms":1,"p99_ms":9.5,"max_ms":10,
        "cpu_seconds":{"master":0.05,"fleet":0.02,"framework":0.01}}"#;

    #[test]
    fn a_line_about_launches_tells_rate_latency_time_and_memory() {
        let line = format!(
            r#"{{"case":"launches","agents":10,"total":1000,"per_accept":20,"launched":{LAUNCHED},"kib_per_task":1.5}}"#
        );
        let told: Vec<(&str, f64)> = rows_of(&line)
            .unwrap()
            .iter()
            .map(|row| (row.unit, row.ours[0].round()))
            .collect();
        assert_eq!(
            told,
            [
                ("per s", 2000.0),
                ("ms to running, 99 of 100", 10.0),
                ("CPU µs per launch, all", 80.0),
                ("CPU µs per launch, master", 50.0),
                ("KiB per task", 2.0),
            ]
        );
    }

    #[test]
    fn rounds_with_and_without_lists_are_one_row() {
        let line =
            format!(r#"{{"case":"reads","agents":10,"with":{LAUNCHED},"without":{LAUNCHED}}}"#);
        let mut rows = Vec::new();
        for row in [rows_of(&line).unwrap(), rows_of(&line).unwrap()].concat() {
            add(&mut rows, row);
        }
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].ours.len(), rows[0].peer_values.len()), (2, 2));
        rows_of("nothing").unwrap_err();
        rows_of(r#"{"case":"list"}"#).unwrap_err();
    }
}
