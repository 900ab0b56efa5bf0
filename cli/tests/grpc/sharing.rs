//! Quotas and the reasons for offers.

use super::Scripted;

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_set_forced_and_cleared() {
    let cluster = Scripted::default().start(None).await;
    let words = ["role", "quota", "set", "eng/web"];
    let ran = cluster.mezzo(&words).await;
    assert_eq!((ran.code, cluster.asked().as_str()), (Some(2), ""));
    let amounts = ["--guarantee", "cpus=1.5,mem=2G", "--limit", "gpus=0"];
    let ran = cluster.mezzo(&[&words[..], &amounts].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    for part in [
        "\"eng/web\"",
        "millis: 1500",
        "millis: 2048000",
        "\"gpus\"",
        "force: false",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }

    let greedy = ["role", "quota", "set", "greedy", "--guarantee", "cpus=99"];
    let ran = cluster.mezzo(&greedy).await;
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("ask with force"), "{}", ran.stderr);
    let ran = cluster.mezzo(&[&greedy[..], &["--force"]].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(cluster.asked().contains("force: true"));

    let ran = cluster.mezzo(&["role", "quota", "clear", "eng/web"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let last = "guarantees: [], limits: [] }], force: false }";
    assert!(cluster.asked().ends_with(last), "{}", cluster.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_without_offers_is_explained_by_role() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster.mezzo(&["framework", "explain", "batch"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        cluster.asked().contains("framework-2"),
        "{}",
        cluster.asked()
    );
    let told = "role *\n  3 of 4 agents it has declined\n";
    assert!(ran.stdout.ends_with(told), "{}", ran.stdout);
    let ran = cluster
        .mezzo(&["framework", "explain", "batch", "-o", "json"])
        .await;
    assert!(ran.stdout.contains("\"reasons\""), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn frameworks_are_named_by_id_beginning_or_name_and_torn_down_only_when_meant() {
    let cluster = Scripted::default().start(None).await;
    for name in ["framework-2", "batch"] {
        let ran = cluster.mezzo(&["framework", "show", name]).await;
        assert!(ran.stdout.contains("framework-2"), "{}", ran.stderr);
    }
    assert_eq!(
        cluster
            .mezzo(&["framework", "show", "framework"])
            .await
            .code,
        Some(2)
    );
    let ran = cluster.mezzo(&["framework", "teardown", "batch"]).await;
    assert_eq!(
        (ran.code, cluster.asked().as_str()),
        (Some(2), ""),
        "{}",
        ran.stderr
    );
    let ran = cluster
        .mezzo(&["framework", "teardown", "batch", "--yes"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(
        cluster.asked(),
        "TeardownFrameworkRequest { framework_id: \"framework-2\" }"
    );
}
