//! Verbs of apps that look closer: differences, reasons, restarts.

use super::*;

const PRESENT: Answer = (
    "GET",
    "/v2/apps/dev/a",
    200,
    r#"{"app":{"id":"/dev/a","cpus":0.1,"container":{"docker":{"image":"a:1"}},"role":"dev","acceptedResourceRoles":["*","dev"],
        "portDefinitions":[{"port":10001}],"version":"v2","tasksRunning":1}}"#,
);

#[test]
fn a_difference_of_one_field_is_shown_and_nothing_is_changed() {
    let server = Scripted::start(&[PRESENT]);
    for (file, expected) in [
        (
            r#"{"id":"/dev/a","role":"*"}"#,
            "- /role: \"dev\"\n+ /role: \"*\"\n",
        ),
        (
            r#"{"id":"/dev/a","cpus":0.2}"#,
            "- /cpus: 0.1\n+ /cpus: 0.2\n",
        ),
        (
            r#"{"id":"/dev/a","acceptedResourceRoles":["dev"],"role":"dev"}"#,
            "- /acceptedResourceRoles(0): \"*\"\n+ /acceptedResourceRoles(0): \"dev\"\n- /acceptedResourceRoles(1): \"dev\"\n",
        ),
        (
            r#"{"id":"/dev/a","cpus":0.1,"container":{"docker":{"image":"a:1"}},"portDefinitions":[{"port":0}]}"#,
            "nothing would change\n",
        ),
    ] {
        let output = server.mezzo_with(&["app", "diff", "-"], file);
        assert_eq!(stdout(&output), expected, "{file}: {}", stderr(&output));
    }
    assert!(server.changes().is_empty());
}

#[test]
fn a_version_is_compared_with_what_runs() {
    let server = Scripted::start(&[
        PRESENT,
        (
            "GET",
            "/v2/apps/dev/a/versions/v1",
            200,
            r#"{"id":"/dev/a","cpus":0.1,"container":{"docker":{"image":"a:1"}},"role":"*","acceptedResourceRoles":["*"],
                "portDefinitions":[{"port":10001}],"version":"v1"}"#,
        ),
    ]);
    let output = server.mezzo(&["app", "diff", "dev/a", "--version", "v1", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        json,
        serde_json::json!([
            {"path": "/acceptedResourceRoles(1)", "before": "dev", "after": null},
            {"path": "/role", "before": "dev", "after": "*"},
        ])
    );
}

#[test]
fn why_an_app_waits_is_told() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/apps/big",
            200,
            r#"{"app":{"id":"/big","instances":2,"tasksRunning":1}}"#,
        ),
        (
            "GET",
            "/v2/queue",
            200,
            r#"{"queue":[{"app":{"id":"/other"},"count":7},
                {"app":{"id":"/big"},"count":1,"waitingFor":"asks for 64 cpus, the largest node has 4"}]}"#,
        ),
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"d1","affectedApps":["/big"],"currentStep":1,"totalSteps":2}]"#,
        ),
    ]);
    let output = server.mezzo(&["app", "why", "big"]);
    let text = stdout(&output);
    for part in ["1 of 2", "the largest node has 4", "d1"] {
        assert!(text.contains(part), "{part}: {text} {}", stderr(&output));
    }
}

#[test]
fn a_restart_is_asked_for_and_waited_for() {
    let server = Scripted::start(&[
        (
            "POST",
            "/v2/apps/a/restart",
            200,
            r#"{"version":"v","deploymentId":"d1"}"#,
        ),
        (
            "GET",
            "/v2/apps/a",
            200,
            r#"{"app":{"id":"/a","instances":1,"tasksRunning":1,"deployments":[]}}"#,
        ),
    ]);
    let output = server.mezzo(&["app", "restart", "a"]);
    assert_eq!(stdout(&output), "/a: restarting\n", "{}", stderr(&output));
    let output = server.mezzo(&["app", "restart", "a", "--wait", "--force"]);
    assert_eq!(
        stdout(&output),
        "/a: done, 1 of 1 running\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(
        server.changes(),
        [
            "POST /v2/apps/a/restart\n",
            "POST /v2/apps/a/restart?force=true\n"
        ]
    );
}
