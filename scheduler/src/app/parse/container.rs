//! What runs the app: image, engine, network.
//!
//! Pure.

use mezzo_api::model::{InvalidId, ProfileName};

use super::confinement::confinement;
use super::network::Network;
use super::parts;
use crate::app::read::{Fields, Report};
use crate::app::spec::{Container, Engine};

const NO_IMAGE: &str =
    "is missing: mezzo runs container images; name one, such as \"busybox:1.36\", here";

/// `container`: the image and how it is run.
pub(super) fn container(
    fields: &Fields<'_>,
    network: &Network,
    report: &mut Report,
) -> Option<Container> {
    let Some(value) = fields.get("container") else {
        report.value_problem("/container/docker/image", NO_IMAGE);
        return None;
    };
    let known = [
        "type",
        "docker",
        "volumes",
        "portMappings",
        "linuxInfo",
        "appc",
        "hostUsers",
        "apparmorProfile",
        "readOnlyRootfs",
        "capabilities",
    ];
    let container = Fields::open(value, fields.path_of("container"), &known, report)?;
    let engine = container
        .choice(
            "type",
            &[("DOCKER", Engine::Docker), ("MESOS", Engine::Mesos)],
            report,
        )
        .unwrap_or(Engine::Mesos);
    container.unsupported("appc", "use an OCI image", report);
    let parts::Volumes {
        host: volumes,
        secrets: secret_volumes,
        persistent,
    } = parts::volumes(&container, report);
    let Some(value) = container.get("docker") else {
        report.value_problem("/container/docker/image", NO_IMAGE);
        return None;
    };
    let known = [
        "image",
        "network",
        "privileged",
        "forcePullImage",
        "parameters",
        "portMappings",
        "pullConfig",
        "credential",
    ];
    let docker = Fields::open(value, container.path_of("docker"), &known, report)?;
    let image = docker.string("image", report);
    if docker.get("image").is_none() || image.as_deref() == Some("") {
        report.value_problem("/container/docker/image", NO_IMAGE);
    } else if let Some(image) = &image
        && (image.len() > 1024 || image.chars().any(|c| c.is_whitespace() || c.is_control()))
    {
        report.value_problem(
            "/container/docker/image",
            format!("{image:?} is not an image reference"),
        );
    }
    let pull_secret = pull_secret(&docker, report);
    docker.unsupported(
        "credential",
        "use pullConfig with one of the app's secrets",
        report,
    );
    // What it says is read with the other ways to say it; here only that it is a word.
    let _ = docker.string("network", report);
    Some(Container {
        engine,
        image: image?,
        force_pull: docker.boolean("forcePullImage", report).unwrap_or(false),
        privileged: docker.boolean("privileged", report).unwrap_or(false),
        confinement: confinement(&container, Some(&docker), report),
        host_users: container.boolean("hostUsers", report).unwrap_or(false),
        seccomp_profile: seccomp_profile(&container, report),
        apparmor_profile: container
            .string("apparmorProfile", report)
            .filter(|name| !name.is_empty()),
        network: network.mode,
        network_name: network.name.clone(),
        network_labels: network.labels.clone(),
        volumes,
        persistent,
        secret_volumes,
        pull_secret,
    })
}

/// `linuxInfo.seccomp`: the name of a profile.
pub(super) fn seccomp_profile(container: &Fields<'_>, report: &mut Report) -> Option<ProfileName> {
    let value = container.get("linuxInfo")?;
    let known = ["seccomp", "ipcInfo"];
    let info = Fields::open(value, container.path_of("linuxInfo"), &known, report)?;
    info.unsupported("ipcInfo", "containers of a group share their IPC", report);
    let value = info.get("seccomp")?;
    let known = ["profileName", "unconfined"];
    let seccomp = Fields::open(value, info.path_of("seccomp"), &known, report)?;
    if seccomp.boolean("unconfined", report) == Some(true) {
        let path = seccomp.path_of("unconfined");
        report.value_problem(path, "no container is without a filter: name a profile");
    }
    let name = seccomp.string("profileName", report)?;
    name.parse()
        .map_err(|error: InvalidId| {
            report.value_problem(seccomp.path_of("profileName"), error.to_string())
        })
        .ok()
}

/// `pullConfig`: the name of the secret with the credentials. Whether there is such a secret is seen in the app.
pub(super) fn pull_secret(docker: &Fields<'_>, report: &mut Report) -> Option<String> {
    let value = docker.get("pullConfig")?;
    let config = Fields::open(value, docker.path_of("pullConfig"), &["secret"], report)?;
    let path = config.path_of("secret");
    if config.get("secret").is_none() {
        report.value_problem(path, "is missing: name one of the app's secrets here");
        return None;
    }
    config.string("secret", report)
}
