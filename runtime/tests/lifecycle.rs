//! Containers from start to removal: how they end is told exactly, and every refusal is one clear error that
//! leaves nothing.

mod common;

use std::time::{Duration, Instant};

use common::{Node, id, until, within};
use mezzo_runtime::{ContainerState, Error, Exit, LogLimits, Rootfs, StartError, Stream};

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals_are_reported() {
    let Some(node) = Node::new().await else {
        return;
    };
    let record = node.run("zero", node.spec(&["true"])).await;
    assert_eq!((record.exit, record.oom_killed), (Exit::Code(0), false));
    assert!(record.started_at_ms > 0 && record.finished_at_ms >= record.started_at_ms);
    assert!(
        record.usage.cpu_total_us > 0,
        "the last sample is taken even of a very short life"
    );
    assert_eq!(
        node.run("seven", node.spec(&["exit", "7"])).await.exit,
        Exit::Code(7)
    );
    assert_eq!(
        node.run("fault", node.spec(&["crash"])).await.exit,
        Exit::Signal(libc::SIGSEGV)
    );
}

/// What shells make of a SIGKILL, and one that is not the kernel's: nothing of it says that memory was short.
#[tokio::test(flavor = "multi_thread")]
async fn no_end_but_the_kernels_is_taken_for_one_by_memory() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["exit", "137"]);
    spec.limits.memory_bytes = Some(32 << 20);
    let record = node.run("shell", spec).await;
    assert_eq!((record.exit, record.oom_killed), (Exit::Code(137), false));
    let mut spec = node.spec(&["sleep"]);
    spec.limits.memory_bytes = Some(32 << 20);
    let name = id("killed");
    let started = node.runtime().start(&name, spec).await.unwrap();
    common::kill(started.pid);
    let record = within(node.runtime().wait(&name)).await.unwrap();
    let killed = Exit::Signal(libc::SIGKILL);
    assert_eq!((record.exit, record.oom_killed), (killed, false));
    assert_eq!(record.usage.oom_kills, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_listed_with_its_process_and_labels() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["sleep"]);
    spec.labels.insert("owner".into(), "me".into());
    let started = node.runtime().start(&id("one"), spec).await.unwrap();
    let listed = node.runtime().list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].labels["owner"], "me");
    assert_eq!(listed[0].keeper_pid, Some(started.keeper_pid));
    let running = ContainerState::Running {
        pid: started.pid,
        started_at_ms: started.started_at_ms,
        cgroup: format!("{}/containers/one", node.config.cgroup_parent),
    };
    assert_eq!(listed[0].state, running);
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", started.pid)).unwrap();
    assert_eq!(command, "/bin/probe\0sleep\0");
    assert_eq!(node.runtime().status(&id("two")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_used_once_until_it_is_removed() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("web"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let again = node
        .runtime()
        .start(&id("web"), node.spec(&["sleep"]))
        .await;
    assert!(
        matches!(again, Err(StartError::AlreadyExists { .. })),
        "{again:?}"
    );
    assert!(matches!(
        node.runtime().remove(&id("web")).await,
        Err(Error::StillRunning { .. })
    ));
    within(node.runtime().stop(&id("web"), GRACE, libc::SIGTERM))
        .await
        .unwrap();
    let again = node
        .runtime()
        .start(&id("web"), node.spec(&["sleep"]))
        .await;
    assert!(
        matches!(again, Err(StartError::AlreadyExists { .. })),
        "its record is still there: {again:?}"
    );
    node.runtime().remove(&id("web")).await.unwrap();
    node.runtime().remove(&id("web")).await.unwrap();
    node.runtime()
        .start(&id("web"), node.spec(&["sleep"]))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_executed_says_why_and_leaves_nothing() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = async |change: &dyn Fn(&mut mezzo_runtime::ContainerSpec)| {
        let mut spec = node.spec(&["true"]);
        change(&mut spec);
        node.runtime().start(&id("bad"), spec).await.unwrap_err()
    };
    let error = started(&|spec| spec.args[0] = "/bin/none".into()).await;
    assert!(
        matches!(&error, StartError::ExecutableNotFound { path, .. } if path == "/bin/none"),
        "{error:?}"
    );
    let error = started(&|spec| spec.args[0] = "none".into()).await;
    assert!(
        matches!(&error, StartError::ExecutableNotFound { path, .. } if path == "none"),
        "{error:?}"
    );
    std::fs::write(node.image().join("bin/data"), "not a program").unwrap();
    let error = started(&|spec| spec.args[0] = "/bin/data".into()).await;
    assert!(
        matches!(&error, StartError::NotExecutable { reason, .. } if reason.contains("permission")),
        "{error:?}"
    );
    common::executable(&node.image().join("bin/data"));
    let error = started(&|spec| spec.args[0] = "/bin/data".into()).await;
    assert!(
        matches!(&error, StartError::NotExecutable { reason, .. } if reason.contains("architecture")),
        "{error:?}"
    );
    std::fs::write(node.image().join("bin/script"), "#!/bin/nosuchshell\n").unwrap();
    common::executable(&node.image().join("bin/script"));
    let error = started(&|spec| spec.args[0] = "/bin/script".into()).await;
    assert!(
        matches!(&error, StartError::NotExecutable { reason, .. } if reason.contains("interpreter")),
        "{error:?}"
    );
    let error = started(&|spec| spec.user = "nobody".parse().unwrap()).await;
    assert!(
        matches!(&error, StartError::BadSpec { problem, .. } if problem.field == "user"),
        "{error:?}"
    );
    let error = started(&|spec| spec.rootfs = Rootfs::Dir("/no/such/dir".into())).await;
    assert!(matches!(&error, StartError::Mount { .. }), "{error:?}");
    let error = started(&|spec| spec.args.clear()).await;
    assert!(
        matches!(&error, StartError::BadSpec { problem, .. } if problem.field == "args"),
        "{error:?}"
    );
    assert_eq!(node.runtime().list().await.unwrap(), []);
    assert_eq!(
        std::fs::read_dir(node.config.state_dir.join("containers"))
            .unwrap()
            .count(),
        0
    );
    assert!(!node.cgroup_dir("memory", "bad").exists());
    // And the id is free.
    assert_eq!(
        node.run("bad", node.spec(&["true"])).await.exit,
        Exit::Code(0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_lets_a_program_end_by_itself_within_its_grace() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("polite"), node.spec(&["graceful"]))
        .await
        .unwrap();
    node.await_output("polite", "ready").await;
    let record = within(node.runtime().stop(&id("polite"), GRACE, libc::SIGTERM))
        .await
        .unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    assert!(
        node.stdout("polite").ends_with("bye\n"),
        "the last words are kept"
    );
    let again = within(node.runtime().stop(&id("polite"), GRACE, libc::SIGTERM))
        .await
        .unwrap();
    assert_eq!(again, record, "stop is idempotent");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_kills_a_program_that_ignores_the_signal_when_the_grace_is_over() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("deaf"), node.spec(&["ignore"]))
        .await
        .unwrap();
    node.await_output("deaf", "ready").await;
    let begun = Instant::now();
    let grace = Duration::from_millis(300);
    let record = within(node.runtime().stop(&id("deaf"), grace, libc::SIGTERM))
        .await
        .unwrap();
    assert_eq!(record.exit, Exit::Signal(libc::SIGKILL));
    assert!(begun.elapsed() >= grace);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_does_not_wait_for_a_program_that_cannot_hear() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("plain"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let begun = Instant::now();
    let record = within(node.runtime().stop(&id("plain"), GRACE, libc::SIGTERM))
        .await
        .unwrap();
    assert_eq!(record.exit, Exit::Signal(libc::SIGKILL));
    assert!(begun.elapsed() < GRACE / 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_reaches_a_program_under_a_shell() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("sh"), node.spec(&["shell"]))
        .await
        .unwrap();
    node.await_output("sh", "ready").await;
    let record = within(node.runtime().stop(&id("sh"), GRACE, libc::SIGTERM))
        .await
        .unwrap();
    assert_eq!(record.exit, Exit::Code(3));
    assert!(node.stdout("sh").ends_with("bye\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_lie_over_each_other_and_the_writable_one_on_top() {
    let Some(node) = Node::new().await else {
        return;
    };
    // More layers than fit into one page of mount options; the first is the topmost.
    let mut lowers = Vec::new();
    for number in 0..80 {
        let dir = node
            .path()
            .join(format!("layer-{}-{number}", "x".repeat(40)));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("which"), format!("layer {number}\n")).unwrap();
        lowers.push(dir);
    }
    lowers.push(node.image());
    let mut spec = node.spec(&["cat", "/which", "/only-above"]);
    let Rootfs::Overlay {
        lowers: layers,
        upper,
        ..
    } = &mut spec.rootfs
    else {
        panic!()
    };
    *layers = lowers.clone();
    std::fs::write(upper.join("only-above"), "above\n").unwrap();
    node.run("layers", spec).await;
    assert_eq!(node.stdout("layers"), "layer 0\nabove\n");
    let mut spec = node.spec(&["touch", "/made"]);
    spec.rootfs = Rootfs::Dir(node.image());
    spec.cwd = "/not/in/the/image".into();
    assert_eq!(node.run("dir", spec).await.exit, Exit::Code(0));
    assert!(node.image().join("made").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_complete_at_the_end_and_bounded() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.run("talk", node.spec(&["write", "5000"])).await;
    let out = node.stdout("talk");
    assert_eq!(out.lines().count(), 5000);
    assert!(out.lines().last().unwrap().starts_with("00004999 "));
    let err =
        std::fs::read_to_string(node.runtime().log_path(&id("talk"), Stream::Stderr)).unwrap();
    assert_eq!(err, "err 5000\n");

    let mut spec = node.spec(&["write", "5000"]);
    spec.log = LogLimits {
        max_bytes: 50_000,
        files: 3,
        max_age_secs: None,
    };
    node.run("chat", spec).await;
    let path = node.runtime().log_path(&id("chat"), Stream::Stdout);
    let mut total = 0;
    for suffix in ["", ".1", ".2"] {
        let length = std::fs::metadata(format!("{}{suffix}", path.display()))
            .unwrap()
            .len();
        assert!(length <= 50_000, "{length}");
        total += length;
    }
    assert!(!std::path::Path::new(&format!("{}.3", path.display())).exists());
    assert!(total > 100_000, "the newest output is kept: {total}");
    assert!(
        node.stdout("chat")
            .lines()
            .last()
            .unwrap()
            .starts_with("00004999 ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_containers_start_and_end_at_once() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (runtime, spec) = (
            node.runtime().clone(),
            node.spec(&["exit", &number.to_string()]),
        );
        starts.spawn(async move {
            let id = id(&format!("c{number}"));
            runtime.start(&id, spec).await.unwrap();
            assert_eq!(runtime.wait(&id).await.unwrap().exit, Exit::Code(number));
        });
    }
    while let Some(result) = within(starts.join_next()).await {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_ends_everything_and_leaves_nothing() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut pids = Vec::new();
    for name in ["a", "b", "c"] {
        let started = node
            .runtime()
            .start(&id(name), node.spec(&["sleep"]))
            .await
            .unwrap();
        pids.extend([started.pid, started.keeper_pid]);
    }
    within(node.runtime().purge()).await.unwrap();
    until("all are gone", || {
        !pids.iter().any(|pid| common::alive(*pid))
    })
    .await;
    assert_eq!(node.leftovers(), Vec::<String>::new());
    let late = node.runtime().start(&id("d"), node.spec(&["true"])).await;
    assert!(matches!(late, Err(StartError::Closed { .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_runtime_on_the_same_state_is_refused() {
    let Some(node) = Node::new().await else {
        return;
    };
    let second = mezzo_runtime::Runtime::open(node.config.clone()).await;
    let error = second.unwrap_err().to_string();
    assert!(error.contains("is in use by another runtime"), "{error}");
    assert!(matches!(
        mezzo_runtime::purge_dir(&node.config),
        Err(mezzo_runtime::PurgeError::InUse { .. })
    ));
}
