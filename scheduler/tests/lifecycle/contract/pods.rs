//! The part of the contract that is about pods.

use super::*;

fn pod(image: &str, instances: u32) -> Value {
    json!({
        "id": "/shop/pod",
        "scaling": {"kind": "fixed", "instances": instances},
        "networks": [{"mode": "container/bridge"}],
        "containers": [
            {
                "name": "web",
                "image": {"kind": "DOCKER", "id": image},
                "resources": {"cpus": 0.01, "mem": 4},
                "endpoints": [{"name": "http", "containerPort": 80, "hostPort": 0, "protocol": ["tcp"]}],
                "healthCheck": {"http": {"endpoint": "http", "path": "/"}},
            },
            {"name": "log", "image": {"kind": "DOCKER", "id": "log:1"}, "resources": {"cpus": 0.01, "mem": 4}},
        ],
    })
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("listPods", "GET /v2/pods", 200).has("", json!([])),
        row("listPods", "HEAD /v2/pods", 200),
        row("createPod", "POST /v2/pods", 400)
            .body(json!("{"))
            .has("/message", any()),
        row("createPod", "POST /v2/pods", 422)
            .body(json!({"id": "/shop/pod", "containers": []}))
            .has("/details/0/path", json!("/containers")),
        row("createPod", "POST /v2/pods", 201)
            .body(pod("web:1", 2))
            .has("/id", json!("/shop/pod"))
            .has("/containers/1/name", json!("log"))
            .has("/version", any())
            .has("/versionInfo", none())
            .headers(&["location", "marathon-deployment-id"]),
        row("createPod", "POST /v2/pods", 409)
            .body(pod("web:1", 2))
            .has("/message", json!("Pod \"/shop/pod\" already exists")),
        row("getPodStatus", "GET /v2/pods/shop/pod::status", 200)
            .waits()
            .has("/status", json!("STABLE"))
            .has("/spec/id", json!("/shop/pod"))
            .has("/instances/1/status", json!("STABLE"))
            .has("/instances/0/agentHostname", json!("node1"))
            .has("/instances/0/resources/cpus", json!(0.02))
            .has("/instances/0/containers/0/name", json!("web"))
            .has("/instances/0/containers/0/status", json!("TASK_RUNNING"))
            .has(
                "/instances/0/containers/0/endpoints/0/allocatedHostPort",
                any(),
            )
            .has("/instances/0/containers/0/endpoints/0/healthy", json!(true))
            .has(
                "/instances/0/containers/0/conditions/0/name",
                json!("healthy"),
            )
            .has("/instances/0/containers/1/containerId", any())
            .has("/terminationHistory", json!([]))
            .keep(&[
                ("instance", "/instances/0/id"),
                ("other", "/instances/1/id"),
            ]),
        row("listPodStatus", "GET /v2/pods::status", 200).has("/0/id", json!("/shop/pod")),
        row("listPodStatus", "GET /v2/pods/::status", 200).has("/0/id", json!("/shop/pod")),
        row("getPodStatus", "GET /v2/pods/shop/none::status", 404).has("/message", any()),
        row("getPod", "GET /v2/pods/shop/pod", 200).keep(&[("podVersion", "/version")]),
        row("getPod", "GET /v2/pods/shop/none", 404)
            .has("/message", json!("Pod '/shop/none' does not exist")),
        row("getPod", "GET /v2/pods/shop/pod::nothing", 404).has("/message", any()),
        // No app, though it has a name among theirs.
        row("getApp", "GET /v2/apps/shop/pod", 404),
        row("deleteApp", "DELETE /v2/apps/shop/pod", 404),
        row("putApp", "PUT /v2/apps/shop/pod", 422).body(json!({"instances": 3})),
        row("getGroup", "GET /v2/groups/shop", 200).has("/pods/0/id", json!("/shop/pod")),
        row(
            "killPodInstance",
            "DELETE /v2/pods/shop/pod::instances/{instance}",
            200,
        )
        .has("/id", any())
        .has("/containers/0/name", json!("web")),
        row(
            "killPodInstance",
            "DELETE /v2/pods/shop/pod::instances/none",
            404,
        ),
        row(
            "killPodInstances",
            "DELETE /v2/pods/shop/pod::instances",
            400,
        )
        .body(json!({"ids": []})),
        row(
            "killPodInstances",
            "DELETE /v2/pods/shop/pod::instances",
            200,
        )
        .body(json!(["{other}"]))
        .has("/0/id", any()),
        // No list is none, unless all that the pod keeps is meant.
        row(
            "killPodInstances",
            "DELETE /v2/pods/shop/pod::instances",
            400,
        ),
        // Else all that the last snapshot has may have ended by then.
        row("getPodStatus", "GET /v2/pods/shop/pod::status", 200)
            .waits()
            .has("/status", json!("STABLE"))
            .has("/instances/0/status", json!("STABLE"))
            .has("/instances/1/status", json!("STABLE"))
            .has("/instances/2", none()),
        row(
            "killPodInstances",
            "DELETE /v2/pods/shop/pod::instances?wipe=true",
            200,
        )
        .has("/0/id", any()),
        row("getPodStatus", "GET /v2/pods/shop/pod::status", 200)
            .waits()
            .has("/status", json!("STABLE"))
            .has("/instances/1/status", json!("STABLE"))
            .has("/instances/2", none()),
        row("putPod", "PUT /v2/pods/shop/none", 404)
            .body(json!({"id": "/shop/none", "containers": []})),
        row("putPod", "PUT /v2/pods/shop/pod", 422).body(json!({"id": "/other", "containers": []})),
        row("putPod", "PUT /v2/pods/shop/pod?dryRun=true", 200)
            .body(pod("web:2", 1))
            .has("/steps/0/actions/0/pod", json!("/shop/pod")),
        row("putPod", "PUT /v2/pods/shop/pod", 200)
            .body(pod("web:2", 1))
            .has("/containers/0/image/id", json!("web:2"))
            .headers(&["marathon-deployment-id"]),
        row("getPodStatus", "GET /v2/pods/shop/pod::status", 200)
            .waits()
            .has("/status", json!("STABLE"))
            .has("/instances/1", none()),
        row("listPodVersions", "GET /v2/pods/shop/pod::versions", 200).has("/1", any()),
        row(
            "getPodVersion",
            "GET /v2/pods/shop/pod::versions/{podVersion}",
            200,
        )
        .has("/containers/0/image/id", json!("web:1")),
        row(
            "getPodVersion",
            "GET /v2/pods/shop/pod::versions/2014-09-12T23:28:21.737Z",
            404,
        ),
        row("deletePod", "DELETE /v2/pods/shop/none", 404),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
        row("deletePod", "DELETE /v2/pods/shop/pod", 202).headers(&["marathon-deployment-id"]),
        row("getPod", "GET /v2/pods/shop/pod", 404),
        row("listDeployments", "GET /v2/deployments", 200)
            .waits()
            .has("", json!([])),
    ]
}
