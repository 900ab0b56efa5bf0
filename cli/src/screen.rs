//! A screen that is painted again and again: the terminal's second page while it lives, keys without echo, everything
//! put back when it goes, however that comes about.
//!
//! Signals stay signals (Ctrl-C interrupts), so that even a hung program can be left; who waits for them drops this.

use std::{
    io::{self, IsTerminal as _, Read as _},
    os::fd::AsFd as _,
    thread,
};

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use tokio::sync::mpsc;

use crate::{failure::Failure, output::print, terminal};

/// What a person pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Quit,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
}

/// The screen.
#[derive(Debug)]
pub(crate) struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// Whether there is one: output goes to a terminal.
    pub(crate) fn is_there() -> bool {
        io::stdout().is_terminal()
    }

    /// Takes the terminal; keys come through the receiver, if input is the terminal's.
    pub(crate) fn enter() -> Result<(Self, mpsc::Receiver<Key>), Failure> {
        let (sender, keys) = mpsc::channel(16);
        let mut screen = Self { before: None };
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let wrong = |error: nix::Error| {
                Failure::failed(format!("cannot read keys from the terminal: {error}"))
            };
            let before = termios::tcgetattr(stdin.as_fd()).map_err(wrong)?;
            let mut quiet = before.clone();
            quiet
                .local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO);
            termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &quiet).map_err(wrong)?;
            screen.before = Some(before);
            // It ends with the process: a read of a terminal cannot be called off.
            thread::Builder::new()
                .name("keys".to_owned())
                .spawn(move || read_keys(&sender))
                .map_err(|error| {
                    Failure::failed(format!("cannot start a thread for keys: {error}"))
                })?;
        }
        // Second page, no cursor.
        print("\x1b[?1049h\x1b[?25l")?;
        Ok((screen, keys))
    }

    /// Columns and rows now.
    pub(crate) fn size(&self) -> (u16, u16) {
        terminal::size()
    }

    /// Shows this text, cut to the screen.
    pub(crate) fn paint(&self, text: &str) -> Result<(), Failure> {
        let (columns, rows) = self.size();
        print(&frame(text, columns.into(), rows.into()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to put back.
        let _ = print("\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, before);
        }
    }
}

/// The bytes that show a text: from the first place on, each line cut to the width, the rest of the screen empty. Pure.
fn frame(text: &str, columns: usize, rows: usize) -> String {
    let mut out = String::from("\x1b[H");
    for (n, line) in text.lines().take(rows).enumerate() {
        if n > 0 {
            out.push_str("\r\n");
        }
        out.push_str(&cut(line, columns));
        out.push_str("\x1b[0m\x1b[K");
    }
    out.push_str("\x1b[J");
    out
}

/// So many characters of a line; colours take no room. Pure.
fn cut(line: &str, columns: usize) -> String {
    let mut out = String::with_capacity(line.len());
    let (mut shown, mut escape) = (0, false);
    for c in line.chars() {
        if escape {
            out.push(c);
            escape = !c.is_ascii_alphabetic();
        } else if c == '\x1b' {
            out.push(c);
            escape = true;
        } else if shown < columns {
            out.push(c);
            shown += 1;
        }
    }
    out
}

fn read_keys(sender: &mpsc::Sender<Key>) {
    let mut stdin = io::stdin().lock();
    let mut bytes = [0; 64];
    loop {
        match stdin.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                for key in keys_in(&bytes[..n]) {
                    if sender.blocking_send(key).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The keys in what a terminal sent; what means nothing here is left out. Pure.
fn keys_in(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        let (key, used) = match (first, rest) {
            (0x1b, [b'[' | b'O', letter, after @ ..]) => match (letter, after) {
                (b'A', _) => (Some(Key::Up), 3),
                (b'B', _) => (Some(Key::Down), 3),
                (b'C', _) => (Some(Key::Right), 3),
                (b'D', _) => (Some(Key::Left), 3),
                (b'5', [b'~', ..]) => (Some(Key::PageUp), 4),
                (b'6', [b'~', ..]) => (Some(Key::PageDown), 4),
                _ => (None, 3),
            },
            (b'q' | b'Q' | 0x03 | 0x04, _) => (Some(Key::Quit), 1),
            (b'k', _) => (Some(Key::Up), 1),
            (b'j', _) => (Some(Key::Down), 1),
            (b'h' | b'<', _) => (Some(Key::Left), 1),
            (b'l' | b'>', _) => (Some(Key::Right), 1),
            _ => (None, 1),
        };
        keys.extend(key);
        bytes = &bytes[used.min(bytes.len())..];
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_alone_and_in_a_row() {
        assert_eq!(keys_in(b"q"), [Key::Quit]);
        assert_eq!(
            keys_in(b"\x1b[A\x1bOBx\x1b[5~j\x1b[C"),
            [Key::Up, Key::Down, Key::PageUp, Key::Down, Key::Right]
        );
        assert_eq!(keys_in(b"\x1b"), []);
        assert_eq!(keys_in(b"\x1b["), []);
    }

    #[test]
    fn a_frame_fits_the_screen_and_colours_take_no_room() {
        assert_eq!(
            frame("abc\ndef\nghi", 2, 2),
            "\x1b[Hab\x1b[0m\x1b[K\r\nde\x1b[0m\x1b[K\x1b[J"
        );
        assert_eq!(cut("\x1b[31mabcd\x1b[0m", 2), "\x1b[31mab\x1b[0m");
    }
}
