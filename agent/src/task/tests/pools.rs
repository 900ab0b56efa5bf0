//! Reservations and volumes: written before they are told, kept from what tasks use.

use mezzo_api::model::{
    GroupPolicy, OperationState, OperationStatus, PersistentVolume, PoolChange, PoolOperation,
    Reservation, Stack, TaskGroup, Volume, VolumeKey, VolumeSource,
};

use super::*;
use crate::task::disk::{Counted, DiskUse, VolumeUse};

fn eng() -> Stack {
    Stack::single(Reservation::dynamic("eng".parse().unwrap(), "ops")).unwrap()
}

fn data() -> PersistentVolume {
    PersistentVolume {
        id: "data".parse().unwrap(),
        stack: eng(),
        size_mb: 10,
        principal: String::new(),
        shared: false,
    }
}

fn volume_key() -> VolumeKey {
    data().key()
}

fn with_data(id: &str, read_only: bool) -> TaskInfo {
    let mut info = a_task(id);
    info.container.volumes = vec![Volume {
        container_path: "/data".to_owned(),
        read_only,
        source: VolumeSource::Persistent(data().id),
    }];
    info.persistent = vec![data()];
    info
}

impl Bench {
    fn operate(&mut self, id: &str, change: PoolChange) -> OperationStatus {
        self.effects.clear();
        self.event(Event::Operate(Box::new(PoolOperation {
            id: id.parse().unwrap(),
            framework: Some("f".parse().unwrap()),
            keep: true,
            change,
        })));
        let told = self.effects.iter().find_map(|effect| {
            if let Effect::SendPools(status) = effect {
                Some((**status).clone())
            } else {
                None
            }
        });
        told.expect("every operation is answered")
    }

    fn with_volume() -> Self {
        let mut bench = Self::with_total("cpus:4;mem:1024;disk:100;ports:[31000-31009]");
        let reserve = PoolChange::Reserve {
            from: None,
            with: eng().top().clone(),
            resources: "disk:50".parse().unwrap(),
        };
        assert_eq!(bench.operate("o1", reserve).state, OperationState::Finished);
        let create = PoolChange::Create(data());
        assert_eq!(bench.operate("o2", create).state, OperationState::Finished);
        bench
    }
}

#[test]
fn a_change_is_written_before_it_is_told_and_told_again_until_acknowledged() {
    let mut bench = Bench::with_volume();
    let place = |wanted: fn(&Effect) -> bool| bench.effects.iter().position(wanted).unwrap();
    let written = place(|effect| matches!(effect, Effect::WriteBook { make: Some(_), .. }));
    assert!(written < place(|effect| matches!(effect, Effect::SendPools(_))));
    // The same again, as after a lost answer: the same word, and nothing is done twice.
    let again = bench.operate("o2", PoolChange::Create(data()));
    assert_eq!(again.state, OperationState::Finished);
    assert!(
        !bench
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::WriteBook { .. }))
    );
    assert_eq!(bench.core.book().saved().operations.len(), 2);
    bench.event(Event::AcknowledgeOperation {
        framework: Some("f".parse().unwrap()),
        operation: "o2".parse().unwrap(),
    });
    assert_eq!(bench.core.book().saved().operations.len(), 1);
    bench.event(Event::ShutdownFramework("f".parse().unwrap()));
    assert!(bench.core.book().saved().operations.is_empty());
    assert!(
        bench.core.book().pools().volume(&volume_key()).is_some(),
        "it outlives its framework"
    );
}

#[test]
fn a_change_that_cannot_be_written_changes_nothing() {
    let mut bench = Bench::with_volume();
    bench.disk_works = false;
    let told = bench.operate("o3", PoolChange::Destroy(volume_key()));
    assert_eq!(told.state, OperationState::Failed);
    assert!(told.message.contains("disk full"), "{}", told.message);
    assert!(bench.core.book().pools().volume(&volume_key()).is_some());
    bench.disk_works = true;
    let told = bench.operate("o3", PoolChange::Destroy(volume_key()));
    assert_eq!(told.state, OperationState::Finished);
    let purged = |effect: &Effect| matches!(effect, Effect::Purge(_));
    assert!(
        bench.effects.iter().any(purged),
        "its content goes after that"
    );
}

#[test]
fn a_volume_is_written_by_one_task_alone_and_not_destroyed_under_it() {
    let mut bench = Bench::with_volume();
    bench.launch_task(with_data("writer", false));
    let launched = bench
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Launch { volumes, .. } if volumes.len() == 1));
    assert!(launched);
    for (id, read_only) in [("second", false), ("reader", true)] {
        bench.launch_task(with_data(id, read_only));
        let entry = bench.core.find(id).unwrap();
        assert_eq!(entry.latest.state, TaskState::Error, "{id}");
    }
    let told = bench.operate("o3", PoolChange::Destroy(volume_key()));
    assert_eq!(told.state, OperationState::Failed);
    assert!(told.message.contains("task writer"), "{}", told.message);
    let told = bench.operate(
        "o4",
        PoolChange::Unreserve {
            stack: eng(),
            resources: "disk:50".parse().unwrap(),
        },
    );
    assert_eq!(
        told.state,
        OperationState::Failed,
        "10 of it are the volume's"
    );
}

#[test]
fn readers_share_a_volume_and_keep_writers_away() {
    let mut bench = Bench::with_volume();
    bench.launch_task(with_data("r1", true));
    bench.launch_task(with_data("r2", true));
    bench.launch_task(with_data("w", false));
    let state = |id: &str| bench.core.find(id).unwrap().latest.state;
    assert!(!state("r1").is_terminal() && !state("r2").is_terminal());
    assert_eq!(state("w"), TaskState::Error);
    let told = bench.operate("o3", PoolChange::Destroy(volume_key()));
    assert!(told.message.contains("r1, r2"), "{}", told.message);
}

#[test]
fn a_shared_volume_is_had_by_many_at_once_and_ends_only_without_them() {
    let corpus = || PersistentVolume {
        id: "corpus".parse().unwrap(),
        shared: true,
        ..data()
    };
    let on_it = |id: &str, read_only: bool| {
        let mut info = with_data(id, read_only);
        info.container.volumes[0].source = VolumeSource::Persistent(corpus().id);
        info.persistent = vec![corpus()];
        info
    };
    let mut bench = Bench::with_volume();
    let told = bench.operate("o3", PoolChange::Create(corpus()));
    assert_eq!(told.state, OperationState::Finished);
    for (id, read_only) in [("w1", false), ("r", true), ("w2", false)] {
        bench.launch_task(on_it(id, read_only));
        let entry = bench.core.find(id).unwrap();
        assert!(
            !entry.latest.state.is_terminal(),
            "{id}: {:?}",
            entry.latest
        );
        // What else is reserved there is as free as it was.
        let more = format!("o-{id}");
        let unreserve = PoolChange::Unreserve {
            stack: eng(),
            resources: "disk:1".parse().unwrap(),
        };
        assert_eq!(
            bench.operate(&more, unreserve).state,
            OperationState::Finished
        );
    }
    for (n, left) in ["w1", "r", "w2"].into_iter().enumerate() {
        let told = bench.operate(&format!("d{n}"), PoolChange::Destroy(corpus().key()));
        assert_eq!(told.state, OperationState::Failed);
        assert!(told.message.contains(left), "{}", told.message);
        bench.started(left);
        bench.exited(left, ContainerExit::Code(0));
    }
    let told = bench.operate("d", PoolChange::Destroy(corpus().key()));
    assert_eq!(told.state, OperationState::Finished);
    // A launch that was on its way is told that it came too late.
    bench.launch_task(on_it("late", false));
    let entry = bench.core.find("late").unwrap();
    assert_eq!(entry.latest.state, TaskState::Error);
    assert!(
        entry.latest.message.contains("no such volume"),
        "{:?}",
        entry.latest
    );
}

#[test]
fn a_task_that_writes_more_than_the_size_of_its_volume_is_killed() {
    let mut bench = Bench::with_volume();
    bench.launch_task(with_data("writer", false));
    bench.started("writer");
    let size = data().size_mb << 20;
    let container = bench.container("writer");
    let mut holds = |bytes| {
        let used = DiskUse {
            bytes: 0,
            counted: Counted::All,
            beside: 0,
            volumes: vec![VolumeUse {
                id: data().id,
                bytes,
                counted: Counted::All,
            }],
        };
        bench.event(Event::Disk(vec![(container.clone(), used)]));
        bench.core.find("writer").unwrap().latest.clone()
    };
    assert_eq!(holds(size).state, TaskState::Running);
    let killing = holds(size + (1 << 20));
    assert_eq!(killing.reason, Some(Reason::ContainerLimitationDisk));
    assert!(
        killing.message.contains("its persistent volume data"),
        "{}",
        killing.message
    );
}

#[test]
fn members_of_a_group_write_to_one_volume_and_whoever_is_left_of_them_keeps_others_away() {
    let mut bench = Bench::with_volume();
    let members: Vec<TaskInfo> = (0..2)
        .map(|position| {
            let mut info = with_data(&format!("m{position}"), false);
            info.group = Some(Box::new(TaskGroup {
                id: "pod".parse().unwrap(),
                n_members: 2,
                position,
                init: false,
                policy: GroupPolicy::KillGroup,
                volumes: vec![],
                // The first holds it.
                shares: (position > 0).then(|| data().id).into_iter().collect(),
            }));
            info
        })
        .collect();
    bench.launch_group(members);
    let state = |bench: &Bench, id: &str| bench.core.find(id).unwrap().latest.state;
    for id in ["m0", "m1"] {
        assert!(!state(&bench, id).is_terminal(), "{id}");
        bench.started(id);
    }
    bench.exited("m0", ContainerExit::Code(0));
    assert_eq!(state(&bench, "m0"), TaskState::Finished);
    for (id, read_only) in [("w", false), ("r", true)] {
        bench.launch_task(with_data(id, read_only));
        let latest = &bench.core.find(id).unwrap().latest;
        assert_eq!(latest.state, TaskState::Error, "{id}");
        assert!(latest.message.contains("task m1"), "{}", latest.message);
    }
    let told = bench.operate("o3", PoolChange::Destroy(volume_key()));
    assert!(told.message.contains("task m1"), "{}", told.message);
    bench.exited("m1", ContainerExit::Code(0));
    bench.launch_task(with_data("next", false));
    assert!(!state(&bench, "next").is_terminal());
}
