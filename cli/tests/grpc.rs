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

#[path = "grpc/figures.rs"]
mod figures;
#[path = "grpc/files.rs"]
mod files;
#[path = "grpc/nodes.rs"]
mod nodes;
#[path = "grpc/operating.rs"]
mod operating;
#[path = "grpc/sharing.rs"]
mod sharing;

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
        info: Some(proto::TaskInfo {
            task_id: id.into(),
            agent_id: "agent-1".into(),
            ..Default::default()
        }),
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

#[tonic::async_trait]
impl OperatorService for Scripted {
    async fn get_cluster(&self, _: Request<proto::GetClusterRequest>) -> Answer<proto::Cluster> {
        Ok(Response::new(proto::Cluster {
            version: "9.9".into(),
            agents_connected: 1,
            ..Default::default()
        }))
    }

    async fn list_agents(
        &self,
        _: Request<proto::ListAgentsRequest>,
    ) -> Answer<proto::ListAgentsResponse> {
        let here = self.address.lock().unwrap().clone();
        let agents = vec![agent(self.node_elsewhere.clone().unwrap_or(here))];
        Ok(Response::new(proto::ListAgentsResponse {
            agents,
            ..Default::default()
        }))
    }

    async fn get_agent(&self, request: Request<proto::GetAgentRequest>) -> Answer<proto::Agent> {
        match request.into_inner().agent.as_str() {
            "n1" => Ok(Response::new(agent(self.address.lock().unwrap().clone()))),
            other => Err(Status::not_found(format!("no agent `{other}`"))),
        }
    }

    async fn list_frameworks(
        &self,
        _: Request<proto::ListFrameworksRequest>,
    ) -> Answer<proto::ListFrameworksResponse> {
        let info = |id: &str, name: &str| proto::FrameworkInfo {
            framework_id: id.into(),
            name: name.into(),
            ..Default::default()
        };
        let framework = |id, name| proto::Framework {
            info: Some(info(id, name)),
            connected: true,
            tasks: 3,
            ..Default::default()
        };
        let frameworks = vec![
            framework("framework-1", "marathon"),
            framework("framework-2", "batch"),
        ];
        Ok(Response::new(proto::ListFrameworksResponse {
            frameworks,
            ..Default::default()
        }))
    }

    /// Two pages, to see that both are read.
    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Answer<proto::ListTasksResponse> {
        use proto::TaskState::{TaskFailed, TaskRunning};
        let request = request.into_inner();
        let (tasks, next_page_token) = match (request.page_token.as_str(), request.include_ended) {
            ("", _) => (
                vec![task("sleep.instance-a1._app.1", TaskRunning, "")],
                "2".to_owned(),
            ),
            (_, false) => (
                vec![
                    task("sleep.instance-a2._app.1", TaskRunning, ""),
                    task("web.b", TaskRunning, ""),
                ],
                String::new(),
            ),
            (_, true) => (
                vec![
                    task("sleep.instance-a2._app.1", TaskRunning, ""),
                    task("web.b", TaskRunning, ""),
                    task("web.c", TaskFailed, "\u{1b}[2Jexit code 7"),
                ],
                String::new(),
            ),
        };
        Ok(Response::new(proto::ListTasksResponse {
            tasks,
            next_page_token,
            ..proto::ListTasksResponse::default()
        }))
    }

    async fn list_roles(
        &self,
        _: Request<proto::ListRolesRequest>,
    ) -> Answer<proto::ListRolesResponse> {
        Ok(Response::new(proto::ListRolesResponse::default()))
    }

    async fn update_weights(
        &self,
        request: Request<proto::UpdateWeightsRequest>,
    ) -> Answer<proto::UpdateWeightsResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::UpdateWeightsResponse {}))
    }

    async fn update_quotas(
        &self,
        request: Request<proto::UpdateQuotasRequest>,
    ) -> Answer<proto::UpdateQuotasResponse> {
        let request = request.into_inner();
        if !request.force && request.quotas.iter().any(|quota| quota.role == "greedy") {
            return Err(Status::failed_precondition(
                "the quotas cannot be set: too much; ask with force to have it nevertheless",
            ));
        }
        self.note(request);
        Ok(Response::new(proto::UpdateQuotasResponse {}))
    }

    async fn explain_framework(
        &self,
        request: Request<proto::ExplainFrameworkRequest>,
    ) -> Answer<proto::ExplainFrameworkResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ExplainFrameworkResponse {
            connected: true,
            roles: vec![proto::RoleExplanation {
                role: "*".into(),
                reasons: vec!["3 of 4 agents it has declined".into()],
                ..proto::RoleExplanation::default()
            }],
        }))
    }

    async fn kill_task(
        &self,
        request: Request<proto::KillTaskRequest>,
    ) -> Answer<proto::KillTaskResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::KillTaskResponse {}))
    }

    async fn teardown_framework(
        &self,
        request: Request<proto::TeardownFrameworkRequest>,
    ) -> Answer<proto::TeardownFrameworkResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::TeardownFrameworkResponse {}))
    }

    async fn remove_agent(
        &self,
        request: Request<proto::RemoveAgentRequest>,
    ) -> Answer<proto::RemoveAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::RemoveAgentResponse {}))
    }

    async fn drain_agent(
        &self,
        request: Request<proto::DrainAgentRequest>,
    ) -> Answer<proto::DrainAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::DrainAgentResponse {}))
    }

    async fn activate_agent(
        &self,
        request: Request<proto::ActivateAgentRequest>,
    ) -> Answer<proto::ActivateAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ActivateAgentResponse {}))
    }

    type WatchEventsStream = Stream_<proto::OperatorEvent>;

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        self.note(request.into_inner());
        Ok(Response::new(Box::pin(operating::events())))
    }

    type BackupStream = Stream_<proto::BackupChunk>;

    async fn backup(&self, _: Request<proto::BackupRequest>) -> Answer<Self::BackupStream> {
        Err(Status::unimplemented("no backup here"))
    }

    async fn schedule_maintenance(
        &self,
        request: Request<proto::ScheduleMaintenanceRequest>,
    ) -> Answer<proto::ScheduleMaintenanceResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ScheduleMaintenanceResponse {}))
    }

    async fn cancel_maintenance(
        &self,
        request: Request<proto::CancelMaintenanceRequest>,
    ) -> Answer<proto::CancelMaintenanceResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::CancelMaintenanceResponse {}))
    }

    async fn list_maintenance(
        &self,
        _: Request<proto::ListMaintenanceRequest>,
    ) -> Answer<proto::ListMaintenanceResponse> {
        Ok(Response::new(proto::ListMaintenanceResponse::default()))
    }

    async fn change_pools(
        &self,
        request: Request<proto::ChangePoolsRequest>,
    ) -> Answer<proto::ChangePoolsResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ChangePoolsResponse {}))
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Answer<proto::ListVolumesResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ListVolumesResponse::default()))
    }
}

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl NodeService for Scripted {
    type ReadLogStream = Stream_<proto::LogChunk>;
    type WatchStatsStream = Stream_<proto::StatsRound>;
    type CopyFromStream = Stream_<proto::CopyFromPart>;
    type ExecStream = Stream_<proto::ExecOutput>;

    async fn get_node(&self, _: Request<proto::GetNodeRequest>) -> Answer<proto::Node> {
        Err(Status::unimplemented(""))
    }

    async fn get_usage(
        &self,
        request: Request<proto::GetUsageRequest>,
    ) -> Answer<proto::GetUsageResponse> {
        let tasks = request.into_inner().task_ids.into_iter();
        let tasks = tasks.map(|task_id| proto::TaskUsage {
            task_id,
            usage: Some(usage()),
            ..Default::default()
        });
        Ok(Response::new(proto::GetUsageResponse {
            tasks: tasks.collect(),
        }))
    }

    async fn get_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<proto::StatsRound> {
        self.note(request.into_inner());
        Ok(Response::new(round(1)))
    }

    /// Three rounds, and then nothing more.
    async fn watch_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Answer<Self::WatchStatsStream> {
        self.note(request.into_inner());
        let rounds = stream::iter((1..4).map(|n| Ok(round(n))));
        Ok(Response::new(Box::pin(rounds.chain(stream::pending()))))
    }

    /// What a hostile container would like to write here.
    async fn copy_from(
        &self,
        request: Request<proto::CopyFromRequest>,
    ) -> Answer<Self::CopyFromStream> {
        use proto::{copy_entry::Kind, copy_from_part::Part};
        let path = request.into_inner().path;
        let entry = |path: &[u8], kind| {
            Part::Entry(proto::CopyEntry {
                path: path.to_vec(),
                mode: 0o4755,
                modified_secs: 1,
                kind: Some(kind),
            })
        };
        let end = Part::End(proto::Copied {
            left_out: 1,
            ..Default::default()
        });
        let data = Part::Data(b"hello".to_vec());
        let parts = match path.as_slice() {
            b"/up" => vec![entry(b"../evil", Kind::FileSize(5)), data, end],
            b"/door" => vec![
                entry(b"door", Kind::LinkTarget(b"..".to_vec())),
                entry(b"door/evil", Kind::FileSize(5)),
                data,
                end,
            ],
            b"/short" => vec![entry(b"short", Kind::FileSize(9)), data, end],
            b"/none" => return Err(Status::not_found("/none: no such file or directory")),
            _ => vec![entry(b"file", Kind::FileSize(5)), data, end],
        };
        let parts = parts
            .into_iter()
            .map(|part| Ok(proto::CopyFromPart { part: Some(part) }));
        Ok(Response::new(Box::pin(stream::iter(
            parts.collect::<Vec<_>>(),
        ))))
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<proto::CopyToPart>>,
    ) -> Answer<proto::Copied> {
        let mut parts = request.into_inner();
        let mut entries = 0;
        while let Some(part) = parts.message().await? {
            entries += u64::from(matches!(
                part.part,
                Some(proto::copy_to_part::Part::Entry(_))
            ));
            self.note(&part);
        }
        Ok(Response::new(proto::Copied {
            entries,
            ..Default::default()
        }))
    }

    async fn update_task(
        &self,
        request: Request<proto::UpdateTaskRequest>,
    ) -> Answer<proto::UpdateTaskResponse> {
        let request = request.into_inner();
        self.note(&request);
        if request.memory_limit_mb == Some(1) {
            return Err(Status::invalid_argument("memory_limit_mb: too little"));
        }
        let limits = proto::TaskLimits {
            memory_high_mb: request.memory_high_mb,
            io_max: request.io_max,
            ..Default::default()
        };
        let info = proto::TaskInfo {
            task_id: request.task_id,
            pids_limit: request.pids_limit,
            limits: Some(limits),
            ..Default::default()
        };
        Ok(Response::new(proto::UpdateTaskResponse {
            task: Some(proto::Task {
                info: Some(info),
                ..Default::default()
            }),
        }))
    }

    async fn read_log(
        &self,
        request: Request<proto::ReadLogRequest>,
    ) -> Answer<Self::ReadLogStream> {
        self.note(request.into_inner());
        let chunk = |stream: proto::LogStream, data: &str| {
            Ok(proto::LogChunk {
                stream: stream.into(),
                data: data.into(),
                gap: false,
            })
        };
        let chunks = [
            chunk(proto::LogStream::Stdout, "out 1\n"),
            chunk(proto::LogStream::Stderr, "err\n"),
            chunk(proto::LogStream::Stdout, "out 2\n"),
        ];
        Ok(Response::new(Box::pin(stream::iter(chunks))))
    }

    /// Tells what it was started with, repeats its input, and ends with code 42.
    async fn exec(
        &self,
        request: Request<Streaming<proto::ExecInput>>,
    ) -> Answer<Self::ExecStream> {
        let asked = self.clone();
        let output = |output| {
            Ok(proto::ExecOutput {
                output: Some(output),
            })
        };
        let echo = request.into_inner().map(move |message| {
            asked.note(&message);
            match message?.input {
                Some(proto::exec_input::Input::Start(start)) if start.args == ["nope"] => {
                    Err(Status::not_found("no such executable: nope"))
                }
                Some(proto::exec_input::Input::Stdin(bytes)) => {
                    output(proto::exec_output::Output::Stdout(bytes))
                }
                Some(proto::exec_input::Input::CloseStdin(_)) => {
                    output(proto::exec_output::Output::ExitCode(42))
                }
                _ => output(proto::exec_output::Output::Stderr(b"started\n".to_vec())),
            }
        });
        Ok(Response::new(Box::pin(echo)))
    }
}

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
