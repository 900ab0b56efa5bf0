//! Wiring: takes the state folder, opens what the agent stands on, recovers, and runs the owner, the link to the master,
//! the sampler and the listener until told to stop.
//!
//! Nothing is decided here but the order: lock, listen, open, recover, then talk.

use std::{
    fs::{File, TryLockError},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mezzo_api::credential::Credential;
use mezzo_api::{
    model::AgentInfo,
    proto::{Capacity, FILE_DESCRIPTOR_SET, node_service_server::NodeServiceServer},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Error,
    actor::{self, Actor, Clock, Lender, OnShutdown},
    disk::{self, Disk},
    fetch::Fetcher,
    grpc::NodeApi,
    http, image_gc,
    launch::Launcher,
    master_link::{Identity, Link},
    master_term::Term,
    node::{
        Images, Runtime,
        images::ImageFolder,
        profiles::Profiles,
        runtime::{Containers, cgroup_mode, default_capabilities},
        secrets::TaskSecrets,
    },
    recovery::{execute::recover, versions::refuse_newer},
    resources::{book::Book, detect, devices, grant::Grants},
    stats::Stats,
    store::{Store, private_dir, write_atomically},
    task::{
        Context,
        core::{Core, Settings},
        updates::Retry,
    },
    usage,
};

/// Told where the agent listens, once it does.
pub type Ready = oneshot::Sender<SocketAddr>;

/// Copies into and out of containers at once; others are told to come again.
const COPIES: usize = 8;
/// Open calls may take so long to finish when the agent stops.
const SERVE_DRAIN: Duration = Duration::from_secs(3);
/// How long after the address could not be written it is tried again.
const ADDRESS_RETRY: Duration = Duration::from_secs(1);

/// Runs an agent until it is told to stop.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    run_with(config, shutdown, None).await
}

/// The same; each time `again` is notified the credential is read again. The stream stays.
pub async fn run_reloading(
    config: Config,
    shutdown: CancellationToken,
    again: Arc<Notify>,
) -> Result<(), Error> {
    run_all(config, shutdown, None, again).await
}

/// The same, telling when it listens. The address is also in `<state_dir>/address`.
pub async fn run_with(
    config: Config,
    shutdown: CancellationToken,
    ready: Option<Ready>,
) -> Result<(), Error> {
    run_all(config, shutdown, ready, Arc::default()).await
}

async fn run_all(
    config: Config,
    shutdown: CancellationToken,
    ready: Option<Ready>,
    again: Arc<Notify>,
) -> Result<(), Error> {
    config.check()?;
    let _lock = lock(&config.state_dir)?;
    refuse_newer(&config.state_dir)?;
    forget_address(&config.state_dir)?;
    let listener = listen(&config.listen).await?;
    let images = open_images(&config).await?;
    let runtime = Containers::open(runtime_config(&config))
        .await
        .map_err(|error| Error::Runtime(error.to_string()))?
        .with_logs(
            config.log_max_mb << 20,
            config.log_files,
            Some(config.log_max_age_secs).filter(|secs| *secs > 0),
        )
        .with_own_users(config.user_namespaces);
    serve(
        config,
        listener,
        Arc::new(runtime),
        Arc::new(images),
        shutdown,
        (ready, again),
    )
    .await
}

/// Nobody shall read the address of the agent before.
fn forget_address(state_dir: &Path) -> Result<(), Error> {
    let path = state_dir.join("address");
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::State {
            operation: "remove",
            path,
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Takes the state folder for this process; free again when the file is dropped, however the process ends.
pub(crate) fn lock(state_dir: &Path) -> Result<File, Error> {
    let failed = |operation, source| Error::State {
        operation,
        path: state_dir.into(),
        source,
    };
    private_dir(state_dir).map_err(|source| failed("make the state folder", source))?;
    let path = state_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| failed("open the lock file in", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(state_dir.into())),
        Err(TryLockError::Error(source)) => Err(failed("lock", source)),
    }
}

pub(crate) fn runtime_config(config: &Config) -> mezzo_runtime::RuntimeConfig {
    let mut to =
        mezzo_runtime::RuntimeConfig::new(config.state_dir.join("runtime"), config.cgroup_parent());
    to.max_parallel_starts = config.max_parallel_starts;
    to.network = config.network.to_runtime();
    to.apparmor = match config.apparmor.as_str() {
        "auto" => mezzo_runtime::AppArmor::Auto,
        "off" => mezzo_runtime::AppArmor::Off,
        name => mezzo_runtime::AppArmor::Profile(name.to_owned()),
    };
    if let Some(program) = &config.launcher {
        to.launcher = mezzo_runtime::LauncherProgram::Path(program.clone());
    }
    to
}

pub(crate) async fn open_images(config: &Config) -> Result<ImageFolder, Error> {
    let store = mezzo_images::StoreConfig {
        root: config.state_dir.join("images"),
        insecure_registries: config.insecure_registries.clone(),
        registries: config.registries.clone(),
        signature_policy: config.signature_policy.clone(),
        pull_deadline: Duration::from_secs(config.pull_deadline_secs),
        ..mezzo_images::StoreConfig::default()
    };
    let folder = ImageFolder::open(store)
        .await
        .map_err(|error| Error::Images(error.to_string()))?;
    Ok(folder.with_pull_secrets(config.pull_secrets_dir.clone()))
}

#[cfg(test)]
#[tokio::test]
async fn what_the_signature_policy_refuses_is_the_reason_that_a_task_gets() {
    use crate::node::{ContainerId, ImageError, PullProgress};
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let config = Config {
        state_dir: folder.path().join("agent"),
        signature_policy: Some(policy.clone()),
        ..Config::default()
    };
    std::fs::create_dir(&config.state_dir).unwrap();
    let images = open_images(&config).await.unwrap();
    let refused = async || {
        let (progress, _) = tokio::sync::watch::channel(PullProgress::default());
        let id = ContainerId::derive("task", 1);
        // Nobody answers there: the policy speaks before a registry is asked.
        let prepared = images.prepare("127.0.0.1:1/app:1", false, None, &id, progress);
        match prepared.await {
            Err(ImageError::Unavailable(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let reason = refused().await;
    assert!(reason.contains("policy.toml cannot be used"), "{reason}");
    std::fs::write(&policy, "default = \"reject\"").unwrap();
    let reason = refused().await;
    assert!(
        reason.contains("127.0.0.1:1/app:1 may not run here: no policy in"),
        "{reason}"
    );
}

async fn listen(address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address: address.to_owned(),
            source,
        })
}

/// Everything above the two seams.
pub(crate) async fn serve(
    config: Config,
    listener: TcpListener,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn Images>,
    shutdown: CancellationToken,
    (ready, again): (Option<Ready>, Arc<Notify>),
) -> Result<(), Error> {
    let local = listener.local_addr().map_err(|source| Error::Listen {
        address: config.listen.clone(),
        source,
    })?;
    let identity_path = config.state_dir.join("agent.json");
    let identity = Identity::load(&identity_path)?;
    let store = Store::open(&config.state_dir)?;
    let capacity = detect::capacity(&config);
    let info = agent_info(&config, local, &capacity);
    let stats = Stats::new(config.metrics_max_apps);
    let settings = settings(&config);
    for (set, path) in devices::missing(&config.devices) {
        tracing::warn!(set, path = %path.display(), "a declared device is not here: tasks that are given it will fail");
    }

    let clock = Clock::start();
    let mut core = Core::new(
        settings.clone(),
        identity.agent_id.clone(),
        info.resources.clone(),
        Grants::new(detect::processors(), config.devices.clone()),
    );
    let mut random = rand::random::<u128>;
    let mut ctx = Context {
        now: clock.now(),
        random: &mut random,
    };
    let book = Book::open(detect::declared(&config, &capacity), store.load_book()?)
        .map_err(Error::ReservationsDoNotFit)?;
    let purges = core.open_book(book);
    let mut recovered = recover(&mut core, &settings, &store, &runtime, &images, &mut ctx).await?;
    recovered.extend(purges);

    let disk = Arc::new(Disk::open(&config, &store, &runtime, &images));
    let (handle, commands) = actor::channel();
    let actor = Actor::new(
        core,
        clock,
        Launcher {
            runtime: Arc::clone(&runtime),
            images: Arc::clone(&images),
            store: store.clone(),
            hostname: info.hostname.clone(),
            host_path_allow: config.host_path_allow.clone(),
            dns: config.network.dns.clone(),
            devices: config.devices.clone(),
            disk: Arc::clone(&disk),
            secrets: TaskSecrets::new(config.secrets_dir.clone()),
            fetcher: Fetcher::open(&config)?,
            profiles: Profiles::new(config.seccomp_dir.clone(), config.apparmor_profiles.clone()),
            starts: Arc::new(Semaphore::new(config.max_parallel_starts)),
        },
        stats.clone(),
    );
    let lender = config.oversubscribe.then(|| {
        Lender::new(
            &config.oversubscription,
            settings.cgroup_mode,
            capacity.cpu_millis,
        )
    });
    let actor = actor.with_lender(lender);
    let on_shutdown = if config.kill_tasks_on_shutdown {
        OnShutdown::Kill
    } else {
        OnShutdown::Leave
    };
    // Everything stops together: when told to, and when one part cannot go on.
    let stop = shutdown.child_token();
    let mut parts: JoinSet<Result<(), Error>> = JoinSet::new();
    let token = stop.clone();
    parts.spawn(async move {
        actor.run(recovered, commands, token, on_shutdown).await;
        Ok(())
    });
    let credential = Credential::read(config.credential.as_deref())?;
    let (kept, token) = (credential.clone(), stop.clone());
    parts.spawn(async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = kept.keep_current(&again) => {}
        }
        Ok(())
    });
    let link = Link {
        masters: config.masters()?,
        credential,
        term: Term::load(config.state_dir.join("master-term"))?,
        handle: handle.clone(),
        info: info.clone(),
        boot_id: settings.boot_id.clone(),
        identity,
        identity_path,
        store,
    };
    parts.spawn(link.run(stop.clone()));
    let sampler = usage::run(
        handle.clone(),
        Arc::clone(&runtime),
        config.state_dir.clone(),
        config.usage_interval(),
        stop.clone(),
    );
    parts.spawn(async move {
        sampler.await;
        Ok(())
    });
    let measurer = disk::run(handle.clone(), disk, config.disk_interval(), stop.clone());
    parts.spawn(async move {
        measurer.await;
        Ok(())
    });
    let collector = image_gc::run(
        handle.clone(),
        Arc::clone(&images),
        config.image_gc(),
        stop.clone(),
    );
    parts.spawn(async move {
        collector.await;
        Ok(())
    });
    parts.spawn(listener_task(
        listener,
        local,
        NodeApi {
            handle,
            runtime: Arc::clone(&runtime),
            info,
            stats,
            copies: Arc::new(Semaphore::new(COPIES)),
            capacity: api_capacity(&capacity, config.resources.is_some()),
        },
        stop.clone(),
    ));

    let address_file = config.state_dir.join("address");
    if let Err(error) = tell_address(&address_file, local) {
        // A full disk is no reason to leave tasks alone: some of them may be what fills it.
        tracing::error!(file = %address_file.display(), %error, "cannot write where this agent listens; trying until it works");
        let token = stop.clone();
        parts.spawn(async move {
            tell_address_later(address_file, local, token).await;
            Ok(())
        });
    }
    tracing::info!(address = %local, master = config.master, "agent is up");
    if let Some(ready) = ready {
        let _ = ready.send(local);
    }

    let mut result = Ok(());
    while let Some(part) = parts.join_next().await {
        let outcome = part.unwrap_or_else(|error| {
            Err(Error::Runtime(format!(
                "a part of the agent broke: {error}"
            )))
        });
        if let Err(error) = outcome
            && result.is_ok()
        {
            result = Err(error);
        }
        // A part that ends by itself takes the others along; told to stop, all end anyway.
        stop.cancel();
    }
    if on_shutdown == OnShutdown::Kill {
        remove_everything(runtime.as_ref(), images.as_ref()).await?;
    }
    result
}

fn tell_address(file: &Path, local: SocketAddr) -> std::io::Result<()> {
    write_atomically(file, format!("{local}\n").as_bytes())
}

/// Until the agent stops, as every part of it.
async fn tell_address_later(file: PathBuf, local: SocketAddr, stop: CancellationToken) {
    let telling = async {
        loop {
            tokio::time::sleep(ADDRESS_RETRY).await;
            let file = file.clone();
            let told = tokio::task::spawn_blocking(move || tell_address(&file, local)).await;
            if matches!(told, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = telling => tracing::info!(file = %file.display(), "where this agent listens is written"),
    }
    stop.cancelled().await;
}

async fn remove_everything(runtime: &dyn Runtime, images: &dyn Images) -> Result<(), Error> {
    runtime
        .purge()
        .await
        .map_err(|error| Error::Runtime(error.to_string()))?;
    for key in images
        .list_snapshots()
        .await
        .map_err(|error| Error::Images(error.to_string()))?
    {
        if let Err(error) = images.remove_snapshot(&key).await {
            tracing::warn!(key, %error, "cannot remove a root file system");
        }
    }
    Ok(())
}

fn settings(config: &Config) -> Settings {
    Settings {
        retry: Retry {
            first_ms: 1_000,
            max_ms: 30_000,
        },
        kill_grace: Duration::from_millis(config.kill_grace_ms),
        retain_ended: config.retain_ended,
        retain_ms: config.retain_secs.saturating_mul(1000),
        allow_privileged: config.allow_privileged,
        allow_host_users: config.allow_host_users,
        allow_capabilities: [default_capabilities(), config.allow_capabilities.clone()].concat(),
        host_path_allow: config.host_path_allow.clone(),
        boot_id: detect::boot_id(),
        default_pids: config.default_pids_limit,
        enforce_disk: config.enforce_disk,
        cgroup_mode: cgroup_mode(),
    }
}

fn api_capacity(capacity: &detect::Capacity, configured: bool) -> Capacity {
    Capacity {
        cpu_millis: capacity.cpu_millis,
        mem_mb: capacity.mem_mb,
        disk_mb: capacity.disk_mb,
        reserved_cpu_millis: capacity.reserved_cpu_millis,
        reserved_mem_mb: capacity.reserved_mem_mb,
        reserved_disk_mb: capacity.reserved_disk_mb,
        configured,
    }
}

fn agent_info(config: &Config, local: SocketAddr, capacity: &detect::Capacity) -> AgentInfo {
    let hostname = config.hostname.clone().unwrap_or_else(detect::hostname);
    let address = config.advertise.clone().unwrap_or_else(|| {
        if local.ip().is_unspecified() {
            format!("{hostname}:{}", local.port())
        } else {
            local.to_string()
        }
    });
    AgentInfo {
        hostname,
        address,
        resources: detect::total(config, capacity),
        // The owner has the truth of these.
        reserved: Vec::new(),
        volumes: Vec::new(),
        attributes: config.attributes.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: detect::kernel(),
        architecture: std::env::consts::ARCH.to_owned(),
        cgroup_mode: cgroup_mode(),
    }
}

async fn listener_task(
    listener: TcpListener,
    local: SocketAddr,
    api: NodeApi,
    stop: CancellationToken,
) -> Result<(), Error> {
    let failed = |source| Error::Serve {
        address: local.to_string(),
        source,
    };
    let other = |error: tonic_reflection::server::Error| failed(std::io::Error::other(error));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(other)?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<NodeServiceServer<NodeApi>>().await;
    let routes = http::routes(api.handle.clone(), api.stats.clone());
    let mut grpc = tonic::service::Routes::builder();
    grpc.add_service(NodeServiceServer::new(api))
        .add_service(reflection)
        .add_service(health);
    let app = grpc.routes().into_axum_router().merge(routes);
    let serving = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(SERVE_DRAIN).await;
    };
    tokio::select! {
        served = async { serving.await } => served.map_err(failed),
        // Followers of logs would keep the agent from stopping.
        () = drained => Ok(()),
    }
}
