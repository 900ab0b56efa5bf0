//! The one binary `mezzo`: every server and every client verb.
//!
//! `args` (what was typed) → `request` (checked, pure) → `commands` (one file per family of verbs) → `client` (the
//! edges) → `view` (records with stable names, pure) → `render` (text for people, pure) → `output`. `dev` supervises
//! the three servers, `completion` answers shells at TAB, `failure` has the exit codes. This crate decides nothing about
//! clusters: it asks and shows.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod completion;
mod dev;
mod failure;
mod output;
mod render;
mod request;
mod screen;
mod terminal;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

/// The C library's, but in a master.
#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

fn main() -> ExitCode {
    // Before everything else: the launcher must be forked from a process with one thread.
    if let Some(code) = mezzo_runtime::launcher_main_if_requested() {
        return code;
    }
    if let Some(code) = completion::answer_if_asked() {
        return code;
    }
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be reading (`mezzo --help | head -1`); help is exit code 0, a wrong line 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                output::say(&format!("mezzo: {message}"));
            }
            failure.exit_code()
        }
    }
}
