//! Verbs of pods, and of groups with pods in them.

use super::*;

const POD: &str = r#"{"id": "shop", "containers": [{"name": "web", "image": {"kind": "DOCKER", "id": "web:1"}}]}"#;

#[test]
fn a_pod_is_added_waited_for_and_shown_with_its_containers() {
    let server = Scripted::start(&[
        ("POST", "/v2/pods", 201, r#"{"id":"/shop"}"#),
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"d1","affectedApps":[],"affectedPods":["/shop"]}]"#,
        ),
        ("GET", "/v2/deployments", 200, "[]"),
        (
            "GET",
            "/v2/pods/shop::status",
            200,
            r#"{"id":"/shop","status":"STABLE","spec":{"scaling":{"instances":1}},"instances":[
                {"id":"shop.instance-1","status":"STABLE","agentHostname":"n1","containers":[
                    {"name":"web","status":"TASK_RUNNING"}]}]}"#,
        ),
    ]);
    let output = server.mezzo_with(&["pod", "add", "--wait", "-"], POD);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), "/shop: running\n"),
        "{}",
        stderr(&output)
    );
    let output = server.mezzo(&["pod", "status", "shop"]);
    let text = stdout(&output);
    assert!(text.contains("stable, 1 of 1 stable"), "{text}");
    assert!(text.contains("web") && text.contains("running"), "{text}");
}

#[test]
fn a_group_is_listed_with_its_pods_and_how_they_stand() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/groups/shop",
            200,
            r#"{"id":"/shop","apps":[{"id":"/shop/web","instances":1,"tasksRunning":1}],"pods":[],
                "groups":[{"id":"/shop/in","apps":[],"pods":[{"id":"/shop/in/store"}],"groups":[]}]}"#,
        ),
        (
            "GET",
            "/v2/pods/::status",
            200,
            r#"[{"id":"/other","status":"STABLE"},
                {"id":"/shop/in/store","status":"DEGRADED","spec":{"scaling":{"instances":2}},"instances":[]}]"#,
        ),
    ]);
    let output = server.mezzo(&["group", "list", "/shop"]);
    let text = stdout(&output);
    let has = |words: &[&str]| {
        text.lines().any(|line| {
            line.split_whitespace()
                .take(words.len())
                .eq(words.iter().copied())
        })
    };
    assert!(has(&["/shop/web", "1/1"]), "{text}");
    assert!(has(&["/shop/in/store", "0/2", "degraded"]), "{text}");
    assert!(!text.contains("/other"), "{text}");
}

#[test]
fn why_a_pod_waits_is_told() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/pods/shop::status",
            200,
            r#"{"id":"/shop","spec":{"scaling":{"instances":1}},"instances":[]}"#,
        ),
        (
            "GET",
            "/v2/queue",
            200,
            r#"{"queue":[{"app":{"id":"/shop/no"},"count":7},
                {"pod":{"id":"/shop"},"count":1,"since":"t","waitingFor":"the latest offers were not enough: n1"}]}"#,
        ),
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"d1","affectedPods":["/shop"],"currentStep":1,"totalSteps":2}]"#,
        ),
    ]);
    let output = server.mezzo(&["pod", "why", "shop"]);
    let text = stdout(&output);
    for part in ["0 of 1", "not enough: n1", "d1 step 1 of 2"] {
        assert!(text.contains(part), "{part}: {text} {}", stderr(&output));
    }
}

#[test]
fn a_pod_file_that_is_wrong_never_leaves_this_machine_and_is_no_app() {
    let server = Scripted::start(&[]);
    let wrong = POD.replace("\"image\"", "\"imgae\"");
    let output = server.mezzo_with(&["pod", "add", "-"], &wrong);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("did you mean `image`?"), "{text}");
    let output = server.mezzo_with(&["app", "add", "-"], POD);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("mezzo pod add"),
        "{}",
        stderr(&output)
    );
    assert!(server.asked().is_empty());
}

#[test]
fn a_pod_that_is_gone_is_waited_for_until_its_containers_have_ended() {
    let server = Scripted::start(&[
        ("DELETE", "/v2/pods/shop", 202, ""),
        ("GET", "/v2/pods/shop::status", 404, r#"{"message":"no"}"#),
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"d1","affectedPods":["/shop"]}]"#,
        ),
        (
            "GET",
            "/v2/deployments",
            200,
            r#"[{"id":"d1","affectedPods":["/shop"]}]"#,
        ),
        ("GET", "/v2/deployments", 200, "[]"),
    ]);
    let output = server.mezzo(&["pod", "remove", "shop", "--wait"]);
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), "/shop: removed\n"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn pods_are_listed_shown_and_scaled_with_all_that_they_have() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/pods/::status",
            200,
            r#"[{"id":"/shop","status":"STABLE","spec":{"version":"v1","containers":[{}],"scaling":{"instances":1}},
                "instances":[{"id":"shop.instance-1","status":"STABLE"}]}]"#,
        ),
        (
            "GET",
            "/v2/pods/shop",
            200,
            r#"{"id":"/shop","containers":[{"name":"web"}],"scaling":{"kind":"fixed","instances":1}}"#,
        ),
        ("PUT", "/v2/pods/shop", 200, r#"{"id":"/shop"}"#),
    ]);
    assert_eq!(
        stdout(&server.mezzo(&["pod", "list"])),
        "POD    STABLE  STATE   CONTAINERS  VERSION\n/shop     1/1  stable           1  v1\n"
    );
    let shown = server.mezzo(&["pod", "show", "shop"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["scaling"]["instances"], 1);
    let output = server.mezzo(&["pod", "scale", "shop", "3", "--force"]);
    assert_eq!(
        stdout(&output),
        "/shop: scaling to 3 instances\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(
        server.changes(),
        [
            "PUT /v2/pods/shop?force=true\n{\"containers\":[{\"name\":\"web\"}],\"id\":\"/shop\",\"scaling\":{\"instances\":3,\"kind\":\"fixed\"}}"
        ]
    );
    let output = server.mezzo(&["pod", "scale", "no", "3"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}
