//! Who this is and how it does: `/ping`, `/healthz`, `/metrics`, `/v2/info`, `/v2/leader`.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use mezzo_etcd::election::Order;
use serde_json::json;

use super::Context;
use super::answer::{error, json_answer};
use crate::core::state::{Condition, Instance};

pub(super) async fn ping() -> Response {
    ([(header::CONTENT_TYPE, "text/plain")], "pong").into_response()
}

/// 200 as long as it serves; the body says whether the master does too.
pub(super) async fn healthz(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    json_answer(
        StatusCode::OK,
        &json!({"status": "ok", "connectedToMaster": state.connected}),
    )
}

pub(super) async fn leader(State(context): State<Context>) -> Response {
    json_answer(StatusCode::OK, &json!({"leader": context.about.address}))
}

/// Another may lead; this one may be elected again.
pub(super) async fn abdicate(State(context): State<Context>) -> Response {
    let Some(orders) = &context.about.orders else {
        return error(
            StatusCode::CONFLICT,
            "this scheduler has its state for itself: nobody can take its place",
        );
    };
    // An election that is over has given the lead back already.
    let _ = orders.send(Order::Deposed).await;
    json_answer(StatusCode::OK, &json!({"message": "Leadership abdicated"}))
}

/// There are none here: what Marathon left to plug-ins is the master's or the agents' business.
pub(super) async fn plugins() -> Response {
    json_answer(StatusCode::OK, &json!({"plugins": []}))
}

pub(super) async fn info(State(context): State<Context>) -> Response {
    let about = &context.about;
    let state = context.handle.state();
    let (host, port) = about
        .address
        .rsplit_once(':')
        .unwrap_or((&about.address, "0"));
    json_answer(
        StatusCode::OK,
        &json!({
            "name": "mezzo",
            "version": env!("CARGO_PKG_VERSION"),
            "buildref": "",
            "elected": true,
            "leader": about.address,
            "frameworkId": state.framework_id.as_ref().map(ToString::to_string),
            "connectedToMaster": state.connected,
            "marathon_config": {
                "master": about.master,
                "framework_name": about.framework_name,
                "failover_timeout": about.failover_timeout_s,
                "mesos_role": about.role.as_str(),
                "new_group_enforce_role": about.new_group_enforce_role,
                "hostname": host,
                "local_port_min": 10_000,
                "local_port_max": 20_000,
                "checkpoint": true,
                "ha": about.orders.is_some(),
                "task_launch_timeout": 300_000,
            },
            "http_config": {"http_port": port.parse::<u16>().unwrap_or(0), "https_port": null},
            "event_subscriber": null,
            "zookeeper_config": null,
        }),
    )
}

pub(super) async fn metrics(State(context): State<Context>) -> Response {
    let state = context.handle.state();
    let instances = |holds: &dyn Fn(&Instance) -> bool| -> usize {
        state
            .apps
            .values()
            .flat_map(|app| app.instances.values())
            .filter(|instance| holds(instance))
            .count()
    };
    let queued: u64 = state
        .apps
        .values()
        .filter_map(|app| Some(u64::from(app.queue.as_ref()?.count)))
        .sum();
    let counters = &state.counters;
    let running = instances(&|instance| instance.condition == Condition::Running);
    let staged = instances(&|instance| {
        matches!(
            instance.condition,
            Condition::Provisioned | Condition::Staging | Condition::Starting
        )
    });
    let unreachable =
        instances(&|instance| matches!(instance.condition, Condition::Unreachable { .. }));
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, value: u64| {
        out.push_str(&format!(
            "# HELP mezzo_scheduler_{name} {help}\n# TYPE mezzo_scheduler_{name} {kind}\nmezzo_scheduler_{name} {value}\n"
        ));
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    put(
        "apps",
        "gauge",
        "Apps.",
        count(
            state
                .visible_apps()
                .filter(|(_, app)| !app.is_pod())
                .count(),
        ),
    );
    put(
        "pods",
        "gauge",
        "Pods.",
        count(state.visible_apps().filter(|(_, app)| app.is_pod()).count()),
    );
    put(
        "deployments",
        "gauge",
        "Deployments under way.",
        count(state.deployments.len()),
    );
    put(
        "instances_running",
        "gauge",
        "Tasks that run.",
        count(running),
    );
    put(
        "instances_staged",
        "gauge",
        "Tasks launched that do not run yet.",
        count(staged),
    );
    put(
        "instances_unreachable",
        "gauge",
        "Tasks on machines that cannot be reached.",
        count(unreachable),
    );
    put(
        "instances_queued",
        "gauge",
        "Instances that wait to be launched.",
        queued,
    );
    let jobs = || state.jobs.values();
    let runs = || jobs().flat_map(|job| job.under_way());
    put("jobs", "gauge", "Jobs.", count(state.jobs.len()));
    put(
        "jobs_disabled",
        "gauge",
        "Jobs that nothing starts.",
        count(jobs().filter(|job| job.job.disabled).count()),
    );
    put(
        "job_runs_active",
        "gauge",
        "Runs of jobs that have a task.",
        count(runs().filter(|run| run.launch().is_some()).count()),
    );
    put(
        "job_runs_queued",
        "gauge",
        "Runs of jobs that wait for an offer or for their next attempt.",
        count(runs().filter(|run| run.launch().is_none()).count()),
    );
    put(
        "job_runs_succeeded_total",
        "counter",
        "Runs of the present jobs that succeeded.",
        jobs().map(|job| job.tally.successes).sum(),
    );
    put(
        "job_runs_failed_total",
        "counter",
        "Runs of the present jobs that failed after all attempts.",
        jobs().map(|job| job.tally.failures).sum(),
    );
    put("leader", "gauge", "Whether this one leads.", 1);
    put(
        "connected",
        "gauge",
        "Whether the master can be asked.",
        u64::from(state.connected),
    );
    put(
        "uptime_seconds",
        "gauge",
        "Since the start.",
        context.about.started.elapsed().as_secs(),
    );
    put(
        "tasks_launched_total",
        "counter",
        "Tasks sent to the master.",
        counters.launched,
    );
    put(
        "tasks_kill_requested_total",
        "counter",
        "Tasks told to end.",
        counters.killed,
    );
    put(
        "tasks_failed_total",
        "counter",
        "Tasks that ended without being asked to.",
        counters.failed,
    );
    put(
        "offers_total",
        "counter",
        "Offers received.",
        counters.offers,
    );
    put(
        "offers_used_total",
        "counter",
        "Offers of which something was used.",
        counters.offers_used,
    );
    put(
        "statuses_total",
        "counter",
        "Status updates received.",
        counters.statuses,
    );
    put(
        "deployments_total",
        "counter",
        "Deployments begun.",
        counters.deployments,
    );
    let events = context.hub.figures();
    put("events_total", "counter", "Events told.", events.told);
    put(
        "event_readers",
        "gauge",
        "Readers of /v2/events.",
        events.readers,
    );
    put(
        "event_readers_cut_off_total",
        "counter",
        "Readers of /v2/events that were too slow.",
        events.cut_off,
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response()
}
