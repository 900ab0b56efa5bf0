//! The front for agents: one bidirectional stream each.
//!
//! A task per stream reads it and pings. An agent that says nothing for the ping time-out is cut off; the core learns
//! only that streams begin and end. Garbage ends the stream with INVALID_ARGUMENT.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use mezzo_api::{
    convert::{self, AtHand, Invalid, Launch},
    model::{AgentInfo, OperationStatus, PersistentVolume, Pool, Task, TaskStatus, TaskUsage},
    proto::{
        AgentMessage, MasterMessage, agent_message, agent_service_server::AgentService,
        master_message,
    },
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::{
    outbox::{self, Outbox},
    status::{bounded, parse_optional, storable},
};
use crate::{
    actor::{Context, Peer},
    auth::{self, Action, Principal},
    config::{Config, to_millis},
    state::{ConnId, Ending, Event, HeldTask, Registration, ToAgent},
};

/// Tasks in one registration or report.
const MOST_TASKS: usize = 100_000;

/// Kept by an agent, or on it.
const MOST_OPERATIONS: usize = 10_000;

/// Pings per second to all agents together: a tenth of what a processor manages.
const MOST_PINGS_PER_SEC: u32 = 5_000;

/// How often a stream is pinged, and how long its agent may be silent: as configured, and slower where there are so many agents
/// that pings would take the time of everything else. Told at registration, it holds as long as the stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    interval: Duration,
    timeout: Duration,
}

impl Pace {
    fn of(config: &Config, n_agents: usize) -> Self {
        let (interval, timeout) = (config.agent_ping_interval, config.agent_ping_timeout);
        let n_agents = u32::try_from(n_agents).unwrap_or(u32::MAX);
        let least = Duration::from_secs(1) * n_agents / MOST_PINGS_PER_SEC;
        let stretch = least.as_secs_f64() / interval.as_secs_f64();
        if stretch <= 1.0 {
            return Self { interval, timeout };
        }
        Self {
            interval: least,
            timeout: timeout.mul_f64(stretch),
        }
    }
}

/// How long an agent has been silent, as far as this master listened: while it stood still itself (on a machine that is
/// suspended, or busy with others), it could hear nobody, and what was said meanwhile is read after the next look. Pure.
#[derive(Debug)]
struct Silence {
    lasted: Duration,
    looked: Instant,
}

impl Silence {
    fn from(now: Instant) -> Self {
        Self {
            lasted: Duration::ZERO,
            looked: now,
        }
    }

    /// How long it has lasted by now. Looks come at the pace of pings; of a longer time without one no more counts than two
    /// of them.
    fn look(&mut self, now: Instant, pace: Pace) -> Duration {
        let passed = now.saturating_duration_since(self.looked);
        self.lasted += passed.min(pace.interval * 2);
        self.looked = now;
        self.lasted
    }
}

/// What goes to an agent: the core's words, and the front's own pings.
#[derive(Debug)]
pub(crate) enum AgentLine {
    /// From the core.
    Core(ToAgent),
    /// From the front.
    Ping(u64),
}

/// Serves `AgentService`.
#[derive(Debug, Clone)]
pub(crate) struct AgentFront {
    context: Context,
}

impl AgentFront {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl AgentService for AgentFront {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<MasterMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (outbox, inbox) =
            outbox::channel(self.context.config.peer_queue, self.context.fence.clone());
        let context = self.context.clone();
        let conn = context.next_conn();
        let principal = auth::who(&request)?;
        let pace = Pace::of(&context.config, context.snapshot().agents.len());
        self.context.tasks.spawn(async move {
            let result = tokio::select! {
                result = converse(&context, conn, &principal, pace, request.into_inner(), &outbox) => result,
                () = context.shutdown.cancelled() => Err(Ending::ShuttingDown.into()),
            };
            if let Err(status) = result {
                tracing::info!(conn = conn.0, code = ?status.code(), reason = status.message(), "agent's stream ends");
                outbox.close(status);
            }
            context.send(Event::AgentDetached { conn }).await;
        });
        let context = self.context.clone();
        let stream = inbox.map(move |line| line.map(|line| encode(line, pace, &context)));
        Ok(Response::new(Box::pin(stream)))
    }
}

async fn converse(
    context: &Context,
    conn: ConnId,
    principal: &Principal,
    pace: Pace,
    mut inbound: Streaming<AgentMessage>,
    outbox: &Outbox<AgentLine>,
) -> Result<(), Status> {
    let first = timeout(context.config.greeting_timeout, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Register arrived"))??;
    let Some(AgentMessage {
        message: Some(agent_message::Message::Register(register)),
    }) = first
    else {
        return Err(Status::invalid_argument(
            "the first message must be Register",
        ));
    };
    let registration = decode_register(*register)?;
    let hostname = Some(registration.info.hostname.as_str());
    (context.guard).authorize(principal, Action::AttachAgent, hostname)?;
    tracing::info!(
        conn = conn.0,
        agent = registration
            .agent_id
            .as_ref()
            .map_or("(new)", |id| id.as_str()),
        hostname = registration.info.hostname,
        tasks = registration.tasks.len(),
        "agent attaches"
    );
    let event = Event::AgentAttached { conn, registration };
    let answer = context
        .attach(event, Peer::Agent(conn, outbox.clone()))
        .await?;
    // The first message on a stream answers Register; the first ping follows at once.
    context.answer(answer).await?;

    let mut pings = interval(pace.interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sequence, mut silence, mut first) = (0, Silence::from(Instant::now()), true);
    let mut ended = pin!(outbox.ended());
    loop {
        tokio::select! {
            message = inbound.message() => {
                let Some(message) = message? else { return Ok(()) };
                silence = Silence::from(Instant::now());
                if first {
                    first = false;
                    context.send(Event::AgentHeard { conn }).await;
                }
                if let Some(event) = decode(conn, message)? {
                    context.send(event).await;
                }
            }
            _ = pings.tick() => {
                if silence.look(Instant::now(), pace) > pace.timeout {
                    return Err(Status::deadline_exceeded(format!("nothing heard for {:?}", pace.timeout)));
                }
                sequence += 1;
                // A full queue is the core's to notice; a lost ping does no harm.
                let _ = outbox.send(AgentLine::Ping(sequence));
            }
            () = &mut ended => return Ok(()),
        }
    }
}

fn decode_register(register: agent_message::Register) -> Result<Registration, Status> {
    bounded("register.tasks", register.tasks.len(), MOST_TASKS)?;
    let agent_id = parse_optional("register.agent_id", register.agent_id)?;
    let info = register
        .info
        .ok_or_else(|| Status::invalid_argument("register.info: is missing"))?;
    let info = AgentInfo::try_from(info).map_err(|invalid| invalid.within("register.info"))?;
    storable("register.info", &info)?;
    let mut tasks: Vec<HeldTask> = Vec::with_capacity(register.tasks.len());
    for (i, task) in register.tasks.into_iter().enumerate() {
        let before = tasks.last().map(|held| &*held.task);
        let at_hand = AtHand {
            agent_id: agent_id.as_ref(),
            framework_id: before.map(|task| &task.framework_id),
            role: before.map(|task| &task.role),
            resources: before.map(|task| &task.info.resources),
        };
        let task = Task::read(task, at_hand)
            .map_err(|invalid| invalid.within(&format!("register.tasks[{i}]")))?;
        tasks.push(task.into());
    }
    bounded(
        "register.operations",
        register.operations.len(),
        MOST_OPERATIONS,
    )?;
    let operations = register.operations.into_iter().map(|status| {
        OperationStatus::try_from(status).map_err(|invalid| invalid.within("register.operations"))
    });
    let operations = operations.collect::<Result<_, _>>()?;
    Ok(Registration {
        agent_id,
        info,
        boot_id: register.boot_id,
        tasks,
        operations,
    })
}

fn decode(conn: ConnId, message: AgentMessage) -> Result<Option<Event>, Status> {
    let message = message
        .message
        .ok_or_else(|| Status::invalid_argument("the message is empty or unknown"))?;
    Ok(match message {
        agent_message::Message::Register(_) => {
            return Err(Status::invalid_argument(
                "Register may only be the first message of a stream",
            ));
        }
        agent_message::Message::Status(status) => {
            let status =
                TaskStatus::try_from(*status).map_err(|invalid| invalid.within("status"))?;
            let status = Box::new(status);
            Some(Event::AgentStatus { conn, status })
        }
        agent_message::Message::Usage(usage) => {
            bounded("usage.tasks", usage.tasks.len(), MOST_TASKS)?;
            let tasks = usage
                .tasks
                .into_iter()
                .map(TaskUsage::try_from)
                .collect::<Result<_, _>>()?;
            Some(Event::AgentUsage {
                conn,
                node: usage.node.map(Into::into),
                tasks,
            })
        }
        agent_message::Message::Pools(report) => Some(decode_pools(conn, *report)?),
        agent_message::Message::Slack(slack) => {
            let total = convert::slack(slack).map_err(|invalid| invalid.within("slack"))?;
            Some(Event::AgentSlack { conn, total })
        }
        agent_message::Message::Pong(_) => None,
    })
}

fn decode_pools(conn: ConnId, report: agent_message::PoolReport) -> Result<Event, Status> {
    bounded("pools.reserved", report.reserved.len(), MOST_OPERATIONS)?;
    bounded("pools.volumes", report.volumes.len(), MOST_OPERATIONS)?;
    let status = report
        .status
        .ok_or_else(|| Status::invalid_argument("pools.status: is missing"))?;
    let status = OperationStatus::try_from(status);
    let reserved = report.reserved.into_iter().map(Pool::try_from);
    let volumes = report.volumes.into_iter().map(PersistentVolume::try_from);
    Ok(Event::AgentPools {
        conn,
        status: status.map_err(|invalid| invalid.within("pools.status"))?,
        reserved: reserved
            .collect::<Result<_, _>>()
            .map_err(|invalid: Invalid| invalid.within("pools.reserved"))?,
        volumes: volumes
            .collect::<Result<_, _>>()
            .map_err(|invalid: Invalid| invalid.within("pools.volumes"))?,
    })
}

fn encode(line: AgentLine, pace: Pace, context: &Context) -> MasterMessage {
    use master_message::Message;
    let message = match line {
        AgentLine::Ping(sequence) => Message::Ping(master_message::Ping { sequence }),
        AgentLine::Core(ToAgent::Registered(agent_id)) => {
            Message::Registered(master_message::Registered {
                agent_id: agent_id.to_string(),
                master_id: context.master_id.to_string(),
                ping_interval_ms: to_millis(pace.interval),
                ping_timeout_ms: to_millis(pace.timeout),
                term: context.term,
            })
        }
        AgentLine::Core(ToAgent::Refused(message)) => {
            Message::Refused(master_message::Refused { message })
        }
        AgentLine::Core(ToAgent::Launch(task)) => {
            Message::Launch(Launch::new(&task.framework_id, &task.role, &task.info))
        }
        AgentLine::Core(ToAgent::LaunchGroup(tasks)) => {
            let first = tasks.first();
            Message::LaunchGroup(master_message::LaunchGroup {
                framework_id: first.map_or_else(String::new, |task| task.framework_id.to_string()),
                role: first.map_or_else(String::new, |task| task.role.to_string()),
                tasks: tasks.iter().map(|task| (&task.info).into()).collect(),
            })
        }
        AgentLine::Core(ToAgent::Kill {
            framework_id,
            task_id,
            grace,
        }) => Message::Kill(master_message::Kill {
            framework_id: framework_id.to_string(),
            task_id: task_id.to_string(),
            grace_ms: grace.map(to_millis),
        }),
        AgentLine::Core(ToAgent::Acknowledge {
            framework_id,
            task_id,
            update_id,
        }) => Message::Acknowledge(master_message::Acknowledge {
            framework_id: framework_id.to_string(),
            task_id: task_id.to_string(),
            update_id: update_id.to_string(),
        }),
        AgentLine::Core(ToAgent::TaskMessage {
            framework_id,
            task_id,
            data,
        }) => Message::TaskMessage(master_message::TaskMessage {
            framework_id: framework_id.to_string(),
            task_id: task_id.to_string(),
            data,
        }),
        AgentLine::Core(ToAgent::Drain { max_grace }) => Message::Drain(master_message::Drain {
            max_grace_ms: max_grace.map(to_millis),
        }),
        AgentLine::Core(ToAgent::Operation(operation)) => {
            Message::Operation(Box::new((*operation).into()))
        }
        AgentLine::Core(ToAgent::AcknowledgeOperation {
            framework_id,
            operation_id,
        }) => Message::AcknowledgeOperation(master_message::AcknowledgeOperation {
            framework_id: framework_id.map(Into::into).unwrap_or_default(),
            operation_id: operation_id.to_string(),
        }),
        AgentLine::Core(ToAgent::Activate) => Message::Activate(master_message::Activate {}),
        AgentLine::Core(ToAgent::ShutdownFramework(framework_id)) => {
            Message::ShutdownFramework(master_message::ShutdownFramework {
                framework_id: framework_id.to_string(),
            })
        }
    };
    MasterMessage {
        message: Some(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_stood_still_blames_no_agent_for_it() {
        let second = Duration::from_secs(1);
        let pace = Pace {
            interval: second,
            timeout: second * 5,
        };
        let begin = Instant::now();
        let mut silence = Silence::from(begin);
        for n in 1..=3 {
            assert_eq!(silence.look(begin + second * n, pace), second * n);
        }
        // A minute without a look.
        let back = begin + second * 63;
        assert_eq!(silence.look(back, pace), second * 5);
        // Who really is silent is found out soon enough.
        assert!(silence.look(back + second, pace) > pace.timeout);
    }

    #[test]
    fn a_large_cluster_is_pinged_more_slowly() {
        let config = Config::default();
        let configured = Pace {
            interval: config.agent_ping_interval,
            timeout: config.agent_ping_timeout,
        };
        for n_agents in [0, 1, 5_000] {
            assert_eq!(Pace::of(&config, n_agents), configured);
        }
        let slow = Pace {
            interval: Duration::from_secs(8),
            timeout: Duration::from_secs(40),
        };
        assert_eq!(Pace::of(&config, 40_000), slow);
        let patient = Config {
            agent_ping_interval: Duration::from_secs(10),
            agent_ping_timeout: Duration::from_secs(30),
            ..config
        };
        assert_eq!(Pace::of(&patient, 40_000).timeout, Duration::from_secs(30));
    }
}
