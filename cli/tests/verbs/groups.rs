//! Verbs of groups.

use super::terminal::OnTerminal;
use super::*;

const CHANGED: &str = r#"{"version":"v","deploymentId":"d1"}"#;

#[test]
fn a_group_is_scaled_and_removed_by_its_path() {
    let server = Scripted::start(&[
        ("PUT", "/v2/groups/shop", 200, CHANGED),
        ("DELETE", "/v2/groups/shop", 200, CHANGED),
    ]);
    let scaled = server.mezzo(&["group", "scale", "shop", "1.5"]);
    assert_eq!(stdout(&scaled), "/shop: scaling\n", "{}", stderr(&scaled));
    let removed = server.mezzo(&["group", "remove", "/shop", "--force"]);
    assert_eq!(
        stdout(&removed),
        "/shop: removing\n",
        "{}",
        stderr(&removed)
    );
    assert_eq!(
        server.changes(),
        [
            "PUT /v2/groups/shop?force=false\n{\"scaleBy\":1.5}",
            "DELETE /v2/groups/shop?force=true\n"
        ]
    );
    let output = server.mezzo(&["group", "remove", "no"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let output = server.mezzo(&["group", "scale", "/a//b", "2"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_groups_file_is_checked_planned_and_applied() {
    let file = r#"{"id":"/shop","apps":[{"id":"web","cpus":0.2,"container":{"docker":{"image":"web:1"}}}]}"#;
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/groups/shop",
            200,
            r#"{"id":"/shop","apps":[{"id":"/shop/web","cpus":0.1,"container":{"docker":{"image":"web:1"}}}]}"#,
        ),
        (
            "PUT",
            "/v2/groups/shop",
            200,
            r#"{"steps":[{"actions":[{"action":"RestartApplication","app":"/shop/web"}]}]}"#,
        ),
        ("PUT", "/v2/groups/shop", 200, CHANGED),
    ]);
    let wrong = file.replace("cpus", "cpu");
    let output = server.mezzo_with(&["group", "apply", "-"], &wrong);
    assert_eq!(output.status.code(), Some(2));
    assert!(server.asked().is_empty());

    let planned = server.mezzo_with(&["group", "apply", "-", "--plan"], file);
    assert_eq!(
        stdout(&planned),
        "- /shop/web: /cpus: 0.1\n+ /shop/web: /cpus: 0.2\n\n\
         STEP  DOES                APP\n   1  RestartApplication  /shop/web\n",
        "{}",
        stderr(&planned)
    );
    assert!(server.changes()[0].starts_with("PUT /v2/groups/shop?force=false&dryRun=true\n"));

    let applied = server.mezzo_with(&["group", "apply", "-"], file);
    assert_eq!(
        stdout(&applied),
        "/shop: applying\n",
        "{}",
        stderr(&applied)
    );
    assert!(server.changes()[1].starts_with("PUT /v2/groups/shop?force=false\n{\"apps\":"));
}

#[test]
fn a_group_is_shown_and_goes_back_to_the_version_before() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v2/groups/shop",
            200,
            r#"{"id":"/shop","version":"2026-01-02","dependencies":["/db"],"apps":[{"id":"/shop/web","instances":1,"tasksRunning":1}]}"#,
        ),
        (
            "GET",
            "/v2/groups/shop/versions",
            200,
            r#"["2026-01-01","2026-01-02"]"#,
        ),
        ("PUT", "/v2/groups/shop", 200, CHANGED),
    ]);
    let shown = server.mezzo(&["group", "show", "shop"]);
    let text = stdout(&shown);
    for part in ["/shop", "2026-01-02", "/db", "/shop/web"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let versions = server.mezzo(&["group", "versions", "shop", "-o", "json"]);
    let versions: serde_json::Value = serde_json::from_slice(&versions.stdout).unwrap();
    assert_eq!(versions, serde_json::json!(["2026-01-02", "2026-01-01"]));
    let back = server.mezzo(&["group", "rollback", "shop"]);
    assert_eq!(stdout(&back), "/shop: rolling back\n", "{}", stderr(&back));
    assert_eq!(
        server.changes(),
        ["PUT /v2/groups/shop?force=false\n{\"version\":\"2026-01-01\"}"]
    );
    let output = server.mezzo(&["group", "rollback", "shop", "2020-01-01"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

/// A deployment of two apps, one of which is not up yet at the first look.
const WAITED: &[Answer] = &[
    ("PUT", "/v2/groups/shop", 200, CHANGED),
    (
        "GET",
        "/v2/deployments",
        200,
        r#"[{"id":"d1","affectedApps":["/shop/db","/shop/in/web"],"currentStep":1,"totalSteps":2,"waitingFor":"/shop/in/web: 1 of 4"}]"#,
    ),
    ("GET", "/v2/deployments", 200, "[]"),
    (
        "GET",
        "/v2/groups/shop",
        200,
        r#"{"id":"/shop","apps":[{"id":"/shop/db","instances":1,"tasksRunning":1},{"id":"/shop/other","instances":1}],
            "groups":[{"id":"/shop/in","apps":[{"id":"/shop/in/web","instances":4,"tasksRunning":1}]}]}"#,
    ),
];

#[test]
fn waiting_for_a_group_prints_its_steps_where_nobody_sees_bars() {
    let server = Scripted::start(WAITED);
    let output = server.mezzo(&["group", "scale", "shop", "2", "--wait"]);
    assert_eq!(
        (stdout(&output), stderr(&output)),
        ("/shop: done\n", "/shop: step 1 of 2\n")
    );
    let asked = server.asked();
    assert!(
        asked.iter().all(|one| !one.starts_with("GET /v2/groups")),
        "{asked:?}"
    );
}

#[test]
fn waiting_for_a_group_on_a_terminal_has_a_bar_for_each_app() {
    let server = Scripted::start(WAITED);
    let mut command = Command::new(env!("CARGO_BIN_EXE_mezzo"));
    command
        .args(["group", "scale", "shop", "2", "--wait"])
        .env("NO_COLOR", "1")
        .env("MEZZO_SCHEDULER", &server.url);
    let mut there = OnTerminal::start(command, 100, 24);
    there.until("/shop: done");
    let (shown, code, _) = there.end();
    assert_eq!(code, Some(0), "{shown:?}");
    for part in [
        "/shop: step 1 of 2 [",
        "\r\n  /shop/db [########################] 1 of 1 running\r\n",
        "\r\n  /shop/in/web [######------------------] 1 of 4 running",
        "\r\u{1b}[2A\u{1b}[J",
    ] {
        assert!(shown.contains(part), "{part:?}: {shown:?}");
    }
    assert!(!shown.contains("/shop/other"), "{shown:?}");
}
