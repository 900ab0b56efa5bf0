//! One question to a task: HTTP, HTTPS, TCP and gRPC from within the task's own network, a command inside the container. In
//! this process, without a fork. The caller sets the deadline. Nothing that the task answers is kept beyond a few KiB.

mod grpc;
mod http;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use mezzo_api::model::{
    Check, CheckAction, CheckKind, CheckResult, HealthCheck, ReadinessCheck, ReadinessProtocol,
    ReadinessResponse,
};
use tokio::net::TcpStream;

use crate::node::{ContainerId, ExecSpec, Runtime};

/// Asks once.
pub(crate) async fn probe(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &HealthCheck,
) -> Result<(), String> {
    let address = loopback(check.port, check.ipv6);
    match check.kind {
        CheckKind::Tcp => connect(runtime, container, address).await.map(drop),
        CheckKind::Http => {
            let stream = connect(runtime, container, address).await?;
            http::ask(stream, address, &check.path).await
        }
        CheckKind::Https => {
            let stream = connect(runtime, container, address).await?;
            let stream = tls::wrap(stream, address).await?;
            http::ask(stream, address, &check.path).await
        }
        CheckKind::Grpc => {
            let stream = connect(runtime, container, address).await?;
            grpc::ask(stream, address, &check.path).await
        }
        CheckKind::Command => match exit_code(runtime, container, &check.command).await? {
            0 => Ok(()),
            code => Err(format!("the command exited with code {code}")),
        },
    }
}

/// Asks once whether a task is ready; gives its answer whatever that means.
pub(crate) async fn readiness(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &ReadinessCheck,
) -> Result<ReadinessResponse, String> {
    let address = loopback(check.port, false);
    let body = check.preserve_last_response;
    let stream = connect(runtime, container, address).await?;
    match check.protocol {
        ReadinessProtocol::Http => http::get(stream, address, &check.path, body).await,
        ReadinessProtocol::Https => {
            let stream = tls::wrap(stream, address).await?;
            http::get(stream, address, &check.path, body).await
        }
    }
}

/// Asks once for what is to be told, whatever it is.
pub(crate) async fn check(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &Check,
) -> CheckResult {
    let found = match &check.action {
        CheckAction::Http { tls, port, path } => {
            let address = loopback(*port, check.ipv6);
            http_status(runtime, container, address, *tls, path).await
        }
        CheckAction::Tcp { port } => {
            let stream = connect(runtime, container, loopback(*port, check.ipv6)).await;
            Ok(CheckResult::Tcp(stream.is_ok()))
        }
        CheckAction::Command(command) => exit_code(runtime, container, command)
            .await
            .map(CheckResult::Command),
    };
    found.unwrap_or_else(|problem| CheckResult::nothing(&problem))
}

async fn http_status(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    address: SocketAddr,
    tls: bool,
    path: &str,
) -> Result<CheckResult, String> {
    let stream = connect(runtime, container, address).await?;
    let answer = if tls {
        let stream = tls::wrap(stream, address).await?;
        http::get(stream, address, path, false).await?
    } else {
        http::get(stream, address, path, false).await?
    };
    Ok(CheckResult::Http(answer.status))
}

/// Where the task's own processes reach it, whatever else it has for addresses: as Mesos did it.
fn loopback(port: u16, ipv6: bool) -> SocketAddr {
    let ip = if ipv6 {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    SocketAddr::new(ip, port)
}

async fn connect(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    address: SocketAddr,
) -> Result<TcpStream, String> {
    runtime
        .connect(container, address)
        .await
        .map_err(|error| format!("cannot connect to port {}: {error}", address.port()))
}

async fn exit_code(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    command: &[String],
) -> Result<i32, String> {
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
    code.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::node::fake::FakeRuntime;

    #[tokio::test]
    async fn tcp_checks_tell_what_listens_and_what_does_not() {
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new("/nowhere".into()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut check = HealthCheck {
            kind: CheckKind::Tcp,
            path: String::new(),
            port: listener.local_addr().unwrap().port(),
            command: Vec::new(),
            grace_period: Duration::ZERO,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            max_consecutive_failures: 1,
            delay: Duration::ZERO,
            ipv6: false,
        };
        let container = ContainerId::derive("t", 1);
        assert_eq!(probe(&runtime, &container, &check).await, Ok(()));
        drop(listener);
        for kind in [
            CheckKind::Tcp,
            CheckKind::Http,
            CheckKind::Https,
            CheckKind::Grpc,
        ] {
            check.kind = kind;
            let problem = probe(&runtime, &container, &check).await.unwrap_err();
            assert!(problem.contains("cannot connect"), "{problem}");
        }
        assert!(loopback(80, true).is_ipv6());
    }

    #[tokio::test]
    async fn a_check_tells_what_it_found_and_why_nothing() {
        let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new("/nowhere".into()));
        let container = ContainerId::derive("t", 1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 512];
                if stream.read(&mut request).await.unwrap() > 0 {
                    stream.write_all(b"HTTP/1.1 503 No\r\n\r\n").await.unwrap();
                }
            }
        });
        let asks = async |action| {
            let asked = Check {
                action,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                delay: Duration::ZERO,
                ipv6: false,
            };
            check(&runtime, &container, &asked).await
        };
        let http = |tls| CheckAction::Http {
            tls,
            port,
            path: "/".into(),
        };
        assert_eq!(asks(http(false)).await, CheckResult::Http(503));
        let tcp = || CheckAction::Tcp { port };
        assert_eq!(asks(tcp()).await, CheckResult::Tcp(true));
        server.abort();
        let _ = server.await;
        assert_eq!(asks(tcp()).await, CheckResult::Tcp(false));
        for tls in [false, true] {
            let CheckResult::Nothing(problem) = asks(http(tls)).await else {
                panic!("nobody answers any more");
            };
            assert!(problem.contains("cannot connect"), "{problem}");
        }
    }
}
