//! `mezzo dev` as people run it: comes up on free ports, refuses a second one, brings back a server that dies, and
//! leaves only state behind. Starts real servers, so it needs root; no registry and no tasks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Ends `mezzo dev` also when the test fails.
struct Dev {
    child: Child,
    lines: mpsc::Receiver<String>,
    state: tempfile::TempDir,
}

impl Dev {
    fn start(state: tempfile::TempDir) -> Self {
        let mut child = command(state.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Ends with the pipe.
        thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            lines,
            state,
        }
    }

    /// The next line that has `part` in it.
    fn line(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with `{part}`; seen: {seen:#?}"),
            }
        }
    }

    fn facts(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.state.path().join("dev.json")).unwrap())
            .unwrap()
    }

    fn pid_of(&self, server: &str) -> i32 {
        i32::try_from(self.facts()[server]["pid"].as_i64().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

fn command(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
    command.arg("dev").arg("--state-dir").arg(state);
    for server in ["master", "agent", "scheduler"] {
        command.arg(format!("--{server}-port")).arg("0");
    }
    command
        .args(["--resources", "cpus:1;mem:64"])
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.env("NO_COLOR", "1").output().unwrap()
}

fn until(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Cgroups of ours anywhere below the mount point, by the number that the agent makes of its state directory.
fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        for group in fs::read_dir(hierarchy.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            found.push(group.path().display().to_string());
        }
    }
    found.retain(|path| path.contains("/mezzo-"));
    found
}

#[test]
fn the_life_of_a_dev_cluster() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let dev = Dev::start(tempfile::tempdir().unwrap());
    let ready = dev.line("mezzo dev is ready");
    let facts = dev.facts();
    for server in ["master", "agent", "scheduler"] {
        assert!(
            ready.contains(facts[server]["address"].as_str().unwrap()),
            "{ready}"
        );
    }

    // A second one on the same directory is refused, with the pid of the first.
    let second = run(&mut command(dev.state.path()));
    let told = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(
        told.starts_with(&format!(
            "mezzo: another `mezzo dev` (pid {})",
            dev.child.id()
        )),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");

    // Client verbs work against it.
    let client = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
        command
            .args(words)
            .env("MEZZO_MASTER", facts["master"]["address"].as_str().unwrap());
        let scheduler = format!("http://{}", facts["scheduler"]["address"].as_str().unwrap());
        run(command.env("MEZZO_SCHEDULER", scheduler))
    };
    let nodes = client(&["node", "list", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&nodes.stdout).unwrap();
    assert_eq!(
        (&nodes[0]["state"], &nodes[0]["resources"]["cpus"]),
        (&Value::from("connected"), &Value::from(1.0))
    );
    let status = client(&["status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.lines().next().unwrap().ends_with("all well"),
        "{status}"
    );
    assert_eq!(client(&["task", "show", "nothing"]).status.code(), Some(3));
    assert_eq!(client(&["node", "show", "nothing"]).status.code(), Some(3));
    assert_eq!(
        client(&["framework", "teardown", "mezzo-scheduler"])
            .status
            .code(),
        Some(2),
        "needs --yes"
    );
    assert_eq!(
        client(&["role", "weight", "batch", "2.5"]).status.code(),
        Some(0)
    );
    // Readers see it a moment after the call.
    until("the weight to be listed", || {
        String::from_utf8_lossy(&client(&["role", "list"]).stdout)
            .lines()
            .any(|line| line.starts_with("batch") && line.contains("2.5"))
    });

    // A server that is killed comes back, at the same address.
    for server in ["agent", "master", "scheduler"] {
        let pid = dev.pid_of(server);
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        dev.line(&format!("{server} (pid {pid}) ended with signal 9"));
        until("a new process", || dev.pid_of(server) != pid);
        assert_eq!(dev.facts()[server]["address"], facts[server]["address"]);
    }
    until("the node to be connected again", || {
        String::from_utf8_lossy(&client(&["node", "list"]).stdout).contains("connected ")
    });

    // Killed, it takes the servers with it; the next one takes over.
    let pids = ["master", "agent", "scheduler"].map(|server| dev.pid_of(server));
    dev.signal(Signal::SIGKILL);
    for pid in pids {
        until("the servers to die with it", || {
            kill(Pid::from_raw(pid), None).is_err()
        });
    }
    let mut dev = dev;
    dev.child.wait().unwrap();
    let state = std::mem::replace(&mut dev.state, tempfile::tempdir().unwrap());
    let path = state.path().to_owned();
    let mut dev = Dev::start(state);
    dev.line("mezzo dev is ready");

    // Told to stop, it leaves state files and nothing else.
    let parent = fs::read_dir("/sys/fs/cgroup")
        .is_ok()
        .then(cgroups)
        .unwrap_or_default();
    let pids = ["master", "agent", "scheduler"].map(|server| dev.pid_of(server));
    dev.signal(Signal::SIGINT);
    let ended = dev.child.wait().unwrap();
    assert_eq!(
        ended.code(),
        Some(0),
        "{:?}",
        dev.lines.try_iter().collect::<Vec<_>>()
    );
    assert!(
        pids.iter()
            .all(|pid| kill(Pid::from_raw(*pid), None).is_err())
    );
    assert!(!path.join("dev.json").exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
    // Other tests come and go beside this one: ours is one that was there and is gone.
    let left = cgroups();
    assert!(
        parent.is_empty() || parent.iter().any(|group| !left.contains(group)),
        "{left:?}"
    );
}

#[test]
fn an_unprivileged_dev_is_refused_in_one_line() {
    if !geteuid().is_root() {
        println!("skipped: needs root, to give it up");
        return;
    }
    use std::os::unix::process::CommandExt as _;
    // The binary must be readable for everybody: a copy of it where all may read.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("mezzo");
    // Copied by a process of its own: one that is forked meanwhile, for the other test, would hold it open for writing, and
    // the kernel executes no such file.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_mezzo"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(dir.path(), open.clone()).unwrap();
    fs::set_permissions(&copy, open).unwrap();
    for verb in ["dev", "agent"] {
        let output = run(Command::new(&copy)
            .arg(verb)
            .current_dir("/")
            .uid(65534)
            .gid(65534));
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert_eq!(
            told,
            format!(
                "mezzo: mezzo {verb} needs root to make containers: run it as `sudo mezzo {verb}`\n"
            )
        );
    }
}
