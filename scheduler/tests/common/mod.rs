//! A scripted master with one machine, a scheduler on a temporary state directory, and a small HTTP client.
//!
//! The script is in the image's name: `fail:1` ends with TASK_FAILED at once, `stuck:1` never leaves TASK_STARTING,
//! `sick:1` runs and is unhealthy, everything else runs.

pub(crate) mod client;
pub(crate) mod master;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use mezzo_scheduler::Config;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A scheduler that runs until it is dropped or stopped.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), mezzo_scheduler::Error>>,
}

impl Scheduler {
    pub(crate) async fn start(state_dir: &Path, master: SocketAddr) -> Self {
        Self::start_with(state_dir, &master.to_string()).await
    }

    /// With a list of masters.
    pub(crate) async fn start_with(state_dir: &Path, masters: &str) -> Self {
        let _ = std::fs::remove_file(state_dir.join("address"));
        let config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            master: masters.to_owned(),
            state_dir: state_dir.to_owned(),
            ..Config::default()
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(mezzo_scheduler::run(config, stop.clone()));
        let path = state_dir.join("address");
        let started = Instant::now();
        let address = loop {
            if let Ok(text) = std::fs::read_to_string(&path) {
                break text.trim().parse().expect("host:port");
            }
            assert!(
                started.elapsed() < PATIENCE && !task.is_finished(),
                "the scheduler does not start"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Self {
            address,
            stop,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("stops in time")
            .expect("does not panic")
            .expect("ends without an error");
    }

    /// As `kill -9` does: nothing is put in order. The state file is free when this returns.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = client::request(self.address, "GET", path, None).await;
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text);
        answer.json()
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> client::Answer {
        client::request(
            self.address,
            method,
            path,
            body.map(|body| body.to_string()),
        )
        .await
    }

    /// Polls `path` until `holds` says so of its JSON.
    pub(crate) async fn wait(
        &self,
        path: &str,
        what: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let started = Instant::now();
        loop {
            let answer = client::request(self.address, "GET", path, None).await;
            let value = answer.json();
            if holds(&value) {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "{what} never came: {value:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Until so many tasks of an app run and nothing is under way.
    pub(crate) async fn settled(&self, id: &str, running: u64) -> Value {
        self.wait(
            &format!("/v2/apps{id}"),
            &format!("{running} running of {id}"),
            |value| {
                let app = &value["app"];
                app["tasksRunning"] == running
                    && app["deployments"].as_array().is_some_and(Vec::is_empty)
                    && app["tasks"]
                        .as_array()
                        .is_some_and(|tasks| tasks.len() as u64 == running)
            },
        )
        .await
    }
}
