//! One HTTP/1.1 request over a stream, plain or encrypted, and what its status means.

mod body;

use std::{net::SocketAddr, time::Duration};

use mezzo_api::model::ReadinessResponse;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// As much of an answer as is looked at: its status, and whole heads of answers that only announce another.
const MAX_HEAD: usize = 16 * 1024;

/// Longest wait for the rest of a body once its head is there.
const BODY_WAIT: Duration = Duration::from_secs(1);

/// Asks for a path; a status of 200 to 399 is healthy.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    address: SocketAddr,
    path: &str,
) -> Result<(), String> {
    match status(&mut stream, address, path).await?.0 {
        200..=399 => Ok(()),
        other => Err(format!(
            "port {} answered with status {other}",
            address.port()
        )),
    }
}

/// Asks for a path and gives what is answered; the beginning of the body only where it is wanted.
pub(super) async fn get<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    address: SocketAddr,
    path: &str,
    with_body: bool,
) -> Result<ReadinessResponse, String> {
    let (status, mut answer) = status(&mut stream, address, path).await?;
    let mut response = ReadinessResponse {
        status,
        content_type: String::new(),
        body: String::new(),
    };
    if !with_body {
        return Ok(response);
    }
    // What comes in time is told; a body is no reason to take an answer for none.
    let reading = async {
        let mut chunk = [0_u8; 1024];
        while answer.len() < MAX_HEAD && !body::is_complete(&answer) {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(more) => answer.extend_from_slice(&chunk[..more]),
            }
        }
    };
    let _ = tokio::time::timeout(BODY_WAIT, reading).await;
    (response.content_type, response.body) = body::read(&answer, ReadinessResponse::MAX_BODY);
    Ok(response)
}

/// Sends the request and reads up to the status that counts; gives it with all that was read from there on.
async fn status<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    address: SocketAddr,
    path: &str,
) -> Result<(u16, Vec<u8>), String> {
    let port = address.port();
    let path = if path.starts_with('/') { path } else { "/" };
    if path.chars().any(|c| c.is_control() || c == ' ') {
        return Err(format!("{path:?} is no path"));
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: mezzo\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    asked
        .await
        .map_err(|error| format!("cannot ask port {port}: {error}"))?;
    let mut head = Vec::with_capacity(1024);
    loop {
        match decide(&head) {
            Answer::Status { status, at } => {
                head.drain(..at);
                return Ok((status, head));
            }
            Answer::NotHttp => return Err(format!("port {port} does not answer in HTTP")),
            Answer::Unfinished if head.len() >= MAX_HEAD => {
                return Err(format!("port {port} does not come to a status"));
            }
            Answer::Unfinished => {}
        }
        let mut chunk = [0_u8; 1024];
        let more = stream
            .read(&mut chunk)
            .await
            .map_err(|error| format!("no answer from port {port}: {error}"))?;
        if more == 0 {
            return Err(format!("port {port} closes without an answer in HTTP"));
        }
        head.extend_from_slice(&chunk[..more]);
    }
}

/// What the beginning of an answer says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// With where the answer that has it begins.
    Status {
        status: u16,
        at: usize,
    },
    NotHttp,
    Unfinished,
}

/// Reads past answers that only announce another (100 to 199, but for the change of protocol, which is final). Pure.
fn decide(whole: &[u8]) -> Answer {
    const BEGINNING: &[u8] = b"HTTP/1.";
    let mut head = whole;
    loop {
        let so_far = head.len().min(BEGINNING.len());
        if head[..so_far] != BEGINNING[..so_far] {
            return Answer::NotHttp;
        }
        let Some(line) = head.get(..12) else {
            return Answer::Unfinished;
        };
        let number = std::str::from_utf8(&line[9..])
            .ok()
            .and_then(|text| text.parse().ok());
        match number {
            None => return Answer::NotHttp,
            Some(100 | 102..=199) => {
                let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                    return Answer::Unfinished;
                };
                head = &head[end + 4..];
            }
            Some(status) => {
                let at = whole.len() - head.len();
                return Answer::Status { status, at };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_has_a_status() {
        let at = |status, at| Answer::Status { status, at };
        for (head, answer) in [
            (&b"HTTP/1.1 204 No Content\r\n"[..], at(204, 0)),
            (b"HTTP/1.0 500\r\n", at(500, 0)),
            (b"SSH-2.0-OpenSSH", Answer::NotHttp),
            (b"HTTP/1.1", Answer::Unfinished),
            (b"", Answer::Unfinished),
            (b"H", Answer::Unfinished),
            (b"HX", Answer::NotHttp),
            (b"HTTP/1.1 abc", Answer::NotHttp),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", at(200, 25)),
            (
                b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP",
                Answer::Unfinished,
            ),
            (b"HTTP/1.1 103 Early\r\nLink: x\r\n", Answer::Unfinished),
            (b"HTTP/1.1 101 Switching\r\n", at(101, 0)),
        ] {
            assert_eq!(decide(head), answer, "{}", String::from_utf8_lossy(head));
        }
    }

    #[tokio::test]
    async fn a_server_is_healthy_by_its_status() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(2000);
        for (answer, problem) in [
            ("HTTP/1.1 302 Found\r\n\r\n", None),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", None),
            ("HTTP/1.1 503 No\r\n\r\n", Some("503")),
            ("HTTP/1.1 101 Switching\r\n\r\n", Some("101")),
            ("hello hello hello", Some("HTTP")),
            ("", Some("closes without an answer")),
            (endless.as_str(), Some("does not come to a status")),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            theirs.write_all(answer.as_bytes()).await.unwrap();
            let server = tokio::spawn(async move {
                let mut request = [0; 512];
                let length = theirs.read(&mut request).await.unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            });
            let asked = ask(ours, address, "/health?x=1").await;
            match problem {
                None => assert_eq!(asked, Ok(()), "{answer}"),
                Some(problem) => assert!(asked.unwrap_err().contains(problem), "{answer}"),
            }
            let request = server.await.unwrap();
            assert!(request.starts_with("GET /health?x=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"));
        }
        let (ours, _theirs) = tokio::io::duplex(64);
        assert!(
            ask(ours, address, "/a b")
                .await
                .unwrap_err()
                .contains("no path")
        );
    }

    #[tokio::test]
    async fn an_answer_is_given_with_the_beginning_of_its_body() {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100_000));
        for (answer, with_body, status, body) in [
            (
                "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nwaitmore",
                true,
                503,
                "wait",
            ),
            ("HTTP/1.1 503 No\r\n\r\nwait", false, 503, ""),
            (
                "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n\r\nup",
                true,
                200,
                "up",
            ),
            (
                long.as_str(),
                true,
                200,
                &long[19..19 + ReadinessResponse::MAX_BODY],
            ),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(256 * 1024);
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            let got = get(ours, address, "/", with_body).await.unwrap();
            assert_eq!(
                (got.status, got.body.as_str()),
                (status, body),
                "{answer:.60}"
            );
        }
    }
}
