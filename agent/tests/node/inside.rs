//! The tests that reach into a running task: its output, programs beside it, messages to it.

use mezzo_api::proto::{
    self,
    TaskState::{TaskFailed, TaskRunning},
    exec_input::Input,
    exec_output::Output,
    master_message::{Message as FromMaster, TaskMessage},
    node_service_client::NodeServiceClient,
};
use tokio_stream::StreamExt as _;

use crate::bench::{Bench, FRAMEWORK, eventually, processes_of, said, task};

pub(crate) async fn logs_are_read_and_followed(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("talks", &["count", "1000"])).await;
    bench.master.status("talks", TaskRunning).await;
    let mut client = bench.client().await;
    let request = proto::ReadLogRequest {
        task_id: "talks".into(),
        stream: proto::LogStream::Unspecified.into(),
        follow: true,
        ..proto::ReadLogRequest::default()
    };
    let mut chunks = client.read_log(request.clone()).await.unwrap().into_inner();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while !(out.ends_with(b"line 999\n") && err.ends_with(b"to stderr\n")) {
        let chunk = chunks.message().await.unwrap().expect("more is to come");
        match chunk.stream() {
            proto::LogStream::Stderr => err.extend(chunk.data),
            proto::LogStream::Stdout | proto::LogStream::Unspecified => out.extend(chunk.data),
        }
    }
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1000);
    let tail = proto::ReadLogRequest {
        stream: proto::LogStream::Stdout.into(),
        tail_lines: Some(2),
        follow: false,
        ..request.clone()
    };
    let mut chunks = client.read_log(tail).await.unwrap().into_inner();
    assert_eq!(
        chunks.message().await.unwrap().unwrap().data,
        b"line 998\nline 999\n"
    );
    assert!(chunks.message().await.unwrap().is_none());
    let mut following = client.read_log(request.clone()).await.unwrap().into_inner();
    bench.kill_task("talks", None).await;
    while following.message().await.unwrap().is_some() {}
    let missing = proto::ReadLogRequest {
        task_id: "nobody".into(),
        ..request
    };
    assert_eq!(
        client.read_log(missing).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
}

async fn exec(
    bench: &Bench,
    task: &str,
    args: &[&str],
    stdin: &[u8],
    terminal: bool,
) -> (Vec<u8>, Option<i32>) {
    let start = proto::exec_input::Start {
        task_id: task.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec![proto::EnvVar {
            name: "EXTRA".into(),
            value: "given".into(),
        }],
        terminal: terminal.then_some(proto::WindowSize {
            columns: 80,
            rows: 24,
        }),
        ..proto::exec_input::Start::default()
    };
    let inputs = [
        Input::Start(start),
        Input::Stdin(stdin.to_vec()),
        Input::CloseStdin(true),
    ];
    let inputs = inputs.map(|input| proto::ExecInput { input: Some(input) });
    let answers = bench
        .client()
        .await
        .exec(tokio_stream::iter(inputs))
        .await
        .unwrap()
        .into_inner();
    let (mut out, mut code) = (Vec::new(), None);
    tokio::pin!(answers);
    while let Some(answer) = answers.next().await {
        match answer.unwrap().output {
            Some(Output::Stdout(data) | Output::Stderr(data)) => out.extend(data),
            Some(Output::ExitCode(n)) => code = Some(n),
            None => {}
        }
    }
    (out, code)
}

pub(crate) async fn programs_run_beside_a_task(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("host", &["sleep"])).await;
    bench.master.status("host", TaskRunning).await;
    let (out, code) = exec(bench, "host", &["/bin/probe", "cat"], b"hello", false).await;
    assert_eq!((out.as_slice(), code), (&b"hello"[..], Some(7)));
    let (out, code) = exec(bench, "host", &["/bin/probe", "env"], b"", true).await;
    let out = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(code, Some(0), "{out}");
    assert!(
        out.contains("EXTRA=given") && out.contains("MEZZO_TASK_ID=host"),
        "{out}"
    );
    let start = proto::exec_input::Start {
        task_id: "host".into(),
        args: vec!["/nowhere".into()],
        ..proto::exec_input::Start::default()
    };
    let input = proto::ExecInput {
        input: Some(Input::Start(start)),
    };
    let error = bench
        .client()
        .await
        .exec(tokio_stream::iter([input]))
        .await
        .unwrap_err();
    assert!(error.message().contains("/nowhere"), "{error}");
    // A caller that goes away takes its program along.
    let address = bench.address();
    let (leave, left) = tokio::sync::oneshot::channel::<()>();
    let caller = std::thread::spawn(move || {
        // A runtime of its own, so that the connection ends with it as with a killed client.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let start = proto::exec_input::Start {
                task_id: "host".into(),
                args: vec!["/bin/probe".into(), "sleep".into()],
                ..proto::exec_input::Start::default()
            };
            let input = proto::ExecInput {
                input: Some(Input::Start(start)),
            };
            let endless = tokio_stream::iter([input]).chain(tokio_stream::pending());
            let mut client = NodeServiceClient::connect(address).await.unwrap();
            let _answers = client.exec(endless).await.unwrap();
            let _ = left.await;
        });
    });
    let parent = bench.config.cgroup_parent.clone().unwrap();
    eventually("two programs", || processes_of(&parent).len() == 2).await;
    leave.send(()).unwrap();
    eventually("one program", || processes_of(&parent).len() == 1).await;
    caller.join().unwrap();
}

/// What is typed by whoever is attached, also to an agent that came later; its output is the log of standard output.
pub(crate) async fn a_tasks_terminal_is_typed_on(bench: &mut Bench) {
    use proto::attach_input::{Input as Typed, Start};
    bench.start(1).await;
    for (id, tty) in [("shell", true), ("plain", false)] {
        let mut task = task(id, &["cat"]);
        task.container.as_mut().unwrap().tty = tty;
        bench.launch(task).await;
    }
    let container = bench.master.status("shell", TaskRunning).await.container;
    let attach = async |bench: &Bench, id: &str, typed: &str| {
        let size = proto::WindowSize {
            columns: 90,
            rows: 30,
        };
        let start = Start {
            task_id: id.into(),
            terminal: Some(size),
        };
        let inputs = [Typed::Start(start), Typed::Typed(typed.into())];
        let inputs = inputs.map(|input| proto::AttachInput { input: Some(input) });
        let open = tokio_stream::iter(inputs).chain(tokio_stream::pending());
        bench.client().await.attach(open).await
    };
    // `cat` with nothing to read ends; that of a terminal waits.
    assert_eq!(bench.master.end("plain").await.state(), TaskFailed);
    let refused = attach(bench, "plain", "").await.unwrap_err();
    assert!(refused.message().contains("has ended"), "{refused}");
    let mut dark = task("dark", &["sleep"]);
    dark.container.as_mut().unwrap().tty = false;
    bench.launch(dark).await;
    bench.master.status("dark", TaskRunning).await;
    let refused = attach(bench, "dark", "").await.unwrap_err();
    assert!(refused.message().contains("\"tty\": true"), "{refused}");

    let mut seen = Vec::new();
    let mut first = attach(bench, "shell", "one\n").await.unwrap().into_inner();
    while !seen.ends_with(b"one\r\none\r\n") {
        seen.extend(first.message().await.unwrap().unwrap().data);
    }
    drop(first);
    bench.kill_agent().await;
    bench.start(2).await;
    // Only what is written from now on, to its end.
    let mut second = attach(bench, "shell", "two\n\x04")
        .await
        .unwrap()
        .into_inner();
    seen.clear();
    while let Some(chunk) = second.message().await.unwrap() {
        seen.extend(chunk.data);
    }
    assert_eq!(String::from_utf8_lossy(&seen), "two\r\ntwo\r\n");
    let end = bench.master.end("shell").await;
    assert_eq!(
        end.exit.and_then(|exit| exit.how),
        Some(proto::exit_info::How::Code(7)),
        "{}",
        end.message
    );
    let log = said(bench, &container.unwrap(), "stdout");
    assert_eq!(log, "one\r\none\r\ntwo\r\ntwo\r\n");
}

pub(crate) async fn a_message_reaches_a_task(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("listens", &["receive"])).await;
    let container = bench
        .master
        .status("listens", TaskRunning)
        .await
        .container
        .unwrap();
    let socket = bench
        .container_dir(&container.container_id)
        .join("sandbox/messages.sock");
    eventually("bound", || socket.exists()).await;
    let message = TaskMessage {
        framework_id: FRAMEWORK.into(),
        task_id: "listens".into(),
        data: b"hello".to_vec(),
    };
    bench.master.send(FromMaster::TaskMessage(message)).await;
    let end = bench.master.end("listens").await;
    assert_eq!(
        end.exit.and_then(|exit| exit.how),
        Some(proto::exit_info::How::Code(5)),
        "{}",
        end.message
    );
}
