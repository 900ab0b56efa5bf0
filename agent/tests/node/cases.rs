//! The tests, each on a machine of its own. Names are sentences.

use crate::bench::{Bench, alive, eventually, said, task};
use crate::cut_short::{
    a_change_of_limits_that_is_cut_short_leaves_what_was_before,
    kills_of_the_agent_in_the_middle_of_launches_run_nothing_twice,
    processors_that_change_hands_while_the_agent_is_killed_end_in_one_hand,
};
use crate::disk::{
    a_secret_is_told_to_a_task_and_to_nothing_else,
    what_tasks_take_on_the_disk_is_told_and_too_much_ends_them,
};
use crate::fetch::{
    a_directory_of_the_sandbox_is_mounted_and_no_link_leads_out_of_it,
    a_killed_agent_leaves_no_half_fetched_file,
    what_a_task_fetches_is_in_its_sandbox_before_it_starts,
};
use crate::figures::{
    a_storm_of_launches_and_of_kills_holds_up_nothing, apps_are_counted_to_the_microsecond,
    many_idle_tasks_cost_little, what_tasks_use_is_told_with_rates_and_history,
};
use crate::files::{
    a_follower_misses_nothing_through_rotations_and_the_end,
    a_log_is_put_aside_by_its_age_with_no_agent_there, a_log_is_read_from_a_time_on,
    a_program_is_executed_in_no_directory_of_a_descriptor, a_terminal_has_its_size_and_changes_it,
    files_go_in_and_come_out_and_no_link_leads_out,
};
use crate::groups::{
    a_group_that_fills_its_volume_is_told_so,
    a_group_with_a_member_that_cannot_start_runs_not_at_all,
    a_killed_agent_leaves_groups_whole_or_ends_them, members_of_a_group_share_and_end_together,
};
use crate::guest::{
    a_persistent_volume_has_a_quota_of_its_own_in_a_guest,
    a_project_quota_refuses_and_counts_in_a_guest,
    a_revocable_task_is_squeezed_and_then_killed_in_a_guest,
    swap_io_and_huge_pages_reach_the_kernel_in_a_guest,
    what_a_group_has_together_is_bounded_by_a_quota_in_a_guest,
    who_waits_for_a_processor_is_helped_in_a_guest,
};
use crate::health::{
    health_is_checked_by_command_and_port,
    the_first_of_several_health_checks_that_gives_up_kills_the_task,
    what_checks_find_is_told_and_kills_nothing,
};
use crate::holder::{
    a_group_whose_holder_is_killed_ends_whole_under_either_policy,
    what_was_killed_of_a_group_while_no_agent_was_there_is_told_by_the_next,
};
use crate::inside::{
    a_message_reaches_a_task, a_tasks_terminal_is_typed_on, logs_are_read_and_followed,
    programs_run_beside_a_task,
};
use crate::lend::{pid, what_is_not_used_is_lent_and_taken_back_when_it_is_needed};
use crate::life::{
    a_drain_ends_all_tasks_and_takes_none, a_kill_begins_with_the_signal_of_the_image,
    readiness_is_asked_until_it_passes,
    records_of_another_version_and_too_little_to_offer_are_told_before_anything_is_touched,
    the_agent_can_leave_with_its_tasks,
};
use crate::limits::{
    devices_are_picked_by_id_given_and_told,
    limits_change_while_the_task_runs_and_outlive_the_agent,
    limits_reach_the_container_or_are_refused_by_name,
    swap_io_and_huge_pages_reach_the_kernel_or_are_refused_by_name,
    whole_processors_are_one_tasks_alone_also_for_the_next_agent,
};
use crate::mounts::{
    a_memory_file_system_of_a_task_has_its_size,
    a_path_of_the_machine_is_mounted_where_the_operator_allows_it,
};
use crate::sessions::sessions_leave_nothing_in_the_agent_however_they_end;
use crate::volumes::a_volume_outlives_its_task_and_the_agent;
use crate::walls::{
    a_read_only_root_takes_no_write_and_the_sandbox_does,
    a_task_has_the_capabilities_that_it_asks_for_and_may_have,
    a_task_is_held_by_the_profile_that_it_names,
};
use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskError, TaskFailed, TaskFinished, TaskKilled, TaskKilling, TaskRunning},
};
use nix::sys::signal::{Signal, kill};
use std::{fs, future::Future, net::TcpListener, pin::Pin};

pub(crate) type Run = for<'a> fn(&'a mut Bench) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// In a process, a network and a mount namespace of its own.
    pub(crate) isolated: bool,
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn all() -> Vec<Case> {
            vec![$(Case { name: stringify!($name), run: |bench| Box::pin($name(bench)), isolated: false }),*]
        }
    };
}

cases![
    swap_io_and_huge_pages_reach_the_kernel_in_a_guest,
    a_persistent_volume_has_a_quota_of_its_own_in_a_guest,
    what_a_group_has_together_is_bounded_by_a_quota_in_a_guest,
    a_project_quota_refuses_and_counts_in_a_guest,
    a_revocable_task_is_squeezed_and_then_killed_in_a_guest,
    who_waits_for_a_processor_is_helped_in_a_guest,
    what_is_not_used_is_lent_and_taken_back_when_it_is_needed,
    a_task_runs_is_measured_and_ends,
    tasks_outlive_the_agent_and_no_end_is_lost,
    a_task_over_its_memory_limit_is_told_with_limit_and_peak,
    each_way_not_to_start_has_its_own_words,
    a_kill_waits_for_the_grace_and_then_kills,
    a_kill_begins_with_the_signal_of_the_image,
    a_known_task_is_never_run_again,
    statuses_are_repeated_until_acknowledged,
    a_corrupt_checkpoint_is_set_aside_and_its_container_killed,
    logs_are_read_and_followed,
    programs_run_beside_a_task,
    a_tasks_terminal_is_typed_on,
    sessions_leave_nothing_in_the_agent_however_they_end,
    a_follower_misses_nothing_through_rotations_and_the_end,
    a_log_is_read_from_a_time_on,
    a_log_is_put_aside_by_its_age_with_no_agent_there,
    a_terminal_has_its_size_and_changes_it,
    a_program_is_executed_in_no_directory_of_a_descriptor,
    files_go_in_and_come_out_and_no_link_leads_out,
    what_tasks_use_is_told_with_rates_and_history,
    apps_are_counted_to_the_microsecond,
    a_storm_of_launches_and_of_kills_holds_up_nothing,
    many_idle_tasks_cost_little,
    a_message_reaches_a_task,
    a_second_agent_on_the_same_folder_is_refused,
    the_agent_can_leave_with_its_tasks,
    health_is_checked_by_command_and_port,
    the_first_of_several_health_checks_that_gives_up_kills_the_task,
    what_checks_find_is_told_and_kills_nothing,
    a_silent_master_is_left_and_found_again,
    kills_of_the_agent_in_the_middle_of_launches_run_nothing_twice,
    limits_reach_the_container_or_are_refused_by_name,
    swap_io_and_huge_pages_reach_the_kernel_or_are_refused_by_name,
    limits_change_while_the_task_runs_and_outlive_the_agent,
    whole_processors_are_one_tasks_alone_also_for_the_next_agent,
    a_change_of_limits_that_is_cut_short_leaves_what_was_before,
    processors_that_change_hands_while_the_agent_is_killed_end_in_one_hand,
    devices_are_picked_by_id_given_and_told,
    readiness_is_asked_until_it_passes,
    a_drain_ends_all_tasks_and_takes_none,
    records_of_another_version_and_too_little_to_offer_are_told_before_anything_is_touched,
    what_tasks_take_on_the_disk_is_told_and_too_much_ends_them,
    members_of_a_group_share_and_end_together,
    a_group_that_fills_its_volume_is_told_so,
    a_group_with_a_member_that_cannot_start_runs_not_at_all,
    a_killed_agent_leaves_groups_whole_or_ends_them,
    a_group_whose_holder_is_killed_ends_whole_under_either_policy,
    what_was_killed_of_a_group_while_no_agent_was_there_is_told_by_the_next,
    a_secret_is_told_to_a_task_and_to_nothing_else,
    a_volume_outlives_its_task_and_the_agent,
    a_path_of_the_machine_is_mounted_where_the_operator_allows_it,
    a_memory_file_system_of_a_task_has_its_size,
    a_task_has_the_capabilities_that_it_asks_for_and_may_have,
    a_read_only_root_takes_no_write_and_the_sandbox_does,
    a_task_is_held_by_the_profile_that_it_names,
    a_directory_of_the_sandbox_is_mounted_and_no_link_leads_out_of_it,
    what_a_task_fetches_is_in_its_sandbox_before_it_starts,
    a_killed_agent_leaves_no_half_fetched_file,
];

fn reason(status: &proto::TaskStatus) -> Reason {
    status.reason()
}

/// Has a task end that waits until it is let go, with exit code 0.
async fn let_go(bench: &Bench, container: &proto::ContainerStatus) {
    // Before it is ready it does not hear, being the first process of its namespace.
    eventually("ready", || {
        said(bench, container, "stdout").contains("ready")
    })
    .await;
    kill(pid(container), Signal::SIGUSR1).unwrap();
}

async fn a_task_runs_is_measured_and_ends(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("short", &["until"])).await;
    let running = bench.master.status("short", TaskRunning).await;
    let container = running.container.expect("a running task has a container");
    assert!(
        alive(container.pid) && container.image_digest.starts_with("sha256:"),
        "{container:?}"
    );
    bench.master.report().await;
    let mut client = bench.client().await;
    let usage = client
        .get_usage(proto::GetUsageRequest {
            task_ids: vec!["short".into()],
        })
        .await
        .unwrap()
        .into_inner();
    let usage = usage.tasks[0].usage.unwrap();
    assert_eq!(usage.pids, Some(1), "{usage:?}");
    assert!(usage.memory_bytes.is_some());
    let node = client
        .get_node(proto::GetNodeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(node.connected_to_master && node.tasks.len() == 1 && node.agent_id == "agent-1");
    let_go(bench, &container).await;
    let end = bench.master.end("short").await;
    assert_eq!(
        (end.state(), reason(&end)),
        (TaskFinished, Reason::CommandExited),
        "{}",
        end.message
    );
    assert_eq!(
        end.exit.and_then(|exit| exit.how),
        Some(proto::exit_info::How::Code(0))
    );
    assert!(
        end.usage
            .is_some_and(|usage| usage.cpu_total_us.is_some_and(|us| us > 0))
    );
    eventually("gone", || !alive(container.pid)).await;
}

async fn tasks_outlive_the_agent_and_no_end_is_lost(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("stays", &["sleep"])).await;
    bench.launch(task("ends", &["until"])).await;
    let stays = bench
        .master
        .status("stays", TaskRunning)
        .await
        .container
        .unwrap();
    let ends = bench
        .master
        .status("ends", TaskRunning)
        .await
        .container
        .unwrap();
    bench.kill_agent().await;
    let_go(bench, &ends).await;
    eventually("ended", || !alive(ends.pid)).await;
    assert!(alive(stays.pid), "containers outlive the agent");
    bench.start(2).await;
    let end = bench.master.end("ends").await;
    assert_eq!(
        (end.state(), reason(&end)),
        (TaskFinished, Reason::CommandExited),
        "{}",
        end.message
    );
    let register = bench.master.last_registration();
    assert_eq!(register.agent_id, "agent-1");
    let kept = register
        .tasks
        .iter()
        .find(|t| t.info.as_ref().unwrap().task_id == "stays")
        .unwrap();
    assert_eq!(
        kept.status
            .as_ref()
            .unwrap()
            .container
            .as_ref()
            .unwrap()
            .pid,
        stays.pid
    );
    bench.kill_task("stays", None).await;
    assert_eq!(bench.master.end("stays").await.state(), TaskKilled);
    let running = |task: &str| {
        let mut ids: Vec<_> = bench
            .master
            .statuses()
            .into_iter()
            .filter(|s| s.task_id == task && s.state() == TaskRunning)
            .map(|s| s.update_id)
            .collect();
        ids.dedup();
        ids.len()
    };
    assert_eq!((running("stays"), running("ends")), (1, 1), "each ran once");
}

async fn a_task_over_its_memory_limit_is_told_with_limit_and_peak(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("hungry", &["eat", "200"])).await;
    let end = bench.master.end("hungry").await;
    assert_eq!(
        (end.state(), reason(&end)),
        (TaskFailed, Reason::ContainerLimitationMemory),
        "{}",
        end.message
    );
    assert!(
        end.message
            .starts_with("killed by the kernel: memory limit 32.0 MiB, peak 3"),
        "{}",
        end.message
    );
    let exit = end.exit.unwrap();
    assert!(
        exit.oom_killed && exit.memory_limit_bytes == Some(32 << 20),
        "{exit:?}"
    );
}

async fn each_way_not_to_start_has_its_own_words(bench: &mut Bench) {
    bench.start(1).await;
    let mut unknown = task("unknown-image", &[]);
    // A port of loopback where nobody listens.
    unknown.container.as_mut().unwrap().image = "127.0.0.1:9/none:1".into();
    bench.launch(unknown).await;
    let mut bad_reference = task("bad-reference", &[]);
    bad_reference.container.as_mut().unwrap().image = "UPPER CASE".into();
    bench.launch(bad_reference).await;
    let mut empty = task("no-entrypoint", &[]);
    empty.container.as_mut().unwrap().image = "empty:1".into();
    bench.launch(empty).await;
    let mut missing = task("no-program", &[]);
    missing.container.as_mut().unwrap().command = vec!["/nowhere".into()];
    bench.launch(missing).await;
    let mut user = task("no-user", &[]);
    user.container.as_mut().unwrap().user = "nobody-knows".into();
    bench.launch(user).await;
    let mut big = task("too-big", &[]);
    big.resources[0].value = Some(proto::resource::Value::Scalar(proto::Scalar {
        millis: 64_000,
    }));
    bench.launch(big).await;
    let holder = (31_000..31_900)
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .unwrap();
    let port = u64::from(holder.local_addr().unwrap().port());
    let mut taken = task("port-taken", &[]);
    taken.resources.push(proto::Resource {
        name: "ports".into(),
        value: Some(proto::resource::Value::Ranges(proto::Ranges {
            ranges: vec![proto::Range {
                begin: port,
                end: port,
            }],
        })),
    });
    bench.launch(taken).await;
    let mut privileged = task("privileged", &[]);
    privileged.container.as_mut().unwrap().privileged = true;
    bench.launch(privileged).await;
    let pid = std::process::id();
    for (id, state, why, words) in [
        (
            "unknown-image",
            TaskFailed,
            Reason::ImagePullFailed,
            "127.0.0.1:9/none:1".to_owned(),
        ),
        (
            "bad-reference",
            TaskError,
            Reason::ImagePullFailed,
            "UPPER CASE".to_owned(),
        ),
        (
            "no-entrypoint",
            TaskError,
            Reason::TaskInvalid,
            "image empty:1 has no entrypoint; set `args` or `cmd`".to_owned(),
        ),
        (
            "no-program",
            TaskFailed,
            Reason::ContainerLaunchFailed,
            "/nowhere".to_owned(),
        ),
        (
            "no-user",
            TaskError,
            Reason::TaskInvalid,
            "nobody-knows".to_owned(),
        ),
        (
            "too-big",
            TaskError,
            Reason::ResourcesUnavailable,
            "cpus:64".to_owned(),
        ),
        (
            "port-taken",
            TaskFailed,
            Reason::ResourcesUnavailable,
            format!("port {port} of this machine is in use by"),
        ),
        (
            "port-taken",
            TaskFailed,
            Reason::ResourcesUnavailable,
            format!("pid {pid}"),
        ),
        (
            "privileged",
            TaskError,
            Reason::TaskUnauthorized,
            "allow_privileged".to_owned(),
        ),
    ] {
        let end = bench.master.end(id).await;
        assert_eq!(
            (end.state(), reason(&end)),
            (state, why),
            "{id}: {}",
            end.message
        );
        assert!(end.message.contains(&words), "{id}: {}", end.message);
    }
}

async fn a_kill_waits_for_the_grace_and_then_kills(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("stubborn", &["stubborn"])).await;
    let pid = bench
        .master
        .status("stubborn", TaskRunning)
        .await
        .container
        .unwrap()
        .pid;
    let ignores_sigterm = || {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigIgn:"))
                .unwrap_or_default();
            u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & (1 << 14) != 0)
        })
    };
    eventually("ignoring SIGTERM", ignores_sigterm).await;
    let begin = std::time::Instant::now();
    bench.kill_task("stubborn", Some(1_000)).await;
    bench.master.status("stubborn", TaskKilling).await;
    let end = bench.master.end("stubborn").await;
    assert_eq!(
        (end.state(), reason(&end)),
        (TaskKilled, Reason::KillRequested),
        "{}",
        end.message
    );
    assert!(
        begin.elapsed().as_millis() >= 1_000,
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(
        end.exit.and_then(|exit| exit.how),
        Some(proto::exit_info::How::Signal(9))
    );
}

async fn a_known_task_is_never_run_again(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("once", &["exit", "3"])).await;
    let end = bench.master.end("once").await;
    assert_eq!(
        end.exit.and_then(|exit| exit.how),
        Some(proto::exit_info::How::Code(3))
    );
    bench.kill_agent().await;
    bench.start(2).await;
    let before = bench.master.statuses().len();
    bench.launch(task("once", &["exit", "4"])).await;
    eventually("answered", || bench.master.statuses().len() > before).await;
    let last = bench.master.statuses().pop().unwrap();
    assert_eq!((last.state(), last.update_id), (TaskFailed, end.update_id));
}

async fn statuses_are_repeated_until_acknowledged(bench: &mut Bench) {
    bench.master.acknowledge(false);
    bench.start(1).await;
    bench.launch(task("quick", &["exit", "0"])).await;
    eventually("repeated", || bench.master.statuses().len() >= 2).await;
    bench.kill_agent().await;
    bench.start(2).await;
    eventually("repeated after the restart", || {
        bench.master.statuses().len() >= 3
    })
    .await;
    let first = bench.master.statuses()[0].clone();
    assert_eq!(first.state(), TaskRunning);
    assert!(
        bench
            .master
            .statuses()
            .iter()
            .all(|s| s.update_id == first.update_id),
        "only the oldest"
    );
    bench.master.acknowledge(true);
    assert_eq!(bench.master.end("quick").await.state(), TaskFinished);
}

async fn a_corrupt_checkpoint_is_set_aside_and_its_container_killed(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("good", &["sleep"])).await;
    bench.launch(task("bad", &["sleep"])).await;
    let good = bench
        .master
        .status("good", TaskRunning)
        .await
        .container
        .unwrap();
    let bad = bench
        .master
        .status("bad", TaskRunning)
        .await
        .container
        .unwrap();
    bench.kill_agent().await;
    fs::write(
        bench.container_dir(&bad.container_id).join("task.json"),
        "{\"version\": 1, \"contai",
    )
    .unwrap();
    bench.start(2).await;
    eventually("killed", || !alive(bad.pid)).await;
    assert!(alive(good.pid));
    assert!(
        bench
            .config
            .state_dir
            .join("quarantine")
            .join(&bad.container_id)
            .exists()
    );
    let tasks = bench.master.last_registration().tasks;
    assert_eq!(
        tasks.len(),
        1,
        "the master learns of the loss from the registration"
    );
}

async fn a_second_agent_on_the_same_folder_is_refused(bench: &mut Bench) {
    bench.start(1).await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let error = mezzo_agent::run(bench.config.clone(), shutdown)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("another mezzo agent") && error.contains("--state-dir"),
        "{error}"
    );
}

async fn a_silent_master_is_left_and_found_again(bench: &mut Bench) {
    bench.start(1).await;
    bench.launch(task("runs-on", &["sleep"])).await;
    let pid = bench
        .master
        .status("runs-on", TaskRunning)
        .await
        .container
        .unwrap()
        .pid;
    bench.master.ping_timeout_ms(300);
    bench.master.hang_up();
    bench.master.registered(4).await;
    assert!(alive(pid), "the master being away is no reason to kill");
    let kept = bench.master.last_registration().tasks;
    assert_eq!(
        kept[0]
            .status
            .as_ref()
            .unwrap()
            .container
            .as_ref()
            .unwrap()
            .pid,
        pid
    );
}
