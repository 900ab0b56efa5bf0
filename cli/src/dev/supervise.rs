//! Keeps the three servers running: starts each, drains its output into its log, starts it again when it ends.
//!
//! One task per server. Back-off doubles from a quarter of a second to four seconds and begins anew after five seconds
//! of life. Stopping is SIGTERM, then SIGKILL after a grace period (or at once after [`stop_hard`]).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    log::Log,
    plan::{Plan, Server},
};
use crate::{failure::Failure, output::say};

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(4);
/// Who lives this long is well again.
const WELL: Duration = Duration::from_secs(5);
/// Between SIGTERM and SIGKILL; of servers that give up earlier by themselves and say why.
const GRACE: Duration = Duration::from_secs(30);
/// The same for the agent, beyond the time that it gives itself to end its tasks. Whoever does not want to wait interrupts again.
const AGENT_GRACE: Duration = Duration::from_secs(630);
/// For the rest of the output of a server that has ended; its own children may keep the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(300);

static HARD: AtomicBool = AtomicBool::new(false);

/// From now on stopping means SIGKILL.
pub(crate) fn stop_hard() {
    HARD.store(true, Ordering::Relaxed);
}

/// What happens to servers.
#[derive(Debug)]
pub(crate) enum Event {
    Started { server: Server, pid: u32 },
    Ended(Ended),
}

/// A server ended without being told to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) server: Server,
    pub(crate) pid: u32,
    /// For people: `exit code 1`, `signal 9`.
    pub(crate) how: String,
    /// Absent: a signal, or it could not be started.
    pub(crate) exit_code: Option<i32>,
    pub(crate) lived: Duration,
    pub(crate) restart_in: Duration,
}

/// The three tasks.
#[derive(Debug)]
pub(crate) struct Supervisor {
    logs: BTreeMap<Server, Arc<Mutex<Log>>>,
    running: BTreeMap<Server, (CancellationToken, JoinHandle<Option<String>>)>,
}

impl Supervisor {
    /// Starts all servers.
    pub(crate) fn new(
        plan: &Plan,
        state_dir: &Path,
        events: mpsc::Sender<Event>,
        verbose: bool,
    ) -> Result<Self, Failure> {
        let dir = state_dir.join("log");
        let wrong = |path: &Path, error: &std::io::Error| {
            Failure::failed(format!("cannot write logs to {}: {error}", path.display()))
        };
        fs::create_dir_all(&dir).map_err(|error| wrong(&dir, &error))?;
        let mut supervisor = Self {
            logs: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        for server in Server::ALL {
            let path = dir.join(format!("{}.log", server.name()));
            let log = Arc::new(Mutex::new(
                Log::open(&path).map_err(|error| wrong(&path, &error))?,
            ));
            supervisor.logs.insert(server, Arc::clone(&log));
            let stop = CancellationToken::new();
            let keeper = Keeper {
                server,
                words: plan.words(server, std::process::id()),
                log,
                verbose,
                events: events.clone(),
                stop: stop.clone(),
            };
            supervisor
                .running
                .insert(server, (stop, tokio::spawn(keeper.run())));
        }
        Ok(supervisor)
    }

    /// Ends a server for good. Returns how it ended if that was not well.
    pub(crate) async fn stop(&mut self, server: Server) -> Option<String> {
        let (stop, task) = self.running.remove(&server)?;
        stop.cancel();
        task.await.unwrap_or_else(|error| Some(error.to_string()))
    }

    /// What a server said last, as the end of a message: why it ended if it said so, else its last lines.
    pub(crate) fn last_words(&self, server: Server) -> String {
        let Some(log) = self.logs.get(&server) else {
            return String::new();
        };
        let log = lock(log);
        let reasons: Vec<&str> = log
            .last_lines()
            .filter_map(|line| line.strip_prefix("mezzo: "))
            .collect();
        if let Some(reason) = reasons.last() {
            let name = format!("{}: ", server.name());
            return format!(": {}", reason.strip_prefix(&name).unwrap_or(reason));
        }
        let lines = log
            .last_lines()
            .map(|line| format!("\n  {}: {line}", server.name()));
        lines.collect()
    }

    /// What all of them said last.
    pub(crate) fn tails(&self) -> String {
        Server::ALL.map(|server| self.last_words(server)).concat()
    }

    pub(crate) fn log_path(&self, server: Server) -> PathBuf {
        self.logs
            .get(&server)
            .map(|log| lock(log).path().to_owned())
            .unwrap_or_default()
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Supervises one server.
struct Keeper {
    server: Server,
    words: Vec<String>,
    log: Arc<Mutex<Log>>,
    verbose: bool,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
}

impl Keeper {
    async fn run(self) -> Option<String> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let begin = Instant::now();
            let (pid, how, exit_code) = match self.start() {
                Ok(mut child) => {
                    let pid = child.id().unwrap_or_default();
                    // The session may be over; then nobody listens.
                    let _ = self
                        .events
                        .send(Event::Started {
                            server: self.server,
                            pid,
                        })
                        .await;
                    let readers = self.read_output(&mut child);
                    let ended = tokio::select! {
                        ended = child.wait() => ended,
                        () = self.stop.cancelled() => {
                            let ended = self.end(&mut child).await;
                            drain(readers).await;
                            return ended;
                        }
                    };
                    drain(readers).await;
                    match ended {
                        Ok(status) => (pid, how(status), status.code()),
                        Err(error) => (pid, error.to_string(), None),
                    }
                }
                Err(error) => (0, format!("not being started at all: {error}"), None),
            };
            let lived = begin.elapsed();
            if lived >= WELL {
                backoff = FIRST_BACKOFF;
            }
            let ended = Ended {
                server: self.server,
                pid,
                how,
                exit_code,
                lived,
                restart_in: backoff,
            };
            let _ = self.events.send(Event::Ended(ended)).await;
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.stop.cancelled() => return None,
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn start(&self) -> std::io::Result<Child> {
        lock(&self.log).begin();
        // Not by its path: the binary may have been replaced while we run, and all four must be the same program.
        Command::new("/proc/self/exe")
            .arg0("mezzo")
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on the terminal is for us alone: we stop them in order.
            .process_group(0)
            .env_remove("MEZZO_MASTER")
            .env_remove("MEZZO_SCHEDULER")
            .kill_on_drop(true)
            .spawn()
    }

    fn read_output(&self, child: &mut Child) -> Vec<JoinHandle<()>> {
        let stdout = child
            .stdout
            .take()
            .map(|pipe| tokio::spawn(self.reader().read(pipe)));
        let stderr = child
            .stderr
            .take()
            .map(|pipe| tokio::spawn(self.reader().read(pipe)));
        stdout.into_iter().chain(stderr).collect()
    }

    fn reader(&self) -> Reader {
        Reader {
            server: self.server,
            log: Arc::clone(&self.log),
            verbose: self.verbose,
        }
    }

    /// SIGTERM, patience, SIGKILL.
    async fn end(&self, child: &mut Child) -> Option<String> {
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw);
        if let Some(pid) = pid {
            // Not reaped yet, so the id is still the child's.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let begin = Instant::now();
        let grace = match self.server {
            Server::Agent => AGENT_GRACE,
            Server::Master | Server::Scheduler => GRACE,
        };
        while begin.elapsed() < grace && !HARD.load(Ordering::Relaxed) {
            if let Ok(ended) = timeout(Duration::from_millis(100), child.wait()).await {
                return match ended {
                    Ok(status) if status.success() => None,
                    Ok(status) => Some(how(status)),
                    Err(error) => Some(error.to_string()),
                };
            }
        }
        let killed = child.kill().await;
        Some(match killed {
            Ok(()) => "signal 9, because it did not stop in time".to_owned(),
            Err(error) => format!("no end: {error}"),
        })
    }
}

async fn drain(readers: Vec<JoinHandle<()>>) {
    for mut reader in readers {
        if timeout(DRAIN, &mut reader).await.is_err() {
            reader.abort();
        }
    }
}

fn how(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

/// Moves a server's output into its log.
struct Reader {
    server: Server,
    log: Arc<Mutex<Log>>,
    verbose: bool,
}

impl Reader {
    async fn read(self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 16 << 10];
        let mut told = false;
        while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
            let written = lock(&self.log).write(&buffer[..n]);
            match written {
                Ok(lines) if self.verbose => {
                    for line in lines {
                        say(&format!("{:<9} | {line}", self.server.name()));
                    }
                }
                Ok(_) => {}
                // Told once; the server must not block on a full pipe because the disk is full.
                Err(error) if !told => {
                    told = true;
                    say(&format!(
                        "mezzo dev: cannot write the log of the {}: {error}",
                        self.server.name()
                    ));
                }
                Err(_) => {}
            }
        }
    }
}
