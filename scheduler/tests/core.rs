//! Single decisions of the core: what one status, offer or command leads to, and in which order.

#[path = "core/checks.rs"]
mod checks;
#[path = "core/drain.rs"]
mod drain;
#[path = "core/groups.rs"]
mod groups;
#[path = "core/health.rs"]
mod health;
#[path = "core/lives.rs"]
mod lives;
#[path = "core/pains.rs"]
mod pains;
#[path = "core/placement.rs"]
mod placement;
#[path = "core/pods.rs"]
mod pods;
#[path = "core/readiness.rs"]
mod readiness;
#[path = "core/residents.rs"]
mod residents;
#[path = "core/roles.rs"]
mod roles;
#[path = "core/trials.rs"]
mod trials;

use mezzo_api::model::{
    AgentId, Offer, Reason, RoleName, StatusSource, TaskId, TaskInfo, TaskState, TaskStatus,
};
use mezzo_scheduler::app::AppId;
use mezzo_scheduler::core::command::{Command, Refusal, Reply, Update};
use mezzo_scheduler::core::record::{Key, encode};
use mezzo_scheduler::core::state::{AppState, Machine, State};
use mezzo_scheduler::core::{Call, Core, Effects, Ids, Settings};
use mezzo_scheduler::why;
use serde_json::{Value, json};
use uuid::Uuid;

struct Counter(u128);

impl Ids for Counter {
    fn unique(&mut self) -> Uuid {
        self.0 += 1;
        Uuid::from_u128(self.0)
    }
}

/// The core with a clock and a subscription.
struct Bench {
    core: Core,
    ids: Counter,
    now: u64,
    offers: u64,
}

impl Bench {
    fn new() -> Self {
        Self::of(State::default(), Settings::default())
    }

    fn of(state: State, settings: Settings) -> Self {
        let mut bench = Self {
            core: Core::new(state, settings),
            ids: Counter(0),
            now: 1_000_000,
            offers: 0,
        };
        bench
            .core
            .subscribed(&"framework".parse().expect("valid"), bench.now);
        bench.turn();
        bench
    }

    fn turn(&mut self) -> Effects {
        self.core.turn(self.now, &mut self.ids)
    }

    fn command(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.core.command(command, self.now, &mut self.ids)
    }

    fn post(&mut self, extra: Value) {
        let base =
            json!({"id": "/a", "cpus": 0.1, "mem": 32, "container": {"docker": {"image": "a:1"}}});
        let body = mezzo_scheduler::app::merge(&base, &extra);
        self.command(Command::Create { body, force: false })
            .expect("a good app");
    }

    fn put(&mut self, body: Value) -> Result<Reply, Refusal> {
        self.command(Command::Update {
            updates: vec![Update {
                app: Some("/a".parse().expect("valid")),
                body,
            }],
            partial: true,
            create: false,
            force: false,
            dry_run: false,
        })
    }

    fn offer(&mut self, agent: &str, resources: &str) -> Effects {
        let offer = self.an_offer(agent, resources);
        self.core.offered(vec![offer]);
        self.turn()
    }

    fn an_offer(&mut self, agent: &str, resources: &str) -> Offer {
        self.offers += 1;
        Offer {
            offer_id: format!("o-{}", self.offers).parse().expect("valid"),
            framework_id: "framework".parse().expect("valid"),
            agent_id: agent.parse().expect("valid"),
            hostname: format!("{agent}.example"),
            role: Default::default(),
            resources: resources.parse().expect("resources"),
            attributes: Vec::new(),
            region: String::new(),
            zone: String::new(),
            address: String::new(),
            reserved: Vec::new(),
            volumes: Vec::new(),
            revocable: false,
            unavailability: None,
        }
    }

    fn say(&mut self, task: &TaskId, state: TaskState) -> Effects {
        self.say_more(task, state, |_| {})
    }

    fn say_more(
        &mut self,
        task: &TaskId,
        state: TaskState,
        change: impl Fn(&mut TaskStatus),
    ) -> Effects {
        let mut status = TaskStatus {
            task_id: task.clone(),
            framework_id: "framework".parse().expect("valid"),
            agent_id: Some("agent-1".parse().expect("valid")),
            state,
            reason: None,
            source: StatusSource::Agent,
            message: String::new(),
            timestamp_ms: self.now,
            update_id: Some("u-1".parse().expect("valid")),
            healthy: None,
            health_results: Vec::new(),
            container: None,
            readiness: None,
            check_result: None,
            exit: None,
            usage: None,
        };
        change(&mut status);
        self.core.status(&status, self.now);
        self.turn()
    }

    fn app(&self) -> &AppState {
        self.core
            .state()
            .apps
            .get(&"/a".parse::<AppId>().expect("valid"))
            .expect("there")
    }

    /// Posts an app and lets all of it run.
    fn run(&mut self, extra: Value) -> Vec<TaskInfo> {
        self.post(extra);
        let tasks = launched(&self.offer("agent-1", NODE));
        for task in &tasks {
            self.say(&task.task_id, TaskState::Running);
        }
        tasks
    }
}

const NODE: &str = "cpus:4;mem:4096;ports:[31000-31099]";

fn launched(effects: &Effects) -> Vec<TaskInfo> {
    effects
        .calls
        .iter()
        .filter_map(|call| match call {
            Call::Accept { tasks, .. } => Some(tasks.clone()),
            Call::Decline { .. }
            | Call::Kill { .. }
            | Call::Acknowledge { .. }
            | Call::Reconcile { .. }
            | Call::Revive(_)
            | Call::Suppress(_)
            | Call::Roles { .. }
            | Call::Survey => None,
        })
        .flatten()
        .collect()
}

fn killed(effects: &Effects) -> Vec<TaskId> {
    effects
        .calls
        .iter()
        .filter_map(|call| {
            if let Call::Kill { task, .. } = call {
                Some(task.clone())
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn a_task_is_durable_in_the_turn_that_launches_it() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 3}));
    assert!(bench.turn().calls.contains(&Call::Revive(RoleName::any())));
    let effects = bench.offer("agent-1", NODE);
    let tasks = launched(&effects);
    assert_eq!(tasks.len(), 3);
    for task in tasks {
        let written = effects
            .writes
            .iter()
            .find(|write| write.key == Key::Instance(task.task_id.clone()));
        assert!(written.is_some_and(|write| write.value.is_some()));
    }
    assert_eq!(
        effects.calls.last(),
        Some(&Call::Suppress(RoleName::any())),
        "nothing waits any more"
    );
}

#[test]
fn a_status_is_durable_in_the_turn_that_acknowledges_it() {
    let mut bench = Bench::new();
    bench.post(json!({}));
    let task = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    let effects = bench.say(&task, TaskState::Running);
    assert!(
        effects
            .calls
            .iter()
            .any(|call| matches!(call, Call::Acknowledge { .. }))
    );
    assert!(
        effects
            .writes
            .iter()
            .any(|write| write.key == Key::Instance(task.clone()))
    );
    let effects = bench.say(&task, TaskState::Finished);
    assert!(
        effects
            .writes
            .iter()
            .any(|write| write.key == Key::Instance(task.clone()) && write.value.is_none())
    );
}

#[test]
fn the_masters_own_words_are_not_acknowledged() {
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    let effects = bench.say_more(&task, TaskState::Running, |status| status.update_id = None);
    assert!(
        !effects
            .calls
            .iter()
            .any(|call| matches!(call, Call::Acknowledge { .. }))
    );
}

#[test]
fn the_environment_is_that_of_marathon() {
    let mut bench = Bench::new();
    let tasks = bench.run(json!({
        "cmd": "run $PORT0",
        "env": {"A": "1", "HOST": "mine"},
        "labels": {"tier": "web"},
        "portDefinitions": [{"port": 0, "name": "http"}, {"port": 8080}],
    }));
    let env = |name: &str| {
        let found = tasks[0].container.env.iter().find(|var| var.name == name);
        found.map(|var| var.value.clone()).unwrap_or_default()
    };
    let ports: Vec<u64> = tasks[0].resources.ports().values().collect();
    assert_eq!(ports.len(), 2);
    assert_eq!(tasks[0].container.command, ["/bin/sh", "-c", "run $PORT0"]);
    assert_eq!(env("PORT"), env("PORT0"));
    assert_eq!(env("PORTS"), format!("{},{}", env("PORT0"), env("PORT1")));
    assert_eq!(env("PORT_HTTP"), env("PORT0"));
    assert_eq!(env("PORT_8080"), env("PORT1"));
    assert_eq!(env("MARATHON_APP_ID"), "/a");
    assert_eq!(env("MARATHON_APP_RESOURCE_CPUS"), "0.1");
    assert_eq!(env("MARATHON_APP_RESOURCE_MEM"), "32.0");
    assert_eq!(env("MARATHON_APP_LABELS"), "TIER");
    assert_eq!(env("MARATHON_APP_LABEL_TIER"), "web");
    assert_eq!(env("MARATHON_APP_DOCKER_IMAGE"), "a:1");
    assert_eq!(env("MESOS_TASK_ID"), tasks[0].task_id.as_str());
    assert_eq!(env("HOST"), "mine", "the app's own word wins");
}

#[test]
fn an_apps_limits_go_with_its_tasks() {
    let launched = |limits: Value| {
        let mut bench = Bench::new();
        bench.run(json!({"resourceLimits": limits})).remove(0)
    };
    let task = launched(json!({"cpus": 2, "mem": 64, "memHigh": 48, "pids": 9}));
    assert_eq!((task.memory_limit_mb, task.pids_limit), (Some(64), Some(9)));
    assert_eq!(task.cpu_limit.map(|limit| limit.millis()), Some(2000));
    assert_eq!(task.limits.memory_high_mb, Some(48));
    assert!(!task.limits.memory_unlimited);
    let task = launched(json!({"cpus": "unlimited", "mem": "unlimited"}));
    assert_eq!((task.cpu_limit, task.memory_limit_mb), (None, None));
    assert!(task.limits.memory_unlimited);
}

#[test]
fn more_deployments_than_the_limit_are_refused_until_one_is_over() {
    let settings = Settings {
        max_deployments: 1,
        ..Settings::default()
    };
    let mut bench = Bench::of(State::default(), settings);
    bench.post(json!({}));
    let other =
        json!({"id": "/b", "cpus": 0.1, "mem": 32, "container": {"docker": {"image": "b:1"}}});
    let create = |force| Command::Create {
        body: other.clone(),
        force,
    };
    let refusal = bench.command(create(false)).expect_err("one is under way");
    assert!(
        matches!(refusal, Refusal::TooManyDeployments(1)),
        "{refusal}"
    );
    assert_eq!(bench.core.state().apps.len(), 1);
    let task = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    bench.say(&task, TaskState::Running);
    bench.command(create(false)).expect("there is room again");
}

#[test]
fn only_healthy_instances_count_in_an_update() {
    let check = json!([{"protocol": "TCP", "portIndex": 0}]);
    let mut bench = Bench::new();
    bench.post(json!({"instances": 1, "healthChecks": check}));
    let old = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    bench.say(&old, TaskState::Running);
    assert_eq!(
        bench.core.state().deployments.len(),
        1,
        "running is not healthy"
    );
    bench.say_more(&old, TaskState::Running, |s| s.healthy = Some(true));
    assert!(bench.core.state().deployments.is_empty());

    bench.put(json!({"env": {"V": "2"}})).expect("updates");
    bench.turn();
    let new = launched(&bench.offer("agent-1", NODE)).remove(0).task_id;
    assert!(killed(&bench.say(&new, TaskState::Running)).is_empty());
    assert!(
        killed(&bench.say_more(&new, TaskState::Running, |s| s.healthy = Some(false))).is_empty()
    );
    let healthy = bench.say_more(&new, TaskState::Running, |s| s.healthy = Some(true));
    assert_eq!(killed(&healthy), [old]);
}

#[test]
fn a_roll_back_keeps_what_already_runs_it() {
    let mut bench = Bench::new();
    let tasks = bench.run(json!({"instances": 2}));
    let Ok(Reply::Deployed { id, .. }) = bench.put(json!({"env": {"V": "2"}})) else {
        panic!("deploys")
    };
    bench.turn();
    let new = launched(&bench.offer("agent-1", NODE));
    bench
        .command(Command::CancelDeployment { id, force: false })
        .expect("rolls back");
    let effects = bench.turn();
    let mut gone = killed(&effects);
    gone.sort();
    let mut expected: Vec<TaskId> = new.into_iter().map(|task| task.task_id).collect();
    expected.sort();
    assert_eq!(gone, expected);
    assert!(
        tasks
            .iter()
            .all(|task| bench.app().instances[&task.task_id].sentence.is_none())
    );
}

#[test]
fn a_version_in_a_put_rolls_back_to_it() {
    let mut bench = Bench::new();
    bench.run(json!({}));
    let first = bench.app().current.version;
    bench.now += 10;
    bench.put(json!({"instances": 4})).expect("scales");
    let Err(refusal) = bench.put(json!({"version": "2014-09-12T23:28:21.737Z"})) else {
        panic!("no such version")
    };
    assert!(matches!(refusal, Refusal::NoVersion(..)), "{refusal}");
    let reply = bench.command(Command::Update {
        updates: vec![Update {
            app: Some("/a".parse().expect("valid")),
            body: json!({"version": first.to_string()}),
        }],
        partial: true,
        create: false,
        force: true,
        dry_run: false,
    });
    assert!(reply.is_ok());
    assert_eq!(bench.app().current.app.instances, 1);
}

#[test]
fn an_app_that_fits_nowhere_says_so_with_the_arithmetic() {
    let mut bench = Bench::new();
    bench.post(json!({"cpus": 64}));
    bench.turn();
    bench.offer("agent-1", NODE);
    bench.now += 1000;
    assert!(bench.turn().calls.contains(&Call::Survey));
    let agent: AgentId = "agent-1".parse().expect("valid");
    let machine = Machine {
        hostname: "node1".into(),
        total: NODE.parse().expect("resources"),
        ..Machine::default()
    };
    bench.core.surveyed([(agent, machine)].into());
    bench.turn();
    let why = why::why_not_launched(bench.core.state(), bench.app(), bench.now).expect("it waits");
    assert!(
        why.contains("more than any node has") && why.contains("node1 has cpus 4 of 64"),
        "{why}"
    );
}

#[test]
fn a_task_the_master_says_nothing_of_is_asked_after_again() {
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    bench.core.disconnected();
    bench
        .core
        .subscribed(&"framework".parse().expect("valid"), bench.now);
    let asked = |effects: &Effects| {
        let question = Call::Reconcile {
            tasks: vec![(task.clone(), "agent-1".parse().expect("valid"))],
        };
        effects.calls.contains(&question)
    };
    let effects = bench.turn();
    assert!(asked(&effects));
    for pause in [500, 1000, 2000] {
        assert!(!asked(&bench.turn()));
        bench.now += pause;
        assert!(asked(&bench.turn()));
    }
    bench.say(&task, TaskState::Running);
    bench.now += 60_000;
    assert!(!asked(&bench.turn()));
}

#[test]
fn an_offer_of_no_use_is_declined_for_long() {
    let mut bench = Bench::new();
    let effects = bench.offer("agent-1", NODE);
    assert!(
        effects
            .calls
            .iter()
            .any(|call| matches!(call, Call::Decline { refuse, .. } if refuse.as_secs() == 120))
    );
}

#[test]
fn service_ports_are_unique_and_stay() {
    let mut bench = Bench::new();
    bench.post(json!({"portDefinitions": [{"port": 0}, {"port": 0}]}));
    let first: Vec<u16> = bench
        .app()
        .current
        .app
        .ports
        .iter()
        .map(|port| port.port)
        .collect();
    assert_eq!(first, [10_000, 10_001]);
    bench.post(json!({"id": "/b"}));
    let other = bench.core.state().apps[&"/b".parse::<AppId>().expect("valid")]
        .current
        .app
        .ports[0]
        .port;
    assert_eq!(other, 10_002);
    let image = json!({"docker": {"image": "a:1"}});
    let both = Command::Update {
        updates: ["/c", "/d"]
            .map(|id| Update {
                app: None,
                body: json!({"id": id, "container": image}),
            })
            .to_vec(),
        partial: true,
        create: true,
        force: false,
        dry_run: false,
    };
    bench.command(both).expect("two apps at once");
    let port = |id: &str| {
        bench.core.state().apps[&id.parse::<AppId>().expect("valid")]
            .current
            .app
            .ports[0]
            .port
    };
    assert_ne!(port("/c"), port("/d"));
    let before = bench.app().current.config;
    let update = Command::Update {
        updates: vec![Update {
            app: Some("/a".parse().expect("valid")),
            body: json!({"portDefinitions": [{"port": 0}, {"port": 0}]}),
        }],
        partial: true,
        create: false,
        force: true,
        dry_run: false,
    };
    bench.command(update).expect("updates");
    assert_eq!(
        bench.app().current.config,
        before,
        "the same ports are the same configuration"
    );
}

#[test]
fn only_so_many_versions_are_kept() {
    let mut bench = Bench::new();
    bench.post(json!({}));
    for i in 0..70 {
        bench.now += 1;
        let update = Command::Update {
            updates: vec![Update {
                app: Some("/a".parse().expect("valid")),
                body: json!({"env": {"I": i.to_string()}}),
            }],
            partial: true,
            create: false,
            force: true,
            dry_run: false,
        };
        bench.command(update).expect("updates");
    }
    assert_eq!(bench.app().versions.len(), 50);
    assert!(
        bench
            .app()
            .versions
            .contains_key(&bench.app().current.version)
    );
}
