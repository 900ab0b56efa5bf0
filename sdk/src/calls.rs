//! What a framework asks of the master: one method for each call, each with a deadline.
//!
//! Calls belong to the current subscription. Calls that one task makes one after the other arrive in that order.

use std::{sync::Arc, time::Duration};

use mezzo_api::{
    credential::Authorized,
    model::{
        AgentId, FrameworkInfo, Offer, OfferId, OperationId, OperationStatus, PoolChange, RoleName,
        TaskId, TaskInfo, TaskStatus,
    },
    proto::{
        self, accept_each_request::Accept, acknowledge_request,
        framework_service_client::FrameworkServiceClient, operation, pool_change::Change,
    },
};
use tokio::{sync::watch, time::timeout};
use tonic::{Response, Status};

use crate::{CallError, wishes::Wishes};

/// Messages of a large cluster are larger than gRPC's usual 4 MiB.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// Acknowledgements, accepts, questions in one message.
const BATCH: usize = 1000;

/// One subscription.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) caller: proto::Caller,
    pub(crate) client: FrameworkServiceClient<Authorized>,
}

/// Calls to the master. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    sessions: watch::Receiver<Option<Session>>,
    timeout: Duration,
    wishes: Arc<Wishes>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Calls {
    pub(crate) fn new(
        sessions: watch::Receiver<Option<Session>>,
        timeout: Duration,
        wishes: Arc<Wishes>,
    ) -> Self {
        Self {
            sessions,
            timeout,
            wishes,
        }
    }

    /// Whether there is a subscription at this moment.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.sessions.borrow().is_some()
    }

    fn session(
        &self,
        call: &'static str,
    ) -> Result<(proto::Caller, FrameworkServiceClient<Authorized>), CallError> {
        let session = self.sessions.borrow().clone();
        let Session { caller, client } = session.ok_or(CallError::NotSubscribed { call })?;
        Ok((caller, client))
    }

    async fn within<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Answer<T>>,
    ) -> Result<(), CallError> {
        match timeout(self.timeout, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(CallError::of(call, status)),
            Err(_) => Err(CallError::NoAnswer {
                call,
                after: self.timeout,
            }),
        }
    }

    /// Uses offers of one agent for these operations, in order. What they leave is declined, and not offered again for
    /// `refuse`.
    ///
    /// Make the ids of the tasks durable first: when no answer comes, they are to be reconciled. A task that cannot be
    /// launched has a `TASK_ERROR` or `TASK_DROPPED` update of its own; the call succeeds nevertheless.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn accept(
        &self,
        offers: impl IntoIterator<Item = OfferId>,
        operations: Vec<proto::Operation>,
        refuse: Duration,
    ) -> Result<(), CallError> {
        let (caller, mut client) = self.session("accept")?;
        let request = proto::AcceptRequest {
            caller: Some(caller),
            offer_ids: offers.into_iter().map(|id| id.to_string()).collect(),
            operations,
            filters: Some(filters(refuse)),
        };
        self.within("accept", client.accept(request)).await
    }

    /// Launches tasks on one offer: [`Calls::accept`] with a single `Launch`. [`crate::Room`] makes the tasks.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn launch(
        &self,
        offer: &Offer,
        tasks: Vec<TaskInfo>,
        refuse: Duration,
    ) -> Result<(), CallError> {
        self.launch_after(offer, Vec::new(), tasks, refuse).await
    }

    /// The same after changes of what is reserved on the offer's agent and of its volumes, in order: reserve, make a volume,
    /// launch tasks on it in one call. What became of each change comes as [`crate::Event::Operation`] with its id, until
    /// it is acknowledged.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn launch_after(
        &self,
        offer: &Offer,
        changes: Vec<(OperationId, PoolChange)>,
        tasks: Vec<TaskInfo>,
        refuse: Duration,
    ) -> Result<(), CallError> {
        let mut operations: Vec<_> = changes.into_iter().map(change_of).collect();
        operations.extend(launch_of(tasks));
        self.accept([offer.offer_id.clone()], operations, refuse)
            .await
    }

    /// Launches tasks on several offers: for each as [`Calls::launch`], in their order, at most 1000 in one call. An event may
    /// bring a hundred offers, and a call for each costs both sides more than all that is in it.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. Of a call that is refused nothing is done; those before it are.
    pub async fn launch_each(
        &self,
        launches: impl IntoIterator<Item = (OfferId, Vec<TaskInfo>)>,
        refuse: Duration,
    ) -> Result<(), CallError> {
        let accepts = launches.into_iter().map(|(offer, tasks)| Accept {
            offer_ids: vec![offer.to_string()],
            operations: launch_of(tasks).into_iter().collect(),
            filters: Some(filters(refuse)),
        });
        let mut accepts = accepts.collect::<Vec<_>>().into_iter();
        while accepts.len() > 0 {
            let (caller, mut client) = self.session("accept")?;
            let request = proto::AcceptEachRequest {
                caller: Some(caller),
                accepts: accepts.by_ref().take(BATCH).collect(),
            };
            self.within("accept", client.accept_each(request)).await?;
        }
        Ok(())
    }

    /// Gives offers back, not to be offered again for `refuse`.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. An offer that is gone is no error.
    pub async fn decline<'a>(
        &self,
        offers: impl IntoIterator<Item = &'a Offer>,
        refuse: Duration,
    ) -> Result<(), CallError> {
        let offer_ids: Vec<String> = offers
            .into_iter()
            .map(|offer| offer.offer_id.to_string())
            .collect();
        if offer_ids.is_empty() {
            return Ok(());
        }
        let (caller, mut client) = self.session("decline")?;
        let request = proto::DeclineRequest {
            caller: Some(caller),
            offer_ids,
            filters: Some(filters(refuse)),
        };
        self.within("decline", client.decline(request)).await
    }

    /// Offers again, whatever was declined; also ends suppression. No role: for all of the framework's.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn revive(&self, roles: &[RoleName]) -> Result<(), CallError> {
        let (caller, mut client) = self.session("revive")?;
        let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
        let request = proto::ReviveRequest {
            caller: Some(caller),
            roles: roles.clone(),
        };
        self.within("revive", client.revive(request)).await?;
        self.wishes.revive(&roles);
        Ok(())
    }

    /// No offers until [`Calls::revive`], over subscriptions that follow too. No role: for all of the framework's.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn suppress(&self, roles: &[RoleName]) -> Result<(), CallError> {
        let (caller, mut client) = self.session("suppress")?;
        let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
        let request = proto::SuppressRequest {
            caller: Some(caller),
            roles: roles.clone(),
        };
        self.within("suppress", client.suppress(request)).await?;
        self.wishes.suppress(&roles);
        Ok(())
    }

    /// Tells the operator whether the framework moves its tasks away in time. Nothing else follows from it.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn answer_inverse_offers(
        &self,
        ids: &[OfferId],
        accept: bool,
    ) -> Result<(), CallError> {
        let call = "answer_inverse_offers";
        let (caller, mut client) = self.session(call)?;
        let request = proto::AnswerInverseOffersRequest {
            caller: Some(caller),
            inverse_offer_ids: ids.iter().map(ToString::to_string).collect(),
            accept,
        };
        self.within(call, client.answer_inverse_offers(request))
            .await?;
        Ok(())
    }

    /// Ends a task. `grace` may shorten the time between SIGTERM and SIGKILL. The agent helps where the master has no
    /// record of the task.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn kill(
        &self,
        task: &TaskId,
        agent: Option<&AgentId>,
        grace: Option<Duration>,
    ) -> Result<(), CallError> {
        let (caller, mut client) = self.session("kill")?;
        let request = proto::KillRequest {
            caller: Some(caller),
            task_id: task.to_string(),
            agent_id: agent.map(ToString::to_string).unwrap_or_default(),
            grace_ms: grace.map(millis),
        };
        self.within("kill", client.kill(request)).await
    }

    /// Ends the repetition of a status. Call it after what follows from the status is durable. A status that needs no
    /// acknowledgement is passed over.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. When it fails, the status comes again.
    pub async fn acknowledge(&self, status: &TaskStatus) -> Result<(), CallError> {
        self.acknowledge_all([status]).await
    }

    /// The same for many, in few messages: what a framework with thousands of tasks uses.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. Some may have been acknowledged; the others come again.
    pub async fn acknowledge_all<'a>(
        &self,
        statuses: impl IntoIterator<Item = &'a TaskStatus>,
    ) -> Result<(), CallError> {
        let mut updates = statuses.into_iter().filter_map(acknowledgement).peekable();
        while updates.peek().is_some() {
            let (caller, mut client) = self.session("acknowledge")?;
            let request = proto::AcknowledgeRequest {
                caller: Some(caller),
                updates: updates.by_ref().take(BATCH).collect(),
                ..proto::AcknowledgeRequest::default()
            };
            self.within("acknowledge", client.acknowledge(request))
                .await?;
        }
        Ok(())
    }

    /// Asks what became of these tasks; answers come as updates. No answer means that the agent is expected back: ask
    /// again ([`crate::Reconciliation`]).
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn reconcile(&self, tasks: Vec<(TaskId, Option<AgentId>)>) -> Result<(), CallError> {
        for tasks in tasks.chunks(BATCH) {
            let (caller, mut client) = self.session("reconcile")?;
            let keys = tasks
                .iter()
                .map(|(task, agent)| proto::reconcile_request::TaskKey {
                    task_id: task.to_string(),
                    agent_id: agent.as_ref().map(ToString::to_string).unwrap_or_default(),
                });
            let request = proto::ReconcileRequest {
                caller: Some(caller),
                tasks: keys.collect(),
            };
            self.within("reconcile", client.reconcile(request)).await?;
        }
        Ok(())
    }

    /// Asks for the state of all tasks that the master knows to have not ended. It says nothing of tasks that the author
    /// believes in and the master does not know: those need [`Calls::reconcile`].
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn reconcile_all(&self) -> Result<(), CallError> {
        let (caller, mut client) = self.session("reconcile")?;
        let request = proto::ReconcileRequest {
            caller: Some(caller),
            tasks: Vec::new(),
        };
        self.within("reconcile", client.reconcile(request)).await
    }

    /// Ends the repetition of what became of a change of reservations or volumes ([`crate::Event::Operation`]). Call it
    /// after what follows from it is durable. One that is still under way is passed over.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. When it fails, the status comes again.
    pub async fn acknowledge_operation(&self, status: &OperationStatus) -> Result<(), CallError> {
        let Some(agent_id) = status
            .agent_id
            .as_ref()
            .filter(|_| status.state.is_terminal())
        else {
            return Ok(());
        };
        let (caller, mut client) = self.session("acknowledge_operation")?;
        let request = proto::AcknowledgeOperationRequest {
            caller: Some(caller),
            agent_id: agent_id.to_string(),
            operation_id: status.id.to_string(),
        };
        let answer = client.acknowledge_operation(request);
        self.within("acknowledge_operation", answer).await
    }

    /// Asks what became of these changes; none: of all that are under way or not acknowledged. Answers come as
    /// [`crate::Event::Operation`].
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn reconcile_operations(
        &self,
        operations: &[(OperationId, Option<AgentId>)],
    ) -> Result<(), CallError> {
        let (caller, mut client) = self.session("reconcile_operations")?;
        let keys = operations.iter().map(|(id, agent)| {
            proto::reconcile_operations_request::OperationKey {
                operation_id: id.to_string(),
                agent_id: agent.as_ref().map(ToString::to_string).unwrap_or_default(),
            }
        });
        let request = proto::ReconcileOperationsRequest {
            caller: Some(caller),
            operations: keys.collect(),
        };
        let answer = client.reconcile_operations(request);
        self.within("reconcile_operations", answer).await
    }

    /// Sends a datagram to a running task, best effort; at most 64 KiB.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn send_message(
        &self,
        task: &TaskId,
        agent: &AgentId,
        data: Vec<u8>,
    ) -> Result<(), CallError> {
        let (caller, mut client) = self.session("send_message")?;
        let request = proto::SendMessageRequest {
            caller: Some(caller),
            agent_id: agent.to_string(),
            task_id: task.to_string(),
            data,
        };
        self.within("send_message", client.send_message(request))
            .await
    }

    /// Changes the framework's description: everything but `principal` and `user`. Later subscriptions of this process
    /// begin with the old one: change it again after [`crate::Event::Subscribed`].
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn update(
        &self,
        info: FrameworkInfo,
        suppressed: &[RoleName],
    ) -> Result<(), CallError> {
        let (caller, mut client) = self.session("update_framework")?;
        let request = proto::UpdateFrameworkRequest {
            caller: Some(caller),
            framework: Some(info.into()),
            suppressed_roles: suppressed.iter().map(ToString::to_string).collect(),
        };
        self.within("update_framework", client.update_framework(request))
            .await
    }

    /// Kills every task and forgets the framework; its id cannot be used again. The events end.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn teardown(&self) -> Result<(), CallError> {
        let (caller, mut client) = self.session("teardown")?;
        self.wishes.leave(true);
        let request = proto::TeardownRequest {
            caller: Some(caller),
        };
        let result = self.within("teardown", client.teardown(request)).await;
        if result.is_err() {
            self.wishes.leave(false);
        }
        result
    }
}

fn acknowledgement(status: &TaskStatus) -> Option<acknowledge_request::Update> {
    let (agent_id, update_id) = (status.agent_id.as_ref()?, status.update_id.as_ref()?);
    Some(acknowledge_request::Update {
        agent_id: agent_id.to_string(),
        task_id: status.task_id.to_string(),
        update_id: update_id.to_string(),
    })
}

/// As an accept has it; none without tasks.
fn launch_of(tasks: Vec<TaskInfo>) -> Option<proto::Operation> {
    let launch = operation::Launch {
        tasks: tasks.into_iter().map(Into::into).collect(),
    };
    (!launch.tasks.is_empty()).then(|| proto::Operation {
        operation: Some(operation::Operation::Launch(launch)),
        operation_id: String::new(),
    })
}

/// As an accept has it.
fn change_of((id, change): (OperationId, PoolChange)) -> proto::Operation {
    let operation = proto::PoolChange::from(change)
        .change
        .map(|change| match change {
            Change::Reserve(reserve) => operation::Operation::Reserve(reserve),
            Change::Unreserve(unreserve) => operation::Operation::Unreserve(unreserve),
            Change::CreateVolume(create) => operation::Operation::CreateVolume(create),
            Change::DestroyVolume(destroy) => operation::Operation::DestroyVolume(destroy),
        });
    proto::Operation {
        operation,
        operation_id: id.to_string(),
    }
}

fn filters(refuse: Duration) -> proto::Filters {
    proto::Filters {
        refuse_ms: Some(millis(refuse)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
