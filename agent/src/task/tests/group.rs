//! Groups in the core: all or nothing, init tasks first, one end that is everybody's, a restart in between.

use mezzo_api::model::{
    GroupPolicy, NetworkMode, PortMapping, PortProtocol, SharedVolume, TaskGroup, Volume,
    VolumeSource,
};

use super::*;
use crate::node::Attachment;

/// Members in their order; those that begin with `init` are init tasks.
fn members(ids: &[&str], policy: GroupPolicy) -> Vec<TaskInfo> {
    let n_members = u32::try_from(ids.len()).unwrap();
    let group = |position, init| TaskGroup {
        id: "pod".parse().unwrap(),
        n_members,
        position,
        init,
        policy,
        volumes: vec![],
        shares: vec![],
    };
    (0..)
        .zip(ids)
        .map(|(position, id)| TaskInfo {
            group: Some(Box::new(group(position, id.starts_with("init")))),
            ..a_task(id)
        })
        .collect()
}

impl Bench {
    pub(super) fn launch_group(&mut self, infos: Vec<TaskInfo>) {
        self.event(Event::LaunchGroup {
            framework: "f".parse().unwrap(),
            role: RoleName::any(),
            infos,
        });
    }

    fn ready(&mut self, id: &str) {
        let container = self.container(id);
        self.event(Event::Ready(container));
    }

    fn holder(&self, id: &str) -> ContainerId {
        self.core.get(&key(id)).unwrap().holder.clone().unwrap()
    }

    fn held(&mut self, id: &str) {
        let holder = self.holder(id);
        self.event(Event::Held(holder, Ok(Attachment::default())));
    }

    fn launch_failed(&mut self, id: &str, words: &str) {
        let container = self.container(id);
        let outcome = Outcome::new(TaskState::Failed, Reason::ImagePullFailed, words);
        self.event(Event::LaunchFailed(
            container,
            LaunchFailure::Failed(outcome),
        ));
    }

    /// Whoever was asked to give its launch up does.
    fn cancelled(&mut self, id: &str) {
        let container = self.container(id);
        let effect = Effect::CancelLaunch(container.clone());
        assert!(self.effects.contains(&effect), "{id} is not given up");
        self.event(Event::LaunchFailed(container, LaunchFailure::Cancelled));
    }

    fn admitted(&self) -> Vec<String> {
        let admitted = self.effects.iter().filter_map(|effect| {
            if let Effect::Admit(container, _) = effect {
                Some(container)
            } else {
                None
            }
        });
        admitted
            .map(|id| self.core.by_container(id).unwrap().key.task.to_string())
            .collect()
    }

    pub(super) fn running_group(&mut self, ids: &[&str]) {
        self.launch_group(members(ids, GroupPolicy::KillGroup));
        for id in ids {
            self.ready(id);
        }
        self.held(ids[0]);
        for id in ids {
            self.started(id);
        }
    }

    fn holds(&self) -> usize {
        let holds = self
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Hold(_)));
        holds.count()
    }

    fn lets_go(&self) -> usize {
        let lets_go = self
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::LetGo(_)));
        lets_go.count()
    }

    fn latest(&self, id: &str) -> (TaskState, Option<Reason>, String) {
        let latest = &self.core.get(&key(id)).unwrap().latest;
        (latest.state, latest.reason, latest.message.clone())
    }

    #[track_caller]
    fn is_killed_for(&self, id: &str, words: &str) {
        let (state, reason, message) = self.latest(id);
        let killed = (TaskState::Killed, Some(Reason::TaskGroupMemberEnded));
        assert_eq!((state, reason), killed, "{id}: {message}");
        assert!(message.contains(words), "{id}: {message}");
    }
}

#[test]
fn a_group_starts_when_all_images_are_here_init_tasks_first() {
    let mut bench = Bench::new();
    bench.launch_group(members(&["init", "one", "two"], GroupPolicy::KillGroup));
    assert_eq!(bench.launches(), 3, "all images at once");
    bench.ready("init");
    bench.ready("two");
    assert_eq!(bench.holds(), 0);
    bench.ready("one");
    assert_eq!((bench.holds(), bench.admitted().len()), (1, 0));
    bench.held("one");
    assert_eq!(bench.admitted(), ["init"]);
    bench.started("init");
    assert_eq!(bench.admitted(), ["init"], "until it has ended");
    bench.exited("init", ContainerExit::Code(0));
    assert_eq!(bench.admitted(), ["init", "one"]);
    bench.started("one");
    bench.started("two");
    assert_eq!(bench.admitted(), ["init", "one", "two"]);
    bench.exited("one", ContainerExit::Code(0));
    assert_eq!(
        bench.latest("two").0,
        TaskState::Running,
        "one that is done leaves the rest"
    );
    assert_eq!(bench.lets_go(), 0);
    bench.exited("two", ContainerExit::Code(0));
    assert_eq!(bench.lets_go(), 1);
    let holder = bench.holder("two");
    bench.event(Event::LetGo(holder));
    assert!(!bench.core.has_groups());
    bench.launch_group(members(&["init", "one", "two"], GroupPolicy::KillGroup));
    assert_eq!(bench.launches(), 3, "sent again, nothing runs again");
}

#[test]
fn one_that_cannot_start_takes_all_along_before_any_runs() {
    for policy in [GroupPolicy::KillGroup, GroupPolicy::Keep] {
        let mut bench = Bench::new();
        bench.launch_group(members(&["one", "two", "three"], policy));
        bench.ready("one");
        bench.launch_failed("two", "image x: no such manifest");
        bench.cancelled("one");
        bench.cancelled("three");
        for id in ["one", "three"] {
            bench.is_killed_for(id, "task two of its group was not started: image x");
        }
        assert_eq!(bench.latest("two").1, Some(Reason::ImagePullFailed));
        assert_eq!((bench.holds(), bench.lets_go()), (0, 1));
        assert_eq!(
            bench.core.ledger().free(),
            "cpus:1;mem:1024;ports:[31000-31009]".parse().unwrap()
        );
    }
}

#[test]
fn what_does_not_fit_together_runs_not_at_all() {
    let mut bench = Bench::new();
    let mut infos = members(&["one", "two"], GroupPolicy::KillGroup);
    infos[1].resources = "cpus:5".parse().unwrap();
    bench.launch_group(infos);
    assert_eq!(bench.latest("two").0, TaskState::Error);
    if bench.launches() > 0 {
        bench.cancelled("one");
    }
    bench.is_killed_for("one", "task two of its group was not started");
    assert!(bench.admitted().is_empty());
}

#[test]
fn a_failure_or_a_kill_of_one_ends_the_others_unless_they_are_to_be_kept() {
    for policy in [GroupPolicy::KillGroup, GroupPolicy::Keep] {
        for kill in [false, true] {
            let mut bench = Bench::new();
            bench.launch_group(members(&["one", "two"], policy));
            for id in ["one", "two"] {
                bench.ready(id);
            }
            bench.held("one");
            bench.started("one");
            bench.started("two");
            if kill {
                bench.kill("one", None);
            } else {
                bench.exited("one", ContainerExit::Code(3));
            }
            let two = bench.latest("two").0;
            if policy == GroupPolicy::Keep {
                assert_eq!(two, TaskState::Running);
                continue;
            }
            assert_eq!(two, TaskState::Killing);
            bench.exited("two", ContainerExit::Signal(15));
            let words = if kill {
                "is being killed"
            } else {
                "ended: exited with code 3"
            };
            bench.is_killed_for("two", words);
            if kill {
                bench.exited("one", ContainerExit::Signal(15));
                assert_eq!(bench.latest("one").1, Some(Reason::KillRequested));
            }
            assert_eq!(bench.lets_go(), 1);
        }
    }
}

#[test]
fn the_loss_of_what_is_shared_is_the_end_of_all() {
    let mut bench = Bench::new();
    bench.launch_group(members(&["one", "two"], GroupPolicy::Keep));
    bench.ready("one");
    bench.ready("two");
    let holder = bench.holder("one");
    let outcome = Outcome::new(
        TaskState::Failed,
        Reason::ContainerLaunchFailed,
        "no address",
    );
    bench.event(Event::Held(holder, Err(outcome)));
    bench.cancelled("one");
    bench.cancelled("two");
    bench.is_killed_for("two", "could not be made: no address");
    assert_eq!(bench.lets_go(), 1);
}

#[test]
fn a_group_has_one_network_with_the_ports_of_all() {
    let mut bench = Bench::new();
    let mut infos = members(&["one", "two"], GroupPolicy::KillGroup);
    for (port, info) in (80..).zip(&mut infos) {
        info.container.network = NetworkMode::Bridge;
        info.container.port_mappings = vec![PortMapping {
            container_port: port,
            host_port: None,
            protocol: PortProtocol::Tcp,
            name: String::new(),
        }];
    }
    bench.launch_group(infos);
    bench.ready("one");
    bench.ready("two");
    let holding = bench.effects.iter().find_map(|effect| {
        if let Effect::Hold(holding) = effect {
            Some(holding)
        } else {
            None
        }
    });
    let request = holding.unwrap().request.clone().unwrap();
    let ports: Vec<_> = request
        .ports
        .iter()
        .map(|port| port.container_port)
        .collect();
    assert_eq!(ports, [80, 81]);
}

#[test]
fn a_groups_volumes_count_to_what_its_tasks_hold_of_the_disk() {
    use crate::task::disk::{Counted, DiskUse};
    let takes = |bench: &mut Bench, id: &ContainerId, mb: u64| {
        let used = DiskUse {
            bytes: mb << 20,
            counted: Counted::All,
            volumes: Vec::new(),
            beside: 0,
        };
        bench.event(Event::Disk(vec![(id.clone(), used)]));
    };
    let begin = |disks: [&str; 2], started: &[&str]| {
        let mut bench = Bench::with_total("cpus:1;mem:1024;disk:100");
        let mut infos = members(&["one", "two"], GroupPolicy::Keep);
        for (info, disk) in infos.iter_mut().zip(disks) {
            if let Some(group) = &mut info.group {
                group.volumes = vec![SharedVolume {
                    name: "cache".to_owned(),
                    tmpfs_bytes: None,
                }];
            }
            info.container.volumes = vec![Volume {
                container_path: "/var/cache".to_owned(),
                read_only: false,
                source: VolumeSource::Group("cache".to_owned()),
            }];
            info.resources = format!("cpus:0.1;mem:32{disk}").parse().unwrap();
        }
        bench.launch_group(infos);
        for id in ["one", "two"] {
            bench.ready(id);
        }
        bench.held("one");
        for id in started {
            bench.started(id);
        }
        bench
    };
    let mut bench = begin([";disk:10", ";disk:20"], &["one", "two"]);
    let (holder, one) = (bench.holder("one"), bench.container("one"));
    takes(&mut bench, &one, 9);
    takes(&mut bench, &holder, 21);
    assert_eq!(bench.latest("one").0, TaskState::Running);
    takes(&mut bench, &holder, 22);
    for id in ["one", "two"] {
        let (state, reason, message) = bench.latest(id);
        let killed = (TaskState::Killing, Some(Reason::ContainerLimitationDisk));
        assert_eq!((state, reason), killed, "{id}: {message}");
        let why = "its group takes 31.0 MiB of the disk, the limit of its tasks together is 30.0 MiB: \
            volume cache (at /var/cache) 22.0 MiB, task one 9.0 MiB, task two 0.0 MiB";
        assert!(message.contains(why), "{message}");
    }
    // One that was just starting ends for the same reason.
    let mut bench = begin([";disk:10", ";disk:20"], &["one"]);
    let holder = bench.holder("one");
    takes(&mut bench, &holder, 31);
    bench.cancelled("two");
    let (state, reason, message) = bench.latest("two");
    let failed = (TaskState::Failed, Some(Reason::ContainerLimitationDisk));
    assert_eq!((state, reason), failed, "{message}");
    // Logs that are beside a quota do not count here either.
    let mut bench = begin([";disk:10", ";disk:20"], &["one", "two"]);
    let (holder, one) = (bench.holder("one"), bench.container("one"));
    let used = DiskUse {
        bytes: 9 << 20,
        counted: Counted::All,
        volumes: Vec::new(),
        beside: 1 << 20,
    };
    bench.event(Event::Disk(vec![(one, used)]));
    takes(&mut bench, &holder, 22);
    assert_eq!(bench.latest("one").0, TaskState::Running);
    // One without a bound leaves all without.
    let mut bench = begin([";disk:10", ""], &["one", "two"]);
    let holder = bench.holder("one");
    takes(&mut bench, &holder, 5000);
    assert_eq!(bench.latest("one").0, TaskState::Running);
}

proptest! {
    /// Whatever happens in whatever order: nobody is admitted before all are ready and the group is held; and once all
    /// have ended, what they shared is taken back exactly once and nothing is booked.
    #[test]
    fn any_course_of_events_ends_with_nothing_held(
        course in prop::collection::vec((0_usize..3, 0_u8..6), 0..40),
        keep in any::<bool>(),
    ) {
        let ids = ["init", "one", "two"];
        let mut bench = Bench::new();
        let policy = if keep { GroupPolicy::Keep } else { GroupPolicy::KillGroup };
        bench.launch_group(members(&ids, policy));
        for (index, what) in course {
            let id = ids[index];
            match what {
                0 => bench.ready(id),
                1 if bench.holds() == 1 && bench.lets_go() == 0 => bench.held(id),
                2 if bench.admitted().iter().any(|admitted| admitted == id) => bench.started(id),
                3 => bench.exited(id, ContainerExit::Code(0)),
                4 => bench.exited(id, ContainerExit::Code(1)),
                5 => bench.kill(id, None),
                _ => bench.advance(10),
            }
            prop_assert!(bench.holds() == 1 || bench.admitted().is_empty());
        }
        for id in ids {
            bench.kill(id, None);
        }
        for id in ids {
            let container = bench.container(id);
            bench.event(Event::LaunchFailed(container, LaunchFailure::Cancelled));
            bench.exited(id, ContainerExit::Signal(9));
        }
        if bench.holds() == 1 && bench.lets_go() == 0 {
            bench.held("one");
        }
        prop_assert_eq!(bench.lets_go(), 1);
        prop_assert_eq!(bench.core.ledger().free(), "cpus:1;mem:1024;ports:[31000-31009]".parse().unwrap());
    }
}
