//! Capabilities, a root file system that cannot be written, and terminals, in files of apps and pods: what is accepted, how
//! it is written back, what the task becomes, and how each mistake is named. Those of jobs: `src/jobs/json.rs`.

use mezzo_api::model::{Capabilities, Dropped, Offer};
use mezzo_scheduler::app::{App, AppVersion, parse_app, parse_pod};
use mezzo_scheduler::check_app_json;
use mezzo_scheduler::task::{pod, task_info};
use proptest::prelude::*;
use serde_json::{Value, json};

/// An app with these fields of `container`, and these parameters of Docker's.
fn with(fields: Value, parameters: Value) -> Value {
    let mut container = fields;
    container["docker"] = json!({"image": "web:1", "parameters": parameters});
    json!({"id": "/web", "cpus": 1, "mem": 64, "container": container})
}

fn accepted(value: &Value) -> App {
    let (app, report) = parse_app(value, None);
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    app.unwrap_or_else(|| panic!("{value}: {:?}", report.errors))
}

fn capabilities(add: &[&str], drop: &[&str]) -> Capabilities {
    let mut dropped = Dropped::default();
    for name in drop {
        dropped.also(name).expect("a capability");
    }
    Capabilities {
        add: add
            .iter()
            .map(|name| name.parse().expect("a capability"))
            .collect(),
        drop: dropped,
    }
}

fn version(app: App) -> AppVersion {
    let now = mezzo_scheduler::time::Timestamp::from_millis(1_700_000_000_000);
    AppVersion {
        app,
        version: now,
        config: now,
        last_scaling_at: now,
        last_config_change_at: now,
        written: Default::default(),
    }
}

fn offer() -> Offer {
    Offer {
        offer_id: "o".parse().expect("valid"),
        framework_id: "f".parse().expect("valid"),
        agent_id: "a".parse().expect("valid"),
        hostname: "node1".to_owned(),
        role: Default::default(),
        resources: Default::default(),
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

#[test]
fn tasks_have_what_the_app_or_the_container_of_a_pod_says() {
    let id = "web.1".parse().expect("valid");
    let said =
        json!({"readOnlyRootfs": true, "capabilities": {"add": ["NET_RAW"], "drop": ["KILL"]}});
    let wanted = capabilities(&["NET_RAW"], &["KILL"]);
    let app = version(accepted(&with(said.clone(), json!([]))));
    let task = task_info(&app, &id, &offer(), &[31_000], Default::default());
    assert!(task.container.read_only_rootfs);
    assert_eq!(task.container.capabilities, wanted);
    let plain = version(accepted(&with(json!({}), json!([]))));
    let task = task_info(&plain, &id, &offer(), &[31_000], Default::default());
    assert!(!task.container.read_only_rootfs && task.container.capabilities.is_default());

    let mut held = said;
    held["name"] = json!("held");
    held["image"] = json!({"id": "web:1"});
    let other = json!({"name": "other", "image": {"id": "web:1"}});
    let (read, report) = parse_pod(&json!({"id": "/pod", "containers": [held, other]}), None);
    let whole = version(read.unwrap_or_else(|| panic!("{:?}", report.errors)));
    let of = whole.app.pod.clone().expect("a pod");
    let tasks = pod::task_infos(&whole, &of, &id, &offer(), &[], None);
    assert!(tasks[0].container.read_only_rootfs && !tasks[1].container.read_only_rootfs);
    assert_eq!(tasks[0].container.capabilities, wanted);
    assert!(tasks[1].container.capabilities.is_default());
}

#[test]
fn a_terminal_is_read_written_back_and_given_to_the_task() {
    let id = "web.1".parse().expect("valid");
    let mut app = with(json!({}), json!([]));
    let plain = accepted(&app);
    for (said, wanted) in [
        (json!(true), true),
        (json!(false), false),
        (json!(null), false),
    ] {
        app["tty"] = said;
        let read = accepted(&app);
        assert_eq!(read.tty, wanted, "{app}");
        let written = read.to_json();
        assert_eq!(written.get("tty"), wanted.then_some(&json!(true)), "{app}");
        assert_eq!(accepted(&written), read);
        assert_eq!(read.same_config(&plain), !wanted, "another configuration");
        let task = task_info(&version(read), &id, &offer(), &[31_000], Default::default());
        assert_eq!(task.container.tty, wanted);
    }
    app["tty"] = json!("yes");
    let (_, report) = parse_app(&app, None);
    let error = &report.errors[0];
    assert_eq!(error.path, "/tty", "{error:?}");

    let container = |name: &str| json!({"name": name, "image": {"id": "web:1"}});
    let mut shell = container("shell");
    shell["tty"] = json!(true);
    let pod = json!({"id": "/pod", "containers": [shell, container("other")]});
    let (read, report) = parse_pod(&pod, None);
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    let read = read.unwrap_or_else(|| panic!("{:?}", report.errors));
    let written = read.to_json();
    assert_eq!(written["containers"][0]["tty"], true);
    assert!(written["containers"][1].get("tty").is_none());
    assert_eq!(parse_pod(&written, None).0.as_ref(), Some(&read));
    let whole = version(read);
    let of = whole.app.pod.clone().expect("a pod");
    let tasks = pod::task_infos(&whole, &of, &id, &offer(), &[], None);
    assert!(tasks[0].container.tty && !tasks[1].container.tty);
}

#[test]
fn fields_of_mezzos_own_are_read_and_written_back_in_one_form() {
    let said = json!({
        "readOnlyRootfs": true,
        "capabilities": {"add": ["net_raw", "CAP_CHOWN"], "drop": ["KILL", "all"]},
    });
    let app = accepted(&with(said, json!([])));
    let confinement = &app.container.confinement;
    assert!(confinement.read_only_rootfs);
    assert_eq!(
        confinement.capabilities,
        capabilities(&["CHOWN", "NET_RAW"], &["ALL"])
    );
    let written = app.to_json();
    assert_eq!(written["container"]["readOnlyRootfs"], true);
    assert_eq!(
        written["container"]["capabilities"],
        json!({"add": ["CHOWN", "NET_RAW"], "drop": ["ALL"]})
    );
    assert!(written["container"]["docker"].get("parameters").is_none());
    assert_eq!(accepted(&written), app);
    // Another capability is another configuration.
    let mut changed = written;
    changed["container"]["capabilities"]["add"] = json!(["CHOWN"]);
    assert!(!accepted(&changed).same_config(&app));
}

#[test]
fn parameters_of_docker_are_read_and_written_back_as_parameters() {
    let parameter = |key: &str, value: &str| json!({"key": key, "value": value});
    let said = json!([
        parameter("read-only", "true"),
        parameter("cap-drop", "CAP_SETUID"),
        parameter("cap-add", "sys_ptrace"),
        parameter("cap-drop", "KILL"),
    ]);
    let app = accepted(&with(json!({}), said));
    let confinement = &app.container.confinement;
    assert!(confinement.read_only_rootfs);
    assert_eq!(
        confinement.capabilities,
        capabilities(&["SYS_PTRACE"], &["KILL", "SETUID"])
    );
    let written = app.to_json();
    assert_eq!(
        written["container"]["docker"]["parameters"],
        json!([
            parameter("cap-add", "SYS_PTRACE"),
            parameter("cap-drop", "KILL"),
            parameter("cap-drop", "SETUID"),
            parameter("read-only", "true"),
        ])
    );
    assert!(written["container"].get("capabilities").is_none());
    assert!(written["container"].get("readOnlyRootfs").is_none());
    assert_eq!(accepted(&written), app);
}

#[test]
fn what_says_nothing_is_the_default_and_leaves_no_trace() {
    let plain = accepted(&with(json!({}), json!([])));
    for (fields, parameters) in [
        (
            json!({"readOnlyRootfs": false, "capabilities": {}}),
            json!([]),
        ),
        (
            json!({"capabilities": {"add": [], "drop": []}}),
            Value::Null,
        ),
        (json!({}), json!([{"key": "read-only", "value": "false"}])),
    ] {
        assert_eq!(accepted(&with(fields, parameters)), plain);
    }
    let written = plain.to_json();
    for name in ["readOnlyRootfs", "capabilities"] {
        assert!(written["container"].get(name).is_none(), "{written}");
    }
}

#[track_caller]
fn check_problem(fields: Value, parameters: Value, path: &str, words: &str) {
    let report = check_app_json(&with(fields, parameters));
    let problems: Vec<String> = report
        .errors
        .iter()
        .map(|problem| format!("{}: {}", problem.path, problem.message))
        .collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with(&format!("{path}: ")) && problems[0].contains(words),
        "{problems:?}"
    );
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let none = || json!([]);
    let at = "/container/capabilities";
    check_problem(
        json!({"capabilities": {"add": ["NET_RAW", "NET_ROW"]}}),
        none(),
        &format!("{at}/add(1)"),
        "\"NET_ROW\" is no capability",
    );
    check_problem(
        json!({"capabilities": {"drop": ["nothing"]}}),
        none(),
        &format!("{at}/drop(0)"),
        "\"nothing\" is no capability",
    );
    check_problem(
        json!({"capabilities": {"add": ["ALL"]}}),
        none(),
        &format!("{at}/add(0)"),
        "only a privileged container",
    );
    check_problem(
        json!({"capabilities": {"add": ["KILL"], "drop": ["KILL"]}}),
        none(),
        at,
        "KILL is both added and dropped",
    );
    check_problem(
        json!({"capabilities": {"add": vec!["KILL"; 129]}}),
        none(),
        &format!("{at}/add"),
        "129 entries",
    );
    check_problem(json!({"capabilities": ["KILL"]}), none(), at, "an object");
    check_problem(
        json!({"readOnlyRootfs": "yes"}),
        none(),
        "/container/readOnlyRootfs",
        "true or false",
    );
    let at = "/container/docker/parameters";
    check_problem(
        json!({}),
        json!([{"key": "cap-add", "value": "NET_RAW"}, {"key": "hostname", "value": "h"}]),
        &format!("{at}(1)/key"),
        "\"hostname\"",
    );
    check_problem(
        json!({}),
        json!([{"key": "cap-add", "value": "net-raw"}]),
        &format!("{at}(0)/value"),
        "\"net-raw\" is no capability",
    );
    check_problem(
        json!({}),
        json!([{"key": "read-only", "value": "ro"}]),
        &format!("{at}(0)/value"),
        "must be \"true\" or \"false\"",
    );
    check_problem(
        json!({}),
        json!([{"key": "cap-drop"}]),
        &format!("{at}(0)/value"),
        "no capability",
    );
    check_problem(
        json!({"readOnlyRootfs": true}),
        json!([{"key": "cap-drop", "value": "ALL"}]),
        at,
        "not with both",
    );
}

#[test]
fn containers_of_a_pod_have_the_fields_each() {
    let container = |name: &str, more: Value| {
        let mut one = json!({"name": name, "image": {"kind": "DOCKER", "id": "web:1"}});
        for (name, value) in more.as_object().into_iter().flatten() {
            one[name] = value.clone();
        }
        one
    };
    let said = json!({"readOnlyRootfs": true, "capabilities": {"add": [], "drop": ["ALL"]}});
    let pod = json!({"id": "/pod", "containers": [container("held", said.clone()), container("plain", json!({}))]});
    let (read, report) = parse_pod(&pod, None);
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    let read = read.unwrap_or_else(|| panic!("{:?}", report.errors));
    let written = read.to_json();
    for (name, value) in said.as_object().into_iter().flatten() {
        assert_eq!(&written["containers"][0][name], value);
        assert!(written["containers"][1].get(name).is_none());
    }
    assert_eq!(parse_pod(&written, None).0, Some(read));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_as_the_same_app(
        add in proptest::collection::vec(proptest::sample::select(&mezzo_api::model::LINUX_CAPABILITIES[..20]), 0..4),
        drop in proptest::collection::vec(proptest::sample::select(&mezzo_api::model::LINUX_CAPABILITIES[20..]), 0..4),
        all in any::<bool>(),
        read_only in any::<bool>(),
        by_parameters in any::<bool>(),
    ) {
        let mut drop = drop;
        if all {
            drop.push("ALL");
        }
        let one = |key: &str, value: &str| json!({"key": key, "value": value});
        let app = if by_parameters {
            let parameters = add.iter().map(|name| one("cap-add", name));
            let parameters = parameters.chain(drop.iter().map(|name| one("cap-drop", name)));
            let read_only = one("read-only", if read_only { "true" } else { "false" });
            with(json!({}), parameters.chain([read_only]).collect())
        } else {
            with(json!({"readOnlyRootfs": read_only, "capabilities": {"add": add, "drop": drop}}), json!([]))
        };
        let first = accepted(&app);
        prop_assert_eq!(&first.container.confinement.capabilities, &capabilities(&add, &drop));
        prop_assert_eq!(first.container.confinement.read_only_rootfs, read_only);
        let written = first.to_json();
        prop_assert_eq!(accepted(&written), first);
    }
}
