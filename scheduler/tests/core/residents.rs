//! Apps with persistent volumes: what is asked for first, what the next instance starts on, and what is given back.

use mezzo_api::model::{PoolChange, Pools, RoleName, VolumeSource};
use mezzo_scheduler::core::command::Wipe;
use mezzo_scheduler::core::record::decode;
use mezzo_scheduler::resident::{Holding, Stage};

use super::*;

/// A machine that has what calls make of it.
struct Node {
    free: Pools,
}

impl Node {
    fn new() -> Self {
        let all = "cpus:4;mem:4096;disk:1000;ports:[31000-31099]";
        Self {
            free: Pools::open_to_all(all.parse().expect("resources")),
        }
    }

    /// Does what an accept asks for, and gives what was launched.
    fn take(&mut self, effects: &Effects) -> (Vec<PoolChange>, Vec<TaskInfo>) {
        let mut done = (Vec::new(), Vec::new());
        for call in &effects.calls {
            let Call::Accept { changes, tasks, .. } = call else {
                continue;
            };
            for change in changes {
                let conversion = self.free.conversion(change).expect("it is there");
                self.free = self.free.converted(&conversion).expect("just looked");
                done.0.push(change.clone());
            }
            for task in tasks {
                let mut task = task.clone();
                for mount in &task.container.volumes {
                    if let VolumeSource::Persistent(id) = &mount.source {
                        // As the master: what a member before it holds, it shares.
                        let group = task.group.as_ref().map(|group| &group.id);
                        let beside = done.1.iter().filter(|one: &&TaskInfo| {
                            group.is_some() && one.group.as_ref().map(|one| &one.id) == group
                        });
                        let mut held = beside.flat_map(|one| &one.persistent);
                        let held = held.find(|volume| volume.id == *id).cloned();
                        if let (Some(group), Some(_), false) =
                            (&mut task.group, &held, mount.read_only)
                        {
                            group.shares.push(id.clone());
                        }
                        let free = self.free.volume_for(&apps(), id.as_str());
                        let volume = held.or(free.cloned()).expect("it is there");
                        task.persistent.push(volume);
                    }
                }
                let pools = task.pools().expect("consistent");
                self.free = self.free.checked_sub(&pools).expect("it is there");
                done.1.push(task);
            }
        }
        done
    }

    fn ended(&mut self, task: &TaskInfo) {
        let pools = task.pools().expect("consistent");
        self.free = self.free.checked_add(&pools).expect("small");
    }
}

fn apps() -> RoleName {
    Settings::default().resident_role
}

fn resident(instances: u32) -> Value {
    json!({
        "instances": instances,
        "container": {
            "docker": {"image": "a:1"},
            "volumes": [{"containerPath": "data", "mode": "RW", "persistent": {"size": 100}}],
        },
    })
}

impl Bench {
    fn offer_of(&mut self, node: &Node) -> Effects {
        let mut offer = self.an_offer("agent-1", "");
        offer.role = apps();
        offer.resources = node.free.plain();
        offer.reserved = node.free.pool_list();
        offer.volumes = node.free.volumes().cloned().collect();
        self.core.offered(vec![offer]);
        self.turn()
    }

    /// The machine as the master tells it.
    fn told(&mut self, held: &[&Holding]) -> Effects {
        let machine = Machine {
            held: Some(held.iter().map(|one| one.id).collect()),
            total: "cpus:4;mem:4096;disk:1000;ports:[31000-31099]"
                .parse()
                .expect("resources"),
            ..Machine::default()
        };
        let agent: AgentId = "agent-1".parse().expect("valid");
        self.core.surveyed([(agent, machine)].into());
        self.turn()
    }

    fn holdings(&self) -> Vec<Holding> {
        self.app()
            .holdings
            .values()
            .map(|one| (**one).clone())
            .collect()
    }

    fn run_resident(&mut self, node: &mut Node, instances: u32) -> Vec<TaskInfo> {
        self.post(resident(instances));
        let calls = self.turn().calls;
        assert!(calls.contains(&Call::Revive(apps())));
        assert!(!calls.contains(&Call::Revive(RoleName::any())));
        let effects = self.offer_of(node);
        let (_, tasks) = node.take(&effects);
        for task in &tasks {
            self.say(&task.task_id, TaskState::Starting);
            self.say(&task.task_id, TaskState::Running);
        }
        tasks
    }
}

#[test]
fn a_first_instance_reserves_makes_its_volume_and_starts_in_one_call() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    bench.post(resident(1));
    bench.turn();
    let effects = bench.offer_of(&node);
    let key = bench.holdings()[0].id;
    let is_durable = effects.writes.iter().any(|write| {
        matches!(&write.key, Key::Holding(_, id) if *id == key) && write.value.is_some()
    });
    assert!(is_durable, "before it is asked for");
    let (changes, tasks) = node.take(&effects);
    assert!(matches!(changes[0], PoolChange::Reserve { .. }));
    assert!(matches!(changes[1], PoolChange::Create(_)));
    assert_eq!((changes.len(), tasks.len()), (2, 1));
    let mount = &tasks[0].container.volumes[0];
    assert_eq!(mount.container_path, "/mnt/mezzo/sandbox/data");
    assert!(!mount.read_only);
    assert_eq!(bench.holdings()[0].stage, Stage::New);
    bench.say(&tasks[0].task_id, TaskState::Starting);
    assert_eq!(bench.holdings()[0].stage, Stage::Kept);
}

#[test]
fn the_next_instance_starts_on_the_same_volume_and_nowhere_else() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    let task = bench.run_resident(&mut node, 1).remove(0);
    bench.say(&task.task_id, TaskState::Killed);
    node.ended(&task);
    // Of a machine that has nothing of it.
    let mut elsewhere = bench.an_offer("agent-2", "cpus:4;mem:4096;disk:1000");
    elsewhere.role = apps();
    bench.core.offered(vec![elsewhere]);
    assert!(launched(&bench.turn()).is_empty());
    // Nor on what is open at the right one, while the volume is not offered.
    let bare = Node::new();
    assert!(launched(&bench.offer_of(&bare)).is_empty());
    let why = why::why_not_launched(bench.core.state(), bench.app(), bench.now).expect("it waits");
    assert!(why.contains("kept by an instance: volume a.0."), "{why}");
    let effects = bench.offer_of(&node);
    let (changes, tasks) = node.take(&effects);
    assert_eq!((changes.len(), tasks.len()), (0, 1));
    assert_eq!(tasks[0].container.volumes, task.container.volumes);
    assert_ne!(tasks[0].task_id, task.task_id);
    assert_eq!(bench.holdings().len(), 1);
}

#[test]
fn scaling_down_keeps_the_volume_for_the_next_instance_and_wiping_gives_it_back() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    let tasks = bench.run_resident(&mut node, 2);
    bench.put(json!({"instances": 1})).expect("scaled");
    let gone = killed(&bench.turn()).remove(0);
    bench.say(&gone, TaskState::Killed);
    let ended = tasks.iter().find(|task| task.task_id == gone).expect("ran");
    node.ended(ended);
    assert_eq!(bench.holdings().len(), 2, "detached");
    let app: AppId = "/a".parse().expect("valid");
    bench
        .command(Command::KillTasks {
            tasks: Vec::new(),
            pass_over: true,
            scale: false,
            wipe: Wipe::AllOf(app),
            force: false,
        })
        .expect("wiped");
    bench.turn();
    assert_eq!(bench.holdings().len(), 1);
    let released: Vec<Holding> = bench
        .core
        .state()
        .releasing
        .values()
        .map(|one| (**one).clone())
        .collect();
    let calls = bench.told(&[&released[0], &bench.holdings()[0]]).calls;
    assert!(calls.contains(&Call::Revive(apps())));
    let effects = bench.offer_of(&node);
    let (changes, tasks) = node.take(&effects);
    assert!(tasks.is_empty());
    assert!(matches!(changes[0], PoolChange::Destroy(_)));
    assert!(matches!(changes[1], PoolChange::Unreserve { .. }));
    assert_eq!(
        bench.core.state().releasing.len(),
        1,
        "until the master knows of it no more"
    );
    let calls = bench.told(&[&bench.holdings()[0]]).calls;
    assert!(bench.core.state().releasing.is_empty());
    assert!(calls.contains(&Call::Suppress(apps())));
}

#[test]
fn pain_14_no_volume_is_lost_to_an_app_and_none_is_left_when_it_goes_also_over_a_restart() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    let first = bench.run_resident(&mut node, 1).remove(0);
    let held = bench.holdings().remove(0);
    bench.say(&first.task_id, TaskState::Failed);
    node.ended(&first);
    bench.now += 5000;
    bench.turn();
    let effects = bench.offer_of(&node);
    let (_, mut tasks) = node.take(&effects);
    let task = tasks.remove(0);
    assert_eq!(task.container.volumes, first.container.volumes);
    bench
        .command(Command::Delete {
            app: "/a".parse().expect("valid"),
            force: true,
        })
        .expect("goes");
    bench.turn();
    let effects = bench.say(&task.task_id, TaskState::Killed);
    node.ended(&task);
    assert!(bench.core.state().apps.is_empty());
    let written = effects.writes.into_iter().filter_map(|write| {
        let value = write.value?;
        matches!(write.key, Key::Holding(..)).then_some((write.key, value))
    });
    let state = decode(written).expect("readable");
    assert_eq!(state.releasing[&held.id].stage, Stage::Wiped);
    bench.core = Core::new(state, Settings::default());
    bench
        .core
        .subscribed(&"framework".parse().expect("valid"), bench.now);
    bench.told(&[&held]);
    let effects = bench.offer_of(&node);
    node.take(&effects);
    assert!(node.free.is_open(), "{}", node.free);
}

#[test]
fn what_was_never_begun_on_is_made_anew() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    bench.post(resident(1));
    bench.turn();
    let effects = bench.offer_of(&node);
    let (_, tasks) = node.take(&effects);
    let first = bench.holdings().remove(0);
    bench.say(&tasks[0].task_id, TaskState::Error);
    node.ended(&tasks[0]);
    assert!(bench.holdings().is_empty());
    bench.now += 5000;
    bench.told(&[&first]);
    let effects = bench.offer_of(&node);
    let (changes, tasks) = node.take(&effects);
    assert_eq!(tasks.len(), 1);
    assert!(matches!(changes[0], PoolChange::Destroy(_)), "{changes:?}");
    assert_ne!(bench.holdings()[0].id, first.id);
}

#[test]
fn what_was_never_made_is_forgotten_as_soon_as_the_master_says_so() {
    let mut bench = Bench::new();
    bench.told(&[]);
    bench.post(resident(1));
    bench.turn();
    // Its call is lost.
    let tasks = launched(&bench.offer_of(&Node::new()));
    let calls = bench.say(&tasks[0].task_id, TaskState::Dropped).calls;
    assert_eq!(bench.core.state().releasing.len(), 1);
    assert!(calls.contains(&Call::Survey), "at once");
    bench.told(&[]);
    assert!(bench.core.state().releasing.is_empty());
}

#[test]
fn what_instances_keep_cannot_be_changed() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    bench.run_resident(&mut node, 1);
    for (body, path) in [
        (json!({"cpus": 2}), "/cpus"),
        (json!({"mem": 64}), "/mem"),
        (
            json!({"container": {"docker": {"image": "a:1"}, "volumes": [
                {"containerPath": "data", "mode": "RW", "persistent": {"size": 200}},
            ]}}),
            "/container/volumes",
        ),
    ] {
        let Err(Refusal::Invalid(report)) = bench.put(body.clone()) else {
            panic!("{body} is accepted");
        };
        let paths: Vec<&str> = report.errors.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, [path], "{body}");
    }
    bench
        .put(json!({"cmd": "true"}))
        .expect("that is no matter of what is kept");
}

/// By the number of docs/marathon-compatibility.md: volumes deleted on loss, reservations leaked, apps that wait without
/// a word.
#[test]
fn pain_14_a_lost_machine_costs_no_data_the_app_says_what_it_waits_for_and_nothing_leaks() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    let task = bench.run_resident(&mut node, 1).remove(0);
    let held = bench.holdings().remove(0);
    bench.say_more(&task.task_id, TaskState::Unreachable, |status| {
        status.update_id = None;
    });
    bench.now += 86_400_000;
    bench.turn();
    let ids: Vec<_> = bench.holdings().iter().map(|one| one.id).collect();
    assert_eq!(ids, [held.id], "a day later it is still kept");
    assert!(bench.core.state().releasing.is_empty());
    let why = why::waiting_for(bench.core.state(), bench.app(), bench.now);
    assert!(!why.is_empty());
    // It comes back with its data.
    assert_eq!(killed(&bench.say(&task.task_id, TaskState::Running)), []);
    assert_eq!(bench.app().instances.len(), 1);
    // The app goes, and everything is given back.
    let app = "/a".parse().expect("valid");
    bench
        .command(Command::Delete { app, force: true })
        .expect("goes");
    bench.turn();
    bench.say(&task.task_id, TaskState::Killed);
    node.ended(&task);
    bench.told(&[&held]);
    let effects = bench.offer_of(&node);
    node.take(&effects);
    assert!(node.free.is_open(), "{}", node.free);
}

/// Two containers of which each writes to what the instance keeps.
fn resident_pod(instances: u32) -> Value {
    let container = |name: &str, mem: u32| {
        json!({
            "name": name,
            "image": {"kind": "DOCKER", "id": "a:1"},
            "resources": {"cpus": 0.1, "mem": mem},
            "healthCheck": {"exec": {"command": {"shell": "true"}}},
            "volumeMounts": [{"name": "data", "mountPath": "data"}],
        })
    };
    json!({
        "id": "/a",
        "scaling": {"kind": "fixed", "instances": instances},
        "volumes": [{"name": "data", "persistent": {"size": 100}}],
        "containers": [container("db", 64), container("backup", 32)],
    })
}

#[test]
fn a_pods_instance_keeps_its_volume_for_the_next_one_and_all_its_containers_have_it() {
    let (mut bench, mut node) = (Bench::new(), Node::new());
    let body = resident_pod(1);
    bench
        .command(Command::CreatePod { body, force: false })
        .expect("a good pod");
    let calls = bench.turn().calls;
    assert!(calls.contains(&Call::Revive(apps())));
    let effects = bench.offer_of(&node);
    let (changes, first) = node.take(&effects);
    assert!(matches!(changes[0], PoolChange::Reserve { .. }));
    assert!(matches!(changes[1], PoolChange::Create(_)));
    assert_eq!((changes.len(), first.len()), (2, 2));
    let volume = |task: &TaskInfo| task.container.volumes[0].clone();
    assert_eq!(volume(&first[0]), volume(&first[1]));
    assert_eq!(volume(&first[0]).container_path, "/mnt/mezzo/sandbox/data");
    // All that it reserves is used up by the two: each has its own part of it.
    assert_eq!(node.free.pool_list(), []);
    let check = first[0].health_checks.first().expect("it has one");
    assert_eq!(
        check.max_consecutive_failures, 3,
        "the agent ends it: no other can be there before"
    );

    assert_eq!(bench.holdings()[0].stage, Stage::New);
    // One of them has begun, whatever is heard of the other: there may be something in it.
    bench.say(&first[1].task_id, TaskState::Starting);
    assert_eq!(bench.holdings()[0].stage, Stage::Kept);
    for task in &first {
        bench.say(&task.task_id, TaskState::Running);
    }
    bench.say(&first[0].task_id, TaskState::Failed);
    bench.say(&first[1].task_id, TaskState::Killed);
    for task in &first {
        node.ended(task);
    }
    bench.now += 5000;
    bench.turn();
    let effects = bench.offer_of(&node);
    let (changes, second) = node.take(&effects);
    assert_eq!((changes.len(), second.len()), (0, 2));
    assert_eq!(volume(&second[1]), volume(&first[1]));
    assert_ne!(second[0].task_id, first[0].task_id);

    // Its size, and the sums of what its containers take, stay as they are; what one of them runs does not.
    let mut more = resident_pod(1);
    more["volumes"][0]["persistent"]["size"] = json!(200);
    more["containers"][1]["resources"]["mem"] = json!(33);
    let pod: AppId = "/a".parse().expect("valid");
    let put = |body| Command::UpdatePod {
        pod: pod.clone(),
        body,
        force: true,
        dry_run: false,
    };
    let Err(Refusal::Invalid(report)) = bench.command(put(more)) else {
        panic!("it is not refused for what it says");
    };
    let paths: Vec<&str> = report.errors.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(paths, ["/volumes", "/containers"]);
    let mut other = resident_pod(1);
    other["containers"][0]["image"]["id"] = json!("a:2");
    bench.command(put(other)).expect("that is another image");

    // Wiped: what the next one gets is new.
    let kept = bench.holdings().remove(0);
    let instance = bench.app().instances.values().next().expect("one");
    bench
        .command(Command::KillTasks {
            tasks: vec![instance.task_id.clone()],
            pass_over: false,
            scale: false,
            wipe: Wipe::Theirs,
            force: false,
        })
        .expect("wiped");
    bench.turn();
    for task in &second {
        bench.say(&task.task_id, TaskState::Killed);
        node.ended(task);
    }
    assert!(bench.core.state().releasing.contains_key(&kept.id));
    bench.told(&[&kept]);
    let effects = bench.offer_of(&node);
    let (changes, third) = node.take(&effects);
    assert!(matches!(changes[0], PoolChange::Destroy(_)), "{changes:?}");
    assert_eq!(third.len(), 2);
    assert_ne!(volume(&third[0]), volume(&first[0]));
}
