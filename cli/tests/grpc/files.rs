//! `task cp`, `task log --since`: what a hostile node or container sends reaches nothing but the folder named here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::Scripted;

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_out_beneath_the_folder_named_or_not_at_all() {
    let cluster = Scripted::default().start(None).await;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let target = to.to_str().unwrap();
    let ran = cluster.mezzo(&["task", "cp", "web.b:/x", target]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "hello");
    let mode = fs::metadata(to.join("file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755, "no set-id bits");
    assert!(ran.stderr.contains("left out: 1 entry"), "{}", ran.stderr);
    assert!(ran.stdout.contains("copied 1 entry, 5 B"), "{}", ran.stdout);
    for (path, word) in [
        ("/up", "no copy of a tree"),
        ("/door", "links are not followed"),
        ("/short", "missing"),
    ] {
        let from = format!("web.b:{path}");
        let ran = cluster.mezzo(&["task", "cp", &from, target]).await;
        assert_eq!(ran.code, Some(1), "{path}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{path}: {}", ran.stderr);
    }
    assert!(!dir.path().join("evil").exists());
    let mut left: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["door", "file"]);
    let ran = cluster.mezzo(&["task", "cp", "web.b:/none", target]).await;
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_in_with_what_lies_here_and_links_as_links() {
    let cluster = Scripted::default().start(None).await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    let from = format!("{}/.", dir.path().display());
    let ran = cluster
        .mezzo(&["task", "cp", &from, "web.b:/srv", "-o", "json"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["entries"], 3);
    let asked = cluster.asked();
    let bytes = |text: &str| format!("{:?}", text.as_bytes());
    assert!(
        asked.contains(&format!("LinkTarget({})", bytes("/etc"))),
        "{asked}"
    );
    assert!(
        asked.contains("FileSize(7)") && asked.contains(&format!("Data({})", bytes("content")))
    );
    for (from, to) in [("a", "b"), ("web.b:/a", "web.b:/b")] {
        let ran = cluster.mezzo(&["task", "cp", from, to]).await;
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    }
    let ran = cluster
        .mezzo(&["task", "cp", "/nowhere/at/all", "web.b:/x"])
        .await;
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_can_be_asked_for_by_time() {
    let cluster = Scripted::default().start(None).await;
    let ran = cluster
        .mezzo(&["task", "log", "web.b", "--since", "10m"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = cluster.asked();
    let (_, since) = asked.split_once("since_ms: Some(").unwrap();
    let since: u64 = since.split(')').next().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let ago = now.as_millis() - u128::from(since);
    assert!((600_000..700_000).contains(&ago), "{ago}");
    let ran = cluster
        .mezzo(&["task", "log", "web.b", "--since", "yesterday"])
        .await;
    assert_eq!(ran.code, Some(2));
}
