//! How launches go as tasks become many: the points, as JSON, and a picture of time over tasks beside the straight line that
//! the first of them draws.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench::report;

/// What a stretch of launches took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stretch {
    /// Tasks at its end.
    pub(super) total: f64,
    /// Launched in it.
    pub(super) tasks: f64,
    /// Of time.
    pub(super) seconds: f64,
    /// Of processor time of everybody, for each launch.
    pub(super) cpu_micros: f64,
}

/// How much longer a task of the last stretch took than one of the first: in time, and in processor time.
pub(super) fn growth(curve: &[Stretch]) -> Option<(f64, f64)> {
    let (first, last) = (curve.first()?, curve.last()?);
    let each = |stretch: &Stretch| stretch.seconds / stretch.tasks;
    Some((each(last) / each(first), last.cpu_micros / first.cpu_micros))
}

/// Writes `target/bench/master-curve.json` and `.svg`.
pub(super) fn write(curve: &[Stretch]) -> Result<()> {
    let points: Vec<Value> = curve
        .iter()
        .map(|at| {
            json!({
                "total": at.total, "tasks": at.tasks, "seconds": at.seconds,
                "per_second": (at.tasks / at.seconds).round(), "cpu_us_per_launch": at.cpu_micros,
            })
        })
        .collect();
    let saved = report::save("master-curve", &points, &svg(curve))?;
    println!("\n{saved}");
    Ok(())
}

/// Seconds since the first launch at the end of each stretch.
fn sums(curve: &[Stretch]) -> Vec<f64> {
    let mut sum = 0.0;
    let add = |at: &Stretch| {
        sum += at.seconds;
        sum
    };
    curve.iter().map(add).collect()
}

fn svg(curve: &[Stretch]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 400.0;
    const LEFT: f64 = 70.0;
    const TOP: f64 = 40.0;
    let sums = sums(curve);
    let (Some(first), Some(last), Some(end)) = (curve.first(), curve.last(), sums.last()) else {
        return String::new();
    };
    let straight = first.seconds / first.tasks * last.total;
    let most = end.max(straight).max(f64::MIN_POSITIVE);
    let place = |total: f64, seconds: f64| {
        let x = LEFT + total / last.total * WIDTH;
        (x, TOP + HEIGHT - seconds / most * HEIGHT)
    };
    let mut body = String::new();
    let (x0, y0) = place(0.0, 0.0);
    let (x1, y1) = place(last.total, straight);
    let _ = writeln!(
        body,
        r##"<path d="M{x0} {TOP}V{y0}H{}" fill="none" stroke="#333"/>
<line x1="{x0}" y1="{y0}" x2="{x1:.1}" y2="{y1:.1}" stroke="#8a8f98" stroke-dasharray="4"/>"##,
        LEFT + WIDTH
    );
    let mut line = format!("M{x0} {y0}");
    for (at, seconds) in curve.iter().zip(&sums) {
        let (x, y) = place(at.total, *seconds);
        let _ = write!(line, "L{x:.1} {y:.1}");
        let _ = writeln!(
            body,
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="#2f6fde"/>
<text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>
<text x="{:.1}" y="{:.1}" text-anchor="end">{seconds:.1} s, {:.0} per s</text>"##,
            y0 + 18.0,
            at.total,
            x - 8.0,
            y - 6.0,
            at.tasks / at.seconds,
        );
    }
    let _ = writeln!(
        body,
        r##"<text x="10" y="20" font-weight="bold">Seconds until so many tasks run; dashed: as fast as at first</text>
<path d="{line}" fill="none" stroke="#2f6fde" stroke-width="2"/>"##
    );
    report::framed(860.0, 490.0, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(total: f64, seconds: f64) -> Stretch {
        Stretch {
            total,
            tasks: 100.0,
            seconds,
            cpu_micros: seconds * 1000.0,
        }
    }

    #[test]
    fn growth_compares_the_last_stretch_with_the_first() {
        let curve = [
            stretch(100.0, 1.0),
            stretch(200.0, 7.0),
            stretch(300.0, 1.5),
        ];
        assert_eq!(growth(&curve), Some((1.5, 1.5)));
        assert_eq!(growth(&[]), None);
    }

    #[test]
    fn the_picture_has_a_point_for_each_stretch() {
        let picture = svg(&[stretch(100.0, 1.0), stretch(200.0, 1.5)]);
        assert_eq!(picture.matches("<circle").count(), 2);
        assert!(picture.contains("2.5 s, 67 per s"), "{picture}");
        assert!(svg(&[]).is_empty());
    }
}
