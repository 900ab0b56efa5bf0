//! The front for frameworks: a server stream of events, and unary calls.
//!
//! A task per stream sends heartbeats and notices when the framework is gone. Whether a call is allowed is the core's
//! to say; here messages are read and answers written.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use mezzo_api::{
    convert::{AtHand, Invalid},
    model::{Filters, FrameworkInfo, Offer, OperationStatus, PoolChange, RoleName, TaskInfo},
    proto::{self, event, framework_service_server::FrameworkService, operation},
};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Request, Response, Status};

use super::{
    outbox,
    status::{bounded, invalid, parse, parse_optional, storable, within},
};
use crate::{
    actor::{Context, Peer},
    auth::{self, Action, Principal},
    config::to_millis,
    state::{Accept, Acknowledgement, Call, Caller, Event, Launch, ToFramework},
};

/// Ids in one call.
const MOST_IDS: usize = 100_000;
/// Accepts in one call, each with as much as one alone may have.
const MOST_ACCEPTS: usize = 1000;

/// Of a message to a task.
const MOST_MESSAGE_BYTES: usize = 64 * 1024;

/// What goes to a framework: the core's words, and the front's own heartbeats.
#[derive(Debug)]
pub(crate) enum FrameworkLine {
    /// From the core.
    Core(ToFramework),
    /// From the front.
    Heartbeat,
}

/// Serves `FrameworkService`.
#[derive(Debug, Clone)]
pub(crate) struct FrameworkFront {
    context: Context,
}

impl FrameworkFront {
    pub(crate) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Where names are proven, a framework is its principal's, in roles that the principal may use.
    fn own(&self, principal: &Principal, info: &mut FrameworkInfo) -> Result<(), Status> {
        let guard = &self.context.guard;
        for role in &info.roles {
            guard.authorize(principal, Action::Subscribe, Some(role.as_str()))?;
        }
        if !guard.proves_names() {
            return Ok(());
        }
        if !info.principal.is_empty() && info.principal != principal.name() {
            return Err(Status::permission_denied(format!(
                "framework.principal: is {}, the credential is of {}",
                info.principal,
                principal.name()
            )));
        }
        let snapshot = self.context.snapshot();
        let known = info.framework_id.as_ref();
        let known = known.and_then(|id| snapshot.frameworks.get(id));
        if let Some(view) = known
            && !view.info.principal.is_empty()
            && view.info.principal != principal.name()
        {
            return Err(Status::permission_denied(format!(
                "framework {} is of another principal",
                view.framework_id
            )));
        }
        principal.name().clone_into(&mut info.principal);
        Ok(())
    }

    async fn call(&self, caller: Option<proto::Caller>, call: Call) -> Result<(), Status> {
        let caller = caller.ok_or_else(|| invalid("caller", "is missing"))?;
        let caller = Caller {
            framework_id: parse("caller.framework_id", caller.framework_id)?,
            stream_id: parse("caller.stream_id", caller.stream_id)?,
        };
        self.context.ask(Event::Call { caller, call }).await
    }
}

#[tonic::async_trait]
impl FrameworkService for FrameworkFront {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<proto::Event, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let principal = auth::who(&request)?;
        let request = request.into_inner();
        let mut info = framework_info(request.framework)?;
        self.own(&principal, &mut info)?;
        let suppressed = roles("suppressed_roles", request.suppressed_roles)?;
        let (outbox, inbox) = outbox::channel(
            self.context.config.framework_queue,
            self.context.fence.clone(),
        );
        let conn = self.context.next_conn();
        tracing::info!(
            conn = conn.0,
            framework = info.framework_id.as_ref().map_or("(new)", |id| id.as_str()),
            name = info.name,
            "framework subscribes"
        );
        let event = Event::Subscribe {
            conn,
            info,
            suppressed,
        };
        let answer = self
            .context
            .attach(event, Peer::Framework(conn, outbox.clone()))
            .await?;
        let context = self.context.clone();
        self.context.tasks.spawn(async move {
            let mut heartbeats = interval(context.config.framework_heartbeat_interval);
            heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            heartbeats.reset();
            loop {
                tokio::select! {
                    () = outbox.ended() => break,
                    () = context.shutdown.cancelled() => break,
                    // A full queue is the core's to notice.
                    _ = heartbeats.tick() => { let _ = outbox.send(FrameworkLine::Heartbeat); }
                }
            }
            tracing::info!(conn = conn.0, "framework's stream ends");
            context.send(Event::FrameworkDetached { conn }).await;
        });
        self.context.answer(answer).await?;
        let context = self.context.clone();
        let stream = inbox.map(move |line| line.map(|line| encode(line, &context)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn accept(
        &self,
        request: Request<proto::AcceptRequest>,
    ) -> Result<Response<proto::AcceptResponse>, Status> {
        let request = request.into_inner();
        let accept = decode_accept(request.offer_ids, request.operations, request.filters)?;
        self.call(request.caller, Call::Accept(vec![accept]))
            .await?;
        Ok(Response::new(proto::AcceptResponse {}))
    }

    async fn accept_each(
        &self,
        request: Request<proto::AcceptEachRequest>,
    ) -> Result<Response<proto::AcceptEachResponse>, Status> {
        let request = request.into_inner();
        bounded("accepts", request.accepts.len(), MOST_ACCEPTS)?;
        let accepts = request.accepts.into_iter().enumerate().map(|(i, accept)| {
            decode_accept(accept.offer_ids, accept.operations, accept.filters)
                .map_err(|status| within(&format!("accepts[{i}]"), &status))
        });
        let accepts = accepts.collect::<Result<_, _>>()?;
        self.call(request.caller, Call::Accept(accepts)).await?;
        Ok(Response::new(proto::AcceptEachResponse {}))
    }

    async fn decline(
        &self,
        request: Request<proto::DeclineRequest>,
    ) -> Result<Response<proto::DeclineResponse>, Status> {
        let request = request.into_inner();
        let call = Call::Decline {
            offers: offer_ids(request.offer_ids)?,
            refuse: refuse(request.filters),
        };
        self.call(request.caller, call).await?;
        Ok(Response::new(proto::DeclineResponse {}))
    }

    async fn revive(
        &self,
        request: Request<proto::ReviveRequest>,
    ) -> Result<Response<proto::ReviveResponse>, Status> {
        let request = request.into_inner();
        self.call(request.caller, Call::Revive(roles("roles", request.roles)?))
            .await?;
        Ok(Response::new(proto::ReviveResponse {}))
    }

    async fn suppress(
        &self,
        request: Request<proto::SuppressRequest>,
    ) -> Result<Response<proto::SuppressResponse>, Status> {
        let request = request.into_inner();
        self.call(
            request.caller,
            Call::Suppress(roles("roles", request.roles)?),
        )
        .await?;
        Ok(Response::new(proto::SuppressResponse {}))
    }

    async fn kill(
        &self,
        request: Request<proto::KillRequest>,
    ) -> Result<Response<proto::KillResponse>, Status> {
        let request = request.into_inner();
        let call = Call::Kill {
            task_id: parse("task_id", request.task_id)?,
            agent_id: parse_optional("agent_id", request.agent_id)?,
            grace: request.grace_ms.map(Duration::from_millis),
        };
        self.call(request.caller, call).await?;
        Ok(Response::new(proto::KillResponse {}))
    }

    async fn acknowledge(
        &self,
        request: Request<proto::AcknowledgeRequest>,
    ) -> Result<Response<proto::AcknowledgeResponse>, Status> {
        let request = request.into_inner();
        bounded("updates", request.updates.len(), MOST_IDS)?;
        let mut acknowledgements = Vec::with_capacity(request.updates.len().max(1));
        let single = [&request.agent_id, &request.task_id, &request.update_id];
        if request.updates.is_empty() || single.iter().any(|id| !id.is_empty()) {
            acknowledgements.push(Acknowledgement {
                agent_id: parse("agent_id", request.agent_id)?,
                task_id: parse("task_id", request.task_id)?,
                update_id: parse("update_id", request.update_id)?,
            });
        }
        for (i, update) in request.updates.into_iter().enumerate() {
            let field = |name: &str| format!("updates[{i}].{name}");
            acknowledgements.push(Acknowledgement {
                agent_id: parse(&field("agent_id"), update.agent_id)?,
                task_id: parse(&field("task_id"), update.task_id)?,
                update_id: parse(&field("update_id"), update.update_id)?,
            });
        }
        self.call(request.caller, Call::Acknowledge(acknowledgements))
            .await?;
        Ok(Response::new(proto::AcknowledgeResponse {}))
    }

    async fn reconcile(
        &self,
        request: Request<proto::ReconcileRequest>,
    ) -> Result<Response<proto::ReconcileResponse>, Status> {
        let request = request.into_inner();
        bounded("tasks", request.tasks.len(), MOST_IDS)?;
        let tasks = request.tasks.into_iter().enumerate().map(|(i, key)| {
            let task_id = parse(&format!("tasks[{i}].task_id"), key.task_id)?;
            Ok((
                task_id,
                parse_optional(&format!("tasks[{i}].agent_id"), key.agent_id)?,
            ))
        });
        let tasks = tasks.collect::<Result<_, Status>>()?;
        self.call(request.caller, Call::Reconcile(tasks)).await?;
        Ok(Response::new(proto::ReconcileResponse {}))
    }

    async fn send_message(
        &self,
        request: Request<proto::SendMessageRequest>,
    ) -> Result<Response<proto::SendMessageResponse>, Status> {
        let request = request.into_inner();
        if request.data.len() > MOST_MESSAGE_BYTES {
            return Err(invalid(
                "data",
                format!("has more than {MOST_MESSAGE_BYTES} bytes"),
            ));
        }
        let call = Call::SendMessage {
            agent_id: parse("agent_id", request.agent_id)?,
            task_id: parse("task_id", request.task_id)?,
            data: request.data,
        };
        self.call(request.caller, call).await?;
        Ok(Response::new(proto::SendMessageResponse {}))
    }

    async fn update_framework(
        &self,
        request: Request<proto::UpdateFrameworkRequest>,
    ) -> Result<Response<proto::UpdateFrameworkResponse>, Status> {
        let principal = auth::who(&request)?;
        let request = request.into_inner();
        let mut info = Box::new(framework_info(request.framework)?);
        self.own(&principal, &mut info)?;
        let suppressed = roles("suppressed_roles", request.suppressed_roles)?;
        self.call(request.caller, Call::UpdateFramework { info, suppressed })
            .await?;
        Ok(Response::new(proto::UpdateFrameworkResponse {}))
    }

    async fn answer_inverse_offers(
        &self,
        request: Request<proto::AnswerInverseOffersRequest>,
    ) -> Result<Response<proto::AnswerInverseOffersResponse>, Status> {
        let request = request.into_inner();
        let field = "inverse_offer_ids";
        bounded(field, request.inverse_offer_ids.len(), MOST_IDS)?;
        let ids = request.inverse_offer_ids.into_iter().enumerate();
        let ids = ids.map(|(i, id)| parse(&format!("{field}[{i}]"), id));
        let call = Call::AnswerInverseOffers {
            ids: ids.collect::<Result<_, Status>>()?,
            accept: request.accept,
        };
        self.call(request.caller, call).await?;
        Ok(Response::new(proto::AnswerInverseOffersResponse {}))
    }

    async fn acknowledge_operation(
        &self,
        request: Request<proto::AcknowledgeOperationRequest>,
    ) -> Result<Response<proto::AcknowledgeOperationResponse>, Status> {
        let request = request.into_inner();
        let call = Call::AcknowledgeOperation {
            agent_id: parse("agent_id", request.agent_id)?,
            operation_id: parse("operation_id", request.operation_id)?,
        };
        self.call(request.caller, call).await?;
        Ok(Response::new(proto::AcknowledgeOperationResponse {}))
    }

    async fn reconcile_operations(
        &self,
        request: Request<proto::ReconcileOperationsRequest>,
    ) -> Result<Response<proto::ReconcileOperationsResponse>, Status> {
        let request = request.into_inner();
        bounded("operations", request.operations.len(), MOST_IDS)?;
        let asked = request.operations.into_iter().enumerate().map(|(i, key)| {
            let id = parse(&format!("operations[{i}].operation_id"), key.operation_id)?;
            let agent = parse_optional(&format!("operations[{i}].agent_id"), key.agent_id)?;
            Ok((id, agent))
        });
        let asked = asked.collect::<Result<_, Status>>()?;
        self.call(request.caller, Call::ReconcileOperations(asked))
            .await?;
        Ok(Response::new(proto::ReconcileOperationsResponse {}))
    }

    async fn teardown(
        &self,
        request: Request<proto::TeardownRequest>,
    ) -> Result<Response<proto::TeardownResponse>, Status> {
        self.call(request.into_inner().caller, Call::Teardown)
            .await?;
        Ok(Response::new(proto::TeardownResponse {}))
    }
}

fn framework_info(info: Option<proto::FrameworkInfo>) -> Result<FrameworkInfo, Status> {
    let info = info.ok_or_else(|| invalid("framework", "is missing"))?;
    let info = FrameworkInfo::try_from(info).map_err(|invalid| invalid.within("framework"))?;
    storable("framework", &info)?;
    Ok(info)
}

fn offer_ids(ids: Vec<String>) -> Result<Vec<mezzo_api::model::OfferId>, Status> {
    bounded("offer_ids", ids.len(), MOST_IDS)?;
    ids.into_iter()
        .enumerate()
        .map(|(i, id)| parse(&format!("offer_ids[{i}]"), id))
        .collect()
}

fn roles(field: &str, names: Vec<String>) -> Result<Vec<RoleName>, Status> {
    bounded(field, names.len(), MOST_IDS)?;
    names
        .into_iter()
        .enumerate()
        .map(|(i, name)| parse(&format!("{field}[{i}]"), name))
        .collect()
}

fn decode_accept(
    offer_ids: Vec<String>,
    operations: Vec<proto::Operation>,
    filters: Option<proto::Filters>,
) -> Result<Accept, Status> {
    let offers = self::offer_ids(offer_ids)?;
    let mut launches = Vec::new();
    for operation in operations {
        let id = operation.operation_id;
        match operation.operation {
            Some(operation::Operation::Launch(launch)) => {
                for task in launch.tasks {
                    let launch = decode_launch(task, launches.last())?;
                    launches.push(launch);
                }
            }
            Some(operation::Operation::LaunchGroup(launch)) => {
                launches.push(decode_group(launch)?);
            }
            Some(operation::Operation::Reserve(reserve)) => {
                launches.push(decode_change(id, reserve)?);
            }
            Some(operation::Operation::Unreserve(unreserve)) => {
                launches.push(decode_change(id, unreserve)?);
            }
            Some(operation::Operation::CreateVolume(create)) => {
                launches.push(decode_change(id, create)?);
            }
            Some(operation::Operation::DestroyVolume(destroy)) => {
                launches.push(decode_change(id, destroy)?);
            }
            None => {
                return Err(invalid(
                    "operations",
                    "an operation is empty or unknown to this master",
                ));
            }
        }
    }
    bounded("operations", launches.len(), MOST_IDS)?;
    Ok(Accept {
        offers,
        launches,
        refuse: refuse(filters),
    })
}

fn refuse(filters: Option<proto::Filters>) -> Duration {
    filters
        .map_or(Filters::DEFAULT, Filters::from)
        .refuse
        .min(Filters::LONGEST)
}

/// A description that is wrong gets a TASK_ERROR of its own, as long as it says which task it describes.
fn decode_launch(task: proto::TaskInfo, before: Option<&Launch>) -> Result<Launch, Status> {
    let task_id = task.task_id.clone();
    let at_hand = match before {
        Some(Launch::Valid(before)) => AtHand {
            agent_id: Some(&before.agent_id),
            resources: Some(&before.resources),
            ..AtHand::default()
        },
        Some(
            Launch::Invalid { .. }
            | Launch::Group(_)
            | Launch::InvalidGroup { .. }
            | Launch::Change { .. },
        )
        | None => AtHand::default(),
    };
    match TaskInfo::read(task, at_hand) {
        Ok(info) => Ok(Launch::Valid(Box::new(info))),
        Err(problems) => {
            let task_id = parse("operations.launch.tasks.task_id", task_id)?;
            Ok(Launch::Invalid {
                task_id,
                message: problems.to_string(),
            })
        }
    }
}

/// One that does not read fails the call: it names no task that could be told.
fn decode_change(
    id: String,
    change: impl TryInto<PoolChange, Error = Invalid>,
) -> Result<Launch, Status> {
    let change = change
        .try_into()
        .map_err(|invalid| invalid.within("operations"))?;
    Ok(Launch::Change {
        id: parse_optional("operations.operation_id", id)?,
        change: Box::new(change),
    })
}

/// The same for a group: each of its tasks gets the TASK_ERROR.
fn decode_group(launch: operation::LaunchGroup) -> Result<Launch, Status> {
    bounded(
        "operations.launch_group.tasks",
        launch.init_tasks.len() + launch.tasks.len(),
        MOST_IDS,
    )?;
    let named: Vec<String> = launch
        .init_tasks
        .iter()
        .chain(&launch.tasks)
        .map(|task| task.task_id.clone())
        .collect();
    match mezzo_api::convert::group_members(launch) {
        Ok(infos) => Ok(Launch::Group(infos)),
        Err(problems) => {
            let mut task_ids = Vec::new();
            for id in named {
                task_ids.push(parse("operations.launch_group.tasks.task_id", id)?);
            }
            if task_ids.is_empty() {
                return Err(invalid("operations.launch_group", problems.to_string()));
            }
            Ok(Launch::InvalidGroup {
                task_ids,
                message: problems.to_string(),
            })
        }
    }
}

fn encode(line: FrameworkLine, context: &Context) -> proto::Event {
    use event::Event;
    let event = match line {
        FrameworkLine::Heartbeat => Event::Heartbeat(event::Heartbeat {}),
        FrameworkLine::Core(ToFramework::Subscribed {
            framework_id,
            stream_id,
        }) => Event::Subscribed(event::Subscribed {
            framework_id: framework_id.to_string(),
            stream_id: stream_id.to_string(),
            heartbeat_interval_ms: to_millis(context.config.framework_heartbeat_interval),
            master_id: context.master_id.to_string(),
            term: context.term,
        }),
        FrameworkLine::Core(ToFramework::Offers(offers)) => Event::Offers(event::Offers {
            offers: offers
                .into_iter()
                .map(|made| Offer::from(made).into())
                .collect(),
        }),
        FrameworkLine::Core(ToFramework::Rescind(offer_id)) => Event::Rescind(event::Rescind {
            offer_id: offer_id.to_string(),
        }),
        FrameworkLine::Core(ToFramework::Update(status)) => Event::Update((*status).into()),
        FrameworkLine::Core(ToFramework::Operation(status)) => {
            // Every one of them is to be acknowledged, whoever keeps it.
            let keep = status.state.is_terminal();
            Event::Operation(OperationStatus { keep, ..*status }.into())
        }
        FrameworkLine::Core(ToFramework::AgentLost(agent_id)) => {
            Event::AgentLost(event::AgentLost {
                agent_id: agent_id.to_string(),
            })
        }
        FrameworkLine::Core(ToFramework::InverseOffers(offers)) => {
            let offers = offers.into_iter().map(|offer| proto::InverseOffer {
                inverse_offer_id: offer.id.to_string(),
                agent_id: offer.agent_id.to_string(),
                hostname: offer.hostname,
                window: offer.window.to_string(),
                drains_at_ms: offer.drains_at_ms,
                ends_at_ms: offer.ends_at_ms,
            });
            Event::InverseOffers(event::InverseOffers {
                offers: offers.collect(),
            })
        }
        FrameworkLine::Core(ToFramework::RescindInverseOffer(id)) => {
            Event::RescindInverseOffer(event::RescindInverseOffer {
                inverse_offer_id: id.to_string(),
            })
        }
    };
    proto::Event { event: Some(event) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_declines_without_a_word_is_spared_five_seconds_and_nobody_more_than_a_year() {
        let of = |refuse_ms| refuse(Some(proto::Filters { refuse_ms }));
        assert_eq!(refuse(None), Duration::from_secs(5));
        assert_eq!(of(Some(0)), Duration::ZERO);
        assert_eq!(of(Some(250)), Duration::from_millis(250));
        assert_eq!(of(Some(u64::MAX)), Duration::from_secs(365 * 24 * 3600));
    }
}
