//! Prometheus metrics: histograms that the actor fills, and all else read from the snapshot at each scrape.

use std::fmt;

use mezzo_api::model::TaskState;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::{
    actor::Context,
    allocator::{DEFAULT_WEIGHT_MILLIS, Share},
    auth::Denied,
    state::{AgentState, AgentView, Counters, Snapshot, WindowStage},
};

/// What the actor measures.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) allocation: Histogram,
    pub(crate) store: Histogram,
    pub(crate) loop_lag: Histogram,
    pub(crate) cut_off: Counter,
    pub(crate) backups: Counter,
    credentials_read: Counter,
    credentials_bad: Counter,
    refused: Counter,
    rate_limited: Counter,
    leader: Gauge,
    term: Gauge,
    reigns: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds =
            || Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]);
        Self {
            allocation: seconds(),
            store: seconds(),
            loop_lag: seconds(),
            cut_off: Counter::default(),
            backups: Counter::default(),
            credentials_read: Counter::default(),
            credentials_bad: Counter::default(),
            refused: Counter::default(),
            rate_limited: Counter::default(),
            leader: Gauge::default(),
            term: Gauge::default(),
            reigns: Counter::default(),
        }
    }

    /// A call was not served.
    pub(crate) fn denied(&self, denied: &Denied) {
        match denied {
            Denied::TooOften { .. } => self.rate_limited.inc(),
            Denied::NotLocal
            | Denied::Needed
            | Denied::Malformed
            | Denied::Wrong
            | Denied::NotAllowed { .. } => self.refused.inc(),
        };
    }

    /// The credentials were read again, and could be used or not.
    pub(crate) fn credentials_read(&self, good: bool) {
        let counter = if good {
            &self.credentials_read
        } else {
            &self.credentials_bad
        };
        counter.inc();
    }

    /// From now on this master leads.
    pub(crate) fn leads(&self, term: u64) {
        self.leader.set(1);
        self.term.set(i64::try_from(term).unwrap_or(i64::MAX));
        self.reigns.inc();
    }

    /// From now on it does not.
    pub(crate) fn stands_by(&self) {
        self.leader.set(0);
    }

    /// All that there is to tell of a master that stands by.
    pub(crate) fn registry_of_standby(&self) -> Registry {
        let mut registry = Registry::with_prefix("mezzo_master");
        self.register(&mut registry);
        registry
    }

    /// What outlives a leadership.
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "leader",
            "1 if this master leads, 0 if it stands by",
            self.leader.clone(),
        );
        registry.register(
            "term",
            "Of this master's last leadership; terms only grow",
            self.term.clone(),
        );
        registry.register(
            "reigns",
            "How often this process began to lead",
            self.reigns.clone(),
        );
        registry.register(
            "credentials_read",
            "How often the credentials were read again, as asked by SIGHUP",
            self.credentials_read.clone(),
        );
        registry.register(
            "credentials_bad",
            "How often that was refused, and the former ones went on",
            self.credentials_bad.clone(),
        );
        registry.register(
            "store_seconds",
            "Duration of a durable write",
            self.store.clone(),
        );
    }

    /// All metrics, ready to be written as text.
    pub(crate) fn registry(&self, context: Context) -> Registry {
        let mut registry = Registry::with_prefix("mezzo_master");
        registry.register(
            "allocation_seconds",
            "Duration of a pass of the allocator",
            self.allocation.clone(),
        );
        self.register(&mut registry);
        registry.register(
            "loop_lag_seconds",
            "How late the event loop came to its clock",
            self.loop_lag.clone(),
        );
        registry.register(
            "peers_cut_off",
            "Peers cut off for not reading",
            self.cut_off.clone(),
        );
        registry.register(
            "backups",
            "Backups made of the durable state",
            self.backups.clone(),
        );
        registry.register(
            "calls_refused",
            "Calls of somebody who is not known or may not do that",
            self.refused.clone(),
        );
        registry.register(
            "calls_rate_limited",
            "Calls beyond the rate of their principal",
            self.rate_limited.clone(),
        );
        registry.register_collector(Box::new(FromSnapshot { context }));
        registry
    }
}

/// The text of a scrape.
pub(crate) fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

#[derive(Debug)]
struct FromSnapshot {
    context: Context,
}

impl Collector for FromSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let snapshot = self.context.snapshot();
        let encoder = &mut encoder;
        counters(encoder, &snapshot.counters)?;
        gauge(
            encoder,
            "event_queue_depth",
            "Events waiting",
            self.context.queue_depth() as f64,
        )?;
        gauge(
            encoder,
            "offers_outstanding",
            "Offers not yet answered",
            snapshot.n_offers as f64,
        )?;
        gauge(
            encoder,
            "event_watchers",
            "Operators that follow the stream of events",
            self.context.events.n_readers() as f64,
        )?;
        peers(encoder, &snapshot)?;
        planned(encoder, &snapshot)?;
        tasks(encoder, &snapshot)?;
        resources(encoder, &snapshot)?;
        roles(encoder, &snapshot)
    }
}

type Sample = (Vec<(&'static str, String)>, f64);

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: &[Sample],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}

fn counters(encoder: &mut DescriptorEncoder<'_>, counters: &Counters) -> fmt::Result {
    for (name, help, value) in [
        ("events", "Events handled", counters.events),
        (
            "allocation_passes",
            "Passes of the allocator",
            counters.passes,
        ),
        (
            "agent_registrations",
            "Registrations of agents",
            counters.agent_registrations,
        ),
        (
            "agents_lost",
            "Agents that became unreachable",
            counters.agents_lost,
        ),
        (
            "subscriptions",
            "Subscriptions of frameworks",
            counters.subscriptions,
        ),
        ("offers_made", "Offers sent", counters.offers_made),
        (
            "accepts",
            "Accept calls whose offers were good",
            counters.offers_accepted,
        ),
        (
            "offers_declined",
            "Offers declined",
            counters.offers_declined,
        ),
        (
            "offers_rescinded",
            "Offers taken back",
            counters.offers_rescinded,
        ),
        (
            "tasks_launched",
            "Tasks sent to agents",
            counters.tasks_launched,
        ),
        (
            "tasks_refused",
            "Tasks that could not be launched as described",
            counters.tasks_refused,
        ),
        (
            "tasks_ended",
            "Tasks that reached a terminal state",
            counters.tasks_ended,
        ),
        (
            "statuses_received",
            "Statuses from agents",
            counters.statuses_received,
        ),
        (
            "updates_sent",
            "Status updates for frameworks",
            counters.updates_sent,
        ),
        (
            "acknowledgements",
            "Acknowledgements from frameworks",
            counters.acknowledgements,
        ),
        ("kills", "Kills asked for", counters.kills),
        (
            "reconciliations",
            "Reconciliations asked for",
            counters.reconciliations,
        ),
    ] {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)?;
    }
    Ok(())
}

fn peers(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let states = [
        (AgentState::Connected, "connected"),
        (AgentState::Disconnected, "disconnected"),
        (AgentState::Unreachable, "unreachable"),
        (AgentState::Recovering, "recovering"),
    ];
    let samples = states.map(|(state, name)| {
        let n = snapshot
            .agents
            .values()
            .filter(|view| view.state == state)
            .count();
        (vec![("state", name.to_owned())], n as f64)
    });
    family(encoder, "agents", "Agents by state", &samples)?;
    let connected = snapshot
        .frameworks
        .values()
        .filter(|view| view.connected)
        .count();
    let away = snapshot.frameworks.len() - connected;
    let samples = [("connected", connected), ("disconnected", away)]
        .map(|(name, n)| (vec![("state", name.to_owned())], n as f64));
    family(encoder, "frameworks", "Frameworks by state", &samples)
}

/// Agents that are out of service, wait to be given up, or stand in a maintenance window.
fn planned(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let count = |fits: &dyn Fn(&AgentView) -> bool| {
        snapshot.agents.values().filter(|view| fits(view)).count() as f64
    };
    gauge(
        encoder,
        "agents_draining",
        "Agents that an operator or a maintenance window drains, or has drained",
        count(&|view| view.drain.is_some()),
    )?;
    gauge(
        encoder,
        "agents_deactivated",
        "Agents of which an operator wants nothing offered",
        count(&|view| view.deactivated_since_ms.is_some()),
    )?;
    gauge(
        encoder,
        "agents_loss_waiting",
        "Agents that would be unreachable, but for the limit of losses",
        count(&|view| view.loss_waits_since_ms.is_some()),
    )?;
    let stages = [
        (WindowStage::Scheduled, "scheduled"),
        (WindowStage::Vacating, "vacating"),
        (WindowStage::Draining, "draining"),
    ];
    let samples = stages.map(|(stage, name)| {
        let windows = snapshot.windows.values();
        let n = windows.filter(|view| view.stage == stage).count();
        (vec![("stage", name.to_owned())], n as f64)
    });
    family(
        encoder,
        "maintenance_windows",
        "Maintenance windows by stage",
        &samples,
    )
}

fn tasks(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mut counts = [0_u64; TaskState::ALL.len()];
    for entry in snapshot
        .frameworks
        .values()
        .flat_map(|view| view.tasks.values())
    {
        if let Some(at) = TaskState::ALL
            .iter()
            .position(|state| *state == entry.state)
        {
            counts[at] += 1;
        }
    }
    let samples: Vec<_> = TaskState::ALL
        .iter()
        .zip(counts)
        .filter(|(state, _)| !state.is_terminal())
        .map(|(state, n)| (vec![("state", state.name().to_owned())], n as f64))
        .collect();
    family(
        encoder,
        "tasks",
        "Tasks that have not ended, by state",
        &samples,
    )
}

fn resources(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    let mut sums = [(); 3].map(|()| crate::allocator::Quantities::default());
    let mut lent = sums.clone();
    for view in snapshot.agents.values() {
        match view.state {
            AgentState::Connected | AgentState::Disconnected => {
                sums[0].add(&view.info.resources);
                sums[1].add_pools(&view.allocated);
                sums[2].add_pools(&view.offered);
                if let Some((total, allocated, offered)) = &view.lent {
                    for (sum, part) in lent.iter_mut().zip([total, allocated, offered]) {
                        sum.add(part);
                    }
                }
            }
            AgentState::Unreachable | AgentState::Recovering => {}
        }
    }
    for (samples, sum) in samples.iter_mut().zip(&sums) {
        for (name, _) in sums[0].iter() {
            samples.push((
                vec![("resource", name.to_owned())],
                sum.get(name) as f64 / 1000.0,
            ));
        }
    }
    // Absent where nobody lends.
    let kinds = ["total", "allocated", "offered"];
    let revocable = kinds.iter().zip(&lent).flat_map(|(kind, sum)| {
        sum.iter().map(|(name, millis)| {
            let labels = vec![("resource", name.to_owned()), ("kind", (*kind).to_owned())];
            (labels, millis as f64 / 1000.0)
        })
    });
    let revocable: Vec<_> = revocable.collect();
    if !revocable.is_empty() {
        family(
            encoder,
            "resources_revocable",
            "What reachable agents lend to revocable tasks: all, held by tasks, in outstanding offers",
            &revocable,
        )?;
    }
    let [total, allocated, offered] = samples;
    family(
        encoder,
        "resources_total",
        "What reachable agents have",
        &total,
    )?;
    family(encoder, "resources_allocated", "Held by tasks", &allocated)?;
    family(
        encoder,
        "resources_offered",
        "In outstanding offers",
        &offered,
    )
}

fn roles(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let label = |name: &dyn fmt::Display| vec![("role", name.to_string())];
    let shares: Vec<_> = snapshot
        .roles
        .values()
        .map(|view| {
            let share = Share::dominant(&view.held, &snapshot.total, DEFAULT_WEIGHT_MILLIS);
            (label(&view.name), share.parts_per_million() as f64 / 1e6)
        })
        .collect();
    let weights: Vec<_> = snapshot
        .roles
        .values()
        .map(|view| (label(&view.name), view.weight_millis as f64 / 1000.0))
        .collect();
    family(
        encoder,
        "role_dominant_share",
        "Dominant share of a role, offers included",
        &shares,
    )?;
    family(encoder, "role_weight", "Weight of a role", &weights)
}
