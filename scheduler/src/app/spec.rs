//! The checked description of an app. Valid by construction: only [`super::parse`] makes one from outside data.
//!
//! Pure. Quantities are exact: thousandths for cpus, mem, disk and seconds, millionths for shares and factors.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{
    FetchUri, NetworkMode, ProfileName, RoleName, Scalar, SecretEnv, SecretSource, TaskLimits,
    Volume, VolumeSource,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::AppId;
use super::check::AppCheck;
use super::confinement::Confinement;
use super::constraint::{Constraint, Operator};
use super::pod::Pod;
use super::readiness::AppReadinessCheck;
use super::residency::{PersistentMount, Residency};
use super::role::Accepts;

/// One million: shares and factors are in millionths.
pub const PPM: u64 = 1_000_000;

/// What runs in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// What the image says.
    Image,
    /// A line for `/bin/sh -c`.
    Shell(String),
    /// Arguments for the image's entrypoint.
    Args(Vec<String>),
}

/// Which of Marathon's container types the app named; both run the same way here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// `DOCKER`.
    Docker,
    /// `MESOS`.
    Mesos,
}

/// The image and how it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// As named by the app.
    pub engine: Engine,
    /// Reference, as the app wrote it.
    pub image: String,
    /// Ask the registry although the image is there.
    pub force_pull: bool,
    /// All capabilities and devices.
    pub privileged: bool,
    /// What else it may do, and where it may write.
    pub confinement: Confinement,
    /// The machine's own user numbers.
    pub host_users: bool,
    /// Of the agents' operator, instead of the default one.
    pub seccomp_profile: Option<ProfileName>,
    /// One that the agents' operator lets tasks ask for.
    pub apparmor_profile: Option<String>,
    /// The machine's unless the app says otherwise.
    pub network: NetworkMode,
    /// Which of the agents' networks, for [`NetworkMode::Container`].
    pub network_name: Option<String>,
    /// Given to that network's plug-ins.
    pub network_labels: BTreeMap<String, String>,
    /// Host paths.
    pub volumes: Vec<Volume>,
    /// Volumes whose content outlives tasks.
    pub persistent: Vec<PersistentMount>,
    /// Files with secrets: where, and the name that the app gives the secret.
    pub secret_volumes: Vec<(String, String)>,
    /// The one of the app's secrets that holds the credentials for the image's registry.
    pub pull_secret: Option<String>,
}

/// Which port of the machine leads to a port of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPort {
    /// None: only the container's own address does.
    None,
    /// Whichever is free.
    Any,
    /// This one.
    Fixed(u16),
}

/// Where a port leads to, in a network of the container's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortTarget {
    /// Where the container listens; 0: the same number as the machine's.
    pub container_port: u16,
    /// From where.
    pub host: HostPort,
}

/// A port of each task: one of the machine's, or one of its own that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortDefinition {
    /// The service port; with `require_ports` also the port of the machine. 0: any.
    pub port: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    pub protocol: String,
    /// For `PORT_NAME`.
    pub name: Option<String>,
    /// Opaque.
    pub labels: BTreeMap<String, String>,
    /// `None` in the machine's network.
    pub target: Option<PortTarget>,
}

/// One of a task's ports, once the machine's are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedPort {
    /// Of the machine.
    pub host: Option<u16>,
    /// Where the task listens, in its own network.
    pub inside: u16,
}

/// Marathon's names for ways to ask for health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `HTTP`.
    Http,
    /// `HTTPS`.
    Https,
    /// `TCP`.
    Tcp,
    /// `COMMAND`.
    Command,
    /// `MESOS_HTTP`.
    MesosHttp,
    /// `MESOS_HTTPS`.
    MesosHttps,
    /// `MESOS_TCP`.
    MesosTcp,
    /// `GRPC`, which Marathon did not have.
    Grpc,
}

impl Protocol {
    /// By Marathon's names.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("HTTP", Self::Http),
        ("HTTPS", Self::Https),
        ("TCP", Self::Tcp),
        ("COMMAND", Self::Command),
        ("MESOS_HTTP", Self::MesosHttp),
        ("MESOS_HTTPS", Self::MesosHttps),
        ("MESOS_TCP", Self::MesosTcp),
        ("GRPC", Self::Grpc),
    ];

    /// Marathon's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, protocol)| *protocol == self)
            .map_or("TCP", |(name, _)| name)
    }

    /// Whether a port is asked.
    #[must_use]
    pub fn needs_port(self) -> bool {
        self != Self::Command
    }

    /// Whether an HTTP path is asked for.
    #[must_use]
    pub fn needs_path(self) -> bool {
        matches!(
            self,
            Self::Http | Self::Https | Self::MesosHttp | Self::MesosHttps
        )
    }

    /// Whether Marathon itself ran such checks; it differs in delay and in what "0 failures" means.
    #[must_use]
    pub fn was_run_by_marathon(self) -> bool {
        matches!(self, Self::Http | Self::Https | Self::Tcp)
    }
}

/// Which port a check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckPort {
    /// The nth of the task's own ports.
    Index(u32),
    /// This one.
    Fixed(u16),
}

/// How the agent asks whether a task works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppHealthCheck {
    /// Which way.
    pub protocol: Protocol,
    /// For HTTP and HTTPS; for gRPC the name of the service.
    pub path: String,
    /// For all but commands.
    pub port: CheckPort,
    /// For commands.
    pub command: Option<String>,
    /// Thousandths of seconds.
    pub grace_period_ms: u64,
    /// Thousandths of seconds.
    pub interval_ms: u64,
    /// Thousandths of seconds.
    pub timeout_ms: u64,
    /// Thousandths of seconds.
    pub delay_ms: u64,
    /// See [`Protocol::was_run_by_marathon`].
    pub max_consecutive_failures: u32,
    /// Over IPv6.
    pub ipv6: bool,
}

impl AppHealthCheck {
    /// After so many failures in a row an instance is not wanted any more; `None`: never. 0 means "never" for checks
    /// that Marathon ran itself, "at the first failure" for those of Mesos.
    #[must_use]
    pub fn max_failures(&self) -> Option<u32> {
        match self.max_consecutive_failures {
            0 if self.protocol.was_run_by_marathon() => None,
            failures => Some(failures.max(1)),
        }
    }
}

/// How many may be missing or too many while an update rolls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeStrategy {
    /// Share of the instances that stay healthy, in millionths.
    pub minimum_health_ppm: u64,
    /// Share of the instances that may run in addition, in millionths.
    pub maximum_over_ppm: u64,
    /// How a new configuration is tried before it replaces the old one.
    pub trial: Trial,
    /// An update that is not done so long after its step began, or after its trial, is taken back.
    pub rollback_after_ms: Option<u64>,
}

/// What comes before all instances are replaced (fields of mezzo's own).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trial {
    /// Nothing: instances are replaced one after the other.
    #[default]
    None,
    /// A few of the new beside the old.
    Canary {
        /// So many.
        instances: u32,
        /// So long all of them must be healthy; `None`: until somebody says so.
        hold_ms: Option<u64>,
    },
    /// All of the new beside all of the old, which then end together.
    BlueGreen {
        /// As for a canary.
        hold_ms: Option<u64>,
    },
}

impl Default for UpgradeStrategy {
    fn default() -> Self {
        Self {
            minimum_health_ppm: PPM,
            maximum_over_ppm: PPM,
            trial: Trial::None,
            rollback_after_ms: None,
        }
    }
}

/// How long to wait before a task that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffStrategy {
    /// The first delay.
    pub initial_ms: u64,
    /// Growth per failure, in millionths.
    pub factor_ppm: u64,
    /// Never longer.
    pub max_ms: u64,
}

impl Default for BackoffStrategy {
    fn default() -> Self {
        Self {
            initial_ms: 1000,
            factor_ppm: 1_150_000,
            max_ms: 300_000,
        }
    }
}

/// Which instances go first when there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KillSelection {
    /// The default.
    #[default]
    YoungestFirst,
    /// The reverse.
    OldestFirst,
}

/// Which of the machines that can take an instance comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placing {
    /// The one with the fewest instances of the app, the default.
    #[default]
    Spread,
    /// The one with the least room, so that whole machines stay free for large apps.
    BestFit,
}

/// What to do about instances on machines that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreachableStrategy {
    /// Wait for ever.
    Disabled,
    /// Replace after a while; when the old one comes back after `expunge_ms`, it is the first to go.
    After {
        /// Then a replacement starts.
        inactive_ms: u64,
        /// Then the old one is not wanted any more.
        expunge_ms: u64,
    },
}

impl Default for UnreachableStrategy {
    fn default() -> Self {
        Self::After {
            inactive_ms: 0,
            expunge_ms: 0,
        }
    }
}

/// A limit above what is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `"unlimited"`.
    Unlimited,
    /// In the resource's own unit.
    Of(Scalar),
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its path.
    pub id: AppId,
    /// What runs.
    pub run: Run,
    /// Per instance.
    pub cpus: Scalar,
    /// Per instance, MiB.
    pub mem: Scalar,
    /// Per instance, MiB.
    pub disk: Scalar,
    /// Per instance.
    pub gpus: Scalar,
    /// How many run.
    pub instances: u32,
    /// Where it comes from.
    pub container: Container,
    /// For the process.
    pub env: BTreeMap<String, String>,
    /// Variables with secrets, and the names that the app gives these.
    pub secret_env: BTreeMap<String, String>,
    /// For people and load balancers.
    pub labels: BTreeMap<String, String>,
    /// One of the machine's ports each.
    pub ports: Vec<PortDefinition>,
    /// The machine's ports must be those numbers.
    pub require_ports: bool,
    /// Each asked by itself: an instance is healthy when all say so. Of a container of a pod at most one.
    pub health_checks: Vec<AppHealthCheck>,
    /// At most one, as in Marathon.
    pub readiness_check: Option<AppReadinessCheck>,
    /// What is asked and told, and no more.
    pub check: Option<AppCheck>,
    /// Bounds of a rolling update.
    pub upgrade: UpgradeStrategy,
    /// After failures.
    pub backoff: BackoffStrategy,
    /// Between SIGTERM and SIGKILL; `None`: the agent's default.
    pub kill_grace_ms: Option<u64>,
    /// When there are too many.
    pub kill_selection: KillSelection,
    /// Which machines its instances may run on.
    pub constraints: Vec<Constraint>,
    /// Which of those comes first.
    pub placing: Placing,
    /// Apps and groups that a deployment takes before it.
    pub dependencies: BTreeSet<AppId>,
    /// When a machine is away.
    pub unreachable: UnreachableStrategy,
    /// Above `cpus`.
    pub cpu_limit: Option<Limit>,
    /// Above `mem`.
    pub mem_limit: Option<Limit>,
    /// Processes and threads; `None`: the agent's default.
    pub pids_limit: Option<u64>,
    /// The rest of `resourceLimits`; whether memory is unlimited says `mem_limit`.
    pub limits: TaskLimits,
    /// In the container.
    pub user: Option<String>,
    /// The program has a terminal.
    pub tty: bool,
    /// Where secrets come from, by the names that the app gives them.
    pub secrets: BTreeMap<String, SecretSource>,
    /// It runs on what others do not use, until they need it.
    pub revocable: bool,
    /// Its instances keep what they have on a machine; exactly where it has persistent volumes.
    pub residency: Option<Residency>,
    /// Its instances are several containers each; then the amounts and ports are the sums of theirs, and what is said of one
    /// task (image, command, health check, limits) is theirs alone.
    pub pod: Option<Box<Pod>>,
    /// Put into the sandbox before a task starts.
    pub fetch: Vec<FetchUri>,
    /// In whose share it runs.
    pub role: RoleName,
    /// Which resources of that role's offers it takes.
    pub accepts: Accepts,
}

/// Marathon's label for an app of which there must never be two instances; it counts where its value is `true`.
pub const SINGLE_INSTANCE: &str = "MARATHON_SINGLE_INSTANCE_APP";

impl App {
    /// Whether there must never be two instances of it, by that label.
    #[must_use]
    pub fn is_single_instance(&self) -> bool {
        let label = self.labels.get(SINGLE_INSTANCE);
        label.is_some_and(|value| value == "true")
    }

    /// Where the credentials for the image's registry come from, if not from the agent's own.
    #[must_use]
    pub fn pull_secret(&self) -> Option<&SecretSource> {
        self.secrets.get(self.container.pull_secret.as_deref()?)
    }

    /// The task's volumes, those with secrets too; persistent ones come from what an instance keeps.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        let secrets = self.container.secret_volumes.iter();
        let secrets = secrets.filter_map(|(path, name)| {
            Some(Volume {
                container_path: path.clone(),
                read_only: true,
                source: VolumeSource::Secret(self.secrets.get(name)?.clone()),
            })
        });
        let of_machine = self.container.volumes.iter();
        of_machine
            .filter(|volume| !self.container.is_kept(volume))
            .cloned()
            .chain(secrets)
            .collect()
    }

    /// The task's variables with secrets.
    #[must_use]
    pub fn secret_variables(&self) -> Vec<SecretEnv> {
        let variables = self.secret_env.iter();
        let variables = variables.filter_map(|(variable, name)| {
            Some(SecretEnv {
                name: variable.clone(),
                secret: self.secrets.get(name)?.clone(),
            })
        });
        variables.collect()
    }

    /// The task's ports, one per definition, given the machine's ports in the order in which they were asked for.
    #[must_use]
    pub fn assigned_ports(&self, host_ports: &[u16]) -> Vec<AssignedPort> {
        let mut given = host_ports.iter().copied();
        self.ports
            .iter()
            .map(|definition| match definition.target {
                None => {
                    let port = given.next();
                    AssignedPort {
                        host: port,
                        inside: port.unwrap_or(0),
                    }
                }
                Some(target) => {
                    let host = match target.host {
                        HostPort::None => None,
                        HostPort::Any | HostPort::Fixed(_) => given.next(),
                    };
                    let inside = match target.container_port {
                        0 => host.unwrap_or(0),
                        port => port,
                    };
                    AssignedPort { host, inside }
                }
            })
            .collect()
    }

    /// How many tasks one instance is.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.pod.as_ref().map_or(1, |pod| pod.containers.len())
    }

    /// The fields by which its instances are to be spread evenly.
    pub fn grouping(&self) -> impl Iterator<Item = &str> {
        self.constraints
            .iter()
            .filter(|constraint| matches!(constraint.operator, Operator::GroupBy(_)))
            .map(|constraint| constraint.field.as_str())
    }

    /// How long an instance may go on to fail this one of its health checks, from the first failure, before it is replaced;
    /// `None`: for ever, or the agent ends it. That is so where a replacement needs what the old one keeps.
    #[must_use]
    pub fn patience_ms(&self, check: &AppHealthCheck) -> Option<u64> {
        let keeps_nothing = self.container.persistent.is_empty();
        let more = u64::from(check.max_failures().filter(|_| keeps_nothing)?) - 1;
        Some(check.interval_ms.saturating_mul(more))
    }

    /// The same as long as nobody says which of them fails: for the most patient one, which may be one that waits for ever.
    #[must_use]
    pub fn most_patience_ms(&self) -> Option<u64> {
        let checks = self.health_checks.iter();
        let each: Option<Vec<u64>> = checks.map(|check| self.patience_ms(check)).collect();
        each?.into_iter().max()
    }

    /// Whether the two differ in anything but how many run.
    #[must_use]
    pub fn same_config(&self, other: &Self) -> bool {
        let mut scaled = other.clone();
        scaled.instances = self.instances;
        *self == scaled
    }
}

impl Container {
    /// Whether a volume's relative `hostPath` is where a persistent volume is in the sandbox: then it is that volume in
    /// another place, as in Marathon. Any other is of the sandbox itself.
    fn is_kept(&self, volume: &Volume) -> bool {
        let mut kept = self.persistent.iter();
        let path = volume.source.in_sandbox();
        path.is_some_and(|path| kept.any(|mount| mount.container_path == path))
    }
}

impl Serialize for App {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// The durable form is the JSON that people see, read by the same code.
impl<'de> Deserialize<'de> for App {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let (app, report) = super::parse_app_or_pod(&value);
        app.ok_or_else(|| {
            let problems: Vec<String> = report
                .errors
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.message))
                .collect();
            serde::de::Error::custom(format!("not an app: {}", problems.join("; ")))
        })
    }
}
