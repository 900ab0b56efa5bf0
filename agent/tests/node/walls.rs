//! The tests of what tasks may name to be held by: profiles, capabilities, a root file system that cannot be written.

use std::fs;

use mezzo_api::proto::{
    Reason,
    TaskState::{TaskError, TaskFailed, TaskFinished, TaskRunning},
};

use crate::bench::{Bench, said, task};

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

/// The numbers of some of capabilities(7).
const CHOWN: u32 = 0;
const KILL: u32 = 5;
const NET_RAW: u32 = 13;

pub(crate) async fn a_task_has_the_capabilities_that_it_asks_for_and_may_have(bench: &mut Bench) {
    bench.config.allow_capabilities = vec!["NET_RAW".parse().unwrap()];
    bench.config.allow_host_users = true;
    bench.start(1).await;
    let with = |id: &str, add: &[&str], drop: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut task = task(id, &["sleep"]);
        let container = task.container.as_mut().unwrap();
        container.capabilities_add = own(add);
        container.capabilities_drop = own(drop);
        task
    };
    for (id, add, drop, has, lacks) in [
        (
            "default",
            &[][..],
            &[][..],
            &[CHOWN, KILL][..],
            &[NET_RAW][..],
        ),
        ("adds", &["cap_net_raw"], &[], &[CHOWN, KILL, NET_RAW], &[]),
        ("drops", &[], &["CHOWN"], &[KILL], &[CHOWN, NET_RAW]),
        ("one", &["NET_RAW"], &["ALL"], &[NET_RAW], &[CHOWN, KILL]),
        ("none", &[], &["all"], &[], &[CHOWN, KILL, NET_RAW]),
    ] {
        bench.launch(with(id, add, drop)).await;
        let status = bench.master.status(id, TaskRunning).await;
        let pid = status.container.unwrap().pid;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let mask = status.lines().find_map(|line| line.strip_prefix(set));
            let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
            for (numbers, there) in [(has, true), (lacks, false)] {
                for number in numbers {
                    let found = mask & (1 << number) != 0;
                    assert_eq!(found, there, "{id}: {number} in {set} {mask:x}");
                }
            }
        }
    }
    // The machine's network takes only the word of the machine's own root.
    for (id, add, state) in [
        ("speaks", &["NET_RAW"][..], TaskFinished),
        ("is-mute", &[][..], TaskFailed),
    ] {
        let mut task = with(id, add, &[]);
        let container = task.container.as_mut().unwrap();
        container.args = vec!["raw".into()];
        container.host_users = true;
        bench.launch(task).await;
        let end = bench.master.end(id).await;
        assert_eq!(end.state(), state, "{id}: {}", end.message);
    }
    bench
        .launch(with("refused", &["NET_RAW", "SYS_TIME"], &[]))
        .await;
    let end = bench.master.end("refused").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskError, Reason::TaskUnauthorized),
        "{}",
        end.message
    );
    assert!(
        end.message.contains("does not allow SYS_TIME")
            && end.message.contains("--allow-capability"),
        "{}",
        end.message
    );
}

pub(crate) async fn a_read_only_root_takes_no_write_and_the_sandbox_does(bench: &mut Bench) {
    bench.start(1).await;
    let with = |id: &str, file: &str, read_only: bool| {
        let mut task = task(id, &["put", file]);
        task.container.as_mut().unwrap().read_only_rootfs = read_only;
        task
    };
    let sandbox = "/mnt/mezzo/sandbox/file";
    for (id, file, read_only, state) in [
        ("writes", "/file", false, TaskFinished),
        ("cannot", "/file", true, TaskFailed),
        ("nor-here", "/bin/file", true, TaskFailed),
        ("sandbox", sandbox, true, TaskFinished),
    ] {
        bench.launch(with(id, file, read_only)).await;
        let end = bench.master.end(id).await;
        assert_eq!(end.state(), state, "{id}: {}", end.message);
        if state == TaskFailed {
            let container = end.container.unwrap();
            let words = said(bench, &container, "stderr");
            assert!(words.contains("Read-only file system"), "{id}: {words}");
        }
    }
}
