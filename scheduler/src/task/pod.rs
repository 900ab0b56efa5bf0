//! Turns a pod's version and a place into the tasks that one instance is: a task group.
//!
//! Pure. The environment is Marathon's for pods: what an app's task has, MARATHON_CONTAINER_ID and _RESOURCE_…, and for each
//! endpoint of the pod ENDPOINT_, EP_HOST_ and EP_CONTAINER_NAME (`TaskGroupBuilder.scala` at 90619da7). What the pod
//! itself sets wins.

use std::collections::BTreeMap;

use mezzo_api::model::{EnvVar, GroupPolicy, Offer, Ranges, Stack, TaskGroup, TaskId, TaskInfo};

use super::{task_info, variable_name, with_point};
use crate::app::pod::{Pod, PodContainer};
use crate::app::{App, AppVersion};
use crate::place::Ask;
use crate::resident::Holding;

/// The name of the task that is a container of an instance; also what its task id ends with.
#[must_use]
pub fn task_id(instance: &TaskId, container: &str) -> TaskId {
    format!("{instance}.{container}.1")
        .parse()
        .expect("names of containers are checked to be short and of a-z, 0-9 and `-`")
}

/// The tasks of one instance, in the order of the containers, each with its membership. `ports` are the machine's, in the
/// order in which the pod asks for them; `holding` is what the instance keeps, by which reservation of the offer.
#[must_use]
pub fn task_infos(
    version: &AppVersion,
    pod: &Pod,
    instance: &TaskId,
    offer: &Offer,
    ports: &[u16],
    holding: Option<(&Holding, &Stack)>,
) -> Vec<TaskInfo> {
    let n_members = u32::try_from(pod.containers.len()).unwrap_or(u32::MAX);
    let endpoints = endpoints(&version.app, ports);
    let mut given = ports.iter().copied();
    let mut tasks = Vec::new();
    for (position, container) in (0..).zip(&pod.containers) {
        let own = AppVersion {
            app: container.whole(&version.app, pod),
            ..version.clone()
        };
        let n_ports = Ask::of(&own.app).ports.len();
        let ports: Vec<u16> = given.by_ref().take(n_ports).collect();
        let ranges = Ranges::new(ports.iter().map(|&port| (u64::from(port), u64::from(port))));
        let resources = Ask::scalars_of(&own.app).with_ranges("ports", ranges);
        let id = task_id(instance, &container.name);
        let mut task = task_info(&own, &id, offer, &ports, resources);
        task.name = format!("{}.{}", container.name, task.name);
        if let Some(argv) = &container.entrypoint {
            task.container.command.clone_from(argv);
        }
        if let (Some(check), Some(argv)) = (task.health_checks.first_mut(), &container.check_argv) {
            check.command.clone_from(argv);
        }
        environment(&mut task, &own.app, container, &endpoints);
        task.group = Some(Box::new(TaskGroup {
            id: instance
                .as_str()
                .parse()
                .expect("a task id names a group as well"),
            n_members,
            position,
            init: false,
            policy: GroupPolicy::KillGroup,
            volumes: pod.shared_volumes(),
            shares: Vec::new(),
        }));
        if let Some((holding, stack)) = holding {
            holding.give_to(stack, container, &mut task);
        }
        tasks.push(task);
    }
    tasks
}

/// What every container knows of all endpoints of the pod.
fn endpoints(app: &App, ports: &[u16]) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let assigned = app.assigned_ports(ports);
    for (port, assigned) in app.ports.iter().zip(assigned) {
        let name = variable_name(port.name.as_deref().unwrap_or_default());
        env.insert(format!("ENDPOINT_{name}"), assigned.inside.to_string());
        if let Some(host) = assigned.host {
            env.insert(format!("EP_HOST_{name}"), host.to_string());
        }
        if port.target.is_some() {
            env.insert(format!("EP_CONTAINER_{name}"), assigned.inside.to_string());
        }
    }
    env
}

fn environment(
    task: &mut TaskInfo,
    app: &App,
    container: &PodContainer,
    endpoints: &BTreeMap<String, String>,
) {
    let mut env: BTreeMap<String, String> = std::mem::take(&mut task.container.env)
        .into_iter()
        .map(|one| (one.name, one.value))
        .collect();
    // Those of an app of one task, which a container of several is not.
    env.retain(|name, _| {
        let of_app = name.starts_with("MARATHON_APP_RESOURCE_")
            || name == "MARATHON_APP_DOCKER_IMAGE"
            || name == "PORTS"
            || name.strip_prefix("PORT").is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(|c: char| c == '_' || c.is_ascii_digit())
            });
        !of_app || app.env.contains_key(name)
    });
    let mut put = |name: String, value: String| {
        env.entry(name).or_insert(value);
    };
    put("MARATHON_CONTAINER_ID".into(), container.name.clone());
    for (name, amount) in [
        ("CPUS", app.cpus),
        ("MEM", app.mem),
        ("DISK", app.disk),
        ("GPUS", app.gpus),
    ] {
        let variable = format!("MARATHON_CONTAINER_RESOURCE_{name}");
        put(variable, with_point(name, amount));
    }
    for (name, value) in endpoints {
        put(name.clone(), value.clone());
    }
    let env = env.into_iter();
    task.container.env = env.map(|(name, value)| EnvVar { name, value }).collect();
}
