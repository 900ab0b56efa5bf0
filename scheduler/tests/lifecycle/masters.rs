//! Several masters: a standby that names the leader, and one that leads no more.

use mezzo_api::masters::name_leader;
use serde_json::json;

use super::common::Scheduler;
use super::common::master::Master;
use super::{NODE, sleep_app};

/// Refuses every call and names that leader; ends with the task.
async fn standby(leader: String) -> (std::net::SocketAddr, tokio::task::JoinSet<()>) {
    let refuse = move || {
        let mut status = tonic::Status::unavailable("another master leads");
        name_leader(status.metadata_mut(), &leader, 1);
        std::future::ready(status.into_http::<axum::body::Body>())
    };
    let routes = tonic::service::Routes::from(axum::Router::new().fallback(refuse));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = listener.local_addr().expect("bound");
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_routes(routes);
        server.serve_with_incoming(incoming).await.expect("serves");
    });
    (address, serving)
}

#[tokio::test]
async fn a_standby_that_names_the_leader_is_followed() {
    let running = Master::start(NODE).await;
    let (standby, _serving) = standby(running.address.to_string()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start_with(directory.path(), &standby.to_string()).await;
    let posted = scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    scheduler.settled("/sleep", 1).await;
    scheduler.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_begins_anew_heeds_no_master_of_a_lower_term() {
    let running = Master::start(NODE).await;
    running.master.world().term = 5;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let posted = scheduler
        .request("POST", "/v2/apps", Some(sleep_app()))
        .await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    scheduler.settled("/sleep", 1).await;
    scheduler.kill().await;

    // One that was put back from an old copy, say. It knows of no task.
    let before = {
        let mut world = running.master.world();
        world.term = 4;
        world.subscriptions
    };
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let begun = std::time::Instant::now();
    while running.master.world().subscriptions < before + 3 {
        assert!(begun.elapsed() < super::common::PATIENCE, "it does not try");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let health = scheduler.get("/healthz").await;
        assert_eq!(health["connectedToMaster"], json!(false));
    }
    running.master.world().term = 6;
    scheduler
        .wait("/healthz", "a master that leads", |value| {
            value["connectedToMaster"] == json!(true)
        })
        .await;
    scheduler.settled("/sleep", 1).await;
    scheduler.stop().await;
}
