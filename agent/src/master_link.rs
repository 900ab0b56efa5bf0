//! The stream to the master: connects, registers with everything the agent holds, passes messages both ways, and does
//! it again when the stream breaks. The master being away changes nothing for tasks.
//!
//! One stream at a time. Everything that came over a closed stream is in the owner's queue before the next snapshot is
//! asked for, so nothing of it is handled later than that.

use std::{path::PathBuf, time::Duration};

use mezzo_api::{
    credential::{Authorized, Credential},
    masters::{self, Masters},
    model::{AgentId, AgentInfo, PoolOperation, RoleName, TaskInfo},
    proto::{
        self, agent_message::Message as FromAgent, agent_service_client::AgentServiceClient,
        master_message::Message as FromMaster,
    },
};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::{
    Error,
    actor::{Command, Handle},
    master_term::Term,
    messages,
    node::runtime::chain,
    store::{Store, write_atomically},
    task::{TaskKey, event::Event},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_MESSAGE: usize = 64 << 20;

/// Who this agent is, kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    version: u32,
    pub(crate) agent_id: Option<AgentId>,
}

impl Identity {
    const VERSION: u32 = 1;

    /// From `agent.json`; a machine without one has never registered.
    pub(crate) fn load(path: &std::path::Path) -> Result<Self, Error> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(Error::State {
                    operation: "read",
                    path: path.into(),
                    source,
                });
            }
        };
        let wrong = |problem: String| Error::Identity {
            path: path.into(),
            problem,
        };
        let identity: Self =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if identity.version != Self::VERSION {
            return Err(wrong(format!(
                "version {} is not {}",
                identity.version,
                Self::VERSION
            )));
        }
        Ok(identity)
    }

    fn save(agent_id: &AgentId, path: &std::path::Path) -> std::io::Result<()> {
        let identity = Self {
            version: Self::VERSION,
            agent_id: Some(agent_id.clone()),
        };
        let text = serde_json::to_vec_pretty(&identity).map_err(std::io::Error::other)?;
        write_atomically(path, &text)
    }
}

/// What the link needs.
pub(crate) struct Link {
    pub(crate) masters: Masters,
    pub(crate) credential: Credential,
    /// The highest that a master told, and where it is kept.
    pub(crate) term: Term,
    pub(crate) handle: Handle,
    pub(crate) info: AgentInfo,
    pub(crate) boot_id: String,
    pub(crate) identity: Identity,
    pub(crate) identity_path: PathBuf,
    pub(crate) store: Store,
}

/// Why a stream ended.
enum Ended {
    Refused(String),
    Broken { registered: bool, why: Broken },
}

/// Why a stream broke, and whom a master that does not lead named.
struct Broken {
    why: String,
    leader: Option<String>,
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self { why, leader: None }
    }
}

impl Link {
    /// Keeps a stream open until told to stop or refused.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut told = false;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                ended = self.stream() => ended,
            };
            if self.handle.send(Command::Detach).await.is_err() {
                return Ok(());
            }
            match ended {
                Ended::Refused(message) => {
                    return Err(Error::Refused {
                        master: self.masters.current().to_owned(),
                        message,
                    });
                }
                Ended::Broken { registered, why } => {
                    if registered || !told {
                        tracing::warn!(
                            master = self.masters.current(),
                            why = why.why,
                            "no connection to the master; tasks run on"
                        );
                        told = true;
                    } else {
                        tracing::debug!(
                            master = self.masters.current(),
                            why = why.why,
                            "still no connection to the master"
                        );
                    }
                    let random = rand::rng().random_range(0.0..1.0);
                    let pause = self.masters.failed(why.leader, random);
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    async fn stream(&mut self) -> Ended {
        let mut registered = false;
        match self.try_stream(&mut registered).await {
            Ok(message) => Ended::Refused(message),
            Err(why) => Ended::Broken { registered, why },
        }
    }

    /// One stream from the connection to its end; `Ok` is a refusal.
    async fn try_stream(&mut self, registered: &mut bool) -> Result<String, Broken> {
        let channel = Endpoint::from_shared(format!("http://{}", self.masters.current()))
            .map_err(|error| chain(&error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| chain(&error))?;
        let channel = Authorized::new(channel, self.credential.clone());
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);

        let (outbound, messages) = mpsc::channel(1024);
        let inventory = self
            .handle
            .ask(|reply| Command::Attach(outbound.clone(), reply))
            .await
            .map_err(|error| error.to_string())?;
        let info = AgentInfo {
            reserved: inventory.reserved,
            volumes: inventory.volumes,
            ..self.info.clone()
        };
        let register = proto::agent_message::Register {
            agent_id: self
                .identity
                .agent_id
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            info: Some(info.into()),
            boot_id: self.boot_id.clone(),
            tasks: inventory.tasks.into_iter().map(Into::into).collect(),
            operations: inventory.operations.into_iter().map(Into::into).collect(),
        };
        send(&outbound, FromAgent::Register(Box::new(register))).await?;

        let opened =
            tokio::time::timeout(ANSWER_TIMEOUT, client.attach(ReceiverStream::new(messages)))
                .await;
        let mut stream = opened
            .map_err(|_| "the master does not answer".to_owned())?
            .map_err(|status| Broken {
                why: format!("the master answers {}: {}", status.code(), status.message()),
                leader: masters::leader_named(&status),
            })?
            .into_inner();

        let mut timeout = ANSWER_TIMEOUT;
        loop {
            let message = tokio::time::timeout(timeout, stream.message())
                .await
                .map_err(|_| format!("no sign of the master for {} ms", timeout.as_millis()))?
                .map_err(|status| Broken {
                    why: format!("the stream broke: {}: {}", status.code(), status.message()),
                    leader: masters::leader_named(&status),
                })?
                .ok_or_else(|| "the master closed the stream".to_owned())?;
            match message.message {
                Some(FromMaster::Refused(refused)) => return Ok(refused.message),
                Some(FromMaster::Registered(answer)) => {
                    self.registered(&answer).await?;
                    *registered = true;
                    if answer.ping_timeout_ms > 0 {
                        timeout = Duration::from_millis(answer.ping_timeout_ms);
                    }
                }
                Some(other) if *registered => self.message(other, &outbound).await?,
                Some(_) => {
                    let why = "the master's first message was no answer to the registration";
                    return Err(why.to_owned().into());
                }
                None => tracing::debug!("a message from the master that this agent does not know"),
            }
        }
    }

    async fn registered(
        &mut self,
        answer: &proto::master_message::Registered,
    ) -> Result<(), String> {
        let agent_id: AgentId = answer
            .agent_id
            .parse()
            .map_err(|error| format!("the master gave a bad agent id: {error}"))?;
        let raised = self.term.check(answer.term)?;
        if raised {
            let term = self.term.clone();
            tokio::task::spawn_blocking(move || term.save())
                .await
                .map_err(|error| error.to_string())??;
        }
        if self.identity.agent_id.as_ref() != Some(&agent_id) {
            let (id, path) = (agent_id.clone(), self.identity_path.clone());
            tokio::task::spawn_blocking(move || Identity::save(&id, &path))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| {
                    format!("cannot write {}: {error}", self.identity_path.display())
                })?;
            self.identity.agent_id = Some(agent_id.clone());
        }
        tracing::info!(%agent_id, master = self.masters.current(), master_id = answer.master_id, term = answer.term, "registered");
        self.masters.reached();
        self.handle
            .event(Event::Registered(agent_id))
            .await
            .map_err(|error| error.to_string())
    }

    async fn message(
        &self,
        message: FromMaster,
        outbound: &mpsc::Sender<proto::AgentMessage>,
    ) -> Result<(), String> {
        let event = match message {
            FromMaster::Ping(ping) => {
                let pong = proto::agent_message::Pong {
                    sequence: ping.sequence,
                };
                return send(outbound, FromAgent::Pong(pong)).await;
            }
            FromMaster::Launch(launch) => match parse_launch(&launch) {
                Ok(event) => event,
                Err((status, problem)) => {
                    tracing::error!(problem, "the master sent a launch that does not parse");
                    if let Some(status) = status {
                        send(outbound, FromAgent::Status(status)).await?;
                    }
                    return Ok(());
                }
            },
            FromMaster::LaunchGroup(launch) => match parse_group(launch) {
                Ok(event) => event,
                Err((statuses, problem)) => {
                    tracing::error!(problem, "the master sent a group that does not parse");
                    for status in statuses {
                        send(outbound, FromAgent::Status(Box::new(status))).await?;
                    }
                    return Ok(());
                }
            },
            FromMaster::Kill(kill) => match key(&kill.framework_id, &kill.task_id) {
                Ok(key) => Event::Kill {
                    key,
                    grace: kill.grace_ms.map(Duration::from_millis),
                },
                Err(problem) => return ignored("kill", &problem),
            },
            FromMaster::Acknowledge(ack) => {
                match (key(&ack.framework_id, &ack.task_id), ack.update_id.parse()) {
                    (Ok(key), Ok(update)) => Event::Acknowledge { key, update },
                    (Err(problem), _) => return ignored("acknowledgement", &problem),
                    (_, Err(error)) => return ignored("acknowledgement", &error.to_string()),
                }
            }
            FromMaster::ShutdownFramework(shutdown) => match shutdown.framework_id.parse() {
                Ok(framework) => Event::ShutdownFramework(framework),
                Err(error) => return ignored("framework shutdown", &error.to_string()),
            },
            FromMaster::Drain(drain) => Event::Drain {
                max_grace: drain.max_grace_ms.map(Duration::from_millis),
            },
            FromMaster::Activate(_) => Event::Activate,
            FromMaster::Operation(operation) => match PoolOperation::try_from(*operation) {
                Ok(operation) => Event::Operate(Box::new(operation)),
                Err(problem) => return ignored("operation", &problem.to_string()),
            },
            FromMaster::AcknowledgeOperation(ack) => {
                let framework = match ack.framework_id.as_str() {
                    "" => Ok(None),
                    id => id.parse().map(Some),
                };
                match (framework, ack.operation_id.parse()) {
                    (Ok(framework), Ok(operation)) => Event::AcknowledgeOperation {
                        framework,
                        operation,
                    },
                    (Err(error), _) | (_, Err(error)) => {
                        return ignored("acknowledgement of an operation", &error.to_string());
                    }
                }
            }
            FromMaster::TaskMessage(message) => {
                match key(&message.framework_id, &message.task_id) {
                    Ok(key) => self.deliver(key, message.data).await,
                    Err(problem) => return ignored("task message", &problem),
                }
                return Ok(());
            }
            FromMaster::Registered(_) | FromMaster::Refused(_) => return Ok(()),
        };
        self.handle
            .event(event)
            .await
            .map_err(|error| error.to_string())
    }

    async fn deliver(&self, key: TaskKey, data: Vec<u8>) {
        let Ok(Some(container)) = self
            .handle
            .ask(|reply| Command::Locate(key.clone(), reply))
            .await
        else {
            tracing::debug!(task = %key, "message for a task that does not run here");
            return;
        };
        let sandbox = self.store.sandbox(&container);
        match tokio::task::spawn_blocking(move || messages::deliver(&sandbox, &data)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(task = %key, %error, "message not delivered"),
            Err(error) => tracing::error!(task = %key, %error, "delivering a message broke"),
        }
    }
}

async fn send(
    outbound: &mpsc::Sender<proto::AgentMessage>,
    message: FromAgent,
) -> Result<(), String> {
    outbound
        .send(proto::AgentMessage {
            message: Some(message),
        })
        .await
        .map_err(|_| "the stream is closed".to_owned())
}

fn ignored(what: &str, problem: &str) -> Result<(), String> {
    tracing::error!(
        what,
        problem,
        "ignoring a message of the master that does not parse"
    );
    Ok(())
}

fn key(framework: &str, task: &str) -> Result<TaskKey, String> {
    Ok(TaskKey {
        framework: framework
            .parse()
            .map_err(|error: mezzo_api::model::InvalidId| error.to_string())?,
        task: task
            .parse()
            .map_err(|error: mezzo_api::model::InvalidId| error.to_string())?,
    })
}

type BadLaunch = (Option<Box<proto::TaskStatus>>, String);

/// The event, or what to answer: an error of the task when at least its ids are right.
fn parse_launch(launch: &proto::Launch) -> Result<Event, BadLaunch> {
    let task = launch
        .info()
        .map_err(|error| (None, format!("task: {error}")))?;
    parse_task(&launch.framework_id, &launch.role, task)
}

fn parse_task(framework_id: &str, role: &str, task: proto::TaskInfo) -> Result<Event, BadLaunch> {
    let (task_id, agent_id) = (task.task_id.clone(), task.agent_id.clone());
    let key = key(framework_id, &task_id).map_err(|problem| (None, problem))?;
    let bad = |problem: String| {
        let status = proto::TaskStatus {
            task_id: task_id.clone(),
            framework_id: framework_id.to_owned(),
            agent_id: agent_id.clone(),
            state: proto::TaskState::TaskError.into(),
            reason: proto::Reason::TaskInvalid.into(),
            source: proto::StatusSource::Agent.into(),
            message: problem.clone(),
            timestamp_ms: crate::actor::unix_ms(),
            ..proto::TaskStatus::default()
        };
        (Some(Box::new(status)), problem)
    };
    let role: RoleName = role
        .parse()
        .map_err(|error: mezzo_api::model::InvalidId| bad(error.to_string()))?;
    let info = TaskInfo::try_from(task).map_err(|invalid| bad(invalid.to_string()))?;
    Ok(Event::Launch {
        framework: key.framework,
        role,
        info: Box::new(info),
    })
}

/// The event, or what to answer for each task whose ids are right.
fn parse_group(
    launch: proto::master_message::LaunchGroup,
) -> Result<Event, (Vec<proto::TaskStatus>, String)> {
    let (mut infos, mut problems) = (Vec::new(), Vec::new());
    for task in &launch.tasks {
        match parse_task(&launch.framework_id, &launch.role, task.clone()) {
            Ok(Event::Launch {
                framework,
                role,
                info,
            }) if info.group.is_some() => infos.push((framework, role, *info)),
            Ok(_) => problems.push("a task of a group names no group".to_owned()),
            Err((_, problem)) => problems.push(problem),
        }
    }
    let first = infos
        .first()
        .map(|(framework, role, _)| (framework.clone(), role.clone()));
    match first {
        Some((framework, role)) if problems.is_empty() => Ok(Event::LaunchGroup {
            framework,
            role,
            infos: infos.into_iter().map(|(_, _, info)| info).collect(),
        }),
        Some(_) | None => {
            let problem = problems.join("; ");
            let statuses = launch.tasks.iter().filter_map(|task| {
                key(&launch.framework_id, &task.task_id).ok()?;
                Some(proto::TaskStatus {
                    task_id: task.task_id.clone(),
                    framework_id: launch.framework_id.clone(),
                    agent_id: task.agent_id.clone(),
                    state: proto::TaskState::TaskError.into(),
                    reason: proto::Reason::TaskGroupInvalid.into(),
                    source: proto::StatusSource::Agent.into(),
                    message: problem.clone(),
                    timestamp_ms: crate::actor::unix_ms(),
                    ..proto::TaskStatus::default()
                })
            });
            Err((statuses.collect(), problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_survives_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.json");
        assert_eq!(Identity::load(&path).unwrap().agent_id, None);
        Identity::save(&"a1".parse().unwrap(), &path).unwrap();
        assert_eq!(
            Identity::load(&path).unwrap().agent_id,
            Some("a1".parse().unwrap())
        );
        std::fs::write(&path, "{\"version\":1,\"agent_").unwrap();
        assert!(
            Identity::load(&path)
                .unwrap_err()
                .to_string()
                .contains("agent.json")
        );
    }

    #[test]
    fn a_launch_with_bad_ids_is_not_answered_and_a_bad_task_is() {
        let bad = |framework: &str, task: &str| {
            let task = proto::TaskInfo {
                task_id: task.into(),
                ..proto::TaskInfo::default()
            };
            parse_task(framework, "*", task).unwrap_err()
        };
        assert!(bad("f", "../x").0.is_none());
        assert!(bad("f", "t").0.is_some());
        let garbage = proto::Launch {
            framework_id: "f".into(),
            role: "*".into(),
            task: vec![0xff],
        };
        assert!(parse_launch(&garbage).unwrap_err().0.is_none());
    }
}
