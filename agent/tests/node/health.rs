//! Health checks of real containers: what passes, what fails, and the end of what goes on to fail.

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskDropped, TaskFailed, TaskGone},
};

use crate::bench::{Bench, eventually, free_port, task};

/// Passes at once, and always.
fn command_check() -> proto::HealthCheck {
    proto::HealthCheck {
        kind: proto::CheckKind::Command.into(),
        command: vec!["/bin/probe".into(), "exit".into(), "0".into()],
        interval_ms: 200,
        timeout_ms: 5_000,
        max_consecutive_failures: 2,
        ..proto::HealthCheck::default()
    }
}

/// Asks a port that nobody listens on.
fn port_check() -> proto::HealthCheck {
    proto::HealthCheck {
        kind: proto::CheckKind::Tcp.into(),
        port: free_port().into(),
        command: vec![],
        ..command_check()
    }
}

pub(crate) async fn health_is_checked_by_command_and_port(bench: &mut Bench) {
    bench.start(1).await;
    bench
        .launch(proto::TaskInfo {
            health_checks: vec![command_check()],
            ..task("well", &["sleep"])
        })
        .await;
    bench
        .launch(proto::TaskInfo {
            health_checks: vec![port_check()],
            ..task("ill", &["sleep"])
        })
        .await;
    let end = bench.master.end("ill").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskFailed, Reason::HealthCheckStatusUpdated),
        "{}",
        end.message
    );
    eventually("healthy", || {
        bench
            .master
            .statuses()
            .iter()
            .any(|s| s.task_id == "well" && s.healthy == Some(true))
    })
    .await;
    assert!(
        !bench
            .master
            .statuses()
            .iter()
            .any(|s| matches!(s.state(), TaskDropped | TaskGone))
    );
}

pub(crate) async fn the_first_of_several_health_checks_that_gives_up_kills_the_task(
    bench: &mut Bench,
) {
    bench.start(1).await;
    let closed = port_check();
    let name = format!("health_checks[1] (TCP on port {}): 2 in a row", closed.port);
    bench
        .launch(proto::TaskInfo {
            health_checks: vec![command_check(), closed],
            ..task("half-well", &["sleep"])
        })
        .await;
    let end = bench.master.end("half-well").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskFailed, Reason::HealthCheckStatusUpdated),
        "{}",
        end.message
    );
    assert!(end.message.contains(&name), "{}", end.message);
    assert_eq!(end.health_results[1].healthy, Some(false));
    let statuses = bench.master.statuses();
    let mut words = statuses.iter().filter(|s| s.task_id == "half-well");
    assert!(words.all(|status| status.healthy != Some(true)));
}
