//! A run of named steps: each is announced, timed and remembered; the table at the end tells them all.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::table;

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    took: Duration,
    note: String,
    /// All of the error: the table has room for its first line.
    error: Option<String>,
}

impl Steps {
    /// Runs one step. Its note, or the first line of its error, goes into the table.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<String>) -> Result<()> {
        println!("\n▶ {name}");
        let start = Instant::now();
        let result = step();
        let took = start.elapsed();
        self.add(name, took, &result);
        result.map(drop)
    }

    /// Remembers a step whose time was taken otherwise.
    pub(crate) fn add(&mut self, name: &str, took: Duration, result: &Result<String>) {
        let (note, error) = match result {
            Ok(note) => (note.clone(), None),
            Err(error) => {
                let error = format!("{error:#}");
                (first_line(&error), Some(error))
            }
        };
        let mark = if error.is_none() { "✔" } else { "✘" };
        println!(
            "{mark} {name}: {}{}",
            seconds(took),
            if note.is_empty() {
                String::new()
            } else {
                format!(", {note}")
            }
        );
        self.rows.push(Row {
            name: name.to_owned(),
            took,
            note,
            error,
        });
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> usize {
        self.rows.iter().filter(|row| row.error.is_some()).count()
    }

    /// How many there were.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Prints the table, and below it all that is known of what failed: the end of a long run is what is read first.
    pub(crate) fn print(&self) {
        let rows = self.rows.iter().map(|row| {
            let mark = if row.error.is_none() { "✔" } else { "✘" };
            vec![
                mark.to_owned(),
                row.name.clone(),
                seconds(row.took),
                row.note.clone(),
            ]
        });
        println!(
            "\n{}",
            table::render(
                &["", "step", "time", "what it showed"],
                &rows.collect::<Vec<_>>(),
                &[2]
            )
        );
        for row in &self.rows {
            if let Some(error) = &row.error {
                println!("✘ {}:", row.name);
                for line in error.lines() {
                    println!("    {line}");
                }
                println!();
            }
        }
    }
}

/// "12.3 s", "85 ms", "3 min 05 s".
pub(crate) fn seconds(took: Duration) -> String {
    let ms = took.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", took.as_secs_f64()),
        _ => format!("{} min {:02} s", ms / 60_000, ms / 1000 % 60),
    }
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(120)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_to_read() {
        let told =
            [999, 1_000, 61_250, 120_000, 185_400].map(|ms| seconds(Duration::from_millis(ms)));
        assert_eq!(
            told,
            ["999 ms", "1.0 s", "61.2 s", "2 min 00 s", "3 min 05 s"]
        );
    }

    #[test]
    fn a_failed_step_is_counted_and_passed_on() {
        let mut steps = Steps::default();
        assert!(steps.run("good", || Ok(String::new())).is_ok());
        assert!(steps.run("bad", || anyhow::bail!("no\nluck")).is_err());
        assert_eq!(steps.failed(), 1);
        assert_eq!(steps.rows[1].note, "no");
    }
}
