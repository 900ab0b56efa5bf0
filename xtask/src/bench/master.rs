//! `cargo xtask bench master`: the allocator alone, at the sizes of Mesos' own benchmarks (`HierarchicalAllocator_BENCHMARK`:
//! agents by frameworks); then launches, lists, memory and failover of a real master with simulated agents (`api`).
//!
//! The driver (`master/examples/bench_allocator.rs`) turns the pure core: no network, no disk, one thread. There is no peer: Mesos publishes
//! its figures as images only.

mod api;
mod curve;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mezzo_integration::paths;
use serde_json::Value;

use super::report::{self, Row};
use crate::cargo;
use crate::setup::{self, Need};

/// Agents and frameworks.
const SIZES: [(u32, u32); 8] = [
    (1_000, 1),
    (1_000, 50),
    (1_000, 200),
    (10_000, 50),
    (10_000, 200),
    (10_000, 1_000),
    (50_000, 200),
    (50_000, 1_000),
];

/// Runs the command.
pub(super) fn run(quick: bool) -> Result<()> {
    println!("{}", setup::ensure(&[Need::Build])?);
    let words = [
        "build",
        "--release",
        "--package",
        "mezzo-master",
        "--example",
        "bench_allocator",
    ];
    cargo::run(&words)?;
    let driver = paths::target()?.join("release/examples/bench_allocator");
    let mut rows = Vec::new();
    for (agents, frameworks) in SIZES {
        if quick && agents > 10_000 {
            continue;
        }
        let output = Command::new(&driver)
            .args(["--agents", &agents.to_string()])
            .args(["--frameworks", &frameworks.to_string()])
            .args(["--rounds", if quick { "3" } else { "9" }])
            .output()
            .with_context(|| format!("run {}", driver.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "the driver failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        for line in text.lines() {
            print!(".");
            rows.extend(rows_of(line)?);
        }
    }
    rows.extend(api::run(quick)?);
    report::write("master", &rows)
}

/// Wall and CPU time of one case.
fn rows_of(line: &str) -> Result<[Row; 2]> {
    let told: Value =
        serde_json::from_str(line).with_context(|| format!("the driver said {line:?}"))?;
    let times = |field: &str| -> Result<Vec<f64>> {
        let list = told[field].as_array();
        let times = list.map(|list| list.iter().filter_map(Value::as_f64).collect());
        times.with_context(|| format!("the driver said {line:?}, without {field:?}"))
    };
    let case = format!(
        "{}: {} agents, {} frameworks",
        told["case"].as_str().unwrap_or("?"),
        told["agents"],
        told["frameworks"]
    );
    let row = |unit, ours| Row {
        case: case.clone(),
        unit,
        ours,
        peer: String::new(),
        peer_values: Vec::new(),
        floor: Vec::new(),
    };
    Ok([
        row("ms", times("millis")?),
        row("CPU ms", times("cpu_millis")?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_driver_is_two_rows() {
        let line = r#"{"case":"fresh","agents":1000,"frameworks":50,"offers":1000,"millis":[2.5],"cpu_millis":[2.0]}"#;
        let [wall, cpu] = rows_of(line).unwrap();
        assert_eq!(wall.case, "fresh: 1000 agents, 50 frameworks");
        assert_eq!((wall.unit, wall.ours), ("ms", vec![2.5]));
        assert_eq!((cpu.unit, cpu.ours), ("CPU ms", vec![2.0]));
        assert!(rows_of("nothing").is_err());
    }
}
