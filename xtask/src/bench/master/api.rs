//! A real master, simulated agents and a framework over gRPC: how fast launches go as tasks become many, what lists cost them
//! meanwhile, what the master's memory holds, how long a new master needs to know everything.
//!
//! The driver (`fleet/examples/bench_master`) starts all parts as processes of their own and prints a line of JSON for each
//! measurement; here lines become rows. Rates depend on who shares the processors: the processor time of each part
//! is told beside them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mezzo_integration::paths;
use serde_json::Value;

use super::super::report::Row;
use super::curve::{self, Stretch};
use crate::cargo;

/// Whose processor time is told.
const PARTS: [&str; 3] = ["master", "fleet", "framework"];

/// All that is measured, or `1 / part` of it: less shows that the bench works, and what a change does, not how large a cluster
/// may be.
fn plan(part: u32) -> [String; 4] {
    let of = |n: u32| n / part;
    let (agents, tenth) = (of(5_000), of(100_000));
    let steps: Vec<String> = (1..=10).map(|step| (step * tenth).to_string()).collect();
    [
        format!("launches --agents {agents} --tasks {}", steps.join(",")),
        format!(
            "launches --agents {agents} --tasks {} --per-accept 1",
            steps.join(",")
        ),
        format!(
            "reads --agents {agents} --tasks {} --rounds 4 --listed {tenth} --every {}",
            of(400_000),
            of(10_000)
        ),
        format!("failover --agents {} --tasks {}", of(40_000), of(400_000)),
    ]
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
    let mut curve = Vec::new();
    for (at, words) in plan(if quick { 20 } else { 1 }).iter().enumerate() {
        let mut child = Command::new(&driver)
            .args(words.split(' '))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}", driver.display()))?;
        let output = child.stdout.take().context("the driver's output")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            print!(".");
            for row in rows_of(&line)? {
                add(&mut rows, row);
            }
            // The first of the plan is that of the curve.
            if at == 0 {
                curve.extend(stretch_of(&line)?);
            }
        }
        let status = child.wait().context("wait for the driver")?;
        ensure!(
            status.success(),
            "the driver failed ({status}): {} {words}",
            driver.display()
        );
    }
    if let Some((time, cpu)) = curve::growth(&curve) {
        let case = "a launch of the last tenth, in those of the first";
        rows.push(row(case, "times as long", time));
        rows.push(row(case, "times the CPU time", cpu));
    }
    curve::write(&curve)?;
    Ok(rows)
}

/// A point of the curve, if the line tells one.
fn stretch_of(line: &str) -> Result<Option<Stretch>> {
    let told: Value =
        serde_json::from_str(line).with_context(|| format!("the driver said {line:?}"))?;
    if told["case"] != "launches" {
        return Ok(None);
    }
    let number = |pointer: &str| {
        let value = told.pointer(pointer).and_then(Value::as_f64);
        value.with_context(|| format!("the driver said {line:?}, without {pointer:?}"))
    };
    let tasks = number("/launched/tasks")?;
    let mut cpu = 0.0;
    for part in PARTS {
        cpu += number(&format!("/launched/cpu_seconds/{part}"))?;
    }
    Ok(Some(Stretch {
        total: number("/total")?,
        tasks,
        seconds: number("/launched/seconds")?,
        cpu_micros: cpu * 1e6 / tasks,
    }))
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
        for part in PARTS {
            sum += number(&format!("{launched}/cpu_seconds/{part}"))?;
        }
        Ok(sum * 1e6 / number(&format!("{launched}/tasks"))?)
    };
    let master = |launched: &str| -> Result<f64> {
        let seconds = number(&format!("{launched}/cpu_seconds/master"))?;
        Ok(seconds * 1e6 / number(&format!("{launched}/tasks"))?)
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
            vec![
                row(&case, "per s", number("/launched/per_second")?),
                row(
                    &case,
                    "ms to running, 99 of 100",
                    number("/launched/p99_ms")?,
                ),
                row(&case, "CPU µs per launch, all", cpu("/launched")?),
                row(&case, "CPU µs per launch, master", master("/launched")?),
                row(
                    &format!("memory of the master, {} tasks", told["total"]),
                    "KiB per task",
                    number("/kib_per_task")?,
                ),
            ]
        }
        Some("reads") => {
            let case = format!(
                "launches while somebody lists {} tasks every {} ms",
                told["listed"], told["every_ms"]
            );
            let beside = |unit, with, without| Row {
                peer: "without lists".to_owned(),
                peer_values: vec![without],
                ..row(&case, unit, with)
            };
            vec![
                beside(
                    "per s",
                    number("/with/per_second")?,
                    number("/without/per_second")?,
                ),
                beside("CPU µs per launch, all", cpu("/with")?, cpu("/without")?),
                beside(
                    "CPU µs per launch, master",
                    master("/with")?,
                    master("/without")?,
                ),
                // Not among the above: it is nobody's who launches.
                row(&case, "CPU s, who lists", number("/reader_cpu_seconds")?),
            ]
        }
        Some("list") => vec![row(
            &format!("a list of {} tasks meanwhile", told["tasks"]),
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
    fn a_line_about_launches_is_a_point_of_the_curve() {
        let line = format!(r#"{{"case":"launches","total":5000,"launched":{LAUNCHED}}}"#);
        let point = stretch_of(&line).unwrap().unwrap();
        assert_eq!(
            (
                point.total,
                point.tasks,
                point.seconds,
                point.cpu_micros.round()
            ),
            (5000.0, 1000.0, 0.5, 80.0)
        );
        assert_eq!(stretch_of(r#"{"case":"agents"}"#).unwrap(), None);
    }

    #[test]
    fn a_part_of_the_plan_has_the_shape_of_the_whole() {
        let [curve, .., failover] = plan(20);
        assert!(
            curve.starts_with("launches --agents 250 --tasks 5000,10000,"),
            "{curve}"
        );
        assert!(curve.ends_with(",50000"), "{curve}");
        assert_eq!(failover, "failover --agents 2000 --tasks 20000");
    }

    #[test]
    fn rounds_with_and_without_lists_are_one_row() {
        let line = format!(
            r#"{{"case":"reads","agents":10,"listed":5,"every_ms":10000,"with":{LAUNCHED},"without":{LAUNCHED},"reader_cpu_seconds":0.5}}"#
        );
        let mut rows = Vec::new();
        for row in [rows_of(&line).unwrap(), rows_of(&line).unwrap()].concat() {
            add(&mut rows, row);
        }
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[0].ours.len(), rows[0].peer_values.len()), (2, 2));
        rows_of("nothing").unwrap_err();
        rows_of(r#"{"case":"list"}"#).unwrap_err();
    }
}
