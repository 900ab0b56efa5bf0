//! Marathon's REST API, and that of jobs.
//!
//! Edge, thin: reads render the published snapshot ([`render`], pure), writes become commands for the driver. Ids of
//! apps and pods have slashes, so what follows `/v2/apps/` and `/v2/pods/` is split by hand: a known suffix wins.

mod answer;
mod apps;
mod events;
mod filter;
mod groups;
mod info;
mod jobs;
mod plans;
mod pods;
mod queue;
pub(crate) mod render;
mod routes;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post};
use mezzo_api::model::RoleName;
use mezzo_etcd::election::Order;
use tokio::sync::mpsc;

use crate::config::NewGroups;
use crate::driver::{Handle, ORIGIN};
use crate::events::Origin;
use crate::events::hub::Hub;
use crate::forwarded;
pub(crate) use answer::{error, json_answer};

/// A hundred times what an app file has.
const MAX_BODY: usize = 4 << 20;

/// What every handler has.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) hub: Arc<Hub>,
    pub(crate) about: Arc<About>,
}

/// What does not change while the scheduler runs.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) framework_name: String,
    pub(crate) master: String,
    pub(crate) address: String,
    pub(crate) failover_timeout_s: u64,
    pub(crate) role: RoleName,
    pub(crate) new_group_enforce_role: NewGroups,
    pub(crate) started: Instant,
    /// To the election, where there is one.
    pub(crate) orders: Option<mpsc::Sender<Order>>,
}

/// A path, and what answers there.
type Mount = (&'static str, fn() -> MethodRouter<Context>);

/// Where requests go, by the paths that tell handlers apart. What each route takes and answers says [`routes`].
const MOUNTS: &[Mount] = &[
    ("/ping", || get(info::ping)),
    ("/healthz", || get(info::healthz)),
    ("/metrics", || get(info::metrics)),
    ("/metrics/prometheus", || get(info::metrics)),
    ("/openapi.json", || get(routes::openapi)),
    ("/v2/info", || get(info::info)),
    ("/v2/leader", || get(info::leader).delete(info::abdicate)),
    ("/v2/apps", all_apps),
    ("/v2/apps/", all_apps),
    ("/v2/apps/{*path}", || {
        get(apps::get_below)
            .put(apps::put)
            .patch(apps::patch)
            .post(apps::post_below)
            .delete(apps::delete_below)
    }),
    ("/v2/groups", all_groups),
    ("/v2/groups/", all_groups),
    ("/v2/groups/{*path}", || {
        get(groups::get)
            .post(groups::create_at)
            .put(groups::put)
            .patch(groups::patch)
            .delete(groups::delete)
    }),
    ("/v2/deployments", || get(plans::deployments)),
    ("/v2/deployments/{id}", || {
        get(plans::deployment).delete(plans::cancel)
    }),
    ("/v2/deployments/{id}/promote", || post(plans::promote)),
    ("/v2/queue", || get(queue::queue)),
    ("/v2/queue/{*path}", || delete(queue::reset_delay)),
    ("/v2/tasks", || get(tasks::list)),
    ("/v2/tasks/delete", || post(tasks::delete_many)),
    ("/v2/events", || get(events::stream)),
    ("/v2/pods", all_pods),
    ("/v2/pods/", all_pods),
    ("/v2/pods::status", || get(pods::all_status)),
    ("/v2/pods/{*path}", || {
        get(pods::get_below)
            .put(pods::put)
            .delete(pods::delete_below)
    }),
    ("/v2/plugins", || get(info::plugins)),
];

fn all_apps() -> MethodRouter<Context> {
    get(apps::list)
        .post(apps::create)
        .put(apps::put_all)
        .patch(apps::patch_all)
}

fn all_pods() -> MethodRouter<Context> {
    get(pods::list).post(pods::create)
}

fn all_groups() -> MethodRouter<Context> {
    get(groups::root)
        .post(groups::create)
        .put(groups::put_root)
        .patch(groups::patch_root)
        .delete(groups::delete_root)
}

/// All routes.
pub(crate) fn router(context: Context) -> Router {
    let router = Router::new();
    MOUNTS
        .iter()
        .fold(router, |router, (path, to)| router.route(path, to()))
        .merge(jobs::router())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(context.clone(), around))
        .with_state(context)
}

/// Around each request: who it is from, for the events that it leads to; and the headers that all answers have.
async fn around(
    State(context): State<Context>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let uri = request.uri().path().to_owned();
    let client = forwarded::client(request.headers(), peer.ip());
    let answer = next.run(request);
    let mut response = if uri.starts_with("/v2/apps") || uri.starts_with("/v2/pods") {
        ORIGIN.scope(Origin { client, uri }, answer).await
    } else {
        answer.await
    };
    let headers = response.headers_mut();
    let leader = format!("http://{}", context.about.address);
    if let Ok(leader) = HeaderValue::from_str(&leader) {
        headers.insert(HeaderName::from_static("x-marathon-leader"), leader);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static(
            "no-cache, no-store, must-revalidate",
        ));
    response
}

async fn unknown_route(uri: axum::http::Uri) -> Response {
    error(
        axum::http::StatusCode::NOT_FOUND,
        &format!("there is nothing at {}", uri.path()),
    )
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    error(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        &format!("{method} is not possible on {}", uri.path()),
    )
}
