//! A master is killed, and the next one knows everything again.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mezzo_api::proto::{self, operator_service_client::OperatorServiceClient};
use mezzo_framework::Event;
use serde_json::json;
use tokio::time::timeout;

use super::{
    LOOK, PATIENCE, Size,
    launches::Bench,
    process::{cpu_of, start_master},
};

/// What the framework hears while the master is another one.
#[derive(Debug, Default)]
struct Heard {
    resubscribed: Option<f64>,
    updates: u64,
    broken: u64,
}

impl Heard {
    fn take(&mut self, event: &Event, since: Instant) {
        match event {
            Event::Subscribed { .. } => self.resubscribed = Some(since.elapsed().as_secs_f64()),
            Event::Update(_) => self.updates += 1,
            Event::Disconnected { .. } => self.broken += 1,
            Event::Offers(_)
            | Event::Rescinded(_)
            | Event::AgentLost(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_)
            | Event::Operation(_) => {}
        }
    }
}

pub(super) async fn run(size: &Size) -> Result<()> {
    let n = size.tasks.first().copied().unwrap_or(0);
    let mut bench = Bench::start(size, n)?;
    bench.launch(n, size).await?;
    let before = bench.fleet.ask("counts")?;
    bench.master.child.kill()?;
    bench.master.child.wait()?;
    let (fleet_cpu, framework_cpu) = (bench.fleet.cpu()?, cpu_of("self")?);
    let died = Instant::now();
    (bench.master, _) = start_master(bench.address, bench.dir.path())?;
    let listens = died.elapsed().as_secs_f64();
    let mut heard = Heard::default();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", bench.address))?;
    let mut operator = OperatorServiceClient::new(endpoint.connect().await?);
    let mut agents_back = None;
    // A look at the master counts all tasks: many of them would be what is measured. The fleet knows for nothing when the
    // last of its agents is registered.
    let mut look = tokio::time::interval(LOOK);
    loop {
        ensure!(
            died.elapsed() < PATIENCE,
            "the new master does not know all"
        );
        tokio::select! {
            event = bench.framework.next() => heard.take(&event.context("the events ended")??, died),
            _ = look.tick() => {
                if bench.fleet.ask("counts")?["connected"] != size.agents {
                    continue;
                }
                let cluster = operator.get_cluster(proto::GetClusterRequest {}).await?.into_inner();
                let all_agents = usize::try_from(cluster.agents_connected)? == size.agents;
                if all_agents {
                    agents_back.get_or_insert(died.elapsed().as_secs_f64());
                }
                let running = cluster.tasks_by_state.get("TASK_RUNNING").copied().unwrap_or(0);
                if all_agents && usize::try_from(running)? == n {
                    break;
                }
            }
        }
    }
    let seconds = died.elapsed().as_secs_f64();
    let cpu = json!({
        "master": bench.master.cpu()?,
        "fleet": bench.fleet.cpu()? - fleet_cpu,
        "framework": cpu_of("self")? - framework_cpu,
    });
    // The framework comes in its own time.
    let back = timeout(PATIENCE, async {
        while heard.resubscribed.is_none() {
            let event = bench.framework.next().await;
            heard.take(&event.context("the events ended")??, died);
        }
        anyhow::Ok(())
    });
    back.await.context("the framework did not come back")??;
    let after = bench.fleet.ask("counts")?;
    ensure!(
        after["launches"] == before["launches"] && after["overcommitted"] == 0,
        "something ran twice: {before} {after}"
    );
    println!(
        "{}",
        json!({
            "case": "failover", "agents": size.agents, "tasks": n, "seconds": seconds, "listens": listens,
            "agents_back": agents_back, "resubscribed": heard.resubscribed, "broken": heard.broken,
            "updates": heard.updates, "cpu_seconds": cpu, "master_kib": bench.master.pss()?,
        })
    );
    Ok(())
}
