//! `cargo xtask bench scheduler`: a real scheduler and a real master over loopback, with simulated agents.
//!
//! The driver (`fleet/examples/bench_scheduler`) runs the three and measures; here is what it is asked for. There is no
//! peer: Marathon's figures are of another cluster (50,000 instances in under 90 s on 24,000 cores).

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mezzo_integration::paths;
use serde_json::Value;

use super::report::{self, Row};
use crate::cargo;
use crate::setup::{self, Need};

/// A tenth of everything.
const QUICK: [&str; 12] = [
    "--agents",
    "100",
    "--scale",
    "5000",
    "--apps",
    "1000",
    "--roll",
    "1000",
    "--rounds",
    "3",
    "--clients",
    "100",
];

/// Runs the command.
pub(super) fn run(quick: bool) -> Result<()> {
    println!("{}", setup::ensure(&[Need::Build])?);
    let words = [
        "build",
        "--release",
        "--package",
        "mezzo-fleet",
        "--example",
        "bench_scheduler",
    ];
    cargo::run(&words)?;
    let driver = paths::target()?.join("release/examples/bench_scheduler");
    let output = Command::new(&driver)
        .args(if quick { QUICK.as_slice() } else { &[] })
        .env("RUST_LOG", "error")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", driver.display()))?;
    ensure!(
        output.status.success(),
        "the driver failed: {}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<Row> = text.lines().map(row_of).collect::<Result<_>>()?;
    report::write("scheduler", &rows)
}

/// One figure.
fn row_of(line: &str) -> Result<Row> {
    let told: Value =
        serde_json::from_str(line).with_context(|| format!("the driver said {line:?}"))?;
    let values = told["values"].as_array().context("no values")?;
    let unit = match told["unit"].as_str() {
        Some("s") => "s",
        Some("CPU s") => "CPU s",
        Some("ms") => "ms",
        Some("CPU ms") => "CPU ms",
        Some("MB") => "MB",
        Some("tasks") => "tasks",
        other => anyhow::bail!("the driver said {line:?}, with the unit {other:?}"),
    };
    Ok(Row {
        case: told["case"].as_str().unwrap_or("?").to_owned(),
        unit,
        ours: values.iter().filter_map(Value::as_f64).collect(),
        peer: String::new(),
        peer_values: Vec::new(),
        floor: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_driver_is_a_row() {
        let row = row_of(r#"{"case":"GET","unit":"ms","values":[2.5,3]}"#).unwrap();
        assert_eq!((row.case.as_str(), row.unit), ("GET", "ms"));
        assert_eq!(row.ours, [2.5, 3.0]);
        assert!(row_of(r#"{"case":"GET","unit":"miles","values":[1]}"#).is_err());
        assert!(row_of("nothing").is_err());
    }
}
