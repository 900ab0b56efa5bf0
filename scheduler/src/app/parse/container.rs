//! What runs the app: image, engine, network.
//!
//! Pure.

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
    ];
    let container = Fields::open(value, fields.path_of("container"), &known, report)?;
    let engine = container
        .choice(
            "type",
            &[("DOCKER", Engine::Docker), ("MESOS", Engine::Mesos)],
            report,
        )
        .unwrap_or(Engine::Mesos);
    container.unsupported("linuxInfo", "", report);
    container.unsupported("appc", "use an OCI image", report);
    let (volumes, secret_volumes) = parts::volumes(&container, report);
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
    docker.unsupported("parameters", "", report);
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
        host_users: container.boolean("hostUsers", report).unwrap_or(false),
        network: network.mode,
        network_name: network.name.clone(),
        network_labels: network.labels.clone(),
        volumes,
        secret_volumes,
        pull_secret,
    })
}

/// `pullConfig`: the name of the secret with the credentials. Whether there is such a secret is seen in the app.
fn pull_secret(docker: &Fields<'_>, report: &mut Report) -> Option<String> {
    let value = docker.get("pullConfig")?;
    let config = Fields::open(value, docker.path_of("pullConfig"), &["secret"], report)?;
    let path = config.path_of("secret");
    if config.get("secret").is_none() {
        report.value_problem(path, "is missing: name one of the app's secrets here");
        return None;
    }
    config.string("secret", report)
}
