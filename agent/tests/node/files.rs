//! The tests of logs through rotations and time, terminals, and files in and out of a container.

use mezzo_api::proto::{
    self, CopyEntry,
    TaskState::{TaskError, TaskFinished, TaskRunning},
    copy_entry::Kind,
    copy_from_part, copy_to_part,
    exec_input::Input,
    exec_output::Output,
};
use tokio_stream::StreamExt as _;

use crate::bench::{Bench, eventually, said, task};

fn log_of(task: &str, follow: bool) -> proto::ReadLogRequest {
    proto::ReadLogRequest {
        task_id: task.into(),
        stream: proto::LogStream::Stdout.into(),
        follow,
        ..proto::ReadLogRequest::default()
    }
}

pub(crate) async fn a_follower_misses_nothing_through_rotations_and_the_end(bench: &mut Bench) {
    const LINES: usize = 400_000;
    bench.config.log_max_mb = 1;
    bench.config.log_files = 10;
    bench.start(1).await;
    bench
        .launch(task("talks", &["lines", &LINES.to_string()]))
        .await;
    // From before it runs: the log may not be there yet.
    let mut client = bench.client().await;
    let mut chunks = loop {
        match client.read_log(log_of("talks", true)).await {
            Ok(chunks) => break chunks.into_inner(),
            Err(status) => assert_eq!(status.code(), tonic::Code::NotFound, "{status}"),
        }
    };
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(!chunk.gap);
        text.extend(chunk.data);
    }
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), LINES);
    for (n, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {n}"));
    }
    assert_eq!(bench.master.end("talks").await.state(), TaskFinished);
    // It did go through several files, and all of them are read afterwards, too.
    let mut chunks = client
        .read_log(log_of("talks", false))
        .await
        .unwrap()
        .into_inner();
    let mut length = 0;
    while let Some(chunk) = chunks.message().await.unwrap() {
        length += chunk.data.len();
    }
    assert!(length == text.len() && length > 3 << 20, "{length}");
}

pub(crate) async fn a_log_is_read_from_a_time_on(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("stamps", &["stamps"])).await;
    bench.master.status("stamps", TaskRunning).await;
    let mut client = bench.client().await;
    let mut chunks = client
        .read_log(log_of("stamps", true))
        .await
        .unwrap()
        .into_inner();
    let mut text = String::new();
    while !text.contains("late") || !text.ends_with('\n') {
        text += std::str::from_utf8(&chunks.message().await.unwrap().unwrap().data).unwrap();
    }
    let late: u64 = text.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let since = |since_ms| proto::ReadLogRequest {
        since_ms: Some(since_ms),
        ..log_of("stamps", false)
    };
    let mut read = async |request| {
        let mut chunks = client.read_log(request).await.unwrap().into_inner();
        let mut text = Vec::new();
        while let Some(chunk) = chunks.message().await.unwrap() {
            text.extend(chunk.data);
        }
        String::from_utf8(text).unwrap()
    };
    assert_eq!(read(since(0)).await, text);
    assert_eq!(read(since(late - 1500)).await, format!("late {late}\n"));
    assert_eq!(read(since(late + 86_400_000)).await, "");
}

/// It is the keeper that does it: no agent is there when the file has become too old.
pub(crate) async fn a_log_is_put_aside_by_its_age_with_no_agent_there(bench: &mut Bench) {
    bench.config.log_max_age_secs = 1;
    bench.start(1).await;
    // Two lines, six seconds from each other.
    bench.launch(task("stamps", &["stamps"])).await;
    let running = bench.master.status("stamps", TaskRunning).await;
    let container = running.container.unwrap();
    bench.kill_agent().await;
    eventually("both are written", || {
        said(bench, &container, "stdout").contains("late")
    })
    .await;
    let (new, old) = (
        said(bench, &container, "stdout"),
        said(bench, &container, "stdout.1"),
    );
    assert!(
        new.starts_with("late ") && new.lines().count() == 1,
        "{new}"
    );
    assert!(
        old.starts_with("early ") && old.lines().count() == 1,
        "{old}"
    );
    // All of it is read, in its order.
    bench.start(2).await;
    let mut client = bench.client().await;
    let mut chunks = client
        .read_log(log_of("stamps", false))
        .await
        .unwrap()
        .into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(!chunk.gap);
        text.extend(chunk.data);
    }
    assert_eq!(String::from_utf8(text).unwrap(), old + &new);
}

/// CVE-2024-21626: a mistake of the caller, with the name of the field.
pub(crate) async fn a_program_is_executed_in_no_directory_of_a_descriptor(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("host", &["sleep"])).await;
    bench.master.status("host", TaskRunning).await;
    let start = proto::exec_input::Start {
        task_id: "host".into(),
        args: vec!["/bin/probe".into(), "sleep".into()],
        working_dir: "/proc/self/fd/7".into(),
        ..proto::exec_input::Start::default()
    };
    let input = proto::ExecInput {
        input: Some(Input::Start(start)),
    };
    let mut client = bench.client().await;
    let inputs = tokio_stream::iter([input]);
    let refused = client.exec(inputs).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(
        refused
            .message()
            .starts_with("working_dir: \"/proc/self/fd/7\"")
            && refused.message().contains("name a directory of the image"),
        "{refused}"
    );
    let mut wrong = task("wrong", &["sleep"]);
    wrong.container.as_mut().unwrap().working_dir = "/proc/self/fd/7".into();
    bench.launch(wrong).await;
    let end = bench.master.end("wrong").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskError, proto::Reason::TaskInvalid),
        "{}",
        end.message
    );
    assert!(
        end.message.starts_with("container.working_dir: "),
        "{}",
        end.message
    );
}

pub(crate) async fn a_terminal_has_its_size_and_changes_it(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("host", &["sleep"])).await;
    bench.master.status("host", TaskRunning).await;
    let size = |columns, rows| proto::WindowSize { columns, rows };
    let start = proto::exec_input::Start {
        task_id: "host".into(),
        args: vec!["/bin/probe".into(), "size".into()],
        terminal: Some(size(81, 25)),
        ..proto::exec_input::Start::default()
    };
    let (sender, inputs) = tokio::sync::mpsc::channel(4);
    let input = |input| proto::ExecInput { input: Some(input) };
    sender.send(input(Input::Start(start))).await.unwrap();
    let inputs = tokio_stream::wrappers::ReceiverStream::new(inputs);
    let mut client = bench.client().await;
    let mut answers = client.exec(inputs).await.unwrap().into_inner();
    let (mut text, mut resized, mut code) = (String::new(), false, None);
    while let Some(answer) = answers.next().await {
        match answer.unwrap().output.unwrap() {
            Output::Stdout(data) | Output::Stderr(data) => {
                text += std::str::from_utf8(&data).unwrap();
            }
            Output::ExitCode(n) => code = Some(n),
        }
        if text.contains("81x25") && !resized {
            resized = true;
            sender
                .send(input(Input::Resize(size(120, 40))))
                .await
                .unwrap();
        }
    }
    assert!(text.contains("120x40"), "{text}");
    assert_eq!(code, Some(3));
}

pub(crate) fn data(bytes: &[u8]) -> copy_to_part::Part {
    copy_to_part::Part::Data(bytes.to_vec())
}

pub(crate) fn entry(path: &str, kind: Kind) -> copy_to_part::Part {
    copy_to_part::Part::Entry(CopyEntry {
        path: path.into(),
        mode: 0o640,
        modified_secs: 1_000_000,
        kind: Some(kind),
    })
}

pub(crate) async fn copy_to(
    bench: &Bench,
    task: &str,
    path: &str,
    parts: Vec<copy_to_part::Part>,
) -> Result<proto::Copied, tonic::Status> {
    let start = copy_to_part::Part::Start(copy_to_part::Start {
        task_id: task.into(),
        path: path.into(),
    });
    let parts = std::iter::once(start)
        .chain(parts)
        .map(|part| proto::CopyToPart { part: Some(part) })
        .collect::<Vec<_>>();
    let answer = bench
        .client()
        .await
        .copy_to(tokio_stream::iter(parts))
        .await;
    answer.map(tonic::Response::into_inner)
}

/// Paths and contents of files, and the summary.
async fn copy_from(
    bench: &Bench,
    task: &str,
    path: &str,
) -> Result<(Vec<(String, Vec<u8>)>, proto::Copied), tonic::Status> {
    let request = proto::CopyFromRequest {
        task_id: task.into(),
        path: path.into(),
    };
    let mut parts = bench.client().await.copy_from(request).await?.into_inner();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(part) = parts.message().await? {
        match part.part.unwrap() {
            copy_from_part::Part::Entry(entry) => {
                files.push((String::from_utf8(entry.path).unwrap(), Vec::new()));
            }
            copy_from_part::Part::Data(data) => files.last_mut().unwrap().1.extend(data),
            copy_from_part::Part::End(end) => return Ok((files, end)),
        }
    }
    panic!("no end");
}

pub(crate) async fn files_go_in_and_come_out_and_no_link_leads_out(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("host", &["sleep"])).await;
    bench.master.status("host", TaskRunning).await;
    let big = vec![7_u8; 300_000];
    let mut parts = vec![
        entry("tree", Kind::Directory(true)),
        entry("tree/big", Kind::FileSize(big.len() as u64)),
    ];
    parts.extend(
        big.chunks(50_000)
            .map(|data| copy_to_part::Part::Data(data.to_vec())),
    );
    parts.push(entry("tree/out", Kind::LinkTarget(b"/".to_vec())));
    parts.push(entry(
        "tree/proc",
        Kind::LinkTarget(b"/proc/1/root".to_vec()),
    ));
    let copied = copy_to(bench, "host", "/", parts).await.unwrap();
    assert_eq!((copied.entries, copied.bytes), (4, 300_000));
    let (files, end) = copy_from(bench, "host", "/tree").await.unwrap();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tree", "tree/big", "tree/out", "tree/proc"]);
    assert!(files[1].1 == big && end.entries == 4);
    // Through the link it is the container's root: the machine has this file, the image has not.
    assert!(std::path::Path::new("/etc/passwd").exists());
    for path in ["/tree/out/etc/passwd", "/tree/out/../../../etc/passwd"] {
        let error = copy_from(bench, "host", path).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound, "{path}: {error}");
    }
    let (files, _) = copy_from(bench, "host", "/tree/out/tree/big")
        .await
        .unwrap();
    assert_eq!(files[0].1.len(), 300_000);
    // Links that only the kernel can follow are not followed at all.
    for path in [
        "/tree/proc/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/1/cwd/x",
    ] {
        assert!(copy_from(bench, "host", path).await.is_err(), "{path}");
    }
    let error = copy_to(
        bench,
        "host",
        "/tree/proc/",
        vec![entry("x", Kind::FileSize(0))],
    )
    .await
    .unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
    // The whole root ends, without what is mounted in it.
    let (files, end) = copy_from(bench, "host", "/").await.unwrap();
    assert!(
        files.iter().any(|(name, _)| name == "bin/probe"),
        "{files:?}"
    );
    assert!(end.left_out > 0 && !files.iter().any(|(name, _)| name.starts_with("proc/")));
    // Into a volume, which is shown with the container's own user numbers: there the machine's root is nobody.
    let into = "/mnt/mezzo/sandbox";
    let parts = vec![
        entry("dir", Kind::Directory(true)),
        entry("dir/file", Kind::FileSize(2)),
        copy_to_part::Part::Data(b"hi".to_vec()),
        entry("dir/link", Kind::LinkTarget(b"file".to_vec())),
    ];
    copy_to(bench, "host", into, parts).await.unwrap();
    let (files, _) = copy_from(bench, "host", &format!("{into}/dir/file"))
        .await
        .unwrap();
    assert_eq!(files, [("file".to_owned(), b"hi".to_vec())]);
    // A caller that breaks off leaves nothing half made.
    let broken = vec![
        entry("half", Kind::FileSize(10)),
        copy_to_part::Part::Data(vec![1; 5]),
    ];
    let error = copy_to(bench, "host", "/tree", broken).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    let evil = vec![entry("../../evil", Kind::FileSize(0))];
    let error = copy_to(bench, "host", "/tree", evil).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    let (files, _) = copy_from(bench, "host", "/tree/.").await.unwrap();
    assert_eq!(
        files.len(),
        4,
        "{:?}",
        files.iter().map(|(n, _)| n).collect::<Vec<_>>()
    );
    let error = copy_from(bench, "host", "/none").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    bench.kill_task("host", None).await;
    bench.master.end("host").await;
    let error = copy_from(bench, "host", "/tree").await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
}
