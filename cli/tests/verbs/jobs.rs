//! Verbs of jobs.

use super::*;

#[test]
fn jobs_are_listed_and_drawn() {
    let server = Scripted::start(&[(
        "GET",
        "/v1/jobs",
        200,
        r#"[{"name":"load","role":"*","cron":"@daily","next":"2026-01-02T00:00:00.000Z","status":"success","state":"idle",
            "successCount":3,"errorCount":0},
            {"name":"report","parents":["load"],"disabled":true,"disabledBecause":"on request"}]"#,
    )]);
    let list = server.mezzo(&["job", "list"]);
    let text = stdout(&list);
    for part in ["@daily", "2026-01-02", "after load", "disabled on request"] {
        assert!(text.contains(part), "{part}: {text} {}", stderr(&list));
    }
    assert_eq!(
        stdout(&server.mezzo(&["job", "graph"])),
        "digraph {\n  \"load\"\n  \"report\"\n  \"load\" -> \"report\"\n}\n"
    );
}

#[test]
fn each_verb_of_a_job_asks_for_what_it_says() {
    let server = Scripted::start(&[
        ("POST", "/v1/jobs/nightly/run", 200, r#"{"run":18}"#),
        ("POST", "/v1/jobs/nightly/kill", 200, r#"{"killed":2}"#),
        ("POST", "/v1/jobs/nightly/enable", 200, "{}"),
        ("POST", "/v1/jobs/nightly/disable", 200, "{}"),
        ("DELETE", "/v1/jobs/nightly", 200, "{}"),
    ]);
    for (words, said, asked) in [
        (
            &["job", "run", "nightly", "--arguments=--full"][..],
            "nightly: run 18 begins\n",
            "POST /v1/jobs/nightly/run\n{\"arguments\":\"--full\"}",
        ),
        (
            &["job", "kill", "nightly"],
            "nightly: killing 2 runs\n",
            "POST /v1/jobs/nightly/kill\n",
        ),
        (
            &["job", "kill", "nightly", "17"],
            "nightly: killing 2 runs\n",
            "POST /v1/jobs/nightly/kill?run=17\n",
        ),
        (
            &["job", "enable", "nightly"],
            "nightly: enabled\n",
            "POST /v1/jobs/nightly/enable\n",
        ),
        (
            &["job", "disable", "nightly"],
            "nightly: disabled\n",
            "POST /v1/jobs/nightly/disable\n",
        ),
        (
            &["job", "remove", "nightly"],
            "nightly: removed\n",
            "DELETE /v1/jobs/nightly\n",
        ),
    ] {
        let output = server.mezzo(words);
        assert_eq!(stdout(&output), said, "{words:?}: {}", stderr(&output));
        assert_eq!(server.changes().last().unwrap(), asked, "{words:?}");
    }
}

#[test]
fn a_job_keeps_its_settings_when_its_role_changes() {
    let server = Scripted::start(&[
        (
            "GET",
            "/v1/jobs/nightly",
            200,
            r#"{"name":"nightly","command":"/report","role":"*"}"#,
        ),
        (
            "PUT",
            "/v1/jobs/nightly",
            200,
            r#"{"name":"nightly","role":"batch"}"#,
        ),
    ]);
    let output = server.mezzo(&["job", "update", "nightly", "--role", "batch"]);
    assert_eq!(
        stdout(&output),
        "nightly: role batch\n",
        "{}",
        stderr(&output)
    );
    let changes = server.changes();
    let (_, body) = changes[0].split_once('\n').unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&body["role"], &body["command"]),
        (&"batch".into(), &"/report".into())
    );
}

#[test]
fn a_job_that_is_not_there_or_has_no_name_is_told_apart() {
    let server = Scripted::start(&[]);
    for verb in ["show", "history", "log"] {
        let output = server.mezzo(&["job", verb, "no"]);
        assert_eq!(
            (output.status.code(), stderr(&output)),
            (
                Some(3),
                "mezzo: no job `no`; `mezzo job list` shows which there are\n"
            )
        );
    }
    let asked = server.asked().len();
    let output = server.mezzo(&["job", "run", "a/b"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(server.asked().len(), asked);
}
