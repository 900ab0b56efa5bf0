//! `task stats` and `top`: tables, JSON, a stream in a pipe, and a terminal that is put back however one leaves.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};

use crate::Scripted;

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
fn on_a_terminal(
    cluster: &Scripted,
    leave: impl FnOnce(&mut File, &Child),
) -> (String, Option<i32>) {
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut child = mezzo(cluster, &["top"])
        .env("TERM", "xterm")
        .stdin(end(&slave))
        .stdout(end(&slave))
        .stderr(end(&slave))
        .spawn()
        .unwrap();
    let mut terminal = File::from(master.try_clone().unwrap());
    let mut reader = File::from(master);
    let (sender, pieces) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut shown = String::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    let until = |text: &str, shown: &mut String| {
        while !shown.contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {shown:?}");
            if let Ok(piece) = pieces.recv_timeout(Duration::from_millis(100)) {
                shown.push_str(&String::from_utf8_lossy(&piece));
            }
        }
    };
    until("web.1", &mut shown);
    let during = tcgetattr(&slave).unwrap();
    assert!(
        !during
            .local_flags
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    );
    terminal.write_all(b"\x1b[C").unwrap();
    until("MEMORY*", &mut shown);
    leave(&mut terminal, &child);
    until("\x1b[?1049l", &mut shown);
    let status = child.wait().unwrap();
    let after = tcgetattr(&slave).unwrap();
    assert_eq!(
        after.local_flags, before.local_flags,
        "the terminal is as it was"
    );
    (shown, status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_put_back_however_top_is_left() {
    let cluster = Scripted::default().start(None).await;
    let left = tokio::task::spawn_blocking(move || {
        let q = on_a_terminal(&cluster, |terminal, _| terminal.write_all(b"q").unwrap());
        let interrupted = on_a_terminal(&cluster, |_, child| signal(child, Signal::SIGINT));
        let ended = on_a_terminal(&cluster, |_, child| signal(child, Signal::SIGTERM));
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
