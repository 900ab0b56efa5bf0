//! Apps with a network of their own: Marathon's three ways to say so, the ports that are asked for, and what the task and
//! its environment become.

#![expect(clippy::unwrap_used, reason = "test")]

use std::collections::BTreeMap;

use mezzo_api::model::{CheckKind, NetworkMode, Offer, PortProtocol, TaskInfo};
use mezzo_scheduler::app::spec::{HostPort, PortTarget};
use mezzo_scheduler::app::{App, AppVersion, parse_app};
use mezzo_scheduler::check_app_json;
use mezzo_scheduler::place::{Ask, PortAsk};
use mezzo_scheduler::task::task_info;
use serde_json::{Value, json};

#[track_caller]
fn accepted(value: &Value) -> App {
    let (app, report) = parse_app(value, None);
    assert!(report.errors.is_empty(), "{value}: {:?}", report.errors);
    assert!(report.unknown.is_empty(), "{value}: {:?}", report.unknown);
    let app = app.expect("an app");
    // What is written is read back as the same.
    let (again, report) = parse_app(&app.to_json(), None);
    assert_eq!(again.as_ref(), Some(&app), "{:?}", report.errors);
    app
}

fn new_form(networks: Value, mappings: Value) -> Value {
    json!({"id": "/web", "networks": networks,
        "container": {"type": "DOCKER", "docker": {"image": "web:1"}, "portMappings": mappings}})
}

fn old_form(network: &str, mappings: Value) -> Value {
    json!({"id": "/web",
        "container": {"type": "DOCKER", "docker": {"image": "web:1", "network": network, "portMappings": mappings}}})
}

fn task(app: App, ports: &[u16]) -> TaskInfo {
    let now = mezzo_scheduler::time::Timestamp::from_millis(1_700_000_000_000);
    let version = AppVersion {
        app,
        version: now,
        config: now,
        last_scaling_at: now,
        last_config_change_at: now,
        written: Default::default(),
    };
    let offer = Offer {
        offer_id: "o".parse().unwrap(),
        framework_id: "f".parse().unwrap(),
        agent_id: "a".parse().unwrap(),
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
    };
    let id = "web.1".parse().unwrap();
    task_info(&version, &id, &offer, ports, Default::default())
}

fn env(task: &TaskInfo) -> BTreeMap<&str, &str> {
    let pairs = task.container.env.iter();
    pairs
        .map(|var| (var.name.as_str(), var.value.as_str()))
        .collect()
}

#[test]
fn both_forms_of_a_bridge_are_the_same_app() {
    let mappings = json!([
        {"containerPort": 80, "hostPort": 0, "servicePort": 10_001, "protocol": "tcp", "name": "http", "labels": {"VIP_0": "/web:80"}},
        {"containerPort": 53, "hostPort": 5353, "protocol": "udp,tcp"},
        {"containerPort": 0}
    ]);
    let new = accepted(&new_form(
        json!([{"mode": "container/bridge"}]),
        mappings.clone(),
    ));
    let old = accepted(&old_form("BRIDGE", mappings));
    assert_eq!(new, old);
    assert_eq!(new.container.network, NetworkMode::Bridge);
    let targets: Vec<_> = new.ports.iter().filter_map(|port| port.target).collect();
    let target = |container_port, host| PortTarget {
        container_port,
        host,
    };
    assert_eq!(
        targets,
        [
            target(80, HostPort::Any),
            target(53, HostPort::Fixed(5353)),
            target(0, HostPort::Any)
        ]
    );
    assert_eq!(
        Ask::of(&new).ports,
        [PortAsk::Any, PortAsk::Fixed(5353), PortAsk::Any]
    );
    // As in Marathon: a bridge without a word about ports maps one.
    let bare = accepted(
        &json!({"id": "/web", "networks": [{"mode": "container/bridge"}],
        "container": {"docker": {"image": "web:1"}}}),
    );
    assert_eq!(Ask::of(&bare).ports, [PortAsk::Any]);
    let none = accepted(&new_form(json!([{"mode": "container/bridge"}]), json!([])));
    assert_eq!(Ask::of(&none).ports, []);
}

#[test]
fn a_named_network_is_joined_in_both_forms() {
    let labels = json!({"zone": "a"});
    let mappings = json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 0, "networkNames": ["dc"]}]);
    let new = accepted(&new_form(
        json!([{"mode": "container", "name": "dc", "labels": labels}]),
        mappings.clone(),
    ));
    let mut old = old_form("USER", mappings.clone());
    old["ipAddress"] = json!({"networkName": "dc", "labels": labels});
    assert_eq!(accepted(&old), new);
    let mut oldest = new_form(Value::Null, mappings);
    oldest["ipAddress"] = json!({"networkName": "dc", "labels": labels});
    assert_eq!(accepted(&oldest), new);
    assert_eq!(new.container.network, NetworkMode::Container);
    assert_eq!(new.container.network_name.as_deref(), Some("dc"));
    assert_eq!(Ask::of(&new).ports, [PortAsk::Any], "one has no host port");
}

#[test]
fn the_task_knows_its_ports_as_marathon_told_them() {
    let app = accepted(&new_form(
        json!([{"mode": "container/bridge"}]),
        json!([
            {"containerPort": 80, "hostPort": 0, "name": "http-api"},
            {"containerPort": 53, "hostPort": 5353, "protocol": "udp"},
            {"containerPort": 0, "hostPort": 0, "protocol": "udp,tcp"}
        ]),
    ));
    let task = task(app, &[31_000, 5353, 31_002]);
    let env = env(&task);
    for (name, value) in [
        ("PORT", "31000"),
        ("PORT0", "31000"),
        ("PORT1", "5353"),
        ("PORT2", "31002"),
        ("PORTS", "31000,5353,31002"),
        ("PORT_80", "31000"),
        ("PORT_HTTP_API", "31000"),
        ("PORT_53", "5353"),
        ("PORT_31002", "31002"),
        ("HOST", "node1"),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    let mapped: Vec<_> = task
        .container
        .port_mappings
        .iter()
        .map(|mapping| (mapping.container_port, mapping.host_port, mapping.protocol))
        .collect();
    assert_eq!(
        mapped,
        [
            (80, Some(31_000), PortProtocol::Tcp),
            (53, Some(5353), PortProtocol::Udp),
            (31_002, Some(31_002), PortProtocol::TcpUdp)
        ]
    );
}

#[test]
fn without_a_port_of_the_machine_the_containers_own_is_told() {
    let app = accepted(&new_form(
        json!([{"mode": "container", "name": "dc"}]),
        json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}]),
    ));
    let task = task(app, &[31_005]);
    let env = env(&task);
    assert_eq!(env.get("PORTS"), Some(&"80,31005"));
    assert_eq!(env.get("PORT_81"), Some(&"31005"));
    assert_eq!(task.container.network_name.as_deref(), Some("dc"));
    assert_eq!(task.container.port_mappings[0].host_port, None);
    assert_eq!(task.container.port_mappings[1].host_port, Some(31_005));
}

#[test]
fn checks_ask_where_the_task_listens() {
    let with_check = |check: Value| {
        let mut app = new_form(
            json!([{"mode": "container/bridge"}]),
            json!([{"containerPort": 80}, {"containerPort": 90}]),
        );
        app["healthChecks"] = json!([check]);
        let task = task(accepted(&app), &[31_000, 31_001]);
        let mut checks = task.health_checks.into_iter();
        checks.next().expect("a check")
    };
    let check = with_check(json!({"protocol": "HTTP", "portIndex": 1}));
    assert_eq!((check.port, check.kind), (90, CheckKind::Http));
    let check = with_check(json!({"protocol": "MESOS_HTTPS", "port": 443, "ipProtocol": "IPv6"}));
    assert_eq!(
        (check.port, check.kind, check.ipv6),
        (443, CheckKind::Https, true)
    );
    let check = with_check(json!({"protocol": "GRPC", "path": "shop.Cart"}));
    assert_eq!((check.port, check.kind), (80, CheckKind::Grpc));
    assert_eq!(check.path, "shop.Cart");
    let check = with_check(json!({"protocol": "GRPC"}));
    assert_eq!(check.path, "");
}

#[test]
fn what_cannot_be_is_named_with_its_path() {
    let bridge = || json!([{"mode": "container/bridge"}]);
    for (value, path) in [
        (
            new_form(json!([{"mode": "host"}]), json!([{"containerPort": 80}])),
            "/container/portMappings",
        ),
        (
            old_form("HOST", json!([{"containerPort": 80}])),
            "/container/docker/portMappings",
        ),
        (
            new_form(json!([{"mode": "container"}]), json!([])),
            "/networks(0)/name",
        ),
        (
            new_form(json!([{"mode": "container", "name": "../x"}]), json!([])),
            "/networks(0)/name",
        ),
        (
            new_form(
                json!([{"mode": "container/bridge", "name": "dc"}]),
                json!([]),
            ),
            "/networks(0)/name",
        ),
        (
            new_form(json!([{"mode": "overlay"}]), json!([])),
            "/networks(0)/mode",
        ),
        (
            new_form(
                json!([{"mode": "host"}, {"mode": "container/bridge"}]),
                json!([]),
            ),
            "/networks(1)",
        ),
        (old_form("USER", json!([])), "/container/docker/network"),
        (old_form("OVERLAY", json!([])), "/container/docker/network"),
        (
            new_form(bridge(), json!([{"containerPort": 70_000}])),
            "/container/portMappings(0)/containerPort",
        ),
        (
            new_form(bridge(), json!([{"containerPort": 80, "hostPort": -1}])),
            "/container/portMappings(0)/hostPort",
        ),
        (
            new_form(bridge(), json!([{"containerPort": 80, "protocol": "sctp"}])),
            "/container/portMappings(0)/protocol",
        ),
        (
            new_form(
                bridge(),
                json!([{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]),
            ),
            "/container/portMappings(1)/hostPort",
        ),
        (
            new_form(
                bridge(),
                json!([{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
            ),
            "/container/portMappings(1)/name",
        ),
        (
            new_form(
                json!([{"mode": "container", "name": "dc"}]),
                json!([{"containerPort": 0}]),
            ),
            "/container/portMappings(0)/containerPort",
        ),
    ] {
        let report = check_app_json(&value);
        let paths: Vec<&str> = report.errors.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, [path], "{value}");
    }
    let mut both = new_form(bridge(), json!([]));
    both["container"]["docker"]["network"] = json!("HOST");
    assert_eq!(check_app_json(&both).errors[0].path, "/networks");
    let mut ports = new_form(bridge(), json!([]));
    ports["portDefinitions"] = json!([{"port": 0}]);
    assert_eq!(check_app_json(&ports).errors[0].path, "/portDefinitions");
}

#[test]
fn ports_beside_mappings_are_their_service_ports() {
    let mut app = old_form(
        "BRIDGE",
        json!([{"containerPort": 80}, {"containerPort": 81, "servicePort": 9}]),
    );
    app["ports"] = json!([10_017, 10_018]);
    let ports: Vec<u16> = accepted(&app).ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [10_017, 9]);
    app["ports"] = json!([1, 2, 3]);
    assert_eq!(
        mezzo_scheduler::check_app_json(&app).errors[0].path,
        "/ports"
    );
}
