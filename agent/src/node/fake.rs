//! Both seams in memory, for tests: containers that run until a test ends them, images that are there or not.
//!
//! Shared state can outlive an agent under test, as real containers outlive a real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use mezzo_api::model::{SecretSource, Usage};
use tokio::{net::TcpStream, sync::watch};

use super::{
    Attachment, Collected, Container, ContainerExit, ContainerId, ContainerSpec, ContainerState,
    ExecSession, ExecSpec, ExitRecord, GcPolicy, HolderSpec, ImageConfig, ImageError, Images,
    ImagesUsage, LimitError, Limits, NetworkRequest, PreparedImage, PullProgress, Runtime,
    RuntimeError, Snapshot, StartError, Started, Stream,
};

/// Containers in memory.
#[derive(Debug)]
pub struct FakeRuntime {
    containers: Mutex<BTreeMap<ContainerId, Container>>,
    specs: Mutex<Vec<(ContainerId, ContainerSpec)>>,
    limits: Mutex<Vec<(ContainerId, Limits)>>,
    changed: watch::Sender<u64>,
    stubborn: Mutex<bool>,
    networks: Mutex<BTreeMap<ContainerId, Vec<IpAddr>>>,
    folder: PathBuf,
}

impl FakeRuntime {
    /// With logs (that tests may write) in a folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            containers: Mutex::default(),
            specs: Mutex::default(),
            limits: Mutex::default(),
            changed: watch::Sender::new(0),
            stubborn: Mutex::default(),
            networks: Mutex::default(),
            folder,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Container>> {
        self.containers
            .lock()
            .expect("no test panics while it holds this lock")
    }

    /// Who has a place in a network.
    pub fn networks(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Vec<IpAddr>>> {
        self.networks
            .lock()
            .expect("no test panics while it holds this lock")
    }

    /// Every start there was.
    pub fn starts(&self) -> Vec<(ContainerId, ContainerSpec)> {
        self.specs
            .lock()
            .expect("no test panics while it holds this lock")
            .clone()
    }

    /// Every change of limits there was.
    pub fn limits(&self) -> Vec<(ContainerId, Limits)> {
        self.limits
            .lock()
            .expect("no test panics while it holds this lock")
            .clone()
    }

    /// Those that run.
    pub fn running(&self) -> Vec<ContainerId> {
        let containers = self.lock();
        let running = containers
            .values()
            .filter(|c| matches!(c.state, ContainerState::Running(_)));
        running.map(|c| c.id.clone()).collect()
    }

    /// From now on a request to end is ignored; only a kill works.
    pub fn be_stubborn(&self) {
        *self
            .stubborn
            .lock()
            .expect("no test panics while it holds this lock") = true;
    }

    /// Adds a container that nobody started.
    pub fn plant(&self, id: &ContainerId) {
        self.lock().insert(id.clone(), running(id));
    }

    /// Ends a container.
    pub fn end(&self, id: &ContainerId, exit: ContainerExit, oom_killed: bool) {
        if let Some(container) = self.lock().get_mut(id)
            && matches!(container.state, ContainerState::Running(_))
        {
            container.state = ContainerState::Exited(Box::new(ExitRecord {
                exit,
                oom_killed,
                memory_limit_bytes: Some(32 << 20),
                started_at_ms: Some(1),
                finished_at_ms: 2,
                usage: Usage {
                    sampled_at_ms: 2,
                    memory_peak_bytes: Some(32 << 20),
                    ..Usage::default()
                },
            }));
        }
        self.changed.send_modify(|n| *n += 1);
    }
}

fn running(id: &ContainerId) -> Container {
    Container {
        id: id.clone(),
        state: ContainerState::Running(Started {
            pid: 4242,
            cgroup: format!("/fake/{id}"),
            started_at_ms: 1,
            addresses: Vec::new(),
        }),
        keeper_pid: None,
        labels: BTreeMap::new(),
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn prepare_network(
        &self,
        id: &ContainerId,
        _request: NetworkRequest,
    ) -> Result<Attachment, StartError> {
        let mut networks = self.networks();
        let number = u8::try_from(networks.len() + 2)
            .map_err(|_| StartError::Failed("no free address".into()))?;
        let addresses = vec![IpAddr::from([172, 28, 0, number])];
        networks.insert(id.clone(), addresses.clone());
        Ok(Attachment {
            addresses,
            dns: Vec::new(),
        })
    }

    async fn release_network(&self, id: &ContainerId) {
        self.networks().remove(id);
    }

    async fn connect(&self, _id: &ContainerId, to: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(to).await
    }

    async fn start(&self, id: &ContainerId, spec: ContainerSpec) -> Result<Started, StartError> {
        if spec
            .args
            .first()
            .is_some_and(|program| program == "/missing")
        {
            return Err(StartError::Failed(
                "there is no \"/missing\" to execute".into(),
            ));
        }
        self.specs
            .lock()
            .expect("no test panics while it holds this lock")
            .push((id.clone(), spec));
        self.lock().insert(id.clone(), running(id));
        let addresses = self.networks().get(id).cloned().unwrap_or_default();
        Ok(Started {
            pid: 4242,
            cgroup: format!("/fake/{id}"),
            started_at_ms: 1,
            addresses,
        })
    }

    async fn hold(&self, id: &ContainerId, spec: HolderSpec) -> Result<(), StartError> {
        if spec.volumes.iter().any(|(name, _)| name == "missing") {
            return Err(StartError::Failed("no memory".into()));
        }
        self.lock().insert(id.clone(), running(id));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn wait(&self, id: &ContainerId) -> Result<ExitRecord, RuntimeError> {
        let mut changed = self.changed.subscribe();
        loop {
            match self.lock().get(id).map(|container| container.state.clone()) {
                None => return Err(RuntimeError::NotFound(id.clone())),
                Some(ContainerState::Exited(record)) => return Ok(*record),
                Some(ContainerState::Running(_) | ContainerState::Starting) => {}
            }
            if changed.changed().await.is_err() {
                return Err(RuntimeError::Other("the fake is gone".into()));
            }
        }
    }

    async fn terminate(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        if !*self
            .stubborn
            .lock()
            .expect("no test panics while it holds this lock")
        {
            self.end(id, ContainerExit::Signal(15), false);
        }
        Ok(())
    }

    async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.end(id, ContainerExit::Signal(9), false);
        Ok(())
    }

    async fn limit(&self, id: &ContainerId, limits: Limits) -> Result<(), LimitError> {
        if !self.running().contains(id) {
            return Err(LimitError::NotRunning);
        }
        // More than any machine has, so that tests can be refused.
        if limits.io_weight == Some(9_999) {
            return Err(LimitError::Refused("limits.io_weight: not here".into()));
        }
        self.limits
            .lock()
            .expect("no test panics while it holds this lock")
            .push((id.clone(), limits));
        Ok(())
    }

    async fn usage(&self, id: &ContainerId) -> Result<Usage, RuntimeError> {
        match self.lock().get(id) {
            Some(_) => Ok(Usage {
                sampled_at_ms: 1,
                cpu_total_us: Some(10),
                ..Usage::default()
            }),
            None => Err(RuntimeError::NotFound(id.clone())),
        }
    }

    fn sample(&self, ids: &[ContainerId]) -> (Vec<(ContainerId, Usage)>, Duration) {
        let running = self.lock();
        let samples = ids.iter().filter(|id| running.contains_key(id)).map(|id| {
            let usage = Usage {
                sampled_at_ms: 1,
                cpu_total_us: Some(10),
                ..Usage::default()
            };
            (id.clone(), usage)
        });
        (samples.collect(), Duration::ZERO)
    }

    async fn exec(&self, _: &ContainerId, _: ExecSpec) -> Result<ExecSession, RuntimeError> {
        Err(RuntimeError::Other("the fake runs nothing".into()))
    }

    fn terminal(
        &self,
        _: &ContainerId,
    ) -> Result<Option<mezzo_runtime::TerminalInput>, RuntimeError> {
        Ok(None)
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.lock().remove(id);
        Ok(())
    }

    async fn purge(&self) -> Result<(), RuntimeError> {
        self.lock().clear();
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    fn log_path(&self, id: &ContainerId, stream: Stream) -> PathBuf {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.folder.join(id.as_str()).join(name)
    }

    fn root_dir(&self, _: &ContainerId) -> Result<(OwnedFd, u32), RuntimeError> {
        Err(RuntimeError::Other("the fake has no files".into()))
    }

    async fn launcher_pid(&self) -> Option<u32> {
        None
    }
}

/// Images in memory. `slow…` pulls until a test lets it go, `missing…` is nowhere, `private…` needs a pull secret,
/// `empty…` has no entrypoint, all others are here.
#[derive(Debug)]
pub struct FakeImages {
    snapshots: Mutex<BTreeSet<String>>,
    release: watch::Sender<bool>,
    waiting: watch::Sender<Option<String>>,
}

impl Default for FakeImages {
    fn default() -> Self {
        Self {
            snapshots: Mutex::default(),
            release: watch::Sender::new(false),
            waiting: watch::Sender::new(None),
        }
    }
}

impl FakeImages {
    /// Slow pulls end now.
    pub fn release(&self) {
        self.release.send_replace(true);
    }

    /// Slow pulls wait for this now.
    pub fn wait_for(&self, what: &str) {
        self.waiting.send_replace(Some(what.to_owned()));
    }

    /// Adds a root file system that nobody asked for.
    pub fn plant(&self, key: &str) {
        self.snapshots
            .lock()
            .expect("no test panics while it holds this lock")
            .insert(key.to_owned());
    }
}

#[async_trait]
impl Images for FakeImages {
    async fn prepare(
        &self,
        reference: &str,
        _: bool,
        pull_secret: Option<&SecretSource>,
        id: &ContainerId,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PreparedImage, ImageError> {
        if reference.starts_with("missing") {
            return Err(ImageError::Unavailable(
                "the registry has no such image".into(),
            ));
        }
        if reference.starts_with("private") && pull_secret.is_none() {
            return Err(ImageError::Unavailable(
                "the registry wants to know who asks".into(),
            ));
        }
        if reference.starts_with("slow") {
            let mut waiting = self.waiting.subscribe();
            let mut released = self.release.subscribe();
            loop {
                progress.send_replace(PullProgress {
                    done: 43,
                    total: 100,
                    waiting: waiting.borrow_and_update().clone(),
                });
                tokio::select! {
                    _ = released.wait_for(|released| *released) => break,
                    changed = waiting.changed() => if changed.is_err() { break },
                }
            }
        }
        self.plant(id.as_str());
        let entrypoint = if reference.starts_with("empty") {
            vec![]
        } else {
            vec!["/sleep".to_owned()]
        };
        Ok(PreparedImage {
            digest: "sha256:00".into(),
            config: ImageConfig {
                entrypoint,
                ..ImageConfig::default()
            },
            snapshot: Snapshot {
                lowers: vec![],
                upper: PathBuf::new(),
                work: PathBuf::new(),
            },
        })
    }

    fn changes_dir(&self, key: &str) -> PathBuf {
        PathBuf::from("/nonexistent").join(key)
    }

    async fn remove_snapshot(&self, key: &str) -> Result<(), ImageError> {
        self.snapshots
            .lock()
            .expect("no test panics while it holds this lock")
            .remove(key);
        Ok(())
    }

    async fn collect_garbage(&self, _: GcPolicy) -> Result<Option<Collected>, ImageError> {
        Ok(None)
    }

    async fn usage(&self) -> Result<ImagesUsage, ImageError> {
        Ok(ImagesUsage {
            images: 1,
            disk_bytes: 1000,
        })
    }

    async fn list_snapshots(&self) -> Result<Vec<String>, ImageError> {
        Ok(self
            .snapshots
            .lock()
            .expect("no test panics while it holds this lock")
            .iter()
            .cloned()
            .collect())
    }
}
