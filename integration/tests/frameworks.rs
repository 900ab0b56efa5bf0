//! The two example frameworks run a task each to its end on a live cluster, and print its exit code and final usage.

mod common;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_integration::cluster::PATIENCE;
use mezzo_integration::{paths, process, wait};

const ARGS: [&str; 6] = ["--", "0.2", "--cpu-ms", "300", "--exit-code", "7"];

fn check(stage: &Stage, command: &mut Command) -> Result<()> {
    command.args([
        "--master",
        stage.cluster.master(),
        "--image",
        &stage.registry.reference("sleep:1"),
    ]);
    command.args(["--deadline", "90"]).args(ARGS);
    let told = process::output(command)?;
    check_contains(&told, "TASK_RUNNING")?;
    let last = told.lines().last().context("no last line")?;
    check_contains(last, "exit code 7; final usage: cpu 0.")?;
    let cpu = last
        .split("cpu ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let cpu: f64 = cpu
        .context("no cpu figure")?
        .parse()
        .context("the cpu figure")?;
    ensure!(
        (0.3..0.9).contains(&cpu),
        "the task used 0.3 s of cpu, not {cpu}"
    );
    // Torn down: nothing of it stays with the master.
    wait::until("the framework to be gone", PATIENCE, || {
        let frameworks = stage.ask(&["framework", "list"])?;
        ensure!(
            !frameworks.to_string().contains("example-"),
            "it is still there: {frameworks}"
        );
        Ok(())
    })
}

#[test]
fn the_framework_in_rust_runs_a_task_to_its_end() {
    on_stage("rust-framework", |stage| {
        let program = paths::program("example-rust-framework")?;
        check(stage, &mut Command::new(program))
    });
}

#[test]
fn the_framework_in_python_runs_a_task_to_its_end() {
    let python = std::env::var_os("MEZZO_PYTHON").map(PathBuf::from);
    let Some(python) = python.filter(|path| path.is_file()) else {
        eprintln!("skipped: needs a Python with grpcio, which `cargo xtask test e2e` brings");
        return;
    };
    on_stage("python-framework", |stage| {
        let mut command = Command::new(&python);
        command.arg(paths::workspace().join("examples/python-framework/framework.py"));
        check(stage, &mut command)
    });
}
