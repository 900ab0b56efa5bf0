//! Task and image become a container; and what is refused before anything is tried. Pure.
//!
//! An image's labels are not looked at: nothing that an image says steers the agent.

use std::{
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use mezzo_api::model::{
    AgentId, CheckAction, CheckKind, FetchSource, FrameworkId, LinuxCapability, NetworkMode,
    Reason, TaskInfo, TaskState, VolumeId, VolumeSource, is_path_in_sandbox,
};

use super::status::Outcome;
use crate::launch::network::own_hostname;
use crate::node::{
    ContainerId, ContainerSpec, Device, IMAGE_DIGEST_LABEL, Limits, Mount, MountSource,
    PreparedImage, Secrets, profiles::Walls,
};

/// Where tasks find their own folder.
pub(crate) const SANDBOX: &str = "/mnt/mezzo/sandbox";
/// Where Mesos had it: for tasks that fetch, whose command lines name their files there.
const SANDBOX_OF_MESOS: &str = "/mnt/mesos/sandbox";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel takes no longer one.
const MAX_HOSTNAME: usize = 64;

/// What the machine adds.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) container: ContainerId,
    /// Who holds what its group shares, and where its group's folders are.
    pub(crate) group: Option<(ContainerId, PathBuf)>,
    pub(crate) framework: FrameworkId,
    pub(crate) agent_id: AgentId,
    pub(crate) hostname: String,
    /// The task's own folder, on the machine.
    pub(crate) sandbox: PathBuf,
    /// Files that are given read-only: (on the machine, in the container).
    pub(crate) files: Vec<(PathBuf, String)>,
    /// The container's own, where it has a network of its own.
    pub(crate) addresses: Vec<IpAddr>,
    /// The paths of the task's host volumes, in their order, resolved and checked.
    pub(crate) host_paths: Vec<PathBuf>,
    /// Where its persistent volumes are.
    pub(crate) volumes: Vec<(VolumeId, PathBuf)>,
    pub(crate) secrets: Secrets,
    pub(crate) walls: Walls,
    pub(crate) limits: Limits,
    /// The devices that were picked.
    pub(crate) devices: Vec<Device>,
    /// Variables that tell of what was picked.
    pub(crate) env: Vec<(String, String)>,
}

impl Place {
    /// What its network is called by: a group has one name, as it has one address.
    fn named(&self) -> &ContainerId {
        match &self.group {
            Some((holder, _)) => holder,
            None => &self.container,
        }
    }
}

/// What the operator lets tasks ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Switches<'a> {
    pub(crate) privileged: bool,
    /// The default set, and what may be added to it.
    pub(crate) capabilities: &'a [LinuxCapability],
    pub(crate) host_users: bool,
}

/// What can be refused by looking at the task alone.
pub(crate) fn refuse(
    info: &TaskInfo,
    allow: &Switches<'_>,
    host_path_allow: &[PathBuf],
) -> Option<Outcome> {
    let invalid =
        |message: String| Some(Outcome::new(TaskState::Error, Reason::TaskInvalid, message));
    let unauthorized = |message: String| {
        Some(Outcome::new(
            TaskState::Error,
            Reason::TaskUnauthorized,
            message,
        ))
    };
    let container = &info.container;
    if container.privileged && !allow.privileged {
        return unauthorized(
            "container.privileged: this agent's operator does not allow privileged containers (allow_privileged)".into(),
        );
    }
    if container.host_users && !allow.host_users {
        return unauthorized(
            "container.host_users: this agent's operator does not allow the machine's user numbers (allow_host_users)".into(),
        );
    }
    // A privileged container has them all.
    if !container.privileged {
        let added = container.capabilities.add.iter();
        let refused: Vec<&str> = added
            .filter(|one| !allow.capabilities.contains(one))
            .map(|one| one.name())
            .collect();
        if !refused.is_empty() {
            return unauthorized(format!(
                "container.capabilities_add: this agent's operator does not allow {} (allow_capabilities, --allow-capability)",
                refused.join(", ")
            ));
        }
    }
    for (n, volume) in container.volumes.iter().enumerate() {
        if !is_clean_absolute(Path::new(&volume.container_path)) || volume.container_path == "/" {
            return invalid(format!(
                "container.volumes[{n}].container_path: {:?} is no absolute path without `..`",
                volume.container_path
            ));
        }
        match &volume.source {
            VolumeSource::Tmpfs(0) => {
                return invalid(format!(
                    "container.volumes[{n}].tmpfs_bytes: must be above 0"
                ));
            }
            VolumeSource::Tmpfs(_) | VolumeSource::Secret(_) => {}
            VolumeSource::Persistent(id) => {
                if !info.persistent.iter().any(|volume| volume.id == *id) {
                    return invalid(format!(
                        "container.volumes[{n}].persistent_volume: {id} is no volume that the task was given"
                    ));
                }
            }
            VolumeSource::Group(name) => {
                let shared = info.group.iter().flat_map(|group| &group.volumes);
                if !shared.into_iter().any(|volume| volume.name == *name) {
                    return invalid(format!(
                        "container.volumes[{n}].group_volume: {name:?} is no volume of the task's group"
                    ));
                }
            }
            VolumeSource::HostPath(path) if volume.source.in_sandbox().is_some() => {
                if !is_path_in_sandbox(path) {
                    return invalid(format!(
                        "container.volumes[{n}].host_path: {path:?} is no relative path in the sandbox without `.`, `..` and empty names"
                    ));
                }
            }
            VolumeSource::HostPath(path) => {
                let path = Path::new(path);
                if !is_clean_absolute(path) {
                    return invalid(format!(
                        "container.volumes[{n}].host_path: {} is no absolute path without `..`",
                        path.display()
                    ));
                }
                if !host_path_allow
                    .iter()
                    .any(|allowed| path.starts_with(allowed))
                {
                    return unauthorized(format!(
                        "container.volumes[{n}].host_path: {} is not beneath any path that this agent's operator allows (host_path_allow)",
                        path.display()
                    ));
                }
            }
        }
    }
    for (n, uri) in container.fetch.iter().enumerate() {
        if let Some((field, problem)) = uri.problems().into_iter().next() {
            return invalid(format!("container.fetch[{n}].{field}: {problem}"));
        }
        if let Ok(FetchSource::File(path)) = uri.source()
            && !host_path_allow
                .iter()
                .any(|allowed| Path::new(&path).starts_with(allowed))
        {
            return unauthorized(format!(
                "container.fetch[{n}].uri: {path} is not beneath any path that this agent's operator allows (host_path_allow)"
            ));
        }
    }
    let ports = info.resources.ports();
    for (n, mapping) in container.port_mappings.iter().enumerate() {
        if let Some(port) = mapping.host_port
            && !ports.has(u64::from(port))
        {
            return invalid(format!(
                "container.port_mappings[{n}].host_port: {port} is not one of the task's ports, {ports}; take it from the offer"
            ));
        }
    }
    for (n, check) in info.health_checks.iter().enumerate() {
        match check.kind {
            CheckKind::Http | CheckKind::Https | CheckKind::Tcp | CheckKind::Grpc
                if check.port == 0 =>
            {
                return invalid(format!("health_checks[{n}].port: must be above 0"));
            }
            CheckKind::Command if check.command.is_empty() => {
                return invalid(format!("health_checks[{n}].command: is empty"));
            }
            CheckKind::Http
            | CheckKind::Https
            | CheckKind::Tcp
            | CheckKind::Grpc
            | CheckKind::Command => {}
        }
    }
    match info.check.as_ref().map(|check| &check.action) {
        Some(CheckAction::Http { port: 0, .. } | CheckAction::Tcp { port: 0 }) => {
            return invalid("check.port: must be above 0".to_owned());
        }
        Some(CheckAction::Command(command)) if command.is_empty() => {
            return invalid("check.command: is empty".to_owned());
        }
        Some(CheckAction::Http { .. } | CheckAction::Tcp { .. } | CheckAction::Command(_))
        | None => {}
    }
    None
}

fn is_clean_absolute(path: &Path) -> bool {
    path.is_absolute()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// The container for a task.
pub(crate) fn container(
    info: &TaskInfo,
    image: &PreparedImage,
    place: &Place,
) -> Result<ContainerSpec, Outcome> {
    let wanted = &info.container;
    let mut args = Vec::new();
    if wanted.command.is_empty() {
        args.extend(image.config.entrypoint.iter().cloned());
        args.extend(
            if wanted.args.is_empty() {
                &image.config.cmd
            } else {
                &wanted.args
            }
            .iter()
            .cloned(),
        );
    } else {
        args.extend(wanted.command.iter().chain(&wanted.args).cloned());
    }
    if args.first().is_none_or(String::is_empty) {
        return Err(Outcome::new(
            TaskState::Error,
            Reason::TaskInvalid,
            format!(
                "image {} has no entrypoint; set `args` or `cmd`",
                wanted.image
            ),
        ));
    }

    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH);
    for entry in &image.config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        env.set(name, value);
    }
    for entry in &wanted.env {
        env.set(&entry.name, &entry.value);
    }
    env.set("HOST", &place.hostname);
    let own_name = wanted.network.is_own().then(|| own_hostname(place.named()));
    env.set("HOSTNAME", own_name.as_ref().unwrap_or(&place.hostname));
    if let Some(address) = place.addresses.first() {
        env.set("MESOS_CONTAINER_IP", &address.to_string());
    }
    env.set("MEZZO_TASK_ID", info.task_id.as_str());
    env.set("MEZZO_FRAMEWORK_ID", place.framework.as_str());
    env.set("MEZZO_AGENT_ID", place.agent_id.as_str());
    env.set("MEZZO_CONTAINER_ID", place.container.as_str());
    env.set("MEZZO_SANDBOX", SANDBOX);
    env.set("MESOS_SANDBOX", SANDBOX);
    for (name, value) in &place.env {
        env.set(name, value);
    }

    let mut mounts: Vec<Mount> = place
        .files
        .iter()
        .map(|(source, target)| Mount {
            source: MountSource::Bind(source.clone()),
            target: target.clone(),
            read_only: true,
        })
        .collect();
    mounts.push(Mount {
        source: MountSource::Bind(place.sandbox.clone()),
        target: SANDBOX.to_owned(),
        read_only: false,
    });
    if !wanted.fetch.is_empty() {
        mounts.push(Mount {
            source: MountSource::Bind(place.sandbox.clone()),
            target: SANDBOX_OF_MESOS.to_owned(),
            read_only: false,
        });
    }
    let mut volumes = wanted.volumes.iter();
    let has_content =
        !wanted.fetch.is_empty() || volumes.any(|volume| volume.source.in_sandbox().is_some());
    let mut host_paths = place.host_paths.iter();
    for volume in &wanted.volumes {
        let source = match &volume.source {
            VolumeSource::Tmpfs(bytes) => MountSource::Tmpfs(*bytes),
            // Beside the mounts, in `secrets`.
            VolumeSource::Secret(_) => continue,
            VolumeSource::Group(name) => {
                let shared = info.group.iter().flat_map(|group| &group.volumes);
                let in_memory = shared
                    .into_iter()
                    .any(|volume| volume.name == *name && volume.tmpfs_bytes.is_some());
                match &place.group {
                    Some((_, folder)) if !in_memory => MountSource::Bind(folder.join(name)),
                    Some(_) | None => MountSource::Shared(name.clone()),
                }
            }
            VolumeSource::Persistent(id) => match place.volumes.iter().find(|(of, _)| of == id) {
                Some((_, path)) => MountSource::Bind(path.clone()),
                None => {
                    return Err(Outcome::new(
                        TaskState::Failed,
                        Reason::ContainerLaunchFailed,
                        format!("persistent volume {id} is not here"),
                    ));
                }
            },
            VolumeSource::HostPath(path) => MountSource::Bind(
                host_paths
                    .next()
                    .cloned()
                    .unwrap_or_else(|| PathBuf::from(path)),
            ),
        };
        mounts.push(Mount {
            source,
            target: volume.container_path.clone(),
            read_only: volume.read_only,
        });
    }

    Ok(ContainerSpec {
        rootfs: image.snapshot.clone(),
        readonly_rootfs: wanted.read_only_rootfs,
        args,
        env: env.0,
        cwd: wanted
            .working_dir
            .clone()
            .or_else(|| image.config.working_dir.clone())
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned()),
        user: wanted
            .user
            .clone()
            .or_else(|| image.config.user.clone())
            .unwrap_or_default(),
        limits: place.limits.clone(),
        rlimits: info.limits.rlimits.clone(),
        mounts,
        // What was fetched, and directories made for volumes; before the start there is nothing else in it.
        handed_over: has_content
            .then(|| place.sandbox.clone())
            .into_iter()
            .collect(),
        secrets: place.secrets.clone(),
        devices: place.devices.clone(),
        network: wanted.network,
        group: place.group.as_ref().map(|(holder, _)| holder.clone()),
        hostname: own_name.or_else(|| {
            (wanted.network == NetworkMode::Host && place.hostname.len() <= MAX_HOSTNAME)
                .then(|| place.hostname.clone())
        }),
        privileged: wanted.privileged,
        capabilities: wanted.capabilities.clone(),
        host_users: wanted.host_users,
        terminal: wanted.tty,
        seccomp: place.walls.seccomp.clone(),
        apparmor: place.walls.apparmor.clone(),
        stop_signal: image.config.stop_signal.clone(),
        labels: [
            ("mezzo.task".to_owned(), info.task_id.to_string()),
            ("mezzo.framework".to_owned(), place.framework.to_string()),
            (IMAGE_DIGEST_LABEL.to_owned(), image.digest.clone()),
        ]
        .into(),
    })
}

/// Variables in the order of their first setting; a later setting wins.
#[derive(Debug, Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{Dropped, EnvVar, FetchUri, PortMapping, PortProtocol, Volume};

    use super::*;
    use crate::{
        node::{ImageConfig, Snapshot},
        task::tests::a_task,
    };

    fn image(entrypoint: &[&str], cmd: &[&str]) -> PreparedImage {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PreparedImage {
            digest: "sha256:0".into(),
            config: ImageConfig {
                entrypoint: own(entrypoint),
                cmd: own(cmd),
                env: vec!["A=image".into(), "MEZZO_TASK_ID=forged".into()],
                ..ImageConfig::default()
            },
            snapshot: Snapshot {
                lowers: vec![],
                upper: "/u".into(),
                work: "/w".into(),
            },
        }
    }

    fn place() -> Place {
        Place {
            container: ContainerId::derive("t", 1),
            group: None,
            framework: "f".parse().unwrap(),
            agent_id: "a".parse().unwrap(),
            hostname: "node1".into(),
            sandbox: "/s".into(),
            files: vec![],
            addresses: vec![],
            host_paths: vec![],
            volumes: vec![],
            secrets: Secrets::default(),
            walls: Walls::default(),
            limits: Limits::default(),
            devices: vec![],
            env: vec![("NVIDIA_VISIBLE_DEVICES".into(), "0".into())],
        }
    }

    #[test]
    fn what_was_fetched_becomes_the_users_and_nothing_else_does() {
        let mut task = a_task("t");
        let spec = |task: &TaskInfo| container(task, &image(&["/x"], &[]), &place()).unwrap();
        assert_eq!(spec(&task).handed_over, Vec::<PathBuf>::new());
        task.container.fetch = vec![FetchUri {
            uri: "http://h/a".into(),
            extract: true,
            executable: false,
            cache: false,
            dest_path: None,
        }];
        assert_eq!(spec(&task).handed_over, [PathBuf::from("/s")]);
    }

    #[test]
    fn a_mapped_port_must_be_one_of_the_tasks() {
        let mut task = a_task("t");
        task.container.network = NetworkMode::Bridge;
        task.container.port_mappings = vec![
            PortMapping {
                container_port: 80,
                host_port: Some(31_000),
                protocol: PortProtocol::Tcp,
                name: String::new(),
            },
            PortMapping {
                container_port: 81,
                host_port: None,
                protocol: PortProtocol::Tcp,
                name: String::new(),
            },
        ];
        let refused = refuse(&task, &Switches::default(), &[]).unwrap();
        assert!(
            refused.message.contains("port_mappings[0].host_port"),
            "{}",
            refused.message
        );
        task.resources = "cpus:0.1;mem:32;ports:[31000-31001]".parse().unwrap();
        assert_eq!(refuse(&task, &Switches::default(), &[]), None);
    }

    #[test]
    fn a_container_with_a_network_of_its_own_has_a_name_of_its_own() {
        let mut task = a_task("t");
        task.container.network = NetworkMode::Bridge;
        let place = Place {
            addresses: vec!["172.28.0.2".parse().unwrap()],
            ..place()
        };
        let spec = container(&task, &image(&["/x"], &[]), &place).unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("t-0000000000000001"));
        let get = |name: &str| {
            let found = spec.env.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(get("HOSTNAME"), Some("t-0000000000000001"));
        assert_eq!(get("HOST"), Some("node1"));
        assert_eq!(get("MESOS_CONTAINER_IP"), Some("172.28.0.2"));
    }

    #[track_caller]
    fn check_args(
        entrypoint: &[&str],
        cmd: &[&str],
        command: &[&str],
        args: &[&str],
        expected: &[&str],
    ) {
        let mut task = a_task("t");
        task.container.command = command.iter().map(|s| (*s).to_owned()).collect();
        task.container.args = args.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(
            container(&task, &image(entrypoint, cmd), &place())
                .unwrap()
                .args,
            expected
        );
    }

    #[test]
    fn command_replaces_the_entrypoint_and_args_the_default_arguments() {
        check_args(&["/sleep"], &["1"], &[], &[], &["/sleep", "1"]);
        check_args(&["/sleep"], &["1"], &[], &["5"], &["/sleep", "5"]);
        check_args(&["/sleep"], &["1"], &["/bin/sh"], &[], &["/bin/sh"]);
        check_args(
            &["/sleep"],
            &["1"],
            &["/bin/sh"],
            &["-c", "x"],
            &["/bin/sh", "-c", "x"],
        );
        check_args(&[], &[], &[], &["/x"], &["/x"]);
    }

    #[test]
    fn nothing_to_run_is_said_with_the_cure() {
        let error = container(&a_task("t"), &image(&[], &[]), &place()).unwrap_err();
        assert_eq!(
            error.message,
            "image sleep:1 has no entrypoint; set `args` or `cmd`"
        );
        assert_eq!(error.state, TaskState::Error);
    }

    /// CVE-2026-53488: an image's label among those that the agent steers by.
    #[test]
    fn what_the_agent_keeps_with_a_container_is_not_the_images_to_say() {
        let labels = ["mezzo.task", "mezzo.group", "mezzo.stop_signal", "other"];
        let hostile = mezzo_images::ImageConfig {
            entrypoint: vec!["/x".into()],
            labels: labels.map(|name| (name.into(), "forged".into())).into(),
            ..mezzo_images::ImageConfig::default()
        };
        let prepared = PreparedImage {
            config: hostile.into(),
            ..image(&[], &[])
        };
        let kept = container(&a_task("t"), &prepared, &place()).unwrap().labels;
        let kept: Vec<_> = kept
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let of_task = [("mezzo.framework", "f"), ("mezzo.task", "t")];
        let of_image = (IMAGE_DIGEST_LABEL, "sha256:0");
        assert_eq!(kept.len(), 3, "{kept:?}");
        assert!(of_task.iter().all(|one| kept.contains(one)), "{kept:?}");
        assert!(kept.contains(&of_image), "{kept:?}");
    }

    #[test]
    fn the_agents_variables_win_over_the_tasks_and_those_over_the_images() {
        let mut task = a_task("t");
        task.container.env = vec![
            EnvVar {
                name: "A".into(),
                value: "task".into(),
            },
            EnvVar {
                name: "MEZZO_AGENT_ID".into(),
                value: "forged".into(),
            },
            EnvVar {
                name: "NVIDIA_VISIBLE_DEVICES".into(),
                value: "all".into(),
            },
        ];
        let env = container(&task, &image(&["/x"], &[]), &place())
            .unwrap()
            .env;
        let get = |name: &str| {
            env.iter()
                .filter(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(get("A"), ["task"]);
        assert_eq!(get("MEZZO_TASK_ID"), ["t"]);
        assert_eq!(get("MEZZO_AGENT_ID"), ["a"]);
        assert_eq!(get("NVIDIA_VISIBLE_DEVICES"), ["0"]);
    }

    #[test]
    fn what_the_operator_does_not_allow_is_refused() {
        let allow = [PathBuf::from("/srv/data")];
        let with_path = |path: &str| {
            let mut task = a_task("t");
            task.container.volumes = vec![Volume {
                container_path: "/data".into(),
                read_only: false,
                source: VolumeSource::HostPath(path.into()),
            }];
            refuse(&task, &Switches::default(), &allow).and_then(|outcome| outcome.reason)
        };
        assert_eq!(with_path("/srv/data/x"), None);
        assert_eq!(with_path("/srv/database"), Some(Reason::TaskUnauthorized));
        assert_eq!(with_path("/srv/data/../../etc"), Some(Reason::TaskInvalid));
        assert_eq!(with_path("srv/data"), None, "in the task's own sandbox");
        for path in ["../data", "srv/./data", "srv//data", ""] {
            assert_eq!(with_path(path), Some(Reason::TaskInvalid), "{path}");
        }
        let mut privileged = a_task("t");
        privileged.container.privileged = true;
        let chown = ["CHOWN".parse().unwrap()];
        let allow = |privileged, host_users| Switches {
            privileged,
            host_users,
            capabilities: &chown,
        };
        assert!(refuse(&privileged, &allow(false, true), &[]).is_some());
        assert!(refuse(&privileged, &allow(true, false), &[]).is_none());
        let mut host_users = a_task("t");
        host_users.container.host_users = true;
        assert!(refuse(&host_users, &allow(true, false), &[]).is_some());
        assert!(refuse(&host_users, &allow(false, true), &[]).is_none());
        let mut capable = a_task("t");
        let add = ["CHOWN", "NET_ADMIN", "SYS_TIME"].map(|name| name.parse().unwrap());
        capable.container.capabilities.add = add.into();
        let refused = refuse(&capable, &allow(false, false), &[]).unwrap();
        assert_eq!(refused.reason, Some(Reason::TaskUnauthorized));
        assert!(
            refused
                .message
                .contains("does not allow NET_ADMIN, SYS_TIME (allow_capabilities"),
            "{}",
            refused.message
        );
        let more = Switches {
            capabilities: &add,
            ..Switches::default()
        };
        assert!(refuse(&capable, &more, &[]).is_none());
        capable.container.privileged = true;
        assert!(refuse(&capable, &allow(true, false), &[]).is_none());
        let mut dropping = a_task("t");
        dropping.container.capabilities.drop = Dropped::All;
        assert!(refuse(&dropping, &Switches::default(), &[]).is_none());
    }
}
