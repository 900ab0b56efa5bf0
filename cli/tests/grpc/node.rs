//! What the scripted node answers.

use super::*;

#[tonic::async_trait]
impl NodeService for Scripted {
    type ReadLogStream = Stream_<proto::LogChunk>;
    type WatchStatsStream = Stream_<proto::StatsRound>;
    type CopyFromStream = Stream_<proto::CopyFromPart>;
    type ExecStream = Stream_<proto::ExecOutput>;
    type AttachStream = Stream_<proto::LogChunk>;

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
                info: Some(Box::new(info)),
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

    /// A terminal that repeats what is typed, tells each size, and ends when a `q` comes.
    async fn attach(
        &self,
        request: Request<Streaming<proto::AttachInput>>,
    ) -> Answer<Self::AttachStream> {
        let asked = self.clone();
        let chunk = |data: Vec<u8>| {
            Ok(proto::LogChunk {
                stream: proto::LogStream::Stdout.into(),
                data,
                gap: false,
            })
        };
        let told = move |size: proto::WindowSize| {
            chunk(format!("size {}x{}\r\n", size.columns, size.rows).into())
        };
        let answer = move |message: Result<proto::AttachInput, Status>| {
            use proto::attach_input::Input;
            asked.note(&message);
            Some(match message.ok()?.input? {
                Input::Start(start) => start.terminal.map_or_else(|| chunk(Vec::new()), told),
                Input::Resize(size) => told(size),
                Input::Typed(bytes) if bytes == b"q" => return None,
                Input::Typed(bytes) => chunk(bytes),
            })
        };
        let echo = request
            .into_inner()
            .scan((), move |(), message| std::future::ready(answer(message)));
        Ok(Response::new(Box::pin(echo)))
    }

    /// Repeats its input, and ends with code 42. On a terminal it tells each size, and ends when a `q` comes.
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
        let told = move |size: proto::WindowSize| {
            let text = format!("size {}x{}\r\n", size.columns, size.rows);
            output(proto::exec_output::Output::Stdout(text.into()))
        };
        let echo = request.into_inner().map(move |message| {
            asked.note(&message);
            match message?.input {
                Some(proto::exec_input::Input::Start(start)) if start.args == ["nope"] => {
                    Err(Status::not_found("no such executable: nope"))
                }
                Some(proto::exec_input::Input::Start(proto::exec_input::Start {
                    terminal: Some(size),
                    ..
                })) => told(size),
                Some(proto::exec_input::Input::Resize(size)) => told(size),
                Some(proto::exec_input::Input::Stdin(bytes)) if bytes == b"q" => {
                    output(proto::exec_output::Output::ExitCode(42))
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
