//! The program: its arguments, environment, user, limits, privileges.

use std::fs;

use mezzo_runtime::{Exit, Rlimit, StartError};

use crate::common::{Node, id};
use crate::{proc_file, start, status_field};

/// process: args.
#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let Some(node) = Node::new().await else {
        return;
    };
    let args = ["sleep", "0", "a b", "", "ü\t\"'$(x)", "-n"];
    let started = start(&node, "args", node.spec(&args)).await;
    let told = proc_file(&started, "cmdline");
    let told: Vec<&str> = told.strip_suffix('\0').unwrap().split('\0').collect();
    assert_eq!(told[0], "/bin/probe");
    assert_eq!(told[1..], args);
}

/// process: env, in order and nothing else but HOME and PATH where they are missing.
#[tokio::test]
async fn the_environment_is_what_was_asked_for() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["sleep"]);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    spec.env = vec![
        pair("Z", "1"),
        pair("A", "x=y\nz"),
        pair("HOME", "/tmp"),
        pair("EMPTY", ""),
        pair("PATH", "/bin"),
    ];
    let started = start(&node, "env", spec).await;
    assert_eq!(
        proc_file(&started, "environ"),
        "Z=1\0A=x=y\nz\0HOME=/tmp\0EMPTY=\0PATH=/bin\0"
    );
}

/// process: cwd, also one that the image does not have; a path that is not absolute is refused.
#[tokio::test]
async fn the_working_directory_is_made_and_must_be_absolute() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["where"]);
    spec.cwd = "/not/there/yet".to_owned();
    assert_eq!(node.run("cwd", spec).await.exit, Exit::Code(0));
    assert!(node.stdout("cwd").starts_with("cwd /not/there/yet "));
    let mut spec = node.spec(&["where"]);
    spec.cwd = "relative".to_owned();
    let refused = node.runtime().start(&id("relative"), spec).await;
    assert!(
        matches!(refused, Err(StartError::BadSpec { .. })),
        "{refused:?}"
    );
}

/// process_user: numbers, names, additional groups, and the umask of any ordinary program.
#[tokio::test]
async fn the_user_is_the_one_asked_for() {
    let Some(node) = Node::new().await else {
        return;
    };
    let cases = [
        ("numbers", "1234:5678", "1234", "5678", ""),
        ("name", "web", "1000", "1001", "7"),
        ("name-and-group", "web:log", "1000", "7", ""),
        ("root", "0", "0", "0", ""),
    ];
    for (name, user, uid, gid, groups) in cases {
        let mut spec = node.spec(&["sleep"]);
        spec.user = user.parse().unwrap();
        let started = start(&node, name, spec).await;
        let all = |id: &str| [id; 4].join("\t");
        assert_eq!(status_field(&started, "Uid:"), all(uid), "{user}");
        assert_eq!(status_field(&started, "Gid:"), all(gid), "{user}");
        let found = status_field(&started, "Groups:");
        assert_eq!(found, groups, "{user}");
        assert_eq!(status_field(&started, "Umask:"), "0022", "{user}");
    }
    // A group that names the user twice.
    fs::write(
        node.image().join("etc/group"),
        "web:x:1001:\nlog:x:7:web,web\nlog:x:7:web\n",
    )
    .unwrap();
    let mut spec = node.spec(&["sleep"]);
    spec.user = "web".parse().unwrap();
    let started = start(&node, "twice", spec).await;
    assert_eq!(status_field(&started, "Groups:"), "7");
    let mut spec = node.spec(&["sleep"]);
    spec.user = "nobody-of-that-name".parse().unwrap();
    let refused = node.runtime().start(&id("nobody"), spec).await.unwrap_err();
    assert!(
        crate::common::chain(&refused).contains("nobody-of-that-name"),
        "{refused:?}"
    );
}

/// process_rlimits: those asked for; the others are inherited.
#[tokio::test]
async fn resource_limits_are_set() {
    let Some(node) = Node::new().await else {
        return;
    };
    // Below every limit that anybody may raise or not.
    let asked = [
        ("RLIMIT_NOFILE", "Max open files", 200, 300),
        ("RLIMIT_CORE", "Max core file size", 0, 0),
        ("RLIMIT_STACK", "Max stack size", 1 << 20, 2 << 20),
        ("RLIMIT_FSIZE", "Max file size", 1 << 20, 1 << 20),
        ("RLIMIT_CPU", "Max cpu time", 100, 120),
        ("RLIMIT_NPROC", "Max processes", 50, 60),
    ];
    let mut spec = node.spec(&["sleep"]);
    for (kind, _, soft, hard) in asked {
        spec.rlimits.push(Rlimit {
            kind: kind.to_owned(),
            soft,
            hard,
        });
    }
    let started = start(&node, "limits", spec).await;
    let numbers = |text: &str, name: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap().split_whitespace().take(2);
        words.map(str::to_owned).collect()
    };
    let told = proc_file(&started, "limits");
    for (_, name, soft, hard) in asked {
        assert_eq!(
            numbers(&told, name),
            [soft.to_string(), hard.to_string()],
            "{name}"
        );
    }
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    for name in ["Max msgqueue size", "Max nice priority"] {
        assert_eq!(
            numbers(&told, name),
            numbers(&own, name),
            "{name} is inherited"
        );
    }
}

/// process_rlimits_fail, and process_capabilities_fail: what there is not is refused, by its name.
#[tokio::test]
async fn unknown_limits_and_capabilities_are_refused() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut limit = node.spec(&["true"]);
    limit.rlimits = vec![Rlimit {
        kind: "RLIMIT_TEST".to_owned(),
        soft: 1,
        hard: 1,
    }];
    let mut capability = node.spec(&["true"]);
    capability.capabilities_add = vec!["CAP_TEST".to_owned()];
    let mut dropped = node.spec(&["true"]);
    dropped.capabilities_drop = vec!["CAP_TEST".to_owned()];
    for (name, spec, word) in [
        ("limit", limit, "RLIMIT_TEST"),
        ("capability", capability, "CAP_TEST"),
        ("dropped", dropped, "CAP_TEST"),
    ] {
        let refused = node.runtime().start(&id(name), spec).await.unwrap_err();
        assert!(matches!(refused, StartError::BadSpec { .. }), "{refused:?}");
        let told = crate::common::chain(&refused);
        assert!(told.contains(word), "{told}");
    }
}

/// process_capabilities: exactly the set asked for, in the sets where it belongs.
#[tokio::test]
async fn capabilities_are_exactly_those_asked_for() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["sleep"]);
    spec.capabilities_drop = vec!["ALL".to_owned()];
    spec.capabilities_add = vec!["CAP_NET_RAW".to_owned(), "chown".to_owned()];
    let started = start(&node, "capabilities", spec).await;
    let wanted = format!("{:016x}", 1_u64 << 13 | 1);
    for set in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(status_field(&started, set), wanted, "{set}");
    }
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(status_field(&started, set), format!("{:016x}", 0), "{set}");
    }
}

/// process_oom_score_adj: keepers and launcher protect themselves, programs are like any other.
#[tokio::test]
async fn the_kernel_may_kill_the_program_before_its_keeper() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "score", node.spec(&["sleep"])).await;
    assert_eq!(proc_file(&started, "oom_score_adj").trim(), "0");
    let keeper = format!("/proc/{}/oom_score_adj", started.keeper_pid);
    let keeper: i32 = fs::read_to_string(keeper).unwrap().trim().parse().unwrap();
    assert!(keeper <= 0, "{keeper}");
}

/// linux_seccomp, and no_new_privileges.
#[tokio::test]
async fn a_filter_is_loaded_and_privileges_cannot_grow() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = start(&node, "safe", node.spec(&["sleep"])).await;
    assert_eq!(status_field(&started, "Seccomp:"), "2");
    assert_eq!(status_field(&started, "NoNewPrivs:"), "1");
    let mut spec = node.spec(&["sleep"]);
    spec.privileged = true;
    // It gets every capability there is, and not every root has them all to give.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    if !own.contains("CapPrm:\t000001ffffffffff") {
        let refused = node.runtime().start(&id("privileged"), spec).await;
        let told = refused.unwrap_err().to_string();
        assert!(
            told.contains("privileged") && told.contains("lacks"),
            "{told}"
        );
        return;
    }
    let started = start(&node, "privileged", spec).await;
    assert_eq!(status_field(&started, "Seccomp:"), "0");
    assert_eq!(status_field(&started, "NoNewPrivs:"), "0");
}
