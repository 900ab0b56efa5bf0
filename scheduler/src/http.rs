//! Marathon's REST API, and that of jobs.
//!
//! Edge, thin: reads render the published snapshot ([`render`], pure), writes become commands for the driver. Ids of
//! apps have slashes, so what follows `/v2/apps/` is split by hand: a known suffix wins.

mod answer;
mod apps;
mod filter;
mod groups;
mod info;
mod jobs;
mod plans;
mod queue;
pub(crate) mod render;
mod tasks;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::Response;
use axum::routing::{delete, get, post};
use mezzo_etcd::election::Order;
use tokio::sync::mpsc;

use crate::driver::Handle;
pub(crate) use answer::{error, json_answer};

/// A hundred times what an app file has.
const MAX_BODY: usize = 4 << 20;

/// What every handler has.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) about: Arc<About>,
}

/// What does not change while the scheduler runs.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) framework_name: String,
    pub(crate) master: String,
    pub(crate) address: String,
    pub(crate) failover_timeout_s: u64,
    pub(crate) started: Instant,
    /// To the election, where there is one.
    pub(crate) orders: Option<mpsc::Sender<Order>>,
}

/// All routes.
pub(crate) fn router(context: Context) -> Router {
    Router::new()
        .route("/ping", get(info::ping))
        .route("/healthz", get(info::healthz))
        .route("/metrics", get(info::metrics))
        .route("/metrics/prometheus", get(info::metrics))
        .route("/v2/info", get(info::info))
        .route("/v2/leader", get(info::leader).delete(info::abdicate))
        .route(
            "/v2/apps",
            get(apps::list)
                .post(apps::create)
                .put(apps::put_all)
                .patch(apps::patch_all),
        )
        .route(
            "/v2/apps/",
            get(apps::list)
                .post(apps::create)
                .put(apps::put_all)
                .patch(apps::patch_all),
        )
        .route(
            "/v2/apps/{*path}",
            get(apps::get_below)
                .put(apps::put)
                .patch(apps::patch)
                .post(apps::post_below)
                .delete(apps::delete_below),
        )
        .route(
            "/v2/groups",
            get(groups::root)
                .post(groups::create)
                .put(groups::put_root)
                .delete(groups::delete_root),
        )
        .route(
            "/v2/groups/{*path}",
            get(groups::get)
                .post(groups::create_at)
                .put(groups::put)
                .delete(groups::delete),
        )
        .route("/v2/deployments", get(plans::deployments))
        .route(
            "/v2/deployments/{id}",
            get(plans::deployment).delete(plans::cancel),
        )
        .route("/v2/queue", get(queue::queue))
        .route("/v2/queue/{*path}", delete(queue::reset_delay))
        .route("/v2/tasks", get(tasks::list))
        .route("/v2/tasks/delete", post(tasks::delete_many))
        .merge(jobs::router())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(context)
}

async fn unknown_route(uri: axum::http::Uri) -> Response {
    let path = uri.path();
    for (prefix, what) in [
        ("/v2/pods", "pods"),
        ("/v2/events", "the event stream"),
        ("/v2/plugins", "plug-ins"),
    ] {
        if path == prefix
            || path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('/'))
        {
            return error(
                axum::http::StatusCode::NOT_IMPLEMENTED,
                &format!("{what}: not supported yet by mezzo"),
            );
        }
    }
    error(
        axum::http::StatusCode::NOT_FOUND,
        &format!("there is nothing at {path}"),
    )
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    error(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        &format!("{method} is not possible on {}", uri.path()),
    )
}
