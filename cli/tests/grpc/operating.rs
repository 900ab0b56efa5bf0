//! Watching, planned work and filters, as they reach the master.

use futures::stream;
use mezzo_api::proto::{self, operator_event::Event};
use tonic::Status;

use crate::Scripted;

/// What the master tells to who watches.
pub(crate) fn events() -> impl futures::Stream<Item = Result<proto::OperatorEvent, Status>> {
    let event = |token: &str, event| proto::OperatorEvent {
        resume_token: token.into(),
        at_ms: 1,
        event: Some(event),
    };
    let task = proto::TaskEvent {
        framework_id: "framework-1".into(),
        task_id: "web.\u{1b}[2J".into(),
        agent_id: "agent-1".into(),
        state: proto::TaskState::TaskFailed.into(),
        message: "exit code 7".into(),
    };
    stream::iter([
        Ok(event(
            "t0",
            Event::Started(proto::operator_event::Started::default()),
        )),
        Ok(event(
            "t1",
            Event::Heartbeat(proto::operator_event::Heartbeat {}),
        )),
        Ok(event("t2", Event::Task(task))),
        Err(Status::resource_exhausted(
            "events were not read fast enough",
        )),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_by_kind_and_from_a_token() {
    let cluster = Scripted::default().start(None).await;
    let words = [
        "master",
        "events",
        "--kind",
        "task,agent",
        "--after",
        "TOKEN",
        "-o",
        "json",
    ];
    let ran = cluster.mezzo(&words).await;
    // The end is told with its reason.
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("not read fast enough"),
        "{}",
        ran.stderr
    );
    let line: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&line["kind"], &line["token"]),
        (&"task".into(), &"t2".into())
    );
    assert_eq!(line["event"]["state"], "TASK_FAILED");
    let asked = cluster.asked();
    assert!(asked.contains("resume_token: \"TOKEN\""), "{asked}");
    let ran = cluster.mezzo(&["master", "events", "--count", "1"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("TASK_FAILED: exit code 7"),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains('\u{1b}'), "{:?}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_work_is_scheduled_by_names_and_times() {
    let cluster = Scripted::default().start(None).await;
    let words = [
        "node",
        "maintenance",
        "schedule",
        "kernel",
        "n1",
        "--start",
        "2030-01-31T22:00:00Z",
        "--drain",
        "30m",
        "--end",
        "2h",
    ];
    let ran = cluster.mezzo(&words).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    let starts: u64 = 1_896_127_200_000;
    for part in [
        "name: \"kernel\"".to_owned(),
        format!("starts_at_ms: {starts}"),
        format!("drains_at_ms: {}", starts + 1_800_000),
        format!("ends_at_ms: Some({})", starts + 7_200_000),
    ] {
        assert!(asked.contains(&part), "{part} in {asked}");
    }
    for words in [
        [
            "node",
            "maintenance",
            "schedule",
            "x",
            "n1",
            "--drain",
            "soon",
        ],
        [
            "node",
            "maintenance",
            "schedule",
            "x",
            "n1",
            "--drain=1m",
            "--start=then",
        ],
    ] {
        let refused = cluster.mezzo(&words).await;
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    }
    let ran = cluster.mezzo(&["node", "maintenance", "list"]).await;
    assert_eq!(ran.stdout, "no maintenance is planned\n");
    let ran = cluster
        .mezzo(&["node", "maintenance", "cancel", "kernel"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(cluster.asked().contains("CancelMaintenanceRequest"));
}
