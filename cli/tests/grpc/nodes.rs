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
    let ran = cluster.mezzo(&["node", "activate", "n1"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    assert!(asked.contains("\nActivateAgentRequest"), "{asked}");
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
