//! How far one app's update has come where the app chose more than a rolling update: a trial before the rest, and a
//! deadline after which all is taken back.
//!
//! ```text
//! Trying ──all of the trial healthy──► Holding ──held long enough, or somebody said so──► Going
//!    ▲                                    │
//!    └──────────one is not any more───────┘
//! ```
//!
//! Pure. A course is durable with its deployment, so that a restart neither forgets a trial nor gives it more time.

use serde::{Deserialize, Serialize};

use super::ActionKind;
use crate::app::spec::{Trial, UpgradeStrategy};
use crate::time::Timestamp;

/// Where an update stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// The instances of the trial start.
    Trying,
    /// All of them are healthy.
    Holding,
    /// What is left is done as in any update.
    Going,
}

/// An app's way through a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Course {
    /// Where it is.
    pub stage: Stage,
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// How long it was trying before it was holding: going back to and fro wins no time.
    #[serde(default)]
    pub spent_ms: u64,
}

impl Course {
    /// The course of an app of `n` instances whose step begins now; `None` where it chose nothing.
    #[must_use]
    pub fn begin(kind: ActionKind, strategy: &UpgradeStrategy, n: u32, now: u64) -> Option<Self> {
        let stage = match (kind, strategy.trial) {
            (ActionKind::StartApplication | ActionKind::StopApplication, _) => return None,
            (ActionKind::RestartApplication, Trial::Canary { .. } | Trial::BlueGreen { .. })
                if n > 0 =>
            {
                Stage::Trying
            }
            (ActionKind::RestartApplication | ActionKind::ScaleApplication, _) => {
                strategy.rollback_after_ms?;
                Stage::Going
            }
        };
        Some(Self::at(stage, now))
    }

    fn at(stage: Stage, now: u64) -> Self {
        Self {
            stage,
            since: now,
            spent_ms: 0,
        }
    }

    /// Where it is after a look at the app: whether all instances of the trial are healthy.
    #[must_use]
    pub fn next(self, strategy: &UpgradeStrategy, is_healthy: bool, now: u64) -> Self {
        match (self.stage, is_healthy) {
            (Stage::Trying, true) => Self {
                stage: Stage::Holding,
                since: now,
                spent_ms: self.spent_ms + now.saturating_sub(self.since),
            },
            (Stage::Holding, false) => Self {
                stage: Stage::Trying,
                since: now,
                spent_ms: self.spent_ms,
            },
            (Stage::Holding, true) if self.held_until(strategy).is_some_and(|at| now >= at) => {
                Self::at(Stage::Going, now)
            }
            (Stage::Trying, false) | (Stage::Holding, true) | (Stage::Going, _) => self,
        }
    }

    /// Somebody says that the trial is over.
    #[must_use]
    pub fn promoted(self, now: u64) -> Self {
        match self.stage {
            Stage::Trying | Stage::Holding => Self::at(Stage::Going, now),
            Stage::Going => self,
        }
    }

    fn held_until(&self, strategy: &UpgradeStrategy) -> Option<u64> {
        let hold = match strategy.trial {
            Trial::None => Some(0),
            Trial::Canary { hold_ms, .. } | Trial::BlueGreen { hold_ms } => hold_ms,
        };
        hold.map(|hold| self.since.saturating_add(hold))
    }

    /// When all is taken back. A trial that is healthy has all the time in the world.
    #[must_use]
    pub fn deadline(&self, strategy: &UpgradeStrategy) -> Option<u64> {
        let limit = strategy.rollback_after_ms?;
        match self.stage {
            Stage::Trying | Stage::Going => Some(
                self.since
                    .saturating_add(limit.saturating_sub(self.spent_ms)),
            ),
            Stage::Holding => None,
        }
    }

    /// When time alone changes something.
    #[must_use]
    pub fn next_look(&self, strategy: &UpgradeStrategy) -> Option<u64> {
        match self.stage {
            Stage::Trying | Stage::Going => self.deadline(strategy),
            Stage::Holding => self.held_until(strategy),
        }
    }

    /// What it waits for while its trial goes on, for people; `None`: for what any update waits for.
    #[must_use]
    pub fn waiting_for(&self, strategy: &UpgradeStrategy) -> Option<String> {
        if self.stage != Stage::Holding {
            return None;
        }
        Some(match self.held_until(strategy) {
            Some(at) => format!(
                "the new instances are on trial until {}",
                Timestamp::from_millis(at)
            ),
            None => "the new instances are healthy and wait for a word: promote or cancel the deployment"
                .to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strategy(hold_ms: Option<u64>, rollback_after_ms: Option<u64>) -> UpgradeStrategy {
        UpgradeStrategy {
            trial: Trial::Canary {
                instances: 1,
                hold_ms,
            },
            rollback_after_ms,
            ..UpgradeStrategy::default()
        }
    }

    fn begin(strategy: &UpgradeStrategy) -> Course {
        Course::begin(ActionKind::RestartApplication, strategy, 3, 1000).expect("a choice")
    }

    #[test]
    fn only_an_update_of_something_has_a_course() {
        let chosen = strategy(None, None);
        let plain = UpgradeStrategy::default();
        let kinds = [
            ActionKind::StartApplication,
            ActionKind::ScaleApplication,
            ActionKind::RestartApplication,
            ActionKind::StopApplication,
        ];
        let with_course = kinds.map(|kind| Course::begin(kind, &chosen, 3, 0).is_some());
        assert_eq!(with_course, [false, false, true, false]);
        assert!(
            kinds
                .iter()
                .all(|kind| Course::begin(*kind, &plain, 3, 0).is_none())
        );
        assert_eq!(
            Course::begin(kinds[2], &chosen, 0, 0),
            None,
            "nothing to try"
        );
    }

    #[test]
    fn a_trial_is_held_without_a_break_before_the_rest_follows() {
        let chosen = strategy(Some(500), None);
        let course = begin(&chosen).next(&chosen, true, 1200);
        assert_eq!(course.stage, Stage::Holding);
        assert_eq!(course.next(&chosen, true, 1699), course);
        let broken = course.next(&chosen, false, 1699);
        assert_eq!(broken.stage, Stage::Trying);
        let again = broken.next(&chosen, true, 2000);
        assert_eq!(again.next_look(&chosen), Some(2500));
        assert_eq!(again.next(&chosen, true, 2500).stage, Stage::Going);
    }

    #[test]
    fn without_a_time_it_waits_for_a_word() {
        let chosen = strategy(None, Some(100));
        let course = begin(&chosen).next(&chosen, true, 1050);
        assert_eq!(
            (course.next_look(&chosen), course.deadline(&chosen)),
            (None, None)
        );
        assert_eq!(course.next(&chosen, true, u64::MAX), course);
        let going = course.promoted(5000);
        assert_eq!(
            (going.stage, going.deadline(&chosen)),
            (Stage::Going, Some(5100))
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_trying_never_takes_longer_than_allowed(
            looks in proptest::collection::vec((any::<bool>(), 1u64..50), 1..60),
        ) {
            let chosen = strategy(Some(1_000_000), Some(300));
            let (mut course, mut now, mut tried) = (begin(&chosen), 1000, 0);
            for (is_healthy, pause) in looks {
                now += pause;
                if course.stage == Stage::Trying {
                    tried += pause;
                }
                if course.deadline(&chosen).is_some_and(|at| now >= at) {
                    prop_assert!(tried >= 300);
                    return Ok(());
                }
                prop_assert!(tried < 300 || course.stage == Stage::Holding);
                course = course.next(&chosen, is_healthy, now);
            }
        }
    }
}
