//! `/v2/groups` over HTTP: made, read back, put back, planned and removed, with Marathon's answers.

use serde_json::json;

use super::*;

fn app(id: &str) -> Value {
    json!({"id": id, "cpus": 0.1, "mem": 32, "container": {"docker": {"image": "sleep:1"}}})
}

#[tokio::test]
async fn a_group_is_made_read_planned_put_back_and_removed() {
    let running = Master::start("cpus:4;mem:4096;ports:[31000-31099]").await;
    let directory = tempfile::tempdir().expect("a directory");
    let scheduler = Scheduler::start(directory.path(), running.address).await;
    let shop = json!({
        "id": "/shop",
        "groups": [
            {"id": "db", "apps": [app("mongo")]},
            {"id": "web", "dependencies": ["../db"], "apps": [app("front")]},
        ],
    });
    let posted = scheduler
        .request("POST", "/v2/groups", Some(shop.clone()))
        .await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    assert!(posted.json()["deploymentId"].is_string());
    let again = scheduler.request("POST", "/v2/groups", Some(shop)).await;
    assert_eq!(again.status, 409, "{}", again.text);
    scheduler.settled("/shop/web/front", 1).await;

    let group = scheduler.get("/v2/groups/shop").await;
    assert_eq!(group["groups"][1]["id"], "/shop/web");
    assert_eq!(group["groups"][1]["dependencies"], json!(["/shop/db"]));
    assert_eq!(group["groups"][0]["apps"][0]["id"], "/shop/db/mongo");
    let root = scheduler.get("/v2/groups?embed=group.groups").await;
    assert_eq!(root["groups"][0]["id"], "/shop");
    assert!(root.get("apps").is_none() && root["groups"][0].get("apps").is_none());

    // What GET returned is accepted by PUT, and changes nothing.
    let same = scheduler
        .request("PUT", "/v2/groups/shop?dryRun=true", Some(group))
        .await;
    assert_eq!(
        (same.status, same.json()),
        (200, json!({"steps": []})),
        "{}",
        same.text
    );
    let planned = scheduler
        .request(
            "PUT",
            "/v2/groups/shop?dryRun=true",
            Some(json!({"scaleBy": 2})),
        )
        .await;
    let steps = &planned.json()["steps"];
    assert_eq!(
        steps[0]["actions"],
        json!([{"action": "ScaleApplication", "app": "/shop/db/mongo"}])
    );
    assert_eq!(steps[1]["actions"][0]["app"], "/shop/web/front");
    let versions = scheduler.get("/v2/groups/shop/versions").await;
    let version = versions[0].as_str().expect("a version");
    let past = scheduler
        .get(&format!("/v2/groups/shop/versions/{version}"))
        .await;
    assert_eq!(past["groups"][0]["apps"][0]["id"], "/shop/db/mongo");

    let removed = scheduler.request("DELETE", "/v2/groups/shop", None).await;
    assert_eq!(removed.status, 200, "{}", removed.text);
    scheduler
        .wait("/v2/deployments", "an end", |all| all == &json!([]))
        .await;
    let gone = scheduler.request("GET", "/v2/groups/shop", None).await;
    assert_eq!(gone.status, 404, "{}", gone.text);
    scheduler.stop().await;
}
