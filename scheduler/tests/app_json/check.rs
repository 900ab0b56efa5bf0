//! Marathon's `check` of an app: its defaults, its forms, and what is wrong with one.

use mezzo_scheduler::app::check::{CheckCommand, CheckWay};

use super::*;

fn checked(check: Value) -> Value {
    with(json!({ "check": check }))
}

#[test]
fn a_check_has_marathons_defaults_and_is_written_back() {
    let times = json!({"intervalSeconds": 60, "timeoutSeconds": 20, "delaySeconds": 15});
    for (given, written) in [
        (
            json!({"http": {}}),
            json!({"http": {"portIndex": 0, "path": "/", "scheme": "HTTP"}}),
        ),
        (
            json!({"http": {"port": 8080, "path": "/state", "scheme": "HTTPS"}}),
            json!({"http": {"port": 8080, "path": "/state", "scheme": "HTTPS"}}),
        ),
        (
            json!({"tcp": {"portIndex": 0}}),
            json!({"tcp": {"portIndex": 0}}),
        ),
        (json!({"tcp": {"port": 80}}), json!({"tcp": {"port": 80}})),
        (
            json!({"exec": {"command": {"shell": "test -e /ok"}}}),
            json!({"exec": {"command": {"shell": "test -e /ok"}}}),
        ),
        (
            json!({"exec": {"command": {"argv": ["/probe", "-v"]}}}),
            json!({"exec": {"command": {"argv": ["/probe", "-v"]}}}),
        ),
    ] {
        let app = accepted(&checked(given));
        assert_eq!(app.to_json()["check"], merge(&times, &written));
        assert_eq!(accepted(&app.to_json()), app);
        assert!(app.health_checks.is_empty(), "it is none of them");
    }
    let given = json!({
        "tcp": {}, "http": null, "intervalSeconds": 5, "timeoutSeconds": 0.5, "delaySeconds": 0,
    });
    let check = accepted(&checked(given)).check.expect("one");
    assert_eq!(check.way, CheckWay::Tcp(CheckPort::Index(0)));
    assert_eq!(
        (check.interval_ms, check.timeout_ms, check.delay_ms),
        (5000, 500, 0)
    );
    let line = accepted(&checked(json!({"exec": {"command": {"shell": "x"}}})));
    assert_eq!(
        line.check.map(|check| check.way),
        Some(CheckWay::Exec(CheckCommand::Shell("x".into())))
    );
    for nothing in [json!({}), json!({"check": null})] {
        let app = accepted(&with(nothing));
        assert!(app.check.is_none() && app.to_json().get("check").is_none());
    }
}

#[test]
fn what_is_wrong_with_a_check_is_named() {
    for (check, path, words) in [
        (json!({}), "/check", "must have one of http, tcp and exec"),
        (
            json!({"tcp": {}, "exec": {"command": {"shell": "x"}}}),
            "/check",
            "must have one of http, tcp and exec",
        ),
        (
            json!({"http": {"port": 80, "portIndex": 0}}),
            "/check/http/port",
            "exclude each other",
        ),
        (
            json!({"tcp": {"portIndex": 1}}),
            "/check/tcp/portIndex",
            "is 1, but the app has 1 port(s)",
        ),
        (json!({"tcp": {"port": 0}}), "/check/tcp/port", ""),
        (
            json!({"http": {"path": "state now"}}),
            "/check/http/path",
            "got \"state now\", must begin with `/`",
        ),
        (json!({"http": {"scheme": "FTP"}}), "/check/http/scheme", ""),
        (
            json!({"exec": {}}),
            "/check/exec/command",
            "is missing: {\"shell\"",
        ),
        (
            json!({"exec": {"command": {"shell": "x", "argv": ["y"]}}}),
            "/check/exec/command",
            "exclude each other",
        ),
        (
            json!({"tcp": {}, "intervalSeconds": 0}),
            "/check/intervalSeconds",
            "must be more than 0",
        ),
        (
            json!({"tcp": {}, "timeoutSeconds": 0}),
            "/check/timeoutSeconds",
            "must be more than 0",
        ),
        (
            json!({"tcp": {}, "delaySeconds": -1}),
            "/check/delaySeconds",
            "",
        ),
        (json!("tcp"), "/check", ""),
    ] {
        let report = check_app_json(&checked(check.clone()));
        let said = report.errors.iter().find(|problem| problem.path == path);
        let said = said.unwrap_or_else(|| panic!("{check}: {:?}", report.errors));
        assert!(said.message.starts_with(words), "{path}: {}", said.message);
    }
    let unknown = check_app_json(&checked(json!({"tcp": {"path": "/"}}))).unknown;
    assert_eq!(unknown[0].path, "/check/tcp/path");
}
