//! Two groups of apps with quota limits on the master, a real scheduler and simulated agents: each stays inside its own, says
//! why it gets no more, and gets more as soon as it may.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is the test's failure"
)]

mod common;
#[path = "../examples/bench_scheduler/http.rs"]
mod http;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use common::{Master, PATIENCE};
use http::Client;
use mezzo_api::proto::{
    self, ListRolesRequest, UpdateQuotasRequest, operator_service_client::OperatorServiceClient,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

async fn listens(state_dir: &Path) -> SocketAddr {
    loop {
        if let Ok(text) = fs::read_to_string(state_dir.join("address"))
            && let Ok(address) = text.trim().parse()
        {
            return address;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn limit(operator: &mut OperatorServiceClient<Channel>, role: &str, cpus: i64) {
    let cpus = proto::Scalar {
        millis: cpus * 1000,
    };
    let request = UpdateQuotasRequest {
        quotas: vec![proto::update_quotas_request::Quota {
            role: role.to_owned(),
            guarantees: Vec::new(),
            limits: vec![proto::Resource {
                name: "cpus".to_owned(),
                value: Some(proto::resource::Value::Scalar(cpus)),
            }],
        }],
        force: false,
    };
    operator.update_quotas(request).await.unwrap();
}

/// Thousandths of processors that a role holds.
async fn held(operator: &mut OperatorServiceClient<Channel>, role: &str) -> i64 {
    let told = operator.list_roles(ListRolesRequest::default()).await;
    let roles = told.unwrap().into_inner().roles;
    let held = roles.iter().find(|known| known.name == role);
    let resources = held.map_or(&[][..], |role| role.allocated_within.as_slice());
    let cpus = resources.iter().find(|one| one.name == "cpus");
    match cpus.and_then(|one| one.value.as_ref()) {
        Some(proto::resource::Value::Scalar(cpus)) => cpus.millis,
        Some(_) | None => 0,
    }
}

fn group(id: &str, instances: u32) -> String {
    let app = json!({
        "id": "web",
        "cpus": 1,
        "mem": 32,
        "instances": instances,
        "portDefinitions": [],
        "container": {"docker": {"image": "registry.example/web:1"}},
    });
    json!({"id": id, "enforceRole": true, "apps": [app]}).to_string()
}

async fn running(client: &mut Client, id: &str) -> u64 {
    let app = client.json(&format!("/v2/apps{id}/web")).await.unwrap();
    assert_eq!(app["app"]["role"], json!(id.trim_start_matches('/')));
    app["app"]["tasksRunning"].as_u64().unwrap()
}

/// What an app that waits says.
async fn waits_for(client: &mut Client, id: &str) -> String {
    let queue = client.json("/v2/queue").await.unwrap();
    let of = format!("{id}/web");
    let entries = queue["queue"].as_array().unwrap();
    let entry = entries.iter().find(|one| one["app"]["id"] == json!(of));
    entry
        .and_then(|one| one["waitingFor"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_group_stays_inside_the_quota_of_its_role() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::any(&dir.path().join("master")).await;
    let fleet = common::fleet(master.address, 3, |_| {}).await;
    let channel = Channel::from_shared(format!("http://{}", master.address)).unwrap();
    let mut operator = OperatorServiceClient::new(channel.connect_lazy());
    limit(&mut operator, "dev", 2).await;
    limit(&mut operator, "ops", 3).await;

    let state_dir = dir.path().join("scheduler");
    let stop = CancellationToken::new();
    let config = mezzo_scheduler::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        master: master.address.to_string(),
        state_dir: state_dir.clone(),
        ..mezzo_scheduler::Config::default()
    };
    let scheduler = tokio::spawn(mezzo_scheduler::run(config, stop.clone()));
    let address = timeout(PATIENCE, listens(&state_dir)).await.unwrap();
    let mut client = Client::connect(address).await.unwrap();
    for (id, instances) in [("/dev", 4), ("/ops", 5)] {
        let group = group(id, instances);
        client.done("POST", "/v2/groups", &group).await.unwrap();
    }

    // No look at any time shows more than the limit, until both have all they may have, and say why it is no more.
    let mut latest = String::new();
    let both_full = async {
        loop {
            assert!(held(&mut operator, "dev").await <= 2000);
            assert!(held(&mut operator, "ops").await <= 3000);
            let (dev, ops) = (
                running(&mut client, "/dev").await,
                running(&mut client, "/ops").await,
            );
            let why = waits_for(&mut client, "/dev").await;
            if (dev, ops) == (2, 3) && why.contains("at its limit") {
                return;
            }
            latest = format!("{dev} and {ops} run; dev waits: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let is_full = timeout(PATIENCE * 2, both_full).await;
    assert!(is_full.is_ok(), "{latest}");

    limit(&mut operator, "dev", 4).await;
    let dev_grown = async {
        while running(&mut client, "/dev").await < 4 {
            assert!(held(&mut operator, "ops").await <= 3000);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, dev_grown).await.unwrap();
    assert_eq!(running(&mut client, "/ops").await, 3);
    let tasks = client.json("/v2/tasks").await.unwrap();
    let of_their_own = |task: &Value| {
        let role = task["role"].as_str().unwrap();
        task["appId"] == json!(format!("/{role}/web"))
    };
    assert!(tasks["tasks"].as_array().unwrap().iter().all(of_their_own));

    stop.cancel();
    timeout(PATIENCE, scheduler)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    fleet.stop().await;
    master.stop().await;
}
