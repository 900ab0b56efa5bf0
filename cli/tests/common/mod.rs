//! Runs the binary as people do.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

pub(crate) fn run(command: &mut Command, stdin: &str) -> Output {
    let mut child = command
        .env_remove("RUST_BACKTRACE")
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn mezzo(words: &[&str]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_mezzo")).args(words), "")
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}
