//! Pods as people write them: what is taken and written back with the same meaning, what is refused and in which words.

use mezzo_scheduler::app::spec::UnreachableStrategy;
use mezzo_scheduler::app::{parse_app_or_pod, parse_pod};
use serde_json::{Value, json};

fn pod(extra: Value) -> Value {
    let base = json!({
        "id": "/shop/pod",
        "containers": [{
            "name": "web",
            "image": {"kind": "DOCKER", "id": "web:1"},
            "resources": {"cpus": 0.5, "mem": 64},
        }],
    });
    mezzo_scheduler::app::merge(&base, &extra)
}

/// A pod with every field that has a meaning.
fn everything() -> Value {
    pod(json!({
        "labels": {"team": "shop"},
        "user": "nobody",
        "environment": {"A": "1", "P": {"secret": "password"}},
        "secrets": {"password": {"source": "db/password"}, "pull": {"source": "registry"}},
        "volumes": [
            {"name": "etc", "host": "/etc"},
            {"name": "shared"},
            {"name": "key", "secret": "password"},
        ],
        "networks": [{"mode": "container/bridge"}],
        "scaling": {"kind": "fixed", "instances": 3},
        "scheduling": {
            "backoff": {"backoff": 2, "backoffFactor": 1.5, "maxLaunchDelay": 60},
            "upgrade": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0.25},
            "placement": {"constraints": [
                {"fieldName": "@hostname", "operator": "UNIQUE"},
                {"fieldName": "rack", "operator": "LIKE", "value": "r.*"},
            ]},
            "killSelection": "OLDEST_FIRST",
            "unreachableStrategy": {"inactiveAfterSeconds": 5, "expungeAfterSeconds": 10},
        },
        "executorResources": {"cpus": 0.1, "mem": 32, "disk": 10},
        "containers": [
            {
                "name": "web",
                "exec": {"command": {"shell": "serve"}},
                "image": {"kind": "DOCKER", "id": "web:1", "forcePull": true, "pullConfig": {"secret": "pull"}},
                "resources": {"cpus": 0.5, "mem": 64, "disk": 10},
                "resourceLimits": {"cpus": 1, "mem": "unlimited"},
                "endpoints": [
                    {"name": "http", "containerPort": 80, "hostPort": 0, "protocol": ["tcp"], "labels": {"V": "ip"}},
                    {"name": "admin", "containerPort": 81, "hostPort": 8081, "protocol": ["http", "udp"]},
                    {"name": "own", "containerPort": 82},
                ],
                "environment": {"B": "2"},
                "user": "root",
                "healthCheck": {"http": {"endpoint": "http", "path": "/ok", "scheme": "HTTP"}, "intervalSeconds": 5},
                "check": {"http": {"endpoint": "admin", "path": "/state", "scheme": "HTTP"}, "delaySeconds": 1},
                "volumeMounts": [
                    {"name": "shared", "mountPath": "/data", "readOnly": true},
                    {"name": "key", "mountPath": "/key"},
                ],
                "labels": {"role": "front"},
                "lifecycle": {"killGracePeriodSeconds": 7},
                "linuxInfo": {"seccomp": {"profileName": "tight"}},
                "artifacts": [{"uri": "http://h/site.tgz", "cache": true, "destPath": "site"}],
            },
            {
                "name": "log",
                "exec": {"command": {"argv": ["/log", "-v"]}, "overrideEntrypoint": true},
                "image": {"id": "log:1"},
                "resources": {"cpus": 0.25, "mem": 32},
                "healthCheck": {"exec": {"command": {"argv": ["/log", "check"]}}},
                "check": {"exec": {"command": {"argv": ["/log", "state"]}}},
            },
            {"name": "plain", "image": {"id": "plain:1"}, "exec": {"command": {"argv": ["x"]}}},
        ],
    }))
}

/// A pod whose instances keep a volume.
fn resident(extra: Value) -> Value {
    let kept = pod(json!({
        "volumes": [{"name": "p", "persistent": {"size": 100, "type": "root", "constraints": []}}],
        "containers": [{
            "name": "web",
            "image": {"id": "web:1"},
            "volumeMounts": [{"name": "p", "mountPath": "/p"}],
        }],
    }));
    mezzo_scheduler::app::merge(&kept, &extra)
}

#[test]
fn a_pod_with_a_persistent_volume_is_resident_with_marathons_defaults() {
    let app = parse_pod(&resident(json!({})), None).0.expect("a pod");
    assert!(app.residency.is_some());
    assert_eq!(
        (app.upgrade.minimum_health_ppm, app.upgrade.maximum_over_ppm),
        (500_000, 0)
    );
    assert_eq!(app.unreachable, UnreachableStrategy::Disabled);
    assert_eq!(app.volumes_mb(), 100);
    let chosen = json!({"scheduling": {"upgrade": {"minimumHealthCapacity": 1}}});
    let app = parse_pod(&resident(chosen), None).0.expect("a pod");
    assert_eq!(
        (app.upgrade.minimum_health_ppm, app.upgrade.maximum_over_ppm),
        (1_000_000, 0)
    );
    let plain = parse_pod(&pod(json!({})), None).0.expect("a pod");
    assert!(plain.residency.is_none() && plain.unreachable != UnreachableStrategy::Disabled);
}

#[test]
fn a_pod_is_written_as_it_was_read() {
    for given in [pod(json!({})), everything(), resident(json!({}))] {
        let (app, report) = parse_pod(&given, None);
        let app = app.unwrap_or_else(|| panic!("{:#?}", report.errors));
        assert!(report.unknown.is_empty(), "{:?}", report.unknown);
        let written = app.to_json();
        let (again, report) = parse_app_or_pod(&written);
        assert_eq!(again.as_ref(), Some(&app), "{:#?}", report.errors);
        assert!(report.unknown.is_empty(), "{:?}", report.unknown);
        // As it is stored and read back after a restart.
        let stored = serde_json::to_vec(&app).expect("JSON");
        assert_eq!(
            serde_json::from_slice::<mezzo_scheduler::app::App>(&stored).ok(),
            Some(app)
        );
    }
}

#[test]
fn every_field_that_is_given_comes_back() {
    let given = everything();
    let written = parse_pod(&given, None).0.expect("a pod").to_json();
    for path in [
        "/labels",
        "/user",
        "/environment",
        "/scaling",
        "/scheduling/backoff",
        "/scheduling/placement/constraints",
        "/scheduling/killSelection",
        "/scheduling/unreachableStrategy",
        "/executorResources",
        "/networks",
        "/secrets",
        "/containers/0/exec",
        "/containers/0/resourceLimits",
        "/containers/0/environment",
        "/containers/0/user",
        "/containers/0/labels",
        "/containers/0/lifecycle",
        "/containers/0/endpoints/0",
        "/containers/0/endpoints/1/protocol",
        "/containers/0/endpoints/1/hostPort",
        "/containers/0/healthCheck/http",
        "/containers/1/exec",
        "/containers/0/check/http",
        "/containers/0/check/delaySeconds",
        "/containers/1/healthCheck/exec",
        "/containers/1/check/exec",
        "/containers/2/exec",
    ] {
        assert_eq!(written.pointer(path), given.pointer(path), "{path}");
    }
    let upgrade = &written["scheduling"]["upgrade"];
    assert_eq!(upgrade["minimumHealthCapacity"], 0.5);
    assert_eq!(
        written["containers"][0]["volumeMounts"][1]["readOnly"],
        false
    );
}

#[test]
fn a_pod_asks_for_what_its_containers_ask_for_together() {
    let app = parse_pod(&everything(), None).0.expect("a pod");
    assert_eq!(app.cpus.to_string(), "1.75");
    assert_eq!(app.mem.to_string(), "224");
    assert_eq!(app.disk.to_string(), "10");
    let ask = mezzo_scheduler::place::Ask::of(&app);
    assert_eq!(ask.ports.len(), 2, "only those of the machine");
}

#[test]
fn containers_have_marathons_defaults() {
    let given = pod(json!({"containers": [{"name": "a", "image": {"id": "a:1"}}]}));
    let app = parse_pod(&given, None).0.expect("a pod");
    assert_eq!(
        (app.cpus.to_string(), app.mem.to_string()),
        ("1".into(), "128".into())
    );
    assert_eq!(app.instances, 1);
}

#[test]
fn ports_of_the_machine_are_the_very_ones() {
    let given = pod(json!({"containers": [{
        "name": "a",
        "image": {"id": "a:1"},
        "endpoints": [{"name": "x", "hostPort": 8080}, {"name": "y", "hostPort": 0}],
    }]}));
    let app = parse_pod(&given, None).0.expect("a pod");
    let asks = mezzo_scheduler::place::Ask::of(&app).ports;
    assert_eq!(format!("{asks:?}"), "[Fixed(8080), Any]");
}

/// The container of `pod`, changed.
fn with(extra: Value) -> Value {
    let container = pod(json!({}))["containers"][0].clone();
    let mut changed = container;
    for (name, value) in extra.as_object().expect("an object") {
        changed[name] = value.clone();
    }
    pod(json!({ "containers": [changed] }))
}

#[test]
fn what_cannot_be_is_said_with_its_path() {
    for (given, path, problem) in [
        (pod(json!({"containers": []})), "/containers", "1 to 64"),
        (
            with(json!({"name": "A"})),
            "/containers(0)/name",
            "lower-case",
        ),
        (
            with(json!({"image": null})),
            "/containers(0)/image",
            "is missing",
        ),
        (
            with(json!({"image": {"kind": "APPC", "id": "a"}})),
            "/containers(0)/image/kind",
            "DOCKER",
        ),
        (
            with(json!({"exec": {"command": {"shell": "x"}, "overrideEntrypoint": false}})),
            "/containers(0)/exec/overrideEntrypoint",
            "cannot be false",
        ),
        (
            with(json!({"exec": {"command": {"shell": "x", "argv": ["y"]}}})),
            "/containers(0)/exec/command",
            "exclude each other",
        ),
        (
            with(json!({"endpoints": [{"name": "a"}]})),
            "/containers(0)/endpoints(0)/hostPort",
            "is missing",
        ),
        (
            with(json!({"endpoints": [{"name": "a", "hostPort": 0, "containerPort": 80}]})),
            "/containers(0)/endpoints(0)/containerPort",
            "no meaning",
        ),
        (
            with(
                json!({"endpoints": [{"name": "a", "hostPort": 5}, {"name": "a", "hostPort": 5}]}),
            ),
            "/containers(0)/endpoints(1)/name",
            "twice",
        ),
        (
            with(json!({"healthCheck": {"tcp": {"endpoint": "a"}}})),
            "/containers(0)/healthCheck/tcp/endpoint",
            "none of the container's endpoints",
        ),
        (
            with(json!({"healthCheck": {}})),
            "/containers(0)/healthCheck",
            "one of http, tcp and exec",
        ),
        (
            with(json!({"check": {"http": {"endpoint": "a"}}})),
            "/containers(0)/check/http/endpoint",
            "none of the container's endpoints",
        ),
        (
            with(json!({"check": {"tcp": {"endpoint": "a"}, "http": {"endpoint": "a"}}})),
            "/containers(0)/check",
            "one of http, tcp and exec",
        ),
        (
            with(json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}]})),
            "/containers(0)/volumeMounts(0)/name",
            "none of the pod's volumes",
        ),
        (
            pod(json!({"volumes": [{"name": "a"}], "containers": [{
                "name": "a", "image": {"id": "a:1"},
                "volumeMounts": [{"name": "a", "mountPath": "../a"}]}]})),
            "/containers(0)/volumeMounts(0)/mountPath",
            "relative to the sandbox",
        ),
        (
            with(json!({"endpoints": [{"name": "a", "hostPort": 0, "protocol": ["a b"]}]})),
            "/containers(0)/endpoints(0)/protocol",
            "no name of a protocol",
        ),
        (
            with(json!({"artifacts": [{"uri": "hdfs://h/a.tar.xz"}]})),
            "/containers(0)/artifacts(0)/uri",
            "hdfs",
        ),
        (
            with(json!({"resources": {"cpus": 0}})),
            "/containers(0)/resources/cpus",
            "between",
        ),
        (
            pod(json!({"volumes": [{"name": "p", "persistent": {"size": 1}}]})),
            "/volumes/p",
            "referenced by at least one container",
        ),
        (
            resident(json!({"volumes": [{"name": "p", "persistent": {"size": 0}}]})),
            "/volumes(0)/persistent/size",
            "between",
        ),
        (
            resident(
                json!({"volumes": [{"name": "p", "persistent": {"size": 1, "type": "mount"}}]}),
            ),
            "/volumes(0)/persistent/type",
            "not supported",
        ),
        (
            resident(json!({"volumes": [{"name": "p", "host": "/p", "persistent": {"size": 1}}]})),
            "/volumes(0)/persistent",
            "exclude each other: host and persistent",
        ),
        (
            resident(json!({"scheduling": {"upgrade": {"maximumOverCapacity": 0.5}}})),
            "/scheduling/upgrade/maximumOverCapacity",
            "must be 0 for a pod with persistent volumes",
        ),
        (
            resident(json!({"scheduling": {"upgrade": {"blueGreen": {}}}})),
            "/scheduling/upgrade/blueGreen",
            "updated in place",
        ),
        (
            resident(json!({"scheduling": {"unreachableStrategy": {"inactiveAfterSeconds": 5}}})),
            "/scheduling/unreachableStrategy",
            "must be disabled for pods",
        ),
        (
            pod(json!({"environment": {"A": {"secret": "no"}}})),
            "/environment/A/secret",
            "no secret",
        ),
        (
            pod(json!({"scaling": {"kind": "auto"}})),
            "/scaling/kind",
            "fixed",
        ),
        (
            pod(json!({"scheduling": {"placement": {"constraints": [
                {"fieldName": "rack", "operator": "NEAR"}]}}})),
            "/scheduling/placement/constraints(0)",
            "NEAR",
        ),
        (
            pod(json!({"networks": [{"mode": "container"}]})),
            "/networks(0)/name",
            "is missing",
        ),
        (pod(json!({"role": "a b"})), "/role", "role"),
        (
            pod(
                json!({"role": "dev", "scheduling": {"placement": {"acceptedResourceRoles": ["ops"]}}}),
            ),
            "/scheduling/placement/acceptedResourceRoles",
            "can only contain * and dev",
        ),
        (
            pod(
                json!({"id": format!("/{}", "a".repeat(189)), "containers": [
                {"name": "a-name-of-much-length", "image": {"id": "a:1"}}]}),
            ),
            "/containers(0)/name",
            "longer than",
        ),
    ] {
        let (app, report) = parse_pod(&given, None);
        assert!(app.is_none(), "{path}: taken");
        let found = report.errors.iter().find(|one| one.path == path);
        let found = found.unwrap_or_else(|| panic!("{path}: {:#?}", report.errors));
        assert!(found.message.contains(problem), "{path}: {}", found.message);
    }
}

#[test]
fn unknown_fields_are_named_with_the_nearest() {
    let (app, report) = parse_pod(&with(json!({"endpoint": []})), None);
    assert!(app.is_some());
    let unknown = report.unknown.first().expect("one");
    assert_eq!(unknown.path, "/containers(0)/endpoint");
    assert_eq!(unknown.nearest.as_deref(), Some("endpoints"));
}
