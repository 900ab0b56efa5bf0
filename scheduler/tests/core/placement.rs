//! Where instances go: constraints beside what runs already, and what is told and refused when there is no place.

use std::collections::BTreeMap;

use mezzo_api::model::{Attribute, AttributeValue, Offer, TaskInfo};
use serde_json::json;

use super::*;

impl Bench {
    /// Offers of `agents`, each of a rack, in one batch.
    fn racks(&mut self, agents: &[(&str, &str)]) -> Vec<TaskInfo> {
        let offers: Vec<Offer> = agents
            .iter()
            .map(|(agent, rack)| Offer {
                attributes: vec![attribute(rack)],
                ..self.an_offer(agent, NODE)
            })
            .collect();
        self.core.offered(offers);
        let tasks = launched(&self.turn());
        for task in &tasks {
            self.say(&task.task_id, TaskState::Running);
        }
        tasks
    }

    /// How many instances each agent has.
    fn by_agent(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for instance in self.app().instances.values() {
            *counts.entry(instance.agent_id.to_string()).or_default() += 1;
        }
        counts
    }

    /// The cluster as the master tells it.
    fn survey(&mut self, racks: &[&str]) {
        let machine = |(i, rack): (usize, &&str)| {
            let machine = Machine {
                hostname: format!("node{i}"),
                total: NODE.parse().expect("resources"),
                attributes: vec![attribute(rack)],
                ..Machine::default()
            };
            (format!("agent-{i}").parse().expect("valid"), machine)
        };
        self.core
            .surveyed(racks.iter().enumerate().map(machine).collect());
        self.turn();
    }

    fn why(&self) -> String {
        why::why_not_launched(self.core.state(), self.app(), self.now).expect("it waits")
    }
}

fn attribute(rack: &str) -> Attribute {
    Attribute {
        name: "rack".into(),
        value: AttributeValue::Text(rack.into()),
    }
}

#[test]
fn a_unique_host_takes_one_also_over_batches_and_restarts() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 3, "constraints": [["hostname", "UNIQUE"]]}));
    bench.turn();
    assert_eq!(launched(&bench.offer("a", NODE)).len(), 1);
    assert_eq!(launched(&bench.offer("a", NODE)).len(), 0);
    let records: Vec<_> = bench.core.state().apps.values().collect();
    assert_eq!(records.len(), 1);
    let why = bench.why();
    assert!(
        why.contains("hostname UNIQUE: an instance runs on a.example already"),
        "{why}"
    );
    assert_eq!(launched(&bench.offer("b", NODE)).len(), 1);
    assert_eq!(bench.app().queue.as_ref().map(|queue| queue.count), Some(1));
}

#[test]
fn where_an_instance_is_outlives_a_restart_of_the_scheduler() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 2, "constraints": [["rack", "MAX_PER", "1"]]}));
    bench.turn();
    let records = |effects: &Effects| -> Vec<_> {
        let writes = effects.writes.iter();
        writes
            .filter_map(|write| Some((write.key.clone(), write.value.clone()?)))
            .collect()
    };
    let mut disk = records(&bench.turn());
    let offer = Offer {
        attributes: vec![attribute("r1")],
        ..bench.an_offer("a", NODE)
    };
    bench.core.offered(vec![offer]);
    disk.extend(records(&bench.turn()));
    let instance = bench.app().instances.values().next().expect("one").clone();
    assert_eq!(instance.place["rack"], "r1");
    let bytes = disk
        .iter()
        .find(|(key, _)| *key == Key::Instance(instance.task_id.clone()))
        .map(|(_, bytes)| bytes.clone())
        .expect("written");
    assert!(String::from_utf8(bytes).expect("JSON").contains("r1"));
}

#[test]
fn instances_spread_over_racks_before_machines() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 8, "constraints": [["rack", "GROUP_BY"]]}));
    bench.turn();
    bench.racks(&[("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")]);
    let counts = bench.by_agent();
    assert_eq!(counts["b1"], 4, "{counts:?}");
    assert_eq!(counts.values().sum::<usize>(), 8);
    assert!(counts.values().all(|count| *count >= 1), "{counts:?}");
}

#[test]
fn best_fit_fills_a_machine_before_it_begins_another() {
    for (placement, want) in [("spread", vec![2, 2]), ("bestFit", vec![4])] {
        let mut bench = Bench::new();
        bench.post(json!({"instances": 4, "placement": placement}));
        bench.turn();
        let offers = vec![bench.an_offer("large", "cpus:9;mem:4096;ports:[1-9]"), {
            bench.an_offer("small", "cpus:0.5;mem:4096;ports:[1-9]")
        }];
        bench.core.offered(offers);
        bench.turn();
        let counts: Vec<usize> = bench.by_agent().into_values().collect();
        assert_eq!(counts, want, "{placement}");
    }
}

#[test]
fn an_update_with_unique_hosts_is_not_stuck() {
    let mut bench = Bench::new();
    bench.post(json!({"instances": 1, "constraints": [["hostname", "UNIQUE"]]}));
    bench.turn();
    let old = launched(&bench.offer("a", NODE));
    bench.say(&old[0].task_id, TaskState::Running);
    bench.put(json!({"cmd": "other"})).expect("a good change");
    bench.turn();
    let new = launched(&bench.offer("a", NODE));
    assert_eq!(new.len(), 1, "the old one does not count");
    let effects = bench.say(&new[0].task_id, TaskState::Running);
    assert_eq!(killed(&effects), [old[0].task_id.clone()]);
}

#[test]
fn an_update_that_old_instances_keep_from_their_ports_says_which_bound_to_lower() {
    let mut bench = Bench::new();
    let ports = json!({"requirePorts": true, "portDefinitions": [{"port": 31005}]});
    bench.post(ports);
    bench.turn();
    let old = launched(&bench.offer("a", NODE));
    bench.say(&old[0].task_id, TaskState::Running);
    bench.put(json!({"cmd": "other"})).expect("a good change");
    bench.turn();
    bench.offer("a", "cpus:4;mem:4096;ports:[31000-31004,31006-31099]");
    let why = bench.why();
    assert!(
        why.contains("31005") && why.contains("minimumHealthCapacity"),
        "{why}"
    );
}

#[test]
fn what_no_node_can_ever_run_is_refused_at_once_unless_forced() {
    let mut bench = Bench::new();
    bench.survey(&["r1", "r2"]);
    let app = |extra: Value| {
        let base = json!({"id": "/a", "container": {"docker": {"image": "a:1"}}});
        mezzo_scheduler::app::merge(&base, &extra)
    };
    for (extra, want) in [
        (json!({"cpus": 5}), "cpus 4 of 5"),
        (
            json!({"constraints": [["rack", "IS", "r9"]]}),
            "rack IS r9: the node has r1",
        ),
        (json!({"gpus": 1}), "gpus 0 of 1"),
    ] {
        let body = app(extra);
        let refusal = bench
            .command(Command::Create {
                body: body.clone(),
                force: false,
            })
            .expect_err("impossible");
        assert!(refusal.to_string().contains(want), "{refusal}");
        assert!(bench.core.state().apps.is_empty());
    }
    let body = app(json!({"cpus": 5}));
    bench
        .command(Command::Create { body, force: true })
        .expect("forced");
    bench.turn();
    assert!(bench.why().contains("cpus 4 of 5"));
    // Scaling what is there is never refused for the machines that are away.
    bench
        .command(Command::Update {
            updates: vec![Update {
                app: Some("/a".parse().expect("valid")),
                body: json!({"instances": 2}),
            }],
            partial: true,
            create: false,
            force: true,
            dry_run: false,
        })
        .expect("scaled");
}

#[test]
fn more_unique_instances_than_racks_wait_with_the_arithmetic() {
    let mut bench = Bench::new();
    bench.survey(&["r1", "r1", "r2"]);
    bench.post(json!({"instances": 5, "constraints": [["rack", "MAX_PER", "2"]]}));
    bench.turn();
    let tasks = bench.racks(&[("agent-0", "r1"), ("agent-1", "r1"), ("agent-2", "r2")]);
    assert_eq!(tasks.len(), 4);
    let why = bench.why();
    assert!(why.contains("leaves room for 4 of 5 instances"), "{why}");
}
