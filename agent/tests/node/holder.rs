//! `kill -9` of what holds the namespaces of a task group, and of its keeper: the group ends whole, in words that say why,
//! with an agent there or not.

use std::fs;

use mezzo_api::proto::{
    self, GroupPolicy, Reason,
    TaskState::{TaskFailed, TaskFinished, TaskKilled, TaskRunning},
    exit_info::How,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    bench::{Bench, alive, eventually, processes_of},
    groups::{launch, launch_by, left_of_groups, member},
    lend::pid,
};

const LOST: &str = "what its group shares was lost";

fn kill_9(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// The process that holds what the group of this member shares.
fn holder_of(member: &proto::ContainerStatus) -> u32 {
    let (group, _) = member.cgroup_path.rsplit_once('/').unwrap();
    let below = format!("{}/.holder/cgroup.procs", group.trim_start_matches('/'));
    let found = ["", "pids"].iter().find_map(|hierarchy| {
        let hierarchy = std::path::Path::new("/sys/fs/cgroup").join(hierarchy);
        let processes = fs::read_to_string(hierarchy.join(&below)).ok()?;
        processes.trim().parse().ok()
    });
    found.expect("one process holds the group")
}

/// Who supervises a container: its first process is that one's child.
fn keeper_of(first: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.unwrap().trim().parse().unwrap()
}

async fn running(bench: &Bench, task: &str) -> proto::ContainerStatus {
    let status = bench.master.status(task, TaskRunning).await;
    status.container.unwrap()
}

/// It ran once, and ended because what the group shares is gone.
async fn ended_with_its_group(bench: &Bench, task: &str) -> proto::TaskStatus {
    let end = bench.master.end(task).await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskKilled, Reason::TaskGroupMemberEnded),
        "{task}: {}",
        end.message
    );
    assert!(end.message.contains(LOST), "{task}: {}", end.message);
    end
}

/// Nothing is left of any group, and all that was booked is free.
async fn nothing_is_left(bench: &Bench) {
    let parent = bench.config.cgroup_parent.clone().unwrap();
    eventually("no process left", || processes_of(&parent).is_empty()).await;
    eventually("all that was shared gone", || {
        left_of_groups(bench).is_empty()
    })
    .await;
    let request = proto::GetNodeRequest {};
    let node = bench.client().await.get_node(request).await.unwrap();
    let node = node.into_inner();
    assert_eq!(node.available, node.info.unwrap().resources);
}

pub(crate) async fn a_group_whose_holder_is_killed_ends_whole_under_either_policy(
    bench: &mut Bench,
) {
    bench.start(1).await;
    for (policy, name) in [(GroupPolicy::KillGroup, "all"), (GroupPolicy::Keep, "keep")] {
        let id = |part: &str| format!("{name}-{part}");
        let (init, plain, stubborn) = (id("init"), id("plain"), id("stubborn"));
        let tasks = vec![
            member(&plain, &["sleep"]),
            proto::TaskInfo {
                kill_grace_ms: Some(500),
                ..member(&stubborn, &["stubborn"])
            },
        ];
        let first = vec![member(&init, &["put", "/memory/x"])];
        launch_by(bench, policy, &id("pod"), first, tasks).await;
        bench.master.status(&init, TaskFinished).await;
        let (one, two) = (
            running(bench, &plain).await,
            running(bench, &stubborn).await,
        );
        kill_9(holder_of(&one));
        for task in [&plain, &stubborn] {
            let end = ended_with_its_group(bench, task).await;
            let how = end.exit.and_then(|exit| exit.how);
            assert_eq!(how, Some(How::Signal(9)), "{}", end.message);
        }
        assert!(!alive(one.pid) && !alive(two.pid));
        nothing_is_left(bench).await;
    }

    // While an init task runs: what was to come after it never does.
    let first = vec![member("init", &["sleep"])];
    launch(bench, "pod", first, vec![member("after", &["sleep"])]).await;
    let init = running(bench, "init").await;
    kill_9(holder_of(&init));
    ended_with_its_group(bench, "init").await;
    let after = ended_with_its_group(bench, "after").await;
    assert!(after.container.is_none(), "it never ran");
    nothing_is_left(bench).await;

    // And the next group is one as any other.
    launch(bench, "pod-next", vec![], vec![member("next", &["sleep"])]).await;
    let next = running(bench, "next").await;
    // Its holder goes with its keeper.
    kill_9(keeper_of(holder_of(&next)));
    ended_with_its_group(bench, "next").await;
    nothing_is_left(bench).await;
}

pub(crate) async fn what_was_killed_of_a_group_while_no_agent_was_there_is_told_by_the_next(
    bench: &mut Bench,
) {
    bench.start(1).await;
    let mut pods = Vec::new();
    for name in ["holder", "keeper", "all", "whole"] {
        let ids = ["one", "two"].map(|part| format!("{name}-{part}"));
        let tasks = ids.iter().map(|id| member(id, &["sleep"])).collect();
        let pod = format!("pod-{name}");
        launch_by(bench, GroupPolicy::Keep, &pod, vec![], tasks).await;
        let one = running(bench, &ids[0]).await;
        let two = running(bench, &ids[1]).await;
        let holder = holder_of(&one);
        pods.push((ids, [one, two], holder));
    }
    let [holder, keeper, all, whole] = &pods[..] else {
        unreachable!()
    };
    let keeper_of_one = keeper_of(keeper.2);
    bench.kill_agent().await;
    kill_9(holder.2);
    kill_9(keeper_of_one);
    kill_9(all.2);
    for container in &all.1 {
        kill(pid(container), Signal::SIGKILL).unwrap();
    }
    let gone = [holder.2, keeper.2, all.2, all.1[0].pid, all.1[1].pid];
    eventually("killed", || !gone.into_iter().any(alive)).await;
    for pod in [holder, keeper, whole] {
        let there = pod.1.iter().all(|container| alive(container.pid));
        assert!(there, "{:?}: nobody is there to end them", pod.0);
    }

    bench.start(2).await;
    for (ids, containers, _) in [holder, keeper] {
        for (id, container) in ids.iter().zip(containers) {
            ended_with_its_group(bench, id).await;
            assert!(!alive(container.pid), "{id}");
        }
    }
    // What each of these died of is its own.
    for id in &all.0 {
        let end = bench.master.end(id).await;
        let how = end.exit.and_then(|exit| exit.how);
        assert_eq!((end.state(), how), (TaskFailed, Some(How::Signal(9))));
    }
    // The neighbour has not noticed.
    let told = |id: &String| {
        let statuses = bench.master.statuses();
        statuses.into_iter().rfind(|status| status.task_id == *id)
    };
    for (id, container) in whole.0.iter().zip(&whole.1) {
        assert_eq!(told(id).unwrap().state(), TaskRunning, "{id}");
        assert!(alive(container.pid), "{id}");
    }
    assert!(alive(whole.2));
    bench.kill_task(&whole.0[0], Some(0)).await;
    bench.kill_task(&whole.0[1], Some(0)).await;
    for id in &whole.0 {
        assert_eq!(bench.master.end(id).await.reason(), Reason::KillRequested);
    }
    nothing_is_left(bench).await;
}
