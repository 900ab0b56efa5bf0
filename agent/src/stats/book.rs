//! The book of use: per running task its last sample, rates and history; per app what all its tasks have used, ended
//! ones too. Pure: samples and the time come in, figures go out.
//!
//! A task takes at most 9 KiB here, and goes when it ends. Sums by app are counters for the metrics; there are at most
//! so many apps, those without a running task make room for others, and what finds no room is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mezzo_api::model::{TaskInfo, Usage};

use super::{
    rates::{self, Rates},
    ring::{Point, Ring},
};
use crate::{
    node::ContainerId,
    task::{TaskKey, disk, group::HeldGroup},
};

/// Longest name of an app that becomes a label.
const MAX_APP: usize = 128;

/// Whose tasks are summed up: framework and the name that its tasks have.
pub(crate) type AppKey = (String, String);

/// What is known of a task beside its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) key: TaskKey,
    /// For people; the same for all tasks of an app.
    pub(crate) name: String,
    /// Thousandths of a processor that it holds.
    pub(crate) cpu_millis: u64,
    /// Thousandths of a processor beyond which it is throttled.
    pub(crate) cpu_limit_millis: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) disk_limit_bytes: Option<u64>,
}

impl About {
    /// From what was launched.
    pub(crate) fn new(key: &TaskKey, info: &TaskInfo) -> Self {
        let millis = |scalar: mezzo_api::model::Scalar| u64::try_from(scalar.millis()).unwrap_or(0);
        let mem_mb = u64::try_from(info.resources.mem().units_floor()).unwrap_or(0);
        let limit_mb = mem_mb.max(info.memory_limit_mb.unwrap_or(0));
        Self {
            key: key.clone(),
            name: info.name.clone(),
            cpu_millis: millis(info.resources.cpus()),
            cpu_limit_millis: info.cpu_limit.map(millis),
            memory_limit_bytes: (limit_mb > 0).then_some(limit_mb << 20),
            disk_limit_bytes: disk::limit(info),
        }
    }

    fn app(&self) -> AppKey {
        let name = if self.name.is_empty() {
            self.key.task.as_str()
        } else {
            &self.name
        };
        (
            self.key.framework.to_string(),
            name.chars().take(MAX_APP).collect(),
        )
    }
}

/// One running task.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) about: About,
    pub(crate) usage: Usage,
    /// Monotonic milliseconds of the sample.
    taken_ms: u64,
    /// `None` after one sample.
    pub(crate) rates: Option<Rates>,
    pub(crate) ring: Ring,
}

/// What all tasks of an app have used since the agent first saw one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AppSums {
    /// Running now, with at least one sample.
    pub(crate) tasks: u64,
    /// Bytes now.
    pub(crate) memory_working_set_bytes: u64,
    /// Bytes now, of those that were measured.
    pub(crate) disk_bytes: u64,
    pub(crate) cpu_us: u64,
    pub(crate) throttled_us: u64,
    pub(crate) oom_kills: u64,
    pub(crate) io_read_bytes: u64,
    pub(crate) io_write_bytes: u64,
    /// `None` as long as all are on the host's network.
    pub(crate) network_rx_bytes: Option<u64>,
    pub(crate) network_tx_bytes: Option<u64>,
}

impl AppSums {
    /// Adds what a task used between two samples; the first counts from its start.
    fn add(&mut self, before: Option<&Usage>, after: &Usage) {
        let grown = |field: fn(&Usage) -> Option<u64>| {
            let now = field(after)?;
            // What has gone back began anew, from zero.
            Some(
                now.checked_sub(before.and_then(field).unwrap_or(0))
                    .unwrap_or(now),
            )
        };
        let add = |to: &mut u64, growth: Option<u64>| *to = to.saturating_add(growth.unwrap_or(0));
        add(&mut self.cpu_us, grown(|usage| usage.cpu_total_us));
        add(&mut self.throttled_us, grown(|usage| usage.throttled_us));
        add(&mut self.oom_kills, grown(|usage| usage.oom_kills));
        add(&mut self.io_read_bytes, grown(|usage| usage.io_read_bytes));
        add(
            &mut self.io_write_bytes,
            grown(|usage| usage.io_write_bytes),
        );
        for (to, growth) in [
            (
                &mut self.network_rx_bytes,
                grown(|usage| usage.network_rx_bytes),
            ),
            (
                &mut self.network_tx_bytes,
                grown(|usage| usage.network_tx_bytes),
            ),
        ] {
            if let Some(growth) = growth {
                *to = Some(to.unwrap_or(0).saturating_add(growth));
            }
        }
    }
}

/// What the tasks of a group use together: the network that they share.
#[derive(Debug, Clone)]
pub(crate) struct TrackedGroup {
    pub(crate) group: HeldGroup,
    /// Network figures alone.
    pub(crate) usage: Usage,
    /// Monotonic milliseconds of the sample.
    taken_ms: u64,
    /// `None` after one sample.
    pub(crate) rates: Option<Rates>,
}

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    tasks: HashMap<ContainerId, Tracked>,
    groups: BTreeMap<ContainerId, TrackedGroup>,
    apps: BTreeMap<AppKey, AppSums>,
    max_apps: usize,
    /// Samples of tasks whose app found no room.
    left_out: u64,
    /// Nothing makes room until a task ends.
    full: bool,
}

impl Book {
    /// An empty one.
    pub(crate) fn new(max_apps: usize) -> Self {
        Self {
            tasks: HashMap::new(),
            groups: BTreeMap::new(),
            apps: BTreeMap::new(),
            max_apps,
            left_out: 0,
            full: false,
        }
    }

    /// Takes a sample in, taken at that monotonic time.
    pub(crate) fn sample(
        &mut self,
        container: &ContainerId,
        about: impl FnOnce() -> About,
        usage: &Usage,
        now_ms: u64,
    ) {
        let (app, before) = match self.tasks.get_mut(container) {
            Some(known) => {
                let before = std::mem::replace(&mut known.usage, usage.clone());
                let window = now_ms.saturating_sub(known.taken_ms);
                if let Some(rates) = rates::between(&before, usage, window) {
                    known.rates = Some(rates);
                    known.ring.push(point(usage, &rates));
                }
                known.taken_ms = now_ms;
                (known.about.app(), Some(before))
            }
            None => {
                let about = about();
                let app = about.app();
                self.tasks.insert(
                    container.clone(),
                    Tracked {
                        about,
                        usage: usage.clone(),
                        taken_ms: now_ms,
                        rates: None,
                        ring: Ring::default(),
                    },
                );
                (app, None)
            }
        };
        self.sum(app, before.as_ref(), usage);
    }

    /// Takes a sample of a group's holder in. On the machine's network there is nothing to tell.
    pub(crate) fn group_sample(&mut self, group: HeldGroup, usage: &Usage, now_ms: u64) {
        if usage.network_rx_bytes.is_none() {
            return;
        }
        let usage = network_alone(usage);
        let before = self.groups.get(&group.holder);
        let rates = before.and_then(|before| {
            let window = now_ms.saturating_sub(before.taken_ms);
            rates::between(&before.usage, &usage, window).or(before.rates)
        });
        self.groups.insert(
            group.holder.clone(),
            TrackedGroup {
                group,
                usage,
                taken_ms: now_ms,
                rates,
            },
        );
    }

    /// Forgets groups that are no more.
    pub(crate) fn retain_groups(&mut self, mut is_held: impl FnMut(&ContainerId) -> bool) {
        self.groups.retain(|holder, _| is_held(holder));
    }

    /// All groups with a network of their own.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &TrackedGroup> {
        self.groups.values()
    }

    /// A task has ended; its last sample counts, also when it is the only one.
    pub(crate) fn end(
        &mut self,
        container: &ContainerId,
        about: impl FnOnce() -> About,
        last: &Usage,
    ) {
        let known = self.tasks.remove(container);
        self.full = false;
        let app = known
            .as_ref()
            .map_or_else(|| about().app(), |known| known.about.app());
        self.sum(app, known.as_ref().map(|known| &known.usage), last);
    }

    /// Forgets tasks that do not run any more.
    pub(crate) fn retain(&mut self, mut runs: impl FnMut(&ContainerId) -> bool) {
        let before = self.tasks.len();
        self.tasks.retain(|container, _| runs(container));
        self.full &= self.tasks.len() == before;
    }

    fn sum(&mut self, app: AppKey, before: Option<&Usage>, after: &Usage) {
        if !self.apps.contains_key(&app) && self.apps.len() >= self.max_apps {
            let Some(idle) = self.idle() else {
                self.full = true;
                self.left_out = self.left_out.saturating_add(1);
                return;
            };
            self.apps.remove(&idle);
        }
        self.apps.entry(app).or_default().add(before, after);
    }

    /// An app that has nothing running any more, and makes room.
    fn idle(&self) -> Option<AppKey> {
        if self.full {
            return None;
        }
        let running: BTreeSet<AppKey> = self.tasks.values().map(|task| task.about.app()).collect();
        self.apps
            .keys()
            .find(|app| !running.contains(*app))
            .cloned()
    }

    /// One of them.
    pub(crate) fn get(&self, container: &ContainerId) -> Option<&Tracked> {
        self.tasks.get(container)
    }

    /// Running tasks that were sampled.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &Tracked> {
        self.tasks.values()
    }

    /// The apps with their sums, and samples whose app found no room.
    pub(crate) fn apps(&self) -> (BTreeMap<AppKey, AppSums>, u64) {
        let mut apps = self.apps.clone();
        for task in self.tasks.values() {
            if let Some(sums) = apps.get_mut(&task.about.app()) {
                sums.tasks += 1;
                let working_set = task
                    .usage
                    .memory_working_set_bytes
                    .or(task.usage.memory_bytes);
                sums.memory_working_set_bytes += working_set.unwrap_or(0);
                sums.disk_bytes += task.usage.disk_bytes.unwrap_or(0);
            }
        }
        (apps, self.left_out)
    }
}

fn point(usage: &Usage, rates: &Rates) -> Point {
    let both = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
    };
    Point::new(
        usage.sampled_at_ms,
        rates.cpu_millis,
        usage.memory_working_set_bytes.or(usage.memory_bytes),
        both(rates.io_read_bytes, rates.io_write_bytes),
        both(rates.network_rx_bytes, rates.network_tx_bytes),
    )
}

/// What of a holder's use is its group's.
fn network_alone(usage: &Usage) -> Usage {
    Usage {
        sampled_at_ms: usage.sampled_at_ms,
        network_rx_bytes: usage.network_rx_bytes,
        network_rx_packets: usage.network_rx_packets,
        network_rx_errors: usage.network_rx_errors,
        network_rx_dropped: usage.network_rx_dropped,
        network_tx_bytes: usage.network_tx_bytes,
        network_tx_packets: usage.network_tx_packets,
        network_tx_errors: usage.network_tx_errors,
        network_tx_dropped: usage.network_tx_dropped,
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(task: &str, name: &str) -> About {
        About {
            key: TaskKey {
                framework: "f".parse().unwrap(),
                task: task.parse().unwrap(),
            },
            name: name.into(),
            cpu_millis: 100,
            cpu_limit_millis: None,
            memory_limit_bytes: None,
            disk_limit_bytes: None,
        }
    }

    fn usage(cpu: u64) -> Usage {
        Usage {
            sampled_at_ms: cpu,
            cpu_total_us: Some(cpu),
            memory_bytes: Some(10),
            ..Usage::default()
        }
    }

    fn id(n: u64) -> ContainerId {
        ContainerId::derive("t", n)
    }

    #[test]
    fn sums_count_every_microsecond_once_also_of_tasks_that_ended() {
        let mut book = Book::new(10);
        book.sample(&id(1), || about("t1", "app"), &usage(1000), 0);
        book.sample(&id(1), || panic!("known"), &usage(5000), 1000);
        // Never sampled while it ran.
        book.end(&id(2), || about("t2", "app"), &usage(70));
        book.end(&id(1), || panic!("known"), &usage(6000));
        let (apps, left_out) = book.apps();
        let sums = &apps[&("f".to_owned(), "app".to_owned())];
        assert_eq!((sums.cpu_us, sums.tasks, left_out), (6070, 0, 0));
        assert_eq!(sums.network_rx_bytes, None);
        assert_eq!(book.tasks().count(), 0);
    }

    #[test]
    fn rates_come_with_the_second_sample_and_history_with_them() {
        let mut book = Book::new(0);
        book.sample(&id(1), || about("t1", "app"), &usage(0), 0);
        assert!(book.tasks().next().unwrap().rates.is_none());
        book.sample(&id(1), || panic!("known"), &usage(500_000), 1000);
        let task = book.tasks().next().unwrap();
        assert_eq!(task.rates.unwrap().cpu_millis, Some(500));
        assert_eq!(task.ring.points().count(), 1);
        book.retain(|_| false);
        assert_eq!(book.tasks().count(), 0);
    }

    #[test]
    fn apps_are_bounded_and_idle_ones_make_room() {
        let mut book = Book::new(2);
        book.sample(&id(1), || about("t1", "one"), &usage(1), 0);
        book.sample(&id(2), || about("t2", "two"), &usage(1), 0);
        book.sample(&id(3), || about("t3", "three"), &usage(1), 0);
        let (apps, left_out) = book.apps();
        assert_eq!((apps.len(), left_out), (2, 1));
        book.end(&id(1), || panic!("known"), &usage(2));
        book.sample(&id(3), || panic!("known"), &usage(2), 1);
        let (apps, left_out) = book.apps();
        let names: Vec<_> = apps.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!((names, left_out), (vec!["three", "two"], 1));
    }

    #[test]
    fn a_groups_network_is_told_once_and_nothing_else_of_its_holder() {
        let id = ContainerId::derive("pod", 1);
        let group = || HeldGroup {
            holder: id.clone(),
            framework: "f".parse().unwrap(),
            group: "pod".parse().unwrap(),
            running: vec!["one".parse().unwrap()],
        };
        let sample = |rx: Option<u64>| Usage {
            cpu_total_us: Some(9),
            network_rx_bytes: rx,
            ..Usage::default()
        };
        let mut book = Book::new(1);
        book.group_sample(group(), &sample(None), 1_000);
        assert_eq!(book.groups().count(), 0, "on the machine's network");
        book.group_sample(group(), &sample(Some(100)), 1_000);
        book.group_sample(group(), &sample(Some(300)), 3_000);
        let told: Vec<_> = book.groups().collect();
        let rates = told[0].rates.unwrap();
        assert_eq!(rates.network_rx_bytes, Some(100));
        assert_eq!((rates.cpu_millis, told[0].usage.cpu_total_us), (None, None));
        assert_eq!(told[0].usage.network_rx_bytes, Some(300));
        assert_eq!(book.tasks().count(), 0);
        book.retain_groups(|_| false);
        assert_eq!(book.groups().count(), 0);
    }
}
