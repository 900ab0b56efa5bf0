//! Programs executed in a running container.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use common::{Node, alive, id, until, within};
use mezzo_runtime::{ExecError, ExecExit, ExecSession, ExecSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn probe(args: &[&str]) -> ExecSpec {
    let mut all = vec!["/bin/probe".to_owned()];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    ExecSpec {
        args: all,
        env: vec![],
        cwd: None,
        user: None,
        terminal: None,
    }
}

async fn read_all(session: &mut ExecSession) -> String {
    let mut text = String::new();
    within(session.stdout.read_to_string(&mut text))
        .await
        .unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_exit_code_pass_through() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("c"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let mut session = node
        .runtime()
        .exec(&id("c"), probe(&["echo"]))
        .await
        .unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    drop(stdin);
    assert_eq!(read_all(&mut session).await, "one\none\ntwo\ntwo\n");
    assert_eq!(within(session.wait()).await.unwrap(), ExecExit::Code(5));
    let mut session = node
        .runtime()
        .exec(&id("c"), probe(&["unknown-word"]))
        .await
        .unwrap();
    let mut text = String::new();
    session
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!(
        (text.as_str(), within(session.wait()).await.unwrap().code()),
        ("unknown: unknown-word\n", 98)
    );
    let mut session = node
        .runtime()
        .exec(&id("c"), probe(&["crash"]))
        .await
        .unwrap();
    assert_eq!(
        within(session.wait()).await.unwrap(),
        ExecExit::Signal(libc::SIGSEGV)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size_and_can_be_resized() {
    let Some(node) = Node::new().await else {
        return;
    };
    node.runtime()
        .start(&id("c"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let mut spec = probe(&["tty"]);
    spec.terminal = Some((123, 45));
    let mut session = node.runtime().exec(&id("c"), spec).await.unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 256];
    while !seen.contains("tty 1 ") || !seen.contains('\n') {
        let length = within(session.stdout.read(&mut buffer)).await.unwrap();
        assert!(length > 0, "{seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    session.resize(80, 25).unwrap();
    session
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hello\n")
        .await
        .unwrap();
    seen.push_str(&read_all(&mut session).await);
    assert!(seen.contains("then 80 25 hello"), "{seen:?}");
    assert_eq!(within(session.wait()).await.unwrap(), ExecExit::Code(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_program_is_held_by_the_containers_walls() {
    let Some(node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["sleep"]);
    spec.limits.pids = Some(20);
    spec.user = "web".parse().unwrap();
    spec.env.push(("OF_CONTAINER".into(), "1".into()));
    node.runtime().start(&id("c"), spec).await.unwrap();
    let output = async |spec: ExecSpec| {
        let mut session = node.runtime().exec(&id("c"), spec).await.unwrap();
        let text = read_all(&mut session).await;
        within(session.wait()).await.unwrap();
        text
    };
    let status = output(probe(&["status"])).await;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:")),
        ("1".to_owned(), "2".to_owned())
    );
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(
        field("CapBnd:")
            .chars()
            .map(|digit| digit.to_digit(16).unwrap().count_ones())
            .sum::<u32>(),
        10
    );
    let place = output(probe(&["where"])).await;
    assert!(
        place.contains("uid 1000 gid 1001 groups 7"),
        "the container's own user: {place}"
    );
    let mut spec = probe(&["where"]);
    spec.user = Some("0".parse().unwrap());
    spec.cwd = Some("/srv".into());
    assert!(
        output(spec)
            .await
            .starts_with("cwd /srv host c uid 0 gid 0 groups pid ")
    );
    let mut spec = probe(&["env"]);
    spec.env = vec![("EXTRA".into(), "2".into())];
    let env = output(spec).await;
    assert!(
        env.contains("OF_CONTAINER=1\n") && env.contains("EXTRA=2\n"),
        "{env}"
    );
    let fds = output(probe(&["fds"])).await;
    assert_eq!(fds.lines().count(), 3, "{fds}");
    let mut session = node
        .runtime()
        .exec(&id("c"), probe(&["sleep"]))
        .await
        .unwrap();
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", session.pid())).unwrap();
    assert!(
        cgroup
            .lines()
            .any(|line| line.contains("pids") && line.ends_with("/containers/c"))
            || cgroup.contains("0::"),
        "{cgroup}"
    );
    assert_eq!(node.runtime().usage(&id("c")).await.unwrap().pids, Some(2));
    // It ends with the container.
    let pid = session.pid();
    within(
        node.runtime()
            .stop(&id("c"), std::time::Duration::ZERO, libc::SIGKILL),
    )
    .await
    .unwrap();
    assert_eq!(
        within(session.wait()).await.unwrap(),
        ExecExit::Signal(libc::SIGKILL)
    );
    assert!(!alive(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let Some(node) = Node::new().await else {
        return;
    };
    let none = node.runtime().exec(&id("none"), probe(&["true"])).await;
    assert!(matches!(none, Err(ExecError::NotFound { .. })), "{none:?}");
    node.run("ended", node.spec(&["true"])).await;
    let ended = node.runtime().exec(&id("ended"), probe(&["true"])).await;
    assert!(
        matches!(ended, Err(ExecError::NotRunning { .. })),
        "{ended:?}"
    );
    node.runtime()
        .start(&id("c"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let mut spec = probe(&[]);
    spec.args[0] = "bash".into();
    let missing = node.runtime().exec(&id("c"), spec).await;
    assert!(
        matches!(&missing, Err(ExecError::ExecutableNotFound { path, .. }) if path == "bash"),
        "{missing:?}"
    );
    let mut spec = probe(&["true"]);
    spec.user = Some("nobody".parse().unwrap());
    let user = node.runtime().exec(&id("c"), spec).await;
    assert!(
        matches!(&user, Err(ExecError::BadSpec { problem, .. }) if problem.field == "user"),
        "{user:?}"
    );
    let mut spec = probe(&["true"]);
    spec.args.clear();
    let empty = node.runtime().exec(&id("c"), spec).await;
    assert!(
        matches!(&empty, Err(ExecError::BadSpec { .. })),
        "{empty:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_takes_its_program_along() {
    let Some(node) = Node::new().await else {
        return;
    };
    let started = node
        .runtime()
        .start(&id("c"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let session = node
        .runtime()
        .exec(&id("c"), probe(&["sleep"]))
        .await
        .unwrap();
    let pid = session.pid();
    assert!(alive(pid));
    drop(session);
    until("the program is gone", || !alive(pid)).await;
    assert!(alive(started.pid));
}
