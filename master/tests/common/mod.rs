//! A scripted agent, a scripted framework and a master in this process, over real gRPC on loopback.
//!
//! The agent runs nothing: the test says what it reports. Everything waits on messages, with one deadline.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is the test's failure"
)]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mezzo_api::proto::{
    self, AgentMessage, agent_message, agent_service_client::AgentServiceClient, event,
    framework_service_client::FrameworkServiceClient, master_message,
    operator_service_client::OperatorServiceClient,
};
use mezzo_master::{Config, Error};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};

/// Nothing in these tests takes longer, on a busy machine either.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running master.
pub struct Master {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), Error>>>,
}

/// Any port, and times in which nobody is given up on a busy machine: a test of such a time sets it.
pub fn config(state_dir: &Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        state_dir: state_dir.to_owned(),
        allocation_interval: Duration::from_millis(50),
        agent_ping_interval: Duration::from_millis(100),
        agent_ping_timeout: DEADLINE,
        agent_timeout: DEADLINE,
        recovery_timeout: DEADLINE,
        greeting_timeout: DEADLINE,
        shutdown_grace: DEADLINE,
        ..Config::default()
    }
}

impl Master {
    pub async fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let (ready, address) = oneshot::channel();
        let task = tokio::spawn(mezzo_master::run_and_tell(
            config,
            shutdown.clone(),
            Some(ready),
        ));
        let address = timeout(DEADLINE, address)
            .await
            .expect("the master starts in time");
        match address {
            Ok(address) => Self {
                address,
                shutdown,
                task: Some(task),
            },
            Err(_) => panic!("the master did not start: {:?}", task.await),
        }
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            timeout(DEADLINE, task)
                .await
                .expect("the master stops in time")
                .unwrap()
                .unwrap();
        }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// Of whom all that was told to anybody by now can be read: reads are answered from what was published last, and an order
    /// publishes what is true by then, also one that is refused.
    pub async fn operator(&self) -> OperatorServiceClient<Channel> {
        let mut operator = OperatorServiceClient::new(self.channel().await);
        let nobody = proto::DeactivateAgentRequest {
            agent_id: "nobody".to_owned(),
        };
        let refused = operator.deactivate_agent(nobody).await;
        refused.expect_err("there is no such agent");
        operator
    }

    pub async fn cluster(&self) -> proto::Cluster {
        self.operator()
            .await
            .get_cluster(proto::GetClusterRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// Polls the cluster until it looks as it should.
    pub async fn wait_for(
        &self,
        what: &str,
        fits: impl Fn(&proto::Cluster) -> bool,
    ) -> proto::Cluster {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let cluster = self.cluster().await;
            if fits(&cluster) {
                return cluster;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited for {what}; the cluster is {cluster:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A scripted agent. Pings are answered in the background until it is muted.
pub struct Agent {
    pub id: String,
    muted: Arc<AtomicBool>,
    outbound: mpsc::Sender<AgentMessage>,
    inbound: mpsc::Receiver<Result<master_message::Message, Status>>,
    reader: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

pub fn resources(text: &str) -> Vec<proto::Resource> {
    text.parse::<mezzo_api::model::Resources>().unwrap().into()
}

pub fn agent_info(hostname: &str, offered: &str) -> proto::AgentInfo {
    proto::AgentInfo {
        hostname: hostname.to_owned(),
        address: "127.0.0.1:5051".to_owned(),
        resources: resources(offered),
        version: "0.1.0".to_owned(),
        kernel: "6.1".to_owned(),
        architecture: "x86_64".to_owned(),
        ..proto::AgentInfo::default()
    }
}

impl Agent {
    pub async fn attach(master: &Master, hostname: &str, offered: &str) -> Self {
        Self::reattach(master, "", hostname, offered, Vec::new())
            .await
            .unwrap()
    }

    pub async fn reattach(
        master: &Master,
        id: &str,
        hostname: &str,
        offered: &str,
        tasks: Vec<proto::Task>,
    ) -> Result<Self, Status> {
        let register = agent_message::Register {
            agent_id: id.to_owned(),
            info: Some(agent_info(hostname, offered)),
            boot_id: "boot".to_owned(),
            tasks,
            operations: Vec::new(),
        };
        let mut agent =
            Self::open(master, agent_message::Message::Register(Box::new(register))).await?;
        match agent.next().await? {
            master_message::Message::Registered(registered) => agent.id = registered.agent_id,
            other => panic!("expected Registered, got {other:?}"),
        }
        Ok(agent)
    }

    pub async fn open(master: &Master, first: agent_message::Message) -> Result<Self, Status> {
        let (outbound, receiver) = mpsc::channel(64);
        outbound
            .send(AgentMessage {
                message: Some(first),
            })
            .await
            .unwrap();
        let mut client = AgentServiceClient::new(master.channel().await);
        let mut stream = client
            .attach(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let (forward, inbound) = mpsc::channel(1024);
        let (pongs, muted) = (outbound.clone(), Arc::new(AtomicBool::new(false)));
        let silent = Arc::clone(&muted);
        let reader = tokio::spawn(async move {
            loop {
                let message = match stream.message().await {
                    Ok(Some(message)) => Ok(message.message.unwrap()),
                    Ok(None) => Err(Status::unknown("the stream ended")),
                    Err(status) => Err(status),
                };
                if let Ok(master_message::Message::Ping(ping)) = message {
                    let pong = agent_message::Pong {
                        sequence: ping.sequence,
                    };
                    if !silent.load(Ordering::Relaxed) {
                        let _ = pongs
                            .send(AgentMessage {
                                message: Some(agent_message::Message::Pong(pong)),
                            })
                            .await;
                    }
                    continue;
                }
                let last = message.is_err();
                if forward.send(message).await.is_err() || last {
                    break;
                }
            }
        });
        Ok(Self {
            id: String::new(),
            muted,
            outbound,
            inbound,
            reader,
        })
    }

    /// From now on pings are not answered.
    pub fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    /// The next message that is not a ping.
    pub async fn next(&mut self) -> Result<master_message::Message, Status> {
        let message = timeout(DEADLINE, self.inbound.recv())
            .await
            .expect("the master says something");
        message.unwrap_or_else(|| Err(Status::unknown("the stream ended")))
    }

    pub async fn expect_launch(&mut self) -> proto::Launch {
        match self.next().await.unwrap() {
            master_message::Message::Launch(launch) => launch,
            other => panic!("expected Launch, got {other:?}"),
        }
    }

    pub async fn expect_group(&mut self) -> master_message::LaunchGroup {
        match self.next().await.unwrap() {
            master_message::Message::LaunchGroup(launch) => launch,
            other => panic!("expected LaunchGroup, got {other:?}"),
        }
    }

    pub async fn expect_kill(&mut self) -> master_message::Kill {
        match self.next().await.unwrap() {
            master_message::Message::Kill(kill) => kill,
            other => panic!("expected Kill, got {other:?}"),
        }
    }

    pub async fn expect_acknowledge(&mut self) -> master_message::Acknowledge {
        match self.next().await.unwrap() {
            master_message::Message::Acknowledge(acknowledge) => acknowledge,
            other => panic!("expected Acknowledge, got {other:?}"),
        }
    }

    pub async fn report(&self, launch: &proto::Launch, state: proto::TaskState, update_id: &str) {
        let status = self.status(launch, state, update_id);
        self.say(agent_message::Message::Status(Box::new(status)))
            .await;
    }

    /// Anything.
    pub async fn say(&self, message: agent_message::Message) {
        let message = Some(message);
        self.outbound.send(AgentMessage { message }).await.unwrap();
    }

    pub fn status(
        &self,
        launch: &proto::Launch,
        state: proto::TaskState,
        update_id: &str,
    ) -> proto::TaskStatus {
        proto::TaskStatus {
            task_id: launch.info().unwrap().task_id,
            framework_id: launch.framework_id.clone(),
            agent_id: self.id.clone(),
            state: state.into(),
            source: proto::StatusSource::Agent.into(),
            timestamp_ms: 1,
            update_id: update_id.to_owned(),
            ..proto::TaskStatus::default()
        }
    }

    /// As it would stand in a Register.
    pub fn task(
        &self,
        launch: &proto::Launch,
        state: proto::TaskState,
        update_id: &str,
    ) -> proto::Task {
        proto::Task {
            info: Some(Box::new(launch.info().unwrap())),
            framework_id: launch.framework_id.clone(),
            role: launch.role.clone(),
            status: Some(self.status(launch, state, update_id)),
            started_at_ms: None,
        }
    }
}

/// A scripted framework.
pub struct Framework {
    pub id: String,
    pub stream_id: String,
    pub client: FrameworkServiceClient<Channel>,
    pub events: Streaming<proto::Event>,
}

pub fn framework_info(name: &str, role: &str, failover: Duration) -> proto::FrameworkInfo {
    proto::FrameworkInfo {
        name: name.to_owned(),
        roles: vec![role.to_owned()],
        failover_timeout_ms: failover.as_millis().try_into().unwrap(),
        ..proto::FrameworkInfo::default()
    }
}

impl Framework {
    pub async fn subscribe(master: &Master, name: &str) -> Self {
        Self::subscribe_as(master, framework_info(name, "*", Duration::from_secs(60)))
            .await
            .unwrap()
    }

    pub async fn subscribe_as(master: &Master, info: proto::FrameworkInfo) -> Result<Self, Status> {
        let mut client = FrameworkServiceClient::new(master.channel().await);
        let request = proto::SubscribeRequest {
            framework: Some(info),
            suppressed_roles: Vec::new(),
        };
        let events = client.subscribe(request).await?.into_inner();
        let mut framework = Self {
            id: String::new(),
            stream_id: String::new(),
            client,
            events,
        };
        match framework.next().await? {
            event::Event::Subscribed(subscribed) => {
                framework.id = subscribed.framework_id;
                framework.stream_id = subscribed.stream_id;
            }
            other => panic!("expected Subscribed, got {other:?}"),
        }
        Ok(framework)
    }

    pub fn caller(&self) -> Option<proto::Caller> {
        Some(proto::Caller {
            framework_id: self.id.clone(),
            stream_id: self.stream_id.clone(),
        })
    }

    pub async fn next(&mut self) -> Result<event::Event, Status> {
        let event = async {
            loop {
                let message = self.events.message().await?;
                let message = message.ok_or_else(|| Status::unknown("the stream ended"))?;
                match message.event.unwrap() {
                    event::Event::Heartbeat(_) => {}
                    other => return Ok(other),
                }
            }
        };
        timeout(DEADLINE, event)
            .await
            .expect("the master says something")
    }

    /// The next offers; rescinds on the way are dropped.
    pub async fn expect_offers(&mut self) -> Vec<proto::Offer> {
        loop {
            match self.next().await.unwrap() {
                event::Event::Offers(offers) => return offers.offers,
                event::Event::Rescind(_) => {}
                other => panic!("expected Offers, got {other:?}"),
            }
        }
    }

    /// The next update; offers on the way are dropped.
    pub async fn expect_update(&mut self) -> proto::TaskStatus {
        loop {
            match self.next().await.unwrap() {
                event::Event::Update(status) => return status,
                event::Event::Offers(_)
                | event::Event::Rescind(_)
                | event::Event::AgentLost(_)
                | event::Event::InverseOffers(_)
                | event::Event::RescindInverseOffer(_) => {}
                other => panic!("expected Update, got {other:?}"),
            }
        }
    }

    pub async fn expect_state(
        &mut self,
        task_id: &str,
        state: proto::TaskState,
    ) -> proto::TaskStatus {
        let status = self.expect_update().await;
        assert_eq!(
            (status.task_id.as_str(), status.state()),
            (task_id, state),
            "{status:?}"
        );
        status
    }

    pub async fn expect_end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(status)
                    if status.code() == Code::Unknown && status.message() == "the stream ended" =>
                {
                    panic!("the stream ended without a reason")
                }
                Err(status) => return status,
            }
        }
    }

    pub async fn accept(&mut self, offers: &[proto::Offer], tasks: Vec<proto::TaskInfo>) {
        let launch = proto::operation::Launch { tasks };
        self.operate(offers, proto::operation::Operation::Launch(launch))
            .await;
    }

    pub async fn operate(
        &mut self,
        offers: &[proto::Offer],
        operation: proto::operation::Operation,
    ) {
        let request = proto::AcceptRequest {
            caller: self.caller(),
            offer_ids: offers.iter().map(|offer| offer.offer_id.clone()).collect(),
            operations: vec![proto::Operation {
                operation: Some(operation),
                operation_id: String::new(),
            }],
            filters: Some(proto::Filters { refuse_ms: Some(0) }),
        };
        self.client.accept(request).await.unwrap();
    }

    pub async fn decline(&mut self, offers: &[proto::Offer], refuse: Duration) {
        let request = proto::DeclineRequest {
            caller: self.caller(),
            offer_ids: offers.iter().map(|offer| offer.offer_id.clone()).collect(),
            filters: Some(proto::Filters {
                refuse_ms: Some(refuse.as_millis().try_into().unwrap()),
            }),
        };
        self.client.decline(request).await.unwrap();
    }

    pub async fn acknowledge(&mut self, status: &proto::TaskStatus) {
        let request = proto::AcknowledgeRequest {
            caller: self.caller(),
            agent_id: status.agent_id.clone(),
            task_id: status.task_id.clone(),
            update_id: status.update_id.clone(),
            ..proto::AcknowledgeRequest::default()
        };
        self.client.acknowledge(request).await.unwrap();
    }

    pub async fn reconcile(&mut self, tasks: &[(&str, &str)]) {
        let request = proto::ReconcileRequest {
            caller: self.caller(),
            tasks: tasks
                .iter()
                .map(|(task, agent)| proto::reconcile_request::TaskKey {
                    task_id: (*task).to_owned(),
                    agent_id: (*agent).to_owned(),
                })
                .collect(),
        };
        self.client.reconcile(request).await.unwrap();
    }

    pub async fn kill(&mut self, task_id: &str) {
        let request = proto::KillRequest {
            caller: self.caller(),
            task_id: task_id.to_owned(),
            ..proto::KillRequest::default()
        };
        self.client.kill(request).await.unwrap();
    }
}

pub fn task(id: &str, agent_id: &str, taken: &str) -> proto::TaskInfo {
    proto::TaskInfo {
        task_id: id.to_owned(),
        name: id.to_owned(),
        agent_id: agent_id.to_owned(),
        resources: resources(taken),
        container: Some(proto::ContainerInfo {
            image: "sleep:1".to_owned(),
            ..proto::ContainerInfo::default()
        }),
        ..proto::TaskInfo::default()
    }
}
