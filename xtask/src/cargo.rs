//! Calls of cargo: what is shown, what is parsed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use mezzo_integration::{images, process};
use serde_json::Value;

/// A test executable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestProgram {
    /// The crate's name.
    pub(crate) package: String,
    /// The crate's folder, which its tests run in.
    pub(crate) dir: PathBuf,
    /// "lib", "bin" or "test".
    pub(crate) kind: String,
    /// The target's name.
    pub(crate) target: String,
    /// The executable.
    pub(crate) path: PathBuf,
}

/// Runs cargo with its output shown as it comes.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    let mut command = images::cargo();
    command.args(words);
    shown(&mut command)
}

/// Runs a command with its output shown as it comes.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let line = process::command_line(command);
    println!("  {line}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed with {}", process::tell(status));
    }
    Ok(())
}

/// Builds every program and every test, and returns the tests. One call for the whole workspace: then every
/// dependency has one set of features and is compiled once.
pub(crate) fn build_tests() -> Result<Vec<TestProgram>> {
    build(&["build", "--workspace", "--all-targets"])
}

/// The smallest test of the workspace.
const SOME_TEST: &str = "refused";

/// Builds one program, without optimisation. Cargo lets the tests' dependencies have a say in features only where some test
/// is built, so one is: then what [`build_tests`] has built is not built again.
pub(crate) fn build_program(name: &str) -> Result<()> {
    let what = ["--workspace", "--bin", name, "--test", SOME_TEST];
    run(&[&["build", "--quiet", "--locked"], &what[..]].concat())
}

/// Builds the unit tests of one package's library by one profile.
pub(crate) fn build_unit_tests(package: &str, profile: &str) -> Result<TestProgram> {
    let built = build(&[
        "test",
        "--no-run",
        "--lib",
        "--profile",
        profile,
        "-p",
        package,
    ])?;
    let lib = built.into_iter().find(|program| program.package == package);
    lib.with_context(|| format!("cargo built no unit tests of {package}"))
}

/// Calls cargo with these words, and returns the tests that it built.
fn build(words: &[&str]) -> Result<Vec<TestProgram>> {
    let mut command = images::cargo();
    command
        .args(words)
        .args(["--message-format", "json-render-diagnostics"]);
    println!("  {}", process::command_line(&command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo build")?;
    let stdout = child.stdout.take().context("cargo's output")?;
    let mut found = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read cargo's output")?;
        found.extend(
            serde_json::from_str(&line)
                .ok()
                .and_then(|message: Value| test_program(&message)),
        );
    }
    let status = child.wait().context("wait for cargo build")?;
    if !status.success() {
        bail!("cargo build failed with {}", process::tell(status));
    }
    found.sort();
    Ok(found)
}

fn test_program(message: &Value) -> Option<TestProgram> {
    if message["profile"]["test"] != true {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let dir = manifest.parent()?.to_path_buf();
    let id = message["package_id"].as_str()?;
    Some(TestProgram {
        package: package_name(id).to_owned(),
        dir,
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        path: PathBuf::from(message["executable"].as_str()?),
    })
}

/// Of "path+file:///a/api#mezzo-api@0.1.0", or of "path+file:///a/xtask#0.1.0" where the folder has the same name.
fn package_name(id: &str) -> &str {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_package_names() {
        assert_eq!(
            package_name("path+file:///a/api#mezzo-api@0.1.0"),
            "mezzo-api"
        );
        assert_eq!(package_name("path+file:///a/xtask#0.1.0"), "xtask");
    }

    #[test]
    fn finds_tests_among_cargos_messages() {
        let message = serde_json::json!({
            "reason": "compiler-artifact", "package_id": "path+file:///a/integration#mezzo-integration@0.1.0",
            "manifest_path": "/a/integration/Cargo.toml", "target": { "kind": ["test"], "name": "system" },
            "profile": { "test": true }, "executable": "/a/target/debug/deps/system-12",
        });
        let found = test_program(&message).expect("a test");
        assert_eq!(
            (found.package.as_str(), found.kind.as_str()),
            ("mezzo-integration", "test")
        );
        assert_eq!(found.dir, PathBuf::from("/a/integration"));
        assert_eq!(
            test_program(&serde_json::json!({ "profile": { "test": false } })),
            None
        );
    }
}
