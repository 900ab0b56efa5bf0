//! What tasks use, told from the book of samples: once, or after every round.
//!
//! Nothing here waits for a reader but the reader's own task: a round that comes while an answer is still on its way is
//! skipped, and the next answer tells the newest.

use futures::StreamExt as _;
use mezzo_api::{model::NodeUsage, proto};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::Answers;
use crate::{
    actor::{Command, Handle},
    stats::{
        Stats,
        book::{Tracked, TrackedGroup},
        rates::Rates,
        ring::{Figure, Point},
    },
};

/// Tasks that one call may name.
const MAX_NAMED: usize = 1000;

/// Refuses what nobody can mean.
pub(super) fn check(request: &proto::GetStatsRequest) -> Result<(), Status> {
    if request.task_ids.len() > MAX_NAMED {
        return Err(Status::invalid_argument(format!(
            "task_ids: {} are more than {MAX_NAMED}; name none for all",
            request.task_ids.len()
        )));
    }
    Ok(())
}

/// The book as it is now.
pub(super) fn round(
    stats: &Stats,
    request: &proto::GetStatsRequest,
    node: Option<NodeUsage>,
) -> proto::StatsRound {
    let wanted = |task: &Tracked| {
        let id = task.about.key.task.as_str();
        request.task_ids.is_empty() || request.task_ids.iter().any(|wanted| wanted == id)
    };
    // Copied under the lock, made into messages after it.
    let (tasks, groups): (Vec<Tracked>, Vec<TrackedGroup>) = stats.with(|book| {
        let tasks = book.tasks().filter(|task| wanted(task)).cloned();
        (tasks.collect(), book.groups().cloned().collect())
    });
    let named = |group: &TrackedGroup| {
        let of_group = |id: &String| group.group.running.iter().any(|task| task.as_str() == id);
        request.task_ids.is_empty() || request.task_ids.iter().any(of_group)
    };
    let groups = groups.into_iter().filter(named).map(group_message);
    let mut tasks: Vec<_> = tasks
        .into_iter()
        .map(|task| message(task, request.with_history))
        .collect();
    tasks.sort_by(|a, b| (&a.task_id, &a.framework_id).cmp(&(&b.task_id, &b.framework_id)));
    proto::StatsRound {
        sampled_at_ms: node.as_ref().map_or(0, |node| node.sampled_at_ms),
        node: node.map(Into::into),
        tasks,
        groups: groups.collect(),
    }
}

fn group_message(tracked: TrackedGroup) -> proto::GroupStats {
    let running = tracked.group.running.into_iter();
    proto::GroupStats {
        framework_id: tracked.group.framework.into(),
        group_id: tracked.group.group.to_string(),
        task_ids: running.map(Into::into).collect(),
        usage: Some(tracked.usage.into()),
        rates: tracked.rates.map(rates),
    }
}

/// After every round; ends when the answer is dropped.
pub(super) fn watch(
    handle: Handle,
    stats: Stats,
    mut request: proto::GetStatsRequest,
) -> Answers<proto::StatsRound> {
    let (sender, answers) = mpsc::channel(1);
    let mut rounds = stats.rounds();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        rounds.mark_changed();
        while rounds.changed().await.is_ok() {
            // The place is there before the book is read, so that what is sent is the newest.
            let Ok(place) = sender.reserve().await else {
                return;
            };
            rounds.borrow_and_update();
            match handle.ask(Command::NodeUsage).await {
                Ok(node) => place.send(Ok(round(&stats, &request, node))),
                Err(stopped) => {
                    place.send(Err(stopped.into()));
                    return;
                }
            }
            request.with_history = false;
        }
    }));
    Box::pin(ReceiverStream::new(answers).map(move |answer| {
        let _watching = &task;
        answer
    }))
}

fn message(task: Tracked, with_history: bool) -> proto::TaskStats {
    proto::TaskStats {
        framework_id: task.about.key.framework.into(),
        task_id: task.about.key.task.into(),
        name: task.about.name,
        usage: Some(task.usage.into()),
        rates: task.rates.map(rates),
        cpu_millis: task.about.cpu_millis,
        cpu_limit_millis: task.about.cpu_limit_millis,
        memory_limit_bytes: task.about.memory_limit_bytes,
        disk_limit_bytes: task.about.disk_limit_bytes,
        history: if with_history {
            task.ring.points().map(point).collect()
        } else {
            Vec::new()
        },
    }
}

fn rates(rates: Rates) -> proto::Rates {
    proto::Rates {
        window_ms: rates.window_ms,
        cpu_millis: rates.cpu_millis,
        cpu_throttled_permille: rates.cpu_throttled_permille,
        io_read_bytes: rates.io_read_bytes,
        io_write_bytes: rates.io_write_bytes,
        io_read_ops: rates.io_read_ops,
        io_write_ops: rates.io_write_ops,
        network_rx_bytes: rates.network_rx_bytes,
        network_tx_bytes: rates.network_tx_bytes,
        network_rx_packets: rates.network_rx_packets,
        network_tx_packets: rates.network_tx_packets,
        cpu_pressure_permille: rates.cpu_pressure_permille,
        memory_pressure_permille: rates.memory_pressure_permille,
        io_pressure_permille: rates.io_pressure_permille,
    }
}

fn point(point: &Point) -> proto::StatsPoint {
    proto::StatsPoint {
        at_ms: point.at_ms,
        cpu_millis: point.get(Figure::Cpu),
        memory_bytes: point.get(Figure::Memory),
        io_bytes: point.get(Figure::Io),
        network_bytes: point.get(Figure::Network),
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::Usage;

    use super::*;
    use crate::{node::ContainerId, stats::book::About, task::TaskKey};

    /// Whoever does not read holds nobody up: when it reads again it is told what was on its way, and then the newest.
    #[tokio::test]
    async fn a_slow_reader_misses_rounds_and_nobody_waits_for_it() {
        let (handle, mut commands) = crate::actor::channel();
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                if let Command::NodeUsage(reply) = command {
                    let _ = reply.send(None);
                }
            }
        });
        let stats = Stats::new(1);
        let container = ContainerId::derive("t", 1);
        let about = || About {
            key: TaskKey {
                framework: "f".parse().unwrap(),
                task: "t".parse().unwrap(),
            },
            name: "t".into(),
            cpu_millis: 1,
            cpu_limit_millis: None,
            memory_limit_bytes: None,
            disk_limit_bytes: None,
        };
        let mut rounds = watch(handle, stats.clone(), proto::GetStatsRequest::default());
        const LAST: u64 = 500;
        for n in 1..=LAST {
            let usage = Usage {
                sampled_at_ms: n,
                cpu_total_us: Some(n),
                ..Usage::default()
            };
            stats.with(|book| book.sample(&container, about, &usage, n));
            stats.round_done();
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        while told.last() != Some(&LAST) {
            let round = rounds.next().await.unwrap().unwrap();
            told.extend(
                round
                    .tasks
                    .iter()
                    .map(|task| task.usage.unwrap().sampled_at_ms),
            );
        }
        assert!(told.len() <= 3 && told.is_sorted(), "{told:?}");
    }
}
