//! A real master in this process, with simulated agents on it.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is the test's failure"
)]

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use mezzo_fleet::Fleet;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// For everything: a busy machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One with short times.
pub fn config(state_dir: &Path, listen: SocketAddr) -> mezzo_master::Config {
    mezzo_master::Config {
        listen,
        state_dir: state_dir.to_owned(),
        allocation_interval: Duration::from_millis(100),
        agent_ping_interval: Duration::from_millis(500),
        agent_ping_timeout: Duration::from_secs(30),
        agent_timeout: Duration::from_secs(60),
        framework_heartbeat_interval: Duration::from_secs(1),
        // At most: the next master needs the file of this one.
        shutdown_grace: PATIENCE,
        ..mezzo_master::Config::default()
    }
}

/// A running master.
pub struct Master {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), mezzo_master::Error>>,
}

impl Master {
    pub async fn start(state_dir: &Path, listen: SocketAddr) -> Self {
        let config = config(state_dir, listen);
        let shutdown = CancellationToken::new();
        let (ready, address) = oneshot::channel();
        let run = mezzo_master::run_and_tell(config, shutdown.clone(), Some(ready));
        let task = tokio::spawn(run);
        let Ok(address) = timeout(PATIENCE, address).await.unwrap() else {
            panic!("the master did not start: {:?}", task.await);
        };
        Self {
            address,
            shutdown,
            task,
        }
    }

    pub async fn any(state_dir: &Path) -> Self {
        Self::start(state_dir, free()).await
    }

    /// Ends it, and begins another one at the same address with the same state.
    pub async fn restart(self, state_dir: &Path) -> Self {
        let address = self.address;
        self.stop().await;
        Self::start(state_dir, address).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// An address of loopback where nobody listens, never the same one twice in this process. From below the ports that the
/// kernel gives to outgoing connections: while a master is away, one of those that look for it would be given its own.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16 % 900;
    loop {
        let port = 10_000 + start * 10 + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// So many agents, registered.
pub async fn fleet(
    master: SocketAddr,
    agents: usize,
    change: impl FnOnce(&mut mezzo_fleet::Config),
) -> Fleet {
    let mut config = mezzo_fleet::Config {
        masters: vec![master.to_string()],
        agents,
        ..mezzo_fleet::Config::default()
    };
    change(&mut config);
    let fleet = Fleet::spawn(config).unwrap();
    fleet.all_connected(PATIENCE).await.unwrap();
    fleet
}
