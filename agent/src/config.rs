//! What an operator decides about an agent. Parsed from a file or flags by the command line; every field has a
//! default.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use mezzo_api::{
    masters::Masters,
    model::{Attribute, LinuxCapability, Pools, Ranges},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Error,
    node::GcPolicy,
    resources::devices::{self, DeviceSet},
    slack::settings::Oversubscription,
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where NodeService, `/metrics` and `/healthz` listen.
    pub listen: String,
    /// host:port that others reach the listener at; by default the listener's own address.
    pub advertise: Option<String>,
    /// As people know the machine; by default the kernel's host name.
    pub hostname: Option<String>,
    /// host:port of the master; of several masters: host:port,host:port,...
    pub master: String,
    /// A file with `NAME:SECRET`, shown to masters that ask for a credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<PathBuf>,
    /// Everything that must survive; of this agent alone.
    pub state_dir: PathBuf,
    /// All there is to offer, instead of what is detected. With a role after a name, `cpus(eng):4`, it is reserved.
    pub resources: Option<Pools>,
    /// Kept back from what is detected, in processors; by default none: the system takes its share by weight.
    pub reserve_cpus: Option<f64>,
    /// Kept back from what is detected, in MiB; by default a sixteenth of it, at least 256 and at most 2048, but never
    /// more than a quarter.
    pub reserve_mem_mb: Option<u64>,
    /// Kept back from what is detected, in MiB; by default a twentieth of it, at least 1024 and at most 20480, but never
    /// more than a quarter.
    pub reserve_disk_mb: Option<u64>,
    /// Host ports to offer, inclusive, when `resources` does not say.
    pub ports: (u16, u16),
    /// For constraints.
    pub attributes: Vec<Attribute>,
    /// For constraints across sites.
    pub region: String,
    /// For constraints across sites.
    pub zone: String,
    /// Registries asked over plain HTTP, `host:port`.
    pub insecure_registries: Vec<String>,
    /// Mirrors and certificates of registries, by their names.
    pub registries: mezzo_images::RegistriesConfig,
    /// Folder of the files that apps may name as pull secrets, each like Docker's `config.json`.
    pub pull_secrets_dir: Option<PathBuf>,
    /// Folder of the files that apps may name as secrets of their tasks.
    pub secrets_dir: Option<PathBuf>,
    /// A file that says whose signatures images need, read at each pull; by default all images are let in.
    pub signature_policy: Option<PathBuf>,
    /// Tasks may ask for privileged containers.
    pub allow_privileged: bool,
    /// Capabilities that tasks may add to the default set, like `NET_RAW`.
    pub allow_capabilities: Vec<LinuxCapability>,
    /// Tasks may ask for the machine's own user numbers.
    pub allow_host_users: bool,
    /// Each container has a range of user numbers to itself, where the kernel and the file system can.
    pub user_namespaces: bool,
    /// Folder of the seccomp profiles that tasks may name: `NAME.json`, as Docker or the runtime specification write them.
    pub seccomp_dir: Option<PathBuf>,
    /// The AppArmor profile of containers: `off`, `auto` (mezzo's own, where the kernel has AppArmor), or the name of one
    /// that is loaded.
    pub apparmor: String,
    /// AppArmor profiles that tasks may ask for; `unconfined` is none.
    pub apparmor_profiles: Vec<String>,
    /// Devices that tasks may take by number, such as GPUs.
    pub devices: Vec<DeviceSet>,
    /// Paths of the machine beneath which tasks may ask for volumes.
    pub host_path_allow: Vec<PathBuf>,
    /// Absolute cgroup of all containers; by default one derived from `state_dir`.
    pub cgroup_parent: Option<String>,
    /// Program that becomes the launcher; by default the running one.
    pub launcher: Option<PathBuf>,
    /// Between samples of all tasks.
    pub usage_interval_ms: u64,
    /// What ordinary tasks were given of `cpus` and `mem` and do not use is lent to revocable tasks, which are slowed down
    /// and killed first when it is needed.
    pub oversubscribe: bool,
    /// How much of it, and when it is taken back.
    pub oversubscription: Oversubscription,
    /// Tasks that take more of the disk than they hold (`disk`) are killed; where the file system has project quotas it
    /// also refuses them more. Otherwise what they take is only told.
    pub enforce_disk: bool,
    /// Between measurements of what tasks take on the disk.
    pub disk_interval_ms: u64,
    /// Project ids for tasks where the file system has project quotas, first and last; of this agent alone.
    pub disk_project_ids: (u32, u32),
    /// Size at which a log of a task is put aside, in MiB.
    pub log_max_mb: u64,
    /// Files kept of each of a task's two logs, the current one included.
    pub log_files: u32,
    /// Age at which a log is put aside when more is written to it, in seconds; 0 for no such age.
    pub log_max_age_secs: u64,
    /// Apps that have series of their own in `/metrics`; 0 for none.
    pub metrics_max_apps: usize,
    /// Processes and threads of a task that does not say.
    pub default_pids_limit: u64,
    /// Between SIGTERM and SIGKILL for a task that does not say.
    pub kill_grace_ms: u64,
    /// Whole time that one pull may take.
    pub pull_deadline_secs: u64,
    /// All files that one task fetches, as they come and unpacked together, in MiB.
    pub fetch_max_mb: u64,
    /// Fetched files that are kept for the next task, in MiB; 0 keeps none.
    pub fetch_cache_mb: u64,
    /// Whole time that fetching one file may take.
    pub fetch_deadline_secs: u64,
    /// Above this use of the disk, in percent, unused images are removed; 100 turns that off.
    pub image_gc_high_percent: u8,
    /// Until no more than this is used.
    pub image_gc_low_percent: u8,
    /// Images that were used within this time stay.
    pub image_gc_min_age_secs: u64,
    /// Networks of containers' own.
    pub network: NetworkSettings,
    /// Container starts at once.
    pub max_parallel_starts: usize,
    /// Ended tasks of which folder and logs are kept.
    pub retain_ended: usize,
    /// For how long they are kept at most.
    pub retain_secs: u64,
    /// Containers end with the agent (for `mezzo dev`); otherwise they run on.
    pub kill_tasks_on_shutdown: bool,
}

/// From being told to stop to the end, with tasks left running.
const STOP: Duration = Duration::from_secs(25);
/// The same, with all tasks ended before.
const STOP_WITH_TASKS: Duration = Duration::from_secs(600);

/// How containers with a network of their own are connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Name of the machine's bridge and of its table in the packet filter; made when the first task needs it. Agents on
    /// one machine need one each, with a subnet each.
    pub bridge: String,
    /// Addresses of containers; the first belongs to the machine.
    pub ipv4: mezzo_runtime::Ipv4Subnet,
    /// The same for IPv6; without it containers have no IPv6.
    pub ipv6: Option<mezzo_runtime::Ipv6Subnet>,
    /// Largest packet; by default that of the link of the default route.
    pub mtu: Option<u32>,
    /// Name servers for containers, instead of the machine's.
    pub dns: Vec<IpAddr>,
    /// Folder of configuration lists for CNI networks, which tasks may name; without it there are none.
    pub cni_conf_dir: Option<PathBuf>,
    /// Folder of the plug-ins; by default `/opt/cni/bin`.
    pub cni_bin_dir: Option<PathBuf>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        let of_runtime = mezzo_runtime::NetworkConfig::default();
        Self {
            bridge: of_runtime.bridge,
            ipv4: of_runtime.ipv4,
            ipv6: of_runtime.ipv6,
            mtu: of_runtime.mtu,
            dns: Vec::new(),
            cni_conf_dir: None,
            cni_bin_dir: None,
        }
    }
}

impl NetworkSettings {
    /// As the runtime takes it.
    pub(crate) fn to_runtime(&self) -> mezzo_runtime::NetworkConfig {
        mezzo_runtime::NetworkConfig {
            bridge: self.bridge.clone(),
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            mtu: self.mtu,
            cni: self
                .cni_conf_dir
                .clone()
                .map(|conf_dir| mezzo_runtime::CniConfig {
                    conf_dir,
                    bin_dir: self
                        .cni_bin_dir
                        .clone()
                        .unwrap_or_else(|| "/opt/cni/bin".into()),
                }),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:5051".into(),
            advertise: None,
            hostname: None,
            master: "127.0.0.1:5050".into(),
            credential: None,
            state_dir: "/var/lib/mezzo/agent".into(),
            resources: None,
            reserve_cpus: None,
            reserve_mem_mb: None,
            reserve_disk_mb: None,
            ports: (31_000, 32_000),
            attributes: Vec::new(),
            region: String::new(),
            zone: String::new(),
            insecure_registries: Vec::new(),
            registries: mezzo_images::RegistriesConfig::default(),
            pull_secrets_dir: None,
            secrets_dir: None,
            signature_policy: None,
            allow_privileged: false,
            allow_capabilities: Vec::new(),
            allow_host_users: false,
            user_namespaces: true,
            seccomp_dir: None,
            apparmor: "off".into(),
            apparmor_profiles: Vec::new(),
            devices: Vec::new(),
            host_path_allow: Vec::new(),
            cgroup_parent: None,
            launcher: None,
            usage_interval_ms: 2_000,
            oversubscribe: false,
            oversubscription: Oversubscription::default(),
            enforce_disk: true,
            disk_interval_ms: 15_000,
            disk_project_ids: (500_000, 999_999),
            log_max_mb: 10,
            log_files: 2,
            log_max_age_secs: 0,
            metrics_max_apps: 100,
            default_pids_limit: 4_096,
            kill_grace_ms: 3_000,
            pull_deadline_secs: 3_600,
            fetch_max_mb: 10_240,
            fetch_cache_mb: 2_048,
            fetch_deadline_secs: 900,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            image_gc_min_age_secs: 120,
            network: NetworkSettings::default(),
            max_parallel_starts: 8,
            retain_ended: 50,
            retain_secs: 3_600,
            kill_tasks_on_shutdown: false,
        }
    }
}

impl Config {
    /// The first field that cannot be right.
    /// Those that `master` names.
    pub(crate) fn masters(&self) -> Result<Masters, Error> {
        Masters::parse(&self.master).map_err(|error| Error::Config {
            field: "master",
            problem: error.to_string(),
        })
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |field, problem: String| Err(Error::Config { field, problem });
        if self.usage_interval_ms < 100 {
            return wrong(
                "usage_interval_ms",
                format!("{} is below 100", self.usage_interval_ms),
            );
        }
        if let Err((field, problem)) = self.oversubscription.check() {
            return wrong(field, problem);
        }
        if self.disk_interval_ms < 100 {
            return wrong(
                "disk_interval_ms",
                format!("{} is below 100", self.disk_interval_ms),
            );
        }
        let (first, last) = self.disk_project_ids;
        if first == 0 || first > last {
            return wrong(
                "disk_project_ids",
                format!("{first}-{last} is no range of project ids; 0 is everybody's"),
            );
        }
        if let Some(cpus) = self.reserve_cpus
            && !(0.0..=100_000.0).contains(&cpus)
        {
            return wrong("reserve_cpus", format!("{cpus} is no number of processors"));
        }
        if !(1..=100_000).contains(&self.log_max_mb) {
            return wrong(
                "log_max_mb",
                format!("{} is not within 1 to 100000", self.log_max_mb),
            );
        }
        if !(1..=100).contains(&self.log_files) {
            return wrong(
                "log_files",
                format!("{} is not within 1 to 100", self.log_files),
            );
        }
        if self.metrics_max_apps > 10_000 {
            return wrong(
                "metrics_max_apps",
                format!("{} is above 10000", self.metrics_max_apps),
            );
        }
        if self.ports.0 == 0 || self.ports.0 > self.ports.1 {
            return wrong(
                "ports",
                format!("{}-{} is no range of ports", self.ports.0, self.ports.1),
            );
        }
        self.masters()?;
        if let Err(error) = self.registries.check() {
            return wrong("registries", error.to_string());
        }
        if let Err((field, problem)) = self.network.to_runtime().check() {
            let field = match field {
                "bridge" => "network.bridge",
                "mtu" => "network.mtu",
                _ => "network",
            };
            return wrong(field, problem);
        }
        for (field, path) in [
            ("network.cni_conf_dir", &self.network.cni_conf_dir),
            ("network.cni_bin_dir", &self.network.cni_bin_dir),
        ] {
            if let Some(path) = path
                && !path.is_absolute()
            {
                return wrong(field, format!("{} is not absolute", path.display()));
            }
        }
        if self.max_parallel_starts == 0 {
            return wrong(
                "max_parallel_starts",
                "0 would start nothing; give at least 1".into(),
            );
        }
        for (field, value, least) in [
            ("fetch_max_mb", self.fetch_max_mb, 1),
            ("fetch_cache_mb", self.fetch_cache_mb, 0),
        ] {
            if !(least..=1 << 30).contains(&value) {
                return wrong(
                    field,
                    format!("{value} is not within {least} to {}", 1 << 30),
                );
            }
        }
        if !(1..=86_400).contains(&self.fetch_deadline_secs) {
            return wrong(
                "fetch_deadline_secs",
                format!("{} is not within 1 to 86400", self.fetch_deadline_secs),
            );
        }
        let (low, high) = (self.image_gc_low_percent, self.image_gc_high_percent);
        if high == 0 || high > 100 {
            return wrong(
                "image_gc_high_percent",
                format!("{high} is not within 1 to 100"),
            );
        }
        if low >= high {
            return wrong(
                "image_gc_low_percent",
                format!("{low} is not below image_gc_high_percent, which is {high}"),
            );
        }
        if let Some(path) = &self.signature_policy
            && !path.is_absolute()
        {
            return wrong(
                "signature_policy",
                format!("{} is not absolute", path.display()),
            );
        }
        if let Some(bad) = self.host_path_allow.iter().find(|path| !path.is_absolute()) {
            return wrong(
                "host_path_allow",
                format!("{} is not absolute", bad.display()),
            );
        }
        for (field, folder) in [
            ("pull_secrets_dir", &self.pull_secrets_dir),
            ("secrets_dir", &self.secrets_dir),
            ("seccomp_dir", &self.seccomp_dir),
        ] {
            if let Some(folder) = folder
                && !folder.is_absolute()
            {
                return wrong(field, format!("{} is not absolute", folder.display()));
            }
        }
        if let Err((field, problem)) = devices::check(
            &self.devices,
            self.resources.as_ref().map(Pools::flat).as_ref(),
        ) {
            return wrong(field, problem);
        }
        if let Some(parent) = &self.cgroup_parent
            && (!parent.starts_with('/')
                || parent.len() < 2
                || parent.split('/').any(|part| part == ".."))
        {
            return wrong(
                "cgroup_parent",
                format!("{parent:?} is no absolute path below the root"),
            );
        }
        Ok(())
    }

    /// The cgroup of all containers: given, or named after the state folder so that two agents never share one.
    pub(crate) fn cgroup_parent(&self) -> String {
        self.cgroup_parent.clone().unwrap_or_else(|| {
            let path =
                std::path::absolute(&self.state_dir).unwrap_or_else(|_| self.state_dir.clone());
            let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
            format!(
                "/mezzo-{:02x}{:02x}{:02x}{:02x}",
                hash[0], hash[1], hash[2], hash[3]
            )
        })
    }

    /// When images go; none: never by themselves.
    pub(crate) fn image_gc(&self) -> Option<GcPolicy> {
        (self.image_gc_high_percent < 100).then(|| GcPolicy {
            high_percent: self.image_gc_high_percent,
            low_percent: self.image_gc_low_percent,
            min_age: Duration::from_secs(self.image_gc_min_age_secs),
        })
    }

    pub(crate) fn ports(&self) -> Ranges {
        Ranges::new([(u64::from(self.ports.0), u64::from(self.ports.1))])
    }

    pub(crate) fn disk_interval(&self) -> Duration {
        Duration::from_millis(self.disk_interval_ms)
    }

    /// How long an agent may take from being told to stop to its end. Where its tasks end with it, it waits for them and
    /// removes what they leave, a thousand of them perhaps, and gives up by itself when none ends any more.
    #[must_use]
    pub fn stop_deadline(&self) -> Duration {
        if self.kill_tasks_on_shutdown {
            STOP_WITH_TASKS
        } else {
            STOP
        }
    }

    pub(crate) fn usage_interval(&self) -> Duration {
        Duration::from_millis(self.usage_interval_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_right_and_each_mistake_names_its_field() {
        Config::default().check().unwrap();
        let message = |config: Config| config.check().unwrap_err().to_string();
        assert!(
            message(Config {
                master: "nowhere".into(),
                ..Config::default()
            })
            .contains("master")
        );
        assert!(
            message(Config {
                ports: (9, 8),
                ..Config::default()
            })
            .contains("ports")
        );
        assert!(
            message(Config {
                signature_policy: Some("policy.toml".into()),
                ..Config::default()
            })
            .contains("signature_policy")
        );
        assert!(
            message(Config {
                cgroup_parent: Some("/a/../b".into()),
                ..Config::default()
            })
            .contains("cgroup_parent")
        );
        assert!(
            message(Config {
                image_gc_low_percent: 90,
                ..Config::default()
            })
            .contains("image_gc_low_percent")
        );
        assert!(
            message(Config {
                image_gc_high_percent: 101,
                ..Config::default()
            })
            .contains("image_gc_high_percent")
        );
        assert!(
            message(Config {
                reserve_cpus: Some(f64::NAN),
                ..Config::default()
            })
            .contains("reserve_cpus")
        );
        let off = Config {
            image_gc_high_percent: 100,
            ..Config::default()
        };
        off.check().unwrap();
        assert_eq!(off.image_gc(), None);
    }

    #[test]
    fn all_that_is_wrong_with_registries_is_told() {
        let text = "[registries.\"docker.io\"]\nmirrors = [\"http://m\"]\nca_file = \"ca.pem\"\n";
        let config: Config = toml::from_str(text).unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.contains(r#"registries."docker.io".mirrors[0]"#),
            "{error}"
        );
        assert!(
            error.contains(r#"registries."docker.io".ca_file"#),
            "{error}"
        );
        assert!(toml::from_str::<Config>("[registries.\"r.example\"]\nprefix = \"x\"\n").is_err());
    }

    #[test]
    fn networks_are_checked_when_they_are_read() {
        let text =
            "[network]\nipv4 = \"10.77.0.0/16\"\nipv6 = \"fd00:77::/64\"\ndns = [\"10.0.0.2\"]\n";
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.network.bridge, "mezzo0");
        let error = toml::from_str::<Config>("[network]\nipv4 = \"10.77.1.0/16\"\n").unwrap_err();
        assert!(error.to_string().contains("10.77.0.0/16 is"), "{error}");
        let config: Config = toml::from_str("[network]\nbridge = \"a name\"\n").unwrap();
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("network.bridge"), "{error}");
    }

    #[test]
    fn a_capability_that_there_is_not_is_told_when_it_is_read() {
        let text = "allow_capabilities = [\"NET_RAW\", \"cap_sys_ptrace\"]\n";
        let config: Config = toml::from_str(text).unwrap();
        let names: Vec<_> = config
            .allow_capabilities
            .iter()
            .map(|one| one.name())
            .collect();
        assert_eq!(names, ["NET_RAW", "SYS_PTRACE"]);
        let error = toml::from_str::<Config>(&text.replace("RAW", "ROW")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("allow_capabilities") && error.contains("\"NET_ROW\" is no capability"),
            "{error}"
        );
    }

    #[test]
    fn devices_are_declared_in_sections() {
        let text = r#"
            resources = "cpus:1;mem:64"
            [[devices]]
            name = "gpu"
            ids = { 0 = ["/dev/nvidia0"], 1 = ["/dev/nvidia1"] }
            paths = ["/dev/nvidiactl"]
            env = ["NVIDIA_VISIBLE_DEVICES"]
        "#;
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        let total =
            crate::resources::detect::total(&config, &crate::resources::detect::capacity(&config));
        assert_eq!(
            total.scalar("gpus"),
            mezzo_api::model::Scalar::from_units(2)
        );
        let wrong: Config = toml::from_str(&text.replace("mem:64", "gpus:3")).unwrap();
        let message = wrong.check().unwrap_err().to_string();
        assert!(
            message.contains("gpus:3 is more than the 2 devices"),
            "{message}"
        );
    }

    #[test]
    fn two_state_folders_never_share_a_cgroup() {
        let parent = |dir: &str| {
            Config {
                state_dir: dir.into(),
                ..Config::default()
            }
            .cgroup_parent()
        };
        assert_ne!(parent("/a"), parent("/b"));
        assert_eq!(parent("/a"), parent("/a"));
    }
}
