//! The standard gRPC health protocol, one unary call over HTTP/2 without TLS: `grpc.health.v1.Health/Check`. Written against
//! the HTTP/2 library itself: the two messages have one field each.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Most bytes of an answer that are read; a right one has 7.
const MAX_ANSWER: usize = 1024;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Asks whether a service (or with an empty name the server) is serving.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    address: SocketAddr,
    service: &str,
) -> Result<(), String> {
    let port = address.port();
    let broken = |error: h2::Error| format!("port {port} does not answer in gRPC: {error}");
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let exchange = async {
        let mut sender = sender.ready().await.map_err(broken)?;
        let request = http::Request::post(format!("http://{address}{CHECK}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "mezzo")
            .body(())
            .map_err(|error| error.to_string())?;
        let (answer, mut body) = sender.send_request(request, false).map_err(broken)?;
        body.send_data(request_frame(service), true)
            .map_err(broken)?;
        let answer = answer.await.map_err(broken)?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!(
                "port {port} answered with status {}",
                answer.status()
            ));
        }
        let (head, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(broken)?;
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("port {port} answers too much"));
            }
            let _ = body.flow_control().release_capacity(chunk.len());
            bytes.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await.map_err(broken)?;
        // An answer without a body has its end in its head.
        let status = trailers
            .as_ref()
            .unwrap_or(&head.headers)
            .get("grpc-status");
        match status.and_then(|value| value.to_str().ok()) {
            Some("0") => {}
            Some("5") => return Err(format!("port {port} does not know the service {service:?}")),
            Some("12") => return Err(format!("port {port} has no gRPC health service")),
            Some(other) => return Err(format!("port {port} answered with gRPC status {other}")),
            None => return Err(format!("port {port} does not answer in gRPC")),
        }
        match serving_status(&bytes) {
            Some(SERVING) => Ok(()),
            Some(other) => Err(format!("port {port} is not serving (status {other})")),
            None => Err(format!("port {port} answers nonsense")),
        }
    };
    tokio::select! {
        done = exchange => done,
        ended = connection => Err(match ended {
            Ok(()) => format!("port {port} closes without an answer"),
            Err(error) => broken(error),
        }),
    }
}

/// One message with its frame: not compressed, its length, `service = 1`. Pure.
fn request_frame(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 127 {
            message.push((length & 127) as u8 | 128);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// `status = 1` of the one message in a frame; absent means 0. Pure.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, message) = frame.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || message.len() != length {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, value] if *value < 128 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_exact() {
        assert_eq!(&request_frame("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &request_frame("ab")[..],
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
        let long = request_frame(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 200, 1]);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [
            &[][..],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 1, 8],
        ] {
            assert_eq!(serving_status(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_real_health_service_is_asked() {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter
            .set_service_status("up", tonic_health::ServingStatus::Serving)
            .await;
        reporter
            .set_service_status("down", tonic_health::ServingStatus::NotServing)
            .await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = tonic::service::Routes::new(service).into_axum_router();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let check = async |service: &str| {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            ask(stream, address, service).await
        };
        assert_eq!(check("").await, Ok(()));
        assert_eq!(check("up").await, Ok(()));
        assert!(check("down").await.unwrap_err().contains("not serving"));
        assert!(check("other").await.unwrap_err().contains("does not know"));
        server.abort();
        // Somebody who speaks something else.
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"SSH-2.0-x\r\n")
            .await
            .unwrap();
        let problem = ask(ours, address, "").await.unwrap_err();
        assert!(problem.contains("does not answer in gRPC"), "{problem}");
    }
}
