//! The line to the master: subscribes, again and again, and turns what comes into events.
//!
//! One task, owned by [`crate::Framework`]. Every wait but the one for room in the author's queue has a deadline; while
//! the author does not read, nothing is read from the master, which cuts us off in the end.

use std::{sync::Arc, time::Duration};

use mezzo_api::{
    credential::Authorized,
    masters::{self, Masters},
    model::FrameworkId,
    proto::{self, event, framework_service_client::FrameworkServiceClient},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    Error, Event,
    builder::Checked,
    calls::{MAX_MESSAGE, Session},
    wishes::Wishes,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the first event, from a master that is connected.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Without so many heartbeats the stream counts as broken.
const MISSED_HEARTBEATS: u32 = 5;
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How one attempt ended.
enum Ended {
    /// It was not taken.
    Never(String),
    /// The master does not lead and says who does.
    Elsewhere(String),
    /// It was taken, and broke.
    Broke(String),
    /// Trying again cannot help.
    ForGood(Error),
    /// The author is gone.
    Unwatched,
}

pub(crate) struct Line {
    config: Checked,
    events: mpsc::Sender<Result<Event, Error>>,
    sessions: watch::Sender<Option<Session>>,
    wishes: Arc<Wishes>,
    masters: Masters,
}

impl Line {
    pub(crate) fn new(
        config: Checked,
        events: mpsc::Sender<Result<Event, Error>>,
        sessions: watch::Sender<Option<Session>>,
        wishes: Arc<Wishes>,
    ) -> Self {
        let masters = config.masters.clone();
        Self {
            config,
            events,
            sessions,
            wishes,
            masters,
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.stay_subscribed() => {}
        }
        self.sessions.send_replace(None);
    }

    async fn stay_subscribed(&mut self) {
        let mut failures = 0_u32;
        loop {
            let master = self.masters.current().to_owned();
            let ended = self.subscribe(&master).await;
            let was_subscribed = self.sessions.send_replace(None).is_some();
            if was_subscribed {
                failures = 0;
            }
            let leaving = self.wishes.is_leaving();
            let (why, named) = match ended {
                Ended::Unwatched => return,
                Ended::ForGood(_) | Ended::Broke(_) if leaving => return,
                Ended::ForGood(error) => {
                    // Nobody may be reading any more.
                    let _ = self.events.send(Err(error)).await;
                    return;
                }
                Ended::Elsewhere(named) => (format!("{named} leads"), Some(named)),
                Ended::Broke(why) | Ended::Never(why) => (why, None),
            };
            if was_subscribed {
                tracing::warn!(master, why, "the subscription broke; subscribing again");
                if self
                    .events
                    .send(Ok(Event::Disconnected { why }))
                    .await
                    .is_err()
                {
                    return;
                }
            } else if failures == 0 {
                tracing::warn!(master, why, "no subscription yet; trying on");
            } else {
                // The same again and again is news once.
                tracing::debug!(master, why, "no subscription yet; trying on");
            }
            let pause = self.masters.failed(named, rand::random());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.events.closed() => return,
            }
            failures = failures.saturating_add(1);
        }
    }

    async fn subscribe(&mut self, master: &str) -> Ended {
        let endpoint = match Endpoint::from_shared(format!("http://{master}")) {
            Ok(endpoint) => endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .tcp_nodelay(true),
            Err(error) => return Ended::Never(chain(&error)),
        };
        let channel: Channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => {
                return Ended::Never(format!("cannot reach master {master}: {}", chain(&error)));
            }
        };
        let channel = Authorized::new(channel, self.config.credential.clone());
        let mut client = FrameworkServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let request = proto::SubscribeRequest {
            framework: Some(self.config.info.clone().into()),
            suppressed_roles: self.wishes.suppressed(),
        };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let late = || {
            Ended::Never(format!(
                "master {master} did not answer within {ANSWER_TIMEOUT:?}"
            ))
        };
        let mut stream = match timeout_at(deadline, client.subscribe(request)).await {
            Err(_) => return late(),
            Ok(Err(status)) => return self.refused(&status),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        let first = match timeout_at(deadline, stream.message()).await {
            Err(_) => return late(),
            Ok(Err(status)) => return self.refused(&status),
            Ok(Ok(first)) => first.and_then(|first| first.event),
        };
        let Some(event::Event::Subscribed(subscribed)) = first else {
            return Ended::Never(format!("master {master} did not begin with Subscribed"));
        };
        let framework_id: FrameworkId = match subscribed.framework_id.parse() {
            Ok(id) => id,
            Err(error) => return Ended::Never(format!("master {master}: {error}")),
        };
        let highest = self.config.master_term;
        if subscribed.term < highest {
            tracing::warn!(
                master,
                term = subscribed.term,
                highest,
                "not followed: a master of a higher term was seen, so this one leads no longer"
            );
            return Ended::Never(format!(
                "master {master} has term {}, which is lower than {highest}: it leads no longer",
                subscribed.term
            ));
        }
        self.config.master_term = subscribed.term;
        tracing::info!(%framework_id, master, master_id = subscribed.master_id, "subscribed");
        self.config.info.framework_id = Some(framework_id.clone());
        self.masters.reached();
        let caller = proto::Caller {
            framework_id: subscribed.framework_id,
            stream_id: subscribed.stream_id,
        };
        self.sessions.send_replace(Some(Session { caller, client }));
        let event = Event::Subscribed {
            framework_id,
            master_id: subscribed.master_id,
            term: subscribed.term,
        };
        if self.events.send(Ok(event)).await.is_err() {
            return Ended::Unwatched;
        }
        let silence = Duration::from_millis(subscribed.heartbeat_interval_ms.clamp(100, 3_600_000))
            * MISSED_HEARTBEATS;
        self.follow(stream, silence).await
    }

    async fn follow(&self, mut stream: tonic::Streaming<proto::Event>, silence: Duration) -> Ended {
        loop {
            let event = tokio::select! {
                event = timeout(silence, stream.message()) => event,
                () = self.events.closed() => return Ended::Unwatched,
            };
            let event = match event {
                Err(_) => return Ended::Broke(format!("no sign of the master for {silence:?}")),
                Ok(Err(status)) => return self.broken(&status),
                Ok(Ok(None)) => return Ended::Broke("the master closed the stream".to_owned()),
                Ok(Ok(Some(event))) => event,
            };
            // What a newer master may say beyond what we know is none of our business.
            let Some(event) = event.event else { continue };
            match Event::read(event) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    if self.events.send(Ok(event)).await.is_err() {
                        return Ended::Unwatched;
                    }
                }
                Err(problem) => {
                    tracing::error!(problem, "the master sent something that makes no sense")
                }
            }
        }
    }

    fn refused(&self, status: &Status) -> Ended {
        if let Some(leader) = masters::leader_named(status) {
            return Ended::Elsewhere(leader);
        }
        let message = status.message().to_owned();
        match (status.code(), &self.config.info.framework_id) {
            (Code::NotFound | Code::FailedPrecondition, Some(id)) => {
                Ended::ForGood(Error::Forgotten {
                    framework_id: id.clone(),
                    message,
                })
            }
            (Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated, _) => {
                Ended::ForGood(Error::Refused { message })
            }
            _ => Ended::Never(told(status)),
        }
    }

    fn broken(&self, status: &Status) -> Ended {
        if let Some(leader) = masters::leader_named(status) {
            return Ended::Elsewhere(leader);
        }
        match (status.code(), self.config.info.framework_id.clone()) {
            (Code::Aborted, Some(framework_id)) => {
                Ended::ForGood(Error::Superseded { framework_id })
            }
            (Code::FailedPrecondition, Some(framework_id)) => Ended::ForGood(Error::Forgotten {
                framework_id,
                message: status.message().to_owned(),
            }),
            _ => Ended::Broke(told(status)),
        }
    }
}

fn told(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
