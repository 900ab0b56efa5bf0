//! Task groups on real containers: what members share, whose end is whose, and a killed agent in between.

use std::{fs, time::Duration};

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskFailed, TaskFinished, TaskKilled, TaskRunning},
    master_message::{LaunchGroup, Message as FromMaster},
};

use crate::{
    bench::{Bench, FRAMEWORK, alive, eventually, processes_of, task},
    disk::{has_quotas, with_disk},
    lend::cgroup_file_of,
};

fn volume(name: &str, path: &str) -> proto::Volume {
    proto::Volume {
        container_path: path.into(),
        read_only: false,
        source: Some(proto::volume::Source::GroupVolume(name.into())),
    }
}

/// In a network of the group's own, with its volumes.
pub(crate) fn member(id: &str, args: &[&str]) -> proto::TaskInfo {
    let mut task = task(id, args);
    let container = task.container.as_mut().unwrap();
    container.network = proto::NetworkMode::None.into();
    container.volumes = vec![volume("disk", "/disk"), volume("memory", "/memory")];
    task
}

pub(crate) async fn launch(
    bench: &Bench,
    group: &str,
    init: Vec<proto::TaskInfo>,
    tasks: Vec<proto::TaskInfo>,
) {
    launch_by(bench, proto::GroupPolicy::KillGroup, group, init, tasks).await;
}

/// The same under that policy.
pub(crate) async fn launch_by(
    bench: &Bench,
    policy: proto::GroupPolicy,
    group: &str,
    init: Vec<proto::TaskInfo>,
    tasks: Vec<proto::TaskInfo>,
) {
    let whole = proto::operation::LaunchGroup {
        group_id: group.into(),
        init_tasks: init,
        tasks,
        policy: policy.into(),
        volumes: vec![
            proto::SharedVolume {
                name: "disk".into(),
                tmpfs_bytes: None,
            },
            proto::SharedVolume {
                name: "memory".into(),
                tmpfs_bytes: Some(1 << 20),
            },
        ],
    };
    // As the master does it.
    let tasks = mezzo_api::convert::group_members(whole).unwrap();
    let launch = LaunchGroup {
        framework_id: FRAMEWORK.into(),
        role: "*".into(),
        tasks: tasks.into_iter().map(Into::into).collect(),
    };
    bench.master.send(FromMaster::LaunchGroup(launch)).await;
}

/// Folders and holders of groups, by what the agent and its runtime have on disk, and cgroups.
pub(crate) fn left_of_groups(bench: &Bench) -> Vec<String> {
    let names = |dir: std::path::PathBuf| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path().display().to_string())
            .filter(|path| path.contains("/pod"))
            .collect()
    };
    let state = &bench.config.state_dir;
    let parent = bench.config.cgroup_parent.clone().unwrap_or_default();
    let mut left = names(state.join("groups"));
    left.extend(names(state.join("runtime/containers")));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let containers = hierarchy.path().join(parent.trim_start_matches('/'));
        left.extend(names(containers.join("containers")));
    }
    left
}

/// The only group in the stats.
async fn told_group(bench: &Bench) -> proto::GroupStats {
    let mut client = bench.client().await;
    let waiting = async {
        loop {
            let request = proto::GetStatsRequest::default();
            let round = client.get_stats(request).await.unwrap().into_inner();
            let own = |task: &proto::TaskStats| {
                let usage = task.usage.as_ref();
                usage.and_then(|usage| usage.network_rx_bytes)
            };
            assert!(round.tasks.iter().all(|task| own(task).is_none()));
            let mut groups = round.groups.into_iter();
            if let Some(group) = groups.find(|group| group.task_ids.len() == 2) {
                return group;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waiting)
        .await
        .expect("the group is told")
}

/// Where the file system does not refuse it (guests with project quotas: `guest.rs`).
pub(crate) async fn a_group_that_fills_its_volume_is_told_so(bench: &mut Bench) {
    if has_quotas(bench) {
        println!("skipped: a_group_that_fills_its_volume_is_told_so: a quota refuses it here");
        return;
    }
    bench.config.disk_interval_ms = 100;
    bench.start(1).await;
    let tasks = vec![
        with_disk(member("fills", &["fill", "12", "/disk/file"]), 6),
        with_disk(member("other", &["sleep"]), 4),
    ];
    launch(bench, "pod", vec![], tasks).await;
    for id in ["fills", "other"] {
        let end = bench.master.end(id).await;
        let told = (end.state(), end.reason());
        let wanted = (TaskFailed, Reason::ContainerLimitationDisk);
        assert_eq!(told, wanted, "{}", end.message);
        // In bytes if it is seen when it is just above.
        let told = ["10.0 MiB", "10485760 bytes"].iter().any(|limit| {
            let all =
                format!("the limit of its tasks together is {limit}: volume disk (at /disk) ");
            end.message.contains(&all)
        });
        assert!(
            told && end.message.contains(", task fills 0."),
            "{}",
            end.message
        );
    }
    eventually("nothing of the group is left", || {
        left_of_groups(bench).is_empty()
    })
    .await;
}

pub(crate) async fn members_of_a_group_share_and_end_together(bench: &mut Bench) {
    bench.start(1).await;
    let init = vec![
        member("first", &["put", "/disk/x"]),
        member("second", &["put", "/memory/y"]),
    ];
    let check = proto::HealthCheck {
        kind: proto::CheckKind::Tcp.into(),
        port: 8080,
        interval_ms: 200,
        timeout_ms: 5_000,
        ..proto::HealthCheck::default()
    };
    let tasks = vec![
        member("one", &["serve", "8080", "/disk/x", "/memory/y"]),
        proto::TaskInfo {
            health_checks: vec![check],
            ..member("two", &["sleep"])
        },
    ];
    launch(bench, "pod", init, tasks).await;
    let one = bench
        .master
        .status("one", TaskRunning)
        .await
        .container
        .unwrap();
    let two = bench
        .master
        .status("two", TaskRunning)
        .await
        .container
        .unwrap();
    for id in ["first", "second"] {
        bench.master.status(id, TaskFinished).await;
    }
    // What the init tasks wrote is there for the others, in files and in memory.
    let log = bench
        .config
        .state_dir
        .join("runtime/containers")
        .join(&one.container_id);
    eventually("written", || {
        let text = fs::read_to_string(log.join("stdout")).unwrap_or_default();
        text.contains("== /disk/x\nput /disk/x\n") && text.contains("== /memory/y\nput /memory/y\n")
    })
    .await;
    // The check of `two` connects to its own loopback address, where `one` listens.
    eventually("healthy", || {
        let statuses = bench.master.statuses();
        statuses
            .iter()
            .any(|status| status.task_id == "two" && status.healthy == Some(true))
    })
    .await;
    assert!(
        one.cgroup_path.contains("/containers/pod-"),
        "{}",
        one.cgroup_path
    );

    // Their network is told once, as the group's.
    let group = told_group(bench).await;
    assert_eq!(
        (group.group_id.as_str(), &group.task_ids[..]),
        ("pod", &["one".to_owned(), "two".to_owned()][..])
    );
    let network = group.usage.unwrap();
    assert_eq!(
        (network.network_rx_bytes, network.cpu_total_us),
        (Some(0), None)
    );
    // A member's limits change, and what all may use together with them.
    let memory = |cgroup: &str| {
        let read = |name| cgroup_file_of(cgroup, name)?.parse::<u64>().ok();
        read("memory.max").or_else(|| read("memory.limit_in_bytes"))
    };
    let group = one.cgroup_path.rsplit_once('/').unwrap().0;
    let mut client = bench.client().await;
    let mut change = async |memory_limit_mb| {
        let wanted = proto::UpdateTaskRequest {
            task_id: "one".into(),
            memory_limit_mb: Some(memory_limit_mb),
            ..proto::UpdateTaskRequest::default()
        };
        client.update_task(wanted).await.unwrap()
    };
    let before = memory(group).unwrap();
    change(96).await;
    assert_eq!(memory(&one.cgroup_path), Some(96 << 20));
    assert_eq!(memory(group), Some(before + (64 << 20)));

    bench.kill_agent().await;
    assert!(alive(one.pid) && alive(two.pid));
    bench.start(2).await;
    assert!(alive(one.pid) && alive(two.pid));
    let mut client = bench.client().await;
    let wanted = proto::UpdateTaskRequest {
        task_id: "one".into(),
        memory_limit_mb: Some(64),
        ..proto::UpdateTaskRequest::default()
    };
    client.update_task(wanted).await.unwrap();
    assert_eq!(memory(&one.cgroup_path), Some(64 << 20));
    // The sum follows, after the answer.
    eventually("narrowed", || memory(group) == Some(before + (32 << 20))).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(one.pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let failed = bench.master.end("one").await;
    assert_eq!(failed.state(), TaskFailed);
    let killed = bench.master.end("two").await;
    assert_eq!(
        (killed.state(), killed.reason()),
        (TaskKilled, Reason::TaskGroupMemberEnded),
        "{}",
        killed.message
    );
    assert!(
        killed.message.contains("task one of its group ended"),
        "{}",
        killed.message
    );
    assert!(!alive(two.pid));
    eventually("all that was shared gone", || {
        left_of_groups(bench).is_empty()
    })
    .await;
}

pub(crate) async fn a_group_with_a_member_that_cannot_start_runs_not_at_all(bench: &mut Bench) {
    bench.start(1).await;
    // Its image has no program: known before any member starts.
    let mut empty = member("bad", &[]);
    empty.container.as_mut().unwrap().image = "nowhere.invalid/none:1".into();
    launch(
        bench,
        "pod-a",
        vec![],
        vec![member("good", &["sleep"]), empty],
    )
    .await;
    let bad = bench.master.end("bad").await;
    assert_eq!(bad.reason(), Reason::ImagePullFailed, "{}", bad.message);
    let good = bench.master.end("good").await;
    assert_eq!(good.reason(), Reason::TaskGroupMemberEnded);
    assert!(
        good.message
            .contains("task bad of its group was not started"),
        "{}",
        good.message
    );
    assert!(good.container.is_none(), "it never ran");

    // An init task that fails is the end of the others, and a program that is missing is too.
    launch(
        bench,
        "pod-b",
        vec![member("init", &["exit", "3"])],
        vec![member("after", &["sleep"])],
    )
    .await;
    let after = bench.master.end("after").await;
    assert!(
        after.message.contains("init task init of its group ended"),
        "{}",
        after.message
    );
    let mut missing = member("missing", &[]);
    missing.container.as_mut().unwrap().command = vec!["/missing".into()];
    launch(
        bench,
        "pod-c",
        vec![],
        vec![member("before", &["sleep"]), missing],
    )
    .await;
    let before = bench.master.end("before").await;
    assert_eq!(
        before.reason(),
        Reason::TaskGroupMemberEnded,
        "{}",
        before.message
    );
    bench.kill_task("before", None).await;
    eventually("all that was shared gone", || {
        left_of_groups(bench).is_empty()
    })
    .await;
    assert!(processes_of(&bench.config.cgroup_parent.clone().unwrap()).is_empty());
}

pub(crate) async fn a_killed_agent_leaves_groups_whole_or_ends_them(bench: &mut Bench) {
    bench.start(1).await;
    for round in 0..5_u64 {
        let name = |part: &str| format!("{part}-{round}");
        let (init, one, two) = (name("init"), name("one"), name("two"));
        launch(
            bench,
            &name("pod"),
            vec![member(&init, &["exit", "0"])],
            vec![member(&one, &["sleep"]), member(&two, &["sleep"])],
        )
        .await;
        // Not synchronisation: the point is to hit the launch at a different moment in every round.
        tokio::time::sleep(Duration::from_millis(round * 30)).await;
        bench.kill_agent().await;
        bench.start(usize::try_from(round).unwrap() + 2).await;
        let mut client = bench.client().await;
        let mut settled = None;
        for _ in 0..2_000 {
            let node = client
                .get_node(proto::GetNodeRequest {})
                .await
                .unwrap()
                .into_inner();
            let states: Vec<_> = node
                .tasks
                .iter()
                .filter_map(|task| task.status.as_ref())
                .filter(|status| [&one, &two].contains(&&status.task_id))
                .map(proto::TaskStatus::state)
                .collect();
            let running = states.iter().filter(|state| **state == TaskRunning).count();
            let coming = states.iter().any(|state| {
                matches!(
                    state,
                    proto::TaskState::TaskStaging
                        | proto::TaskState::TaskStarting
                        | proto::TaskState::TaskKilling
                )
            });
            if !coming && (running == 2 || running == 0) {
                settled = Some(running == 2);
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let run = settled.unwrap_or_else(|| panic!("round {round}: both run or none does"));
        bench.kill_task(&one, Some(0)).await;
        if run {
            // An agent that is killed before it has heard of it knows nothing of the kill.
            for id in [&one, &two] {
                bench.master.end(id).await;
            }
        }
    }
    let parent = bench.config.cgroup_parent.clone().unwrap();
    eventually("no process left", || processes_of(&parent).is_empty()).await;
    eventually("all that was shared gone", || {
        left_of_groups(bench).is_empty()
    })
    .await;
}
