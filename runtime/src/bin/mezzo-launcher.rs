//! The launcher as a program of its own, for this crate's tests. The real one is the `mezzo` binary, which calls
//! the same function first thing in its `main`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mezzo_runtime::launcher_main_if_requested().unwrap_or_else(|| {
        eprintln!("this program is started by a container runtime, not by hand");
        ExitCode::FAILURE
    })
}
