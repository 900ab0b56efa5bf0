//! Nodes go out of service and come back.

use crate::Scripted;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_by_name_with_a_deadline_and_activated() {
    let cluster = Scripted::default().start(None).await;
    let drain = ["node", "drain", "n1", "--deadline", "10m", "--mark-gone"];
    let ran = cluster.mezzo(&drain).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    assert!(
        asked.starts_with("DrainAgentRequest")
            && asked.contains("deadline_ms: Some(600000), mark_gone: true"),
        "{asked}"
    );
    let ran = cluster.mezzo(&["node", "deactivate", "n1"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("nothing more starts on node"));
    assert!(cluster.asked().contains("DeactivateAgentRequest"));
    let ran = cluster.mezzo(&["node", "activate", "n1"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    assert!(asked.contains("\nActivateAgentRequest"), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_reserved_and_volumes_made_and_only_destroyed_when_meant() {
    let cluster = Scripted::default().start(None).await;
    let reserve = ["node", "reserve", "n1", "cpus=1,mem=1G", "--role", "eng"];
    let ran = cluster.mezzo(&reserve).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let create = [
        "volume",
        "create",
        "n1",
        "data",
        "--role",
        "db",
        "--size",
        "10G",
        "--reserve",
    ];
    let ran = cluster.mezzo(&create).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    assert!(
        asked.starts_with("ChangePoolsRequest") && asked.contains("size_mb: 10240"),
        "{asked}"
    );
    let destroy = ["volume", "destroy", "n1", "data", "--role", "db"];
    assert_eq!(cluster.mezzo(&destroy).await.code, Some(2));
    assert!(!cluster.asked().contains("DestroyVolume"));
    let ran = cluster.mezzo(&[&destroy[..], &["--yes"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(cluster.asked().contains("DestroyVolume"));
    let ran = cluster
        .mezzo(&["node", "unreserve", "n1", "cpus=1", "--role", "eng"])
        .await;
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("has nothing reserved for role eng"),
        "{}",
        ran.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_drained_by_mistake() {
    let cluster = Scripted::default().start(None).await;
    let refused = cluster
        .mezzo(&["node", "drain", "n1", "--deadline", "soon"])
        .await;
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--deadline"), "{}", refused.stderr);
    let refused = cluster.mezzo(&["node", "drain", "nobody"]).await;
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert_eq!(cluster.asked(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_told_with_its_address() {
    // Nobody listens there, and nobody is given it.
    let nobody = "127.0.0.1:1";
    let cluster = Scripted::default().start(Some(nobody.into())).await;
    let ran = cluster.mezzo(&["task", "log", "web.b"]).await;
    assert_eq!(ran.code, Some(4));
    assert!(
        ran.stderr
            .starts_with(&format!("mezzo: cannot reach the agent at {nobody}: ")),
        "{}",
        ran.stderr
    );
    assert_eq!(
        cluster.mezzo(&["task", "show", "web.b"]).await.code,
        Some(0),
        "what the master knows is shown"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_forgotten_only_when_meant() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster.mezzo(&["node", "remove", "n1"]).await;
    assert_eq!(
        (ran.code, cluster.asked().as_str()),
        (Some(2), ""),
        "{}",
        ran.stderr
    );
    let ran = cluster.mezzo(&["node", "remove", "n1", "--yes"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        cluster.asked().starts_with("RemoveAgentRequest"),
        "{}",
        cluster.asked()
    );
    let ran = cluster.mezzo(&["node", "remove", "nobody", "--yes"]).await;
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
}
