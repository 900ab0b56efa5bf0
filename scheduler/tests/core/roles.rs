//! Roles: which an app gets and may have, which offers it takes, and what the master is told of them.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{Pool, PoolChange, Reservation, Resources, Stack};
use mezzo_scheduler::core::groups::{GroupChange, GroupCommand};
use mezzo_scheduler::core::record::decode;
use mezzo_scheduler::jobs::command::{JobCommand, JobRefusal};
use mezzo_scheduler::jobs::parse::Kind;
use mezzo_scheduler::resident::Stage;

use super::*;

fn role(name: &str) -> RoleName {
    name.parse().expect("valid")
}

fn roles(names: &[&str]) -> BTreeSet<RoleName> {
    names.iter().map(|name| role(name)).collect()
}

fn group(bench: &mut Bench, change: GroupChange) -> Result<Reply, Refusal> {
    bench.command(Command::Group(GroupCommand {
        id: Some("/dev".parse().expect("valid")),
        change,
        force: true,
        dry_run: false,
    }))
}

fn put(bench: &mut Bench, id: &str, body: Value, force: bool) -> Result<Reply, Refusal> {
    bench.command(Command::Update {
        updates: vec![Update {
            app: Some(id.parse().expect("valid")),
            body,
        }],
        partial: true,
        create: false,
        force,
        dry_run: false,
    })
}

fn role_of(bench: &Bench, id: &str) -> String {
    bench.core.state().apps[&id.parse::<AppId>().expect("valid")]
        .current
        .app
        .role
        .to_string()
}

/// The one problem of a refusal.
fn problem<T: std::fmt::Debug>(result: Result<T, Refusal>) -> (String, String) {
    let Err(Refusal::Invalid(report)) = result else {
        panic!("not invalid: {result:?}");
    };
    let found = &report.errors[0];
    (found.path.clone(), found.message.clone())
}

/// An offer of a role, with a part that is reserved for it.
fn offer(bench: &mut Bench, name: &str, resources: &str, reserved: &str) -> Offer {
    let resources = format!("{resources};ports:[31000-31010]");
    let mut offer = bench.an_offer("agent-1", &resources);
    offer.role = role(name);
    if !reserved.is_empty() {
        offer.reserved.push(Pool {
            stack: Stack::single(Reservation::fixed(role(name))).expect("a role"),
            resources: reserved.parse().expect("resources"),
        });
    }
    offer
}

fn launched(effects: &Effects) -> Vec<&TaskInfo> {
    let calls = effects.calls.iter().filter_map(|call| {
        let Call::Accept { tasks, .. } = call else {
            return None;
        };
        Some(tasks)
    });
    calls.flatten().collect()
}

#[test]
fn an_app_has_the_default_role_or_that_of_its_top_level_group() {
    let mut bench = Bench::new();
    bench.post(json!({"id": "/dev/team/a"}));
    assert_eq!(role_of(&bench, "/dev/team/a"), "*");
    for (id, wanted, expected) in [
        ("/dev/b", "prod", "got prod, expected one of: [*, dev]"),
        ("/c", "dev", "got dev, expected one of: [*]"),
    ] {
        let body = json!({"id": id, "role": wanted, "container": {"docker": {"image": "a:1"}}});
        let refused = bench.command(Command::Create { body, force: false });
        assert_eq!(problem(refused), ("/role".to_owned(), expected.to_owned()));
    }
    bench.post(json!({"id": "/dev/b", "role": "dev"}));
    assert_eq!(role_of(&bench, "/dev/b"), "dev");

    let settings = Settings {
        default_role: role("public"),
        ..Settings::default()
    };
    let mut bench = Bench::of(State::default(), settings);
    assert_eq!(*bench.core.roles(), roles(&["apps", "public"]));
    bench.post(json!({"id": "/dev/a", "acceptedResourceRoles": ["public"]}));
    assert_eq!(role_of(&bench, "/dev/a"), "public");
    bench.post(json!({"id": "/dev/b"}));
    let refused = put(&mut bench, "/dev/b", json!({"role": "*"}), true);
    assert!(problem(refused).1.contains("[dev, public]"));
}

#[test]
fn a_group_that_enforces_its_role_gives_it_and_takes_no_other() {
    let mut bench = Bench::new();
    bench.post(json!({"id": "/dev/old"}));
    bench.turn();
    assert_eq!(
        group(&mut bench, GroupChange::EnforceRole(true)),
        Ok(Reply::Done)
    );
    bench.post(json!({"id": "/dev/new"}));
    assert_eq!(role_of(&bench, "/dev/new"), "dev");
    let refused = put(&mut bench, "/dev/new", json!({"role": "*"}), true);
    assert_eq!(problem(refused).1, "got *, expected one of: [dev]");
    // What it has already it may keep, until it has the group's.
    put(
        &mut bench,
        "/dev/old",
        json!({"role": "*", "cpus": 0.2}),
        true,
    )
    .expect("as before");
    put(&mut bench, "/dev/old", json!({"role": "dev"}), true).expect("migrates");
    let refused = put(&mut bench, "/dev/old", json!({"role": "*"}), true);
    assert_eq!(problem(refused).1, "got *, expected one of: [dev]");
    let body = json!({"enforceRole": false, "apps": []});
    let refused = group(&mut bench, GroupChange::Update(body));
    assert!(
        problem(refused)
            .1
            .starts_with("enforceRole cannot be modified")
    );
    let nested = Command::Group(GroupCommand {
        id: Some("/dev/team".parse().expect("valid")),
        change: GroupChange::Create(json!({"enforceRole": true})),
        force: false,
        dry_run: false,
    });
    let refused = bench.command(nested);
    assert!(
        problem(refused)
            .1
            .contains("only be set for top-level groups")
    );
}

#[test]
fn a_group_and_its_apps_get_the_role_in_one_request() {
    let mut bench = Bench::new();
    let app = json!({"id": "a", "container": {"docker": {"image": "a:1"}}});
    let inner = json!({"id": "team", "apps": [app]});
    let body = json!({"enforceRole": true, "apps": [app], "groups": [inner]});
    group(&mut bench, GroupChange::Create(body)).expect("a good group");
    assert_eq!(role_of(&bench, "/dev/a"), "dev");
    assert_eq!(role_of(&bench, "/dev/team/a"), "dev");
    let dev = &"/dev".parse().expect("valid");
    assert!(bench.core.state().groups[dev].current.enforce_role);
}

#[test]
fn new_groups_enforce_their_role_if_the_scheduler_is_told_so() {
    let settings = Settings {
        new_groups_enforce_role: true,
        ..Settings::default()
    };
    let mut bench = Bench::of(State::default(), settings);
    bench.post(json!({"id": "/dev/team/a"}));
    bench.post(json!({"id": "/top"}));
    assert_eq!(role_of(&bench, "/dev/team/a"), "dev");
    assert_eq!(role_of(&bench, "/top"), "*");
    let dev = &"/dev".parse().expect("valid");
    assert!(bench.core.state().groups[dev].current.enforce_role);
}

#[test]
fn offers_go_to_apps_of_their_role_alone_and_why_says_so() {
    let mut bench = Bench::new();
    bench.post(json!({"id": "/dev/a", "role": "dev"}));
    let asked = bench.turn().calls;
    let at = |wanted: &Call| asked.iter().position(|call| call == wanted);
    let told = Call::Roles {
        roles: roles(&["*", "apps", "dev"]),
        suppressed: roles(&["*", "apps", "dev"]),
    };
    assert!(at(&told).is_some(), "{asked:?}");
    assert!(at(&told) < at(&Call::Revive(role("dev"))), "{asked:?}");
    assert_eq!(at(&Call::Revive(RoleName::any())), None);

    let effects = bench.offer("agent-2", "cpus:4;mem:1024");
    assert!(launched(&effects).is_empty());
    let id: AppId = "/dev/a".parse().expect("valid");
    let why = |bench: &Bench| {
        let app = &bench.core.state().apps[&id];
        why::why_not_launched(bench.core.state(), app, bench.now).expect("waits")
    };
    let text = why(&bench);
    assert!(text.starts_with("no offer of role dev since"), "{text}");
    let other = "agent-2.example (role: offer of role *, it accepts dev)";
    assert!(text.contains(other), "{text}");
    let reasons = BTreeMap::from([(role("dev"), vec!["it is at its limit".to_owned()])]);
    bench.core.roles_explained(reasons);
    assert!(why(&bench).contains("the master says: it is at its limit"));
    let refused = BTreeMap::from([(role("dev"), "not allowed".to_owned())]);
    bench.core.roles_refused(&refused);
    assert!(why(&bench).contains("does not let this scheduler have it: not allowed"));

    let offer = offer(&mut bench, "dev", "cpus:4;mem:1024", "");
    bench.core.offered(vec![offer]);
    let effects = bench.turn();
    assert_eq!(launched(&effects).len(), 1);
    let app = &bench.core.state().apps[&id];
    let instance = app.instances.values().next().expect("one");
    assert_eq!(instance.role, role("dev"));
}

#[test]
fn roles_come_and_go_with_what_is_in_them_and_outlive_a_restart() {
    let mut bench = Bench::new();
    let mut disk = BTreeMap::new();
    let mut keep = |effects: &Effects| {
        for write in &effects.writes {
            match &write.value {
                Some(value) => disk.insert(write.key.clone(), value.clone()),
                None => disk.remove(&write.key),
            };
        }
    };
    bench.post(json!({"id": "/dev/a", "role": "dev"}));
    keep(&bench.turn());
    let again = Core::new(decode(disk.clone()).expect("readable"), Settings::default());
    assert_eq!(*again.roles(), roles(&["*", "apps", "dev"]));
    assert_eq!(again.suppressed_roles(), roles(&["*", "apps", "dev"]));

    put(&mut bench, "/dev/a", json!({"role": "*"}), true).expect("valid");
    let calls = bench.turn().calls;
    let told = Call::Roles {
        roles: roles(&["*", "apps"]),
        suppressed: roles(&["*", "apps"]),
    };
    assert!(calls.contains(&told), "{calls:?}");
    assert!(!calls.contains(&Call::Suppress(role("dev"))), "{calls:?}");
    assert!(calls.contains(&Call::Revive(RoleName::any())), "{calls:?}");
}

#[test]
fn what_is_accepted_is_taken_and_named() {
    for (accepted, cpus_reserved) in [
        (json!(["*"]), Some(0)),
        (json!(["dev"]), Some(1000)),
        (Value::Null, Some(1000)),
    ] {
        let mut bench = Bench::new();
        bench.post(
            json!({"id": "/dev/a", "role": "dev", "cpus": 1, "mem": 10, "portDefinitions": [],
            "acceptedResourceRoles": accepted}),
        );
        bench.turn();
        let offer = offer(&mut bench, "dev", "cpus:3;mem:100", "cpus:1.5;mem:50");
        bench.core.offered(vec![offer]);
        let effects = bench.turn();
        let reserved = launched(&effects).first().map(|task| {
            let pools = task.reserved.iter();
            let cpus = pools.map(|pool| pool.resources.scalar("cpus").millis());
            assert_ne!(task.reserved, [], "{accepted}: the master would choose");
            cpus.sum::<i64>()
        });
        assert_eq!(reserved, cpus_reserved, "{accepted}");
    }
    // What is not accepted is not enough, and that is said.
    let mut bench = Bench::new();
    bench.post(json!({"id": "/dev/a", "role": "dev", "cpus": 1, "acceptedResourceRoles": ["dev"]}));
    bench.turn();
    let offer = offer(&mut bench, "dev", "cpus:3;mem:100", "cpus:0.5;mem:50");
    bench.core.offered(vec![offer]);
    assert!(launched(&bench.turn()).is_empty());
    let id: AppId = "/dev/a".parse().expect("valid");
    let app = &bench.core.state().apps[&id];
    let text = why::why_not_launched(bench.core.state(), app, bench.now).expect("waits");
    assert!(
        text.contains("it accepts resources of role dev alone"),
        "{text}"
    );
    assert_eq!(
        app.queue.as_ref().expect("waits").rejected["UnfulfilledRole"],
        1
    );
}

#[test]
fn a_pods_containers_share_out_what_is_reserved() {
    let mut bench = Bench::new();
    let container = |name: &str| json!({"name": name, "image": {"id": "a:1"}, "resources": {"cpus": 1, "mem": 10}});
    let body =
        json!({"id": "/dev/p", "role": "dev", "containers": [container("a"), container("b")]});
    bench
        .command(Command::CreatePod { body, force: false })
        .expect("a good pod");
    bench.turn();
    let offer = offer(&mut bench, "dev", "cpus:3;mem:100", "cpus:1.5;mem:50");
    bench.core.offered(vec![offer]);
    let effects = bench.turn();
    let reserved: Vec<Resources> = launched(&effects)
        .iter()
        .map(|task| task.reserved[0].resources.clone())
        .collect();
    let want = ["cpus:1;mem:10", "cpus:0.5;mem:10"];
    assert_eq!(reserved, want.map(|text| text.parse().expect("resources")));
}

fn resident(bench: &mut Bench, name: &str) -> Vec<Call> {
    bench.post(json!({
        "id": "/dev/db", "role": name, "instances": 1,
        "container": {"docker": {"image": "a:1"}, "volumes": [
            {"containerPath": "/data", "mode": "RW", "persistent": {"size": 10}}]},
    }));
    bench.turn();
    let offer = offer(bench, name, "cpus:3;mem:100;disk:100", "");
    bench.core.offered(vec![offer]);
    bench.turn().calls
}

#[test]
fn a_residents_reservation_is_for_its_role_and_keeps_it() {
    let mut bench = Bench::new();
    let calls = resident(&mut bench, "dev");
    let changes = calls.iter().filter_map(|call| {
        let Call::Accept { changes, .. } = call else {
            return None;
        };
        Some(changes)
    });
    let reserved: Vec<&RoleName> = changes
        .flatten()
        .filter(|change| matches!(change, PoolChange::Reserve { .. }))
        .map(PoolChange::role)
        .collect();
    assert_eq!(reserved, [&role("dev")]);
    let id: AppId = "/dev/db".parse().expect("valid");
    let task = bench.core.state().apps[&id]
        .instances
        .keys()
        .next()
        .expect("one")
        .clone();
    bench.say(&task, TaskState::Running);
    let refused = put(&mut bench, "/dev/db", json!({"role": "*"}), false);
    let (path, problem) = problem(refused);
    assert_eq!(path, "/role");
    assert!(problem.contains("previous role, dev."), "{problem}");
    put(&mut bench, "/dev/db", json!({"role": "*"}), true).expect("forced");
    bench.turn();
    // The reservation stays what it is: so does the role.
    assert!(bench.core.roles().contains(&role("dev")));
    let app = &bench.core.state().apps[&id];
    let kept = app.holdings.values().next().expect("one");
    assert_eq!((kept.stage, kept.stack.role()), (Stage::Kept, &role("dev")));
}

#[test]
fn what_a_resident_accepts_is_what_is_open_to_all() {
    let mut bench = Bench::new();
    let body = json!({
        "id": "/dev/db", "role": "dev", "acceptedResourceRoles": ["dev"],
        "container": {"docker": {"image": "a:1"}, "volumes": [
            {"containerPath": "/data", "mode": "RW", "persistent": {"size": 10}}]},
    });
    let refused = bench.command(Command::Create { body, force: false });
    assert!(problem(refused).1.starts_with("A resident app must have"));
}

fn put_job(bench: &mut Bench, body: Value) -> Result<Reply, Refusal> {
    let mut body = body;
    body["container"] = json!({"image": "a:1"});
    bench.command(Command::Job(JobCommand::Put {
        name: None,
        body,
        kind: Kind::Any,
        create_only: false,
    }))
}

fn run_job(bench: &mut Bench, name: &str) {
    let run = JobCommand::Run {
        name: name.parse().expect("valid"),
        arguments: None,
    };
    bench.command(Command::Job(run)).expect("runs");
}

#[test]
fn a_job_starts_on_offers_of_its_role_and_says_which_are_missing() {
    let mut bench = Bench::new();
    put_job(&mut bench, json!({"name": "j", "role": "dev"})).expect("valid");
    run_job(&mut bench, "j");
    let asked = bench.turn().calls;
    let told = Call::Roles {
        roles: roles(&["*", "apps", "dev"]),
        suppressed: roles(&["*", "apps", "dev"]),
    };
    let at = |wanted: &Call| asked.iter().position(|call| call == wanted);
    assert!(at(&told).is_some(), "{asked:?}");
    assert!(at(&told) < at(&Call::Revive(role("dev"))), "{asked:?}");
    assert_eq!(at(&Call::Revive(RoleName::any())), None);

    let effects = bench.offer("agent-2", "cpus:4;mem:1024;disk:1024");
    assert!(launched(&effects).is_empty());
    let refused = BTreeMap::from([(role("dev"), "not allowed".to_owned())]);
    bench.core.roles_refused(&refused);
    let text = why::why_run_waits(bench.core.state(), &role("dev"), "");
    assert!(
        text.starts_with("no offer of role dev: the master"),
        "{text}"
    );
    assert!(text.ends_with("not allowed"), "{text}");

    let found = offer(&mut bench, "dev", "cpus:4;mem:1024;disk:1024", "");
    bench.core.offered(vec![found]);
    assert_eq!(launched(&bench.turn()).len(), 1);

    // With its last job the role goes.
    let name = "j".parse().expect("valid");
    bench
        .command(Command::Job(JobCommand::Remove(name)))
        .expect("there");
    bench.turn();
    assert_eq!(*bench.core.roles(), roles(&["*", "apps"]));
}

#[test]
fn a_job_takes_what_it_accepts_and_may_change_its_role() {
    let mut bench = Bench::new();
    let body = json!({"name": "j", "role": "dev", "cpus": 1, "mem": 10, "disk": 0, "acceptedResourceRoles": ["dev"]});
    put_job(&mut bench, body).expect("valid");
    run_job(&mut bench, "j");
    bench.turn();
    let small = offer(&mut bench, "dev", "cpus:3;mem:100", "cpus:0.5;mem:50");
    bench.core.offered(vec![small]);
    assert!(launched(&bench.turn()).is_empty());
    let latest = |bench: &Bench| {
        let job = bench
            .core
            .state()
            .jobs
            .values()
            .next()
            .expect("one")
            .clone();
        job.runs.values().next().expect("one").waits_because.clone()
    };
    let text = latest(&bench);
    assert!(
        text.contains("accepts resources of role dev alone"),
        "{text}"
    );

    // What was said of the old role's offers is not said of the new one's.
    let body = json!({"name": "j", "role": "ops", "cpus": 1, "mem": 10, "disk": 0});
    put_job(&mut bench, body).expect("valid");
    bench.turn();
    assert_eq!(latest(&bench), "");
    assert_eq!(*bench.core.roles(), roles(&["*", "apps", "ops"]));
    let found = offer(&mut bench, "ops", "cpus:3;mem:100", "cpus:1.5;mem:50");
    bench.core.offered(vec![found]);
    let effects = bench.turn();
    let tasks = launched(&effects);
    assert_eq!(tasks.len(), 1);
    let reserved = &tasks[0].reserved[0].resources;
    assert_eq!(*reserved, "cpus:1;mem:10".parse().expect("resources"));
}

#[test]
fn a_job_without_a_word_has_the_default_role_and_wrong_ones_are_told_by_path() {
    let settings = Settings {
        default_role: role("public"),
        ..Settings::default()
    };
    let mut bench = Bench::of(State::default(), settings);
    put_job(&mut bench, json!({"name": "j"})).expect("valid");
    bench.turn();
    let shown = |bench: &Bench| {
        bench
            .core
            .state()
            .jobs
            .values()
            .next()
            .expect("one")
            .job
            .to_json()
    };
    assert_eq!(shown(&bench)["role"], "public");
    assert_eq!(
        shown(&bench)["acceptedResourceRoles"],
        json!(["*", "public"])
    );
    for (field, value) in [
        ("role", json!("not a role")),
        ("acceptedResourceRoles", json!(["dev"])),
    ] {
        let mut body = json!({"name": "j"});
        body[field] = value;
        let refused = put_job(&mut bench, body);
        let Err(Refusal::Job(JobRefusal::Invalid(report))) = refused else {
            panic!("not invalid: {refused:?}");
        };
        assert_eq!(report.errors[0].path, format!("/{field}"));
    }
}

#[test]
fn a_job_from_before_jobs_had_roles_is_read_and_has_the_default_one() {
    let mut bench = Bench::new();
    put_job(&mut bench, json!({"name": "j"})).expect("valid");
    let mut writes = bench.turn().writes.into_iter();
    let write = writes.find(|write| matches!(write.key, Key::Job(_)));
    let write = write.expect("it is durable");
    let (key, bytes) = (write.key, write.value.expect("not removed"));
    let mut record: Value = serde_json::from_slice(&bytes).expect("JSON");
    let job = record["job"].as_object_mut().expect("an object");
    job.remove("role").expect("it has one now");
    job.remove("acceptedResourceRoles");
    let old = BTreeMap::from([(key, record.to_string().into_bytes())]);
    let settings = Settings {
        default_role: role("public"),
        ..Settings::default()
    };
    let mut bench = Bench::of(decode(old).expect("readable"), settings);
    run_job(&mut bench, "j");
    bench.turn();
    assert_eq!(*bench.core.roles(), roles(&["apps", "public"]));
    let found = offer(&mut bench, "public", "cpus:4;mem:1024;disk:1024", "");
    bench.core.offered(vec![found]);
    assert_eq!(launched(&bench.turn()).len(), 1);
}
