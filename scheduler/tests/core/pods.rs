//! Pods: one instance is a task group; it stands by how its containers stand, and is replaced as a whole.

use std::collections::BTreeMap;

use mezzo_api::model::{GroupPolicy, VolumeSource};
use mezzo_scheduler::core::groups::{GroupChange, GroupCommand};
use mezzo_scheduler::core::record::decode;
use mezzo_scheduler::core::state::Condition;
use mezzo_scheduler::events::EventKind;

use super::*;

pub(super) fn pod(extra: Value) -> Value {
    let base = json!({
        "id": "/a",
        "environment": {"SHARED": "pod", "OWN": "pod"},
        "networks": [{"mode": "container/bridge"}],
        "volumes": [{"name": "data"}],
        "containers": [
            {
                "name": "web",
                "image": {"id": "web:1"},
                "resources": {"cpus": 0.2, "mem": 64},
                "exec": {"command": {"shell": "serve"}},
                "endpoints": [{"name": "http", "containerPort": 80, "hostPort": 0}, {"name": "in", "containerPort": 81}],
                "environment": {"OWN": "web"},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            {
                "name": "log",
                "image": {"id": "log:1"},
                "resources": {"cpus": 0.1, "mem": 32},
                "exec": {"command": {"argv": ["/log", "-v"]}, "overrideEntrypoint": true},
                "endpoints": [{"name": "logs", "containerPort": 0, "hostPort": 0}],
            },
        ],
    });
    mezzo_scheduler::app::merge(&base, &extra)
}

impl Bench {
    fn post_pod(&mut self, extra: Value) {
        let body = pod(extra);
        let command = Command::CreatePod { body, force: false };
        self.command(command).expect("a good pod");
    }

    fn put_pod(&mut self, body: Value) -> Result<Reply, Refusal> {
        self.command(Command::UpdatePod {
            pod: "/a".parse().expect("valid"),
            body,
            force: false,
            dry_run: false,
        })
    }

    /// Posts a pod and lets all of it run.
    pub(super) fn run_pod(&mut self, extra: Value) -> Vec<TaskInfo> {
        self.post_pod(extra);
        let tasks = launched(&self.offer("agent-1", NODE));
        for task in &tasks {
            self.say(&task.task_id, TaskState::Running);
        }
        tasks
    }

    fn conditions(&self) -> Vec<Condition> {
        let instances = self.app().instances.values();
        instances.map(|one| one.condition).collect()
    }
}

#[test]
fn an_instance_of_a_pod_is_one_task_group_on_one_offer() {
    let mut bench = Bench::new();
    bench.post_pod(json!({"scaling": {"kind": "fixed", "instances": 2}}));
    let effects = bench.offer("agent-1", NODE);
    let tasks = launched(&effects);
    assert_eq!(tasks.len(), 4);
    let groups: Vec<_> = tasks
        .iter()
        .map(|task| task.group.clone().expect("a group"))
        .collect();
    assert_eq!(groups[0].id, groups[1].id);
    assert_ne!(groups[1].id, groups[2].id);
    for (i, group) in groups.iter().enumerate() {
        assert_eq!((group.n_members, group.init), (2, false));
        assert_eq!(group.position as usize, i % 2);
        assert_eq!(group.policy, GroupPolicy::KillGroup);
        assert_eq!(group.volumes[0].name, "data");
        assert!(tasks[i].task_id.as_str().starts_with(group.id.as_str()));
    }
    // Durable in the turn that launches it, as one record for the instance.
    for instance in bench.app().instances.values() {
        let key = Key::Instance(instance.task_id.clone());
        assert!(
            effects
                .writes
                .iter()
                .any(|write| write.key == key && write.value.is_some())
        );
        assert_eq!(instance.members.len(), 2);
    }
    let ends: Vec<&str> = tasks
        .iter()
        .filter_map(|task| {
            task.task_id
                .as_str()
                .rsplit_once(".instance-")?
                .1
                .split_once('.')
        })
        .map(|(_, end)| end)
        .collect();
    assert_eq!(ends, ["web.1", "log.1", "web.1", "log.1"]);
}

#[test]
fn a_containers_task_is_what_the_pod_says_of_it() {
    let mut bench = Bench::new();
    let tasks = bench.run_pod(json!({}));
    let [web, log] = tasks.as_slice() else {
        panic!("{tasks:?}")
    };
    assert_eq!((web.name.as_str(), log.name.as_str()), ("web.a", "log.a"));
    assert_eq!(web.resources.scalar("cpus").to_string(), "0.2");
    assert_eq!(log.resources.scalar("mem").to_string(), "32");
    // Each has the ports of its own endpoints alone.
    assert_eq!(
        (web.resources.ports().len(), log.resources.ports().len()),
        (1, 1)
    );
    assert_ne!(web.resources.ports(), log.resources.ports());
    assert_eq!(web.container.command, ["/bin/sh", "-c", "serve"]);
    assert_eq!(log.container.command, ["/log", "-v"]);
    assert_eq!(web.container.network, log.container.network);
    assert_eq!(
        web.container.volumes[0].source,
        VolumeSource::Group("data".into())
    );
    assert_eq!(web.container.port_mappings.len(), 2);
    let env = |task: &TaskInfo, name: &str| {
        let found = task.container.env.iter().find(|var| var.name == name);
        found.map(|var| var.value.clone())
    };
    let port = |task: &TaskInfo| {
        task.resources
            .ports()
            .values()
            .next()
            .map(|port| port.to_string())
    };
    for (task, own) in [(web, "web"), (log, "pod")] {
        assert_eq!(env(task, "SHARED").as_deref(), Some("pod"));
        assert_eq!(env(task, "OWN").as_deref(), Some(own));
        assert_eq!(env(task, "MARATHON_APP_ID").as_deref(), Some("/a"));
        assert_eq!(env(task, "EP_HOST_HTTP"), port(web));
        assert_eq!(env(task, "EP_CONTAINER_HTTP").as_deref(), Some("80"));
        assert_eq!(env(task, "ENDPOINT_IN").as_deref(), Some("81"));
        assert_eq!(env(task, "EP_HOST_IN"), None, "only in the pod's network");
        assert_eq!(
            env(task, "EP_CONTAINER_LOGS"),
            port(log),
            "the same as the machine's"
        );
        assert_eq!(
            env(task, "MESOS_TASK_ID").as_deref(),
            Some(task.task_id.as_str())
        );
        assert_eq!(env(task, "PORT0"), None, "those are apps' variables");
    }
    assert_eq!(env(log, "MARATHON_CONTAINER_ID").as_deref(), Some("log"));
    assert_eq!(
        env(log, "MARATHON_CONTAINER_RESOURCE_MEM").as_deref(),
        Some("32.0")
    );
}

#[test]
fn an_instance_runs_when_all_its_containers_do() {
    let mut bench = Bench::new();
    bench.post_pod(json!({}));
    let tasks = launched(&bench.offer("agent-1", NODE));
    bench.say(&tasks[0].task_id, TaskState::Running);
    assert_eq!(bench.conditions(), [Condition::Staging]);
    assert_eq!(bench.core.state().deployments.len(), 1);
    let effects = bench.say(&tasks[1].task_id, TaskState::Running);
    assert_eq!(bench.conditions(), [Condition::Running]);
    assert!(bench.core.state().deployments.is_empty(), "deployed");
    let told = effects.events.iter().any(|event| {
        matches!(&event.kind, EventKind::StatusUpdate { task, .. } if *task == tasks[1].task_id)
    });
    assert!(told, "by the task's own id");
}

#[test]
fn one_container_that_fails_is_the_end_of_its_instance_and_another_takes_its_place() {
    let mut bench = Bench::new();
    let tasks = bench.run_pod(json!({}));
    bench.say_more(&tasks[1].task_id, TaskState::Failed, |status| {
        status.message = "exit code 3".into();
    });
    assert_eq!(
        bench.conditions(),
        [Condition::Killing],
        "the agent ends the other"
    );
    assert_eq!(bench.app().backoff.left_ms(bench.now), 0, "not ended yet");
    assert!(bench.app().queue.is_some(), "another one is wanted already");
    bench.say(&tasks[0].task_id, TaskState::Killed);
    assert!(bench.app().instances.is_empty());
    let failure = bench.app().last_failure.clone().expect("a failure");
    assert_eq!(
        (failure.state, failure.message.as_str()),
        (TaskState::Failed, "log: exit code 3")
    );
    assert!(bench.app().backoff.left_ms(bench.now) > 0, "with a delay");
    bench.now += 60_000;
    bench.turn();
    assert_eq!(
        launched(&bench.offer("agent-1", NODE)).len(),
        2,
        "as a whole"
    );
}

#[test]
fn what_is_left_of_an_instance_is_told_to_end_though_no_agent_would() {
    let mut bench = Bench::new();
    let tasks = bench.run_pod(json!({}));
    let effects = bench.say(&tasks[0].task_id, TaskState::Unknown);
    assert_eq!(killed(&effects), [tasks[1].task_id.clone()]);
    bench.now += 31_000;
    assert_eq!(
        killed(&bench.turn()),
        [tasks[1].task_id.clone()],
        "and again"
    );
    bench.say(&tasks[1].task_id, TaskState::Killed);
    assert!(bench.app().instances.is_empty());
}

#[test]
fn a_container_that_is_done_leaves_the_others_to_run() {
    let mut bench = Bench::new();
    let tasks = bench.run_pod(json!({}));
    bench.say(&tasks[1].task_id, TaskState::Finished);
    assert_eq!(bench.conditions(), [Condition::Running]);
    bench.say(&tasks[0].task_id, TaskState::Finished);
    assert!(
        bench.app().instances.is_empty(),
        "then the instance has ended"
    );
}

#[test]
fn an_unhealthy_container_makes_the_instance_unhealthy_and_a_replacement_comes_first() {
    let mut bench = Bench::new();
    let mut body = pod(json!({}));
    body["containers"][0]["healthCheck"] =
        json!({"tcp": {"endpoint": "http"}, "maxConsecutiveFailures": 1});
    let tasks = bench.run_pod(json!({"containers": body["containers"]}));
    let checks = [&tasks[0], &tasks[1]].map(|task| task.health_checks.len());
    assert_eq!(checks, [1, 0]);
    assert!(
        !bench.core.state().deployments.is_empty(),
        "no word of its health"
    );
    bench.say_more(&tasks[0].task_id, TaskState::Running, |s| {
        s.healthy = Some(true)
    });
    assert!(bench.core.state().deployments.is_empty());
    bench.say_more(&tasks[0].task_id, TaskState::Running, |s| {
        s.healthy = Some(false)
    });
    let effects = bench.offer("agent-1", NODE);
    assert!(killed(&effects).is_empty(), "not before another is healthy");
    let others = launched(&effects);
    assert_eq!(others.len(), 2);
    for task in &others {
        bench.say(&task.task_id, TaskState::Running);
    }
    let effects = bench.say_more(&others[0].task_id, TaskState::Running, |s| {
        s.healthy = Some(true)
    });
    let mut ended = killed(&effects);
    ended.sort();
    let mut wanted = vec![tasks[0].task_id.clone(), tasks[1].task_id.clone()];
    wanted.sort();
    assert_eq!(ended, wanted, "both its containers are told to end");
}

#[test]
fn an_update_replaces_instances_as_any_apps() {
    let mut bench = Bench::new();
    let old = bench.run_pod(json!({}));
    let mut body = pod(json!({}));
    body["containers"][1]["image"]["id"] = json!("log:2");
    bench.put_pod(body).expect("taken");
    let new = launched(&bench.offer("agent-1", NODE));
    assert_eq!(new[1].container.image, "log:2");
    let mut effects = Effects::default();
    for task in &new {
        effects = bench.say(&task.task_id, TaskState::Running);
    }
    assert_eq!(killed(&effects).len(), 2);
    for task in &old {
        bench.say(&task.task_id, TaskState::Killed);
    }
    assert!(bench.core.state().deployments.is_empty());
    assert_eq!(bench.app().instances.len(), 1);
    // Scaling keeps what runs.
    let mut body = pod(json!({"scaling": {"kind": "fixed", "instances": 2}}));
    body["containers"][1]["image"]["id"] = json!("log:2");
    bench.put_pod(body).expect("taken");
    let effects = bench.offer("agent-1", NODE);
    assert_eq!((launched(&effects).len(), killed(&effects).len()), (2, 0));
}

#[test]
fn a_scheduler_that_begins_anew_knows_every_container() {
    let mut bench = Bench::new();
    let mut disk: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    let mut note = |effects: &Effects| {
        for write in &effects.writes {
            match &write.value {
                Some(value) => disk.insert(write.key.clone(), value.clone()),
                None => disk.remove(&write.key),
            };
        }
    };
    bench.post_pod(json!({}));
    let effects = bench.offer("agent-1", NODE);
    note(&effects);
    let tasks = launched(&effects);
    note(&bench.say(&tasks[0].task_id, TaskState::Running));
    let state = decode(disk.clone()).expect("readable");
    bench.core = Core::new(state, Settings::default());
    let framework = "framework".parse().expect("valid");
    bench.core.subscribed(&framework, bench.now);
    let effects = bench.turn();
    let asked = effects.calls.iter().find_map(|call| {
        if let Call::Reconcile { tasks } = call {
            (!tasks.is_empty()).then(|| tasks.clone())
        } else {
            None
        }
    });
    let asked: Vec<TaskId> = asked
        .expect("asked")
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.task_id.clone()).collect();
    assert_eq!(asked, ids, "its tasks, not its own name");
    bench.say(&tasks[1].task_id, TaskState::Running);
    assert_eq!(bench.conditions(), [Condition::Running]);
}

#[test]
fn a_pod_that_is_removed_ends_and_what_comes_back_late_is_ended_too() {
    let mut bench = Bench::new();
    let tasks = bench.run_pod(json!({}));
    for task in &tasks {
        bench.say(&task.task_id, TaskState::Unreachable);
    }
    let delete = Command::Delete {
        app: "/a".parse().expect("valid"),
        force: false,
    };
    bench.command(delete).expect("removed");
    bench.turn();
    assert!(bench.core.state().apps.is_empty());
    assert_eq!(bench.core.state().orphans.len(), 1);
    let effects = bench.say(&tasks[0].task_id, TaskState::Running);
    assert_eq!(killed(&effects), [tasks[0].task_id.clone()]);
    bench.say(&tasks[0].task_id, TaskState::Killed);
    assert_eq!(
        bench.core.state().orphans.len(),
        1,
        "the other may still run"
    );
    bench.say(&tasks[1].task_id, TaskState::Gone);
    assert!(bench.core.state().orphans.is_empty());
}

#[test]
fn apps_and_pods_share_their_names_and_neither_becomes_the_other() {
    let mut bench = Bench::new();
    bench.run_pod(json!({}));
    let again = Command::CreatePod {
        body: pod(json!({})),
        force: false,
    };
    assert!(matches!(bench.command(again), Err(Refusal::PodExists(_))));
    let Err(Refusal::Invalid(report)) = bench.put(json!({"instances": 3})) else {
        panic!("an app's update of a pod was taken")
    };
    assert!(
        report.errors[0].message.contains("/v2/pods/a"),
        "{report:?}"
    );
    let group = |body: Value| {
        Command::Group(GroupCommand {
            id: None,
            change: GroupChange::Update(body),
            force: true,
            dry_run: false,
        })
    };
    let app = json!({"id": "a", "container": {"docker": {"image": "a:1"}}});
    let Err(Refusal::Invalid(report)) = bench.command(group(json!({"id": "/", "apps": [app]})))
    else {
        panic!("a pod became an app")
    };
    assert!(report.errors[0].message.contains("is a pod"), "{report:?}");
}

#[test]
fn groups_hold_pods_beside_apps_and_a_list_of_one_kind_leaves_the_other_alone() {
    let mut bench = Bench::new();
    let group = |body: Value| {
        Command::Group(GroupCommand {
            id: None,
            change: GroupChange::Update(body),
            force: true,
            dry_run: false,
        })
    };
    let app = json!({"id": "web", "container": {"docker": {"image": "a:1"}}});
    let body = json!({"id": "/shop", "apps": [app], "pods": [pod(json!({"id": "pod"}))]});
    bench.command(group(body)).expect("made");
    let ids = |bench: &Bench| -> Vec<String> {
        let apps = bench.core.state().visible_apps();
        apps.map(|(id, _)| id.to_string()).collect()
    };
    assert_eq!(ids(&bench), ["/shop/pod", "/shop/web"]);
    bench
        .command(group(json!({"id": "/shop", "apps": []})))
        .expect("changed");
    assert_eq!(ids(&bench), ["/shop/pod"]);
    bench
        .command(group(json!({"id": "/shop", "pods": []})))
        .expect("changed");
    assert!(ids(&bench).is_empty());
}
