//! The binary as people run it, against a scripted scheduler and against nobody: output, messages, exit codes.
//!
//! No cluster and no root needed. The scripted server answers each request from a fixed table and records what it
//! was asked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "verbs/apps.rs"]
mod apps;
mod common;
#[path = "verbs/completion.rs"]
mod completion;
#[path = "verbs/groups.rs"]
mod groups;
#[path = "verbs/jobs.rs"]
mod jobs;
#[path = "verbs/pods.rs"]
mod pods;
#[path = "common/terminal.rs"]
mod terminal;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{mezzo, run, stderr, stdout};

/// One answer: method, path (without query), status, body.
type Answer = (&'static str, &'static str, u16, &'static str);

/// A scheduler that answers from a table. Several answers for one request come in turn, the last stays.
struct Scripted {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn start(answers: &'static [Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        // Ends with the test's process: nothing but a socket to lose.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let record = Arc::clone(&record);
                thread::spawn(move || serve(stream, answers, &record));
            }
        });
        Self { url, asked }
    }

    fn mezzo(&self, words: &[&str]) -> Output {
        self.mezzo_with(words, "")
    }

    fn mezzo_with(&self, words: &[&str], stdin: &str) -> Output {
        run(
            Command::new(env!("CARGO_BIN_EXE_mezzo"))
                .args(words)
                .env("MEZZO_SCHEDULER", &self.url),
            stdin,
        )
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// What has changed something, each with its body.
    fn changes(&self) -> Vec<String> {
        let mut asked = self.asked();
        asked.retain(|one| !one.starts_with("GET "));
        asked
    }
}

fn serve(stream: TcpStream, answers: &[Answer], asked: &Mutex<Vec<String>>) {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let path = target.split('?').next().unwrap();
        let before = {
            let mut asked = asked.lock().unwrap();
            let key = format!("{method} {path}");
            let before = asked
                .iter()
                .filter(|one| one.split(['?', '\n']).next() == Some(key.as_str()))
                .count();
            asked.push(format!(
                "{method} {target}\n{}",
                String::from_utf8_lossy(&body)
            ));
            before
        };
        let mut fitting = answers
            .iter()
            .filter(|answer| answer.0 == method && answer.1 == path);
        let answer = fitting.clone().nth(before).or_else(|| fitting.next_back());
        let (status, body) = answer.map_or((404, r#"{"message":"not found"}"#), |answer| {
            (answer.2, answer.3)
        });
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if writer
            .write_all(head.as_bytes())
            .and_then(|()| writer.write_all(body.as_bytes()))
            .is_err()
        {
            return;
        }
    }
}

const APP: &str = r#"{"id": "sleep", "cpus": 0.1, "mem": 16, "container": {"type": "MESOS", "docker": {"image": "sleep:1"}}}"#;

#[test]
fn an_app_is_added_from_standard_input() {
    let server = Scripted::start(&[(
        "POST",
        "/v2/apps",
        201,
        r#"{"id":"/sleep","deployments":[{"id":"d1"}]}"#,
    )]);
    let output = server.mezzo_with(&["app", "add", "-"], APP);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), "/sleep: deploying\n"),
        "{}",
        stderr(&output)
    );
    assert!(
        server.asked()[0].starts_with("POST /v2/apps\n{\"container\""),
        "{:?}",
        server.asked()
    );
}

#[test]
fn waiting_ends_when_the_deployment_is_over_and_everything_runs() {
    let server = Scripted::start(&[
        (
            "POST",
            "/v2/apps",
            201,
            r#"{"id":"/sleep","deployments":[{"id":"d1"}]}"#,
        ),
        (
            "GET",
            "/v2/apps/sleep",
            200,
            r#"{"app":{"id":"/sleep","instances":2,"tasksRunning":1,"tasksStaged":1,"deployments":[{"id":"d1"}]}}"#,
        ),
        (
            "GET",
            "/v2/apps/sleep",
            200,
            r#"{"app":{"id":"/sleep","instances":2,"tasksRunning":2,"deployments":[]}}"#,
        ),
    ]);
    let output = server.mezzo_with(&["app", "add", "--wait", "-"], APP);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), "/sleep: running\n"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "/sleep: 1 of 2 running, 1 starting\n");
}

#[test]
fn waiting_in_vain_says_why_and_exits_with_1() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/apps/big",
            200,
            r#"{"app":{"id":"/big","instances":1,"deployments":[{"id":"d1"}]}}"#,
        ),
        (
            "PUT",
            "/v2/apps/big",
            200,
            r#"{"version":"v","deploymentId":"d1"}"#,
        ),
        (
            "GET",
            "/v2/queue",
            200,
            r#"{"queue":[{"app":{"id":"/big"},"count":1,"waitingFor":"asks for 64 cpus, the largest node has 4"}]}"#,
        ),
    ]);
    let output = server.mezzo(&["app", "scale", "big", "1", "--wait", "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("asks for 64 cpus, the largest node has 4"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_app_that_is_not_there_is_exit_code_3_for_every_verb() {
    let server = Scripted::start(&[]);
    for verb in [
        &["show", "x"][..],
        &["scale", "x", "3"],
        &["restart", "x"],
        &["remove", "x"],
        &["versions", "x"],
        &["rollback", "x"],
    ] {
        let words: Vec<&str> = std::iter::once("app").chain(verb.iter().copied()).collect();
        let output = server.mezzo(&words);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{words:?}: {}",
            stderr(&output)
        );
        assert_eq!(
            stderr(&output),
            "mezzo: no app `/x`; `mezzo app list` shows which there are\n",
            "{words:?}"
        );
    }
    assert!(
        server.asked().iter().all(|asked| !asked.starts_with("PUT")),
        "scaling must not create"
    );
}

#[test]
fn a_refusal_of_the_scheduler_names_each_path() {
    let server = Scripted::start(&[(
        "POST",
        "/v2/apps",
        422,
        r#"{"message":"Object is not valid","details":[{"path":"/instances","errors":["too many"]}]}"#,
    )]);
    let output = server.mezzo_with(&["app", "add", "-"], APP);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "mezzo: -: Object is not valid\n  /instances: too many\n"
    );
}

#[test]
fn an_unknown_field_never_leaves_this_machine() {
    let server = Scripted::start(&[]);
    let output = server.mezzo_with(&["app", "add", "-"], &APP.replace("cpus", "cpu"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "mezzo: - is not a valid app:\n  /cpu: no such field; did you mean `cpus`?\n"
    );
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[test]
fn lists_are_tables_for_people_and_the_schedulers_json_for_programs() {
    let server = Scripted::start(&[(
        "GET",
        "/v2/apps",
        200,
        r#"{"apps":[{"id":"/a","instances":2,"tasksRunning":2,"cpus":0.5,"mem":64,"extra":true}]}"#,
    )]);
    let table = server.mezzo(&["app", "list"]);
    assert_eq!(
        stdout(&table),
        "APP  RUNNING  STATE    HEALTH  CPUS    MEMORY  IMAGE\n/a       2/2  running  -        0.5  64.0 MiB\n"
    );
    let json = server.mezzo(&["app", "list", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json[0]["extra"], true);
}

#[test]
fn a_rollback_without_a_version_takes_the_one_before() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/apps/a",
            200,
            r#"{"app":{"id":"/a","version":"2026-01-02T00:00:00.000Z"}}"#,
        ),
        (
            "GET",
            "/v2/apps/a/versions",
            200,
            r#"{"versions":["2026-01-01T00:00:00.000Z","2026-01-02T00:00:00.000Z","2025-01-01T00:00:00.000Z"]}"#,
        ),
        (
            "PUT",
            "/v2/apps/a",
            200,
            r#"{"version":"v","deploymentId":"d"}"#,
        ),
    ]);
    let output = server.mezzo(&["app", "rollback", "a"]);
    assert_eq!(
        stdout(&output),
        "/a: rolling back to 2026-01-01T00:00:00.000Z\n",
        "{}",
        stderr(&output)
    );
    assert!(
        server
            .asked()
            .iter()
            .any(|asked| asked == "PUT /v2/apps/a\n{\"version\":\"2026-01-01T00:00:00.000Z\"}"),
        "{:?}",
        server.asked()
    );
}

#[test]
fn a_new_image_is_sent_with_the_rest_of_the_container_and_force() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/apps/a",
            200,
            r#"{"app":{"id":"/a","container":{"type":"MESOS","docker":{"image":"a:1","forcePullImage":true}}}}"#,
        ),
        (
            "PUT",
            "/v2/apps/a",
            200,
            r#"{"version":"v","deploymentId":"d"}"#,
        ),
    ]);
    let output = server.mezzo(&["app", "update", "a", "--image", "a:2", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let put = server
        .asked()
        .into_iter()
        .find(|asked| asked.starts_with("PUT"))
        .unwrap();
    assert_eq!(
        put,
        "PUT /v2/apps/a?force=true\n{\"container\":{\"docker\":{\"forcePullImage\":true,\"image\":\"a:2\"},\"type\":\"MESOS\"}}"
    );
}

#[test]
fn deployments_are_named_by_their_beginning() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"5c3f-1","affectedApps":["/a"],"currentStep":1,"totalSteps":2},{"id":"77","affectedApps":[]}]"#,
        ),
        (
            "DELETE",
            "/v2/deployments/5c3f-1",
            200,
            r#"{"version":"v","deploymentId":"d2"}"#,
        ),
    ]);
    let output = server.mezzo(&["deployment", "cancel", "5c"]);
    assert_eq!(
        stdout(&output),
        "deployment 5c3f-1: rolling back\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(
        server.mezzo(&["deployment", "cancel", "9"]).status.code(),
        Some(3)
    );
}

/// Nobody listens there, and nobody is given it.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_server_that_is_not_there_is_one_line_with_its_address_and_the_fix() {
    for words in [&["app", "list"][..], &["deployment", "list"]] {
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--scheduler", NOBODY])
            .collect();
        let output = mezzo(&words);
        assert_eq!(output.status.code(), Some(4), "{words:?}");
        let text = stderr(&output);
        assert!(
            text.starts_with(&format!(
                "mezzo: cannot reach the scheduler at http://{NOBODY}: Connection refused"
            )),
            "{text}"
        );
        assert!(
            text.contains("mezzo scheduler") && text.lines().count() == 1,
            "{text}"
        );
    }
    for words in [
        &["node", "list"][..],
        &["task", "list"],
        &["status"],
        &["framework", "list"],
        &["role", "list"],
        &["task", "log", "x"],
    ] {
        let words: Vec<&str> = words.iter().copied().chain(["--master", NOBODY]).collect();
        let output = mezzo(&words);
        assert_eq!(output.status.code(), Some(4), "{words:?}");
        let text = stderr(&output);
        assert!(
            text.starts_with(&format!(
                "mezzo: cannot reach the master at {NOBODY}: Connection refused"
            )),
            "{text}"
        );
        assert!(
            text.contains("mezzo master") && text.lines().count() == 1,
            "{text}"
        );
    }
}

#[test]
fn a_server_that_is_something_else_is_told_apart() {
    let server = Scripted::start(&[("GET", "/v2/apps", 200, "<html>hello</html>")]);
    let output = server.mezzo(&["app", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("does not answer like a mezzo scheduler"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mezzo"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn wrong_settings_of_a_server_are_named_with_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.toml");
    std::fs::write(&file, "listn = \"127.0.0.1:0\"\n").unwrap();
    for server in ["master", "agent", "scheduler"] {
        let output = mezzo(&[server, "--config", file.to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{server}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("m.toml") && stderr(&output).contains("listn"),
            "{}",
            stderr(&output)
        );
    }
    let output = mezzo(&["agent", "--resources", "cpus:many"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("resources"), "{}", stderr(&output));
}

#[test]
fn versions_and_completions_need_nobody() {
    assert!(stdout(&mezzo(&["version"])).starts_with("mezzo 0."));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = mezzo(&["completions", shell]);
        assert!(
            output.status.success() && stdout(&output).contains("MEZZO_COMPLETE"),
            "{shell}"
        );
    }
}

#[test]
fn removing_waits_until_the_last_task_has_ended() {
    let server = Scripted::start(&[
        (
            "DELETE",
            "/v2/apps/a",
            200,
            r#"{"version":"v","deploymentId":"d1"}"#,
        ),
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"d1","affectedApps":["/a"]}]"#,
        ),
        ("GET", "/v2/deployments", 200, "[]"),
    ]);
    let output = server.mezzo(&["app", "remove", "a", "--wait"]);
    assert_eq!(stdout(&output), "/a: removed\n");
    assert_eq!(stderr(&output), "/a: its tasks are ending\n");
}

#[test]
fn a_scheduler_that_is_away_for_a_moment_is_waited_for() {
    let server = Scripted::start(&[
        (
            "POST",
            "/v2/apps",
            201,
            r#"{"id":"/sleep","deployments":[{"id":"d1"}]}"#,
        ),
        ("GET", "/v2/apps/sleep", 503, r#"{"message":"no leader"}"#),
        (
            "GET",
            "/v2/apps/sleep",
            200,
            r#"{"app":{"id":"/sleep","instances":1,"tasksRunning":1}}"#,
        ),
    ]);
    let output = server.mezzo_with(&["app", "add", "--wait", "-"], APP);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "/sleep: the scheduler is away\n");
}

/// A stream that is cut in the middle of an event: the reader comes back with its last id and goes on.
#[test]
fn events_are_followed_over_a_break() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut heads = Vec::new();
        for text in [
            "id: 7-1\nevent: a\ndata: {\"eventType\":\"a\",\"appId\":\"/sleep\"}\n\nid: 7-2\ndata: {\"even",
            "id: 7-2\nevent: b\ndata: {\"eventType\":\"b\",\"appId\":\"/other\"}\n\n\
             id: 7-3\nevent: c\ndata: {\"eventType\":\"c\",\"appId\":\"/sleep\"}\n\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).unwrap() > 2 {}
            heads.push(head);
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{text}").unwrap();
        }
        heads
    });
    let output = run(
        Command::new(env!("CARGO_BIN_EXE_mezzo"))
            .args([
                "app", "events", "sleep", "-n", "2", "--type", "a", "-o", "json",
            ])
            .env("MEZZO_SCHEDULER", url),
        "",
    );
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (
            Some(0),
            "{\"appId\":\"/sleep\",\"eventId\":\"7-1\",\"eventType\":\"a\"}\n{\"appId\":\"/sleep\",\"eventId\":\"7-3\",\"eventType\":\"c\"}\n"
        ),
        "{}",
        stderr(&output)
    );
    let heads = server.join().unwrap();
    assert!(heads[0].contains("event_type=a"), "{}", heads[0]);
    assert!(heads[1].contains("last-event-id: 7-1"), "{}", heads[1]);
}
