//! What `-o json` prints and tables are made of: plain records with stable field names, made from the protobuf.
//!
//! Pure. The field names are a promise to scripts (`cli/README.md` lists them): add freely, rename never. Times are
//! Unix milliseconds, sizes are bytes, what is unknown is `null` and never zero.

pub(crate) mod app;
pub(crate) mod pod;
pub(crate) mod problems;
pub(crate) mod sharing;
pub(crate) mod stats;
mod task;
pub(crate) mod volume;

use std::collections::BTreeMap;

use mezzo_api::proto;
use serde::Serialize;

pub(crate) use task::{CheckResult, Exit, Task};

/// Resources by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Resources(pub(crate) BTreeMap<String, Quantity>);

/// One resource's amount.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Quantity {
    Number(f64),
    Ranges(Vec<(u64, u64)>),
    Set(Vec<String>),
}

impl Resources {
    pub(crate) fn new(resources: &[proto::Resource]) -> Self {
        let mut all = BTreeMap::new();
        for resource in resources {
            let quantity = match &resource.value {
                #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
                Some(proto::resource::Value::Scalar(scalar)) => {
                    Quantity::Number(scalar.millis as f64 / 1000.0)
                }
                Some(proto::resource::Value::Ranges(ranges)) => Quantity::Ranges(
                    ranges
                        .ranges
                        .iter()
                        .map(|range| (range.begin, range.end))
                        .collect(),
                ),
                Some(proto::resource::Value::Set(set)) => Quantity::Set(set.items.clone()),
                None => continue,
            };
            all.insert(resource.name.clone(), quantity);
        }
        Self(all)
    }

    /// A scalar by name, zero when there is none.
    pub(crate) fn number(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(Quantity::Number(number)) => *number,
            Some(Quantity::Ranges(_) | Quantity::Set(_)) | None => 0.0,
        }
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (name, quantity)) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "; " })?;
            match quantity {
                Quantity::Number(number) => write!(f, "{name} {number}")?,
                Quantity::Ranges(ranges) => {
                    let ranges = ranges.iter().map(|(begin, end)| {
                        if begin == end {
                            begin.to_string()
                        } else {
                            format!("{begin}-{end}")
                        }
                    });
                    let ranges: Vec<String> = ranges.collect();
                    write!(f, "{name} [{}]", ranges.join(", "))?;
                }
                Quantity::Set(items) => write!(f, "{name} {{{}}}", items.join(", "))?,
            }
        }
        Ok(())
    }
}

/// What a machine really uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct NodeUsage {
    pub(crate) sampled_at_ms: u64,
    pub(crate) cpus: Option<f64>,
    pub(crate) memory_total_bytes: Option<u64>,
    pub(crate) memory_used_bytes: Option<u64>,
    pub(crate) disk_total_bytes: Option<u64>,
    pub(crate) disk_used_bytes: Option<u64>,
    pub(crate) agent_memory_bytes: Option<u64>,
    pub(crate) agent_cpu_total_us: Option<u64>,
}

impl From<&proto::NodeUsage> for NodeUsage {
    fn from(usage: &proto::NodeUsage) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
        let cpus = usage.cpu_millis.map(|millis| millis as f64 / 1000.0);
        Self {
            sampled_at_ms: usage.sampled_at_ms,
            cpus,
            memory_total_bytes: usage.memory_total_bytes,
            memory_used_bytes: usage.memory_used_bytes,
            disk_total_bytes: usage.disk_total_bytes,
            disk_used_bytes: usage.disk_used_bytes,
            agent_memory_bytes: usage.agent_memory_bytes,
            agent_cpu_total_us: usage.agent_cpu_total_us,
        }
    }
}

/// The cluster in sums.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Cluster {
    pub(crate) master_id: String,
    pub(crate) version: String,
    pub(crate) started_at_ms: u64,
    pub(crate) agents_connected: u32,
    pub(crate) agents_disconnected: u32,
    pub(crate) frameworks_connected: u32,
    pub(crate) frameworks_disconnected: u32,
    pub(crate) total: Resources,
    pub(crate) allocated: Resources,
    pub(crate) offered: Resources,
    /// Summed over the nodes; `null` where none lends.
    pub(crate) revocable: Option<Revocable>,
    pub(crate) used: Option<NodeUsage>,
    pub(crate) tasks_by_state: BTreeMap<String, u32>,
}

impl From<&proto::Cluster> for Cluster {
    fn from(cluster: &proto::Cluster) -> Self {
        Self {
            master_id: cluster.master_id.clone(),
            version: cluster.version.clone(),
            started_at_ms: cluster.started_at_ms,
            agents_connected: cluster.agents_connected,
            agents_disconnected: cluster.agents_disconnected,
            frameworks_connected: cluster.frameworks_connected,
            frameworks_disconnected: cluster.frameworks_disconnected,
            total: Resources::new(&cluster.total),
            allocated: Resources::new(&cluster.allocated),
            offered: Resources::new(&cluster.offered),
            revocable: cluster.revocable.as_ref().map(Revocable::from),
            used: cluster.used.as_ref().map(NodeUsage::from),
            tasks_by_state: cluster
                .tasks_by_state
                .iter()
                .map(|(state, n)| (state.clone(), *n))
                .collect(),
        }
    }
}

/// What is lent to revocable tasks; in no other sum.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Revocable {
    /// All that they may take. Less than `allocated` where more is needed than before.
    pub(crate) total: Resources,
    pub(crate) allocated: Resources,
    pub(crate) offered: Resources,
}

impl From<&proto::RevocableResources> for Revocable {
    fn from(resources: &proto::RevocableResources) -> Self {
        Self {
            total: Resources::new(&resources.total),
            allocated: Resources::new(&resources.allocated),
            offered: Resources::new(&resources.offered),
        }
    }
}

/// One machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) address: String,
    /// `connected`, `disconnected`, `unreachable` or `recovering`.
    pub(crate) state: String,
    pub(crate) registered_at_ms: u64,
    pub(crate) tasks: u32,
    pub(crate) resources: Resources,
    pub(crate) allocated: Resources,
    pub(crate) offered: Resources,
    /// `null` where it lends nothing.
    pub(crate) revocable: Option<Revocable>,
    pub(crate) used: Option<NodeUsage>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) version: String,
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    /// `v1`, `hybrid` or `v2`.
    pub(crate) cgroup_mode: String,
    /// Only `node show` asks for it; `null` when the node does not answer.
    pub(crate) capacity: Option<Capacity>,
    /// `null` while it is in service.
    pub(crate) drain: Option<Drain>,
    /// Nothing of it is offered since then; `null` while it is not deactivated.
    pub(crate) deactivated_since_ms: Option<u64>,
}

/// How far a node's way out of service has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Drain {
    /// `draining` or `drained`.
    pub(crate) state: String,
    pub(crate) since_ms: u64,
    /// When the last task is killed; `null`: each has its own grace period.
    pub(crate) deadline_at_ms: Option<u64>,
    /// It is removed once it is drained.
    pub(crate) mark_gone: bool,
}

impl Node {
    /// In one word or two, for people: `draining`, `drained` and `deactivated`, in this order, go before `connected`.
    pub(crate) fn condition(&self) -> String {
        let drain = self.drain.as_ref().map(|drain| drain.state.as_str());
        let out = drain.or(self.deactivated_since_ms.map(|_| "deactivated"));
        match out {
            None => self.state.clone(),
            Some(out) if self.state == "connected" => out.to_owned(),
            Some(out) => format!("{} ({out})", self.state),
        }
    }
}

impl From<&proto::Agent> for Node {
    fn from(agent: &proto::Agent) -> Self {
        let info = agent.info.clone().unwrap_or_default();
        let attributes = info.attributes.iter().filter_map(|attribute| {
            let value = match attribute.value.as_ref()? {
                proto::attribute::Value::Text(text) => text.clone(),
                #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
                proto::attribute::Value::Scalar(scalar) => {
                    (scalar.millis as f64 / 1000.0).to_string()
                }
            };
            Some((attribute.name.clone(), value))
        });
        Self {
            id: agent.agent_id.clone(),
            state: enum_name(agent.state().as_str_name(), "AGENT_"),
            registered_at_ms: agent.registered_at_ms,
            tasks: agent.tasks,
            resources: Resources::new(&info.resources),
            allocated: Resources::new(&agent.allocated),
            offered: Resources::new(&agent.offered),
            revocable: agent.revocable.as_ref().map(Revocable::from),
            used: agent.usage.as_ref().map(NodeUsage::from),
            attributes: attributes.collect(),
            cgroup_mode: enum_name(info.cgroup_mode().as_str_name(), "CGROUP_MODE_"),
            hostname: info.hostname,
            address: info.address,
            region: info.region,
            zone: info.zone,
            version: info.version,
            kernel: info.kernel,
            architecture: info.architecture,
            capacity: None,
            drain: agent.drain.as_ref().map(|drain| Drain {
                state: enum_name(drain.state().as_str_name(), "DRAIN_STATE_"),
                since_ms: drain.since_ms,
                deadline_at_ms: drain.deadline_at_ms,
                mark_gone: drain.mark_gone,
            }),
            deactivated_since_ms: agent.deactivated_since_ms,
        }
    }
}

/// What a machine has and what of it is kept back for the system; told by the machine itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Capacity {
    pub(crate) cpu_millis: u64,
    pub(crate) mem_mb: u64,
    pub(crate) disk_mb: u64,
    /// `null`, like the next two, where the operator named the resources to offer.
    pub(crate) reserved_cpu_millis: Option<u64>,
    pub(crate) reserved_mem_mb: Option<u64>,
    pub(crate) reserved_disk_mb: Option<u64>,
}

impl From<&proto::Capacity> for Capacity {
    fn from(capacity: &proto::Capacity) -> Self {
        let kept = |figure: u64| (!capacity.configured).then_some(figure);
        Self {
            cpu_millis: capacity.cpu_millis,
            mem_mb: capacity.mem_mb,
            disk_mb: capacity.disk_mb,
            reserved_cpu_millis: kept(capacity.reserved_cpu_millis),
            reserved_mem_mb: kept(capacity.reserved_mem_mb),
            reserved_disk_mb: kept(capacity.reserved_disk_mb),
        }
    }
}

/// A task's use, from the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) sampled_at_ms: u64,
    pub(crate) cpu_total_us: Option<u64>,
    pub(crate) cpu_user_us: Option<u64>,
    pub(crate) cpu_system_us: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) memory_peak_bytes: Option<u64>,
    pub(crate) memory_anon_bytes: Option<u64>,
    pub(crate) memory_file_bytes: Option<u64>,
    pub(crate) pids: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    pub(crate) throttled_us: Option<u64>,
    pub(crate) io_read_bytes: Option<u64>,
    pub(crate) io_write_bytes: Option<u64>,
    pub(crate) cpu_start_us: Option<u64>,
    pub(crate) cpu_periods: Option<u64>,
    pub(crate) cpu_throttled_periods: Option<u64>,
    pub(crate) memory_high_events: Option<u64>,
    pub(crate) memory_max_events: Option<u64>,
    pub(crate) cpu_pressure_some_us: Option<u64>,
    pub(crate) cpu_pressure_full_us: Option<u64>,
    pub(crate) memory_pressure_some_us: Option<u64>,
    pub(crate) memory_pressure_full_us: Option<u64>,
    pub(crate) io_pressure_some_us: Option<u64>,
    pub(crate) io_pressure_full_us: Option<u64>,
    pub(crate) network_rx_bytes: Option<u64>,
    pub(crate) network_rx_packets: Option<u64>,
    pub(crate) network_rx_errors: Option<u64>,
    pub(crate) network_rx_dropped: Option<u64>,
    pub(crate) network_tx_bytes: Option<u64>,
    pub(crate) network_tx_packets: Option<u64>,
    pub(crate) network_tx_errors: Option<u64>,
    pub(crate) network_tx_dropped: Option<u64>,
    pub(crate) memory_working_set_bytes: Option<u64>,
    pub(crate) memory_kernel_bytes: Option<u64>,
    pub(crate) memory_sock_bytes: Option<u64>,
    pub(crate) memory_inactive_file_bytes: Option<u64>,
    pub(crate) memory_oom_events: Option<u64>,
    pub(crate) io_read_ops: Option<u64>,
    pub(crate) io_write_ops: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
}

impl From<&proto::Usage> for Usage {
    fn from(usage: &proto::Usage) -> Self {
        Self {
            sampled_at_ms: usage.sampled_at_ms,
            cpu_total_us: usage.cpu_total_us,
            cpu_user_us: usage.cpu_user_us,
            cpu_system_us: usage.cpu_system_us,
            memory_bytes: usage.memory_bytes,
            memory_peak_bytes: usage.memory_peak_bytes,
            memory_anon_bytes: usage.memory_anon_bytes,
            memory_file_bytes: usage.memory_file_bytes,
            pids: usage.pids,
            oom_kills: usage.oom_kills,
            throttled_us: usage.throttled_us,
            io_read_bytes: usage.io_read_bytes,
            io_write_bytes: usage.io_write_bytes,
            cpu_start_us: usage.cpu_start_us,
            cpu_periods: usage.cpu_periods,
            cpu_throttled_periods: usage.cpu_throttled_periods,
            memory_high_events: usage.memory_high_events,
            memory_max_events: usage.memory_max_events,
            cpu_pressure_some_us: usage.cpu_pressure_some_us,
            cpu_pressure_full_us: usage.cpu_pressure_full_us,
            memory_pressure_some_us: usage.memory_pressure_some_us,
            memory_pressure_full_us: usage.memory_pressure_full_us,
            io_pressure_some_us: usage.io_pressure_some_us,
            io_pressure_full_us: usage.io_pressure_full_us,
            network_rx_bytes: usage.network_rx_bytes,
            network_rx_packets: usage.network_rx_packets,
            network_rx_errors: usage.network_rx_errors,
            network_rx_dropped: usage.network_rx_dropped,
            network_tx_bytes: usage.network_tx_bytes,
            network_tx_packets: usage.network_tx_packets,
            network_tx_errors: usage.network_tx_errors,
            network_tx_dropped: usage.network_tx_dropped,
            memory_working_set_bytes: usage.memory_working_set_bytes,
            memory_kernel_bytes: usage.memory_kernel_bytes,
            memory_sock_bytes: usage.memory_sock_bytes,
            memory_inactive_file_bytes: usage.memory_inactive_file_bytes,
            memory_oom_events: usage.memory_oom_events,
            io_read_ops: usage.io_read_ops,
            io_write_ops: usage.io_write_ops,
            disk_bytes: usage.disk_bytes,
        }
    }
}

/// One framework.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Framework {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) roles: Vec<String>,
    pub(crate) suppressed_roles: Vec<String>,
    pub(crate) connected: bool,
    pub(crate) registered_at_ms: u64,
    pub(crate) failover_timeout_ms: u64,
    pub(crate) hostname: String,
    pub(crate) principal: String,
    pub(crate) webui_url: String,
    pub(crate) tasks: u32,
    pub(crate) allocated: Resources,
    pub(crate) offered: Resources,
    /// Held by its revocable tasks, and in its revocable offers; not in the sums above.
    pub(crate) revocable_allocated: Resources,
    pub(crate) revocable_offered: Resources,
    /// `revocable_resources`
    pub(crate) capabilities: Vec<String>,
    /// Of its most used resource, in percent of the cluster.
    pub(crate) dominant_share_percent: f64,
    pub(crate) labels: BTreeMap<String, String>,
}

impl From<&proto::Framework> for Framework {
    fn from(framework: &proto::Framework) -> Self {
        let info = framework.info.clone().unwrap_or_default();
        let capabilities = info.capabilities();
        let capabilities = capabilities
            .map(|one| enum_name(one.as_str_name(), "FRAMEWORK_CAPABILITY_"))
            .collect();
        Self {
            capabilities,
            revocable_allocated: Resources::new(&framework.revocable_allocated),
            revocable_offered: Resources::new(&framework.revocable_offered),
            id: info.framework_id,
            name: info.name,
            user: info.user,
            roles: if info.roles.is_empty() {
                vec!["*".to_owned()]
            } else {
                info.roles
            },
            suppressed_roles: framework.suppressed_roles.clone(),
            connected: framework.connected,
            registered_at_ms: framework.registered_at_ms,
            failover_timeout_ms: info.failover_timeout_ms,
            hostname: info.hostname,
            principal: info.principal,
            webui_url: info.webui_url,
            tasks: framework.tasks,
            allocated: Resources::new(&framework.allocated),
            offered: Resources::new(&framework.offered),
            dominant_share_percent: percent(framework.dominant_share_ppm),
            labels: info.labels.into_iter().collect(),
        }
    }
}

/// One role.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) weight: f64,
    pub(crate) framework_ids: Vec<String>,
    pub(crate) allocated: Resources,
    pub(crate) dominant_share_percent: f64,
    pub(crate) allocated_within: Resources,
    pub(crate) guarantees: Resources,
    pub(crate) limits: Resources,
}

impl From<&proto::Role> for Role {
    fn from(role: &proto::Role) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
        let weight = role.weight_millis as f64 / 1000.0;
        Self {
            name: role.name.clone(),
            weight,
            framework_ids: role.framework_ids.clone(),
            allocated: Resources::new(&role.allocated),
            dominant_share_percent: percent(role.dominant_share_ppm),
            allocated_within: Resources::new(&role.allocated_within),
            guarantees: Resources::new(&role.guarantees),
            limits: Resources::new(&role.limits),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
fn percent(ppm: u64) -> f64 {
    ppm as f64 / 10_000.0
}

/// `AGENT_CONNECTED` → `connected`.
fn enum_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}
