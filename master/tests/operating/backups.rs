//! Backups of a running master.

use std::time::Duration;

use mezzo_api::proto;
use mezzo_master::store::{EmbeddedStore, Store as _, backup};

use super::{NODE, set_weight};
use crate::common::{Agent, Framework, Master, config};

async fn read_backup(master: &Master) -> Vec<u8> {
    let mut stream = master
        .operator()
        .await
        .backup(proto::BackupRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut file = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        file.extend(chunk.data);
    }
    file
}

#[tokio::test]
async fn a_backup_of_a_running_master_brings_another_to_the_same_state() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = Master::start(config(dir.path())).await;
    let agent = Agent::attach(&master, "node-1", NODE).await;
    let framework = Framework::subscribe(&master, "test").await;
    set_weight(&master, "eng").await;
    let now = master.cluster().await.started_at_ms;
    let window = proto::MaintenanceWindow {
        name: "kernel".into(),
        agent_ids: vec![agent.id.clone()],
        starts_at_ms: now + 3_600_000,
        drains_at_ms: now + 7_200_000,
        ..proto::MaintenanceWindow::default()
    };
    let request = proto::ScheduleMaintenanceRequest {
        window: Some(window),
    };
    master
        .operator()
        .await
        .schedule_maintenance(request)
        .await
        .unwrap();
    let file = read_backup(&master).await;
    // What comes later is not in it.
    set_weight(&master, "late").await;
    let backup = backup::read(&file).unwrap();
    assert_eq!(backup.saved.agents.len(), 1);
    master.stop().await;

    let target = config(other.path());
    mezzo_master::restore(&target, &backup, false)
        .await
        .unwrap();
    let error = mezzo_master::restore(&target, &backup, false)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--replace"), "{error}");
    let saved = EmbeddedStore::open(other.path())
        .unwrap()
        .load()
        .await
        .unwrap();
    assert_eq!(saved, backup.saved);

    let master = Master::start(target).await;
    let error = mezzo_master::restore(&config(other.path()), &backup, true)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    let info = proto::FrameworkInfo {
        framework_id: framework.id.clone(),
        ..framework_info("test", "*", Duration::from_secs(60))
    };
    let again = Framework::subscribe_as(&master, info).await.unwrap();
    assert_eq!(again.id, framework.id);
    let windows = master
        .operator()
        .await
        .list_maintenance(proto::ListMaintenanceRequest::default())
        .await;
    let windows = windows.unwrap().into_inner().windows;
    assert_eq!(
        (windows.len(), windows[0].agent_ids.as_slice()),
        (1, &[agent.id.clone()][..])
    );
    master.stop().await;
}
