//! What a framework hears, and how it is read from the wire.

use mezzo_api::{
    model::{AgentId, FrameworkId, Offer, OfferId, OperationStatus, TaskStatus},
    proto::{self, event},
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Subscribed, for the first time or again. Write the id down before anything is launched: with it a new process
    /// gets the tasks back. After every one but the first ever, reconcile ([`crate::Calls::reconcile_all`]): what
    /// happened in between was told to nobody. Offers of former subscriptions are gone.
    Subscribed {
        /// The framework's.
        framework_id: FrameworkId,
        /// Another one than before after a change of leader.
        master_id: String,
        /// Of its leadership; it only grows. Write the highest down with the id ([`crate::Builder::master_term`]).
        term: u64,
    },
    /// The subscription broke; calls fail until the next [`Event::Subscribed`]. Nothing has to be done.
    Disconnected {
        /// For people.
        why: String,
    },
    /// Resources to use or to decline, each once.
    Offers(Vec<Offer>),
    /// This offer is gone. A launch that used it is answered with an update.
    Rescinded(OfferId),
    /// A task's new status. Write down what follows from it, then [`crate::Calls::acknowledge`] it: until then it is told
    /// again and again.
    Update(Box<TaskStatus>),
    /// What became of a change of reservations or volumes that was given an id ([`crate::Calls::accept`]). Write down what
    /// follows from it, then [`crate::Calls::acknowledge_operation`] it.
    Operation(Box<OperationStatus>),
    /// An agent is away for too long. Its tasks have updates of their own.
    AgentLost(AgentId),
    /// Work is planned on these agents, and tasks of the framework run there: they should run elsewhere before the drain. Told
    /// again on each subscription. [`crate::Calls::answer_inverse_offers`] tells the operator whether they will.
    InverseOffers(Vec<InverseOffer>),
    /// Nothing is asked there any more.
    InverseRescinded(OfferId),
}

/// A machine on which work is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InverseOffer {
    /// For the answer.
    pub id: OfferId,
    /// Which agent.
    pub agent_id: AgentId,
    /// Its host's name.
    pub hostname: String,
    /// The operator's name of the maintenance window.
    pub window: String,
    /// What runs there then is killed, Unix milliseconds.
    pub drains_at_ms: u64,
    /// When the agent is in service again, Unix milliseconds; `None`: nobody knows yet.
    pub ends_at_ms: Option<u64>,
}

fn inverse(offer: proto::InverseOffer) -> Result<InverseOffer, String> {
    Ok(InverseOffer {
        id: offer.inverse_offer_id.parse().map_err(told)?,
        agent_id: offer.agent_id.parse().map_err(told)?,
        hostname: offer.hostname,
        window: offer.window,
        drains_at_ms: offer.drains_at_ms,
        ends_at_ms: offer.ends_at_ms,
    })
}

impl Event {
    /// Reads what comes after `Subscribed`. `Ok(None)` for what is the link's own business.
    pub(crate) fn read(event: event::Event) -> Result<Option<Self>, String> {
        Ok(match event {
            event::Event::Heartbeat(_) => None,
            event::Event::Subscribed(_) => return Err("a second Subscribed".to_owned()),
            event::Event::Offers(offers) => {
                let offers: Result<Vec<Offer>, _> =
                    offers.offers.into_iter().map(Offer::try_from).collect();
                Some(Self::Offers(
                    offers.map_err(|invalid| format!("an offer: {invalid}"))?,
                ))
            }
            event::Event::Rescind(proto::event::Rescind { offer_id }) => {
                Some(Self::Rescinded(offer_id.parse().map_err(told)?))
            }
            event::Event::Update(status) => {
                let status = TaskStatus::try_from(status)
                    .map_err(|invalid| format!("a status: {invalid}"))?;
                Some(Self::Update(Box::new(status)))
            }
            event::Event::Operation(status) => {
                let status = OperationStatus::try_from(status)
                    .map_err(|invalid| format!("an operation: {invalid}"))?;
                Some(Self::Operation(Box::new(status)))
            }
            event::Event::AgentLost(proto::event::AgentLost { agent_id }) => {
                Some(Self::AgentLost(agent_id.parse().map_err(told)?))
            }
            event::Event::InverseOffers(asked) => {
                let offers: Result<_, String> = asked.offers.into_iter().map(inverse).collect();
                Some(Self::InverseOffers(offers?))
            }
            event::Event::RescindInverseOffer(gone) => Some(Self::InverseRescinded(
                gone.inverse_offer_id.parse().map_err(told)?,
            )),
        })
    }
}

fn told(error: mezzo_api::model::InvalidId) -> String {
    error.to_string()
}
