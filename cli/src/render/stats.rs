//! `mezzo task stats` and `mezzo top` for people: tables, small pictures of the last minutes, one screen.

use super::{Style, Table, Tone, UNKNOWN, bar, bytes, clean, count, number, or_unknown, toned};
use crate::view::stats::{GroupStats, NodeStats, Point, SortBy, TaskStats, Top};

/// Points of a small picture.
const SPARKS: usize = 16;

/// The newest figures as bars of eight heights, the highest being the largest of them (or `full`, if that is more); a
/// blank where a figure is not known.
pub(crate) fn sparkline(figures: &[Option<f64>], full: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &figures[figures.len().saturating_sub(SPARKS)..];
    let most = shown.iter().flatten().copied().fold(full, f64::max);
    shown
        .iter()
        .map(|figure| match figure {
            None => ' ',
            Some(figure) if most > 0.0 => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0..=7"
                )]
                let height = (figure / most * 7.0).round().clamp(0.0, 7.0) as usize;
                BARS[height]
            }
            Some(_) => BARS[0],
        })
        .collect()
}

fn per_second(rate: Option<u64>) -> String {
    or_unknown(rate, |rate| {
        if rate == 0 {
            "0".to_owned()
        } else {
            format!("{}/s", bytes(rate))
        }
    })
}

fn percent(share: Option<f64>) -> String {
    or_unknown(share, |share| format!("{share:.0} %"))
}

#[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
fn share(part: Option<u64>, whole: Option<u64>) -> Option<f64> {
    let whole = whole.filter(|whole| *whole > 0)?;
    Some(part? as f64 * 100.0 / whole as f64)
}

fn cpu_sparks(history: &[Point], full: Option<f64>) -> String {
    let figures: Vec<_> = history.iter().map(|point| point.cpus).collect();
    sparkline(&figures, full.unwrap_or(0.0))
}

/// The table of `task stats`.
pub(crate) fn tasks(tasks: &[TaskStats], style: Style) -> String {
    if tasks.is_empty() {
        return "no running tasks with a sample yet\n".to_owned();
    }
    let mut table = Table::new(&[
        "TASK",
        "NODE",
        ">CPUS",
        ">OF LIMIT",
        ">THROTTLED",
        "LATELY",
        ">MEMORY",
        ">OF LIMIT",
        ">PEAK",
        ">PIDS",
        ">DISK",
        ">OF LIMIT",
        ">READ",
        ">WRITTEN",
        ">RECEIVED",
        ">SENT",
        ">WAITS C/M/I",
        ">OOM",
    ]);
    for task in tasks {
        let of_limit = task.cpus.zip(task.cpu_limit.filter(|limit| *limit > 0.0));
        let of_memory = share(task.memory(), task.memory_limit_bytes);
        let waits = [
            task.cpu_pressure_percent,
            task.memory_pressure_percent,
            task.io_pressure_percent,
        ];
        let waits = if waits.iter().all(Option::is_none) {
            UNKNOWN.to_owned()
        } else {
            let told = waits.map(|share| or_unknown(share, |share| format!("{share:.0}")));
            format!("{} %", told.join("/"))
        };
        table.row([
            task.id.as_str().into(),
            task.node.as_str().into(),
            or_unknown(task.cpus, number).into(),
            percent(of_limit.map(|(cpus, limit)| cpus * 100.0 / limit)).into(),
            match task.cpu_throttled_percent {
                Some(share) if share >= 1.0 => toned(Tone::Busy, percent(Some(share))),
                other => percent(other).into(),
            },
            cpu_sparks(&task.history, task.cpu_limit).into(),
            or_unknown(task.memory(), bytes).into(),
            match of_memory {
                Some(share) if share >= 90.0 => toned(Tone::Bad, percent(Some(share))),
                other => percent(other).into(),
            },
            or_unknown(task.usage.memory_peak_bytes, bytes).into(),
            or_unknown(task.usage.pids, |pids| pids.to_string()).into(),
            or_unknown(task.usage.disk_bytes, bytes).into(),
            match share(task.usage.disk_bytes, task.disk_limit_bytes) {
                Some(share) if share >= 90.0 => toned(Tone::Bad, percent(Some(share))),
                other => percent(other).into(),
            },
            per_second(task.io_read_bytes_per_second).into(),
            per_second(task.io_write_bytes_per_second).into(),
            network(task, task.network_rx_bytes_per_second).into(),
            network(task, task.network_tx_bytes_per_second).into(),
            waits.into(),
            match task.usage.oom_kills {
                Some(kills) if kills > 0 => toned(Tone::Bad, kills.to_string()),
                other => or_unknown(other, |kills| kills.to_string()).into(),
            },
        ]);
    }
    let mut text = table.render(style, "");
    text.push_str(&groups(tasks, style));
    text
}

/// A task's own, or a word that it is told with its group's.
fn network(task: &TaskStats, rate: Option<u64>) -> String {
    if task.group.is_some() && rate.is_none() {
        "group".to_owned()
    } else {
        per_second(rate)
    }
}

/// What groups have together, once for each; nothing where there is none.
fn groups(tasks: &[TaskStats], style: Style) -> String {
    let mut groups: Vec<(&GroupStats, &TaskStats)> = tasks
        .iter()
        .filter_map(|task| Some((task.group.as_ref()?, task)))
        .collect();
    let key = |(group, task): &(&GroupStats, &TaskStats)| {
        let of = (task.node.clone(), task.framework_id.clone());
        (group.id.clone(), of)
    };
    groups.sort_by_key(key);
    groups.dedup_by_key(|group| key(group));
    if groups.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["GROUP", "NODE", "TASKS", ">RECEIVED", ">SENT", ">IN ALL"]);
    for (group, task) in groups {
        let total = [group.network_rx_bytes, group.network_tx_bytes];
        let total = total.map(|total| or_unknown(total, bytes));
        table.row([
            group.id.as_str().into(),
            task.node.as_str().into(),
            group.tasks.join(", ").into(),
            per_second(group.network_rx_bytes_per_second).into(),
            per_second(group.network_tx_bytes_per_second).into(),
            total.join(" / ").into(),
        ]);
    }
    format!("\n{}", table.render(style, ""))
}

/// The part of `top` above the tasks.
fn nodes(nodes: &[NodeStats], style: Style) -> String {
    let mut text = String::new();
    let width = nodes
        .iter()
        .map(|node| clean(&node.hostname).chars().count())
        .max()
        .unwrap_or(0);
    for node in nodes {
        let name = clean(&node.hostname);
        let padding = " ".repeat(width - name.chars().count());
        let line = match (&node.problem, &node.used) {
            (Some(problem), _) => style.paint(Tone::Bad, &clean(problem)),
            (None, None) => style.paint(Tone::Faint, "no sample yet"),
            (None, Some(used)) => {
                #[expect(clippy::cast_precision_loss, reason = "shown, not reckoned with")]
                let memory = |bytes: Option<u64>| bytes.unwrap_or(0) as f64;
                format!(
                    "cpu {} {}/{}  mem {} {}/{}  {}",
                    bar(style, used.cpus.unwrap_or(0.0), node.cpus),
                    or_unknown(used.cpus, number),
                    number(node.cpus),
                    bar(
                        style,
                        memory(used.memory_used_bytes),
                        memory(used.memory_total_bytes)
                    ),
                    or_unknown(used.memory_used_bytes, bytes),
                    or_unknown(used.memory_total_bytes, bytes),
                    count(node.tasks, "task"),
                )
            }
        };
        text.push_str(&format!(
            "{}{padding}  {line}\n",
            style.paint(Tone::Heading, &name)
        ));
    }
    text
}

/// `mezzo top`: nodes, then tasks in the order wanted; from the task `skip` on. With a size, no more than fits.
pub(crate) fn top(
    top: &Top,
    sort: SortBy,
    skip: usize,
    size: Option<(u16, u16)>,
    style: Style,
) -> String {
    let head = nodes(&top.nodes, style);
    let mut sorted = top.tasks.clone();
    sort.sort(&mut sorted);
    let room = size.map(|(_, rows)| {
        usize::from(rows)
            .saturating_sub(head.lines().count() + 3)
            .max(1)
    });
    let mark = |by: SortBy, name: &'static str, marked: &'static str| {
        if by == sort { marked } else { name }
    };
    let mut table = Table::new(&[
        "TASK",
        "NODE",
        mark(SortBy::Cpu, ">CPUS", ">CPUS*"),
        "LATELY",
        mark(SortBy::Memory, ">MEMORY", ">MEMORY*"),
        ">OF LIMIT",
        mark(SortBy::Io, ">I/O", ">I/O*"),
        mark(SortBy::Network, ">NETWORK", ">NETWORK*"),
        ">PIDS",
    ]);
    for task in sorted.iter().skip(skip).take(room.unwrap_or(usize::MAX)) {
        table.row([
            task.id.as_str().into(),
            task.node.as_str().into(),
            or_unknown(task.cpus, number).into(),
            cpu_sparks(&task.history, task.cpu_limit).into(),
            or_unknown(task.memory(), bytes).into(),
            percent(share(task.memory(), task.memory_limit_bytes)).into(),
            per_second(task.io()).into(),
            per_second(task.network()).into(),
            or_unknown(task.usage.pids, |pids| pids.to_string()).into(),
        ]);
    }
    let mut text = format!("{head}\n{}", table.render(style, ""));
    if size.is_some() {
        let keys = format!(
            "{}; up and down: scroll, left and right: sort, q: leave",
            count(sorted.len(), "task")
        );
        text.push_str(&style.paint(Tone::Faint, &keys));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;
    use crate::view::{NodeUsage, Usage};

    fn task(id: &str, cpus: f64) -> TaskStats {
        TaskStats {
            id: id.into(),
            node: "n1".into(),
            cpus: Some(cpus),
            cpu_limit: Some(1.0),
            cpu_throttled_percent: Some(12.0),
            memory_limit_bytes: Some(64 << 20),
            disk_limit_bytes: Some(32 << 20),
            io_write_bytes_per_second: Some(2048),
            usage: Usage {
                memory_working_set_bytes: Some(16 << 20),
                memory_peak_bytes: Some(20 << 20),
                pids: Some(3),
                disk_bytes: Some(8 << 20),
                oom_kills: Some(0),
                ..Usage::default()
            },
            history: (0..4_u32)
                .map(|n| Point {
                    cpus: (n != 1).then_some(f64::from(n) / 3.0),
                    ..Point::default()
                })
                .collect(),
            ..TaskStats::default()
        }
    }

    #[test]
    fn figures_become_bars_and_unknown_ones_blanks() {
        let figures = [Some(0.0), None, Some(0.5), Some(1.0)];
        assert_eq!(sparkline(&figures, 0.0), "▁ ▅█");
        assert_eq!(sparkline(&figures, 2.0), "▁ ▃▅");
        assert_eq!(sparkline(&[Some(0.0)], 0.0), "▁");
        assert_eq!(sparkline(&[], 1.0), "");
        let many: Vec<_> = (0..100).map(|n| Some(f64::from(n))).collect();
        assert_eq!(sparkline(&many, 0.0).chars().count(), SPARKS);
    }

    #[test]
    fn stats_tell_rates_and_limits_and_a_dash_for_what_is_unknown() {
        insta::assert_snapshot!(tasks(&[task("web.1", 0.25)], PLAIN), @r"
        TASK   NODE  CPUS  OF LIMIT  THROTTLED  LATELY    MEMORY  OF LIMIT      PEAK  PIDS     DISK  OF LIMIT  READ    WRITTEN  RECEIVED  SENT  WAITS C/M/I  OOM
        web.1  n1    0.25      25 %       12 %  ▁ ▆█    16.0 MiB      25 %  20.0 MiB     3  8.0 MiB      25 %     -  2.0 KiB/s         -     -            -    0
        ");
    }

    #[test]
    fn the_network_of_a_group_is_told_once() {
        let member = |id: &str| TaskStats {
            group: Some(GroupStats {
                id: "pod".into(),
                tasks: vec!["one".into(), "two".into()],
                network_rx_bytes: Some(3 << 20),
                network_tx_bytes: Some(5 << 10),
                network_rx_bytes_per_second: Some(2048),
                network_tx_bytes_per_second: Some(0),
            }),
            ..task(id, 0.25)
        };
        insta::assert_snapshot!(tasks(&[member("one"), member("two"), task("web.1", 0.25)], PLAIN), @r"
        TASK   NODE  CPUS  OF LIMIT  THROTTLED  LATELY    MEMORY  OF LIMIT      PEAK  PIDS     DISK  OF LIMIT  READ    WRITTEN  RECEIVED   SENT  WAITS C/M/I  OOM
        one    n1    0.25      25 %       12 %  ▁ ▆█    16.0 MiB      25 %  20.0 MiB     3  8.0 MiB      25 %     -  2.0 KiB/s     group  group            -    0
        two    n1    0.25      25 %       12 %  ▁ ▆█    16.0 MiB      25 %  20.0 MiB     3  8.0 MiB      25 %     -  2.0 KiB/s     group  group            -    0
        web.1  n1    0.25      25 %       12 %  ▁ ▆█    16.0 MiB      25 %  20.0 MiB     3  8.0 MiB      25 %     -  2.0 KiB/s         -      -            -    0

        GROUP  NODE  TASKS      RECEIVED  SENT             IN ALL
        pod    n1    one, two  2.0 KiB/s     0  3.0 MiB / 5.0 KiB
        ");
    }

    #[test]
    fn top_shows_the_busiest_that_fit() {
        let view = Top {
            nodes: vec![
                NodeStats {
                    hostname: "n1".into(),
                    cpus: 4.0,
                    tasks: 3,
                    used: Some(NodeUsage {
                        cpus: Some(1.0),
                        memory_total_bytes: Some(8 << 30),
                        memory_used_bytes: Some(6 << 30),
                        ..NodeUsage::default()
                    }),
                    ..NodeStats::default()
                },
                NodeStats {
                    hostname: "node-2".into(),
                    problem: Some("cannot be reached".into()),
                    ..NodeStats::default()
                },
            ],
            tasks: vec![task("a", 0.1), task("b", 0.9), task("c", 0.5)],
        };
        insta::assert_snapshot!(top(&view, SortBy::Cpu, 0, Some((80, 7)), PLAIN), @r"
        n1      cpu [#####...............] 1/4  mem [###############.....] 6.0 GiB/8.0 GiB  3 tasks
        node-2  cannot be reached

        TASK  NODE  CPUS*  LATELY    MEMORY  OF LIMIT        I/O  NETWORK  PIDS
        b     n1      0.9  ▁ ▆█    16.0 MiB      25 %  2.0 KiB/s        -     3
        c     n1      0.5  ▁ ▆█    16.0 MiB      25 %  2.0 KiB/s        -     3
        3 tasks; up and down: scroll, left and right: sort, q: leave
        ");
        let all = top(&view, SortBy::Cpu, 0, None, PLAIN);
        assert_eq!(all.lines().count(), 2 + 1 + 1 + 3);
    }
}
