//! Performs the core's calls on one subscription.
//!
//! Edge. In order, because a Reconcile must not overtake the Accept of a task it asks about; acknowledgements, on which
//! nothing else depends, go beside them and many together, calls of one kind about different things side by side. Every call
//! has a deadline. Any failure that is not about the call's own content ends the subscription: the next one reconciles.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use mezzo_api::credential::Authorized;
use mezzo_api::model::{AgentId, FrameworkInfo, PoolChange, Resources, RoleName, TaskId, TaskInfo};
use mezzo_api::proto;
use mezzo_api::proto::acknowledge_request::Update;
use mezzo_api::proto::framework_service_client::FrameworkServiceClient;
use mezzo_api::proto::operation::Operation::{
    CreateVolume, DestroyVolume, Launch, LaunchGroup, Reserve, Unreserve,
};
use mezzo_api::proto::operator_service_client::OperatorServiceClient;
use mezzo_etcd::Fence;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{LinkEvent, MAX_MESSAGE};
use crate::core::Call;
use crate::core::state::Machine;
use crate::resident::HoldingId;

const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls of one kind under way at once.
const PARALLEL_CALLS: usize = 64;
/// Acknowledgements that go together: a hundredth of the cost of as many calls.
const ACKS_PER_CALL: usize = 1000;
/// Pages of agents asked for at most.
const MAX_PAGES: usize = 1000;

pub(super) struct Performer {
    pub(super) client: FrameworkServiceClient<Authorized>,
    pub(super) channel: Authorized,
    pub(super) caller: proto::Caller,
    pub(super) events: mpsc::Sender<LinkEvent>,
    /// As it subscribed; with other roles in an update.
    pub(super) info: FrameworkInfo,
    pub(super) own_roles: BTreeSet<RoleName>,
    /// Roles that are still to be asked for, because the master did not give all at once; and those to be suppressed.
    pub(super) later: (BTreeSet<RoleName>, BTreeSet<RoleName>),
    /// Looked at right before each call.
    pub(super) fence: Fence,
}

impl Performer {
    /// Until the driver hangs up or a call fails; says what failed.
    pub(super) async fn run(self, mut batches: mpsc::Receiver<Vec<Call>>) -> String {
        let (roles, suppressed) = &self.later;
        if !roles.is_empty()
            && let Err(status) = self.have_roles(roles, suppressed).await
        {
            return status.to_string();
        }
        while let Some(batch) = batches.recv().await {
            let (acks, others): (Vec<Call>, Vec<Call>) = batch
                .into_iter()
                .partition(|call| matches!(call, Call::Acknowledge { .. }));
            let acks: Vec<Update> = acks.into_iter().filter_map(acknowledgement).collect();
            let acknowledged = async {
                for chunk in acks.chunks(ACKS_PER_CALL) {
                    self.acknowledge(chunk.to_vec()).await?;
                }
                Ok(())
            };
            let done = futures::future::try_join(self.in_order(others), acknowledged);
            if let Err(status) = done.await {
                return status.to_string();
            }
        }
        "the scheduler ends".to_owned()
    }

    /// Those that may go side by side do: a thousand offers are used in the time of sixteen.
    async fn in_order(&self, calls: Vec<Call>) -> Result<(), Status> {
        let mut calls = calls.into_iter().peekable();
        while let Some(first) = calls.next() {
            let mut alike = vec![first];
            while let Some(next) = calls.next_if(|call| goes_beside(call, &alike[0])) {
                alike.push(next);
            }
            futures::stream::iter(alike)
                .map(|call| self.perform(call))
                .buffer_unordered(PARALLEL_CALLS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn perform(&self, call: Call) -> Result<(), Status> {
        if !self.fence.is_open() {
            return Err(Status::aborted(super::DEPOSED));
        }
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
                let request = proto::AcceptRequest {
                    caller,
                    offer_ids: vec![offer.to_string()],
                    operations: changes
                        .into_iter()
                        .map(change)
                        .chain(launches(tasks))
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
            Call::Acknowledge { .. } => {
                let updates = acknowledgement(call).into_iter().collect();
                self.acknowledge(updates).await
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
            // Of a role that the master did not give there are no offers anyway.
            Call::Revive(role) => {
                let request = proto::ReviveRequest {
                    caller,
                    roles: vec![role.to_string()],
                };
                harmless("revive", within(client.revive(request)).await)
            }
            Call::Suppress(role) => {
                let request = proto::SuppressRequest {
                    caller,
                    roles: vec![role.to_string()],
                };
                harmless("suppress", within(client.suppress(request)).await)
            }
            Call::Roles { roles, suppressed } => self.have_roles(&roles, &suppressed).await,
            Call::Survey => {
                self.survey().await;
                Ok(())
            }
        }
    }

    /// Is in these roles from now on; without those that the master does not give, of which it tells the driver.
    async fn have_roles(
        &self,
        roles: &BTreeSet<RoleName>,
        suppressed: &BTreeSet<RoleName>,
    ) -> Result<(), Status> {
        let mut refused = BTreeMap::new();
        let all = self.update_roles(roles, suppressed).await;
        if is_denied(&all) {
            let mut had: BTreeSet<RoleName> =
                roles.intersection(&self.own_roles).cloned().collect();
            for role in roles.difference(&self.own_roles) {
                had.insert(role.clone());
                match self.update_roles(&had, suppressed).await {
                    Err(status) if status.code() == Code::PermissionDenied => {
                        tracing::warn!(%role, error = %status, "the master does not give a role");
                        had.remove(role);
                        refused.insert(role.clone(), status.message().to_owned());
                    }
                    done => done?,
                }
            }
            self.update_roles(&had, suppressed).await?;
        } else {
            all?;
        }
        let told = self.events.try_send(LinkEvent::RolesRefused(refused));
        told.map_err(|_| Status::resource_exhausted("the scheduler's event queue is full"))
    }

    async fn update_roles(
        &self,
        roles: &BTreeSet<RoleName>,
        suppressed: &BTreeSet<RoleName>,
    ) -> Result<(), Status> {
        let info = FrameworkInfo {
            roles: roles.iter().cloned().collect(),
            ..self.info.clone()
        };
        let request = proto::UpdateFrameworkRequest {
            caller: Some(self.caller.clone()),
            framework: Some(info.into()),
            suppressed_roles: super::names(suppressed),
        };
        let updated = within(self.client.clone().update_framework(request)).await;
        updated.map(drop)
    }

    async fn acknowledge(&self, updates: Vec<Update>) -> Result<(), Status> {
        let request = proto::AcknowledgeRequest {
            caller: Some(self.caller.clone()),
            updates,
            ..proto::AcknowledgeRequest::default()
        };
        let done = within(self.client.clone().acknowledge(request)).await;
        harmless("acknowledge", done)
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
                ..proto::ListAgentsRequest::default()
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
        self.explain(client).await;
    }

    /// As nice to know.
    async fn explain(&self, mut client: OperatorServiceClient<Authorized>) {
        let request = proto::ExplainFrameworkRequest {
            framework_id: self.caller.framework_id.clone(),
        };
        match within(client.explain_framework(request)).await {
            Ok(told) => {
                let roles = told.into_inner().roles.into_iter();
                // Of what nothing is wanted nobody asks.
                let roles = roles.filter(|told| !told.suppressed);
                let reasons =
                    roles.filter_map(|told| Some((told.role.parse().ok()?, told.reasons)));
                let _ = self
                    .events
                    .try_send(LinkEvent::Explained(reasons.collect()));
            }
            Err(error) => tracing::debug!(%error, "the master does not say why it offers what"),
        }
    }
}

/// Whether a call may go at the same time as the one before it: calls of one kind, which are about different offers, tasks or
/// roles. Of two that say all roles the master must hear the newer one last: who asks for the first app of a role while the
/// subscription begins is told of in such a second one.
fn goes_beside(call: &Call, before: &Call) -> bool {
    let of_one_kind = std::mem::discriminant(call) == std::mem::discriminant(before);
    of_one_kind && !matches!(call, Call::Roles { .. })
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

/// Tasks of groups go as these groups, whose members the core puts next to each other; all others together.
fn launches(tasks: Vec<TaskInfo>) -> Vec<proto::operation::Operation> {
    let mut single = Vec::new();
    let mut groups: Vec<proto::operation::LaunchGroup> = Vec::new();
    for mut task in tasks {
        let Some(group) = task.group.take() else {
            single.push(task.into());
            continue;
        };
        let id = group.id.to_string();
        if groups.last().is_none_or(|last| last.group_id != id) {
            groups.push(proto::operation::LaunchGroup {
                group_id: id,
                init_tasks: Vec::new(),
                tasks: Vec::new(),
                policy: proto::GroupPolicy::from(group.policy).into(),
                volumes: group.volumes.into_iter().map(Into::into).collect(),
            });
        }
        if let Some(last) = groups.last_mut() {
            let list = if group.init {
                &mut last.init_tasks
            } else {
                &mut last.tasks
            };
            list.push(task.into());
        }
    }
    let single = (!single.is_empty()).then_some(Launch(proto::operation::Launch { tasks: single }));
    single
        .into_iter()
        .chain(groups.into_iter().map(LaunchGroup))
        .collect()
}

fn acknowledgement(call: Call) -> Option<Update> {
    let Call::Acknowledge {
        task,
        agent,
        update,
    } = call
    else {
        return None;
    };
    Some(Update {
        agent_id: agent.to_string(),
        task_id: task.to_string(),
        update_id: update.to_string(),
    })
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

fn is_denied<T>(result: &Result<T, Status>) -> bool {
    matches!(result, Err(status) if status.code() == Code::PermissionDenied)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_roles_are_told_one_after_the_other_and_offers_answered_side_by_side() {
        let roles = |names: &[&str]| Call::Roles {
            roles: names.iter().map(|name| name.parse().unwrap()).collect(),
            suppressed: BTreeSet::new(),
        };
        let decline = |id: &str| Call::Decline {
            offers: vec![id.parse().unwrap()],
            refuse: Duration::ZERO,
        };
        assert!(!goes_beside(&roles(&["dev", "ops"]), &roles(&["dev"])));
        assert!(goes_beside(&decline("2"), &decline("1")));
        assert!(goes_beside(
            &Call::Revive("ops".parse().unwrap()),
            &Call::Revive("dev".parse().unwrap())
        ));
        assert!(!goes_beside(&decline("1"), &roles(&["dev"])));
    }
}
