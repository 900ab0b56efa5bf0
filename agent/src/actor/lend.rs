//! Oversubscription, once per round of samples: gathers the figures, asks the two deciders (`slack`), and does what they
//! say. A machine that does not lend has none of this.

use mezzo_api::{
    model::{CgroupMode, Resources},
    proto::{self, agent_message::Message},
};

use super::Actor;
use crate::{
    slack::{
        Amount, Machine, TaskUse,
        estimate::Estimator,
        qos::{Act, Controller},
        settings::Oversubscription,
    },
    task::{entry::Phase, event::Event},
    usage::{NodePressure, Round},
};

/// The deciders, and what they need from the round before.
#[derive(Debug)]
pub(crate) struct Lender {
    estimator: Estimator,
    controller: Controller,
    processors_millis: u64,
    before: Option<(u64, NodePressure)>,
    /// What the master of this stream was told.
    told: Option<Resources>,
    /// Killed since the start.
    preempted: u64,
}

/// What it is about, for `/metrics`.
#[derive(Debug, Clone)]
pub(crate) struct LenderView {
    /// What revocable tasks may take, all together.
    pub(crate) total: Resources,
    /// What of it is left.
    pub(crate) free: Resources,
    /// Of the processors that they hold, in thousandths.
    pub(crate) cpu_permille: u64,
    /// Killed since the start.
    pub(crate) preempted: u64,
}

impl Lender {
    /// For a machine with so many processors.
    pub(crate) fn new(
        settings: &Oversubscription,
        mode: CgroupMode,
        processors_millis: u64,
    ) -> Self {
        Self {
            estimator: Estimator::new(settings.estimator()),
            controller: Controller::new(settings.controller(mode)),
            processors_millis,
            before: None,
            told: None,
            preempted: 0,
        }
    }
}

impl Actor {
    /// The same agent, lending.
    pub(crate) fn with_lender(mut self, lender: Option<Lender>) -> Self {
        self.lender = lender;
        self
    }

    /// Takes a round in that the book has already.
    pub(super) fn lend(&mut self, round: &Round) {
        let Some(mut lender) = self.lender.take() else {
            return;
        };
        let (now_ms, tasks) = (round.ended_ms(), self.uses());
        let node = &round.node;
        let available = node
            .memory_total_bytes
            .zip(node.memory_used_bytes)
            .map(|(all, used)| all.saturating_sub(used));
        let machine = Machine {
            offers: Amount::of(self.core.ledger().total()),
            processors_millis: lender.processors_millis,
            busy_millis: node.cpu_millis,
            memory: node.memory_total_bytes,
            memory_available: available,
            ..Machine::default()
        };
        let pressure = (now_ms, round.pressure);
        let machine = machine.with_pressure(lender.before.replace(pressure), pressure);
        let told = lender.estimator.round(now_ms, &tasks, &machine);
        let acts = lender.controller.round(now_ms, &tasks, &machine);
        if let Some(told) = told {
            let total = told.to_resources();
            tracing::debug!(%total, "may be lent");
            self.handle(Event::Lend(total));
        }
        for act in acts {
            match act {
                Act::Throttle(throttle) => {
                    tracing::info!(
                        cpu_permille = throttle.cpu_permille,
                        squeezed = throttle.memory_high.len(),
                        "revocable tasks are held back so far"
                    );
                    self.handle(Event::HoldBack(throttle));
                }
                Act::Preempt {
                    container,
                    scarce,
                    message,
                } => {
                    lender.preempted += 1;
                    self.handle(Event::Preempt {
                        container,
                        scarce,
                        message,
                    });
                }
            }
        }
        self.lender = Some(lender);
        self.tell_slack();
    }

    /// After a registration, which has made the master forget it.
    pub(super) fn tell_slack_anew(&mut self) {
        if let Some(lender) = &mut self.lender {
            lender.told = None;
        }
        self.tell_slack();
    }

    /// Tells the master what may be lent, unless it knows. A full stream loses the word: then with the next round.
    fn tell_slack(&mut self) {
        let (Some(lender), Some(outbound)) = (&mut self.lender, &self.outbound) else {
            return;
        };
        let (total, _) = self.core.lent();
        if !self.core.connected() || lender.told.as_ref() == Some(total) {
            return;
        }
        let slack = proto::Slack {
            resources: total.clone().into(),
        };
        let message = proto::AgentMessage {
            message: Some(Message::Slack(slack)),
        };
        match outbound.try_send(message) {
            Ok(()) => lender.told = Some(total.clone()),
            Err(error) => tracing::debug!(%error, "what may be lent is not told yet"),
        }
    }

    pub(super) fn lender_view(&self) -> Option<LenderView> {
        let lender = self.lender.as_ref()?;
        let (total, free) = self.core.lent();
        Some(LenderView {
            total: total.clone(),
            free,
            cpu_permille: lender.controller.throttle().cpu_permille,
            preempted: lender.preempted,
        })
    }

    /// All that runs, with what the book last heard of it.
    fn uses(&self) -> Vec<TaskUse> {
        self.stats.with(|book| {
            let alive = self.core.entries().filter(|entry| entry.is_alive());
            alive
                .map(|entry| {
                    let tracked = book.get(&entry.container);
                    let rates = tracked.and_then(|tracked| tracked.rates);
                    let throttled = rates.and_then(|rates| rates.cpu_throttled_permille);
                    TaskUse {
                        container: entry.container.clone(),
                        revocable: entry.info.revocable,
                        ends: matches!(entry.phase, Phase::Killing { .. }),
                        started_at_ms: entry.started_at_ms.unwrap_or(0),
                        given: Amount::of(&entry.info.resources),
                        cpu_millis: rates.and_then(|rates| rates.cpu_millis),
                        memory: tracked.and_then(|tracked| tracked.usage.memory_working_set_bytes),
                        cpu_pressure: rates.and_then(|rates| rates.cpu_pressure_permille),
                        memory_pressure: rates.and_then(|rates| rates.memory_pressure_permille),
                        throttled: throttled.is_some_and(|permille| permille > 0),
                    }
                })
                .collect()
        })
    }
}
