//! Where results go: tables for people, JSON for programs, colours only for a terminal that wants them.
//!
//! The only file that writes to standard output. A reader that went away (`mezzo task list | head`) becomes
//! [`Failure::ReaderGone`] instead of a panic.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::{args::OutputArg, failure::Failure, render::Style};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

impl Format {
    /// Refuses a file name where only formats make sense.
    pub(crate) fn from_arg(arg: &OutputArg) -> Result<Self, Failure> {
        match arg {
            OutputArg::Table => Ok(Self::Table),
            OutputArg::Json => Ok(Self::Json),
            OutputArg::File(path) => Err(Failure::usage(format!(
                "`{}` is not an output format; known are table and json",
                path.display()
            ))),
        }
    }
}

/// Standard output in the format asked for.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) style: Style,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            format,
            style: Style {
                colour: wanted && io::stdout().is_terminal(),
            },
        }
    }

    /// `value` as JSON, or what `table` makes of it.
    pub(crate) fn emit<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce(Style) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let mut text = serde_json::to_string_pretty(value).map_err(|error| {
                    Failure::failed(format!("cannot write the result as JSON: {error}"))
                })?;
                text.push('\n');
                print(&text)
            }
            Format::Table => print(&table(self.style)),
        }
    }

    /// A sentence for people; `value` for programs.
    pub(crate) fn done<T: Serialize>(&self, value: &T, sentence: &str) -> Result<(), Failure> {
        self.emit(value, |_| format!("{sentence}\n"))
    }
}

/// Writes text to standard output and flushes it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to standard output and flushes them.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes bytes to standard error and flushes them.
pub(crate) fn eprint_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stderr = io::stderr().lock();
    stderr
        .write_all(bytes)
        .and_then(|()| stderr.flush())
        .map_err(|error| Failure::output(&error))
}

/// A line for the person, beside the output. Nothing can be done when it cannot be written.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Lines on standard error that show progress: overwritten on a terminal, the news of them printed on change elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    shown: String,
    /// Lines above the one that the cursor is in.
    above: usize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            shown: String::new(),
            above: 0,
        }
    }

    /// Whether there is room for more than the news.
    pub(crate) fn is_live(&self) -> bool {
        self.terminal
    }

    /// `text` is the news; `detail` changes all the time and is shown only where it can be overwritten.
    pub(crate) fn show(&mut self, text: &str, detail: &str) {
        self.show_line(text, |_| format!("{text}{detail}"));
    }

    /// The same with a line of its own for a terminal of so many columns.
    pub(crate) fn show_line(&mut self, text: &str, line: impl FnOnce(usize) -> String) {
        self.show_lines(text, |columns, _| vec![line(columns)]);
    }

    /// The same with lines of their own for a terminal of so many columns and rows.
    pub(crate) fn show_lines(
        &mut self,
        text: &str,
        lines: impl FnOnce(usize, usize) -> Vec<String>,
    ) {
        let mut stderr = io::stderr().lock();
        if self.terminal {
            let (width, height) = terminal_size::terminal_size_of(io::stderr())
                .map_or((80, 24), |(width, height)| (width.0, height.0));
            // A line that wraps could not be overwritten, nor one that has left the screen.
            let columns = usize::from(width.max(2)) - 1;
            let rows = usize::from(height.max(1));
            let mut lines = lines(columns, rows);
            lines.truncate(rows);
            let _ = write!(stderr, "{}", repaint(self.above, &lines, columns));
            let _ = stderr.flush();
            self.above = lines.len().saturating_sub(1);
        } else if self.shown != text {
            let _ = writeln!(stderr, "{text}");
        }
        self.shown = text.to_owned();
    }

    /// Removes the lines from the terminal.
    pub(crate) fn clear(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "{}", repaint(self.above, &[], 0));
            let _ = stderr.flush();
            self.above = 0;
        }
        self.shown.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What replaces lines on a terminal: `above` of them stand over the one that the cursor is in.
fn repaint(above: usize, lines: &[String], columns: usize) -> String {
    let mut text = "\r".to_owned();
    if above > 0 {
        text.push_str(&format!("\x1b[{above}A"));
    }
    text.push_str("\x1b[J");
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        text.extend(line.chars().take(columns));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_painted_over_those_before_and_cut_to_the_terminal() {
        let lines = ["abcdef".to_owned(), "gh".to_owned()];
        assert_eq!(repaint(0, &lines, 4), "\r\x1b[Jabcd\ngh");
        assert_eq!(repaint(3, &lines[1..], 4), "\r\x1b[3A\x1b[Jgh");
        assert_eq!(repaint(1, &[], 0), "\r\x1b[1A\x1b[J");
    }
}
