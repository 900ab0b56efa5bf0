//! Checks of real containers: what passes, what fails, and the end of what goes on to fail its health checks; what general
//! checks find.

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskDropped, TaskFailed, TaskGone, TaskRunning},
    check_result::Found,
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

/// Asks five times a second.
fn check(kind: proto::CheckKind) -> proto::Check {
    proto::Check {
        kind: kind.into(),
        interval_ms: 200,
        timeout_ms: 5_000,
        ..proto::Check::default()
    }
}

/// What the task's check found, each time that this was told.
fn found(bench: &Bench, id: &str) -> Vec<Option<Found>> {
    let statuses = bench.master.statuses().into_iter();
    let mut seen = Vec::new();
    for status in statuses.filter(|status| status.task_id == id) {
        let said = status.reason() == Reason::TaskCheckStatusUpdated;
        // One that is not acknowledged in time is sent again.
        if said && !seen.iter().any(|(update, _)| *update == status.update_id) {
            let result = status.check_result.expect("it says what");
            seen.push((status.update_id, result.found));
        }
    }
    seen.into_iter().map(|(_, found)| found).collect()
}

pub(crate) async fn what_checks_find_is_told_and_kills_nothing(bench: &mut Bench) {
    bench.start(1).await;
    let (web, later, nobody) = (free_port(), free_port(), free_port());
    let http = |port: u16| proto::Check {
        path: "/state".into(),
        port: port.into(),
        ..check(proto::CheckKind::Http)
    };
    let tcp = proto::Check {
        port: later.into(),
        ..check(proto::CheckKind::Tcp)
    };
    let command = proto::Check {
        command: vec!["/bin/probe".into(), "exit".into(), "3".into()],
        ..check(proto::CheckKind::Command)
    };
    for (check, info) in [
        (http(web), task("web", &["serve", &web.to_string()])),
        (http(nobody), task("silent", &["sleep"])),
        (tcp, task("port", &["sleep"])),
        (command, task("command", &["sleep"])),
    ] {
        let check = Some(check);
        bench.launch(proto::TaskInfo { check, ..info }).await;
    }
    let wanted = |port: &[bool]| {
        let connected = port.iter().map(|taken| Some(Found::TcpSucceeded(*taken)));
        [
            ("web", vec![Some(Found::HttpStatus(200))]),
            ("silent", vec![None]),
            ("port", connected.collect()),
            ("command", vec![Some(Found::ExitCode(3))]),
        ]
    };
    let is_told = |bench: &Bench, port: &[bool]| {
        let all = wanted(port).into_iter();
        all.into_iter().all(|(id, wanted)| {
            let told = found(bench, id);
            // The server may have been asked before it listened.
            let is_early = id == "web" && told.first() == Some(&None);
            told[usize::from(is_early)..] == wanted
        })
    };
    eventually("all have found something", || is_told(bench, &[false])).await;
    let server = task("later", &["serve", &later.to_string()]);
    bench.launch(server).await;
    eventually("the port is open", || is_told(bench, &[false, true])).await;

    // The next agent knows what was found, asks on, and tells only what is new.
    bench.kill_agent().await;
    bench.start(2).await;
    let registered = bench.master.last_registration().tasks;
    assert_eq!(registered.len(), 5);
    for task in registered {
        let id = task.info.as_ref().unwrap().task_id.clone();
        let status = task.status.unwrap();
        assert_eq!(status.state(), TaskRunning, "{id}");
        assert_eq!(status.healthy, None, "{id}");
        let last = wanted(&[true]).into_iter().find(|(of, _)| *of == id);
        let known = status.check_result.map(|result| vec![result.found]);
        assert_eq!(known, last.map(|(_, found)| found), "{id}");
    }
    bench.kill_task("later", None).await;
    eventually("the port is closed", || {
        is_told(bench, &[false, true, false])
    })
    .await;
}
