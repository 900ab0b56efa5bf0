//! `cargo xtask vm node`: the agent's tests on real containers, in a guest where what this machine may lack is there:
//! cgroup v2 with pressure per task, and a state folder on a file system with project quotas.

use anyhow::{Result, ensure};
use mezzo_integration::vm::{Bench, DataDisk};

use super::{Scratch, add_probe, guest_of_tests, run_tests};
use crate::cargo;
use crate::runner::Counts;
use crate::steps::Steps;

/// Part of the names of those tests that elsewhere say that they are skipped.
pub(super) const ONLY_IN_GUESTS: &str = "in_a_guest";
/// The same of those that ask the file system for quotas.
pub(super) const OF_QUOTAS: &str = "quota";
/// Tells them that nothing is to be skipped, and on which file system they are.
const IN_GUEST: &str = "MEZZO_TEST_GUEST";

/// Runs the command.
pub(super) fn run(
    bench: &Bench,
    steps: &mut Steps,
    filter: Option<&str>,
    cpus: u32,
    data: DataDisk,
) -> Result<Counts> {
    let mut tests = Vec::new();
    steps.run("build the agent and its tests", || {
        tests = cargo::build_tests()?;
        tests.retain(|test| test.package == "mezzo-agent" && test.target == "node");
        ensure!(tests.len() == 1, "cargo built {tests:?}");
        Ok(String::new())
    })?;
    let scratch = Scratch::create()?;
    let mut spec = guest_of_tests("node", &tests, cpus)?;
    spec.data = data;
    add_probe(&mut spec, &scratch, "agent/tests/node/probe.c")?;
    let words: Vec<&str> = filter.into_iter().collect();
    let kind = match data {
        DataDisk::Plain | DataDisk::Ext4Projects => "ext4",
        DataDisk::XfsProjects => "xfs",
    };
    let env = format!("{IN_GUEST}={kind}");
    run_tests(bench, steps, spec, &tests, (&["/bin/env", &env], &words))
}
