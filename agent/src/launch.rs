//! One launch, step by step: ports, image, root file system, files, container. `fetch`: the files that the task wants. Runs in a task of its own; the order
//! to do it comes from `task::core`, after the checkpoint is on disk.
//!
//! Given up between any two steps and in the middle of a pull; a start that is under way is seen through, because only
//! then is it known whether something runs.

mod fetch;
mod hold;
pub(crate) mod network;
mod sandbox;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mezzo_api::model::{
    FrameworkId, NetworkMode, Reason, TaskInfo, TaskState, VolumeId, VolumeSource,
};
use mezzo_runtime::Secrets;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    disk::Disk,
    fetch::Fetcher,
    node::{
        Attachment, ContainerId, ImageError, Images, Limits, PreparedImage, PullProgress, Runtime,
        START_DEADLINE, StartError,
        profiles::{Profiles, Walls},
        secrets::TaskSecrets,
    },
    resources::{
        devices::{self, DeviceSet},
        grant::Grant,
    },
    store::Store,
    task::{
        event::{Event, LaunchFailure},
        spec::{self, Place},
        status::Outcome,
    },
};

/// Between two progress reports of one pull.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// What every launch needs.
pub(crate) struct Launcher {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) store: Store,
    pub(crate) hostname: String,
    pub(crate) host_path_allow: Vec<PathBuf>,
    /// Name servers for containers with a network of their own, instead of the machine's.
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) devices: Vec<DeviceSet>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) secrets: TaskSecrets,
    /// Brings the files that tasks want.
    pub(crate) fetcher: Fetcher,
    /// Of seccomp and AppArmor, which tasks may name.
    pub(crate) profiles: Profiles,
    /// Bounds starts at once; pulls are bounded by the image store.
    pub(crate) starts: Arc<Semaphore>,
}

/// Which launch.
pub(crate) struct Order {
    pub(crate) container: ContainerId,
    pub(crate) framework: FrameworkId,
    pub(crate) info: Box<TaskInfo>,
    pub(crate) limits: Box<Limits>,
    pub(crate) grant: Grant,
    /// The folders of its persistent volumes.
    pub(crate) volumes: Vec<(VolumeId, String)>,
    pub(crate) cancelled: CancellationToken,
    /// Of a member of a group: who holds what it shares, and when it may start in which network.
    pub(crate) group: Option<(ContainerId, oneshot::Receiver<Attachment>)>,
}

impl Launcher {
    /// Sees it through and gives the event that tells how it went.
    pub(crate) async fn launch(&self, order: Order, feedback: mpsc::Sender<Event>) -> Event {
        let container = order.container.clone();
        match self.steps(order, feedback).await {
            Ok((started, image_digest)) => Event::Launched {
                container,
                started,
                image_digest,
            },
            Err(failure) => Event::LaunchFailed(container, failure),
        }
    }

    async fn steps(
        &self,
        order: Order,
        feedback: mpsc::Sender<Event>,
    ) -> Result<(crate::node::Started, String), LaunchFailure> {
        let container = order.container.clone();
        let info = &order.info;
        let ports = info.clone();
        blocking(move || network::check_ports(&ports))
            .await?
            .map_err(|taken| {
                failed(
                    TaskState::Failed,
                    Reason::ResourcesUnavailable,
                    taken.to_string(),
                )
            })?;
        // Made while the image comes.
        let mut preparing = match &order.group {
            Some(_) => None,
            None => network::prepare(&self.runtime, &container, info),
        };
        let has_network = preparing.is_some();
        let done = self.steps_after(order, &mut preparing, feedback).await;
        if done.is_err() && has_network {
            // Whatever is still being made is taken back too.
            if let Some(preparing) = preparing {
                let _ = preparing.await;
            }
            self.runtime.release_network(&container).await;
        }
        done
    }

    async fn steps_after(
        &self,
        order: Order,
        preparing: &mut Option<network::Preparing>,
        feedback: mpsc::Sender<Event>,
    ) -> Result<(crate::node::Started, String), LaunchFailure> {
        let Order {
            container,
            framework,
            info,
            limits,
            grant,
            volumes,
            cancelled,
            group,
        } = order;
        let volumes = volumes
            .into_iter()
            .map(|(id, folder)| (id, self.store.volume(&folder)))
            .collect::<Vec<_>>();
        for (id, path) in &volumes {
            // Made with the volume: it is not made again, empty, where data was.
            if !path.is_dir() {
                let message = format!(
                    "persistent volume {id}: its folder {} is gone",
                    path.display()
                );
                return Err(failed(
                    TaskState::Failed,
                    Reason::ContainerLaunchFailed,
                    message,
                ));
            }
        }
        let image = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(LaunchFailure::Cancelled),
            image = self.image(&container, &info, &feedback) => image?,
        };
        // Threads for what may wait for a disk, only where there is something to do: each costs a start two wake-ups.
        if self.disk.has_quotas() {
            let (disk, container, info) = (Arc::clone(&self.disk), container.clone(), info.clone());
            let snapshot = image.snapshot.clone();
            let volumes = volumes.clone();
            blocking(move || {
                disk.bound(&container, &info, &snapshot);
                disk.bound_volumes(&info, &volumes);
            })
            .await?;
        }
        // After the bounds are there: what is fetched counts.
        self.fetch(&container, &info, &cancelled, &feedback).await?;
        let host_paths = if has_host_paths(&info) {
            let (info, allow) = (info.clone(), self.host_path_allow.clone());
            let sandbox = self.store.sandbox(&container);
            blocking(move || resolve_host_paths(&info, &allow, &sandbox)).await??
        } else {
            Vec::new()
        };
        let secrets = if TaskSecrets::are_wanted_by(&info) {
            let (info, secrets) = (info.clone(), self.secrets.clone());
            let read = blocking(move || secrets.of(&info)).await?;
            read.map_err(|message| {
                failed(TaskState::Failed, Reason::ContainerLaunchFailed, message)
            })?
        } else {
            Secrets::default()
        };
        let walls = if Profiles::are_wanted_by(&info) {
            let (info, profiles) = (info.clone(), self.profiles.clone());
            let read = blocking(move || profiles.of(&info)).await?;
            read.map_err(|(reason, message)| failed(TaskState::Error, reason, message))?
        } else {
            Walls::default()
        };
        let (attachment, holder) = match (preparing.take(), group) {
            (Some(preparing), _) => (network_of(preparing).await?, None),
            (None, None) => (Attachment::default(), None),
            (None, Some((holder, admitted))) => {
                let _ = feedback.send(Event::Ready(container.clone())).await;
                let attachment = tokio::select! {
                    biased;
                    () = cancelled.cancelled() => return Err(LaunchFailure::Cancelled),
                    // Whoever lets go of the other end has given it up.
                    admitted = admitted => admitted.map_err(|_| LaunchFailure::Cancelled)?,
                };
                (attachment, Some(holder))
            }
        };
        let addresses = attachment.addresses;
        let files = match info.container.network {
            NetworkMode::None => Vec::new(),
            NetworkMode::Host | NetworkMode::Bridge | NetworkMode::Container => {
                let is_own = info.container.network.is_own();
                let folder = self.store.folder(&container);
                // The operator's word, then the network's own, then the machine's.
                let dns = if self.dns.is_empty() {
                    attachment.dns
                } else {
                    self.dns.clone()
                };
                let named = holder.as_ref().unwrap_or(&container);
                let (hostname, addresses) = (network::own_hostname(named), addresses.clone());
                let write = move || {
                    let own = network::Own {
                        hostname: &hostname,
                        addresses: &addresses,
                        dns: &dns,
                    };
                    network::files(&folder, is_own.then_some(own))
                };
                blocking(write).await?.map_err(|error| {
                    let message =
                        format!("cannot prepare /etc/resolv.conf and /etc/hosts: {error}");
                    failed(TaskState::Failed, Reason::ContainerLaunchFailed, message)
                })?
            }
        };
        let (devices, env) = devices::given(&self.devices, &grant.devices);
        let place = Place {
            container: container.clone(),
            group: holder.map(|holder| {
                let folder = self.store.group_volume(&holder, "");
                (holder, folder)
            }),
            framework,
            agent_id: info.agent_id.clone(),
            hostname: self.hostname.clone(),
            sandbox: self.store.sandbox(&container),
            files,
            addresses,
            host_paths,
            volumes,
            secrets,
            walls,
            limits: *limits,
            devices,
            env,
        };
        let spec = spec::container(&info, &image, &place).map_err(LaunchFailure::Failed)?;
        let permit = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(LaunchFailure::Cancelled),
            permit = Arc::clone(&self.starts).acquire_owned() => permit,
        };
        let started =
            tokio::time::timeout(START_DEADLINE, self.runtime.start(&container, spec)).await;
        drop(permit);
        match started {
            Ok(Ok(started)) => Ok((started, image.digest)),
            Ok(Err(StartError::Invalid(message))) => {
                Err(failed(TaskState::Error, Reason::TaskInvalid, message))
            }
            Ok(Err(StartError::Failed(message))) => Err(failed(
                TaskState::Failed,
                Reason::ContainerLaunchFailed,
                message,
            )),
            Err(_) => {
                // Whatever the start is doing, it must not become a process that nobody knows.
                let _ = self.runtime.kill(&container).await;
                let message = format!(
                    "the container did not start within {} s",
                    START_DEADLINE.as_secs()
                );
                Err(failed(
                    TaskState::Failed,
                    Reason::ContainerLaunchFailed,
                    message,
                ))
            }
        }
    }

    async fn image(
        &self,
        container: &ContainerId,
        info: &TaskInfo,
        feedback: &mpsc::Sender<Event>,
    ) -> Result<PreparedImage, LaunchFailure> {
        let reference = &info.container.image;
        let (progress, mut seen) = watch::channel(PullProgress::default());
        let prepare = self.images.prepare(
            reference,
            info.container.force_pull,
            info.container.pull_secret.as_ref(),
            container,
            progress,
        );
        tokio::pin!(prepare);
        let mut report_at = Instant::now();
        let mut pulling = true;
        loop {
            tokio::select! {
                prepared = &mut prepare => {
                    return prepared.map_err(|error| {
                        let state = match error {
                            ImageError::InvalidReference(_) => TaskState::Error,
                            ImageError::Unavailable(_) => TaskState::Failed,
                        };
                        failed(state, Reason::ImagePullFailed, format!("image {reference}: {error}"))
                    });
                }
                changed = async {
                    tokio::time::sleep_until(report_at).await;
                    // Told also when nothing changes: news that comes while an earlier status is under way is dropped.
                    match tokio::time::timeout(PROGRESS_PAUSE, seen.changed()).await {
                        Ok(changed) => changed.is_ok(),
                        Err(_) => true,
                    }
                }, if pulling => {
                    pulling = changed;
                    if pulling {
                        let message = told(&seen.borrow_and_update());
                        report_at = Instant::now() + PROGRESS_PAUSE;
                        let _ = feedback.send(Event::Progress(container.clone(), message)).await;
                    }
                }
            }
        }
    }
}

/// What a task's status says about its pull.
fn told(progress: &PullProgress) -> String {
    let pulling = match progress
        .done
        .saturating_mul(100)
        .checked_div(progress.total)
    {
        Some(percent) => format!("pulling {} %", percent.min(100)),
        None => "pulling".to_owned(),
    };
    match &progress.waiting {
        Some(waiting) => format!("{pulling}, waiting {waiting}"),
        None => pulling,
    }
}

/// What a container was given.
async fn network_of(preparing: network::Preparing) -> Result<Attachment, LaunchFailure> {
    let prepared = preparing
        .await
        .unwrap_or_else(|error| Err(StartError::Failed(format!("preparing broke: {error}"))));
    prepared.map_err(|error| {
        let (state, reason) = match error {
            StartError::Invalid(_) => (TaskState::Error, Reason::TaskInvalid),
            StartError::Failed(_) => (TaskState::Failed, Reason::ContainerLaunchFailed),
        };
        failed(state, reason, format!("network: {error}"))
    })
}

fn failed(state: TaskState, reason: Reason, message: String) -> LaunchFailure {
    LaunchFailure::Failed(Outcome::new(state, reason, message))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LaunchFailure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        failed(
            TaskState::Failed,
            Reason::ContainerLaunchFailed,
            format!("a step of the launch broke: {error}"),
        )
    })
}

fn has_host_paths(info: &TaskInfo) -> bool {
    let mut volumes = info.container.volumes.iter();
    volumes.any(|volume| matches!(volume.source, VolumeSource::HostPath(_)))
}

/// Where the task's host volumes really are, in their order; each must still be beneath an allowed path once links are
/// followed, or in the sandbox, where none is.
fn resolve_host_paths(
    info: &TaskInfo,
    allow: &[PathBuf],
    sandbox: &Path,
) -> Result<Vec<PathBuf>, LaunchFailure> {
    let mut resolved = Vec::new();
    for (n, volume) in info.container.volumes.iter().enumerate() {
        let VolumeSource::HostPath(path) = &volume.source else {
            continue;
        };
        if let Some(path) = volume.source.in_sandbox() {
            let place = sandbox::ensure(sandbox, path).map_err(|error| {
                let message =
                    format!("container.volumes[{n}].host_path: {path} in the sandbox: {error}");
                failed(TaskState::Failed, Reason::ContainerLaunchFailed, message)
            })?;
            resolved.push(place);
            continue;
        }
        let real = fs::canonicalize(path).map_err(|error| {
            failed(
                TaskState::Failed,
                Reason::ContainerLaunchFailed,
                format!("host volume {path}: {error}"),
            )
        })?;
        let allowed = allow
            .iter()
            .filter_map(|allowed| fs::canonicalize(allowed).ok())
            .any(|allowed| real.starts_with(allowed));
        if !allowed {
            let message = format!(
                "host volume {path} leads to {}, which this agent's operator does not allow (host_path_allow)",
                real.display()
            );
            return Err(failed(TaskState::Error, Reason::TaskUnauthorized, message));
        }
        resolved.push(real);
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{SecretEnv, Volume};

    use super::*;
    use crate::task::tests::a_task;

    #[test]
    fn a_pull_tells_how_far_it_is_and_what_it_waits_for() {
        let at = |done, total, waiting: Option<&str>| {
            told(&PullProgress {
                done,
                total,
                waiting: waiting.map(str::to_owned),
            })
        };
        assert_eq!(at(0, 0, None), "pulling");
        assert_eq!(at(43, 100, None), "pulling 43 %");
        assert_eq!(at(u64::MAX, 100, None), "pulling 100 %");
        let limit = "12 s for registry r.example (rate limit)";
        assert_eq!(
            at(0, 0, Some(limit)),
            "pulling, waiting 12 s for registry r.example (rate limit)"
        );
    }

    #[test]
    fn only_what_a_task_names_is_read_from_disk() {
        let volume = |source| Volume {
            container_path: "/data".into(),
            read_only: true,
            source,
        };
        let wanted = |change: &dyn Fn(&mut TaskInfo)| {
            let mut task = a_task("t");
            change(&mut task);
            (
                has_host_paths(&task),
                TaskSecrets::are_wanted_by(&task),
                Profiles::are_wanted_by(&task),
            )
        };
        let secret = || "key".parse().unwrap();
        assert_eq!(wanted(&|_| {}), (false, false, false));
        let host = VolumeSource::HostPath("/srv".into());
        let with_volume = |source: VolumeSource| {
            wanted(&|task| task.container.volumes = vec![volume(source.clone())])
        };
        assert_eq!(with_volume(host), (true, false, false));
        assert_eq!(
            with_volume(VolumeSource::Secret(secret())),
            (false, true, false)
        );
        let variable = wanted(&|task| {
            task.container.secret_env = vec![SecretEnv {
                name: "TOKEN".into(),
                secret: secret(),
            }];
        });
        assert_eq!(variable, (false, true, false));
        let profile =
            wanted(&|task| task.container.seccomp_profile = Some("strict".parse().unwrap()));
        assert_eq!(profile, (false, false, true));
        let profile = wanted(&|task| task.container.apparmor_profile = Some("strict".into()));
        assert_eq!(profile, (false, false, true));
    }

    #[test]
    fn a_link_out_of_the_allowed_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let allowed = dir.path().join("allowed");
        fs::create_dir_all(allowed.join("data")).unwrap();
        std::os::unix::fs::symlink("/etc", allowed.join("link")).unwrap();
        let resolve = |path: PathBuf| {
            let mut task = a_task("t");
            task.container.volumes = vec![Volume {
                container_path: "/data".into(),
                read_only: true,
                source: VolumeSource::HostPath(path.display().to_string()),
            }];
            resolve_host_paths(&task, std::slice::from_ref(&allowed), dir.path())
        };
        assert!(resolve(allowed.join("data")).is_ok());
        let refused = resolve(allowed.join("link")).unwrap_err();
        assert!(
            matches!(refused, LaunchFailure::Failed(outcome) if outcome.reason == Some(Reason::TaskUnauthorized))
        );
        assert!(resolve(allowed.join("missing")).is_err());
    }
}
