//! A master that does what a test says: takes registrations, sends messages, remembers statuses, acknowledges them or
//! not.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::Stream;
use mezzo_api::model::Resources;
use mezzo_api::proto::{
    self,
    agent_message::{Message as FromAgent, Register},
    agent_service_server::{AgentService, AgentServiceServer},
    master_message::Message as FromMaster,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(100);

#[derive(Default)]
struct Seen {
    registrations: Vec<Register>,
    statuses: Vec<proto::TaskStatus>,
    reports: usize,
    slack: Vec<proto::Slack>,
    pongs: Vec<u64>,
    pools: Vec<proto::agent_message::PoolReport>,
    stream: Option<mpsc::Sender<Result<proto::MasterMessage, Status>>>,
}

struct Inner {
    seen: Mutex<Seen>,
    changed: watch::Sender<u64>,
    acknowledges: AtomicBool,
    ping_timeout_ms: AtomicU64,
}

impl Inner {
    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        let result = act(&mut self.seen.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        result
    }
}

/// The master.
pub(crate) struct Master {
    inner: Arc<Inner>,
    pub(crate) address: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Master {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Master {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Inner {
            seen: Mutex::default(),
            changed: watch::Sender::new(0),
            acknowledges: AtomicBool::new(true),
            ping_timeout_ms: AtomicU64::new(300_000),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = AgentServiceServer::new(Service(Arc::clone(&inner)));
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            inner,
            address,
            server,
        }
    }

    pub(crate) fn acknowledge(&self, yes: bool) {
        self.inner.acknowledges.store(yes, Ordering::Relaxed);
    }

    /// How long an agent bears the silence: this master never pings.
    pub(crate) fn ping_timeout_ms(&self, ms: u64) {
        self.inner.ping_timeout_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) async fn send(&self, message: FromMaster) {
        let stream = self
            .inner
            .with(|seen| seen.stream.clone())
            .expect("an agent is connected");
        stream
            .send(Ok(proto::MasterMessage {
                message: Some(message),
            }))
            .await
            .unwrap();
    }

    /// Breaks the stream.
    pub(crate) fn hang_up(&self) {
        self.inner.with(|seen| seen.stream = None);
    }

    pub(crate) fn statuses(&self) -> Vec<proto::TaskStatus> {
        self.inner.with(|seen| seen.statuses.clone())
    }

    pub(crate) fn last_registration(&self) -> Register {
        self.inner
            .with(|seen| seen.registrations.last().cloned())
            .expect("an agent has registered")
    }

    async fn until<T>(&self, what: &str, find: impl Fn(&mut Seen) -> Option<T>) -> T {
        let mut changed = self.inner.changed.subscribe();
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = find(&mut self.inner.seen.lock().unwrap()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("no {what}; statuses: {:#?}", self.statuses()),
        }
    }

    /// Waits for the nth registration.
    pub(crate) async fn registered(&self, n: usize) {
        self.until("registration", |seen| {
            (seen.registrations.len() >= n && seen.stream.is_some()).then_some(())
        })
        .await;
    }

    /// Waits for a status of a task in a state.
    pub(crate) async fn status(&self, task: &str, state: proto::TaskState) -> proto::TaskStatus {
        self.until(&format!("{} of {task}", state.as_str_name()), |seen| {
            seen.statuses
                .iter()
                .find(|s| s.task_id == task && s.state() == state)
                .cloned()
        })
        .await
    }

    /// Waits for a status of a task in any of these states.
    pub(crate) async fn any(&self, task: &str, states: &[proto::TaskState]) -> proto::TaskStatus {
        self.until(&format!("any of {states:?} of {task}"), |seen| {
            seen.statuses
                .iter()
                .find(|s| s.task_id == task && states.contains(&s.state()))
                .cloned()
        })
        .await
    }

    /// Waits for any terminal status of a task.
    pub(crate) async fn end(&self, task: &str) -> proto::TaskStatus {
        use proto::TaskState::{
            TaskDropped, TaskError, TaskFailed, TaskFinished, TaskGone, TaskKilled,
        };
        let terminal = [
            TaskFinished,
            TaskFailed,
            TaskKilled,
            TaskError,
            TaskDropped,
            TaskGone,
        ];
        self.any(task, &terminal).await
    }

    /// Waits for the answer to a ping.
    pub(crate) async fn ping(&self, sequence: u64) {
        self.send(FromMaster::Ping(proto::master_message::Ping { sequence }))
            .await;
        self.until("pong", |seen| seen.pongs.contains(&sequence).then_some(()))
            .await;
    }

    /// Waits for what became of a change of reservations or volumes.
    pub(crate) async fn operation(&self, id: &str) -> proto::OperationStatus {
        self.until(&format!("end of operation {id}"), |seen| {
            let told = seen.pools.iter().filter_map(|report| report.status.clone());
            told.into_iter().find(|status| status.operation_id == id)
        })
        .await
    }

    /// Waits until what the agent lends is as wanted.
    pub(crate) async fn lends(&self, what: &str, wanted: impl Fn(&Resources) -> bool) {
        self.until(what, |seen| {
            let last = seen.slack.last()?.clone();
            let last = mezzo_api::convert::slack(last).expect("what can be lent");
            wanted(&last).then_some(())
        })
        .await;
    }

    /// Usage reports so far.
    pub(crate) fn reports(&self) -> usize {
        self.inner.with(|seen| seen.reports)
    }

    /// Waits for a usage report.
    pub(crate) async fn report(&self) {
        self.until("usage report", |seen| (seen.reports > 0).then_some(()))
            .await;
    }
}

struct Service(Arc<Inner>);

#[tonic::async_trait]
impl AgentService for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<proto::MasterMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, answers) = mpsc::channel(64);
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let send = |message| proto::MasterMessage {
                message: Some(message),
            };
            while let Ok(Some(message)) = messages.message().await {
                match message.message {
                    Some(FromAgent::Register(register)) => {
                        let agent_id = if register.agent_id.is_empty() {
                            "agent-1".to_owned()
                        } else {
                            register.agent_id.clone()
                        };
                        let registered = proto::master_message::Registered {
                            agent_id,
                            master_id: "m".into(),
                            ping_interval_ms: 60_000,
                            ping_timeout_ms: inner.ping_timeout_ms.load(Ordering::Relaxed),
                            term: 1,
                        };
                        let _ = sender
                            .send(Ok(send(FromMaster::Registered(registered))))
                            .await;
                        // The test's copy is the only one that lasts: dropping it ends the stream.
                        let keep = sender.clone();
                        inner.with(|seen| {
                            seen.registrations.push(*register);
                            seen.stream = Some(keep);
                        });
                    }
                    Some(FromAgent::Status(status)) => {
                        let acknowledge = proto::master_message::Acknowledge {
                            framework_id: status.framework_id.clone(),
                            task_id: status.task_id.clone(),
                            update_id: status.update_id.clone(),
                        };
                        let stream = inner.with(|seen| {
                            seen.statuses.push(*status);
                            seen.stream.clone()
                        });
                        if inner.acknowledges.load(Ordering::Relaxed)
                            && let Some(stream) = stream
                        {
                            let _ = stream
                                .send(Ok(send(FromMaster::Acknowledge(acknowledge))))
                                .await;
                        }
                    }
                    Some(FromAgent::Usage(_)) => inner.with(|seen| seen.reports += 1),
                    Some(FromAgent::Pools(report)) => inner.with(|seen| seen.pools.push(*report)),
                    Some(FromAgent::Slack(slack)) => inner.with(|seen| seen.slack.push(slack)),
                    Some(FromAgent::Pong(pong)) => {
                        inner.with(|seen| seen.pongs.push(pong.sequence));
                    }
                    None => {}
                }
                if inner.with(|seen| seen.stream.is_none()) {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
