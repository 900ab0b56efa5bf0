//! What a benchmark found, in the one format that all share: a table for people, JSON for programs, SVG to look at.
//!
//! A row compares medians: `ratio` is ours over the peer's, `floor` what the kernel and plain tools alone cost.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use mezzo_integration::paths;
use serde_json::{Value, json};

use crate::table;

/// One case beside one peer. No values where a peer is missing.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) case: String,
    pub(super) unit: &'static str,
    pub(super) ours: Vec<f64>,
    pub(super) peer: String,
    pub(super) peer_values: Vec<f64>,
    pub(super) floor: Vec<f64>,
}

/// In milliseconds.
pub(super) fn millis(time: &Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle one.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The value that 99 in 100 do not pass.
fn p99(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * 0.99).round() as usize).copied()
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Row {
    fn json(&self) -> Value {
        let (ours, peer) = (median(&self.ours), median(&self.peer_values));
        let ratio = ours
            .zip(peer)
            .map(|(ours, peer)| (ours / peer * 1000.0).round() / 1000.0);
        let sorted = |pick: fn(f64, f64) -> f64| self.ours.iter().copied().reduce(pick).map(tenths);
        json!({
            "case": self.case, "unit": self.unit, "ours": ours.map(tenths),
            "peer": peer.map(|_| &self.peer), "peer_value": peer.map(tenths), "ratio": ratio,
            "floor": median(&self.floor).map(tenths), "runs": self.ours.len(),
            "min": sorted(f64::min), "max": sorted(f64::max),
            "p99": p99(&self.ours).map(tenths), "peer_p99": p99(&self.peer_values).map(tenths),
        })
    }
}

/// Writes `target/bench/NAME.json` and `.svg`; says where they are.
pub(super) fn save(name: &str, values: &[Value], picture: &str) -> Result<String> {
    let dir = paths::target()?.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let data = dir.join(format!("{name}.json"));
    let drawn = dir.join(format!("{name}.svg"));
    let text = format!("{:#}\n", json!(values));
    fs::write(&data, text).with_context(|| format!("write {}", data.display()))?;
    fs::write(&drawn, picture).with_context(|| format!("write {}", drawn.display()))?;
    Ok(format!(
        "written to {} and {}",
        data.display(),
        drawn.display()
    ))
}

/// A whole picture of what is drawn in it.
pub(super) fn framed(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Prints the table, and saves it with its picture.
pub(super) fn write(name: &str, rows: &[Row]) -> Result<()> {
    let values: Vec<Value> = rows.iter().map(Row::json).collect();
    let saved = save(name, &values, &svg(rows))?;
    let columns = [
        "case",
        "unit",
        "ours",
        "peer",
        "peer_value",
        "ratio",
        "floor",
        "min",
        "max",
        "p99",
        "peer_p99",
        "runs",
    ];
    let cell = |value: &Value| {
        let text = if value.is_null() {
            String::new()
        } else {
            value.to_string()
        };
        text.trim_matches('"').to_owned()
    };
    let lines: Vec<Vec<String>> = values
        .iter()
        .map(|row| columns.iter().map(|column| cell(&row[column])).collect())
        .collect();
    println!(
        "\n{}{saved}",
        table::render(&columns, &lines, &[2, 4, 5, 6, 7, 8, 9, 10, 11])
    );
    Ok(())
}

/// One bar of the picture.
struct Bar<'a> {
    name: &'a str,
    value: f64,
    colour: &'static str,
}

/// Bars of the medians, a group for each case and unit: ours, the floor, every peer.
fn svg(rows: &[Row]) -> String {
    let (mut body, mut y) = (String::new(), 10.0);
    for group in rows.chunk_by(|a, b| a.case == b.case && a.unit == b.unit) {
        let bar = |name, values: &[f64], colour| {
            median(values).map(|value| Bar {
                name,
                value,
                colour,
            })
        };
        let mut bars = Vec::new();
        bars.extend(bar("mezzo", &group[0].ours, "#2f6fde"));
        bars.extend(bar("floor", &group[0].floor, "#8a8f98"));
        bars.extend(
            group
                .iter()
                // The floor is there already.
                .filter(|row| row.peer_values != row.floor)
                .filter_map(|row| bar(&row.peer, &row.peer_values, "#d9822b")),
        );
        y = draw(&mut body, y, &group[0], &bars);
    }
    framed(900.0, y + 16.0, &body)
}

/// Draws one group from `y` downwards; returns where it ends.
fn draw(body: &mut String, mut y: f64, row: &Row, bars: &[Bar<'_>]) -> f64 {
    const LEFT: f64 = 330.0;
    const WIDTH: f64 = 480.0;
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    y += 24.0;
    let _ = writeln!(
        body,
        r#"<text x="10" y="{y}" font-weight="bold">{} ({})</text>"#,
        escape(&row.case),
        row.unit
    );
    let most = bars
        .iter()
        .map(|bar| bar.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    for bar in bars {
        y += 20.0;
        let length = bar.value / most * WIDTH;
        let _ = writeln!(
            body,
            r#"<text x="{}" y="{y}" text-anchor="end">{}</text>"#,
            LEFT - 8.0,
            escape(bar.name)
        );
        let _ = writeln!(
            body,
            r#"<rect x="{LEFT}" y="{}" width="{length:.1}" height="14" fill="{}"/>"#,
            y - 12.0,
            bar.colour
        );
        let _ = writeln!(
            body,
            r#"<text x="{:.1}" y="{y}">{:.1}</text>"#,
            LEFT + length + 6.0,
            bar.value
        );
    }
    y + 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], theirs: &[f64]) -> Row {
        Row {
            case: "a <case>".to_owned(),
            unit: "ms",
            ours: ours.to_vec(),
            peer: "tool".to_owned(),
            peer_values: theirs.to_vec(),
            floor: vec![50.0],
        }
    }

    #[test]
    fn a_row_tells_medians_and_their_ratio() {
        let told = row(&[300.0, 100.0, 200.0], &[400.0, 800.0, 500.0]).json();
        assert_eq!(told["ours"], 200.0);
        assert_eq!(told["peer_value"], 500.0);
        assert_eq!(told["ratio"], 0.4);
        assert_eq!(
            (&told["min"], &told["max"], &told["runs"], &told["floor"]),
            (&json!(100.0), &json!(300.0), &json!(3), &json!(50.0))
        );
        assert_eq!(row(&[5.0], &[]).json()["peer"], Value::Null);
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        let told = row(&many, &[]).json();
        assert_eq!(
            (&told["p99"], &told["peer_p99"]),
            (&json!(198.0), &Value::Null)
        );
    }

    #[test]
    fn the_picture_has_a_bar_for_each() {
        let picture = svg(&[row(&[1.0], &[2.0]), row(&[1.0], &[4.0]), row(&[1.0], &[])]);
        assert_eq!(picture.matches("<rect x=").count(), 4, "{picture}");
        assert!(picture.contains("a &lt;case>"), "{picture}");
    }
}
