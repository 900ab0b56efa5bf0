//! One health check: HTTP and TCP from the agent over the host network, a command inside the container. The caller
//! sets the deadline. Nothing that the task answers is kept beyond a few bytes.

use std::{net::Ipv4Addr, sync::Arc};

use mezzo_api::model::{CheckKind, HealthCheck};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::node::{ContainerId, ExecSpec, Runtime};

/// Asks once.
pub(crate) async fn probe(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &HealthCheck,
) -> Result<(), String> {
    match check.kind {
        CheckKind::Tcp => connect(check.port).await.map(|_| ()),
        CheckKind::Http => http(check.port, &check.path).await,
        CheckKind::Https => Err("HTTPS checks are not supported".into()),
        CheckKind::Command => command(runtime, container, &check.command).await,
    }
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| format!("cannot connect to port {port}: {error}"))
}

async fn http(port: u16, path: &str) -> Result<(), String> {
    let path = if path.starts_with('/') { path } else { "/" };
    if path.chars().any(|c| c.is_control() || c == ' ') {
        return Err(format!("{path:?} is no path"));
    }
    let mut stream = connect(port).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: mezzo\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| format!("cannot ask port {port}: {error}"))?;
    let mut head = [0_u8; 64];
    let mut n = 0;
    while n < head.len() && !head[..n].contains(&b'\n') {
        let more = stream
            .read(&mut head[n..])
            .await
            .map_err(|error| format!("no answer from port {port}: {error}"))?;
        if more == 0 {
            break;
        }
        n += more;
    }
    match status(&head[..n]) {
        Some(200..=399) => Ok(()),
        Some(other) => Err(format!("port {port} answered with status {other}")),
        None => Err(format!("port {port} does not answer in HTTP")),
    }
}

/// The number in `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(head.get(..12)?).ok()?;
    if !text.starts_with("HTTP/1.") {
        return None;
    }
    text[9..12].parse().ok()
}

async fn command(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    command: &[String],
) -> Result<(), String> {
    let spec = ExecSpec {
        args: command.to_vec(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        terminal: None,
    };
    let mut session = runtime
        .exec(container, spec)
        .await
        .map_err(|error| error.to_string())?;
    drop(session.stdin.take());
    // A command that writes must not block on a full pipe; what it writes is nobody's business.
    let drain = |reader: Option<crate::node::Reader>| async move {
        if let Some(mut reader) = reader {
            let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
        }
    };
    let (stdout, stderr) = (drain(session.stdout.take()), drain(session.stderr.take()));
    let control = Arc::clone(&session.control);
    let code = tokio::select! {
        code = control.wait() => code,
        () = async { tokio::join!(stdout, stderr); std::future::pending().await } => unreachable!("pending never ends"),
    };
    match code {
        Ok(0) => Ok(()),
        Ok(code) => Err(format!("the command exited with code {code}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        for bad in [&b"SSH-2.0-OpenSSH"[..], b"HTTP/1.1", b"", b"HTTP/1.1 abc"] {
            assert_eq!(status(bad), None);
        }
    }

    #[tokio::test]
    async fn a_server_is_healthy_by_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 302 Found\r\n\r\n",
                "HTTP/1.1 503 No\r\n\r\n",
                "hello hello hello",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(http(port, "/health").await, Ok(()));
        assert!(http(port, "/health").await.unwrap_err().contains("503"));
        assert!(http(port, "/health").await.unwrap_err().contains("HTTP"));
        server.await.unwrap();
        assert!(
            http(port, "/health")
                .await
                .unwrap_err()
                .contains("cannot connect")
        );
    }
}
