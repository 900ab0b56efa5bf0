//! A whole framework in one file: runs one task on a mezzo cluster to its end, and tells how it ended and what it used.
//!
//! What every framework does is here, in the order of the file: subscribe (and again when the stream breaks), take an
//! offer that is large enough, decline the others, launch, acknowledge each status, reconcile after a reconnect, and
//! tear down at the end. It works on the generated messages alone, as a program in any other language would.
//!
//! Driven by one loop in `run`; nothing is spawned. `integration/tests/frameworks.rs` runs it against a live cluster.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use mezzo_api::proto::event::{Event as What, Heartbeat, Offers, Subscribed};
use mezzo_api::proto::framework_service_client::FrameworkServiceClient;
use mezzo_api::proto::operation::{Launch, Operation as Kind};
use mezzo_api::proto::{
    AcceptRequest, AcknowledgeRequest, Caller, ContainerInfo, DeclineRequest, Event, ExitInfo,
    Filters, FrameworkInfo, NetworkMode, Offer, Operation, ReconcileRequest, Resource, Scalar,
    SubscribeRequest, TaskInfo, TaskState, TaskStatus, TeardownRequest, Usage, exit_info,
    reconcile_request, resource,
};
use tonic::transport::Channel;

const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// How long the master keeps our task while we are away.
const FAILOVER: Duration = Duration::from_secs(60);
/// Offers that we have no use for: not again for this long.
const REFUSE: Duration = Duration::from_secs(600);

/// Runs one task to its end and prints its exit code and what it used.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  example-rust-framework --image 127.0.0.1:5000/sleep:1 -- 1 --exit-code 7"
)]
struct Args {
    /// host:port of the master
    #[arg(long, default_value = "127.0.0.1:5050", env = "MEZZO_MASTER")]
    master: String,
    /// The image to run
    #[arg(long)]
    image: String,
    /// Processors, in thousandths
    #[arg(long, default_value_t = 100)]
    cpu_millis: i64,
    /// MiB of memory
    #[arg(long, default_value_t = 32)]
    memory: i64,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 300)]
    deadline: u64,
    /// Arguments of the task, after `--`
    #[arg(last = true)]
    args: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let deadline = Duration::from_secs(args.deadline);
    match tokio::time::timeout(deadline, run(args)).await {
        Ok(Ok(ended)) => {
            println!("{}", describe(&ended));
            if ended.exit.is_some() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!(
                "error: the task did not end within {} s",
                deadline.as_secs()
            );
            ExitCode::FAILURE
        }
    }
}

/// Follows one stream after the other until the task has ended.
async fn run(args: Args) -> anyhow::Result<TaskStatus> {
    let endpoint = format!("http://{}", args.master);
    let channel = Channel::from_shared(endpoint).context("--master is no host:port")?;
    let mut framework = Framework::new(FrameworkServiceClient::new(channel.connect_lazy()), args);
    loop {
        match framework.follow_stream().await {
            Ok(ended) => return Ok(ended),
            // Connecting again helps against a master that is away, not against one that says no.
            Err(status) if is_refusal(status.code()) => {
                bail!("the master refused: {}", status.message())
            }
            Err(status) => {
                eprintln!("the stream broke ({}), connecting again", status.message());
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    }
}

fn is_refusal(code: tonic::Code) -> bool {
    matches!(
        code,
        tonic::Code::InvalidArgument | tonic::Code::NotFound | tonic::Code::PermissionDenied
    )
}

struct Framework {
    client: FrameworkServiceClient<Channel>,
    args: Args,
    /// Empty until the master has named us.
    caller: Caller,
    /// Chosen once: a task id is never used twice.
    task_id: String,
    /// The agent that our task was launched on.
    launched_on: Option<String>,
    /// The last status of our task.
    ended: Option<TaskStatus>,
}

impl Framework {
    fn new(client: FrameworkServiceClient<Channel>, args: Args) -> Self {
        let task_id = format!("example-{}", uuid::Uuid::new_v4());
        Self {
            client,
            args,
            caller: Caller::default(),
            task_id,
            launched_on: None,
            ended: None,
        }
    }

    /// Subscribes and handles events until our task has ended (`Ok`) or the stream breaks (`Err`).
    async fn follow_stream(&mut self) -> Result<TaskStatus, tonic::Status> {
        let framework = FrameworkInfo {
            framework_id: self.caller.framework_id.clone(),
            name: "example-rust-framework".to_owned(),
            failover_timeout_ms: FAILOVER.as_millis() as u64,
            ..FrameworkInfo::default()
        };
        let request = SubscribeRequest {
            framework: Some(framework),
            suppressed_roles: Vec::new(),
        };
        let mut events = self.client.subscribe(request).await?.into_inner();
        let mut silence_allowed = Duration::from_secs(30);
        loop {
            let next = tokio::time::timeout(silence_allowed, events.message()).await;
            let next = next.map_err(|_| tonic::Status::unavailable("no heartbeat"))??;
            let Some(Event { event: Some(what) }) = next else {
                return Err(tonic::Status::unavailable("the master closed the stream"));
            };
            match what {
                What::Subscribed(subscribed) => {
                    silence_allowed =
                        Duration::from_millis(subscribed.heartbeat_interval_ms.max(1000) * 3);
                    self.subscribed(subscribed).await?;
                }
                What::Offers(Offers { offers }) => self.use_offers(offers).await?,
                What::Update(status) => self.updated(status).await?,
                // A withdrawn offer is one we have answered already, or a launch of ours will be answered by an update.
                What::Rescind(_)
                | What::AgentLost(_)
                | What::InverseOffers(_)
                | What::RescindInverseOffer(_)
                | What::Operation(_)
                | What::Heartbeat(Heartbeat {}) => {}
            }
            if let Some(ended) = self.ended.clone() {
                // While we are subscribed: a call without a stream is refused.
                let caller = Some(self.caller.clone());
                self.client.teardown(TeardownRequest { caller }).await?;
                return Ok(ended);
            }
        }
    }

    async fn subscribed(&mut self, subscribed: Subscribed) -> Result<(), tonic::Status> {
        println!("subscribed as {}", subscribed.framework_id);
        self.caller = Caller {
            framework_id: subscribed.framework_id,
            stream_id: subscribed.stream_id,
        };
        // What happened to our task while we were away? The answer comes as an update.
        if let (Some(agent_id), None) = (self.launched_on.clone(), &self.ended) {
            let task = reconcile_request::TaskKey {
                task_id: self.task_id.clone(),
                agent_id,
            };
            let request = ReconcileRequest {
                caller: Some(self.caller.clone()),
                tasks: vec![task],
            };
            self.client.reconcile(request).await?;
        }
        Ok(())
    }

    /// Launches on the first offer that is large enough; declines everything else.
    async fn use_offers(&mut self, offers: Vec<Offer>) -> Result<(), tonic::Status> {
        let mut unused = Vec::new();
        for offer in offers {
            let fits = has(&offer, "cpus", self.args.cpu_millis)
                && has(&offer, "mem", self.args.memory * 1000);
            if fits && self.launched_on.is_none() {
                // Noted before the call: if the answer gets lost, reconciliation tells whether the launch did.
                self.launched_on = Some(offer.agent_id.clone());
                println!("launches {} on {}", self.task_id, offer.hostname);
                let launch = Launch {
                    tasks: vec![self.task(offer.agent_id)],
                };
                let request = AcceptRequest {
                    caller: Some(self.caller.clone()),
                    offer_ids: vec![offer.offer_id],
                    operations: vec![Operation {
                        operation: Some(Kind::Launch(launch)),
                        ..Operation::default()
                    }],
                    filters: Some(refuse()),
                };
                self.client.accept(request).await?;
            } else {
                unused.push(offer.offer_id);
            }
        }
        if !unused.is_empty() {
            let caller = Some(self.caller.clone());
            self.client
                .decline(DeclineRequest {
                    caller,
                    offer_ids: unused,
                    filters: Some(refuse()),
                })
                .await?;
        }
        Ok(())
    }

    /// Acknowledges, or the agent would send it again and again.
    async fn updated(&mut self, status: TaskStatus) -> Result<(), tonic::Status> {
        println!("{} {}", status.state().as_str_name(), status.message);
        if !status.update_id.is_empty() {
            let request = AcknowledgeRequest {
                caller: Some(self.caller.clone()),
                agent_id: status.agent_id.clone(),
                task_id: status.task_id.clone(),
                update_id: status.update_id.clone(),
                ..AcknowledgeRequest::default()
            };
            self.client.acknowledge(request).await?;
        }
        if status.task_id == self.task_id && has_ended(status.state()) && self.ended.is_none() {
            self.ended = Some(status);
        }
        Ok(())
    }

    fn task(&self, agent_id: String) -> TaskInfo {
        let container = ContainerInfo {
            image: self.args.image.clone(),
            args: self.args.args.clone(),
            network: NetworkMode::Host.into(),
            ..ContainerInfo::default()
        };
        TaskInfo {
            task_id: self.task_id.clone(),
            name: "example".to_owned(),
            agent_id,
            resources: vec![
                scalar("cpus", self.args.cpu_millis),
                scalar("mem", self.args.memory * 1000),
            ],
            container: Some(container),
            ..TaskInfo::default()
        }
    }
}

fn refuse() -> Filters {
    Filters {
        refuse_ms: Some(REFUSE.as_millis() as u64),
    }
}

fn scalar(name: &str, millis: i64) -> Resource {
    Resource {
        name: name.to_owned(),
        value: Some(resource::Value::Scalar(Scalar { millis })),
    }
}

fn has(offer: &Offer, name: &str, millis: i64) -> bool {
    offer.resources.iter().any(|r| {
        r.name == name && matches!(r.value, Some(resource::Value::Scalar(Scalar { millis: here })) if here >= millis)
    })
}

fn has_ended(state: TaskState) -> bool {
    match state {
        TaskState::TaskFinished
        | TaskState::TaskFailed
        | TaskState::TaskKilled
        | TaskState::TaskError
        | TaskState::TaskDropped
        | TaskState::TaskGone
        // Of a task that we know to have launched: the launch never arrived.
        | TaskState::TaskUnknown => true,
        TaskState::Unspecified
        | TaskState::TaskStaging
        | TaskState::TaskStarting
        | TaskState::TaskRunning
        | TaskState::TaskKilling
        | TaskState::TaskUnreachable => false,
    }
}

fn describe(ended: &TaskStatus) -> String {
    let how = match &ended.exit {
        Some(ExitInfo {
            how: Some(exit_info::How::Code(code)),
            ..
        }) => format!("exit code {code}"),
        Some(ExitInfo {
            how: Some(exit_info::How::Signal(signal)),
            ..
        }) => format!("killed by signal {signal}"),
        Some(_) | None => format!("did not run: {}", ended.message),
    };
    let Usage {
        cpu_total_us,
        memory_peak_bytes,
        ..
    } = ended.usage.as_deref().copied().unwrap_or_default();
    let seconds = cpu_total_us.map_or("unknown".to_owned(), |us| {
        format!("{:.3} s", us as f64 / 1e6)
    });
    let peak = memory_peak_bytes.map_or("unknown".to_owned(), |bytes| {
        format!("{} KiB", bytes / 1024)
    });
    format!("{how}; final usage: cpu {seconds}, memory peak {peak}")
}
