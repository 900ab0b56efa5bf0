//! The front for operators: reads from the published snapshot, the few writes through the core.
//!
//! Lists are ordered by id and paged by the last id seen (`paging`), so that a page is right whatever came or went meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::Stream;

use mezzo_api::{
    model::{
        AgentId, AgentInfo, AttributeValue, FrameworkId, NodeUsage, OperationId, OperationState,
        PoolChange, RoleName, TaskId, TaskState,
    },
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
    allocator::{DEFAULT_WEIGHT_MILLIS, Quantities, Share, quota},
    auth::Action,
    state::{
        AgentState, AgentView, DrainStage, Event, FrameworkView, KnownTask, Operation, Snapshot,
    },
    store::backup,
};

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
        Ok(Response::new(cluster(&snapshot, &self.context)))
    }

    async fn list_agents(
        &self,
        request: Request<proto::ListAgentsRequest>,
    ) -> Result<Response<proto::ListAgentsResponse>, Status> {
        let mut request = request.into_inner();
        let (token, size) = page_of(&mut request.page_token, &mut request.page_size);
        let pages = Pages::new("agents", &request, size);
        let wanted = AgentFilter::new(request)?;
        let snapshot = self.context.snapshot();
        let (page, next) = pages.page(&snapshot.agents, &token, |view| wanted.admits(view))?;
        Ok(Response::new(proto::ListAgentsResponse {
            agents: page.into_iter().map(|view| agent(view)).collect(),
            next_page_token: next,
        }))
    }

    async fn get_agent(
        &self,
        request: Request<proto::GetAgentRequest>,
    ) -> Result<Response<proto::Agent>, Status> {
        let wanted = request.into_inner().agent;
        if wanted.is_empty() {
            return Err(invalid(
                "agent",
                "is empty: an id, a prefix of one, or a hostname is needed",
            ));
        }
        let snapshot = self.context.snapshot();
        let exact = snapshot
            .agents
            .values()
            .find(|view| view.agent_id.as_str() == wanted);
        let matches: Vec<_> = match exact {
            Some(view) => vec![view],
            None => {
                let fits = |view: &&Arc<AgentView>| {
                    view.agent_id.as_str().starts_with(&wanted) || view.info.hostname == wanted
                };
                snapshot.agents.values().filter(fits).collect()
            }
        };
        // A machine that registered anew left its former id behind.
        let connected: Vec<_> = matches
            .iter()
            .copied()
            .filter(|view| view.state == AgentState::Connected)
            .collect();
        match (matches.as_slice(), connected.as_slice()) {
            ([view], _) | (_, [view]) => Ok(Response::new(agent(view))),
            ([], _) => Err(Status::not_found(format!(
                "no agent has the id, prefix or hostname {wanted:?}"
            ))),
            (several, _) => {
                let ids: Vec<_> = several
                    .iter()
                    .take(5)
                    .map(|view| view.agent_id.as_str())
                    .collect();
                Err(invalid(
                    "agent",
                    format!(
                        "{wanted:?} fits {} agents: {}",
                        several.len(),
                        ids.join(", ")
                    ),
                ))
            }
        }
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
                .map(|view| framework(view, &snapshot.total))
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
        let wanted = TaskFilter {
            states: states("states", &request.states)?,
            role: parse_optional("role", request.role)?,
            framework_id: parse_optional("framework_id", request.framework_id)?,
            agent_id: parse_optional("agent_id", request.agent_id)?,
            task_id: parse_optional("task_id", request.task_id)?,
            include_ended: request.include_ended,
        };
        let after = pages.after(&token, |key| {
            let (framework, task) = key.split_once('/')?;
            Some((framework.parse().ok()?, task.parse().ok()?))
        })?;
        let snapshot = self.context.snapshot();
        let (tasks, next) = tasks(&snapshot, &wanted, after, pages.size());
        Ok(Response::new(proto::ListTasksResponse {
            tasks: tasks.into_iter().map(|task| told(&task)).collect(),
            next_page_token: next
                .map(|(framework, task)| pages.token(&format!("{framework}/{task}")))
                .unwrap_or_default(),
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

fn states(field: &str, asked: &[i32]) -> Result<BTreeSet<TaskState>, Status> {
    let read = |(i, number): (usize, &i32)| {
        let known = proto::TaskState::try_from(*number).ok();
        let known = known.and_then(|state| TaskState::try_from(state).ok());
        known.ok_or_else(|| invalid(&format!("{field}[{i}]"), "is no state"))
    };
    asked.iter().enumerate().map(read).collect()
}

/// Which agents to list.
struct AgentFilter {
    /// Empty: any.
    states: BTreeSet<AgentState>,
    hostname: String,
    /// A name, and a value if that counts.
    attribute: Option<(String, Option<String>)>,
    draining: Option<bool>,
}

impl AgentFilter {
    fn new(request: proto::ListAgentsRequest) -> Result<Self, Status> {
        let mut states = BTreeSet::new();
        for (i, number) in request.states.iter().enumerate() {
            states.insert(match proto::AgentState::try_from(*number) {
                Ok(proto::AgentState::AgentConnected) => AgentState::Connected,
                Ok(proto::AgentState::AgentDisconnected) => AgentState::Disconnected,
                Ok(proto::AgentState::AgentUnreachable) => AgentState::Unreachable,
                Ok(proto::AgentState::AgentRecovering) => AgentState::Recovering,
                Ok(proto::AgentState::Unspecified) | Err(_) => {
                    return Err(invalid(&format!("states[{i}]"), "is no state"));
                }
            });
        }
        let attribute = match request.attribute.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), Some(value.to_owned()))),
            None if request.attribute.is_empty() => None,
            None => Some((request.attribute, None)),
        };
        Ok(Self {
            states,
            hostname: request.hostname,
            attribute,
            draining: request.draining,
        })
    }

    fn admits(&self, view: &AgentView) -> bool {
        let has = |(name, value): &(String, Option<String>)| {
            view.info.attributes.iter().any(|attribute| {
                let text = match &attribute.value {
                    AttributeValue::Scalar(scalar) => scalar.to_string(),
                    AttributeValue::Text(text) => text.clone(),
                };
                attribute.name == *name && value.as_ref().is_none_or(|value| *value == text)
            })
        };
        (self.states.is_empty() || self.states.contains(&view.state))
            && (self.hostname.is_empty() || view.info.hostname == self.hostname)
            && self.attribute.as_ref().is_none_or(has)
            && self.draining.is_none_or(|is| view.drain.is_some() == is)
    }
}

/// Wherever it is known by now: an id of this master's.
fn new_operation_id() -> OperationId {
    Uuid::now_v7()
        .to_string()
        .parse()
        .expect("a UUID is a valid id")
}

struct TaskFilter {
    framework_id: Option<FrameworkId>,
    agent_id: Option<AgentId>,
    task_id: Option<TaskId>,
    include_ended: bool,
    /// Empty: any.
    states: BTreeSet<TaskState>,
    role: Option<RoleName>,
}

type TaskKey = (FrameworkId, TaskId);

fn tasks(
    snapshot: &Snapshot,
    wanted: &TaskFilter,
    after: Option<TaskKey>,
    size: usize,
) -> (Vec<Arc<KnownTask>>, Option<TaskKey>) {
    let mut found: Vec<Arc<KnownTask>> = Vec::new();
    let from = after
        .as_ref()
        .map(|(framework, _)| framework)
        .or(wanted.framework_id.as_ref());
    let start = from.map_or(Bound::Unbounded, Bound::Included);
    for (framework_id, view) in snapshot
        .frameworks
        .range::<FrameworkId, _>((start, Bound::Unbounded))
    {
        if wanted
            .framework_id
            .as_ref()
            .is_some_and(|id| id != framework_id)
        {
            continue;
        }
        let past = after
            .as_ref()
            .filter(|(framework, _)| framework == framework_id)
            .map(|(_, task)| task);
        let active = view.tasks.after(past);
        let mut active = active.map(|(id, entry)| (id, &entry.task)).peekable();
        let mut ended = view.ended.after(past).peekable();
        loop {
            // Two sorted lists as one; a task that runs hides an ended one of the same id.
            let task = match (active.peek(), ended.peek()) {
                (Some((a, _)), Some((e, _))) if e < a => ended.next(),
                (Some((a, _)), Some((e, _))) => {
                    if a == e {
                        ended.next();
                    }
                    active.next()
                }
                (Some(_), None) => active.next(),
                (None, Some(_)) => ended.next(),
                (None, None) => break,
            };
            let Some((task_id, task)) = task else { break };
            let fits = (wanted.include_ended || !task.status.state.is_terminal())
                && wanted
                    .agent_id
                    .as_ref()
                    .is_none_or(|id| task.info.agent_id == *id)
                && wanted.task_id.as_ref().is_none_or(|id| id == task_id)
                && (wanted.states.is_empty() || wanted.states.contains(&task.status.state))
                && wanted.role.as_ref().is_none_or(|role| task.role == *role);
            if !fits {
                continue;
            }
            if found.len() == size {
                let last = found
                    .last()
                    .map(|task| (task.framework_id.clone(), task.info.task_id.clone()));
                return (found, last);
            }
            found.push(Arc::clone(task));
        }
    }
    (found, None)
}

fn told(task: &KnownTask) -> proto::Task {
    proto::Task {
        info: Some((&task.info).into()),
        framework_id: task.framework_id.to_string(),
        role: task.role.to_string(),
        status: Some(task.status.clone().into()),
        started_at_ms: task.started_at_ms,
    }
}

fn cluster(snapshot: &Snapshot, context: &Context) -> proto::Cluster {
    let (mut total, mut allocated, mut offered) = (
        Quantities::default(),
        Quantities::default(),
        Quantities::default(),
    );
    let mut lent: Option<[Quantities; 3]> = None;
    let mut used = NodeUsage::default();
    let (mut connected, mut away) = (0, 0);
    for view in snapshot.agents.values() {
        match view.state {
            AgentState::Connected => {
                connected += 1;
                if let Some(usage) = &view.usage {
                    add_usage(&mut used, usage);
                }
            }
            AgentState::Disconnected | AgentState::Unreachable | AgentState::Recovering => {
                away += 1
            }
        }
        match view.state {
            AgentState::Connected | AgentState::Disconnected => {
                total.add(&view.info.resources);
                allocated.add_pools(&view.allocated);
                offered.add_pools(&view.offered);
                if let Some((total, allocated, offered)) = &view.lent {
                    let sums = lent.get_or_insert_default();
                    for (sum, more) in sums.iter_mut().zip([total, allocated, offered]) {
                        sum.add(more);
                    }
                }
            }
            AgentState::Unreachable | AgentState::Recovering => {}
        }
    }
    let mut states: BTreeMap<&'static str, u32> = BTreeMap::new();
    let tasks = snapshot
        .frameworks
        .values()
        .flat_map(|view| view.tasks.values());
    for state in tasks
        .map(|entry| entry.state)
        .filter(|state| !state.is_terminal())
    {
        *states.entry(state.name()).or_default() += 1;
    }
    let frameworks = snapshot
        .frameworks
        .values()
        .filter(|view| view.connected)
        .count();
    proto::Cluster {
        term: context.term,
        master_id: context.master_id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at_ms: context.started_at_ms,
        agents_connected: connected,
        agents_disconnected: away,
        frameworks_connected: count(frameworks),
        frameworks_disconnected: count(snapshot.frameworks.len() - frameworks),
        total: total.to_resources().into(),
        allocated: allocated.to_resources().into(),
        offered: offered.to_resources().into(),
        used: Some(used.into()),
        tasks_by_state: states
            .into_iter()
            .map(|(name, n)| (name.to_owned(), n))
            .collect(),
        revocable: lent.map(|[total, allocated, offered]| proto::RevocableResources {
            total: total.to_resources().into(),
            allocated: allocated.to_resources().into(),
            offered: offered.to_resources().into(),
        }),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn add_usage(sum: &mut NodeUsage, usage: &NodeUsage) {
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0).saturating_add(more));
        }
    };
    sum.sampled_at_ms = sum.sampled_at_ms.max(usage.sampled_at_ms);
    add(&mut sum.cpu_millis, usage.cpu_millis);
    add(&mut sum.memory_total_bytes, usage.memory_total_bytes);
    add(&mut sum.memory_used_bytes, usage.memory_used_bytes);
    add(&mut sum.disk_total_bytes, usage.disk_total_bytes);
    add(&mut sum.disk_used_bytes, usage.disk_used_bytes);
    add(&mut sum.agent_memory_bytes, usage.agent_memory_bytes);
    add(&mut sum.agent_cpu_total_us, usage.agent_cpu_total_us);
}

pub(super) fn agent_state(state: AgentState) -> proto::AgentState {
    match state {
        AgentState::Connected => proto::AgentState::AgentConnected,
        AgentState::Disconnected => proto::AgentState::AgentDisconnected,
        AgentState::Unreachable => proto::AgentState::AgentUnreachable,
        AgentState::Recovering => proto::AgentState::AgentRecovering,
    }
}

fn agent(view: &AgentView) -> proto::Agent {
    let state = agent_state(view.state);
    proto::Agent {
        agent_id: view.agent_id.to_string(),
        info: Some(AgentInfo::clone(&view.info).into()),
        state: state.into(),
        registered_at_ms: view.registered_at_ms,
        allocated: view.allocated.flat().into(),
        offered: view.offered.flat().into(),
        allocated_reserved: view
            .allocated
            .pool_list()
            .into_iter()
            .map(Into::into)
            .collect(),
        usage: view.usage.clone().map(Into::into),
        tasks: count(view.n_tasks),
        loss_waits_since_ms: view.loss_waits_since_ms,
        maintenance: (view.window.as_ref()).map_or_else(String::new, ToString::to_string),
        drain: view.drain.map(|(stage, drain)| proto::Drain {
            state: match stage {
                DrainStage::Draining => proto::DrainState::Draining,
                DrainStage::Drained => proto::DrainState::Drained,
            }
            .into(),
            since_ms: drain.since_ms,
            deadline_at_ms: drain.deadline_at_ms,
            mark_gone: drain.mark_gone,
        }),
        revocable: view.lent.as_ref().map(|(total, allocated, offered)| {
            proto::RevocableResources {
                total: total.into(),
                allocated: allocated.into(),
                offered: offered.into(),
            }
        }),
    }
}

fn framework(view: &FrameworkView, total: &Quantities) -> proto::Framework {
    let mut held = view.allocated.clone();
    held.merge(&view.offered);
    proto::Framework {
        info: Some(view.info.clone().into()),
        connected: view.connected,
        registered_at_ms: view.registered_at_ms,
        allocated: view.allocated.to_resources().into(),
        offered: view.offered.to_resources().into(),
        tasks: count(
            view.tasks
                .values()
                .filter(|entry| !entry.state.is_terminal())
                .count(),
        ),
        dominant_share_ppm: Share::dominant(&held, total, DEFAULT_WEIGHT_MILLIS)
            .parts_per_million(),
        suppressed_roles: view.suppressed.iter().map(ToString::to_string).collect(),
        revocable_allocated: view.lent.0.to_resources().into(),
        revocable_offered: view.lent.1.to_resources().into(),
    }
}
