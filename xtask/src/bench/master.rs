//! `cargo xtask bench master`: the allocator alone, at the sizes of Mesos' own benchmarks (`HierarchicalAllocator_BENCHMARK`:
//! agents by frameworks) and, for the curve (`passes`), at more; then launches, lists, memory and failover of a real master with
//! simulated agents (`api`).
//!
//! The driver (`master/examples/bench_allocator`) turns the pure core: no network, no disk, one thread. There is no peer: Mesos publishes
//! its figures as images only.

mod api;
mod curve;
mod passes;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mezzo_integration::paths;
use serde_json::Value;

use super::report::{self, Row};
use crate::cargo;
use crate::setup::{self, Need};

/// Agents and frameworks of the table, with all cases. The curve has these, and more.
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
    let mut rows = allocator(quick)?;
    rows.extend(api::run(quick)?);
    report::write("master", &rows)
}

/// Rows of the table; writes the curve.
fn allocator(quick: bool) -> Result<Vec<Row>> {
    let driver = paths::target()?.join("release/examples/bench_allocator");
    let rounds = if quick { "3" } else { "9" };
    let (mut rows, mut curve) = (Vec::new(), Vec::new());
    for agents in passes::AGENTS {
        if quick && agents > 10_000 {
            continue;
        }
        for (frameworks, _) in passes::LINES {
            let drawn: Vec<&str> = passes::cases(frameworks)
                .iter()
                .map(|case| case.0)
                .collect();
            let drawn = drawn.join(",");
            let in_table = SIZES.contains(&(agents, frameworks));
            let (agents, frameworks) = (agents.to_string(), frameworks.to_string());
            let mut words = vec!["--agents", &agents, "--frameworks", &frameworks];
            if !in_table {
                words.extend(["--case", &drawn]);
            }
            let told = measure(&driver, &words, rounds)?;
            if in_table {
                rows.extend(told.iter().flat_map(Measured::rows));
            }
            curve.extend(told);
        }
    }
    // Many frameworks of three kinds, until all of their tasks are launched.
    let mixed = measure(&driver, &["--case", "mixed"], rounds)?;
    rows.extend(mixed.iter().flat_map(Measured::rows));
    passes::write(&curve)?;
    Ok(rows)
}

/// What the driver tells.
fn measure(driver: &Path, words: &[&str], rounds: &str) -> Result<Vec<Measured>> {
    let output = Command::new(driver)
        .args(words)
        .args(["--rounds", rounds])
        .output()
        .with_context(|| format!("run {}", driver.display()))?;
    ensure!(
        output.status.success(),
        "the driver failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().inspect(|_| print!("."));
    told.map(Measured::parse).collect()
}

/// Times of one case at one size, in each round.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    case: String,
    agents: u32,
    frameworks: u32,
    millis: Vec<f64>,
    cpu_millis: Vec<f64>,
}

impl Measured {
    /// From a line of the driver.
    fn parse(line: &str) -> Result<Self> {
        let context = || format!("the driver said {line:?}");
        let told: Value = serde_json::from_str(line).with_context(context)?;
        let number = |field: &str| -> Result<u32> {
            let number = told[field].as_u64().with_context(context)?;
            u32::try_from(number).with_context(context)
        };
        let times = |field: &str| -> Result<Vec<f64>> {
            let list = told[field].as_array().with_context(context)?;
            Ok(list.iter().filter_map(Value::as_f64).collect())
        };
        Ok(Self {
            case: told["case"].as_str().with_context(context)?.to_owned(),
            agents: number("agents")?,
            frameworks: number("frameworks")?,
            millis: times("millis")?,
            cpu_millis: times("cpu_millis")?,
        })
    }

    /// Wall and CPU time.
    fn rows(&self) -> [Row; 2] {
        let row = |unit, ours: &[f64]| Row {
            case: format!(
                "{}: {} agents, {} frameworks",
                self.case, self.agents, self.frameworks
            ),
            unit,
            ours: ours.to_vec(),
            peer: String::new(),
            peer_values: Vec::new(),
            floor: Vec::new(),
        };
        [row("ms", &self.millis), row("CPU ms", &self.cpu_millis)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_has_all_sizes_of_the_table() {
        for (agents, frameworks) in SIZES {
            assert!(passes::AGENTS.contains(&agents), "{agents}");
            let drawn = passes::LINES.iter().any(|(line, _)| *line == frameworks);
            assert!(drawn, "{frameworks}");
        }
    }

    #[test]
    fn a_line_of_the_driver_is_two_rows() {
        let line = r#"{"case":"fresh","agents":1000,"frameworks":50,"offers":1000,"millis":[2.5],"cpu_millis":[2.0]}"#;
        let [wall, cpu] = Measured::parse(line).unwrap().rows();
        assert_eq!(wall.case, "fresh: 1000 agents, 50 frameworks");
        assert_eq!((wall.unit, wall.ours), ("ms", vec![2.5]));
        assert_eq!((cpu.unit, cpu.ours), ("CPU ms", vec![2.0]));
        assert!(Measured::parse("nothing").is_err());
        assert!(Measured::parse(r#"{"case":"fresh"}"#).is_err());
    }
}
