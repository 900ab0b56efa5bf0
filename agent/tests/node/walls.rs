//! The tests of profiles that tasks may name.

use std::fs;

use mezzo_api::proto::{
    Reason,
    TaskState::{TaskError, TaskFailed, TaskFinished},
};

use crate::bench::{Bench, task};

/// Whoever wants to sleep is killed.
const SLEEPLESS: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["nanosleep", "clock_nanosleep"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;

pub(crate) async fn a_task_is_held_by_the_profile_that_it_names(bench: &mut Bench) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sleepless.json"), SLEEPLESS).unwrap();
    fs::write(folder.path().join("empty.json"), "{}").unwrap();
    bench.config.seccomp_dir = Some(folder.path().into());
    bench.start(1).await;
    let with = |id: &str, args: &[&str], seccomp: &str, apparmor: &str| {
        let mut task = task(id, args);
        let container = task.container.as_mut().unwrap();
        container.seccomp_profile = seccomp.into();
        container.apparmor_profile = apparmor.into();
        task
    };
    bench.launch(with("sleeps", &["sleep", "1"], "", "")).await;
    bench
        .launch(with("held", &["sleep", "1"], "sleepless", ""))
        .await;
    bench
        .launch(with("awake", &["exit", "0"], "sleepless", ""))
        .await;
    bench
        .launch(with("missing", &["sleep"], "nobody-has-it", ""))
        .await;
    bench.launch(with("bad", &["sleep"], "empty", "")).await;
    bench
        .launch(with("other", &["sleep"], "", "unconfined"))
        .await;
    for (id, state, reason, words) in [
        ("sleeps", TaskFinished, None, ""),
        ("held", TaskFailed, None, "SIGSYS"),
        ("awake", TaskFinished, None, ""),
        (
            "missing",
            TaskError,
            Some(Reason::TaskInvalid),
            "nobody-has-it.json",
        ),
        ("bad", TaskError, Some(Reason::TaskInvalid), "defaultAction"),
        (
            "other",
            TaskError,
            Some(Reason::TaskUnauthorized),
            "apparmor_profiles",
        ),
    ] {
        let end = bench.master.end(id).await;
        assert_eq!(end.state(), state, "{id}: {}", end.message);
        assert!(end.message.contains(words), "{id}: {}", end.message);
        if let Some(reason) = reason {
            assert_eq!(end.reason(), reason, "{id}: {}", end.message);
        }
    }
}
