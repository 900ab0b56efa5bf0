//! `task stats` and `top`: tables, JSON, a stream in a pipe, and a terminal that is put back however one leaves.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        termios::LocalFlags,
    },
    unistd::Pid,
};

use crate::{Scripted, terminal::OnTerminal};

fn mezzo(cluster: &Scripted, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
    command
        .args(words)
        .env("MEZZO_MASTER", cluster.address.lock().unwrap().as_str())
        .env("NO_COLOR", "1");
    command
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn use_is_shown_once_as_table_and_json() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster.mezzo(&["task", "stats"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("web.1") && ran.stdout.contains("25 %"),
        "{}",
        ran.stdout
    );
    let ran = cluster.mezzo(&["task", "stats", "-o", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told[0]["cpus"], 0.25);
    assert_eq!(told[0]["io_read_bytes_per_second"], serde_json::Value::Null);
    assert_eq!(told[0]["usage"]["pids"], 2);
    let ran = cluster.mezzo(&["top", "--once"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("cpu [") && ran.stdout.contains("web.1"),
        "{}",
        ran.stdout
    );
    let ran = cluster.mezzo(&["top", "--sort", "mem", "-o", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["nodes"][0]["used"]["cpus"], 0.5);
    assert_eq!(told["tasks"][0]["id"], "web.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_away_are_named() {
    let cluster = Scripted::default().start(Some("127.0.0.1:1".into())).await;
    let ran = cluster.mezzo(&["task", "stats"]).await;
    assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    assert!(ran.stderr.contains("127.0.0.1:1"), "{}", ran.stderr);
    let ran = cluster.mezzo(&["top"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("127.0.0.1:1"), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_in_a_pipe_it_is_one_line_of_json_after_another() {
    let cluster = Scripted::default().start(None).await;
    let mut command = mezzo(&cluster, &["task", "stats", "--watch", "-o", "json"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || stdout.lines().next().unwrap().unwrap());
    let told: serde_json::Value = serde_json::from_str(&line.await.unwrap()).unwrap();
    assert_eq!(told[0]["id"], "web.1");
    let status = tokio::task::spawn_blocking(move || {
        signal(&child, Signal::SIGINT);
        child.wait().unwrap()
    });
    // The reader of the pipe may be noticed as gone before the signal; both are a good end.
    assert_eq!(status.await.unwrap().code(), Some(0));
}

/// `mezzo top` on a terminal of its own, left in some way: what it wrote, and its exit code.
fn on_a_terminal(cluster: &Scripted, leave: impl FnOnce(&mut OnTerminal)) -> (String, Option<i32>) {
    let mut top = OnTerminal::start(mezzo(cluster, &["top"]), 100, 24);
    top.until("web.1");
    let during = top.settings().local_flags;
    assert!(!during.intersects(LocalFlags::ICANON | LocalFlags::ECHO));
    top.press(b"\x1b[C");
    top.until("MEMORY*");
    leave(&mut top);
    top.until("\x1b[?1049l");
    let (shown, code, left) = top.end();
    let as_before = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
    assert!(
        left.local_flags.contains(as_before),
        "the terminal is as it was"
    );
    (shown, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_put_back_however_top_is_left() {
    let cluster = Scripted::default().start(None).await;
    let left = tokio::task::spawn_blocking(move || {
        let q = on_a_terminal(&cluster, |top| top.press(b"q"));
        let interrupted = on_a_terminal(&cluster, |top| top.signal(Signal::SIGINT));
        let ended = on_a_terminal(&cluster, |top| top.signal(Signal::SIGTERM));
        [q, interrupted, ended]
    });
    for (shown, code) in left.await.unwrap() {
        assert_eq!(code, Some(0));
        let (hidden, shown_again) = (
            shown.find("\x1b[?25l").unwrap(),
            shown.rfind("\x1b[?25h").unwrap(),
        );
        assert!(hidden < shown_again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_the_terminals_size_follows_it_and_gives_it_back() {
    let cluster = Scripted::default().start(None).await;
    let session = tokio::task::spawn_blocking(move || {
        let words = ["task", "exec", "-it", "web.b", "--", "sh"];
        let mut exec = OnTerminal::start(mezzo(&cluster, &words), 81, 25);
        exec.until("size 81x25");
        exec.resize(120, 40);
        exec.until("size 120x40");
        // Every key goes to the other side, and nothing is shown twice.
        exec.press(b"\x03echo\r");
        exec.until("\x03echo\r");
        let during = exec.settings().local_flags;
        assert!(!during.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        exec.press(b"q");
        (exec.end(), cluster.asked())
    });
    let ((shown, code, left), asked) = session.await.unwrap();
    assert_eq!(code, Some(42), "the program's own: {shown}");
    let as_before = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
    assert!(left.local_flags.contains(as_before));
    assert!(
        asked.contains("WindowSize { columns: 81, rows: 25 }") && asked.contains("args: [\"sh\"]"),
        "{asked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tasks_terminal_is_typed_on_and_left_by_its_keys() {
    let cluster = Scripted::default().start(None).await;
    let session = tokio::task::spawn_blocking(move || {
        let words = ["task", "attach", "-it", "web.b"];
        let mut attach = OnTerminal::start(mezzo(&cluster, &words), 81, 25);
        attach.until("size 81x25");
        attach.resize(120, 40);
        attach.until("size 120x40");
        attach.press(b"\x03echo\r");
        attach.until("\x03echo\r");
        let during = attach.settings().local_flags;
        assert!(!during.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        attach.press(b"\x10");
        attach.press(b"\x11");
        (attach.end(), cluster.asked())
    });
    let ((shown, code, left), asked) = session.await.unwrap();
    assert_eq!(code, Some(0), "{shown}");
    let as_before = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
    assert!(left.local_flags.contains(as_before));
    assert!(
        asked.contains("WindowSize { columns: 81, rows: 25 }"),
        "{asked}"
    );
    assert!(
        !asked.contains("Typed([16"),
        "the keys for leaving: {asked}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_changed_by_the_tasks_own_node() {
    let cluster = Scripted::default().start(None).await;
    let words = [
        "task",
        "limit",
        "web.b",
        "--memory-high",
        "100M",
        "--pids",
        "9",
    ];
    let ran = cluster
        .mezzo(&[&words[..], &["--swap", "none", "--io-max", "/var,wbps=2M"]].concat())
        .await;
    assert_eq!(
        ran.stdout, "limits of web.b: pids 9, memory high 100 MiB, /var: write bytes 2097152/s\n",
        "{}",
        ran.stderr
    );
    let asked = cluster.asked();
    assert!(
        asked.contains("memory_high_mb: Some(100)") && asked.contains("clear: [\"swap_mb\"]"),
        "{asked}"
    );
    let ran = cluster.mezzo(&[&words[..], &["-o", "json"]].concat()).await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["limits"]["memory_high_mb"], 100);
    let ran = cluster
        .mezzo(&["task", "limit", "web.b", "--memory", "1M"])
        .await;
    assert!(
        ran.stderr.contains("memory_limit_mb: too little"),
        "{}",
        ran.stderr
    );
    let ran = cluster.mezzo(&["task", "limit", "web.b"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}
