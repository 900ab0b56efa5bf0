//! How far a transfer of bytes is, for people who wait: a bar, a percentage, the speed, what is left.
//!
//! Pure: times are arguments. The speed is that of the last seconds, so that it follows what the network does now.

use std::collections::VecDeque;
use std::time::Duration;

use super::{age, bytes};

/// Over which the speed is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// The first moments say nothing about what is left.
const WARM_UP: Duration = Duration::from_secs(1);
const WIDEST_BAR: usize = 40;
const LEAST_BAR: usize = 8;

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) done: u64,
    /// 0: not known yet.
    pub(crate) total: u64,
    /// Shown where there is room.
    pub(crate) aside: String,
    /// What keeps it from moving.
    pub(crate) waiting: Option<String>,
}

impl Share {
    /// None while the whole is not known.
    pub(crate) fn percent(&self) -> Option<u64> {
        let percent = self.done.saturating_mul(100).checked_div(self.total)?;
        Some(percent.min(100))
    }
}

/// A transfer as it was over the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    seen: VecDeque<(Duration, u64)>,
}

impl Transfer {
    /// What a person sees on a line of so many columns; `what` goes before the bar.
    pub(crate) fn line(
        &mut self,
        what: &str,
        share: &Share,
        at: Duration,
        columns: usize,
    ) -> String {
        let speed = self.speed(share.done, at);
        let mut facts = Vec::new();
        let percent = share.percent();
        if let Some(percent) = percent {
            let (done, total) = (bytes(share.done), bytes(share.total));
            facts.push(format!("{percent} %, {done} of {total}"));
        }
        let left = share.total.saturating_sub(share.done);
        match (&share.waiting, speed) {
            (Some(waiting), _) => facts.push(waiting.clone()),
            (None, Some(speed)) => {
                facts.push(format!("{}/s", bytes(speed)));
                if at >= WARM_UP && left > 0 {
                    let seconds = left.div_ceil(speed);
                    facts.push(format!("{} left", age(0, seconds.saturating_mul(1000))));
                }
            }
            (None, None) => {}
        }
        let Some(percent) = percent else {
            facts.insert(0, what.to_owned());
            return facts.join(", ");
        };
        // What does not fit is what is said aside, then the bar, never the figures.
        let facts = facts.join(", ");
        let with_aside = format!("{facts}, {}", share.aside);
        let room = |facts: &str| columns.saturating_sub(what.len() + facts.len() + 5);
        let facts = if share.aside.is_empty() || room(&with_aside) < LEAST_BAR {
            facts
        } else {
            with_aside
        };
        barred(what, percent, &facts, columns)
    }

    /// Bytes per second over the window; none while there are none.
    fn speed(&mut self, done: u64, at: Duration) -> Option<u64> {
        // A layer that has to be fetched again takes its bytes back.
        if self.seen.back().is_some_and(|(_, before)| *before > done) {
            self.seen.clear();
        }
        self.seen.push_back((at, done));
        while self.seen.len() > 2 && self.seen[1].0 + WINDOW < at {
            self.seen.pop_front();
        }
        let (begin, before) = *self.seen.front()?;
        let millis = u64::try_from((at - begin).as_millis()).unwrap_or(u64::MAX);
        let speed = (done - before).saturating_mul(1000).checked_div(millis)?;
        (speed > 0).then_some(speed)
    }
}

/// A name, a bar as wide as the columns have room for, and figures; without the bar where there is hardly room.
pub(crate) fn barred(what: &str, percent: u64, facts: &str, columns: usize) -> String {
    let room = columns.saturating_sub(what.len() + facts.len() + 5);
    let width = room.min(WIDEST_BAR);
    if width < LEAST_BAR {
        return format!("{what} {facts}");
    }
    let filled = usize::try_from(percent.min(100)).unwrap_or(100) * width / 100;
    format!(
        "{what} [{}{}] {facts}",
        "#".repeat(filled),
        "-".repeat(width - filled)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_transfer_is_told_with_bar_speed_and_what_is_left() {
        let mut transfer = Transfer::default();
        let share = |mib: u64, waiting: Option<&str>| Share {
            done: mib * MIB,
            total: 100 * MIB,
            aside: "1 of 2 layers".to_owned(),
            waiting: waiting.map(str::to_owned),
        };
        let first = transfer.line("pulling", &share(0, None), at(0), 80);
        assert!(
            first.ends_with("] 0 %, 0 B of 100 MiB, 1 of 2 layers"),
            "{first}"
        );
        assert_eq!(
            transfer.line("pulling", &share(50, None), at(5), 100),
            "pulling [#############-------------] 50 %, 50.0 MiB of 100 MiB, 10.0 MiB/s, 5 s left, 1 of 2 layers"
        );
        assert_eq!(
            transfer.line("pulling", &share(50, None), at(5), 80),
            "pulling [##########-----------] 50 %, 50.0 MiB of 100 MiB, 10.0 MiB/s, 5 s left"
        );
        let limit = "waiting 12 s for registry r.example (rate limit)";
        assert_eq!(
            transfer.line("pulling", &share(50, Some(limit)), at(6), 80),
            "pulling 50 %, 50.0 MiB of 100 MiB, waiting 12 s for registry r.example (rate limit)"
        );
        let narrow = transfer.line("pulling", &share(100, None), at(10), 30);
        assert_eq!(narrow, "pulling 100 %, 100 MiB of 100 MiB, 10.0 MiB/s");
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds_and_never_nonsense() {
        let mut transfer = Transfer::default();
        for second in 0..=20 {
            assert!(
                transfer
                    .speed(second * MIB, at(second))
                    .is_none_or(|s| s == MIB)
            );
        }
        // It stalls: the speed falls to nothing within the window, and nothing is left to be reckoned.
        for second in 21..=27 {
            transfer.speed(20 * MIB, at(second));
        }
        assert_eq!(transfer.speed(20 * MIB, at(28)), None);
        // Bytes that did not count are taken back.
        assert_eq!(transfer.speed(0, at(29)), None);
        assert_eq!(transfer.speed(3 * MIB, at(30)), Some(3 * MIB));
        assert!(transfer.seen.len() <= 8);
    }

    #[test]
    fn without_a_whole_there_is_no_bar() {
        let mut transfer = Transfer::default();
        let mut unknown = Share::default();
        assert_eq!(unknown.percent(), None);
        assert_eq!(transfer.line("pulling", &unknown, at(0), 80), "pulling");
        unknown.waiting = Some("waiting 12 s".into());
        let line = transfer.line("pulling", &unknown, at(1), 80);
        assert_eq!(line, "pulling, waiting 12 s");
    }
}
