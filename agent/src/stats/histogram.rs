//! How long something took, counted in buckets, as Prometheus wants it. Pure, of fixed size.

use std::{fmt::Write as _, time::Duration};

/// Upper bounds, in milliseconds.
const BOUNDS_MS: [u64; 12] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 120_000,
];

/// Counts by duration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Histogram {
    /// The last one is of what took longer than every bound.
    counts: [u64; BOUNDS_MS.len() + 1],
    sum: Duration,
}

impl Histogram {
    pub(crate) fn add(&mut self, took: Duration) {
        let at = BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < took);
        self.counts[at] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// In the text format of Prometheus, in seconds.
    pub(crate) fn render(&self, text: &mut String, name: &str, help: &str) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut so_far = 0;
        for (bound, count) in BOUNDS_MS.iter().zip(&self.counts) {
            so_far += count;
            let bound = Duration::from_millis(*bound).as_secs_f64();
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let all: u64 = self.counts.iter().sum();
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(text, "{name}_sum {}", self.sum.as_secs_f64());
        let _ = writeln!(text, "{name}_count {all}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_holds_all_that_were_as_fast() {
        let mut histogram = Histogram::default();
        for ms in [5, 10, 11, 700, 999_999] {
            histogram.add(Duration::from_millis(ms));
        }
        let mut text = String::new();
        histogram.render(&mut text, "x", "help");
        assert!(text.contains("x_bucket{le=\"0.01\"} 2\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"0.025\"} 3\n"));
        assert!(text.contains("x_bucket{le=\"1\"} 4\n"));
        assert!(text.contains("x_bucket{le=\"120\"} 4\n"));
        assert!(text.contains("x_bucket{le=\"+Inf\"} 5\n"));
        assert!(text.contains("x_count 5\n") && text.contains("x_sum 1000.725\n"));
    }
}
