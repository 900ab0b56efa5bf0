//! One agent's stream to the master, and the next one after it broke.
//!
//! Edge. Driven by a task per agent, which ends with the fleet's token. Connections are shared: a [`Trunk`] carries the
//! streams of many agents and knows which master its agents try next.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper_util::rt::TokioIo;
use mezzo_api::{
    credential::Authorized,
    gather::Gathered,
    masters::{self, Masters},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status,
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use crate::{
    Config,
    agent::{Agent, Outcome},
    counts::{Shared, add, sub},
    wire::{self, Outgoing},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the answer to a registration, and for room on the way out.
const PATIENCE: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Messages on their way out.
const QUEUE: usize = 256;
/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The search for the leader, and a connection to each master that was found on the way.
#[derive(Debug)]
pub(crate) struct Trunk(Mutex<(Masters, BTreeMap<String, Channel>)>);

impl Trunk {
    pub(crate) fn new(masters: Masters) -> Self {
        Self(Mutex::new((masters, BTreeMap::new())))
    }

    fn lock(&self) -> MutexGuard<'_, (Masters, BTreeMap<String, Channel>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The master to try, and a connection that is made when it is first used.
    fn current(&self) -> Result<(String, Channel), tonic::transport::Error> {
        let (masters, channels) = &mut *self.lock();
        let master = masters.current().to_owned();
        if let Some(channel) = channels.get(&master) {
            return Ok((master, channel.clone()));
        }
        let channel = Endpoint::from_shared(format!("http://{master}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .connect_with_connector_lazy(Connector);
        channels.insert(master.clone(), channel.clone());
        Ok((master, channel))
    }

    fn reached(&self, master: &str) {
        let (masters, _) = &mut *self.lock();
        if masters.current() == master {
            masters.reached();
        }
    }

    /// It does not serve: the one that it names, or the next. Of many agents that find so only one moves on.
    fn failed(&self, master: &str, leader: Option<String>) {
        let (masters, _) = &mut *self.lock();
        if masters.current() == master {
            // Each agent has a pause of its own.
            let _ = masters.failed(leader, 0.0);
        }
    }
}

/// Makes connections on which the messages of many agents leave together.
#[derive(Debug, Clone, Copy)]
struct Connector;

impl Service<Uri> for Connector {
    type Response = TokioIo<Gathered<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
            let stream = TcpStream::connect(authority.as_str()).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(Gathered::new(stream)))
        })
    }
}

/// One agent with all that it needs.
pub(crate) struct Line {
    pub(crate) agent: Agent,
    pub(crate) config: Arc<Config>,
    pub(crate) counts: Arc<Shared>,
    pub(crate) trunk: Arc<Trunk>,
    /// Who registers now.
    pub(crate) registering: Arc<Semaphore>,
}

/// How a stream ended.
enum Ended {
    Broke {
        was_registered: bool,
        leader: Option<String>,
        why: String,
    },
    Refused(String),
}

/// Counts an agent as connected while it lives.
struct Connected<'a>(&'a Shared);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        sub(&self.0.connected);
    }
}

impl Line {
    /// Until it is dropped, or the master refuses the agent for good.
    pub(crate) async fn run(mut self) {
        let mut pause = PAUSES.0;
        loop {
            let (master, channel) = match self.trunk.current() {
                Ok(current) => current,
                Err(error) => {
                    tracing::error!(%error, "no connection can be made to that address");
                    return;
                }
            };
            match self.stream(&master, channel).await {
                Ended::Refused(why) => {
                    tracing::warn!(why, "an agent is refused and stops");
                    return;
                }
                Ended::Broke {
                    was_registered,
                    leader,
                    why,
                } => {
                    tracing::debug!(why, "an agent's stream broke");
                    if was_registered {
                        pause = PAUSES.0;
                    }
                    self.trunk.failed(&master, leader);
                }
            }
            let share = (self.agent.random() % 1001) as f64 / 1000.0;
            sleep(pause.mul_f64(share)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn stream(&mut self, master: &str, channel: Channel) -> Ended {
        let mut was_registered = false;
        match self.converse(master, channel, &mut was_registered).await {
            Ok(refusal) => Ended::Refused(refusal),
            Err(status) => Ended::Broke {
                was_registered,
                leader: masters::leader_named(&status),
                why: format!("{}: {}", status.code(), status.message()),
            },
        }
    }

    /// One stream from its registration to its end; `Ok` is a refusal.
    async fn converse(
        &mut self,
        master: &str,
        channel: Channel,
        was_registered: &mut bool,
    ) -> Result<String, Status> {
        let late = || Status::deadline_exceeded("the master does not answer");
        let registering = Arc::clone(&self.registering);
        let turn = registering
            .acquire()
            .await
            .map_err(|_| Status::cancelled("the fleet stops"))?;
        let mut turn = Some(turn);
        let channel = Authorized::new(channel, self.config.credential.clone());
        let (sender, outgoing) = mpsc::channel(QUEUE);
        send(&sender, vec![self.agent.register()]).await?;
        let attach = wire::attach(channel, ReceiverStream::new(outgoing));
        let mut stream = timeout(PATIENCE, attach)
            .await
            .map_err(|_| late())??
            .into_inner();

        let mut connected = None;
        let repeat_every = self.config.repeat_after;
        let mut next_repeat = Instant::now() + repeat_every;
        let breaks_at = self.config.break_after.map(|after| {
            let share = (self.agent.random() % 2001) as f64 / 1000.0;
            Instant::now() + after.mul_f64(share)
        });
        let mut deadline = Some(Instant::now() + PATIENCE);
        loop {
            let now = unix_ms();
            let due = self
                .agent
                .next_due()
                .map(|at| Instant::now() + Duration::from_millis(at.saturating_sub(now)));
            let repeat = self.agent.is_waiting().then_some(next_repeat);
            let wake = [
                due.filter(|_| connected.is_some()),
                repeat,
                breaks_at,
                deadline,
            ]
            .into_iter()
            .flatten()
            .min();
            let incoming = tokio::select! {
                incoming = stream.message() => incoming?.ok_or_else(|| Status::unavailable("the master closed the stream"))?,
                () = wait_until(wake) => {
                    let now = Instant::now();
                    if deadline.is_some_and(|deadline| now >= deadline) {
                        return Err(late());
                    }
                    if breaks_at.is_some_and(|at| now >= at) {
                        return Err(Status::cancelled("broken on purpose"));
                    }
                    if connected.is_some() {
                        send(&sender, self.agent.due(unix_ms())).await?;
                    }
                    if now >= next_repeat {
                        next_repeat = now + repeat_every;
                        send(&sender, self.agent.repeat(unix_ms(), false)).await?;
                    }
                    continue;
                }
            };
            // What a newer master may say beyond what we know is none of our business.
            let Some(incoming) = incoming.message else {
                continue;
            };
            match self.agent.handle(incoming, unix_ms()) {
                Outcome::Send(messages) => send(&sender, messages).await?,
                Outcome::Refused(why) => return Ok(why),
                Outcome::Registered => {
                    turn.take();
                    deadline = None;
                    *was_registered = true;
                    self.trunk.reached(master);
                    if connected.is_none() {
                        add(&self.counts.registrations);
                        add(&self.counts.connected);
                        connected = Some(Connected(&self.counts));
                    }
                    send(&sender, self.agent.repeat(unix_ms(), true)).await?;
                }
            }
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn send(
    sender: &mpsc::Sender<Outgoing>,
    messages: Vec<impl Into<Outgoing>>,
) -> Result<(), Status> {
    for message in messages {
        let Err(error) = sender.try_send(message.into()) else {
            continue;
        };
        let message = match error {
            mpsc::error::TrySendError::Full(message) => message,
            mpsc::error::TrySendError::Closed(_) => {
                return Err(Status::unavailable("the stream is closed"));
            }
        };
        match timeout(PATIENCE, sender.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Status::unavailable("the stream is closed")),
            Err(_) => return Err(Status::deadline_exceeded("the master does not read")),
        }
    }
    Ok(())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
