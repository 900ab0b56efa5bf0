//! The hands of the test bench inside a guest: starts commands, passes their output on, moves files, over the port
//! that `mezzo_integration::vm` listens on. When the host's end is gone, so is the guest: it powers off.
//!
//! One thread reads requests; each command has three more (two streams and its end). Started by the guest's init.
//! `mezzo-guest running CGROUP` is another program in the same file: it tells which tasks run, as the kernel has it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mezzo_integration::containers;
use mezzo_integration::vm::protocol::{self, CHUNK, Exit, Frame, Kind, Order, PORT};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

/// How long the streams of an ended command are read on: its children may hold them open for ever.
const LINGER: Duration = Duration::from_millis(500);

/// A server that is silent for so long has no answer.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// More than any answer that a test asks for.
const MAX_ANSWER: u64 = 32 << 20;

/// The writing end, for all threads.
type Voice = Arc<Mutex<File>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, cgroup] = &args[..]
        && verb == "running"
    {
        list_running(cgroup);
        return ExitCode::SUCCESS;
    }
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mezzo-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The tasks whose containers are below a cgroup, a line of JSON each.
fn list_running(cgroup: &str) {
    for one in containers::running(cgroup) {
        let (task, app) = (one.task_id, one.app_id);
        let line = json!({ "task": task, "app": app, "pid": one.pid, "started": one.started });
        println!("{line}");
    }
}

fn serve() -> Result<()> {
    let path = port(Path::new("/sys/class/virtio-ports"))?;
    let open = || File::options().read(true).write(true).open(&path);
    let mut ear = open().with_context(|| format!("open {}", path.display()))?;
    let voice = Arc::new(Mutex::new(ear.try_clone().context("clone the port")?));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
    say(&voice, 0, Kind::Hello, release.trim().as_bytes())?;

    let mut files: HashMap<u32, File> = HashMap::new();
    let mut calls: HashMap<u32, Words> = HashMap::new();
    let commands: Arc<Mutex<HashMap<u32, Pid>>> = Arc::default();
    loop {
        let frame = match protocol::read(&mut ear) {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("read the port"),
        };
        let request = frame.request;
        let done = match frame.kind {
            Kind::Run => run(&frame, &voice, &commands),
            Kind::Signal => {
                let signal = frame.payload.first().copied().unwrap_or_default();
                // A command that has ended meanwhile needs no signal.
                let commands = commands.lock().unwrap_or_else(PoisonError::into_inner);
                if let (Some(group), Ok(signal)) =
                    (commands.get(&request), Signal::try_from(i32::from(signal)))
                {
                    let _ended = killpg(*group, signal);
                }
                Ok(())
            }
            Kind::Put => put(&frame.payload).map(|file| drop(files.insert(request, file))),
            Kind::Call => {
                let to = String::from_utf8_lossy(&frame.payload).into_owned();
                let bytes = Vec::new();
                calls.insert(request, Words { to, bytes });
                Ok(())
            }
            Kind::Data => match (files.get_mut(&request), calls.get_mut(&request)) {
                (Some(file), _) => file.write_all(&frame.payload).context("write"),
                (None, Some(words)) => {
                    words.bytes.extend_from_slice(&frame.payload);
                    Ok(())
                }
                // It has failed, and that has been said.
                (None, None) => Ok(()),
            },
            Kind::End => match (files.remove(&request), calls.remove(&request)) {
                (Some(file), _) => {
                    drop(file);
                    say(&voice, request, Kind::End, &[])
                }
                (None, Some(words)) => {
                    let voice = Arc::clone(&voice);
                    thread::spawn(move || report(call(&words, request, &voice)));
                    Ok(())
                }
                (None, None) => Ok(()),
            },
            Kind::Get => get(&frame, &voice),
            Kind::Hello | Kind::Stdout | Kind::Stderr | Kind::Exited | Kind::Failed => {
                bail!("the host sent {:?}", frame.kind)
            }
        };
        if let Err(error) = done {
            files.remove(&request);
            say(
                &voice,
                request,
                Kind::Failed,
                format!("{error:#}").as_bytes(),
            )?;
        }
    }
}

/// What is said to a server, and to which.
struct Words {
    to: String,
    bytes: Vec<u8>,
}

/// Passes the words on and the answer back.
fn call(words: &Words, request: u32, voice: &Voice) -> Result<()> {
    let heard = converse(words).with_context(|| format!("call {}", words.to));
    match heard {
        Ok(answer) => {
            for chunk in answer.chunks(CHUNK) {
                say(voice, request, Kind::Data, chunk)?;
            }
            say(voice, request, Kind::End, &[])
        }
        Err(error) => {
            let told = format!("{error:#}");
            say(voice, request, Kind::Failed, told.as_bytes())
        }
    }
}

fn converse(words: &Words) -> Result<Vec<u8>> {
    let to: SocketAddr = words.to.parse().context("not an address")?;
    let mut server = TcpStream::connect_timeout(&to, CALL_LIMIT)?;
    server.set_read_timeout(Some(CALL_LIMIT))?;
    server.set_write_timeout(Some(CALL_LIMIT))?;
    server.write_all(&words.bytes)?;
    let mut answer = Vec::new();
    server.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The device of the port that has our name.
fn port(class: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(class).with_context(|| format!("list {}", class.display()))?;
    for entry in entries.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("no port named {PORT} in {}", class.display())
}

fn say(voice: &Voice, request: u32, kind: Kind, payload: &[u8]) -> Result<()> {
    let mut port = voice.lock().unwrap_or_else(PoisonError::into_inner);
    protocol::write(&mut *port, request, kind, payload).context("write to the port")
}

fn run(frame: &Frame, voice: &Voice, commands: &Arc<Mutex<HashMap<u32, Pid>>>) -> Result<()> {
    let order = Order::decode(&frame.payload)?;
    let request = frame.request;
    let mut command = Command::new(&order.args[0]);
    command.args(&order.args[1..]).current_dir(&order.cwd);
    command.env_clear().env("HOME", "/root");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    command.envs(order.env);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", order.args[0]))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    commands
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(request, group);

    // Nothing is sent on it: it closes when both streams are at their ends.
    let (open, closed) = mpsc::sync_channel::<()>(0);
    if let Some(stdout) = child.stdout.take() {
        pass_on(stdout, voice, request, Kind::Stdout, open.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        pass_on(stderr, voice, request, Kind::Stderr, open.clone());
    }
    drop(open);
    let voice = Arc::clone(voice);
    let commands = Arc::clone(commands);
    thread::spawn(move || {
        let status = child.wait();
        commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&request);
        match closed.recv_timeout(LINGER) {
            Ok(()) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {}
        }
        let said = match status {
            Ok(status) => say(&voice, request, Kind::Exited, &exit_of(status).encode()),
            Err(error) => say(&voice, request, Kind::Failed, error.to_string().as_bytes()),
        };
        report(said);
    });
    Ok(())
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

fn pass_on(
    mut stream: impl Read + Send + 'static,
    voice: &Voice,
    request: u32,
    kind: Kind,
    open: mpsc::SyncSender<()>,
) {
    let voice = Arc::clone(voice);
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        while let Ok(n_read @ 1..) = stream.read(&mut chunk) {
            report(say(&voice, request, kind, &chunk[..n_read]));
        }
        drop(open);
    });
}

/// To the serial console: there is nobody else to tell.
fn report(said: Result<()>) {
    if let Err(error) = said {
        eprintln!("mezzo-guest: {error:#}");
    }
}

fn put(payload: &[u8]) -> Result<File> {
    let (path, mode) = protocol::decode_put(payload)?;
    let path = Path::new(&path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    let mut options = File::options();
    let options = options.create(true).write(true).truncate(true).mode(mode);
    options
        .open(path)
        .with_context(|| format!("create {}", path.display()))
}

fn get(frame: &Frame, voice: &Voice) -> Result<()> {
    let path = String::from_utf8_lossy(&frame.payload).into_owned();
    let mut file = File::open(&path).with_context(|| format!("open {path}"))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file
            .read(&mut chunk)
            .with_context(|| format!("read {path}"))?
        {
            0 => return say(voice, frame.request, Kind::End, &[]),
            n_read => say(voice, frame.request, Kind::Data, &chunk[..n_read])?,
        }
    }
}
