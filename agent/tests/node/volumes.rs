//! Persistent volumes: what one task writes the next one finds, whatever became of the agent between them.

use mezzo_api::proto::{
    self, CreateVolume, DestroyVolume, OperationState, PersistentVolume, PoolChange, PoolOperation,
    Reason, Reservation, Reserve,
    TaskState::{TaskError, TaskRunning},
    master_message::Message as FromMaster,
    pool_change::Change,
};

use crate::bench::{Bench, eventually, free_port, task};

fn eng() -> Vec<Reservation> {
    vec![Reservation {
        role: "eng".into(),
        kind: proto::ReservationKind::Dynamic.into(),
        ..Reservation::default()
    }]
}

fn data() -> PersistentVolume {
    PersistentVolume {
        volume_id: "data".into(),
        stack: eng(),
        size_mb: 8,
        principal: String::new(),
        shared: false,
    }
}

/// As the master fills it in.
pub(crate) fn with_data(mut info: proto::TaskInfo) -> proto::TaskInfo {
    let container = info.container.as_mut().unwrap();
    container.volumes.push(proto::Volume {
        container_path: "/data".into(),
        read_only: false,
        source: Some(proto::volume::Source::PersistentVolume("data".into())),
    });
    info.persistent = vec![data()];
    info
}

async fn operate(bench: &Bench, id: &str, change: Change) -> proto::OperationStatus {
    let operation = PoolOperation {
        operation_id: id.into(),
        framework_id: "f".into(),
        keep: true,
        change: Some(PoolChange {
            change: Some(change),
        }),
    };
    bench
        .master
        .send(FromMaster::Operation(Box::new(operation)))
        .await;
    bench.master.operation(id).await
}

/// Reserves 16 MiB of the disk and makes the volume of half of it.
pub(crate) async fn make_data(bench: &Bench) {
    let reserve = Change::Reserve(Reserve {
        resources: vec![proto::Resource {
            name: "disk".into(),
            value: Some(proto::resource::Value::Scalar(proto::Scalar {
                millis: 16_000,
            })),
        }],
        reservation: Some(eng().remove(0)),
        from: vec![],
    });
    let done = operate(bench, "o1", reserve).await;
    assert_eq!(
        done.state(),
        OperationState::OperationFinished,
        "{}",
        done.message
    );
    let create = Change::CreateVolume(CreateVolume {
        volume: Some(data()),
    });
    let done = operate(bench, "o2", create).await;
    assert_eq!(
        done.state(),
        OperationState::OperationFinished,
        "{}",
        done.message
    );
}

pub(crate) async fn a_volume_outlives_its_task_and_the_agent(bench: &mut Bench) {
    bench.config.resources = Some("cpus:4;mem:2048;disk:64".parse().unwrap());
    bench.config.disk_interval_ms = 100;
    bench.start(1).await;
    make_data(bench).await;

    // By another user than root, in the container's own users: the folder is for whoever the task is.
    let mut writer = with_data(task("writer", &["put", "/data/kept"]));
    writer.container.as_mut().unwrap().user = "1000:1000".into();
    bench.launch(writer).await;
    bench.master.end("writer").await;

    bench.kill_agent().await;
    bench.start(2).await;
    let told = bench.master.last_registration();
    let info = told.info.unwrap();
    assert_eq!(info.volumes, [data()]);
    assert_eq!(info.reserved.len(), 1, "8 of the 16 MiB are left");
    let ids: Vec<_> = told
        .operations
        .iter()
        .map(|o| o.operation_id.as_str())
        .collect();
    assert_eq!(ids, ["o1", "o2"], "nobody has acknowledged them");

    let folders = || std::fs::read_dir(bench.config.state_dir.join("volumes")).unwrap();
    let kept = folders().next().unwrap().unwrap().path().join("kept");
    let written = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(written.trim_end(), "put /data/kept");

    // The next task serves what it finds; the volume is its alone, and not to be destroyed under it.
    let port = free_port().to_string();
    bench
        .launch(with_data(task("reader", &["serve", &port, "/data/kept"])))
        .await;
    let running = bench.master.status("reader", TaskRunning).await;
    let container = running.container.unwrap().container_id;
    let log = bench
        .config
        .state_dir
        .join("runtime/containers")
        .join(container);
    eventually("the reader has read what the writer wrote", || {
        let told = std::fs::read_to_string(log.join("stdout")).unwrap_or_default();
        told.contains("put /data/kept")
    })
    .await;
    bench.launch(with_data(task("second", &["sleep"]))).await;
    let refused = bench.master.status("second", TaskError).await;
    assert!(refused.message.contains("volume"), "{}", refused.message);
    let destroy = || {
        Change::DestroyVolume(DestroyVolume {
            role: "eng".into(),
            volume_id: "data".into(),
        })
    };
    let refused = operate(bench, "o3", destroy()).await;
    assert_eq!(refused.state(), OperationState::OperationFailed);
    assert!(
        refused.message.contains("task reader"),
        "{}",
        refused.message
    );
    bench.kill_task("reader", None).await;
    bench.master.end("reader").await;
    // Its size is a bound: 8 MiB.
    let fill = task("filler", &["fill", "9", "/data/file", "/bin/file"]);
    bench.launch(with_data(fill)).await;
    let end = bench.master.end("filler").await;
    assert_eq!(
        end.reason(),
        Reason::ContainerLimitationDisk,
        "{}",
        end.message
    );
    // It may be seen before all of it is written; in bytes if that is just above.
    let told = ["its size is 8.0 MiB", "its size is 8388608 bytes"];
    assert!(
        end.message.contains("its persistent volume data holds ")
            && told.iter().any(|size| end.message.contains(size)),
        "{}",
        end.message
    );
    let done = operate(bench, "o4", destroy()).await;
    assert_eq!(
        done.state(),
        OperationState::OperationFinished,
        "{}",
        done.message
    );
    eventually("its content is gone", || folders().next().is_none()).await;
}
