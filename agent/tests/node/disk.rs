//! The tests of what tasks keep on the machine's disk and in its memory: counted, bounded, there for the next one.

use mezzo_api::proto::{
    self, Reason,
    TaskState::{TaskFailed, TaskRunning},
};

use crate::bench::{Bench, task};

/// A task that holds so much of the disk.
fn with_disk(mut task: proto::TaskInfo, mb: i64) -> proto::TaskInfo {
    task.resources.push(proto::Resource {
        name: "disk".into(),
        value: Some(proto::resource::Value::Scalar(proto::Scalar {
            millis: mb * 1000,
        })),
    });
    task
}

/// Waits until that much is told of a task's disk.
async fn takes(bench: &Bench, task: &str, mb: u64) -> proto::TaskStats {
    let mut client = bench.client().await;
    let request = proto::GetStatsRequest {
        task_ids: vec![task.into()],
        with_history: false,
    };
    let waiting = async {
        loop {
            let round = client.get_stats(request.clone()).await.unwrap();
            for stats in round.into_inner().tasks {
                if stats.usage.unwrap().disk_bytes >= Some(mb << 20) {
                    return stats;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("{task} does not take {mb} MiB"))
}

pub(crate) async fn what_tasks_take_on_the_disk_is_told_and_too_much_ends_them(bench: &mut Bench) {
    bench.config.disk_interval_ms = 100;
    bench.start(1).await;
    // Half of it in the sandbox, half in the root file system.
    let fill = |mb| ["fill", mb, "/mnt/mezzo/sandbox/file", "/bin/file"];
    bench.launch(with_disk(task("fits", &fill("4")), 30)).await;
    bench.launch(task("free", &fill("8"))).await;
    bench.launch(with_disk(task("fills", &fill("8")), 10)).await;
    let end = bench.master.end("fills").await;
    assert_eq!(
        (end.state(), end.reason()),
        (TaskFailed, Reason::ContainerLimitationDisk),
        "{}",
        end.message
    );
    assert!(
        end.message.contains("its limit is 10.0 MiB"),
        "{}",
        end.message
    );
    assert!(end.usage.unwrap().disk_bytes > Some(10 << 20));
    let fits = takes(bench, "fits", 8).await;
    assert_eq!(fits.disk_limit_bytes, Some(30 << 20));
    assert!(fits.usage.unwrap().disk_bytes < Some(10 << 20), "{fits:?}");
    let free = takes(bench, "free", 16).await;
    assert_eq!(free.disk_limit_bytes, None);
    // The next agent counts what the one before counted.
    bench.kill_agent().await;
    bench.start(2).await;
    takes(bench, "fits", 8).await;
    for running in ["fits", "free"] {
        bench.master.status(running, TaskRunning).await;
    }
}
