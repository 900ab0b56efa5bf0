//! The program on a terminal of its own, as a person has one.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};

/// Longest that something may not be shown.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct OnTerminal {
    child: Child,
    /// The program's end of the terminal.
    slave: OwnedFd,
    /// The person's.
    keys: File,
    pieces: Receiver<Vec<u8>>,
    shown: String,
}

impl OnTerminal {
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = command
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(master.try_clone().unwrap());
        let mut screen = File::from(master);
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            slave,
            keys,
            pieces,
            shown: String::new(),
        }
    }

    /// Waits until something was shown.
    pub(crate) fn until(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.shown.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.shown);
            if let Ok(piece) = self.pieces.recv_timeout(Duration::from_millis(100)) {
                self.shown.push_str(&String::from_utf8_lossy(&piece));
            }
        }
    }

    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    /// What a window does that is pulled at.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let status = Command::new("stty")
            .args(["cols", &columns.to_string(), "rows", &rows.to_string()])
            .stdin(Stdio::from(self.slave.try_clone().unwrap()))
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        // The kernel tells it to those whose controlling terminal it is.
        self.signal(Signal::SIGWINCH);
    }

    /// How the terminal is set.
    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.slave).unwrap()
    }

    /// Waits for the end: what was shown, the exit code, and how the terminal is left.
    pub(crate) fn end(mut self) -> (String, Option<i32>, Termios) {
        let status = self.child.wait().unwrap();
        let left = self.settings();
        (self.shown, status.code(), left)
    }
}
