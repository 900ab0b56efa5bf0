//! What tasks and nodes use, per second and over time: `mezzo task stats` and `mezzo top`.

use mezzo_api::proto;
use serde::Serialize;

use super::{NodeUsage, Usage};

/// One running task's use.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct TaskStats {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) framework_id: String,
    /// The machine's host name.
    pub(crate) node: String,
    /// Processors used; `null` until there are two samples.
    pub(crate) cpus: Option<f64>,
    pub(crate) cpus_held: f64,
    pub(crate) cpu_limit: Option<f64>,
    /// Of the periods of the cpu limit, those in which it was used up.
    pub(crate) cpu_throttled_percent: Option<f64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) disk_limit_bytes: Option<u64>,
    pub(crate) io_read_bytes_per_second: Option<u64>,
    pub(crate) io_write_bytes_per_second: Option<u64>,
    pub(crate) io_read_ops_per_second: Option<u64>,
    pub(crate) io_write_ops_per_second: Option<u64>,
    pub(crate) network_rx_bytes_per_second: Option<u64>,
    pub(crate) network_tx_bytes_per_second: Option<u64>,
    /// Of the time, that in which something waited.
    pub(crate) cpu_pressure_percent: Option<f64>,
    pub(crate) memory_pressure_percent: Option<f64>,
    pub(crate) io_pressure_percent: Option<f64>,
    /// The same for all tasks of a group that has a network of its own; `null` for others.
    pub(crate) group: Option<GroupStats>,
    pub(crate) usage: Usage,
    /// Oldest first.
    pub(crate) history: Vec<Point>,
}

/// What the tasks of a group have together, because nobody can tell their shares: their network.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct GroupStats {
    pub(crate) id: String,
    /// Those that run.
    pub(crate) tasks: Vec<String>,
    pub(crate) network_rx_bytes: Option<u64>,
    pub(crate) network_tx_bytes: Option<u64>,
    pub(crate) network_rx_bytes_per_second: Option<u64>,
    pub(crate) network_tx_bytes_per_second: Option<u64>,
}

impl GroupStats {
    /// `None` for a group without figures: it is on the machine's network.
    pub(crate) fn new(stats: &proto::GroupStats) -> Option<Self> {
        let rates = stats.rates.unwrap_or_default();
        let usage = stats.usage?;
        usage.network_rx_bytes?;
        Some(Self {
            id: stats.group_id.clone(),
            tasks: stats.task_ids.clone(),
            network_rx_bytes: usage.network_rx_bytes,
            network_tx_bytes: usage.network_tx_bytes,
            network_rx_bytes_per_second: rates.network_rx_bytes,
            network_tx_bytes_per_second: rates.network_tx_bytes,
        })
    }
}

/// One point of a task's history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) at_ms: u64,
    pub(crate) cpus: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) io_bytes_per_second: Option<u64>,
    pub(crate) network_bytes_per_second: Option<u64>,
}

impl TaskStats {
    /// `groups` are those of its node.
    pub(crate) fn new(stats: &proto::TaskStats, node: &str, groups: &[proto::GroupStats]) -> Self {
        let group = groups.iter().find(|group| {
            group.framework_id == stats.framework_id && group.task_ids.contains(&stats.task_id)
        });
        let rates = stats.rates.unwrap_or_default();
        Self {
            id: stats.task_id.clone(),
            name: stats.name.clone(),
            framework_id: stats.framework_id.clone(),
            node: node.to_owned(),
            cpus: rates.cpu_millis.map(thousandths),
            cpus_held: thousandths(stats.cpu_millis),
            cpu_limit: stats.cpu_limit_millis.map(thousandths),
            cpu_throttled_percent: rates.cpu_throttled_permille.map(percent),
            memory_limit_bytes: stats.memory_limit_bytes,
            disk_limit_bytes: stats.disk_limit_bytes,
            io_read_bytes_per_second: rates.io_read_bytes,
            io_write_bytes_per_second: rates.io_write_bytes,
            io_read_ops_per_second: rates.io_read_ops,
            io_write_ops_per_second: rates.io_write_ops,
            network_rx_bytes_per_second: rates.network_rx_bytes,
            network_tx_bytes_per_second: rates.network_tx_bytes,
            cpu_pressure_percent: rates.cpu_pressure_permille.map(percent),
            memory_pressure_percent: rates.memory_pressure_permille.map(percent),
            io_pressure_percent: rates.io_pressure_permille.map(percent),
            group: group.and_then(GroupStats::new),
            usage: stats.usage.as_ref().map(Usage::from).unwrap_or_default(),
            history: stats.history.iter().map(Point::from).collect(),
        }
    }

    /// What cannot simply be taken back, or all where that is not told.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.usage
            .memory_working_set_bytes
            .or(self.usage.memory_bytes)
    }

    /// To and from block devices, per second.
    pub(crate) fn io(&self) -> Option<u64> {
        sum(
            self.io_read_bytes_per_second,
            self.io_write_bytes_per_second,
        )
    }

    /// Received and sent, per second.
    pub(crate) fn network(&self) -> Option<u64> {
        sum(
            self.network_rx_bytes_per_second,
            self.network_tx_bytes_per_second,
        )
    }

    /// Its newest figures as a point, for a history that goes on.
    pub(crate) fn point(&self) -> Point {
        Point {
            at_ms: self.usage.sampled_at_ms,
            cpus: self.cpus,
            memory_bytes: self.memory(),
            io_bytes_per_second: self.io(),
            network_bytes_per_second: self.network(),
        }
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    }
}

impl From<&proto::StatsPoint> for Point {
    fn from(point: &proto::StatsPoint) -> Self {
        Self {
            at_ms: point.at_ms,
            cpus: point.cpu_millis.map(thousandths),
            memory_bytes: point.memory_bytes,
            io_bytes_per_second: point.io_bytes,
            network_bytes_per_second: point.network_bytes,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
fn thousandths(n: u64) -> f64 {
    n as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
fn percent(permille: u64) -> f64 {
    permille as f64 / 10.0
}

/// One machine's use.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct NodeStats {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) cpus: f64,
    pub(crate) tasks: usize,
    pub(crate) used: Option<NodeUsage>,
    /// Why its figures are missing or old; `null` when they are not.
    pub(crate) problem: Option<String>,
}

/// What `mezzo top` shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Top {
    pub(crate) nodes: Vec<NodeStats>,
    pub(crate) tasks: Vec<TaskStats>,
}

/// By what tasks are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum SortBy {
    #[default]
    Cpu,
    Memory,
    Io,
    Network,
}

impl SortBy {
    const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Io, Self::Network];

    /// The one so many places further, around the end.
    pub(crate) fn step(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|one| *one == self).unwrap_or(0);
        let length = Self::ALL.len().cast_signed();
        let to = (at.cast_signed() + by).rem_euclid(length);
        Self::ALL[to.cast_unsigned()]
    }

    /// The most first; what is unknown last.
    pub(crate) fn sort(self, tasks: &mut [TaskStats]) {
        tasks.sort_by(|a, b| {
            let order = match self {
                Self::Cpu => b.cpus.unwrap_or(-1.0).total_cmp(&a.cpus.unwrap_or(-1.0)),
                Self::Memory => b.memory().cmp(&a.memory()),
                Self::Io => b.io().cmp(&a.io()),
                Self::Network => b.network().cmp(&a.network()),
            };
            order.then_with(|| a.id.cmp(&b.id))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_of_a_group_is_its_own_tasks_and_nobody_elses() {
        let group = |network_rx_bytes| proto::GroupStats {
            framework_id: "f".into(),
            group_id: "pod".into(),
            task_ids: vec!["one".into(), "two".into()],
            usage: Some(proto::Usage {
                network_rx_bytes,
                ..proto::Usage::default()
            }),
            rates: None,
        };
        let task = |framework: &str, id: &str, groups: &[proto::GroupStats]| {
            let stats = proto::TaskStats {
                framework_id: framework.into(),
                task_id: id.into(),
                ..proto::TaskStats::default()
            };
            let group = TaskStats::new(&stats, "n1", groups).group;
            group.map(|group| (group.id, group.network_rx_bytes))
        };
        let with = [group(Some(7))];
        assert_eq!(task("f", "two", &with), Some(("pod".into(), Some(7))));
        assert_eq!(task("f", "three", &with), None);
        assert_eq!(task("g", "two", &with), None);
        // On the machine's network.
        assert_eq!(task("f", "two", &[group(None)]), None);
    }

    #[test]
    fn the_most_comes_first_and_what_is_unknown_last() {
        let task = |id: &str, cpus, memory| TaskStats {
            id: id.into(),
            cpus,
            usage: Usage {
                memory_bytes: memory,
                ..Usage::default()
            },
            ..TaskStats::default()
        };
        let mut tasks = vec![
            task("a", None, Some(1)),
            task("b", Some(0.5), None),
            task("c", Some(2.0), Some(3)),
        ];
        let ids = |tasks: &[TaskStats]| tasks.iter().map(|t| t.id.clone()).collect::<String>();
        SortBy::Cpu.sort(&mut tasks);
        assert_eq!(ids(&tasks), "cba");
        SortBy::Memory.sort(&mut tasks);
        assert_eq!(ids(&tasks), "cab");
        assert_eq!(SortBy::Cpu.step(-1), SortBy::Network);
        assert_eq!(SortBy::Network.step(1), SortBy::Cpu);
    }
}
