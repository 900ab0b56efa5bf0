//! The front for operators: reads from the published snapshot, the few writes through the core.
//!
//! Lists are ordered by id and paged by the last id seen (`paging`), so that a page is right whatever came or went meanwhile.
//! What they show is in `agents`, `tasks` and `cluster`.

mod agents;
mod cluster;
mod tasks;

use std::{pin::Pin, time::Duration};

use futures::Stream;

use mezzo_api::{
    model::{AgentId, FrameworkId, OperationId, OperationState, PoolChange, RoleName},
    proto::{self, operator_service_server::OperatorService},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    events, maintenance,
    paging::Pages,
    sharing,
    status::{bounded, invalid, parse, parse_optional},
    volumes,
};
use crate::{
    actor::Context,
    allocator::quota,
    auth::Action,
    state::{Event, Operation},
    store::backup,
};

pub(super) use agents::agent_state;

/// Of a backup, in one message.
const BACKUP_CHUNK: usize = 1 << 20;

/// In one call.
const MOST_CHANGES: usize = 100;
/// In one call.
const MOST_WEIGHTS: usize = 10_000;

/// Nobody waits longer for a machine.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 86_400);

/// Serves `OperatorService`.
#[derive(Debug, Clone)]
pub(crate) struct OperatorFront {
    context: Context,
}

impl OperatorFront {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    fn allow<T>(&self, request: &Request<T>, action: Action, object: &str) -> Result<(), Status> {
        self.context.guard.allow(request, action, object)
    }

    async fn operate(&self, operation: Operation) -> Result<(), Status> {
        self.context.ask(Event::Operate(operation)).await
    }
}

#[tonic::async_trait]
impl OperatorService for OperatorFront {
    async fn get_cluster(
        &self,
        _request: Request<proto::GetClusterRequest>,
    ) -> Result<Response<proto::Cluster>, Status> {
        let snapshot = self.context.snapshot();
        Ok(Response::new(cluster::cluster(&snapshot, &self.context)))
    }

    async fn list_agents(
        &self,
        request: Request<proto::ListAgentsRequest>,
    ) -> Result<Response<proto::ListAgentsResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("agents", &request, size);
        let wanted = agents::AgentFilter::new(request)?;
        let snapshot = self.context.snapshot();
        let (page, next) = pages.page(&snapshot.agents, &token, |view| wanted.admits(view))?;
        Ok(Response::new(proto::ListAgentsResponse {
            agents: page.into_iter().map(|view| agents::told(view)).collect(),
            next_page_token: next,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<proto::GetAgentRequest>,
    ) -> Result<Response<proto::Agent>, Status> {
        let snapshot = self.context.snapshot();
        let found = agents::find(&snapshot, &request.into_inner().agent)?;
        Ok(Response::new(agents::told(found)))
    }

    async fn list_frameworks(
        &self,
        request: Request<proto::ListFrameworksRequest>,
    ) -> Result<Response<proto::ListFrameworksResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("frameworks", &request, size);
        let role: Option<RoleName> = parse_optional("role", request.role)?;
        let snapshot = self.context.snapshot();
        let (page, next) = pages.page(&*snapshot.frameworks, &token, |view| {
            (request.name.is_empty() || view.info.name == request.name)
                && role
                    .as_ref()
                    .is_none_or(|role| view.info.roles.contains(role))
                && request.connected.is_none_or(|is| view.connected == is)
        })?;
        Ok(Response::new(proto::ListFrameworksResponse {
            frameworks: page
                .into_iter()
                .map(|view| cluster::framework(view, &snapshot.total))
                .collect(),
            next_page_token: next,
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Result<Response<proto::ListTasksResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("tasks", &request, size);
        let wanted = tasks::TaskFilter::new(request)?;
        let after = pages.after(&token, tasks::after)?;
        let snapshot = self.context.snapshot();
        let (encoded, next) = tasks::list(&snapshot, &wanted, after, pages.size());
        Ok(Response::new(proto::ListTasksResponse {
            tasks: Vec::new(),
            next_page_token: next
                .map(|(framework, task)| pages.token(&format!("{framework}/{task}")))
                .unwrap_or_default(),
            encoded,
        }))
    }

    async fn list_roles(
        &self,
        request: Request<proto::ListRolesRequest>,
    ) -> Result<Response<proto::ListRolesResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("roles", &request, size);
        let within: Option<RoleName> = parse_optional("within", request.within)?;
        let snapshot = self.context.snapshot();
        let (page, next) = pages.page(&*snapshot.roles, &token, |view| {
            let within = within.as_ref();
            within.is_none_or(|top| quota::is_within(view.name.as_str(), top.as_str()))
        })?;
        let page = page.into_iter();
        Ok(Response::new(proto::ListRolesResponse {
            roles: page.map(|view| sharing::role(view, &snapshot)).collect(),
            next_page_token: next,
        }))
    }

    async fn update_weights(
        &self,
        request: Request<proto::UpdateWeightsRequest>,
    ) -> Result<Response<proto::UpdateWeightsResponse>, Status> {
        for weight in &request.get_ref().weights {
            self.allow(&request, Action::UpdateWeights, &weight.role)?;
        }
        let weights = request.into_inner().weights;
        bounded("weights", weights.len(), MOST_WEIGHTS)?;
        let mut checked: Vec<(RoleName, u64)> = Vec::with_capacity(weights.len());
        for (i, weight) in weights.into_iter().enumerate() {
            if weight.weight_millis == 0 {
                return Err(invalid(
                    &format!("weights[{i}].weight_millis"),
                    "must be at least 1",
                ));
            }
            checked.push((
                parse(&format!("weights[{i}].role"), weight.role)?,
                weight.weight_millis,
            ));
        }
        self.operate(Operation::UpdateWeights(checked)).await?;
        Ok(Response::new(proto::UpdateWeightsResponse {}))
    }

    async fn update_quotas(
        &self,
        request: Request<proto::UpdateQuotasRequest>,
    ) -> Result<Response<proto::UpdateQuotasResponse>, Status> {
        for quota in &request.get_ref().quotas {
            self.allow(&request, Action::UpdateQuotas, &quota.role)?;
        }
        self.operate(sharing::quotas(request.into_inner())?).await?;
        Ok(Response::new(proto::UpdateQuotasResponse {}))
    }

    async fn explain_framework(
        &self,
        request: Request<proto::ExplainFrameworkRequest>,
    ) -> Result<Response<proto::ExplainFrameworkResponse>, Status> {
        let id: FrameworkId = parse("framework_id", request.into_inner().framework_id)?;
        let snapshot = self.context.snapshot();
        let Some(view) = snapshot.frameworks.get(&id) else {
            return Err(crate::state::Refusal::UnknownFramework(id).into());
        };
        Ok(Response::new(sharing::explanation(view, &snapshot)))
    }

    async fn kill_task(
        &self,
        request: Request<proto::KillTaskRequest>,
    ) -> Result<Response<proto::KillTaskResponse>, Status> {
        self.allow(&request, Action::KillTask, &request.get_ref().framework_id)?;
        let request = request.into_inner();
        let operation = Operation::KillTask {
            framework_id: parse("framework_id", request.framework_id)?,
            task_id: parse("task_id", request.task_id)?,
            grace: request.grace_ms.map(Duration::from_millis),
        };
        self.operate(operation).await?;
        Ok(Response::new(proto::KillTaskResponse {}))
    }

    async fn teardown_framework(
        &self,
        request: Request<proto::TeardownFrameworkRequest>,
    ) -> Result<Response<proto::TeardownFrameworkResponse>, Status> {
        let id = &request.get_ref().framework_id;
        self.allow(&request, Action::TeardownFramework, id)?;
        let framework_id = parse("framework_id", request.into_inner().framework_id)?;
        self.operate(Operation::TeardownFramework(framework_id))
            .await?;
        Ok(Response::new(proto::TeardownFrameworkResponse {}))
    }

    async fn remove_agent(
        &self,
        request: Request<proto::RemoveAgentRequest>,
    ) -> Result<Response<proto::RemoveAgentResponse>, Status> {
        self.allow(&request, Action::RemoveAgent, &request.get_ref().agent_id)?;
        let agent_id = parse("agent_id", request.into_inner().agent_id)?;
        self.operate(Operation::RemoveAgent(agent_id)).await?;
        Ok(Response::new(proto::RemoveAgentResponse {}))
    }

    async fn drain_agent(
        &self,
        request: Request<proto::DrainAgentRequest>,
    ) -> Result<Response<proto::DrainAgentResponse>, Status> {
        self.allow(&request, Action::DrainAgent, &request.get_ref().agent_id)?;
        let request = request.into_inner();
        let deadline = request.deadline_ms.map(Duration::from_millis);
        if deadline.is_some_and(|deadline| deadline > LONGEST_DRAIN) {
            return Err(invalid("deadline_ms", "is more than 365 days"));
        }
        let operation = Operation::DrainAgent {
            agent_id: parse("agent_id", request.agent_id)?,
            deadline,
            mark_gone: request.mark_gone,
        };
        self.operate(operation).await?;
        Ok(Response::new(proto::DrainAgentResponse {}))
    }

    async fn change_pools(
        &self,
        request: Request<proto::ChangePoolsRequest>,
    ) -> Result<Response<proto::ChangePoolsResponse>, Status> {
        self.allow(&request, Action::ChangePools, &request.get_ref().agent_id)?;
        let request = request.into_inner();
        let agent_id: AgentId = parse("agent_id", request.agent_id)?;
        bounded("changes", request.changes.len(), MOST_CHANGES)?;
        let mut changes = Vec::new();
        for (i, change) in request.changes.into_iter().enumerate() {
            let change = PoolChange::try_from(change);
            changes.push(change.map_err(|invalid| invalid.within(&format!("changes[{i}]")))?);
        }
        for change in changes {
            let id = new_operation_id();
            let told = change.to_string();
            self.operate(Operation::ChangePools {
                agent_id: agent_id.clone(),
                id: id.clone(),
                change: Box::new(change),
            })
            .await?;
            let status = self.context.settled(&id).await?;
            match status.state {
                OperationState::Finished => {}
                OperationState::Failed
                | OperationState::Dropped
                | OperationState::Pending
                | OperationState::Recovering
                | OperationState::Unknown => {
                    return Err(Status::failed_precondition(format!(
                        "agent {agent_id}: {told}: {}: {}",
                        status.state, status.message
                    )));
                }
            }
        }
        Ok(Response::new(proto::ChangePoolsResponse {}))
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("volumes", &request, size);
        let wanted: Option<AgentId> = parse_optional("agent_id", request.agent_id)?;
        let after = pages.after(&token, volumes::after)?;
        let snapshot = self.context.snapshot();
        let (wanted, after) = (wanted.as_ref(), after.as_ref());
        let mut page = volumes::list(&snapshot, wanted, after, pages.size());
        if !page.next_page_token.is_empty() {
            page.next_page_token = pages.token(&page.next_page_token);
        }
        Ok(Response::new(page))
    }

    async fn deactivate_agent(
        &self,
        request: Request<proto::DeactivateAgentRequest>,
    ) -> Result<Response<proto::DeactivateAgentResponse>, Status> {
        self.allow(&request, Action::DrainAgent, &request.get_ref().agent_id)?;
        let agent_id = parse("agent_id", request.into_inner().agent_id)?;
        self.operate(Operation::DeactivateAgent(agent_id)).await?;
        Ok(Response::new(proto::DeactivateAgentResponse {}))
    }

    async fn activate_agent(
        &self,
        request: Request<proto::ActivateAgentRequest>,
    ) -> Result<Response<proto::ActivateAgentResponse>, Status> {
        self.allow(&request, Action::DrainAgent, &request.get_ref().agent_id)?;
        let agent_id = parse("agent_id", request.into_inner().agent_id)?;
        self.operate(Operation::ActivateAgent(agent_id)).await?;
        Ok(Response::new(proto::ActivateAgentResponse {}))
    }

    type WatchEventsStream = events::EventStream;

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let stream = events::watch(&self.context, request.into_inner())?;
        Ok(Response::new(stream))
    }

    type BackupStream = BackupStream;

    async fn backup(
        &self,
        _request: Request<proto::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let saved = self.context.saved().await;
        let saved = saved.map_err(|error| Status::unavailable(error.to_string()))?;
        let file = backup::write(&saved, self.context.now_ms());
        self.context.metrics.backups.inc();
        tracing::info!(bytes = file.len(), "a backup is read");
        let chunks: Vec<_> = file
            .chunks(BACKUP_CHUNK)
            .map(|data| {
                Ok(proto::BackupChunk {
                    data: data.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    async fn schedule_maintenance(
        &self,
        request: Request<proto::ScheduleMaintenanceRequest>,
    ) -> Result<Response<proto::ScheduleMaintenanceResponse>, Status> {
        let name = request.get_ref().window.as_ref().map(|window| &window.name);
        let name = name.map_or("", String::as_str);
        self.allow(&request, Action::Maintain, name)?;
        let operation = maintenance::window(request.into_inner())?;
        self.operate(operation).await?;
        Ok(Response::new(proto::ScheduleMaintenanceResponse {}))
    }

    async fn cancel_maintenance(
        &self,
        request: Request<proto::CancelMaintenanceRequest>,
    ) -> Result<Response<proto::CancelMaintenanceResponse>, Status> {
        self.allow(&request, Action::Maintain, &request.get_ref().name)?;
        let name = parse("name", request.into_inner().name)?;
        self.operate(Operation::CancelWindow(name)).await?;
        Ok(Response::new(proto::CancelMaintenanceResponse {}))
    }

    async fn list_maintenance(
        &self,
        request: Request<proto::ListMaintenanceRequest>,
    ) -> Result<Response<proto::ListMaintenanceResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("maintenance", &request, size);
        let snapshot = self.context.snapshot();
        let (page, next) = pages.page(&*snapshot.windows, &token, |_| true)?;
        Ok(Response::new(proto::ListMaintenanceResponse {
            windows: page.into_iter().map(maintenance::told).collect(),
            next_page_token: next,
        }))
    }
}

type BackupStream = Pin<Box<dyn Stream<Item = Result<proto::BackupChunk, Status>> + Send>>;

/// Takes the page out of a request; what is left are its filters.
fn page_of(token: &mut String, size: &mut u32) -> (String, u32) {
    (std::mem::take(token), std::mem::take(size))
}

/// Wherever it is known by now: an id of this master's.
fn new_operation_id() -> OperationId {
    Uuid::now_v7()
        .to_string()
        .parse()
        .expect("a UUID is a valid id")
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
