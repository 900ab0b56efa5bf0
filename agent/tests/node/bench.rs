//! One test's machine: a state folder with an image in it, a master, an agent process, and the proof afterwards that
//! nothing is left of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use mezzo_agent::Config;
use mezzo_api::proto::{
    self, Launch,
    master_message::{Kill, Message as FromMaster},
    node_service_client::NodeServiceClient,
};
use prost::Message as _;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::master::Master;

const DEADLINE: Duration = Duration::from_secs(100);
pub(crate) const FRAMEWORK: &str = "framework-1";

pub(crate) struct Bench {
    pub(crate) master: Master,
    pub(crate) config: Config,
    agent: Option<Child>,
    dir: tempfile::TempDir,
}

/// The static program, built once.
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

/// What an image of the tests may have beside the probe.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Parts<'a> {
    /// Its `/etc/passwd`.
    pub(crate) passwd: Option<&'a str>,
    pub(crate) stop_signal: Option<&'a str>,
}

impl Bench {
    pub(crate) async fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let master = Master::start().await;
        let config = Config {
            listen: "127.0.0.1:0".into(),
            master: master.address.clone(),
            state_dir: dir.path().join("state"),
            resources: Some("cpus:4;mem:2048;disk:1000".parse().unwrap()),
            cgroup_parent: Some(format!("/mezzo-agent-test-{}", std::process::id())),
            usage_interval_ms: 200,
            ..Config::default()
        };
        let bench = Self {
            master,
            config,
            agent: None,
            dir,
        };
        let plain = Parts::default();
        bench.import("probe:1", &["/bin/probe"], plain).await;
        bench.import("empty:1", &[], plain).await;
        eprintln!("--- {name}");
        bench
    }

    /// Puts an image into the agent's store while no agent has it.
    pub(crate) async fn import(&self, reference: &str, entrypoint: &[&str], parts: Parts<'_>) {
        let source = self.dir.path().join("image");
        fs::create_dir_all(source.join("bin")).unwrap();
        if let Some(passwd) = parts.passwd {
            fs::create_dir_all(source.join("etc")).unwrap();
            fs::write(source.join("etc/passwd"), passwd).unwrap();
        }
        let program = source.join("bin/probe");
        fs::write(&program, probe()).unwrap();
        fs::set_permissions(
            &program,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let packed = mezzo_images::pack(&mezzo_images::PackOptions {
            source,
            entrypoint: entrypoint.iter().map(|part| (*part).to_owned()).collect(),
            stop_signal: parts.stop_signal.map(str::to_owned),
            ..mezzo_images::PackOptions::default()
        })
        .unwrap();
        let store = mezzo_images::ImageStore::open(mezzo_images::StoreConfig {
            root: self.config.state_dir.join("images"),
            ..mezzo_images::StoreConfig::default()
        })
        .await
        .unwrap();
        store
            .import(&packed, &reference.parse().unwrap())
            .await
            .unwrap();
    }

    /// The program of the tests' image.
    pub(crate) fn program(&self) -> &'static [u8] {
        probe()
    }

    /// Starts an agent and waits for its nth registration with this bench's master.
    pub(crate) async fn start(&mut self, registration: usize) {
        self.spawn();
        self.master.registered(registration).await;
    }

    /// Starts an agent process.
    pub(crate) fn spawn(&mut self) {
        let file = self.dir.path().join("agent-config.json");
        fs::write(&file, serde_json::to_vec(&self.config).unwrap()).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("--agent")
            .arg(&file)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    /// `kill -9` of the agent.
    pub(crate) async fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().await.unwrap();
        }
        // Afterwards, because a living agent would register again at once.
        self.master.hang_up();
    }

    /// SIGTERM to the agent, and its end.
    pub(crate) async fn stop_agent(&mut self) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        if let Some(pid) = agent.id() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        let status = tokio::time::timeout(DEADLINE, agent.wait())
            .await
            .expect("the agent ends")
            .unwrap();
        assert!(status.success(), "{status}");
    }

    /// The agent's process.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().and_then(Child::id).unwrap()
    }

    pub(crate) async fn launch(&self, task: proto::TaskInfo) {
        let launch = Launch {
            framework_id: FRAMEWORK.into(),
            role: "*".into(),
            task: task.encode_to_vec(),
        };
        self.master.send(FromMaster::Launch(launch)).await;
    }

    pub(crate) async fn kill_task(&self, task: &str, grace_ms: Option<u64>) {
        let kill = Kill {
            framework_id: FRAMEWORK.into(),
            task_id: task.into(),
            grace_ms,
        };
        self.master.send(FromMaster::Kill(kill)).await;
    }

    pub(crate) fn address(&self) -> String {
        let address = fs::read_to_string(self.config.state_dir.join("address")).unwrap();
        format!("http://{}", address.trim())
    }

    pub(crate) async fn client(&self) -> NodeServiceClient<Channel> {
        // A new agent removes the address of the one before it, and writes its own when it listens.
        let connected = tokio::time::timeout(DEADLINE, async {
            loop {
                let file = self.config.state_dir.join("address");
                let address = fs::read_to_string(file).unwrap_or_default();
                let address = format!("http://{}", address.trim());
                if let Ok(client) = NodeServiceClient::connect(address).await {
                    return client;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        connected.await.expect("the agent listens")
    }

    pub(crate) fn container_dir(&self, container: &str) -> PathBuf {
        self.config.state_dir.join("tasks").join(container)
    }

    /// Ends everything; says what is left.
    pub(crate) async fn close(mut self) -> Result<(), String> {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill().await;
        }
        let config = self.config.clone();
        let purged = tokio::task::spawn_blocking(move || {
            let begin = std::time::Instant::now();
            loop {
                match mezzo_agent::purge(&config) {
                    // The launcher of the agent just killed may hold its lock for a moment.
                    Err(_) if begin.elapsed() < DEADLINE => {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    other => return other,
                }
            }
        });
        purged
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        let parent = self.config.cgroup_parent.clone().unwrap_or_default();
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .map_err(|error| error.to_string())?
            .flatten()
        {
            let left = hierarchy.path().join(parent.trim_start_matches('/'));
            if left.exists() {
                return Err(left.display().to_string());
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        if mounts.contains(&self.dir.path().display().to_string()) {
            return Err("a mount".into());
        }
        Ok(())
    }
}

/// A task that runs the probe.
pub(crate) fn task(id: &str, args: &[&str]) -> proto::TaskInfo {
    let scalar = |name: &str, millis| proto::Resource {
        name: name.into(),
        value: Some(proto::resource::Value::Scalar(proto::Scalar { millis })),
    };
    proto::TaskInfo {
        task_id: id.into(),
        name: id.into(),
        agent_id: "agent-1".into(),
        resources: vec![scalar("cpus", 100), scalar("mem", 32_000)],
        container: Some(proto::ContainerInfo {
            image: "probe:1".into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            network: proto::NetworkMode::Host.into(),
            ..proto::ContainerInfo::default()
        }),
        ..proto::TaskInfo::default()
    }
}

/// What a container has written to a stream so far.
pub(crate) fn said(bench: &Bench, container: &proto::ContainerStatus, stream: &str) -> String {
    let log = bench.config.state_dir.join("runtime/containers");
    let log = log.join(&container.container_id).join(stream);
    fs::read_to_string(log).unwrap_or_default()
}

/// A process is there.
pub(crate) fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A port of loopback that nobody has, and that the kernel gives to no connection before it is used; never the same twice.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs of tests that run at the same time begin far from each other.
    let first = 20_000 + (std::process::id() % 900) as u16 * 10;
    (0..1_000)
        .map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// Waits for something to become true.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let waiting = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("not {what}"));
}

/// Pids of the tests' program in cgroups below one, by any hierarchy.
pub(crate) fn processes_of(parent: &str) -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if cgroups.contains(&format!("{parent}/")) && command.starts_with(b"/bin/probe\0") {
            pids.push(pid);
        }
    }
    pids
}
