//! What sessions leave in the agent, its launcher and the keepers, however they end: by themselves, with their task, when
//! the caller goes away, and when it vanishes in the middle of an answer that it does not read.

use std::{collections::BTreeMap, fs, time::Duration};

use mezzo_api::proto::{
    self, TaskState::TaskRunning, attach_input, exec_input, exec_output::Output,
    node_service_client::NodeServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::bench::{Bench, alive, eventually, task};

type Client = NodeServiceClient<Channel>;

/// The agent, its launcher, and two tasks with a keeper each.
const PROCESSES: usize = 6;

/// An open session of any kind, whose first answer was read if it has one at once. Without it the caller has gone away.
struct Session {
    answers: Answers,
    _input: Option<Input>,
}

enum Answers {
    Exec(Streaming<proto::ExecOutput>),
    Log(Streaming<proto::LogChunk>),
}

/// Keeps what the caller may say open.
#[allow(dead_code, reason = "held")]
enum Input {
    Exec(mpsc::Sender<proto::ExecInput>),
    Attach(mpsc::Sender<proto::AttachInput>),
}

impl Session {
    /// Reads it to its end, however it ends; gives the exit code, if there is one.
    async fn read_to_end(self) -> Option<i32> {
        let mut code = None;
        match self.answers {
            Answers::Exec(mut answers) => {
                while let Ok(Some(answer)) = answers.message().await {
                    if let Some(Output::ExitCode(n)) = answer.output {
                        code = Some(n);
                    }
                }
            }
            Answers::Log(mut chunks) => while let Ok(Some(_)) = chunks.message().await {},
        }
        code
    }
}

async fn exec(client: &mut Client, task: &str, args: &[&str], terminal: bool) -> Session {
    let program = ["/bin/probe"];
    let start = exec_input::Start {
        task_id: task.into(),
        args: program.iter().chain(args).map(|&arg| arg.into()).collect(),
        terminal: terminal.then_some(proto::WindowSize {
            columns: 80,
            rows: 24,
        }),
        ..exec_input::Start::default()
    };
    let (input, inputs) = mpsc::channel(4);
    let first = exec_input::Input::Start(start);
    let first = proto::ExecInput { input: Some(first) };
    input.send(first).await.unwrap();
    let answers = client.exec(ReceiverStream::new(inputs)).await.unwrap();
    Session {
        answers: Answers::Exec(answers.into_inner()),
        _input: Some(Input::Exec(input)),
    }
}

async fn attach(client: &mut Client, task: &str) -> Session {
    let start = attach_input::Start {
        task_id: task.into(),
        terminal: None,
    };
    let (input, inputs) = mpsc::channel(4);
    for said in [
        attach_input::Input::Start(start),
        attach_input::Input::Typed(b"hello\n".into()),
    ] {
        let said = proto::AttachInput { input: Some(said) };
        input.send(said).await.unwrap();
    }
    let chunks = client.attach(ReceiverStream::new(inputs)).await.unwrap();
    let mut chunks = chunks.into_inner();
    chunks.message().await.unwrap().expect("the echo");
    Session {
        answers: Answers::Log(chunks),
        _input: Some(Input::Attach(input)),
    }
}

async fn log(client: &mut Client, task: &str, follow: bool) -> Session {
    let request = proto::ReadLogRequest {
        task_id: task.into(),
        follow,
        ..proto::ReadLogRequest::default()
    };
    let mut chunks = client.read_log(request).await.unwrap().into_inner();
    chunks.message().await.unwrap().expect("the first lines");
    Session {
        answers: Answers::Log(chunks),
        _input: None,
    }
}

/// One of each kind at these tasks: the first has a terminal, the second has written more than a connection takes unread.
/// Each on a connection of its own, or those that are not read would hold up the others.
async fn one_of_each(address: &str, shell: &str, talker: &str) -> (Vec<Session>, Vec<Client>) {
    let mut clients = Vec::new();
    for _ in 0..7 {
        clients.push(Client::connect(address.to_owned()).await.unwrap());
    }
    let [a, b, c, d, e, f, g] = &mut clients[..] else {
        unreachable!()
    };
    let sessions = vec![
        exec(a, talker, &["sleep"], false).await,
        exec(b, talker, &["sleep"], true).await,
        exec(c, talker, &["lines", "1000000"], false).await,
        exec(d, talker, &["lines", "1000000"], true).await,
        attach(e, shell).await,
        log(f, talker, true).await,
        log(g, shell, true).await,
    ];
    (sessions, clients)
}

async fn end_by_themselves(client: &mut Client, talker: &str) {
    for terminal in [false, true] {
        let session = exec(client, talker, &["exit", "3"], terminal).await;
        assert_eq!(session.read_to_end().await, Some(3));
    }
    log(client, talker, false).await.read_to_end().await;
}

/// With a runtime of its own, so that its connections end with it as with a killed client.
async fn vanish(address: String, times: usize) {
    let vanishing = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut open = Vec::new();
        runtime.block_on(async {
            for _ in 0..times {
                open.push(one_of_each(&address, "shell", "talks").await);
            }
        });
        // Before the sessions, which can say nothing any more then.
        drop(runtime);
        drop(open);
    });
    vanishing.await.unwrap();
}

async fn end_with_their_tasks(bench: &Bench, name: &str) {
    let (shell, talker) = (format!("shell-{name}"), format!("talks-{name}"));
    let containers = two_tasks(bench, &shell, &talker).await;
    let (sessions, _clients) = one_of_each(&bench.address(), &shell, &talker).await;
    for task in [&shell, &talker] {
        bench.kill_task(task, Some(0)).await;
        bench.master.end(task).await;
    }
    futures::future::join_all(sessions.into_iter().map(Session::read_to_end)).await;
    eventually("both gone", || !containers.iter().any(|pid| alive(*pid))).await;
}

/// Gives their processes.
async fn two_tasks(bench: &Bench, shell: &str, talker: &str) -> [u32; 2] {
    let mut with_terminal = task(shell, &["cat"]);
    with_terminal.container.as_mut().unwrap().tty = true;
    bench.launch(with_terminal).await;
    bench.launch(task(talker, &["count", "200000"])).await;
    let mut pids = [0; 2];
    for (pid, id) in pids.iter_mut().zip([shell, talker]) {
        let status = bench.master.status(id, TaskRunning).await;
        *pid = status.container.unwrap().pid;
    }
    pids
}

/// How many descriptors each process of the agent has open, by its pid: those below its cgroup, and itself.
fn descriptors(bench: &Bench) -> BTreeMap<u32, usize> {
    let parent = format!("{}/", bench.config.cgroup_parent.clone().unwrap());
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if pid != bench.agent_pid() && !cgroups.contains(&parent) {
            continue;
        }
        // It may have ended meanwhile.
        if let Ok(open) = fs::read_dir(entry.path().join("fd")) {
            found.insert(pid, open.count());
        }
    }
    found
}

/// Memory of the agent that is no file's: KiB.
fn memory_kb(bench: &Bench) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", bench.agent_pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let amount = line.unwrap().trim().trim_end_matches(" kB");
    amount.parse().unwrap()
}

pub(crate) async fn sessions_leave_nothing_in_the_agent_however_they_end(bench: &mut Bench) {
    /// An allocator keeps some of what it had, so this is no narrow bound; but each round has sessions with hundreds of MiB
    /// that nobody reads.
    const MEMORY_KB: u64 = 48 << 10;
    bench.start(1).await;
    two_tasks(bench, "shell", "talks").await;
    let mut client = bench.client().await;
    let (mut before, mut memory) = (BTreeMap::new(), 0);
    for round in 0..3 {
        // The first opens what stays open.
        let times = if round == 0 { 1 } else { 3 };
        for n in 0..times {
            end_by_themselves(&mut client, "talks").await;
            // The caller has had enough, but stays connected for a while.
            let (sessions, clients) = one_of_each(&bench.address(), "shell", "talks").await;
            drop(sessions);
            end_with_their_tasks(bench, &format!("{round}-{n}")).await;
            drop(clients);
        }
        vanish(bench.address(), times).await;
        if round == 0 {
            // What the others are compared with is what stays when all has ended.
            eventually("only the tasks there", || {
                std::thread::sleep(Duration::from_millis(100));
                let last = std::mem::replace(&mut before, descriptors(bench));
                before.len() == PROCESSES && last == before
            })
            .await;
            memory = memory_kb(bench);
            continue;
        }
        let mut more = Vec::new();
        let waiting = async {
            loop {
                let now = descriptors(bench).into_iter();
                more = now.filter(|(pid, n)| before.get(pid) < Some(n)).collect();
                if more.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "round {round}: {more:?} after {before:?}");
        let grown = memory_kb(bench).saturating_sub(memory);
        assert!(grown < MEMORY_KB, "round {round}: {grown} KiB more");
    }
}
