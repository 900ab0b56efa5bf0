//! An update of a server app under a load of requests, on real containers: nobody notices.

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Stage, on_stage};
use mezzo_integration::cluster::PATIENCE;
use mezzo_integration::http::Rest;
use mezzo_integration::wait;
use serde_json::{Value, json};

const INSTANCES: u32 = 3;
/// Who sends requests.
const CLIENTS: usize = 3;
/// Between two requests of one client: the servers are to be busy, not the machine.
const PAUSE: Duration = Duration::from_millis(5);
/// A server goes on for so long after it was told to stop: much longer than it takes to ask where to go and to go there.
const LINGER: Duration = Duration::from_secs(6);

fn server(stage: &Stage, version: &str) -> Value {
    let mut app = stage.app("web", INSTANCES);
    let image = stage.registry.reference(&format!("sleep:{version}"));
    app["container"]["docker"]["image"] = json!(image);
    app["args"] = json!(["--serve", "--linger-ms", LINGER.as_millis().to_string()]);
    app["portDefinitions"] = json!([{"port": 0, "name": "http"}]);
    app["healthChecks"] = json!([{
        "protocol": "MESOS_HTTP", "path": "/", "portIndex": 0,
        "gracePeriodSeconds": 60, "delaySeconds": 0, "intervalSeconds": 1, "timeoutSeconds": 10, "maxConsecutiveFailures": 10,
    }]);
    app["readinessChecks"] = json!([{
        "name": "answers", "protocol": "HTTP", "path": "/", "portName": "http",
        "intervalSeconds": 1, "timeoutSeconds": 10, "httpStatusCodesForReady": [200],
    }]);
    // One more than there are, one after the other.
    app["upgradeStrategy"] = json!({"minimumHealthCapacity": 1.0, "maximumOverCapacity": 0.34});
    app["taskKillGracePeriodSeconds"] = json!(60);
    app
}

/// Where a balancer of load would send requests now: to what runs and passes its health check.
fn addresses(rest: &Rest) -> Result<Vec<String>> {
    let app = rest.get("/v2/apps/web")?.ok()?.json;
    let tasks = app["app"]["tasks"].as_array().context("no tasks")?;
    let healthy = tasks.iter().filter(|task| {
        let checks = task["healthCheckResults"].as_array();
        task["state"] == "TASK_RUNNING"
            && checks
                .is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["alive"] == true))
    });
    Ok(healthy
        .filter_map(|task| task["ports"][0].as_u64())
        .map(|port| format!("127.0.0.1:{port}"))
        .collect())
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    n_requests: AtomicU64,
    versions: Mutex<BTreeSet<String>>,
    failed: Mutex<Vec<String>>,
}

impl Seen {
    /// Asks where to go and goes there, again and again, to one after the other.
    fn send(&self, rest: &Rest) {
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(PAUSE);
            let n = self.n_requests.fetch_add(1, Ordering::Relaxed);
            let request = || -> Result<Option<String>> {
                let asked = Instant::now();
                let addresses = addresses(rest)?;
                ensure!(!addresses.is_empty(), "nothing is healthy");
                // A client that was held up for so long by a busy machine asks again: it would go where nobody is any more.
                if asked.elapsed() > LINGER / 3 {
                    return Ok(None);
                }
                let turn = usize::try_from(n)? % addresses.len();
                let answer = Rest::new(&addresses[turn]).get("/")?.ok()?;
                Ok(Some(answer.text))
            };
            match request() {
                Ok(None) => {}
                Ok(Some(version)) => {
                    let mut versions = self.versions.lock().unwrap_or_else(|e| e.into_inner());
                    versions.insert(version.trim().to_owned());
                }
                Err(error) => {
                    let mut failed = self.failed.lock().unwrap_or_else(|e| e.into_inner());
                    failed.push(format!("request {n}: {error:#}"));
                }
            }
        }
    }
}

fn wait_for_healthy(stage: &Stage) -> Result<()> {
    wait::until("all to be healthy and nothing under way", PATIENCE, || {
        let app = stage.cluster.app("web")?;
        let under_way = app["deployments"].as_array().map_or(0, Vec::len);
        ensure!(under_way == 0, "{} under way", app["deployments"]);
        let healthy = addresses(&stage.cluster.rest())?.len();
        ensure!(healthy == INSTANCES as usize, "{healthy} healthy");
        Ok(())
    })
}

#[test]
fn a_server_is_updated_under_load_and_no_request_fails() {
    on_stage("rolling", |stage| {
        stage.cluster.deploy(&server(stage, "1"))?;
        wait_for_healthy(stage)?;
        let (seen, scheduler) = (Seen::default(), stage.cluster.scheduler().to_owned());
        let (before, after) = thread::scope(|scope| -> Result<_> {
            for _ in 0..CLIENTS {
                scope.spawn(|| seen.send(&Rest::new(&scheduler)));
            }
            let rolled = (|| -> Result<_> {
                wait::until("requests", PATIENCE, || {
                    ensure!(seen.n_requests.load(Ordering::Relaxed) > 50, "not yet");
                    Ok(())
                })?;
                let before = seen.n_requests.load(Ordering::Relaxed);
                stage.cluster.update("web", &server(stage, "2"))?;
                wait_for_healthy(stage)?;
                Ok((before, seen.n_requests.load(Ordering::Relaxed)))
            })();
            seen.stop.store(true, Ordering::Relaxed);
            rolled
        })?;
        let failed = seen.failed.lock().unwrap_or_else(|e| e.into_inner());
        let versions = seen.versions.lock().unwrap_or_else(|e| e.into_inner());
        println!(
            "{} requests during the update, {} failed",
            after - before,
            failed.len()
        );
        ensure!(failed.is_empty(), "{failed:#?}");
        ensure!(after > before, "no request during the update");
        let both: BTreeSet<String> = ["1", "2"].map(str::to_owned).into();
        ensure!(*versions == both, "answers of {versions:?}");
        stage.cluster.remove("web")
    });
}
