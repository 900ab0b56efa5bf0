//! Groups: order of dependencies, what an update leaves alone, scaling, dry runs, ways back, and restarts in between.

use std::collections::BTreeMap;

use mezzo_scheduler::core::groups::{GroupChange, GroupCommand};
use mezzo_scheduler::core::record::decode;
use mezzo_scheduler::group::GroupId;
use serde_json::json;

use super::*;

fn app(id: &str, extra: Value) -> Value {
    let base = json!({"id": id, "cpus": 0.1, "mem": 32, "container": {"docker": {"image": "a:1"}}});
    mezzo_scheduler::app::merge(&base, &extra)
}

/// `/shop` with a database and a web group that depends on it.
fn shop(image: &str) -> Value {
    let image = json!({"container": {"docker": {"image": image}}});
    json!({
        "id": "/shop",
        "groups": [
            {"id": "db", "apps": [app("mongo", image.clone())]},
            {"id": "web", "dependencies": ["../db"], "apps": [app("front", image.clone()), app("back", image)]},
        ],
    })
}

impl Bench {
    fn group(&mut self, change: GroupChange) -> Result<Reply, Refusal> {
        self.group_with(None, change, false)
    }

    fn group_with(
        &mut self,
        id: Option<&str>,
        change: GroupChange,
        dry_run: bool,
    ) -> Result<Reply, Refusal> {
        let command = GroupCommand {
            id: id.map(|id| id.parse().expect("valid")),
            change,
            force: false,
            dry_run,
        };
        self.command(Command::Group(command))
    }

    /// Offers, and lets everything run or end, until nothing is under way; which apps started, in order.
    fn run_all(&mut self) -> Vec<String> {
        let mut started = Vec::new();
        for _ in 0..50 {
            // Kills that a test passed over are repeated.
            self.now += 10_000;
            let mut effects = vec![self.turn(), self.offer("agent-1", NODE)];
            while let Some(effects_now) = effects.pop() {
                for task in killed(&effects_now) {
                    effects.push(self.say(&task, TaskState::Killed));
                }
                for task in launched(&effects_now) {
                    started.push(task.name.clone());
                    effects.push(self.say(&task.task_id, TaskState::Running));
                }
            }
            if self.core.state().deployments.is_empty() {
                return started;
            }
        }
        panic!("never done: {:#?}", self.core.state().deployments);
    }

    fn ids(&self) -> Vec<String> {
        let apps = self.core.state().visible_apps();
        apps.map(|(id, _)| id.to_string()).collect()
    }

    /// The scheduler dies and begins again with what `writes` left on disk.
    fn restart(&mut self, disk: &BTreeMap<Key, Vec<u8>>) {
        let state = decode(disk.clone()).expect("readable");
        self.core = Core::new(state, Settings::default());
        self.core
            .subscribed(&"framework".parse().expect("valid"), self.now);
    }
}

fn note(disk: &mut BTreeMap<Key, Vec<u8>>, effects: &Effects) {
    for write in &effects.writes {
        match &write.value {
            Some(value) => disk.insert(write.key.clone(), value.clone()),
            None => disk.remove(&write.key),
        };
    }
}

#[test]
fn what_others_depend_on_starts_first_and_stops_last() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    let started = bench.run_all();
    assert_eq!(started.len(), 3);
    assert_eq!(started[0], "mongo.db.shop", "{started:?}");
    let plan = bench
        .group_with(Some("/shop"), GroupChange::Delete, true)
        .expect("planned");
    let Reply::Planned { steps, .. } = plan else {
        panic!("{plan:?}")
    };
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[1].actions[0].app.as_str(), "/shop/db/mongo");
    assert_eq!(bench.ids().len(), 3, "a dry run changes nothing");
    bench
        .group_with(Some("/shop"), GroupChange::Delete, false)
        .expect("removed");
    assert!(bench.ids().is_empty(), "gone for people at once");
    bench.run_all();
    let state = bench.core.state();
    assert!(state.apps.is_empty() && state.groups.is_empty());
}

#[test]
fn an_update_in_steps_goes_by_the_old_version_until_its_step_has_come() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    bench.run_all();
    bench
        .group(GroupChange::Update(shop("a:2")))
        .expect("changed");
    bench.turn();
    let front: AppId = "/shop/web/front".parse().expect("valid");
    let state = bench.core.state();
    let old = state.apps[&front]
        .instances
        .keys()
        .next()
        .expect("one")
        .clone();
    assert_eq!(state.apps[&front].current.app.container.image, "a:2");
    assert_eq!(state.apps[&front].active().app.container.image, "a:1");
    // Dies while the database is being replaced: its replacement is of the version that it goes by.
    bench.say(&old, TaskState::Failed);
    bench.now += 5_000;
    let tasks = launched(&bench.offer("agent-1", NODE));
    let mut images: Vec<(&str, &str)> = tasks
        .iter()
        .map(|task| (task.name.as_str(), task.container.image.as_str()))
        .collect();
    images.sort_unstable();
    assert_eq!(
        images,
        [("front.web.shop", "a:1"), ("mongo.db.shop", "a:2")]
    );
    for task in tasks {
        for task in killed(&bench.say(&task.task_id, TaskState::Running)) {
            bench.say(&task, TaskState::Killed);
        }
    }
    bench.run_all();
    let mut instances = bench.core.state().apps[&front].instances.values();
    assert!(instances.all(|one| one.task_id != old));
}

#[test]
fn a_restart_in_the_middle_of_a_plan_goes_on_with_it() {
    let mut bench = Bench::new();
    let mut disk = BTreeMap::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    note(&mut disk, &bench.turn());
    let effects = bench.offer("agent-1", NODE);
    note(&mut disk, &effects);
    assert_eq!(launched(&effects).len(), 1, "the database alone");
    bench.restart(&disk);
    let held = bench
        .core
        .state()
        .is_pending(&"/shop/web/back".parse().expect("valid"));
    assert!(held);
    for task in launched(&effects) {
        bench.say(&task.task_id, TaskState::Running);
    }
    assert_eq!(bench.run_all().len(), 2);
}

#[test]
fn a_deployment_stopped_by_force_takes_back_what_never_began() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    bench.run_all();
    bench
        .group(GroupChange::Update(shop("a:2")))
        .expect("changed");
    bench.turn();
    let id = *bench.core.state().deployments.keys().next().expect("one");
    bench
        .command(Command::CancelDeployment { id, force: true })
        .expect("stopped");
    bench.turn();
    let image = |id: &str| {
        let id: AppId = id.parse().expect("valid");
        bench.core.state().apps[&id]
            .current
            .app
            .container
            .image
            .clone()
    };
    assert_eq!(image("/shop/db/mongo"), "a:2", "had begun");
    assert_eq!(image("/shop/web/front"), "a:1", "had not");
}

#[test]
fn a_roll_back_of_a_deployment_brings_the_groups_back_too() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    bench.run_all();
    let web: GroupId = "/shop/web".parse().expect("valid");
    let update = json!({"id": "/shop", "groups": [{"id": "db", "apps": [app("mongo", json!({"instances": 3}))]}]});
    bench.group(GroupChange::Update(update)).expect("changed");
    bench.turn();
    assert!(!bench.core.state().groups.contains_key(&web));
    let id = *bench.core.state().deployments.keys().next().expect("one");
    bench
        .command(Command::CancelDeployment { id, force: false })
        .expect("rolled back");
    bench.run_all();
    assert_eq!(bench.ids().len(), 3);
    assert_eq!(
        bench.core.state().groups[&web].current.dependencies.len(),
        1
    );
}

#[test]
fn a_group_is_scaled_and_rolled_back_to_an_earlier_version() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    bench.run_all();
    let group: GroupId = "/shop".parse().expect("valid");
    let first = *bench.core.state().groups[&group]
        .versions
        .keys()
        .next_back()
        .expect("one");
    bench.now += 1000;
    bench
        .group_with(
            Some("/shop"),
            GroupChange::Update(json!({"scaleBy": 2.5})),
            false,
        )
        .expect("scaled");
    bench.run_all();
    let instances = |bench: &Bench| -> Vec<u32> {
        let apps = bench.core.state().visible_apps();
        apps.map(|(_, app)| app.current.app.instances).collect()
    };
    assert_eq!(instances(&bench), [3, 3, 3]);
    bench.now += 1000;
    let body = json!({"version": first.to_string()});
    bench
        .group_with(Some("/shop"), GroupChange::Update(body), false)
        .expect("rolled back");
    bench.run_all();
    assert_eq!(instances(&bench), [1, 1, 1]);
    let unknown = json!({"version": "2014-09-12T23:28:21.737Z"});
    let refusal = bench
        .group_with(Some("/shop"), GroupChange::Update(unknown), false)
        .expect_err("never was");
    assert!(matches!(refusal, Refusal::NoGroupVersion(..)));
}

#[test]
fn what_an_update_does_not_name_stays() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    bench.run_all();
    let update =
        json!({"id": "/shop/web", "apps": [app("front", json!({})), app("new", json!({}))]});
    bench.group(GroupChange::Update(update)).expect("changed");
    bench.run_all();
    assert_eq!(
        bench.ids(),
        ["/shop/db/mongo", "/shop/web/front", "/shop/web/new"]
    );
    let web: GroupId = "/shop/web".parse().expect("valid");
    assert_eq!(
        bench.core.state().groups[&web].current.dependencies.len(),
        1
    );
}

#[test]
fn groups_that_cannot_be_are_refused_and_change_nothing() {
    let mut bench = Bench::new();
    bench.group(GroupChange::Create(shop("a:1"))).expect("made");
    bench.run_all();
    let circle = json!({"id": "/x", "apps": [app("a", json!({"dependencies": ["../b"]})), app("b", json!({"dependencies": ["/x/a"]}))]});
    let through_group = json!({"id": "/shop/db", "dependencies": ["/shop/web"]});
    for (body, want) in [
        (circle, "cyclic"),
        (through_group, "cyclic"),
        (
            json!({"id": "/shop/web/front", "apps": []}),
            "same identifier",
        ),
        (
            json!({"id": "/y", "apps": [app("/z/a", json!({}))]}),
            "/apps(0)/id",
        ),
        (
            json!({"id": "/y", "apps": [app("a", json!({"cpus": -1}))]}),
            "/apps(0)/cpus",
        ),
        (
            json!({"id": "/y", "groups": [{"id": "a", "pods": [{}]}]}),
            "pods",
        ),
        (json!({"id": "/y", "scaleBy": 2, "apps": []}), "scaleBy"),
    ] {
        let refusal = bench
            .group(GroupChange::Update(body.clone()))
            .expect_err("refused");
        let Refusal::Invalid(report) = refusal else {
            panic!("{body}: {refusal:?}")
        };
        let text = format!("{report:?}");
        assert!(text.contains(want), "{body}: {text}");
    }
    let again = bench.group(GroupChange::Create(json!({"id": "/shop"})));
    assert!(matches!(again, Err(Refusal::GroupExists(_))));
    assert_eq!(bench.ids().len(), 3);
    assert!(bench.core.state().deployments.is_empty());
}

#[test]
fn a_group_is_not_scaled_beyond_the_one_instance_that_a_label_allows() {
    let mut bench = Bench::new();
    let label = json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}});
    let lab = json!({"id": "/lab", "apps": [app("one", label)]});
    bench.group(GroupChange::Create(lab)).expect("a good group");
    bench.run_all();
    let mut scale = |by: u32| {
        let change = GroupChange::Update(json!({"scaleBy": by}));
        bench.group_with(Some("/lab"), change, false)
    };
    let refusal = scale(2).expect_err("two of one");
    assert!(
        matches!(&refusal, Refusal::Invalid(report) if report.errors[0].path == "/scaleBy"),
        "{refusal:?}"
    );
    scale(0).expect("none is possible");
}
