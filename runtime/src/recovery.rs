//! What to make of a container's directory found at start-up: a pure decision from what is on disk and whether
//! anybody holds the container's lock.
//!
//! The lock is the fact that cannot lie. It is taken before the launcher is asked, its descriptor travels with
//! the request, and the keeper keeps it until it is gone; so if it is free, nothing runs that belongs to this
//! container's keeper and nothing will.

use crate::layout::{KeeperRecord, SpecRecord};
use crate::model::{Exit, ExitRecord};

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) spec: Option<SpecRecord>,
    pub(crate) keeper: Option<KeeperRecord>,
    pub(crate) exit: Option<ExitRecord>,
    /// One that was put and not settled (`layout::exit`).
    pub(crate) unsettled: Option<ExitRecord>,
    pub(crate) lock_held: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Recovery {
    /// A keeper lives: wait until it says what it watches over, then watch it.
    Adopt,
    /// It has ended and its end is on record.
    Ended(Box<ExitRecord>),
    /// The same, but its keeper died before the record was durable: settle it, then remove what is left.
    Settle(Box<ExitRecord>),
    /// It has not ended by itself: kill what is left of it, then record this end.
    Close(Exit),
    /// Nothing was ever started: the directory was made and no more.
    Discard,
}

/// Decides. `boot_id` is the present boot's.
pub(crate) fn classify(found: &Found, boot_id: &str) -> Recovery {
    match found {
        // An exit record is final, whether or not the keeper is still sweeping up behind it.
        Found {
            exit: Some(record), ..
        } => Recovery::Ended(Box::new(record.clone())),
        Found {
            lock_held: true, ..
        } => Recovery::Adopt,
        Found { spec: None, .. } => Recovery::Discard,
        // Also of another boot: if it is whole it is true, and may have been told.
        Found {
            unsettled: Some(record),
            ..
        } => Recovery::Settle(Box::new(record.clone())),
        Found {
            spec: Some(spec), ..
        } if spec.boot_id != boot_id => Recovery::Close(Exit::LostAtReboot),
        Found {
            keeper: Some(KeeperRecord {
                running: Some(_), ..
            }),
            ..
        } => Recovery::Close(Exit::KeeperLost),
        Found {
            keeper: Some(KeeperRecord { running: None, .. }) | None,
            ..
        } => Recovery::Close(Exit::StartInterrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{RECORD_VERSION, RunningRecord};
    use crate::model::{ContainerSpec, Rootfs, Usage};
    use crate::process::ProcessRef;

    fn found() -> Found {
        let spec = SpecRecord {
            version: RECORD_VERSION,
            id: "c".parse().unwrap(),
            boot_id: "this".into(),
            created_at_ms: 1,
            cgroup: "/m/containers/c".into(),
            user_range: None,
            spec: ContainerSpec::new(Rootfs::Dir("/i".into()), vec!["a".into()]),
        };
        Found {
            spec: Some(spec),
            keeper: None,
            exit: None,
            unsettled: None,
            lock_held: false,
        }
    }

    fn keeper(running: bool) -> Option<KeeperRecord> {
        let process = ProcessRef {
            pid: 7,
            start_ticks: 9,
        };
        let running = running.then_some(RunningRecord {
            process,
            started_at_ms: 2,
            start_cost: None,
            user: None,
        });
        Some(KeeperRecord {
            version: RECORD_VERSION,
            keeper: process,
            running,
        })
    }

    fn exit() -> Option<ExitRecord> {
        Some(ExitRecord {
            id: "c".parse().unwrap(),
            exit: Exit::Code(0),
            oom_killed: false,
            memory_limit_bytes: None,
            started_at_ms: 2,
            finished_at_ms: 3,
            usage: Usage::default(),
        })
    }

    #[test]
    fn every_line_at_which_a_start_can_be_interrupted_has_one_answer() {
        let interrupted = Recovery::Close(Exit::StartInterrupted);
        // Directory made, nothing written.
        assert_eq!(
            classify(
                &Found {
                    spec: None,
                    ..found()
                },
                "this"
            ),
            Recovery::Discard
        );
        // Specification written, launcher not asked, or it died with the request.
        assert_eq!(classify(&found(), "this"), interrupted);
        // Request in flight or keeper forked: the lock is held by whoever has the descriptor.
        assert_eq!(
            classify(
                &Found {
                    lock_held: true,
                    ..found()
                },
                "this"
            ),
            Recovery::Adopt
        );
        // Keeper died while creating.
        assert_eq!(
            classify(
                &Found {
                    keeper: keeper(false),
                    ..found()
                },
                "this"
            ),
            interrupted
        );
        // Running.
        let running = Found {
            keeper: keeper(true),
            lock_held: true,
            ..found()
        };
        assert_eq!(classify(&running, "this"), Recovery::Adopt);
        // Keeper died under a running container.
        let lost = Found {
            keeper: keeper(true),
            ..found()
        };
        assert_eq!(classify(&lost, "this"), Recovery::Close(Exit::KeeperLost));
        // Ended, with the keeper there or gone.
        for lock_held in [true, false] {
            let ended = Found {
                exit: exit(),
                keeper: keeper(true),
                lock_held,
                ..found()
            };
            assert_eq!(
                classify(&ended, "this"),
                Recovery::Ended(Box::new(exit().unwrap()))
            );
        }
    }

    #[test]
    fn a_record_is_settled_once_its_keeper_can_not_do_it_any_more() {
        let put = Found {
            unsettled: exit(),
            keeper: keeper(true),
            ..found()
        };
        let keeper_lives = Found {
            lock_held: true,
            ..put.clone()
        };
        assert_eq!(classify(&keeper_lives, "this"), Recovery::Adopt);
        for boot in ["this", "other"] {
            assert_eq!(
                classify(&put, boot),
                Recovery::Settle(Box::new(exit().unwrap()))
            );
        }
        // A name that a crash between the two has left behind is nothing against the record itself.
        let both = Found {
            exit: exit(),
            ..put
        };
        assert_eq!(
            classify(&both, "this"),
            Recovery::Ended(Box::new(exit().unwrap()))
        );
    }

    #[test]
    fn nothing_of_another_boot_is_taken_for_running() {
        for keeper in [None, keeper(false), keeper(true)] {
            assert_eq!(
                classify(&Found { keeper, ..found() }, "other"),
                Recovery::Close(Exit::LostAtReboot)
            );
        }
        assert_eq!(
            classify(
                &Found {
                    exit: exit(),
                    ..found()
                },
                "other"
            ),
            Recovery::Ended(Box::new(exit().unwrap()))
        );
    }
}
