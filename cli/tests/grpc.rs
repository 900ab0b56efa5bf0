//! `task`, `node`, `status` and friends against a scripted master and node over real gRPC: what is asked of whom, what
//! is printed, which exit code. No cluster and no root needed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    pin::Pin,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt as _, stream};
use mezzo_api::proto::{
    self,
    node_service_server::{NodeService, NodeServiceServer},
    operator_service_server::{OperatorService, OperatorServiceServer},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

#[path = "grpc/completion.rs"]
mod completion;
#[path = "grpc/figures.rs"]
mod figures;
#[path = "grpc/files.rs"]
mod files;
#[path = "grpc/master.rs"]
mod master;
#[path = "grpc/node.rs"]
mod node;
#[path = "grpc/nodes.rs"]
mod nodes;
#[path = "grpc/operating.rs"]
mod operating;
#[path = "grpc/sharing.rs"]
mod sharing;
#[path = "common/terminal.rs"]
mod terminal;

type Answer<T> = Result<Response<T>, Status>;

/// A master with one node; both are this.
#[derive(Clone, Default)]
struct Scripted {
    address: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Where the master says that the node is, when not here.
    node_elsewhere: Option<String>,
}

impl Scripted {
    async fn start(mut self, node_elsewhere: Option<String>) -> Self {
        self.node_elsewhere = node_elsewhere;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        *self.address.lock().unwrap() = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder()
            .add_service(OperatorServiceServer::new(self.clone()))
            .add_service(NodeServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // Ends with the test's runtime.
        tokio::spawn(server);
        self
    }

    fn note(&self, what: impl std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{what:?}"));
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().join("\n")
    }

    async fn mezzo(&self, words: &[&str]) -> Ran {
        self.mezzo_with(words, "").await
    }

    async fn mezzo_with(&self, words: &[&str], stdin: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
        command
            .args(words)
            .env("MEZZO_MASTER", self.address.lock().unwrap().as_str())
            .env("NO_COLOR", "1");
        command.env("MEZZO_SCHEDULER", "http://127.0.0.1:1");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A command that does not read its input may be gone already.
        let _ = pipe.write_all(stdin.as_bytes()).await;
        drop(pipe);
        child.wait_with_output().await.unwrap().into()
    }
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

fn task(id: &str, state: proto::TaskState, message: &str) -> proto::Task {
    proto::Task {
        info: Some(Box::new(proto::TaskInfo {
            task_id: id.into(),
            agent_id: "agent-1".into(),
            ..Default::default()
        })),
        framework_id: "framework-1".into(),
        role: "*".into(),
        status: Some(proto::TaskStatus {
            state: state.into(),
            message: message.into(),
            ..Default::default()
        }),
        started_at_ms: None,
    }
}

fn usage() -> proto::Usage {
    proto::Usage {
        cpu_total_us: Some(1_500_000),
        memory_bytes: Some(4096),
        pids: Some(2),
        ..Default::default()
    }
}

fn round(n: u64) -> proto::StatsRound {
    proto::StatsRound {
        sampled_at_ms: n,
        node: Some(proto::NodeUsage {
            sampled_at_ms: n,
            cpu_millis: Some(500),
            ..Default::default()
        }),
        tasks: vec![proto::TaskStats {
            task_id: "web.1".into(),
            name: "web".into(),
            usage: Some(proto::Usage {
                sampled_at_ms: n,
                ..usage()
            }),
            rates: Some(proto::Rates {
                window_ms: 1000,
                cpu_millis: Some(250 * n),
                ..Default::default()
            }),
            cpu_limit_millis: Some(1000),
            ..Default::default()
        }],
        groups: Vec::new(),
    }
}

fn agent(address: String) -> proto::Agent {
    proto::Agent {
        agent_id: "agent-1".into(),
        info: Some(proto::AgentInfo {
            hostname: "n1".into(),
            address,
            ..Default::default()
        }),
        state: proto::AgentState::AgentConnected.into(),
        ..Default::default()
    }
}

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_over_all_pages_and_filtered() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster.mezzo(&["task", "list"]).await;
    let names: Vec<&str> = ran
        .stdout
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        names,
        [
            "sleep.instance-a1._app.1",
            "sleep.instance-a2._app.1",
            "web.b"
        ],
        "{}",
        ran.stderr
    );
    let ran = cluster
        .mezzo(&["task", "list", "--app", "sleep", "-o", "json"])
        .await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(
        (&json[0]["state"], &json[0]["node"]),
        (&"TASK_RUNNING".into(), &"n1".into())
    );
    let ran = cluster.mezzo(&["task", "list", "--all"]).await;
    assert!(
        ran.stdout.contains("?[2Jexit code 7") && !ran.stdout.contains('\u{1b}'),
        "{}",
        ran.stdout
    );
    assert_eq!(
        cluster.mezzo(&["task", "list", "--node", "n2"]).await.code,
        Some(3)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_names_a_task_unless_it_fits_several() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster.mezzo(&["task", "show", "web.b"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("cpu time  1.500 s"),
        "the node's fresh usage: {}",
        ran.stdout
    );
    let ran = cluster.mezzo(&["task", "show", "sleep"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.stderr
            .starts_with("mezzo: `sleep` is the beginning of 2 tasks: sleep.instance-a1"),
        "{}",
        ran.stderr
    );
    assert_eq!(
        cluster.mezzo(&["task", "show", "web"]).await.code,
        Some(0),
        "the one that lives wins"
    );
    assert_eq!(cluster.mezzo(&["task", "show", "x"]).await.code, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_goes_to_the_master_with_the_grace_asked_for() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster
        .mezzo(&[
            "task",
            "kill",
            "--grace",
            "1.5s",
            "web.b",
            "sleep.instance-a1",
        ])
        .await;
    assert_eq!(ran.stdout, "killing 2 tasks\n", "{}", ran.stderr);
    assert_eq!(
        cluster.asked(),
        "KillTaskRequest { framework_id: \"framework-1\", task_id: \"web.b\", grace_ms: Some(1500) }\n\
         KillTaskRequest { framework_id: \"framework-1\", task_id: \"sleep.instance-a1._app.1\", grace_ms: Some(1500) }"
    );
    let cluster = Scripted::default().start(None).await;
    assert_eq!(
        cluster.mezzo(&["task", "kill", "web.b", "x"]).await.code,
        Some(3)
    );
    assert_eq!(
        cluster.asked(),
        "",
        "nothing is killed when one name is wrong"
    );
    let ran = cluster.mezzo(&["task", "kill", "web.c"]).await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(1), "mezzo: task web.c has ended already (failed)\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_keep_their_streams_apart() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster
        .mezzo(&["task", "log", "-f", "--tail", "5", "web.b"])
        .await;
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(0), "out 1\nout 2\n", "err\n")
    );
    assert!(
        cluster
            .asked()
            .contains("tail_lines: Some(5), follow: true"),
        "{}",
        cluster.asked()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_passes_input_on_and_exits_with_the_commands_code() {
    let cluster = Scripted::default().start(None).await;
    let words = [
        "task", "exec", "-i", "-e", "A=1", "-w", "/tmp", "web.b", "--", "cat", "-n",
    ];
    let ran = cluster.mezzo_with(&words, "hello").await;
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(42), "hello", "started\n")
    );
    let asked = cluster.asked();
    assert!(
        asked.contains("args: [\"cat\", \"-n\"]") && asked.contains("working_dir: \"/tmp\""),
        "{asked}"
    );

    // Without -i the input is closed at once.
    let ran = cluster
        .mezzo_with(&["task", "exec", "web.b", "--", "cat"], "hello")
        .await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(42), ""));

    let ran = cluster
        .mezzo(&["task", "exec", "web.b", "--", "nope"])
        .await;
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(3), "mezzo: no such executable: nope\n")
    );
    let ran = cluster
        .mezzo(&["task", "exec", "-t", "web.b", "--", "sh"])
        .await;
    assert_eq!(ran.code, Some(2), "no terminal here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_the_scheduler_still_has_a_status() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster.mezzo(&["status"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.starts_with("mezzo 9.9 at ")
            && ran.stdout.contains("!! scheduler: cannot reach"),
        "{}",
        ran.stdout
    );
    let ran = cluster.mezzo(&["status", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["problems"][0]["subject"], "scheduler");
}
