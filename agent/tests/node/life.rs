//! What comes and goes with a task's life: readiness, and the end of its machine's service.

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskDropped, TaskKilled, TaskKilling, TaskRunning},
    master_message::{Activate, Drain, Message as FromMaster},
};

use crate::bench::{Bench, Parts, alive, eventually, free_port, said, task};

/// The words with which an agent does not start.
async fn refused_start(bench: &Bench) -> String {
    let shutdown = tokio_util::sync::CancellationToken::new();
    let ran = mezzo_agent::run(bench.config.clone(), shutdown).await;
    ran.expect_err("it does not start").to_string()
}

fn readiness(port: u32, ready_statuses: Vec<u32>) -> Option<proto::ReadinessCheck> {
    Some(proto::ReadinessCheck {
        name: "up".into(),
        kind: proto::CheckKind::Http.into(),
        path: "/ready".into(),
        port,
        interval_ms: 200,
        timeout_ms: 5_000,
        ready_statuses,
        preserve_last_response: true,
    })
}

pub(crate) async fn readiness_is_asked_until_it_passes(bench: &mut Bench) {
    bench.start(1).await;
    let (ready, never) = (free_port(), free_port());
    for (id, port, statuses) in [("ready", ready, vec![]), ("never", never, vec![204])] {
        let info = proto::TaskInfo {
            readiness_check: readiness(port.into(), statuses),
            ..task(id, &["serve", &port.to_string()])
        };
        bench.launch(info).await;
    }
    let told = |bench: &Bench, id: &str, ready: bool| {
        bench.master.statuses().into_iter().find(|status| {
            let result = status.readiness.as_ref();
            status.task_id == id
                && result.is_some_and(|r| r.ready == ready && r.last_response.is_some())
        })
    };
    eventually("both have answered", || {
        told(bench, "ready", true).is_some() && told(bench, "never", false).is_some()
    })
    .await;
    let status = told(bench, "ready", true).unwrap();
    assert_eq!(
        (status.state(), status.reason()),
        (TaskRunning, Reason::TaskCheckStatusUpdated)
    );
    let answer = status.readiness.unwrap().last_response.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert!(told(bench, "never", true).is_none(), "200 is not 204");

    // The next agent knows what is ready, and asks the other on.
    bench.kill_agent().await;
    bench.start(2).await;
    let tasks = bench.master.last_registration().tasks;
    for (id, ready) in [("ready", true), ("never", false)] {
        let task = tasks
            .iter()
            .find(|task| task.info.as_ref().unwrap().task_id == id)
            .unwrap();
        let status = task.status.as_ref().unwrap();
        assert_eq!(status.readiness.as_ref().unwrap().ready, ready, "{id}");
    }
}

pub(crate) async fn a_drain_ends_all_tasks_and_takes_none(bench: &mut Bench) {
    bench.start(1).await;
    for id in ["a", "b"] {
        let info = proto::TaskInfo {
            kill_grace_ms: Some(600_000),
            ..task(id, &["stubborn"])
        };
        bench.launch(info).await;
        bench.master.status(id, TaskRunning).await;
    }
    let drain = |max_grace_ms| FromMaster::Drain(Drain { max_grace_ms });
    bench.master.send(drain(Some(300_000))).await;
    for id in ["a", "b"] {
        let status = bench.master.status(id, TaskKilling).await;
        assert_eq!(status.reason(), Reason::AgentDraining, "{}", status.message);
    }
    bench.launch(task("late", &["sleep"])).await;
    let end = bench.master.status("late", TaskDropped).await;
    assert_eq!(end.reason(), Reason::AgentDraining, "{}", end.message);

    // The agent dies in between: the master says it again, with what is left of the deadline.
    bench.kill_agent().await;
    bench.start(2).await;
    bench.master.send(drain(Some(0))).await;
    for id in ["a", "b"] {
        let end = bench.master.status(id, TaskKilled).await;
        assert_eq!(end.reason(), Reason::AgentDraining, "{}", end.message);
    }
    bench.master.send(FromMaster::Activate(Activate {})).await;
    bench.launch(task("again", &["sleep"])).await;
    bench.master.status("again", TaskRunning).await;
}

pub(crate) async fn records_of_another_version_and_too_little_to_offer_are_told_before_anything_is_touched(
    bench: &mut Bench,
) {
    bench.start(1).await;
    bench.launch(task("t", &["sleep"])).await;
    let status = bench.master.status("t", TaskRunning).await;
    let container = status.container.unwrap();
    bench.stop_agent().await;
    let record = bench
        .container_dir(&container.container_id)
        .join("task.json");
    let written = std::fs::read_to_string(&record).unwrap();
    let versioned =
        |version: u32| written.replace("\"version\":4", &format!("\"version\":{version}"));
    assert_ne!(versioned(9), written, "it has version 4");

    // Of a newer agent.
    std::fs::write(&record, versioned(9)).unwrap();
    let said = refused_start(bench).await;
    assert!(said.contains("task.json has version 9"), "{said}");
    assert_eq!(std::fs::read_to_string(&record).unwrap(), versioned(9));
    assert!(alive(container.pid), "the task runs on");

    // Less than what runs.
    std::fs::write(&record, versioned(1)).unwrap();
    let resources = bench
        .config
        .resources
        .replace("cpus:0.05;mem:2048".parse().unwrap());
    let said = refused_start(bench).await;
    assert!(
        said.contains("1 task(s) that run here hold cpus:"),
        "{said}"
    );
    assert!(alive(container.pid), "the task runs on");

    // An older record is read, written anew, and its task adopted.
    bench.config.resources = resources;
    bench.start(2).await;
    assert_eq!(std::fs::read_to_string(&record).unwrap(), written);
    assert!(alive(container.pid));
    let tasks = bench.master.last_registration().tasks;
    assert_eq!(tasks.len(), 1);
}

/// `STOPSIGNAL`: the program ends well by that signal, and is killed if it is asked by any other.
pub(crate) async fn a_kill_begins_with_the_signal_of_the_image(bench: &mut Bench) {
    let parts = Parts {
        stop_signal: Some("SIGUSR1"),
        ..Parts::default()
    };
    bench.import("polite:1", &["/bin/probe"], parts).await;
    bench.start(1).await;
    let mut containers = Vec::new();
    for (id, image) in [
        ("now", "polite:1"),
        ("later", "polite:1"),
        ("other", "probe:1"),
    ] {
        let mut info = task(id, &["until"]);
        info.container.as_mut().unwrap().image = image.into();
        bench.launch(info).await;
        let running = bench.master.status(id, TaskRunning).await;
        let container = running.container.unwrap();
        // Before it is ready it does not hear, being the first process of its namespace.
        eventually("ready", || {
            said(bench, &container, "stdout").contains("ready")
        })
        .await;
        containers.push(container);
    }
    // A grace that no machine is too slow for: who ends did so by the signal.
    bench.kill_task("now", Some(3_600_000)).await;
    // The next agent knows it from what is on the disk.
    let ended = |end: proto::TaskStatus| (end.state(), end.exit.and_then(|exit| exit.how));
    let well = (TaskKilled, Some(proto::exit_info::How::Code(0)));
    assert_eq!(ended(bench.master.end("now").await), well);
    bench.kill_agent().await;
    bench.start(2).await;
    bench.kill_task("later", Some(3_600_000)).await;
    assert_eq!(ended(bench.master.end("later").await), well);
    // SIGTERM means nothing to this program.
    bench.kill_task("other", Some(3_600_000)).await;
    let killed = (TaskKilled, Some(proto::exit_info::How::Signal(9)));
    assert_eq!(ended(bench.master.end("other").await), killed);
    assert!(containers.iter().all(|container| !alive(container.pid)));
}

pub(crate) async fn the_agent_can_leave_with_its_tasks(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("one", &["sleep"])).await;
    let first = bench
        .master
        .status("one", TaskRunning)
        .await
        .container
        .unwrap();
    bench.stop_agent().await;
    assert!(alive(first.pid), "told to stop, it leaves its tasks alone");
    bench.config.kill_tasks_on_shutdown = true;
    bench.start(2).await;
    assert!(alive(first.pid));
    bench.stop_agent().await;
    assert!(!alive(first.pid), "told so, it takes them along");
    let snapshots = bench.config.state_dir.join("images/snapshots");
    let left = std::fs::read_dir(snapshots).map_or(0, |entries| entries.flatten().count());
    assert_eq!(left, 0);
}
