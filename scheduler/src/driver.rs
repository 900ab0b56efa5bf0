//! The event loop: the one owner of the core. Commands, the master's events and time go in; writes, calls and a
//! published snapshot come out, in that order.
//!
//! Edge. Events that wait are taken together: one turn, one transaction. Reads never come here: they look at the
//! snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mezzo_api::model::{Reason, RoleName, StatusSource, TaskState, TaskStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::core::command::{Command, Refusal, Reply};
use crate::core::state::State;
use crate::core::{Call, Core, Ids};
use crate::events::Origin;
use crate::events::hub::Hub;
use crate::link::{LinkEvent, Subscription, chain};
use crate::store::{Keep, StoreError};

/// Events, and requests, taken into one turn at most.
const BATCH: usize = 8192;
/// Requests that may wait for the loop.
const REQUEST_QUEUE: usize = 1024;
/// While much happens readers see a new state this often, and whoever made a change sees it at once. Each new one makes the next turn
/// copy what it changes.
const PUBLISH_EVERY_MS: u64 = 50;
/// How long a request waits for its turn and the disk.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A command and who waits for the answer.
#[derive(Debug)]
pub(crate) struct Request {
    command: Command,
    origin: Option<Origin>,
    reply: oneshot::Sender<Result<Reply, Refusal>>,
}

tokio::task_local! {
    /// Whose request the commands of this task are: set by the front around each handler, so that no handler has to
    /// hand it on.
    pub(crate) static ORIGIN: Origin;
}

/// For everybody who asks: cheap to clone, hides the channels.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<Arc<State>>,
}

/// The loop is gone or stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("the scheduler is shutting down")]
    Ending,
    #[error("the scheduler did not answer in time")]
    Timeout,
}

impl Handle {
    /// Does it, durably, or says why not.
    pub(crate) async fn command(
        &self,
        command: Command,
    ) -> Result<Result<Reply, Refusal>, Unavailable> {
        let (reply, answer) = oneshot::channel();
        let origin = ORIGIN.try_with(Origin::clone).ok();
        let asked = async {
            self.requests
                .send(Request {
                    command,
                    origin,
                    reply,
                })
                .await
                .map_err(|_| Unavailable::Ending)?;
            answer.await.map_err(|_| Unavailable::Ending)
        };
        tokio::time::timeout(REQUEST_TIMEOUT, asked)
            .await
            .map_err(|_| Unavailable::Timeout)?
    }

    /// The state after the latest turn.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }
}

/// The loop, ready to run.
#[derive(Debug)]
pub(crate) struct Driver {
    core: Core,
    store: Keep,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Receiver<LinkEvent>,
    publish: watch::Sender<Arc<State>>,
    hub: Arc<Hub>,
    calls: Option<mpsc::Sender<Vec<Call>>>,
    /// The roles of the subscription under way.
    subscribed_in: BTreeSet<RoleName>,
    published_at: u64,
    /// The state has changed since.
    unpublished: bool,
}

struct RandomIds;

impl Ids for RandomIds {
    fn unique(&mut self) -> Uuid {
        Uuid::new_v4()
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

type Answer = (
    oneshot::Sender<Result<Reply, Refusal>>,
    Result<Reply, Refusal>,
);

impl Driver {
    pub(crate) fn new(
        core: Core,
        store: Keep,
        events: mpsc::Receiver<LinkEvent>,
        hub: Arc<Hub>,
    ) -> (Self, Handle) {
        let (to_requests, requests) = mpsc::channel(REQUEST_QUEUE);
        let (publish, state) = watch::channel(Arc::new(core.state().clone()));
        let driver = Self {
            core,
            store,
            requests,
            events,
            publish,
            hub,
            calls: None,
            subscribed_in: BTreeSet::new(),
            published_at: 0,
            unpublished: false,
        };
        let handle = Handle {
            requests: to_requests,
            state,
        };
        (driver, handle)
    }

    /// Until told to stop, or the disk fails.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut answers: Vec<Answer> = Vec::new();
        let mut wake_at = Some(now_ms());
        loop {
            let sleep = async {
                match wake_at {
                    Some(at) => {
                        tokio::time::sleep(Duration::from_millis(at.saturating_sub(now_ms()))).await
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(event) = self.events.recv() => self.event(event),
                Some(request) = self.requests.recv() => self.request(request, &mut answers),
                () = sleep => {}
            }
            // Some of each, so that a flood of statuses keeps no request waiting.
            for _ in 0..BATCH {
                let Ok(event) = self.events.try_recv() else {
                    break;
                };
                self.event(event);
            }
            for _ in 0..BATCH {
                let Ok(request) = self.requests.try_recv() else {
                    break;
                };
                self.request(request, &mut answers);
            }
            wake_at = self.turn(&mut answers).await?;
        }
    }

    fn request(&mut self, request: Request, answers: &mut Vec<Answer>) {
        let result = self.core.command(request.command, now_ms(), &mut RandomIds);
        if let (Some(origin), Ok(reply)) = (&request.origin, &result) {
            self.core.tell_request(origin, reply);
        }
        answers.push((request.reply, result));
    }

    async fn turn(&mut self, answers: &mut Vec<Answer>) -> Result<Option<u64>, StoreError> {
        let effects = self.core.turn(now_ms(), &mut RandomIds);
        if !effects.writes.is_empty()
            && let Err(failed) = self.store.commit(effects.writes).await
        {
            // The scheduler ends and begins again with what is kept. Those who wait are told why.
            let refusal = if matches!(failed, StoreError::Deposed) {
                Refusal::Deposed
            } else {
                Refusal::NotWritten(chain(&failed))
            };
            for (reply, _) in answers.drain(..) {
                let _ = reply.send(Err(refusal.clone()));
            }
            return Err(failed);
        }
        self.unpublished |= effects.changed;
        let now = now_ms();
        let due = self.published_at.saturating_add(PUBLISH_EVERY_MS);
        if self.unpublished && (!answers.is_empty() || now >= due || now < self.published_at) {
            self.publish
                .send_replace(Arc::new(self.core.state().clone()));
            self.published_at = now;
            self.unpublished = false;
        }
        // After the snapshot, so that whoever reads on an event's word sees what it tells of.
        if !effects.events.is_empty() {
            self.hub.publish(effects.events);
        }
        if !effects.calls.is_empty()
            && let Some(calls) = &self.calls
        {
            // Each call has a deadline, so this wait has one too. A closed channel is a broken subscription, which the
            // link reports.
            let _ = calls.send(effects.calls).await;
        }
        for (reply, result) in answers.drain(..) {
            // Whoever does not wait any more does not want to know.
            let _ = reply.send(result);
        }
        let publish_at = self.unpublished.then_some(due);
        Ok(effects.wake_at.into_iter().chain(publish_at).min())
    }

    fn event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Subscribing(reply) => {
                self.subscribed_in.clone_from(self.core.roles());
                let _ = reply.send(Subscription {
                    framework_id: self.core.state().framework_id.clone(),
                    roles: self.core.roles().clone(),
                    suppressed: self.core.suppressed_roles(),
                    master_term: self.core.state().master_term,
                });
            }
            LinkEvent::Subscribed {
                framework,
                term,
                calls,
            } => {
                self.calls = Some(calls);
                self.core.followed(term);
                self.core.subscribed(&framework, now_ms());
                self.core.subscribed_in(&self.subscribed_in);
            }
            LinkEvent::Forgotten(problem) => {
                tracing::warn!(
                    problem,
                    "the master has forgotten this framework: subscribing as a new one"
                );
                self.core.forget_framework();
            }
            LinkEvent::Offers(offers) => self.core.offered(offers),
            LinkEvent::Rescind(offer) => self.core.rescinded(&offer),
            LinkEvent::Status(status) => {
                tracing::debug!(
                    task = %status.task_id,
                    state = %status.state,
                    update = status.update_id.as_ref().map(tracing::field::display),
                    text = status.message,
                    "status"
                );
                self.core.status(&status, now_ms());
            }
            LinkEvent::Machines(machines) => self.core.surveyed(machines),
            LinkEvent::Explained(reasons) => self.core.roles_explained(reasons),
            LinkEvent::RolesRefused(refused) => self.core.roles_refused(&refused),
            LinkEvent::Refused(tasks, problem) => {
                let Some(framework_id) = self.core.state().framework_id.clone() else {
                    return;
                };
                for (task_id, agent_id) in tasks {
                    let status = TaskStatus {
                        task_id,
                        framework_id: framework_id.clone(),
                        agent_id: Some(agent_id),
                        state: TaskState::Error,
                        reason: Some(Reason::TaskInvalid),
                        source: StatusSource::Master,
                        message: problem.clone(),
                        timestamp_ms: now_ms(),
                        update_id: None,
                        healthy: None,
                        health_results: Vec::new(),
                        container: None,
                        readiness: None,
                        check_result: None,
                        exit: None,
                        usage: None,
                    };
                    self.core.status(&status, now_ms());
                }
            }
            LinkEvent::Disconnected => {
                self.calls = None;
                self.core.disconnected();
            }
        }
    }
}
