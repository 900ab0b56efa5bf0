//! What app files are accepted, what they mean, and how each mistake is named.

#[path = "app_json/check.rs"]
mod check;
#[path = "app_json/marathon.rs"]
mod marathon;
#[path = "app_json/residents.rs"]
mod residents;
#[path = "app_json/wrong.rs"]
mod wrong;

use mezzo_api::model::VolumeSource;
use mezzo_scheduler::app::residency::TaskLost;
use mezzo_scheduler::app::spec::{CheckPort, Protocol, Run, UnreachableStrategy};
use mezzo_scheduler::app::{ProblemKind, merge, parse_app};
use mezzo_scheduler::check_app_json;
use proptest::prelude::*;
use serde_json::{Value, json};

fn with(extra: Value) -> Value {
    let base = json!({"id": "/web", "container": {"type": "DOCKER", "docker": {"image": "web:1"}}});
    merge(&base, &extra)
}

fn accepted(value: &Value) -> mezzo_scheduler::app::App {
    let (app, report) = parse_app(value, None);
    app.unwrap_or_else(|| panic!("{value}: {:?}", report.errors))
}

/// The paths of all problems, with the kind of the first.
fn refused(extra: Value) -> (ProblemKind, Vec<String>) {
    let report = check_app_json(&with(extra.clone()));
    assert!(!report.errors.is_empty(), "{extra} is accepted");
    (
        report.errors[0].kind,
        report
            .errors
            .into_iter()
            .map(|problem| problem.path)
            .collect(),
    )
}

/// Fields of an app with one port of a name, and these readiness checks.
fn ready(checks: Value) -> Value {
    json!({"portDefinitions": [{"port": 0, "name": "api"}], "readinessChecks": checks})
}

#[test]
fn a_readiness_check_has_marathons_defaults_and_is_written_back() {
    let by_default = json!({
        "name": "readinessCheck",
        "protocol": "HTTP",
        "path": "/",
        "portName": "api",
        "intervalSeconds": 30,
        "timeoutSeconds": 10,
        "httpStatusCodesForReady": [200],
        "preserveLastResponse": false,
    });
    let app = accepted(&with(ready(json!([{"portName": "api"}]))));
    assert_eq!(app.to_json()["readinessChecks"], json!([by_default]));
    assert_eq!(accepted(&app.to_json()), app);
    let none = accepted(&with(json!({"readinessChecks": []})));
    assert_eq!(none.readiness_check, None);
}

#[test]
fn a_revocable_app_takes_nothing_that_cannot_be_taken_back() {
    let app = accepted(&with(json!({"revocable": true})));
    assert!(app.revocable && app.ports.is_empty());
    assert_eq!(accepted(&app.to_json()), app);
    assert!(app.to_json().get("revocable").is_some());
    let plain = accepted(&with(json!({"revocable": false})));
    assert!(plain.to_json().get("revocable").is_none());
    for (field, value) in [
        ("disk", json!(10)),
        ("gpus", json!(1)),
        ("portDefinitions", json!([{"port": 0}])),
        ("resourceLimits", json!({"mem": "unlimited"})),
    ] {
        let (app, report) = parse_app(&with(json!({"revocable": true, field: value})), None);
        let words = format!("{report:?}");
        assert!(
            app.is_none() && words.contains("a revocable app takes only cpus and mem"),
            "{field}: {words}"
        );
    }
}

#[test]
fn defaults_are_those_of_marathon() {
    let app = accepted(&with(json!({})));
    assert_eq!(
        (app.cpus.millis(), app.mem.millis(), app.disk.millis()),
        (1000, 128_000, 0)
    );
    assert_eq!((app.instances, app.ports.len()), (1, 1));
    assert_eq!(app.run, Run::Image);
    assert_eq!(
        (
            app.backoff.initial_ms,
            app.backoff.factor_ppm,
            app.backoff.max_ms
        ),
        (1000, 1_150_000, 300_000)
    );
    assert_eq!(
        (app.upgrade.minimum_health_ppm, app.upgrade.maximum_over_ppm),
        (1_000_000, 1_000_000)
    );
    assert_eq!(
        app.unreachable,
        UnreachableStrategy::After {
            inactive_ms: 0,
            expunge_ms: 0
        }
    );
    assert_eq!(app.kill_grace_ms, None);
}

#[test]
fn plain_marathon_files_are_accepted() {
    for extra in [
        json!({"cmd": "python3 -m http.server 8080", "cpus": 0.5, "mem": 32.0, "disk": 0.25}),
        json!({"args": ["-v"], "env": {"A": "1"}, "labels": {"HAPROXY_GROUP": "external"}}),
        json!({"ports": [0, 0], "requirePorts": false}),
        json!({"portDefinitions": [{"port": 0, "protocol": "tcp", "name": "http", "labels": {"VIP_0": "/web:80"}}]}),
        json!({"networks": [{"mode": "host"}], "fetch": [], "constraints": [], "dependencies": [], "uris": []}),
        json!({"container": {"type": "MESOS", "docker": {"image": "web:1", "forcePullImage": true}, "volumes": []}}),
        json!({"container": {"docker": {"image": "web:1", "network": "HOST", "privileged": false, "parameters": [], "portMappings": []}}}),
        json!({"healthChecks": [{"protocol": "HTTP", "path": "/health", "portIndex": 0, "gracePeriodSeconds": 5, "intervalSeconds": 10, "timeoutSeconds": 5, "maxConsecutiveFailures": 3, "ignoreHttp1xx": false}]}),
        json!({"healthChecks": [{"protocol": "COMMAND", "command": {"value": "test -e /ok"}}]}),
        json!({"upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0}}),
        json!({"upgradeStrategy": {"canary": {"instances": 2, "holdSeconds": 1.5}, "rollbackAfterSeconds": 600}}),
        json!({"upgradeStrategy": {"blueGreen": {}}}),
        json!({"unreachableStrategy": "disabled", "killSelection": "OLDEST_FIRST", "acceptedResourceRoles": ["*"]}),
        json!({"resourceLimits": {"cpus": "unlimited", "mem": 256}, "user": "nobody", "executor": "", "secrets": {}}),
        json!({"residency": null, "ipAddress": null, "cmd": null, "taskKillGracePeriodSeconds": 10, "role": "*"}),
    ] {
        let app = accepted(&with(extra.clone()));
        assert!(check_app_json(&with(extra)).unknown.is_empty(), "{app:?}");
    }
}

#[test]
fn profiles_are_named_as_marathon_does_and_kept_in_the_json() {
    let with_info = |info: Value| json!({"container": {"type": "MESOS", "docker": {"image": "web:1"}, "linuxInfo": info, "apparmorProfile": "web"}});
    let app = accepted(&with(with_info(
        json!({"seccomp": {"profileName": "small"}}),
    )));
    let written = app.to_json();
    let container = &written["container"];
    assert_eq!(container["linuxInfo"]["seccomp"]["profileName"], "small");
    assert_eq!(container["apparmorProfile"], "web");
    assert_eq!(accepted(&written), app);
    for (info, path) in [
        (
            json!({"seccomp": {"profileName": "../x"}}),
            "/container/linuxInfo/seccomp/profileName",
        ),
        (
            json!({"seccomp": {"unconfined": true}}),
            "/container/linuxInfo/seccomp/unconfined",
        ),
        (
            json!({"ipcInfo": {"mode": "PRIVATE"}}),
            "/container/linuxInfo/ipcInfo",
        ),
    ] {
        let (_, problems) = refused(with_info(info));
        assert!(
            problems.iter().any(|problem| problem.contains(path)),
            "{path}: {problems:?}"
        );
    }
}

#[test]
fn a_pull_secret_is_named_by_the_app_and_kept_in_its_json() {
    let extra = json!({"container": {"type": "MESOS", "docker": {"image": "web:1", "pullConfig": {"secret": "pull"}}},
        "secrets": {"pull": {"source": "team/registry"}, "other": {"source": "x"}}});
    let app = accepted(&with(extra));
    let source = app.pull_secret().map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("team/registry"));
    let written = app.to_json();
    assert_eq!(
        written["container"]["docker"]["pullConfig"],
        json!({"secret": "pull"})
    );
    assert_eq!(
        written["secrets"],
        json!({"pull": {"source": "team/registry"}, "other": {"source": "x"}})
    );
    assert_eq!(accepted(&written), app);
    // Another secret is another configuration: the app is deployed anew.
    let mut changed = written.clone();
    changed["secrets"]["pull"]["source"] = json!("team/other");
    assert!(!accepted(&changed).same_config(&app));
}

#[test]
fn secrets_are_files_and_variables_by_the_names_of_the_app() {
    let extra = json!({
        "container": {"type": "MESOS", "docker": {"image": "web:1"},
            "volumes": [{"containerPath": "/run/key", "secret": "key"}, {"containerPath": "/d", "hostPath": "/srv", "mode": "RO"}]},
        "env": {"TOKEN": {"secret": "token"}, "PLAIN": "x"},
        "secrets": {"key": {"source": "team/key"}, "token": {"source": "team/token"}}});
    let app = accepted(&with(extra));
    let told: Vec<_> = app
        .volumes()
        .into_iter()
        .map(|volume| (volume.container_path, volume.source))
        .collect();
    assert_eq!(
        told,
        [
            ("/d".to_owned(), VolumeSource::HostPath("/srv".into())),
            (
                "/run/key".to_owned(),
                VolumeSource::Secret("team/key".parse().expect("a source"))
            ),
        ]
    );
    let variables = app.secret_variables();
    assert_eq!(
        (variables[0].name.as_str(), variables[0].secret.as_str()),
        ("TOKEN", "team/token")
    );
    let written = app.to_json();
    assert_eq!(
        written["env"],
        json!({"TOKEN": {"secret": "token"}, "PLAIN": "x"})
    );
    assert_eq!(accepted(&written), app);
    for (extra, path) in [
        (
            json!({"container": {"docker": {"image": "a"}, "volumes": [{"containerPath": "/k", "secret": "s"}]}}),
            "/container/volumes",
        ),
        (
            json!({"container": {"docker": {"image": "a"}, "volumes": [{"containerPath": "/k", "hostPath": "/h", "secret": "s"}]},
                "secrets": {"s": {"source": "s"}}}),
            "/container/volumes(0)/hostPath",
        ),
        (
            json!({"env": {"A": {"secret": "s"}}, "secrets": {"t": {"source": "t"}}}),
            "/env/A/secret",
        ),
    ] {
        assert_eq!(refused(extra), (ProblemKind::Value, vec![path.to_owned()]));
    }
}

#[test]
fn health_checks_keep_their_family() {
    let check = |value: Value| {
        let app = accepted(&with(json!({"healthChecks": [value]})));
        let mut checks = app.health_checks.into_iter();
        checks.next().expect("a check")
    };
    let marathon = check(json!({"protocol": "HTTP", "port": 8080}));
    assert_eq!(
        (marathon.delay_ms, marathon.port),
        (0, CheckPort::Fixed(8080))
    );
    let mesos = check(json!({"protocol": "MESOS_TCP"}));
    assert_eq!((mesos.delay_ms, mesos.port), (15_000, CheckPort::Index(0)));
    assert_eq!(mesos.protocol, Protocol::MesosTcp);
    assert_eq!(
        (mesos.grace_period_ms, mesos.interval_ms, mesos.timeout_ms),
        (300_000, 60_000, 20_000)
    );
}

#[test]
fn an_app_has_several_health_checks_each_with_its_own_fields() {
    let checks = json!([
        {"protocol": "HTTP", "path": "/live", "portIndex": 0, "intervalSeconds": 5, "maxConsecutiveFailures": 2},
        {"protocol": "MESOS_TCP", "portIndex": 0, "gracePeriodSeconds": 1, "timeoutSeconds": 3},
        {"protocol": "COMMAND", "command": {"value": "test -e /ok"}, "delaySeconds": 7},
    ]);
    let app = accepted(&with(json!({"healthChecks": checks})));
    let written = app.to_json();
    let wanted = checks.as_array().expect("a list");
    assert_eq!(written["healthChecks"].as_array().map(Vec::len), Some(3));
    for (i, check) in wanted.iter().enumerate() {
        for (field, value) in check.as_object().expect("an object") {
            assert_eq!(written["healthChecks"][i][field], *value, "{i} {field}");
        }
    }
    assert_eq!(accepted(&written), app, "what was got can be put");
    let patience: Vec<_> = app
        .health_checks
        .iter()
        .map(|one| app.patience_ms(one))
        .collect();
    assert_eq!(patience, [Some(5_000), Some(120_000), Some(120_000)]);
    assert_eq!(app.most_patience_ms(), Some(120_000));
    // Each is read by itself, and named by its place.
    assert_eq!(
        refused(json!({"healthChecks": [{"protocol": "TCP"}, {"protocol": "COMMAND"}]})),
        (
            ProblemKind::Value,
            vec!["/healthChecks(1)/command".to_owned()]
        )
    );
}

#[test]
fn files_to_fetch_are_read_as_marathon_does_in_both_forms() {
    let fetched = |extra| {
        let (app, report) = parse_app(&with(extra), None);
        assert_eq!(report.errors, []);
        app.unwrap().to_json()["fetch"].clone()
    };
    let whole = json!([{"uri": "https://h/a.tgz", "extract": false, "executable": true, "cache": true, "destPath": "bin/a"}]);
    assert_eq!(fetched(json!({"fetch": whole})), whole);
    assert_eq!(
        fetched(json!({"fetch": [{"uri": "http://h/a.tgz"}]})),
        json!([{"uri": "http://h/a.tgz", "extract": true, "executable": false, "cache": false}])
    );
    // Of the older form, Marathon unpacks what its name says, and nothing else.
    assert_eq!(
        fetched(json!({"uris": ["http://h/a.tar.gz", "http://h/a.gz"]})),
        json!([
            {"uri": "http://h/a.tar.gz", "extract": true, "executable": false, "cache": false},
            {"uri": "http://h/a.gz", "extract": false, "executable": false, "cache": false},
        ])
    );
}

#[test]
fn what_is_not_supported_says_so() {
    let container = |more: Value| {
        let image = json!({"docker": {"image": "a"}});
        json!({"container": merge(&image, &more)})
    };
    let linux = |info: Value| container(json!({ "linuxInfo": info }));
    let tcp = json!({"protocol": "MESOS_TCP", "portIndex": 0});
    let bridge = json!({"mode": "container/bridge"});
    for (extra, path, words) in [
        (
            json!({"storeUrls": ["http://h/x"]}),
            "/storeUrls",
            "not supported yet: use fetch",
        ),
        (
            json!({"executor": "//cmd"}),
            "/executor",
            "not supported yet",
        ),
        (
            json!({"executorResources": {"cpus": 0.1}}),
            "/executorResources",
            "not supported yet",
        ),
        (
            json!({"healthChecks": vec![tcp; 17]}),
            "/healthChecks",
            "has 17 entries; at most 16 are allowed",
        ),
        (
            json!({"networks": [bridge, bridge]}),
            "/networks(1)",
            "not supported yet: more than one network",
        ),
        (
            linux(json!({"ipcInfo": {"mode": "PRIVATE", "shmSize": 64}})),
            "/container/linuxInfo/ipcInfo",
            "not supported yet",
        ),
        (
            linux(json!({"seccomp": {"unconfined": true}})),
            "/container/linuxInfo/seccomp/unconfined",
            "no container is without a filter",
        ),
        (
            container(json!({"docker": {"image": "a", "credential": {"principal": "me"}}})),
            "/container/docker/credential",
            "not supported yet: use pullConfig",
        ),
        (
            container(json!({"volumes": [{"containerPath": "/d", "external": {"size": 1}}]})),
            "/container/volumes(0)/external",
            "",
        ),
    ] {
        let report = check_app_json(&with(extra));
        let said = report.errors.iter().find(|problem| problem.path == path);
        let said = said.unwrap_or_else(|| panic!("{path}: {:?}", report.errors));
        assert!(said.message.starts_with(words), "{path}: {}", said.message);
    }
}

#[test]
fn an_app_of_one_instance_by_its_label_ends_the_old_before_the_new() {
    let label = |value: &str| json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": value}});
    let app = accepted(&with(label("true")));
    let strategy = &app.to_json()["upgradeStrategy"];
    assert_eq!(strategy["minimumHealthCapacity"], 0);
    assert_eq!(strategy["maximumOverCapacity"], 0);
    assert_eq!(accepted(&app.to_json()), app);
    let ordinary = accepted(&with(label("false")));
    assert_eq!(
        ordinary.to_json()["upgradeStrategy"]["minimumHealthCapacity"],
        1
    );
}

#[test]
fn constraints_are_written_back_as_they_were_read() {
    let constraints = json!([
        ["hostname", "UNIQUE"],
        ["@zone", "GROUP_BY", "3"],
        ["rack", "CLUSTER"],
        ["rack", "UNLIKE", "r[0-9]+"],
        ["gen", "IS", "7"],
        ["@region", "MAX_PER", "10"],
    ]);
    let app = accepted(&with(
        json!({"constraints": constraints, "placement": "bestFit"}),
    ));
    let written = app.to_json();
    assert_eq!(written["constraints"], constraints);
    assert_eq!(written["placement"], "bestFit");
    assert_eq!(accepted(&written), app);
}

#[test]
fn an_app_without_an_image_is_told_what_to_do() {
    let report = check_app_json(&json!({"id": "/a", "cmd": "sleep 1"}));
    assert_eq!(report.errors[0].path, "/container/docker/image");
    assert!(
        report.errors[0]
            .message
            .contains("mezzo runs container images")
    );
}

#[test]
fn unknown_fields_are_found_at_every_depth() {
    let report = check_app_json(&with(json!({
        "instanses": 2,
        "container": {"docker": {"image": "a", "forcepullimage": true}},
        "healthChecks": [{"protocol": "TCP", "gracePeriod": 3}],
        "zebra": 1
    })));
    let found: Vec<(String, Option<String>)> = report
        .unknown
        .into_iter()
        .map(|unknown| (unknown.path, unknown.nearest))
        .collect();
    for (path, nearest) in [
        ("/instanses", Some("instances")),
        ("/container/docker/forcepullimage", Some("forcePullImage")),
        ("/zebra", None),
    ] {
        assert!(
            found.contains(&(path.into(), nearest.map(Into::into))),
            "{path}: {found:?}"
        );
    }
    assert!(
        found
            .iter()
            .any(|(path, _)| path == "/healthChecks(0)/gracePeriod")
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        let key = prop_oneof![
            Just("id".to_owned()),
            Just("docker".to_owned()),
            Just("port".to_owned()),
            Just("protocol".to_owned()),
            ".{0,6}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const NAMES: [&str; 18] = [
    "check",
    "constraints",
    "id",
    "cmd",
    "args",
    "cpus",
    "mem",
    "instances",
    "container",
    "env",
    "portDefinitions",
    "ports",
    "healthChecks",
    "upgradeStrategy",
    "backoffFactor",
    "unreachableStrategy",
    "resourceLimits",
    "networks",
];

proptest! {
    #[test]
    fn no_json_makes_the_parser_panic(name in proptest::sample::select(&NAMES[..]), value in any_json()) {
        let mut app = with(json!({}));
        app[name] = value.clone();
        let _ = check_app_json(&app);
        let _ = check_app_json(&value);
    }

    #[test]
    fn what_is_written_is_read_back_as_the_same_app(
        cpus in 1u64..100_000,
        mem in 1000u64..1_000_000,
        instances in 0u64..1000,
        min in 0u64..=1_000_000,
        backoff in 0u64..100_000,
        ports in proptest::collection::vec(0u16..3, 0..3),
        shape in 0u8..4,
    ) {
        let number = |millis: u64| serde_json::from_str::<Value>(&format!("{}.{:03}", millis / 1000, millis % 1000)).expect("a number");
        let mut app = with(json!({
            "instances": instances,
            "requirePorts": shape > 1,
            "portDefinitions": ports.iter().enumerate().map(|(i, p)| json!({"port": if *p == 0 { 0 } else { 100 + i }})).collect::<Vec<_>>(),
            "unreachableStrategy": if shape == 0 { json!("disabled") } else { json!({"inactiveAfterSeconds": 1, "expungeAfterSeconds": 2.5}) },
        }));
        app["cpus"] = number(cpus);
        app["mem"] = number(mem);
        app["backoffSeconds"] = number(backoff);
        app["upgradeStrategy"] = json!({"minimumHealthCapacity": min as f64 / 1e6});
        match shape {
            0 => app["upgradeStrategy"]["canary"] = json!({"instances": 2}),
            1 => app["upgradeStrategy"]["blueGreen"] = json!({"holdSeconds": number(backoff)}),
            _ => app["upgradeStrategy"]["rollbackAfterSeconds"] = json!(60),
        }
        match shape {
            0 => app["cmd"] = json!("sleep 1"),
            1 => {
                app["args"] = json!(["a", "b"]);
                app["check"] = json!({"http": {"port": 1 + min % 60_000}, "delaySeconds": number(backoff)});
            }
            2 => {
                let command = json!({"protocol": "COMMAND", "command": {"value": "true"}});
                let port = json!({"protocol": "TCP", "port": 80, "delaySeconds": number(backoff)});
                app["healthChecks"] = json!([command, port, command]);
            }
            _ => app["resourceLimits"] = json!({"cpus": "unlimited"}),
        }
        let first = accepted(&app);
        let written = first.to_json();
        let (second, report) = parse_app(&written, None);
        prop_assert_eq!(Some(first), second);
        prop_assert!(report.unknown.is_empty());
    }
}
