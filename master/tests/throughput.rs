//! How fast launches go through one master over real gRPC. A measurement, not a check: run it with
//! `cargo test --release -p mezzo-master --test throughput -- --ignored --nocapture`.
//!
//! Ten scripted agents answer every launch with TASK_RUNNING; one framework fills every offer and acknowledges.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a measurement counts what it waits for"
)]

mod common;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use common::{Agent, Framework, Master, config, task};
use mezzo_api::proto::{TaskState, event, master_message};

const AGENTS: usize = 10;
const TASKS: usize = 5000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some seconds"]
async fn launches_per_second() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agents = tokio::task::JoinSet::new();
    for n in 0..AGENTS {
        let mut agent = Agent::attach(&master, &format!("node-{n}"), "cpus:1000;mem:1000000").await;
        agents.spawn(async move {
            let mut n_updates = 0;
            while let Ok(message) = agent.next().await {
                if let master_message::Message::Launch(launch) = message {
                    n_updates += 1;
                    agent
                        .report(&launch, TaskState::TaskRunning, &format!("u{n_updates}"))
                        .await;
                }
            }
        });
    }
    let mut framework = Framework::subscribe(&master, "bench").await;
    let started = Instant::now();
    let (mut launched, mut running, mut latencies) = (0, 0, Vec::new());
    let mut sent: HashMap<String, Instant> = HashMap::new();
    while running < TASKS {
        match framework.next().await.unwrap() {
            event::Event::Offers(offers) => {
                for offer in offers.offers {
                    let n = 50.min(TASKS - launched);
                    let tasks: Vec<_> = (launched..launched + n)
                        .map(|n| task(&format!("t{n}"), &offer.agent_id, "cpus:0.1;mem:1"))
                        .collect();
                    launched += n;
                    let now = Instant::now();
                    sent.extend(tasks.iter().map(|task| (task.task_id.clone(), now)));
                    framework.accept(&[offer], tasks).await;
                }
            }
            event::Event::Update(status) => {
                running += 1;
                latencies.extend(sent.get(&status.task_id).map(Instant::elapsed));
                framework.acknowledge(&status).await;
            }
            _ => {}
        }
    }
    let took = started.elapsed();
    latencies.sort();
    let at = |percent: usize| {
        latencies
            .get(latencies.len() * percent / 100)
            .copied()
            .unwrap_or(Duration::ZERO)
    };
    println!(
        "{TASKS} launches on {AGENTS} agents to TASK_RUNNING acknowledged in {took:?}: {:.0}/s, p50 {:?}, p99 {:?}",
        TASKS as f64 / took.as_secs_f64(),
        at(50),
        at(99)
    );
    agents.shutdown().await;
    master.stop().await;
}
