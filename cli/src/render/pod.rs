//! Pods for people.

use super::{Style, Table, Tone, UNKNOWN, clean, facts, section, toned};
use crate::view::pod::{Container, PodStatus};

/// `mezzo pod list`.
pub(crate) fn list(pods: &[PodStatus], style: Style) -> String {
    if pods.is_empty() {
        return "no pods; deploy one with `mezzo pod add FILE`\n".to_owned();
    }
    let mut table = Table::new(&["POD", ">STABLE", "STATE", ">CONTAINERS", "VERSION"]);
    for pod in pods {
        table.row([
            pod.id.as_str().into(),
            toned(
                tone(&pod.status),
                format!("{}/{}", pod.stable(), pod.spec.scaling.instances),
            ),
            toned(tone(&pod.status), pod.status.to_lowercase()),
            pod.spec.containers.len().to_string().into(),
            pod.spec.version.as_str().into(),
        ]);
    }
    table.render(style, "")
}

/// `mezzo pod status`.
pub(crate) fn status(pod: &PodStatus, style: Style) -> String {
    let mut text = facts(
        style,
        &[
            ("pod", pod.id.clone()),
            (
                "state",
                format!(
                    "{}, {} of {} stable",
                    pod.status.to_lowercase(),
                    pod.stable(),
                    pod.spec.scaling.instances
                ),
            ),
            ("version", pod.spec.version.clone()),
            ("waits for", pod.message.clone()),
        ],
    );
    let mut table = Table::new(&[
        "INSTANCE",
        "STATE",
        "NODE",
        "CONTAINER",
        "TASK",
        "ENDPOINTS",
    ]);
    for instance in &pod.instances {
        for (i, container) in instance.containers.iter().enumerate() {
            let first = |text: &str| {
                if i == 0 {
                    text.to_owned()
                } else {
                    String::new()
                }
            };
            table.row([
                first(&instance.id).into(),
                toned(
                    tone(&instance.status),
                    first(&instance.status.to_lowercase()),
                ),
                first(&instance.agent_hostname).into(),
                container.name.as_str().into(),
                task(container).into(),
                endpoints(container).into(),
            ]);
        }
    }
    if !pod.instances.is_empty() {
        text.push_str(&section(style, "instances", &table.render(style, "  ")));
    }
    let mut kept = Table::new(&["VOLUME", "INSTANCE", "NODE", "ID"]);
    for instance in &pod.instances {
        for volume in &instance.local_volumes {
            kept.row([
                volume.container_path.as_str().into(),
                instance.id.as_str().into(),
                instance.agent_hostname.as_str().into(),
                volume.persistence_id.as_str().into(),
            ]);
        }
    }
    if pod
        .instances
        .iter()
        .any(|one| !one.local_volumes.is_empty())
    {
        text.push_str(&section(style, "kept volumes", &kept.render(style, "  ")));
    }
    if let Some(last) = pod.termination_history.last() {
        let line = format!(
            "  {} at {}: {}\n",
            clean(&last.instance_id),
            clean(&last.terminated_at),
            clean(&last.message)
        );
        text.push_str(&section(style, "last failure", &line));
    }
    text
}

/// One line of progress.
pub(crate) fn progress(pod: &PodStatus) -> String {
    format!(
        "{}: {} of {} stable",
        clean(&pod.id),
        pod.stable(),
        pod.spec.scaling.instances
    )
}

fn tone(status: &str) -> Tone {
    match status {
        "STABLE" => Tone::Good,
        "PENDING" | "STAGING" => Tone::Busy,
        "TERMINAL" => Tone::Faint,
        _ => Tone::Bad,
    }
}

fn task(container: &Container) -> String {
    let state = container.status.trim_start_matches("TASK_").to_lowercase();
    if container.message.is_empty() {
        state
    } else {
        format!("{state}: {}", container.message)
    }
}

fn endpoints(container: &Container) -> String {
    let shown = container.endpoints.iter().map(|endpoint| {
        let port = endpoint
            .allocated_host_port
            .map_or_else(|| UNKNOWN.to_owned(), |port| port.to_string());
        let health = match endpoint.healthy {
            Some(true) => " good",
            Some(false) => " bad",
            None => "",
        };
        format!("{}:{port}{health}", endpoint.name)
    });
    shown.collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Style = Style { colour: false };

    fn pod() -> PodStatus {
        PodStatus::of(&json!({
            "id": "/shop", "status": "DEGRADED", "message": "1 of 2 healthy",
            "spec": {"version": "v1", "containers": [{}, {}], "scaling": {"instances": 2}},
            "instances": [{
                "id": "shop.instance-1", "status": "STABLE", "agentHostname": "node1",
                "containers": [
                    {"name": "web", "status": "TASK_RUNNING",
                     "endpoints": [{"name": "http", "allocatedHostPort": 31000, "healthy": true}]},
                    {"name": "log", "status": "TASK_FAILED", "message": "exit code 1"},
                ],
                "localVolumes": [{"containerPath": "data", "persistenceId": "shop.0.5c3f"}],
            }],
            "terminationHistory": [
                {"instanceID": "shop.instance-0", "terminatedAt": "t", "message": "log: exit code 1"},
            ],
        }))
    }

    #[test]
    fn a_pod_is_shown_with_every_container() {
        let text = status(&pod(), PLAIN);
        for part in [
            "degraded, 1 of 2 stable",
            "1 of 2 healthy",
            "shop.instance-1",
            "node1",
            "http:31000 good",
            "failed: exit code 1",
            "shop.instance-0 at t: log: exit code 1",
            "data    shop.instance-1  node1  shop.0.5c3f",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(
            text.matches("shop.instance-1").count(),
            2,
            "once with its containers, once with what it keeps: {text}"
        );
    }

    #[test]
    fn a_list_has_a_line_per_pod() {
        let text = list(&[pod()], PLAIN);
        let line = text.lines().nth(1).expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["/shop", "1/2", "degraded", "2", "v1"]);
        assert!(list(&[], PLAIN).starts_with("no pods"));
    }
}
