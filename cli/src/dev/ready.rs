//! Whether the cluster is up: each server answers, the node is connected, the scheduler is subscribed.
//!
//! Read with the same calls that clients make, until a deadline.

use std::time::Duration;

use mezzo_api::credential::Credential;
use tokio::time::Instant;

use super::plan::{Plan, Server};
use crate::{
    client::{master::Master, node::Node, scheduler::Scheduler},
    failure::Failure,
};

const PAUSE: Duration = Duration::from_millis(50);
/// For one question.
const PATIENCE: Duration = Duration::from_secs(2);

/// Until everything is up, or the words for what is missing.
pub(crate) async fn wait(plan: &Plan, timeout: Duration) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let missing = match tokio::time::timeout(PATIENCE, look(plan)).await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(missing))) => missing,
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        if start.elapsed() >= timeout {
            return Err(missing);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is missing, if anything.
async fn look(plan: &Plan) -> Result<Option<String>, Failure> {
    let mut master = Master::connect(
        &plan.reachable(Server::Master).to_string(),
        &Credential::default(),
    )
    .await?;
    let cluster = master.cluster().await?;
    let scheduler = Scheduler::new(&format!("http://{}", plan.reachable(Server::Scheduler)))?;
    let missing = if !scheduler.ping(PATIENCE).await {
        Some("the scheduler does not answer".to_owned())
    } else if cluster.agents_connected == 0 || !agent_is_connected(plan).await? {
        Some("the agent has not registered with the master".to_owned())
    } else if cluster.frameworks_connected == 0 {
        Some("the scheduler has not subscribed at the master".to_owned())
    } else {
        None
    };
    Ok(missing)
}

/// The agent's own word: the master may still count a stream that the agent has given up.
async fn agent_is_connected(plan: &Plan) -> Result<bool, Failure> {
    let mut node = Node::connect(&plan.reachable(Server::Agent).to_string()).await?;
    Ok(node.describe().await?.connected_to_master)
}
