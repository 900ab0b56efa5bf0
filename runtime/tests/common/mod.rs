//! What the tests share: a node with a state directory and a cgroup of its own, root file systems with one static
//! program in them, waiting on state, and the proof at the end of every test (also of a failing one) that
//! nothing is left: no process, no cgroup in any hierarchy, no mount.

#![expect(clippy::unwrap_used, reason = "test support")]
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mezzo_runtime::{
    ContainerId, ContainerSpec, ExecSpec, ExitRecord, LauncherProgram, Rootfs, Runtime,
    RuntimeConfig, Stream, UserNamespace, purge_dir,
};

/// Longest wait for anything.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// The static program, built once per test binary.
fn probe() -> &'static [u8] {
    static PROBE: OnceLock<Vec<u8>> = OnceLock::new();
    PROBE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("probe.c"), dir.path().join("probe"));
        fs::write(&source, include_str!("probe.c")).unwrap();
        let status = std::process::Command::new("cc")
            .args(["-static", "-O1", "-o"])
            .arg(&target)
            .arg(&source)
            .status()
            .unwrap();
        assert!(status.success(), "the probe does not compile");
        fs::read(target).unwrap()
    })
}

/// One test's machine.
pub(crate) struct Node {
    pub(crate) config: RuntimeConfig,
    runtime: Option<Runtime>,
    dir: tempfile::TempDir,
}

impl Node {
    /// A node with an open runtime; `None`, said loudly, where containers cannot run.
    pub(crate) async fn new() -> Option<Self> {
        let mut node = Self::closed()?;
        node.open().await;
        Some(node)
    }

    /// A node whose runtime is not open yet.
    pub(crate) fn closed() -> Option<Self> {
        if fs::metadata("/proc/self")
            .map(|me| std::os::unix::fs::MetadataExt::uid(&me))
            .unwrap_or(1)
            != 0
        {
            eprintln!("skipped: needs root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        for name in ["bin", "etc", "tmp", "dev", "proc", "sys", "srv"] {
            fs::create_dir_all(image.join(name)).unwrap();
        }
        fs::write(image.join("bin/probe"), probe()).unwrap();
        executable(&image.join("bin/probe"));
        fs::write(
            image.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            image.join("etc/group"),
            "root:x:0:\nweb:x:1001:\nlog:x:7:web\n",
        )
        .unwrap();
        let parent = format!("/mezzo-test-{}-{number}", std::process::id());
        let mut config = RuntimeConfig::new(dir.path().join("state"), parent);
        config.launcher = LauncherProgram::Path(env!("CARGO_BIN_EXE_mezzo-launcher").into());
        Some(Self {
            config,
            runtime: None,
            dir,
        })
    }

    pub(crate) async fn open(&mut self) -> &Runtime {
        self.runtime = None;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match Runtime::open(self.config.clone()).await {
                Ok(runtime) => return self.runtime.insert(runtime),
                // The tasks of the one just dropped may hold it for a moment.
                Err(mezzo_runtime::OpenError::InUse { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{}", chain(&error)),
            }
        }
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    pub(crate) fn close(&mut self) {
        self.runtime = None;
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// A specification that runs the probe on a fresh overlay.
    pub(crate) fn spec(&self, args: &[&str]) -> ContainerSpec {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [upper, work] =
            ["upper", "work"].map(|name| self.dir.path().join(format!("{name}-{number}")));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        let mut all = vec!["/bin/probe".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        ContainerSpec::new(
            Rootfs::Overlay {
                lowers: vec![self.image()],
                upper,
                work,
            },
            all,
        )
    }

    /// Starts a container and waits for its end.
    pub(crate) async fn run(&self, name: &str, spec: ContainerSpec) -> ExitRecord {
        let id = id(name);
        self.runtime()
            .start(&id, spec)
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        within(self.runtime().wait(&id)).await.unwrap()
    }

    pub(crate) fn stdout(&self, name: &str) -> String {
        fs::read_to_string(self.runtime().log_path(&id(name), Stream::Stdout)).unwrap_or_default()
    }

    /// Waits until the container has written this.
    pub(crate) async fn await_output(&self, name: &str, text: &str) {
        until(&format!("{name} writes {text:?}"), || {
            self.stdout(name).contains(text)
        })
        .await;
    }

    /// The container's directory for a controller (or in the only hierarchy).
    pub(crate) fn cgroup_dir(&self, controller: &str, name: &str) -> PathBuf {
        let below = format!(
            "{}/containers/{name}",
            self.config.cgroup_parent.trim_start_matches('/')
        );
        let v1 = Path::new("/sys/fs/cgroup").join(controller);
        if v1.is_dir() {
            v1.join(below)
        } else {
            Path::new("/sys/fs/cgroup").join(below)
        }
    }

    /// Whether all controllers are on cgroup v2.
    pub(crate) fn v2() -> bool {
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    }

    /// What a file of a container's cgroup holds: the first of these names that there is.
    pub(crate) fn cgroup_text(&self, controller: &str, name: &str, files: &[&str]) -> String {
        let dir = self.cgroup_dir(controller, name);
        let text = files
            .iter()
            .find_map(|file| fs::read_to_string(dir.join(file)).ok());
        text.unwrap_or_else(|| panic!("{}: none of {files:?}", dir.display()))
            .trim()
            .to_owned()
    }

    /// The number in such a file.
    pub(crate) fn cgroup_number(&self, controller: &str, name: &str, files: &[&str]) -> u64 {
        let text = self.cgroup_text(controller, name, files);
        text.parse().unwrap_or_else(|_| panic!("{files:?}: {text}"))
    }

    /// A directory on the disk that is seen as `/store` inside.
    pub(crate) fn with_store(&self, mut spec: ContainerSpec) -> ContainerSpec {
        let source = self.dir.path().join("store");
        fs::create_dir_all(&source).unwrap();
        spec.mounts.push(mezzo_runtime::MountSpec::Bind {
            source,
            target: "/store".into(),
            readonly: false,
        });
        spec
    }

    /// What is left of this node on the machine, in words.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let parent = self.config.cgroup_parent.trim_start_matches('/');
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(
            fs::read_dir("/sys/fs/cgroup")
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
        left.extend(
            roots
                .iter()
                .map(|root| root.join(parent))
                .filter(|dir| dir.exists())
                .map(|dir| format!("cgroup {}", dir.display())),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let state = self.dir.path().to_str().unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(state))
                .map(|line| format!("mount {line}")),
        );
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&format!("{parent}/")) {
                left.push(format!("process {}", entry.file_name().display()));
            }
        }
        left
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runtime = None;
        let deadline = Instant::now() + TIMEOUT;
        let mut purged = purge_dir(&self.config);
        while matches!(purged, Err(mezzo_runtime::PurgeError::InUse { .. }))
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
            purged = purge_dir(&self.config);
        }
        // A launcher ends when its socket does, which is a moment after the runtime is dropped.
        let mut left = self.leftovers();
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            left = self.leftovers();
        }
        if std::thread::panicking() {
            eprintln!("after the failure: purge {purged:?}, left {left:?}");
        } else {
            purged.unwrap();
            assert_eq!(left, Vec::<String>::new(), "left behind");
            assert!(
                !self.config.state_dir.exists(),
                "the state directory is left behind"
            );
        }
    }
}

pub(crate) fn id(name: &str) -> ContainerId {
    name.parse().unwrap()
}

pub(crate) fn executable(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The future's result, which must come in time.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .expect("in time")
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process is there (and not just waiting to be reaped).
pub(crate) fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// Figures for whoever reads the log, past the capture of the test harness.
pub(crate) fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Ends a process the hard way.
pub(crate) fn kill(pid: i32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

/// The host's users and the container's own, with a word for the name of the container.
pub(crate) const BOTH: [(&str, UserNamespace); 2] =
    [("host", UserNamespace::Host), ("own", UserNamespace::Own)];

/// The probe on a fresh overlay, with those users.
pub(crate) fn spec_as(node: &Node, users: UserNamespace, args: &[&str]) -> ContainerSpec {
    let mut spec = node.spec(args);
    spec.user_namespace = users;
    spec
}

/// The probe, executed in a container that runs.
pub(crate) fn probe_in(args: &[&str]) -> ExecSpec {
    let mut all = vec!["/bin/probe".to_owned()];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    ExecSpec {
        args: all,
        env: vec![],
        cwd: None,
        user: None,
        terminal: None,
    }
}

/// All that it writes.
pub(crate) async fn output(node: &Node, name: &str, spec: ExecSpec) -> String {
    let mut session = node.runtime().exec(&id(name), spec).await.unwrap();
    let mut text = String::new();
    within(tokio::io::AsyncReadExt::read_to_string(
        &mut session.stdout,
        &mut text,
    ))
    .await
    .unwrap();
    within(session.wait()).await.unwrap();
    text
}
