//! `cargo xtask test alerts`: whether Prometheus takes `packaging/alerts/`, and each alert fires when it should.
//!
//! `promtool` is of Debian's package `prometheus`. The package is unpacked below `target/`, never installed: an installed one
//! starts a server. Where it cannot be had, the check is left out, and said aloud. That each metric in a rule is one that a
//! master tells is a test of the master's own (`master/tests/alerts.rs`).

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use mezzo_integration::{paths, process};

use crate::setup;

const PACKAGE: &str = "prometheus";

/// Runs the checks, and returns a sentence on what was looked at.
pub(crate) fn check() -> Result<String> {
    let promtool = match promtool() {
        Ok(program) => program,
        Err(error) => {
            println!("  SKIPPED: no promtool: {error:#}");
            return Ok("SKIPPED for want of promtool".to_owned());
        }
    };
    let folder = paths::workspace().join("packaging/alerts");
    let run = |words: &[&str]| {
        let mut command = Command::new(&promtool);
        process::output(command.args(words).current_dir(&folder))
    };
    let said = run(&["check", "rules", "mezzo.rules.yml"])?;
    run(&["test", "rules", "mezzo.rules.test.yml"])?;
    let rules = said.lines().find(|line| line.contains("rules found"));
    Ok(rules.unwrap_or("rules and their tests").trim().to_owned())
}

fn promtool() -> Result<PathBuf> {
    if let Some(program) = paths::on_path("promtool") {
        return Ok(program);
    }
    let program = setup::tools()?.join(PACKAGE).join("usr/bin/promtool");
    if !program.exists() {
        setup::unpack(PACKAGE)?;
    }
    Ok(program)
}
