//! The scripted master.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::Stream;
use mezzo_api::model::{Resources, TaskInfo};
use mezzo_api::proto;
use mezzo_api::proto::event::Event as Inner;
use mezzo_api::proto::framework_service_server::{FrameworkService, FrameworkServiceServer};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

const AGENT: &str = "agent-1";

/// Everything it knows, open to the tests.
#[derive(Debug)]
pub(crate) struct World {
    total: Resources,
    free: Resources,
    offer: Option<(String, Resources)>,
    pub(crate) tasks: BTreeMap<String, (TaskInfo, proto::TaskState)>,
    /// Every task id ever launched, in order.
    pub(crate) launched: Vec<String>,
    pub(crate) accepts: usize,
    pub(crate) unacknowledged: BTreeMap<String, proto::TaskStatus>,
    /// Tasks are launched but nothing is said of them.
    pub(crate) mute: bool,
    stream: Option<(String, mpsc::UnboundedSender<Result<proto::Event, Status>>)>,
    suppressed: bool,
    refused: bool,
    next: u64,
    /// Of its leadership.
    pub(crate) term: u64,
    pub(crate) subscriptions: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Master {
    world: Arc<Mutex<World>>,
}

/// A master that serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) master: Master,
    _stop: DropGuard,
}

impl Master {
    /// With one machine of `resources`, in Mesos' syntax.
    pub(crate) async fn start(resources: &str) -> Running {
        let total: Resources = resources.parse().expect("resources");
        let master = Self {
            world: Arc::new(Mutex::new(World {
                free: total.clone(),
                total,
                offer: None,
                tasks: BTreeMap::new(),
                launched: Vec::new(),
                accepts: 0,
                unacknowledged: BTreeMap::new(),
                mute: false,
                stream: None,
                suppressed: false,
                refused: false,
                next: 0,
                term: 1,
                subscriptions: 0,
            })),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("binds");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let service = FrameworkServiceServer::new(master.clone());
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(
                    TcpListenerStream::new(listener),
                    stopped.cancelled_owned(),
                )
                .await
        });
        Running {
            address,
            master,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world
            .lock()
            .expect("no test panics with the lock held")
    }

    /// Cuts the stream, as a restart of the master does.
    pub(crate) fn cut(&self) {
        let mut world = self.world();
        world.stream = None;
        world.offer = None;
    }

    /// What the readiness check of a running task found: the answer's status and body.
    pub(crate) fn answers(&self, task: &str, status: u32, body: &str) {
        let mut world = self.world();
        let told = proto::TaskStatus {
            readiness: Some(proto::ReadinessStatus {
                name: "up".into(),
                ready: status == 200,
                last_response: Some(proto::ReadinessResponse {
                    status,
                    content_type: "text/plain".into(),
                    body: body.into(),
                }),
                problem: String::new(),
            }),
            ..world.of_check(task)
        };
        world.tell(told, true);
    }

    /// What the check of a running task found.
    pub(crate) fn finds(&self, task: &str, found: Option<proto::check_result::Found>) {
        let mut world = self.world();
        let told = proto::TaskStatus {
            check_result: Some(proto::CheckResult {
                found,
                problem: String::new(),
            }),
            ..world.of_check(task)
        };
        world.tell(told, true);
    }

    /// Ends a task as `state` for a reason of the agent's.
    pub(crate) fn end_for(
        &self,
        task: &str,
        state: proto::TaskState,
        message: &str,
        reason: proto::Reason,
    ) {
        let mut world = self.world();
        if let Some((info, _)) = world.tasks.remove(task) {
            world.free.add(&info.resources);
        }
        world.refused = false;
        let update_id = world.id("update");
        let told = proto::TaskStatus {
            task_id: task.into(),
            framework_id: "framework-1".into(),
            agent_id: AGENT.into(),
            state: state.into(),
            reason: reason.into(),
            source: proto::StatusSource::Agent.into(),
            message: message.into(),
            timestamp_ms: 1,
            update_id,
            ..proto::TaskStatus::default()
        };
        world.tell(told, true);
        world.make_offer();
    }

    /// Ends a task as `state`, out of the blue.
    pub(crate) fn end(&self, task: &str, state: proto::TaskState, message: &str) {
        let mut world = self.world();
        world.end(task, state, message);
        world.make_offer();
    }
}

impl World {
    pub(crate) fn live(&self) -> Vec<String> {
        self.tasks.keys().cloned().collect()
    }

    /// What is told of a running task when one of its checks found something.
    fn of_check(&mut self, task: &str) -> proto::TaskStatus {
        proto::TaskStatus {
            task_id: task.into(),
            framework_id: "framework-1".into(),
            agent_id: AGENT.into(),
            state: proto::TaskState::TaskRunning.into(),
            reason: proto::Reason::TaskCheckStatusUpdated.into(),
            source: proto::StatusSource::Agent.into(),
            timestamp_ms: 1,
            update_id: self.id("update"),
            ..proto::TaskStatus::default()
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    fn send(&mut self, event: Inner) {
        if let Some((_, stream)) = &self.stream {
            let _ = stream.send(Ok(proto::Event { event: Some(event) }));
        }
    }

    fn make_offer(&mut self) {
        if self.suppressed || self.refused || self.stream.is_none() || self.free.is_empty() {
            return;
        }
        if let Some((offer_id, _)) = self.offer.take() {
            self.send(Inner::Rescind(proto::event::Rescind { offer_id }));
        }
        let offer_id = self.id("offer");
        self.offer = Some((offer_id.clone(), self.free.clone()));
        let offer = proto::Offer {
            offer_id,
            framework_id: "framework-1".into(),
            agent_id: AGENT.into(),
            hostname: "node1".into(),
            role: "*".into(),
            resources: Vec::from(&self.free),
            attributes: Vec::new(),
            region: String::new(),
            zone: String::new(),
            address: "127.0.0.1:5051".into(),
            reserved: Vec::new(),
            volumes: Vec::new(),
            revocable: false,
            unavailability: None,
        };
        self.send(Inner::Offers(proto::event::Offers {
            offers: vec![offer],
        }));
    }

    fn status(
        &mut self,
        task: &str,
        state: proto::TaskState,
        message: &str,
        healthy: Option<bool>,
        agent: bool,
    ) {
        let update_id = if agent {
            self.id("update")
        } else {
            String::new()
        };
        let known = self.tasks.get(task).filter(|_| healthy.is_some());
        let n_checks = known.map_or(0, |(info, _)| info.health_checks.len());
        let health_results = vec![proto::HealthResult { healthy }; n_checks];
        let status = proto::TaskStatus {
            task_id: task.into(),
            framework_id: "framework-1".into(),
            agent_id: AGENT.into(),
            state: state.into(),
            reason: if agent {
                0
            } else {
                proto::Reason::Reconciliation.into()
            },
            source: if agent {
                proto::StatusSource::Agent
            } else {
                proto::StatusSource::Master
            }
            .into(),
            message: message.into(),
            timestamp_ms: 1,
            update_id: update_id.clone(),
            healthy,
            health_results,
            container: None,
            exit: None,
            usage: None,
            readiness: None,
            check_result: None,
        };
        self.tell(status, agent);
    }

    fn tell(&mut self, status: proto::TaskStatus, agent: bool) {
        if agent {
            let update_id = status.update_id.clone();
            self.unacknowledged.insert(update_id, status.clone());
        }
        self.send(Inner::Update(status));
    }

    fn launch(&mut self, info: TaskInfo) {
        let id = info.task_id.to_string();
        assert!(!self.launched.contains(&id), "task id {id} used twice");
        self.launched.push(id.clone());
        self.free = self
            .free
            .checked_sub(&info.resources)
            .expect("only what is offered is taken");
        let image = info.container.image.clone();
        let checked = !info.health_checks.is_empty();
        self.tasks
            .insert(id.clone(), (info, proto::TaskState::TaskStaging));
        if self.mute {
            return;
        }
        self.status(&id, proto::TaskState::TaskStarting, "pulling", None, true);
        if image.starts_with("stuck") {
            return;
        }
        if image.starts_with("fail") {
            self.end(&id, proto::TaskState::TaskFailed, "exit code 1");
            return;
        }
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.1 = proto::TaskState::TaskRunning;
        }
        let healthy = checked.then_some(!image.starts_with("sick"));
        self.status(&id, proto::TaskState::TaskRunning, "", healthy, true);
    }

    fn end(&mut self, task: &str, state: proto::TaskState, message: &str) {
        if let Some((info, _)) = self.tasks.remove(task) {
            self.free.add(&info.resources);
        }
        assert!(self.total.contains(&self.free), "more free than there is");
        self.refused = false;
        self.status(task, state, message, None, true);
    }

    fn check(&self, caller: Option<proto::Caller>) -> Result<(), Status> {
        let stream_id = caller.map(|caller| caller.stream_id).unwrap_or_default();
        match &self.stream {
            Some((current, _)) if *current == stream_id => Ok(()),
            _ => Err(Status::failed_precondition("an older stream")),
        }
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

#[tonic::async_trait]
impl FrameworkService for Master {
    type SubscribeStream = EventStream;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut world = self.world();
        let stream_id = world.id("stream");
        world.stream = Some((stream_id.clone(), sender));
        // All that is offered here is for everybody.
        world.suppressed = is_for_all(&request.into_inner().suppressed_roles);
        world.refused = false;
        world.offer = None;
        world.subscriptions += 1;
        let term = world.term;
        world.send(Inner::Subscribed(proto::event::Subscribed {
            framework_id: "framework-1".into(),
            stream_id,
            heartbeat_interval_ms: 15_000,
            master_id: "master-1".into(),
            term,
        }));
        let kept: Vec<proto::TaskStatus> = world.unacknowledged.values().cloned().collect();
        for status in kept {
            world.send(Inner::Update(status));
        }
        world.make_offer();
        Ok(Response::new(Box::pin(
            UnboundedReceiverStream::new(receiver).map(|event| event),
        )))
    }

    async fn accept_each(
        &self,
        _: Request<proto::AcceptEachRequest>,
    ) -> Result<Response<proto::AcceptEachResponse>, Status> {
        Err(Status::unimplemented("the scheduler does without"))
    }

    async fn accept(
        &self,
        request: Request<proto::AcceptRequest>,
    ) -> Result<Response<proto::AcceptResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check(request.caller)?;
        world.accepts += 1;
        let valid = world
            .offer
            .take_if(|(id, _)| request.offer_ids == [id.clone()])
            .is_some();
        for operation in request.operations {
            let tasks: Vec<TaskInfo> = match operation.operation {
                Some(proto::operation::Operation::Launch(launch)) => {
                    let tasks = launch.tasks.into_iter().map(TaskInfo::try_from);
                    tasks.collect::<Result<_, _>>().map_err(Status::from)?
                }
                Some(proto::operation::Operation::LaunchGroup(group)) => {
                    mezzo_api::convert::group_members(group).map_err(Status::from)?
                }
                Some(_) | None => continue,
            };
            for info in tasks {
                if valid {
                    world.launch(info);
                } else {
                    world.status(
                        info.task_id.as_str(),
                        proto::TaskState::TaskDropped,
                        "stale offer",
                        None,
                        false,
                    );
                }
            }
        }
        world.refused = request.filters.and_then(|filters| filters.refuse_ms) != Some(0);
        world.make_offer();
        Ok(Response::new(proto::AcceptResponse {}))
    }

    async fn decline(
        &self,
        request: Request<proto::DeclineRequest>,
    ) -> Result<Response<proto::DeclineResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check(request.caller)?;
        if world
            .offer
            .take_if(|(id, _)| request.offer_ids.contains(id))
            .is_some()
        {
            world.refused = true;
        }
        Ok(Response::new(proto::DeclineResponse {}))
    }

    async fn revive(
        &self,
        request: Request<proto::ReviveRequest>,
    ) -> Result<Response<proto::ReviveResponse>, Status> {
        let mut world = self.world();
        let request = request.into_inner();
        world.check(request.caller)?;
        if is_for_all(&request.roles) {
            world.suppressed = false;
            world.refused = false;
            world.make_offer();
        }
        Ok(Response::new(proto::ReviveResponse {}))
    }

    async fn suppress(
        &self,
        request: Request<proto::SuppressRequest>,
    ) -> Result<Response<proto::SuppressResponse>, Status> {
        let mut world = self.world();
        let request = request.into_inner();
        world.check(request.caller)?;
        world.suppressed |= is_for_all(&request.roles);
        Ok(Response::new(proto::SuppressResponse {}))
    }

    async fn kill(
        &self,
        request: Request<proto::KillRequest>,
    ) -> Result<Response<proto::KillResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check(request.caller)?;
        if world.tasks.contains_key(&request.task_id) {
            world.end(&request.task_id, proto::TaskState::TaskKilled, "asked");
            world.make_offer();
        } else {
            world.status(
                &request.task_id,
                proto::TaskState::TaskUnknown,
                "",
                None,
                false,
            );
        }
        Ok(Response::new(proto::KillResponse {}))
    }

    async fn acknowledge(
        &self,
        request: Request<proto::AcknowledgeRequest>,
    ) -> Result<Response<proto::AcknowledgeResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check(request.caller)?;
        world.unacknowledged.remove(&request.update_id);
        Ok(Response::new(proto::AcknowledgeResponse {}))
    }

    async fn reconcile(
        &self,
        request: Request<proto::ReconcileRequest>,
    ) -> Result<Response<proto::ReconcileResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.world();
        world.check(request.caller)?;
        let known: Vec<(String, proto::TaskState)> = world
            .tasks
            .iter()
            .map(|(id, (_, state))| (id.clone(), *state))
            .collect();
        let asked: Vec<String> = request.tasks.into_iter().map(|key| key.task_id).collect();
        for (id, state) in &known {
            if asked.is_empty() || asked.contains(id) {
                world.status(id, *state, "", None, false);
            }
        }
        for id in asked {
            if !known.iter().any(|(known, _)| *known == id) {
                world.status(&id, proto::TaskState::TaskUnknown, "", None, false);
            }
        }
        Ok(Response::new(proto::ReconcileResponse {}))
    }

    async fn send_message(
        &self,
        _: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        Err(Status::unimplemented("no messages here"))
    }

    async fn update_framework(
        &self,
        _: Request<proto::UpdateFrameworkRequest>,
    ) -> Result<Response<proto::UpdateFrameworkResponse>, Status> {
        Err(Status::unimplemented("no updates here"))
    }

    async fn answer_inverse_offers(
        &self,
        _: Request<proto::AnswerInverseOffersRequest>,
    ) -> Result<Response<proto::AnswerInverseOffersResponse>, Status> {
        Err(Status::unimplemented("no inverse offers here"))
    }

    async fn teardown(
        &self,
        _: Request<proto::TeardownRequest>,
    ) -> Result<Response<proto::TeardownResponse>, Status> {
        Err(Status::unimplemented("no teardown here"))
    }

    async fn acknowledge_operation(
        &self,
        _: Request<proto::AcknowledgeOperationRequest>,
    ) -> Result<Response<proto::AcknowledgeOperationResponse>, Status> {
        Err(Status::unimplemented("no operations here"))
    }

    async fn reconcile_operations(
        &self,
        _: Request<proto::ReconcileOperationsRequest>,
    ) -> Result<Response<proto::ReconcileOperationsResponse>, Status> {
        Err(Status::unimplemented("no operations here"))
    }
}

fn is_for_all(roles: &[String]) -> bool {
    roles.iter().any(|role| role == "*")
}
