//! What a master says that does not lead: who does.
//!
//! gRPC calls get UNAVAILABLE, with the leader's address and term as metadata, so that a client goes on to it without
//! reading the sentence. `/healthz` and `/metrics` speak of this process. Nothing else is served.

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use mezzo_api::masters;
use mezzo_etcd::election::Leader;
use tonic::Status;

use crate::{http, metrics::Metrics};

pub(crate) fn answer(request: &Request, leader: Option<&Leader>, metrics: &Metrics) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return status(leader).into_http::<Body>().into_response();
    }
    match request.uri().path() {
        "/healthz" => match leader {
            Some(leader) => {
                let text = format!(
                    "standby: {} leads in term {}\n",
                    leader.address, leader.term
                );
                (StatusCode::OK, text).into_response()
            }
            None => (StatusCode::SERVICE_UNAVAILABLE, "standby: nobody leads\n").into_response(),
        },
        "/metrics" => http::render(&metrics.registry_of_standby()),
        _ => {
            let text = "this master stands by and serves only /metrics and /healthz\n";
            (StatusCode::NOT_FOUND, text).into_response()
        }
    }
}

fn status(leader: Option<&Leader>) -> Status {
    let Some(leader) = leader else {
        return Status::unavailable(
            "this master does not lead, and nobody else does now; try again",
        );
    };
    let mut status = Status::unavailable(format!(
        "this master does not lead; {} does",
        leader.address
    ));
    masters::name_leader(status.metadata_mut(), &leader.address, leader.term);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader() -> Leader {
        Leader {
            id: "x".into(),
            address: "10.0.0.1:5050".into(),
            term: 7,
        }
    }

    #[test]
    fn a_call_is_sent_on_to_the_leader() {
        let told = status(Some(&leader()));
        assert_eq!(
            masters::leader_named(&told).as_deref(),
            Some("10.0.0.1:5050")
        );
        assert!(told.message().contains("10.0.0.1:5050"), "{told}");
        assert_eq!(masters::leader_named(&status(None)), None);
    }

    #[test]
    fn health_says_whether_anybody_leads() {
        let metrics = Metrics::new();
        let code = |leader: Option<&Leader>| {
            let request = Request::get("/healthz").body(Body::empty()).unwrap();
            answer(&request, leader, &metrics).status()
        };
        assert_eq!(code(Some(&leader())), StatusCode::OK);
        assert_eq!(code(None), StatusCode::SERVICE_UNAVAILABLE);
    }
}
