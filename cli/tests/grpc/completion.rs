//! What of the master's is offered at TAB.

use super::*;

impl Scripted {
    /// What is offered for the last word of `line`, where something is to be: on a busy machine an answer may come after the
    /// second that is waited for it.
    async fn offered_in_time(&self, line: &str) -> Vec<String> {
        for _ in 0..20 {
            let found = self.offered(line).await;
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// The same in one try, as fish asks for it.
    async fn offered(&self, line: &str) -> Vec<String> {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mezzo"));
        command
            .arg("--")
            .args(line.split(' '))
            .env("MEZZO_COMPLETE", "fish")
            .env("MEZZO_MASTER", self.address.lock().unwrap().as_str());
        let ran = Ran::from(command.output().await.unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        let values = ran
            .stdout
            .lines()
            .map(|line| line.split('\t').next().unwrap());
        values.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_the_master_are_completed() {
    let cluster = Scripted::default().start(None).await;
    let live = [
        "sleep.instance-a1._app.1",
        "sleep.instance-a2._app.1",
        "web.b",
    ];
    for line in ["mezzo task exec ", "mezzo task kill ", "mezzo task kill x "] {
        assert_eq!(cluster.offered_in_time(line).await, live, "{line}");
    }
    for (line, expected) in [
        ("mezzo task log w", &["web.b", "web.c"][..]),
        ("mezzo task cp w", &["web.b:"]),
        ("mezzo node show ", &["n1"]),
        ("mezzo node show a", &["agent-1"]),
        ("mezzo task list --node ", &["n1"]),
        ("mezzo node maintenance schedule w n1 n", &["n1"]),
        ("mezzo framework explain ", &["batch", "marathon"]),
        (
            "mezzo framework teardown f",
            &["framework-1", "framework-2"],
        ),
        ("mezzo master events --agent ", &["agent-1"]),
        ("mezzo role weight ", &["eng", "eng/web"]),
        ("mezzo app add --role e", &["eng", "eng/web"]),
        ("mezzo volume destroy n1 ", &["orders"]),
        ("mezzo volume destroy n2 o", &[]),
    ] {
        let found = match expected {
            [] => cluster.offered(line).await,
            _ => cluster.offered_in_time(line).await,
        };
        assert_eq!(found, expected, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_on_the_line_is_asked() {
    let cluster = Scripted::default().start(None).await;
    let there = cluster.address.lock().unwrap().clone();
    *cluster.address.lock().unwrap() = "127.0.0.1:1".to_owned();
    assert!(cluster.offered("mezzo task exec w").await.is_empty());
    let line = format!("mezzo task exec --master {there} w");
    assert_eq!(cluster.offered_in_time(&line).await, ["web.b"]);
}
