//! The edge: every request passes here before any front sees it. What is refused is answered in the caller's own language.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tonic::{Status, transport::server::TcpConnectInfo};

use super::{Denied, Principal, action::of_path};
use crate::actor::Context;

/// Who it is goes with the request, as a [`Principal`] among its extensions.
pub(crate) async fn check(
    State(context): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    match decide(&context, &request) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(denied) => {
            context.metrics.denied(&denied);
            tracing::debug!(path = request.uri().path(), %denied, "a call is refused");
            refuse(&request, denied)
        }
    }
}

fn decide(context: &Context, request: &Request) -> Result<Principal, Denied> {
    let guard = &context.guard;
    let Some(action) = of_path(request.uri().path()) else {
        return Ok(Principal::Anonymous);
    };
    let peer = request.extensions().get::<TcpConnectInfo>();
    let peer = peer.and_then(TcpConnectInfo::remote_addr);
    let authorization = match request.headers().get(header::AUTHORIZATION) {
        Some(value) => Some(value.to_str().map_err(|_| Denied::Malformed)?),
        None => None,
    };
    let principal = guard.authenticate(authorization, peer.map(|peer| peer.ip()))?;
    guard.authorize(&principal, action, None)?;
    guard.admit(&principal, context.now_ms())?;
    Ok(principal)
}

fn refuse(request: &Request, denied: Denied) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Status::from(denied).into_http::<Body>().into_response();
    }
    let text = format!("{denied}\n");
    match denied {
        Denied::NotLocal | Denied::NotAllowed { .. } => {
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Denied::Needed | Denied::Malformed | Denied::Wrong => {
            let scheme = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, scheme, text).into_response()
        }
        Denied::TooOften { retry, .. } => {
            let seconds = retry.as_secs().max(1).to_string();
            let after = [(header::RETRY_AFTER, seconds)];
            (StatusCode::TOO_MANY_REQUESTS, after, text).into_response()
        }
    }
}
