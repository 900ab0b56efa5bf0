//! One health check: HTTP, HTTPS, TCP and gRPC from within the task's own network, a command inside the container. In
//! this process, without a fork. The caller sets the deadline. Nothing that the task answers is kept beyond a few KiB.

mod grpc;
mod http;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use mezzo_api::model::{
    CheckKind, HealthCheck, ReadinessCheck, ReadinessProtocol, ReadinessResponse,
};
use tokio::net::TcpStream;

use crate::node::{ContainerId, ExecSpec, Runtime};

/// Asks once.
pub(crate) async fn probe(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &HealthCheck,
) -> Result<(), String> {
    let address = loopback(check);
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
        CheckKind::Command => command(runtime, container, &check.command).await,
    }
}

/// Asks once whether a task is ready; gives its answer whatever that means.
pub(crate) async fn readiness(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &ReadinessCheck,
) -> Result<ReadinessResponse, String> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), check.port);
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

/// Where the task's own processes reach it, whatever else it has for addresses: as Mesos did it.
fn loopback(check: &HealthCheck) -> SocketAddr {
    let ip = if check.ipv6 {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    } else {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    };
    SocketAddr::new(ip, check.port)
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
    use std::time::Duration;

    use tokio::net::TcpListener;

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
        check.ipv6 = true;
        assert!(loopback(&check).is_ipv6());
    }
}
