//! Turns a run and a place into the task that the master is asked to launch.
//!
//! Pure. The environment has what Chronos gave; what the job itself sets wins.

use std::collections::BTreeMap;
use std::time::Duration;

use mezzo_api::model::{AgentId, ContainerInfo, EnvVar, Resources, TaskId, TaskInfo, TaskLimits};

use super::spec::Job;
use super::state::Run;

/// The task for one attempt.
pub(super) fn task_info(
    job: &Job,
    run: &Run,
    task_id: &TaskId,
    agent: (&AgentId, &str),
    resources: Resources,
) -> TaskInfo {
    let (agent_id, hostname) = agent;
    let (command, args) = command(job, run);
    let container = &job.container;
    TaskInfo {
        task_id: task_id.clone(),
        name: job.name.to_string(),
        agent_id: agent_id.clone(),
        resources,
        cpu_limit: None,
        memory_limit_mb: None,
        pids_limit: None,
        container: ContainerInfo {
            image: container.image.clone(),
            force_pull: container.force_pull,
            command,
            args,
            env: environment(job, run, task_id, hostname),
            read_only_rootfs: container.confinement.read_only_rootfs,
            capabilities: container.confinement.capabilities.clone(),
            user: (!job.user.is_empty()).then(|| job.user.clone()),
            network: container.network,
            network_name: container.network_name.clone(),
            volumes: job.volumes(),
            secret_env: job.secret_variables(),
            fetch: job.fetch.clone(),
            ..ContainerInfo::default()
        },
        kill_grace: None,
        health_checks: Vec::new(),
        max_completion: (job.max_completion_secs > 0)
            .then(|| Duration::from_secs(job.max_completion_secs)),
        labels: BTreeMap::new(),
        data: Vec::new(),
        limits: TaskLimits::default(),
        group: None,
        readiness_check: None,
        check: None,
        reserved: Vec::new(),
        persistent: Vec::new(),
        revocable: false,
    }
}

fn command(job: &Job, run: &Run) -> (Vec<String>, Vec<String>) {
    let added = run.arguments.as_deref().unwrap_or_default();
    if job.shell && !job.command.is_empty() {
        let line = format!("{} {added}", job.command);
        return (
            vec!["/bin/sh".into(), "-c".into(), line.trim_end().to_owned()],
            Vec::new(),
        );
    }
    let mut args = job.arguments.clone();
    args.extend(added.split_whitespace().map(str::to_owned));
    if job.command.is_empty() {
        return (Vec::new(), args);
    }
    (vec![job.command.clone()], args)
}

fn environment(job: &Job, run: &Run, task_id: &TaskId, hostname: &str) -> Vec<EnvVar> {
    let mut env = BTreeMap::new();
    for (name, value) in [
        ("HOST", hostname.to_owned()),
        ("MESOS_TASK_ID", task_id.to_string()),
        ("mesos_task_id", task_id.to_string()),
        ("CHRONOS_JOB_NAME", job.name.to_string()),
        ("CHRONOS_JOB_OWNER", job.owner.clone()),
        ("CHRONOS_JOB_RUN_TIME", run.due.to_string()),
        ("CHRONOS_JOB_RUN_ATTEMPT", run.attempt.to_string()),
        ("CHRONOS_RESOURCE_CPU", job.cpus.to_string()),
        ("CHRONOS_RESOURCE_MEM", job.mem.to_string()),
        ("CHRONOS_RESOURCE_DISK", job.disk.to_string()),
    ] {
        env.insert(name.to_owned(), value);
    }
    env.extend(job.env.clone());
    env.into_iter()
        .map(|(name, value)| EnvVar { name, value })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::parse::{Kind, parse_job};
    use crate::jobs::state::{Cause, Phase};
    use serde_json::{Value, json};

    fn check(body: Value, arguments: Option<&str>, command: &[&str], args: &[&str]) {
        let mut body = body;
        body["name"] = json!("j");
        body["container"] = json!({"image": "x"});
        let job = parse_job(&body, None, Kind::Any, 0).0.expect("valid");
        let run = Run {
            number: 1,
            cause: Cause::Request,
            due: 7,
            arguments: arguments.map(str::to_owned),
            attempt: 0,
            drops: 0,
            phase: Phase::Waiting { since: 7 },
            attempts: Vec::new(),
            waits_because: String::new(),
        };
        let (agent, task) = ("a".parse().expect("valid"), "t".parse().expect("valid"));
        let info = task_info(&job, &run, &task, (&agent, "node1"), job.resources());
        assert_eq!(
            (
                info.container.command.as_slice(),
                info.container.args.as_slice()
            ),
            (
                command
                    .iter()
                    .map(|s| (*s).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice(),
                args.iter()
                    .map(|s| (*s).to_owned())
                    .collect::<Vec<_>>()
                    .as_slice(),
            )
        );
        let due = info
            .container
            .env
            .iter()
            .find(|var| var.name == "CHRONOS_JOB_RUN_TIME");
        assert_eq!(due.map(|var| var.value.as_str()), Some("7"));
    }

    #[test]
    fn commands_are_lines_programs_or_the_images_own() {
        check(
            json!({"command": "echo hi"}),
            None,
            &["/bin/sh", "-c", "echo hi"],
            &[],
        );
        check(
            json!({"command": "echo"}),
            Some("a b"),
            &["/bin/sh", "-c", "echo a b"],
            &[],
        );
        let program = json!({"command": "/bin/echo", "shell": false, "arguments": ["x y"]});
        check(program.clone(), None, &["/bin/echo"], &["x y"]);
        check(program, Some("z"), &["/bin/echo"], &["x y", "z"]);
        check(json!({}), None, &[], &[]);
        check(
            json!({"arguments": ["-v"], "shell": false}),
            None,
            &[],
            &["-v"],
        );
    }
}
