//! Performs the core's calls on one subscription.
//!
//! Edge. In order, because a Reconcile must not overtake the Accept of a task it asks about; only acknowledgements, which
//! do not depend on each other, go side by side. Every call has a deadline. Any failure that is not about the call's own
//! content ends the subscription: the next one reconciles.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use mezzo_api::model::{AgentId, PoolChange, Resources, RoleName, TaskId};
use mezzo_api::proto;
use mezzo_api::proto::framework_service_client::FrameworkServiceClient;
use mezzo_api::proto::operation::Operation::{
    CreateVolume, DestroyVolume, Launch, Reserve, Unreserve,
};
use mezzo_api::proto::operator_service_client::OperatorServiceClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{LinkEvent, MAX_MESSAGE};
use crate::core::state::Machine;
use crate::core::{Call, Purpose};
use crate::resident::HoldingId;

const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Acknowledgements under way at once.
const PARALLEL_ACKS: usize = 64;
/// Pages of agents asked for at most.
const MAX_PAGES: usize = 1000;

pub(super) struct Performer {
    pub(super) client: FrameworkServiceClient<Channel>,
    pub(super) channel: Channel,
    pub(super) caller: proto::Caller,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) resident_role: RoleName,
}

impl Performer {
    /// Until the driver hangs up or a call fails; says what failed.
    pub(super) async fn run(self, mut batches: mpsc::Receiver<Vec<Call>>) -> String {
        while let Some(batch) = batches.recv().await {
            let (acks, others): (Vec<Call>, Vec<Call>) = batch
                .into_iter()
                .partition(|call| matches!(call, Call::Acknowledge { .. }));
            for call in others {
                if let Err(status) = self.perform(call).await {
                    return status.to_string();
                }
            }
            let failed = futures::stream::iter(acks)
                .map(|call| self.perform(call))
                .buffer_unordered(PARALLEL_ACKS)
                .filter_map(|result| std::future::ready(result.err()))
                .next()
                .await;
            if let Some(status) = failed {
                return status.to_string();
            }
        }
        "the scheduler ends".to_owned()
    }

    async fn perform(&self, call: Call) -> Result<(), Status> {
        let caller = Some(self.caller.clone());
        let mut client = self.client.clone();
        match call {
            Call::Accept {
                offer,
                changes,
                tasks,
                refuse,
            } => {
                let ids: Vec<(TaskId, AgentId)> = tasks
                    .iter()
                    .map(|task| (task.task_id.clone(), task.agent_id.clone()))
                    .collect();
                let launch = proto::operation::Launch {
                    tasks: tasks.into_iter().map(Into::into).collect(),
                };
                let request = proto::AcceptRequest {
                    caller,
                    offer_ids: vec![offer.to_string()],
                    operations: changes
                        .into_iter()
                        .map(change)
                        .chain((!ids.is_empty()).then_some(Launch(launch)))
                        .map(|operation| proto::Operation {
                            operation: Some(operation),
                            ..proto::Operation::default()
                        })
                        .collect(),
                    filters: Some(filters(refuse)),
                };
                match within(client.accept(request)).await {
                    Err(status) if status.code() == Code::InvalidArgument => {
                        tracing::error!(%offer, error = %status, "the master refused to launch tasks");
                        let refused = LinkEvent::Refused(ids, status.message().to_owned());
                        // Without room for it the subscription ends, and the next one learns it by reconciling.
                        self.events.try_send(refused).map_err(|_| {
                            Status::resource_exhausted("the scheduler's event queue is full")
                        })
                    }
                    other => other.map(drop),
                }
            }
            Call::Decline { offers, refuse } => {
                let request = proto::DeclineRequest {
                    caller,
                    offer_ids: offers.iter().map(ToString::to_string).collect(),
                    filters: Some(filters(refuse)),
                };
                harmless("decline", within(client.decline(request)).await)
            }
            Call::Kill { task, agent } => {
                let request = proto::KillRequest {
                    caller,
                    task_id: task.to_string(),
                    agent_id: agent.map(|agent| agent.to_string()).unwrap_or_default(),
                    grace_ms: None,
                };
                harmless("kill", within(client.kill(request)).await)
            }
            Call::Acknowledge {
                task,
                agent,
                update,
            } => {
                let request = proto::AcknowledgeRequest {
                    caller,
                    agent_id: agent.to_string(),
                    task_id: task.to_string(),
                    update_id: update.to_string(),
                    ..proto::AcknowledgeRequest::default()
                };
                harmless("acknowledge", within(client.acknowledge(request)).await)
            }
            Call::Reconcile { tasks } => {
                let tasks = tasks
                    .into_iter()
                    .map(|(task, agent)| proto::reconcile_request::TaskKey {
                        task_id: task.to_string(),
                        agent_id: agent.to_string(),
                    })
                    .collect();
                within(client.reconcile(proto::ReconcileRequest { caller, tasks }))
                    .await
                    .map(drop)
            }
            Call::Revive(purpose) => {
                let request = proto::ReviveRequest {
                    caller,
                    roles: vec![self.role_for(purpose)],
                };
                within(client.revive(request)).await.map(drop)
            }
            Call::Suppress(purpose) => {
                let request = proto::SuppressRequest {
                    caller,
                    roles: vec![self.role_for(purpose)],
                };
                within(client.suppress(request)).await.map(drop)
            }
            Call::Survey => {
                self.survey().await;
                Ok(())
            }
        }
    }

    fn role_for(&self, purpose: Purpose) -> String {
        match purpose {
            Purpose::Tasks => RoleName::any().to_string(),
            Purpose::Residents => self.resident_role.to_string(),
        }
    }

    /// Nice to know only: whatever goes wrong is no reason to end the subscription.
    async fn survey(&self) {
        let mut client =
            OperatorServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut machines = BTreeMap::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = proto::ListAgentsRequest {
                page_size: 0,
                page_token: std::mem::take(&mut page_token),
            };
            let page = match within(client.list_agents(request)).await {
                Ok(page) => page.into_inner(),
                Err(error) => {
                    tracing::debug!(%error, "the master does not say what its agents have");
                    return;
                }
            };
            // One that is away for long is no place to run anything.
            let there = |agent: &proto::Agent| agent.state() != proto::AgentState::AgentUnreachable;
            for agent in page.agents.into_iter().filter(there) {
                let connected = agent.state() == proto::AgentState::AgentConnected;
                let Some(info) = agent.info else { continue };
                let held = connected.then(|| held(&info));
                let total = resources(info.resources);
                if let (Ok(id), Some(total)) = (agent.agent_id.parse(), total) {
                    let attributes = info.attributes.into_iter();
                    let machine = Machine {
                        hostname: info.hostname,
                        total,
                        attributes: attributes.filter_map(|one| one.try_into().ok()).collect(),
                        region: info.region,
                        zone: info.zone,
                        held,
                    };
                    machines.insert(id, machine);
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let _ = self.events.try_send(LinkEvent::Machines(machines));
    }
}

fn change(change: PoolChange) -> proto::operation::Operation {
    match proto::PoolChange::from(change).change {
        Some(proto::pool_change::Change::Reserve(reserve)) => Reserve(reserve),
        Some(proto::pool_change::Change::Unreserve(unreserve)) => Unreserve(unreserve),
        Some(proto::pool_change::Change::CreateVolume(create)) => CreateVolume(create),
        Some(proto::pool_change::Change::DestroyVolume(destroy)) => DestroyVolume(destroy),
        None => unreachable!("a change that is there is written as one"),
    }
}

/// What instances keep on an agent, of whichever framework: names are unique.
fn held(info: &proto::AgentInfo) -> BTreeSet<HoldingId> {
    let pools = info.reserved.iter().map(|pool| &pool.stack);
    let stacks = pools.chain(info.volumes.iter().map(|volume| &volume.stack));
    stacks
        .filter_map(|stack| HoldingId::of_labels(&stack.last()?.labels))
        .collect()
}

fn resources(list: Vec<proto::Resource>) -> Option<Resources> {
    Resources::try_from(list).ok()
}

fn filters(refuse: Duration) -> proto::Filters {
    proto::Filters {
        refuse_ms: Some(u64::try_from(refuse.as_millis()).unwrap_or(u64::MAX)),
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {CALL_TIMEOUT:?}"
        ))),
    }
}

/// A complaint about the content of such a call (an offer that is gone, a task that is unknown) changes nothing.
fn harmless<T>(what: &str, result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Ok(_) => Ok(()),
        Err(status) if matches!(status.code(), Code::InvalidArgument) => {
            tracing::warn!(call = what, error = %status, "the master refused a call");
            Ok(())
        }
        Err(status) => Err(status),
    }
}
