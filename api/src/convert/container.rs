//! Containers of tasks: the program, its variables, volumes, files to fetch and networks.

use super::{Invalid, Problems, confinement, network};
use crate::{
    model::{
        ContainerInfo, EnvVar, FetchUri, MOST_FETCHED, ProfileName, SecretEnv, SecretSource,
        Volume, VolumeId, VolumeSource, is_path_in_sandbox,
    },
    proto,
};

/// What `execve` takes for one string on Linux (MAX_ARG_STRLEN).
const LONGEST_ARG: usize = 128 * 1024;
/// All arguments or all variables together.
pub(super) const LONGEST_ARGS: usize = 1024 * 1024;
const MOST_ARGS: usize = 4096;

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

pub(super) fn check_args(problems: &mut Problems, field: &str, args: &[String]) {
    if args.len() > MOST_ARGS {
        problems.note(
            field,
            format!(
                "has {} entries; at most {MOST_ARGS} are allowed",
                args.len()
            ),
        );
    }
    if args.iter().map(String::len).sum::<usize>() > LONGEST_ARGS {
        problems.note(field, format!("is longer than {LONGEST_ARGS} bytes in all"));
    }
    for (i, arg) in args.iter().enumerate() {
        if arg.len() >= LONGEST_ARG {
            problems.note(
                &format!("{field}[{i}]"),
                format!("is longer than {LONGEST_ARG} bytes"),
            );
        }
        if arg.contains('\0') {
            problems.note(&format!("{field}[{i}]"), "holds a NUL character");
        }
    }
}

fn check_variable_name(problems: &mut Problems, name: &str) {
    if name.is_empty() || name.contains(['=', '\0']) {
        let problem = format!("{name:?} is not a variable's name: not empty, no `=`, no NUL");
        problems.note("name", problem);
    }
}

impl TryFrom<proto::EnvVar> for EnvVar {
    type Error = Invalid;

    fn try_from(var: proto::EnvVar) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        check_variable_name(&mut problems, &var.name);
        if var.value.contains('\0') {
            problems.note("value", "holds a NUL character");
        }
        problems.bound(
            "value",
            &var.value,
            LONGEST_ARG - var.name.len().min(LONGEST_ARG / 2) - 2,
        );
        problems.finish(Some(Self {
            name: var.name,
            value: var.value,
        }))
    }
}

impl From<EnvVar> for proto::EnvVar {
    fn from(var: EnvVar) -> Self {
        Self {
            name: var.name,
            value: var.value,
        }
    }
}

fn check_absolute(problems: &mut Problems, field: &str, path: &str) {
    if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        problems.note(
            field,
            format!("{path:?} must be an absolute path without `..`"),
        );
    }
    problems.bound(field, path, 4095);
}

impl TryFrom<proto::Volume> for Volume {
    type Error = Invalid;

    fn try_from(volume: proto::Volume) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        check_absolute(&mut problems, "container_path", &volume.container_path);
        let source = match volume.source {
            None => problems.take("source", Err(Invalid::new("", "is missing"))),
            Some(proto::volume::Source::HostPath(path)) => {
                if path.starts_with('/') {
                    check_absolute(&mut problems, "host_path", &path);
                } else if !is_path_in_sandbox(&path) {
                    problems.note(
                        "host_path",
                        format!(
                            "{path:?} must be an absolute path without `..`, or a relative one in the sandbox without `.`, `..` and empty names"
                        ),
                    );
                }
                Some(VolumeSource::HostPath(path))
            }
            Some(proto::volume::Source::TmpfsBytes(0)) => problems.take(
                "tmpfs_bytes",
                Err(Invalid::new("", "must be larger than zero")),
            ),
            Some(proto::volume::Source::TmpfsBytes(bytes)) => Some(VolumeSource::Tmpfs(bytes)),
            Some(proto::volume::Source::Secret(secret)) => {
                let secret = problems.take("secret", secret.parse::<SecretSource>());
                secret.map(VolumeSource::Secret)
            }
            Some(proto::volume::Source::GroupVolume(name)) => Some(VolumeSource::Group(name)),
            Some(proto::volume::Source::PersistentVolume(id)) => {
                let id = problems.take("persistent_volume", id.parse::<VolumeId>());
                id.map(VolumeSource::Persistent)
            }
        };
        problems.finish(source.map(|source| Self {
            container_path: volume.container_path,
            read_only: volume.read_only,
            source,
        }))
    }
}

impl From<Volume> for proto::Volume {
    fn from(volume: Volume) -> Self {
        Self {
            container_path: volume.container_path,
            read_only: volume.read_only,
            source: Some(match volume.source {
                VolumeSource::HostPath(path) => proto::volume::Source::HostPath(path),
                VolumeSource::Tmpfs(bytes) => proto::volume::Source::TmpfsBytes(bytes),
                VolumeSource::Secret(secret) => proto::volume::Source::Secret(secret.to_string()),
                VolumeSource::Group(name) => proto::volume::Source::GroupVolume(name),
                VolumeSource::Persistent(id) => {
                    proto::volume::Source::PersistentVolume(id.to_string())
                }
            }),
        }
    }
}

impl TryFrom<proto::SecretEnv> for SecretEnv {
    type Error = Invalid;

    fn try_from(var: proto::SecretEnv) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        check_variable_name(&mut problems, &var.name);
        problems.bound("name", &var.name, 4096);
        let secret = problems.take("secret", var.secret.parse());
        problems.finish(secret.map(|secret| Self {
            name: var.name,
            secret,
        }))
    }
}

impl From<SecretEnv> for proto::SecretEnv {
    fn from(var: SecretEnv) -> Self {
        Self {
            name: var.name,
            secret: var.secret.to_string(),
        }
    }
}

impl TryFrom<proto::FetchUri> for FetchUri {
    type Error = Invalid;

    fn try_from(uri: proto::FetchUri) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let checked = Self {
            uri: uri.uri,
            extract: uri.extract,
            executable: uri.executable,
            cache: uri.cache,
            dest_path: some(uri.dest_path),
        };
        for (field, problem) in checked.problems() {
            let field = if field == "destPath" {
                "dest_path"
            } else {
                field
            };
            problems.note(field, problem);
        }
        problems.finish(Some(checked))
    }
}

impl From<FetchUri> for proto::FetchUri {
    fn from(uri: FetchUri) -> Self {
        Self {
            uri: uri.uri,
            extract: uri.extract,
            executable: uri.executable,
            cache: uri.cache,
            dest_path: uri.dest_path.unwrap_or_default(),
        }
    }
}

impl TryFrom<proto::ContainerInfo> for ContainerInfo {
    type Error = Invalid;

    fn try_from(container: proto::ContainerInfo) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        if container.image.is_empty() {
            problems.note("image", "is empty; name an image like \"sleep:1\"");
        }
        problems.bound("image", &container.image, 4096);
        check_args(&mut problems, "command", &container.command);
        check_args(&mut problems, "args", &container.args);
        problems.bound("user", &container.user, 255);
        if !container.working_dir.is_empty() {
            check_absolute(&mut problems, "working_dir", &container.working_dir);
        }
        let network = problems
            .take("network", network::mode(container.network))
            .unwrap_or_default();
        let env_bytes: usize = container
            .env
            .iter()
            .map(|var| var.name.len() + var.value.len() + 2)
            .sum();
        if env_bytes > LONGEST_ARGS {
            problems.note("env", format!("is longer than {LONGEST_ARGS} bytes in all"));
        }
        let env = problems.list("env", container.env, MOST_ARGS);
        let volumes = problems.list("volumes", container.volumes, 256);
        let secret_env = problems.list("secret_env", container.secret_env, 256);
        let pull_secret = some(container.pull_secret)
            .and_then(|source| problems.take("pull_secret", source.parse::<SecretSource>()));
        let seccomp_profile = some(container.seccomp_profile)
            .and_then(|name| problems.take("seccomp_profile", name.parse::<ProfileName>()));
        let apparmor_profile =
            confinement::apparmor_profile(&mut problems, container.apparmor_profile);
        let capabilities = confinement::capabilities(
            &mut problems,
            &container.capabilities_add,
            &container.capabilities_drop,
        );
        let port_mappings = problems.list("port_mappings", container.port_mappings, 256);
        let fetch = problems.list("fetch", container.fetch, MOST_FETCHED);
        let network_labels = container.network_labels;
        let checked = Self {
            image: container.image,
            force_pull: container.force_pull,
            command: container.command,
            args: container.args,
            env,
            user: some(container.user),
            working_dir: some(container.working_dir),
            read_only_rootfs: container.read_only_rootfs,
            privileged: container.privileged,
            network,
            volumes,
            pull_secret,
            host_users: container.host_users,
            seccomp_profile,
            apparmor_profile,
            capabilities,
            tty: container.tty,
            port_mappings,
            network_name: some(container.network_name),
            network_labels,
            secret_env,
            fetch,
        };
        network::check(&mut problems, &checked);
        problems.finish(Some(checked))
    }
}

impl From<ContainerInfo> for proto::ContainerInfo {
    fn from(container: ContainerInfo) -> Self {
        let own = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Self {
            image: container.image,
            force_pull: container.force_pull,
            command: container.command,
            args: container.args,
            env: container.env.into_iter().map(Into::into).collect(),
            user: container.user.unwrap_or_default(),
            working_dir: container.working_dir.unwrap_or_default(),
            read_only_rootfs: container.read_only_rootfs,
            privileged: container.privileged,
            network: proto::NetworkMode::from(container.network).into(),
            volumes: container.volumes.into_iter().map(Into::into).collect(),
            pull_secret: container
                .pull_secret
                .map(|source| source.to_string())
                .unwrap_or_default(),
            host_users: container.host_users,
            seccomp_profile: container
                .seccomp_profile
                .map(|name| name.to_string())
                .unwrap_or_default(),
            apparmor_profile: container.apparmor_profile.unwrap_or_default(),
            capabilities_add: own(container.capabilities.added()),
            capabilities_drop: own(container.capabilities.drop.names()),
            tty: container.tty,
            port_mappings: container
                .port_mappings
                .into_iter()
                .map(Into::into)
                .collect(),
            network_name: container.network_name.unwrap_or_default(),
            network_labels: container.network_labels,
            secret_env: container.secret_env.into_iter().map(Into::into).collect(),
            fetch: container.fetch.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_mappings_are_checked_together() {
        let fields = |container: proto::ContainerInfo| -> Vec<String> {
            let container = proto::ContainerInfo {
                image: "sleep:1".into(),
                ..container
            };
            match ContainerInfo::try_from(container.clone()) {
                Ok(checked) => {
                    let mut back = proto::ContainerInfo::from(checked);
                    for mapping in &mut back.port_mappings {
                        if mapping.protocol() == proto::PortProtocol::Tcp {
                            mapping.protocol = proto::PortProtocol::Unspecified.into();
                        }
                    }
                    assert_eq!(back, container);
                    Vec::new()
                }
                Err(invalid) => invalid.problems.into_iter().map(|p| p.field).collect(),
            }
        };
        let mapping = |host_port, container_port| proto::PortMapping {
            container_port,
            host_port,
            ..Default::default()
        };
        let with = |network: proto::NetworkMode, name: &str, port_mappings| proto::ContainerInfo {
            network: network.into(),
            network_name: name.into(),
            port_mappings,
            ..Default::default()
        };
        use proto::NetworkMode::{Bridge, Container, Host};
        let none: [&str; 0] = [];
        let two = || vec![mapping(31_000, 80), mapping(0, 81), mapping(0, 82)];
        assert_eq!(fields(with(Bridge, "", two())), none);
        assert_eq!(fields(with(Container, "dc-1", two())), none);
        assert_eq!(fields(with(Host, "", two())), ["port_mappings"]);
        assert_eq!(fields(with(Bridge, "dc-1", vec![])), ["network_name"]);
        assert_eq!(fields(with(Container, "", vec![])), ["network_name"]);
        assert_eq!(fields(with(Container, "../x", vec![])), ["network_name"]);
        let twice = vec![mapping(31_000, 80), mapping(31_000, 81)];
        assert_eq!(
            fields(with(Bridge, "", twice)),
            ["port_mappings[1].host_port"]
        );
        let mut other_protocol = mapping(31_000, 80);
        other_protocol.protocol = proto::PortProtocol::Udp.into();
        let both = vec![mapping(31_000, 80), other_protocol];
        assert_eq!(fields(with(Bridge, "", both)), none);
        // What a newer framework may say must not be taken for the machine's own network.
        let newer = proto::ContainerInfo {
            network: 99,
            ..Default::default()
        };
        assert_eq!(fields(newer), ["network"]);
        assert_eq!(
            fields(with(Bridge, "", vec![mapping(70_000, 0)])),
            [
                "port_mappings[0].container_port",
                "port_mappings[0].host_port"
            ]
        );
    }
}
