//! The line to the master: subscribes, for ever and with growing pauses; turns the stream into events and calls into
//! requests.
//!
//! Edge. Two tasks per subscription: one reads the stream, one performs the calls in their order (acknowledgements of a
//! batch side by side). When either fails, both end and a new subscription begins. The driver owns both through
//! [`run`]'s future; everything it hears comes over one bounded channel.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mezzo_api::convert::Invalid;
use mezzo_api::credential::{Authorized, Credential};
use mezzo_api::masters::{self, Masters};
use mezzo_api::model::{
    AgentId, Capability, FrameworkId, FrameworkInfo, Offer, OfferId, RoleName, TaskId, TaskStatus,
};
use mezzo_api::proto;
use mezzo_api::proto::framework_service_client::FrameworkServiceClient;
use mezzo_etcd::Fence;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::core::Call;
use crate::core::state::Machine;

/// Messages of a large cluster are larger than gRPC's usual 4 MiB.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// A subscription that lasted so long was a good one: the search for the leader begins anew after it.
const CALM: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Without so many heartbeats the stream counts as broken.
const MISSED_HEARTBEATS: u32 = 5;
/// Another scheduler may act by now.
const DEPOSED: &str = "this scheduler does not lead any more";
/// Turns' calls that may wait for their turn.
const CALL_QUEUE: usize = 64;

/// Where and as whom to subscribe.
#[derive(Debug, Clone)]
pub(crate) struct LinkConfig {
    pub(crate) masters: Masters,
    pub(crate) credential: Credential,
    pub(crate) framework_name: String,
    pub(crate) failover_timeout: Duration,
    pub(crate) webui_url: String,
    /// Roles that it cannot be without.
    pub(crate) own_roles: BTreeSet<RoleName>,
    /// Nothing is said to the master once it is closed.
    pub(crate) fence: Fence,
}

/// What the driver says before each subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) framework_id: Option<FrameworkId>,
    pub(crate) roles: BTreeSet<RoleName>,
    /// Those of them in which there are to be no offers yet.
    pub(crate) suppressed: BTreeSet<RoleName>,
    /// The highest of a master that was followed before.
    pub(crate) master_term: u64,
}

/// What the line tells the driver.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// About to subscribe: how?
    Subscribing(oneshot::Sender<Subscription>),
    /// Subscribed.
    Subscribed {
        framework: FrameworkId,
        /// Of the master's leadership.
        term: u64,
        /// Calls go here.
        calls: mpsc::Sender<Vec<Call>>,
    },
    /// The master does not know the framework id any more.
    Forgotten(String),
    Offers(Vec<Offer>),
    Rescind(OfferId),
    Status(Box<TaskStatus>),
    Machines(BTreeMap<AgentId, Machine>),
    /// The master's reasons why there are the offers that there are, by role.
    Explained(BTreeMap<RoleName, Vec<String>>),
    /// Which of the roles it may not have, and why.
    RolesRefused(BTreeMap<RoleName, String>),
    /// These were refused as invalid and will not run.
    Refused(Vec<(TaskId, AgentId)>, String),
    /// The subscription ended.
    Disconnected,
}

/// Keeps subscribed until told to stop or the driver is gone.
pub(crate) async fn run(
    mut config: LinkConfig,
    events: mpsc::Sender<LinkEvent>,
    stop: CancellationToken,
) {
    let mut said = String::new();
    loop {
        let began = tokio::time::Instant::now();
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = subscribe(&config, &events) => ended,
        };
        if events.is_closed() {
            return;
        }
        if let Ended::After(problem) | Ended::Never(problem, _) = &ended {
            // The same again and again is news once.
            if *problem == said {
                tracing::debug!(
                    master = config.masters.current(),
                    problem,
                    "still no subscription to the master"
                );
            } else {
                tracing::warn!(
                    master = config.masters.current(),
                    problem,
                    "no subscription to the master; trying again"
                );
                said.clone_from(problem);
            }
        }
        let leader = match ended {
            Ended::After(_) if began.elapsed() > CALM => {
                config.masters.reached();
                said.clear();
                None
            }
            Ended::Never(_, leader) => leader,
            Ended::After(_) | Ended::Again => None,
        };
        // Jitter: many frameworks lose one master at once.
        let random = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        let pause = config.masters.failed(leader, random);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

enum Ended {
    /// It was not even taken; perhaps with the leader that was named instead.
    Never(String, Option<String>),
    /// It was, and broke.
    After(String),
    /// Begin again without a word.
    Again,
}

fn endpoint(master: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{master}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(20))
        .tcp_nodelay(true))
}

async fn subscribe(config: &LinkConfig, events: &mpsc::Sender<LinkEvent>) -> Ended {
    let endpoint = match endpoint(config.masters.current()) {
        Ok(endpoint) => endpoint,
        Err(error) => return never(chain(&error)),
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return never(chain(&error)),
    };
    let (ask, answer) = oneshot::channel();
    if events.send(LinkEvent::Subscribing(ask)).await.is_err() {
        return Ended::Again;
    }
    let Ok(subscription) = answer.await else {
        return Ended::Again;
    };
    if !config.fence.is_open() {
        return never(DEPOSED.to_owned());
    }
    let known = subscription.framework_id.is_some();
    let term = subscription.master_term;
    let mut info = FrameworkInfo {
        framework_id: subscription.framework_id,
        name: config.framework_name.clone(),
        user: String::new(),
        roles: subscription.roles.iter().cloned().collect(),
        failover_timeout: config.failover_timeout,
        hostname: String::new(),
        principal: String::new(),
        webui_url: config.webui_url.clone(),
        labels: BTreeMap::new(),
        offer_filters: BTreeMap::new(),
        capabilities: [Capability::RevocableResources].into(),
    };
    let channel = Authorized::new(channel, config.credential.clone());
    let mut client = FrameworkServiceClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    // One role that it may not have is no reason to do without all others: those come one by one.
    let mut later = BTreeSet::new();
    let stream = loop {
        let request = proto::SubscribeRequest {
            framework: Some(info.clone().into()),
            suppressed_roles: names(&subscription.suppressed),
        };
        match tokio::time::timeout(CONNECT_TIMEOUT * 2, client.subscribe(request)).await {
            Err(_) => return never("the master did not answer in time".to_owned()),
            Ok(Err(status))
                if status.code() == Code::PermissionDenied
                    && info.roles.len() > config.own_roles.len() =>
            {
                info.roles.retain(|role| config.own_roles.contains(role));
                later.clone_from(&subscription.roles);
            }
            Ok(Err(status)) if known && is_forgotten(&status) => {
                return forgotten(events, &status).await;
            }
            Ok(Err(status)) => {
                return Ended::Never(status.to_string(), masters::leader_named(&status));
            }
            Ok(Ok(response)) => break response.into_inner(),
        }
    };
    let performer = calls::Performer {
        client,
        channel,
        caller: proto::Caller::default(),
        events: events.clone(),
        fence: config.fence.clone(),
        info,
        own_roles: config.own_roles.clone(),
        later: (later, subscription.suppressed),
    };
    let ended = follow(stream, performer, known, term).await;
    // The driver learns it even from a subscription that broke before its first event.
    if events.send(LinkEvent::Disconnected).await.is_err() {
        return Ended::Again;
    }
    ended
}

fn names(roles: &BTreeSet<RoleName>) -> Vec<String> {
    roles.iter().map(ToString::to_string).collect()
}

/// Unknown to the master, or removed by an operator or for its failover timeout: the id is of no use any more.
fn is_forgotten(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::FailedPrecondition)
}

async fn forgotten(events: &mpsc::Sender<LinkEvent>, status: &tonic::Status) -> Ended {
    let _ = events
        .send(LinkEvent::Forgotten(status.message().to_owned()))
        .await;
    never(format!(
        "{}; subscribing as a new framework",
        status.message()
    ))
}

/// Nobody was named.
fn never(problem: String) -> Ended {
    Ended::Never(problem, None)
}

/// Reads the stream to its end.
async fn follow(
    mut stream: tonic::Streaming<proto::Event>,
    mut performer: calls::Performer,
    known: bool,
    term: u64,
) -> Ended {
    let events = &performer.events.clone();
    let first = match tokio::time::timeout(CONNECT_TIMEOUT * 2, stream.message()).await {
        Err(_) => return never("the master sent no first event in time".to_owned()),
        Ok(Err(status)) if known && is_forgotten(&status) => {
            return forgotten(events, &status).await;
        }
        Ok(Err(status)) => return Ended::Never(status.to_string(), masters::leader_named(&status)),
        Ok(Ok(None)) => return never("the master closed the stream at once".to_owned()),
        Ok(Ok(Some(event))) => event,
    };
    let Some(proto::event::Event::Subscribed(subscribed)) = first.event else {
        return never("the master's first event was not Subscribed".to_owned());
    };
    if subscribed.term < term {
        return never(format!(
            "the master's term {} is lower than {term}: it leads no longer",
            subscribed.term
        ));
    }
    let framework_id: FrameworkId = match subscribed.framework_id.parse() {
        Ok(id) => id,
        Err(error) => return never(chain(&error)),
    };
    tracing::info!(framework = %framework_id, master = %subscribed.master_id, "subscribed");
    let heartbeat = Duration::from_millis(subscribed.heartbeat_interval_ms.clamp(100, 3_600_000));
    let (to_calls, calls) = mpsc::channel(CALL_QUEUE);
    let broken = CancellationToken::new();
    let _stop_with_us = broken.clone().drop_guard();
    performer.info.framework_id = Some(framework_id.clone());
    performer.caller = proto::Caller {
        framework_id: framework_id.to_string(),
        stream_id: subscribed.stream_id,
    };
    let mut performing = std::pin::pin!(performer.run(calls));
    let event = LinkEvent::Subscribed {
        framework: framework_id,
        term: subscribed.term,
        calls: to_calls,
    };
    if events.send(event).await.is_err() {
        return Ended::Again;
    }
    let mut deadline = tokio::time::Instant::now() + heartbeat * MISSED_HEARTBEATS;
    loop {
        let message = tokio::select! {
            problem = &mut performing => return Ended::After(problem),
            () = tokio::time::sleep_until(deadline) => {
                return Ended::After(format!("no sign of life from the master for {:?}", heartbeat * MISSED_HEARTBEATS));
            }
            message = stream.message() => message,
        };
        deadline = tokio::time::Instant::now() + heartbeat * MISSED_HEARTBEATS;
        let event = match message {
            Ok(Some(event)) => event.event,
            Ok(None) => return Ended::After("the master closed the stream".to_owned()),
            Err(status) => return Ended::After(status.to_string()),
        };
        let Some(event) = event.and_then(translate) else {
            continue;
        };
        // The calls go on while the driver is busy: it may be waiting for them.
        tokio::select! {
            problem = &mut performing => return Ended::After(problem),
            sent = events.send(event) => if sent.is_err() { return Ended::Again },
        }
    }
}

/// `None` for what needs no word, and for what makes no sense, which is logged.
fn translate(event: proto::event::Event) -> Option<LinkEvent> {
    let refused = |what: &str, problem: String| {
        tracing::error!(
            what,
            problem,
            "the master sent something that makes no sense"
        );
        None
    };
    match event {
        // What became of changes of reservations is seen in offers.
        proto::event::Event::Heartbeat(_) | proto::event::Event::Operation(_) => None,
        proto::event::Event::Subscribed(_) => refused("event", "a second Subscribed".to_owned()),
        proto::event::Event::Offers(offers) => {
            let offers: Vec<Offer> = offers
                .offers
                .into_iter()
                .filter_map(|offer| {
                    Offer::try_from(offer)
                        .map_err(|error: Invalid| refused("offer", error.to_string()))
                        .ok()
                })
                .collect();
            (!offers.is_empty()).then_some(LinkEvent::Offers(offers))
        }
        proto::event::Event::Rescind(rescind) => match rescind.offer_id.parse() {
            Ok(offer) => Some(LinkEvent::Rescind(offer)),
            Err(error) => refused("offer id", chain(&error)),
        },
        proto::event::Event::Update(status) => match TaskStatus::try_from(status) {
            Ok(status) => Some(LinkEvent::Status(Box::new(status))),
            Err(error) => refused("status", error.to_string()),
        },
        proto::event::Event::AgentLost(lost) => {
            tracing::warn!(agent = %lost.agent_id, "agent lost");
            None
        }
        proto::event::Event::InverseOffers(asked) => {
            // What is left when the agent drains is replaced as after any drain.
            for offer in asked.offers {
                let (agent, window) = (offer.agent_id, offer.window);
                tracing::info!(
                    agent,
                    window,
                    "work is planned on an agent with tasks of ours"
                );
            }
            None
        }
        proto::event::Event::RescindInverseOffer(_) => None,
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
