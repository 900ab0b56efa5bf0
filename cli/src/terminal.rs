//! The person's terminal during `task exec -t`: its size, raw mode, and back again whatever happens.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
};

use nix::sys::termios::{self, SetArg, Termios};

use crate::failure::Failure;

/// Whether both ends of us are a terminal.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Columns and rows, as far as the terminal tells.
pub(crate) fn size() -> (u16, u16) {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map_or(
        (80, 24),
        |(terminal_size::Width(columns), terminal_size::Height(rows))| (columns, rows),
    )
}

/// Raw mode of standard input while it lives: every key goes to the other side, also Ctrl-C.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(crate) fn enter() -> Result<Self, Failure> {
        let stdin = io::stdin();
        let wrong = |error: nix::Error| {
            Failure::failed(format!("cannot put the terminal into raw mode: {error}"))
        };
        let before = termios::tcgetattr(stdin.as_fd()).map_err(wrong)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).map_err(wrong)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to restore.
        let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}
