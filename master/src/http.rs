//! Plain HTTP beside gRPC, on the same port: `/metrics` and `/healthz`.

use std::{
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tonic::Status;

use crate::{actor::Context, config::to_millis, metrics};

/// The event loop publishes several times a second; a snapshot older than that means that it hangs.
const OLDEST_HEALTHY: Duration = Duration::from_secs(5);

pub(crate) fn router(context: Context, registry: Registry) -> Router {
    let registry = Arc::new(registry);
    Router::new()
        .route("/metrics", get(move || ready(render(&registry))))
        .route("/healthz", get(move || ready(health(&context))))
}

/// A path that nobody serves, in the caller's own language.
pub(crate) fn unknown(request: Request) -> Ready<Response> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    ready(
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            let status =
                Status::unimplemented(format!("{} is not served here", request.uri().path()));
            status.into_http::<Body>().into_response()
        } else {
            (
                StatusCode::NOT_FOUND,
                "the master serves /metrics, /healthz and gRPC here\n",
            )
                .into_response()
        },
    )
}

pub(crate) fn render(registry: &Registry) -> Response {
    match metrics::render(registry) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn health(context: &Context) -> Response {
    let age = context.now_ms().saturating_sub(context.snapshot().at_ms);
    if age > to_millis(OLDEST_HEALTHY) {
        let text = format!("the event loop has not turned for {age} ms\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    (
        StatusCode::OK,
        format!("ok: leads in term {}\n", context.term),
    )
        .into_response()
}
