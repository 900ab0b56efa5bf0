//! From records to text for people: tables, bars, sizes, ages.
//!
//! Pure; `now_ms` is an argument. Everything that came from outside goes through [`clean`], so that a task's message
//! cannot send escape sequences to the operator's terminal.

pub(crate) mod app;
pub(crate) mod cluster;
pub(crate) mod event;
pub(crate) mod job;
pub(crate) mod operating;
pub(crate) mod pod;
pub(crate) mod sharing;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod task;
pub(crate) mod transfer;
pub(crate) mod volume;
pub(crate) mod why;

use std::fmt::Write as _;

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) colour: bool,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Good,
    Busy,
    Bad,
    Faint,
}

impl Style {
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Busy => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Replaces control characters: nothing from outside may steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || is_bidi(c) { '?' } else { c })
        .collect()
}

/// Characters that reorder what is shown.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A cell: its text and its tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: clean(&text.into()),
            tone: Tone::Plain,
        }
    }
}

/// A cell with a tone.
pub(crate) fn toned(tone: Tone, text: impl Into<String>) -> Cell {
    Cell {
        text: clean(&text.into()),
        tone,
    }
}

/// Columns, aligned by the widest cell; headings that begin with `>` are of right-aligned columns.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn render(&self, style: Style, indent: &str) -> String {
        let right: Vec<bool> = self
            .headings
            .iter()
            .map(|heading| heading.starts_with('>'))
            .collect();
        let headings: Vec<Cell> = self
            .headings
            .iter()
            .map(|heading| toned(Tone::Heading, heading.trim_start_matches('>')))
            .collect();
        let width = |n: usize| {
            let cells = self
                .rows
                .iter()
                .filter_map(|row| row.get(n))
                .chain(headings.get(n));
            cells
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = indent.to_owned();
            let mut gap = 0;
            for (n, cell) in row.iter().enumerate() {
                let padding = widths
                    .get(n)
                    .copied()
                    .unwrap_or(0)
                    .saturating_sub(cell.text.chars().count());
                let right = right.get(n).copied().unwrap_or(false);
                if !cell.text.is_empty() {
                    let before = gap + if right { padding } else { 0 };
                    line.push_str(&" ".repeat(before));
                    line.push_str(&style.paint(cell.tone, &cell.text));
                    gap = if right { 0 } else { padding };
                } else {
                    gap += padding;
                }
                gap += 2;
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `name: value` lines, the values aligned; lines with an empty value are left out.
pub(crate) fn facts(style: Style, facts: &[(&str, String)]) -> String {
    let shown: Vec<_> = facts
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in shown {
        let padding = " ".repeat(width - name.len());
        let _ = writeln!(
            text,
            "{}{padding}  {}",
            style.paint(Tone::Heading, name),
            clean(value)
        );
    }
    text
}

/// A heading and what is under it.
pub(crate) fn section(style: Style, heading: &str, body: &str) -> String {
    format!("\n{}\n{body}", style.paint(Tone::Heading, heading))
}

/// `[#####.....]`, the fuller the worse.
pub(crate) fn bar(style: Style, part: f64, whole: f64) -> String {
    const WIDTH: usize = 20;
    let share = if whole > 0.0 {
        (part / whole).clamp(0.0, 1.0)
    } else {
        0.0
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0..=20"
    )]
    let full = ((share * WIDTH as f64).ceil() as usize).min(WIDTH);
    let tone = if share > 0.9 {
        Tone::Bad
    } else if share > 0.7 {
        Tone::Busy
    } else {
        Tone::Good
    };
    format!(
        "[{}{}]",
        style.paint(tone, &"#".repeat(full)),
        style.paint(Tone::Faint, &".".repeat(WIDTH - full))
    )
}

/// `640 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `640 MiB` from a figure in MiB.
pub(crate) fn mebibytes(mib: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, far below 2^64"
    )]
    bytes((mib.max(0.0) * 1_048_576.0) as u64)
}

/// A number without needless decimals: `2`, `0.5`.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn age(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Processor time: `1.234 s`.
pub(crate) fn cpu_time(microseconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
    let seconds = microseconds as f64 / 1e6;
    if seconds < 10.0 {
        format!("{seconds:.3} s")
    } else {
        format!("{seconds:.1} s")
    }
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(n: usize, one: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {one}s")
    }
}

/// What is unknown.
pub(crate) const UNKNOWN: &str = "-";

/// `-` for what is unknown.
pub(crate) fn or_unknown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}

#[cfg(test)]
pub(crate) const PLAIN: Style = Style { colour: false };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let mut table = Table::new(&["NAME", ">CPUS", "STATE"]);
        table.row(["a".into(), "0.5".into(), "running".into()]);
        table.row(["much-longer".into(), "12".into(), "".into()]);
        insta::assert_snapshot!(table.render(PLAIN, ""), @r"
        NAME         CPUS  STATE
        a             0.5  running
        much-longer    12
        ");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row([toned(Tone::Bad, "x"), "y".into()]);
        let coloured = table.render(Style { colour: true }, "");
        assert!(coloured.contains("\x1b[31mx\x1b[0m  y"), "{coloured:?}");
    }

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\n\u{202e}c\u{9b}"), "a?[2Jb???c?");
        let mut table = Table::new(&["A"]);
        table.row(["\x1b]0;title\x07".into()]);
        assert!(!table.render(PLAIN, "").contains('\x1b'));
    }

    #[test]
    fn sizes_ages_and_numbers_are_short() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (640 << 20, "640 MiB"),
            (16_100 << 20, "15.7 GiB"),
            (u64::MAX, "16384 PiB"),
        ];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(age(0, seconds * 1000), text);
        }
        assert_eq!(
            age(5000, 0),
            "0 s",
            "a clock that is behind is no reason to panic"
        );
        for (value, text) in [
            (2.0, "2"),
            (0.5, "0.5"),
            (0.1 + 0.2, "0.3"),
            (0.0, "0"),
            (100.0, "100"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_bar_shows_even_a_little_and_never_overflows() {
        assert_eq!(bar(PLAIN, 0.0, 4.0), "[....................]");
        assert_eq!(bar(PLAIN, 0.01, 4.0), "[#...................]");
        assert_eq!(bar(PLAIN, 9.0, 4.0), "[####################]");
        assert_eq!(bar(PLAIN, 1.0, 0.0), "[....................]");
    }
}
