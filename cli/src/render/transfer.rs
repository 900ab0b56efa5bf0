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

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) done: u64,
    /// 0: not known yet.
    pub(crate) total: u64,
}

impl Share {
    /// None while the whole is not known.
    pub(crate) fn percent(self) -> Option<u64> {
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
    /// What a person sees on a line of so many columns; `what` goes before the bar and `rest` behind all.
    pub(crate) fn line(
        &mut self,
        what: &str,
        share: Share,
        rest: &str,
        at: Duration,
        columns: usize,
    ) -> String {
        let speed = self.speed(share.done, at);
        let Some(percent) = share.percent() else {
            let rest = if rest.is_empty() {
                ""
            } else {
                &format!(", {rest}")
            };
            return format!("{what}{rest}");
        };
        let mut facts = vec![format!(
            "{percent} %, {} of {}",
            bytes(share.done),
            bytes(share.total)
        )];
        if let Some(speed) = speed {
            facts.push(format!("{}/s", bytes(speed)));
            let left = share.total.saturating_sub(share.done);
            if at >= WARM_UP && left > 0 {
                let seconds = left.div_ceil(speed);
                facts.push(format!("{} left", age(0, seconds.saturating_mul(1000))));
            }
        }
        if !rest.is_empty() {
            facts.push(rest.to_owned());
        }
        let facts = facts.join(", ");
        // What does not fit is the bar, never the figures.
        let room = columns.saturating_sub(what.len() + facts.len() + 5);
        if room < 8 {
            return format!("{what} {facts}");
        }
        let width = room.min(WIDEST_BAR);
        let filled = usize::try_from(percent).unwrap_or(100) * width / 100;
        format!(
            "{what} [{}{}] {facts}",
            "#".repeat(filled),
            "-".repeat(width - filled)
        )
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
        let share = |mib: u64| Share {
            done: mib * MIB,
            total: 100 * MIB,
        };
        let first = transfer.line("pulling", share(0), "", at(0), 80);
        assert!(first.ends_with("] 0 %, 0 B of 100 MiB"), "{first}");
        let line = transfer.line("pulling", share(50), "1 of 2 layers", at(5), 100);
        assert_eq!(
            line,
            "pulling [#############-------------] 50 %, 50.0 MiB of 100 MiB, 10.0 MiB/s, 5 s left, 1 of 2 layers"
        );
        assert!(line.len() <= 100);
        // On a narrow terminal the bar goes first.
        let narrow = transfer.line("pulling", share(100), "", at(10), 30);
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
        let unknown = Share::default();
        assert_eq!(unknown.percent(), None);
        let line = transfer.line("pulling", unknown, "", at(0), 80);
        assert_eq!(line, "pulling");
        let line = transfer.line("pulling", unknown, "waiting 12 s", at(1), 80);
        assert_eq!(line, "pulling, waiting 12 s");
    }
}
