//! Each metric that an alert in `packaging/alerts` speaks of is one that a running master tells, with the labels that it asks for.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]
#![expect(clippy::unwrap_used, reason = "test support")]

mod common;

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use common::{Agent, DEADLINE, Framework, Master, config, task};
use mezzo_api::proto::TaskState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const RULES: &str = "../packaging/alerts/mezzo.rules.yml";

async fn metrics(master: &Master) -> String {
    let mut stream = tokio::net::TcpStream::connect(master.address)
        .await
        .unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

/// A label and the values that are asked for, where one is.
type Label = Option<(String, Vec<String>)>;

/// Names of metrics in these rules, and what they ask of labels: `name`, `label`, values.
fn asked(rules: &str) -> BTreeSet<(String, Label)> {
    let pattern = regex::Regex::new(r#"mezzo_[a-z_]+(?:\{([a-z]+)=~?"([^"]+)"\})?"#).unwrap();
    let wanted = pattern.captures_iter(rules).map(|found| {
        let name = found[0].split('{').next().unwrap().to_owned();
        let label = found.get(1).zip(found.get(2)).map(|(label, values)| {
            let values = values.as_str().split('|').map(str::to_owned);
            (label.as_str().to_owned(), values.collect())
        });
        (name, label)
    });
    wanted.collect()
}

/// The first metric, or value of a label, that is asked for and not told.
fn all_told(text: &str, asked: &BTreeSet<(String, Label)>) -> Result<(), String> {
    for (name, label) in asked {
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| {
                let rest = line.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .collect();
        if lines.is_empty() {
            return Err(format!("no master tells {name}"));
        }
        let Some((label, values)) = label else {
            continue;
        };
        for value in values {
            let wanted = format!("{label}=\"{value}\"");
            if !lines.iter().any(|line| line.contains(&wanted)) {
                return Err(format!("{name}: no {wanted}"));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn alerts_speak_of_metrics_that_exist() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agent = Agent::attach(&master, "node-1", "cpus:4;mem:4096").await;
    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(&offers, vec![task("t1", &agent.id, "cpus:1;mem:64")])
        .await;
    let launch = agent.expect_launch().await;
    agent.report(&launch, TaskState::TaskRunning, "u1").await;
    framework.expect_state("t1", TaskState::TaskRunning).await;

    let rules = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RULES)).unwrap();
    let asked = asked(&rules);
    assert!(asked.len() > 10, "{asked:?}");
    // Metrics are told from the published snapshot, which follows what happened.
    let deadline = Instant::now() + DEADLINE;
    while let Err(lack) = all_told(&metrics(&master).await, &asked) {
        assert!(Instant::now() < deadline, "{lack}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    master.stop().await;
}
