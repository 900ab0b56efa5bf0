//! Simulated agents and a framework at a master that asks for credentials, and reads them again while they are connected: every
//! stream stays, who is new is let in, and who is gone is refused from the next call on.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is the test's failure"
)]

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use common::{PATIENCE, config};
use mezzo_api::{
    credential::{Authorized, Credential},
    proto::{GetClusterRequest, operator_service_client::OperatorServiceClient},
};
use mezzo_fleet::{Config, Fleet};
use mezzo_framework::{Event, Framework};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Endpoint};

/// The line for its owner, and the entry with these rules.
fn made(name: &str, allow: &str) -> (Credential, String) {
    let (line, entry) = mezzo_master::new_credential(name).unwrap();
    let entry = entry.replace("allow = []", &format!("allow = [{allow}]"));
    (Credential::parse(&line).unwrap(), entry)
}

/// Whole or not at all: the master may still be reading the one before.
fn put(path: &Path, entries: &[&str]) {
    let new = path.with_extension("new");
    fs::write(&new, entries.join("\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, path).unwrap();
}

async fn look(address: &str, credential: &Credential) -> Code {
    let channel = Endpoint::from_shared(address.to_owned()).unwrap();
    let channel = Authorized::new(channel.connect_lazy(), credential.clone());
    let mut operator = OperatorServiceClient::new(channel);
    let asked = operator.get_cluster(GetClusterRequest {});
    match timeout(PATIENCE, asked).await.unwrap() {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_read_again_and_no_stream_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials.toml");
    let (agents, agents_entry) = made("agents", "'attach-agent'");
    let (team, team_entry) = made("team", "'subscribe team'");
    let (ops, ops_entry) = made("ops", "'operate'");
    put(&path, &[&agents_entry, &team_entry]);
    let master = mezzo_master::Config {
        credentials: Some(path.clone()),
        ..config(&dir.path().join("state"), "127.0.0.1:0".parse().unwrap())
    };
    let address_file = master.state_dir.join("address");
    let (stop, again) = (CancellationToken::new(), Arc::new(Notify::new()));
    let run = mezzo_master::run_reloading(master, stop.clone(), Arc::clone(&again));
    let master = tokio::spawn(run);
    let listens = async {
        loop {
            if let Ok(text) = fs::read_to_string(&address_file) {
                return text.trim().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let address = timeout(PATIENCE, listens).await.unwrap();
    let url = format!("http://{address}");

    let fleet = |credential: Credential| {
        let masters = vec![address.clone()];
        Fleet::spawn(Config {
            masters,
            credential,
            agents: 3,
            ..Config::default()
        })
        .unwrap()
    };
    let strangers = fleet(Credential::default());
    let known = fleet(agents.clone());
    known.all_connected(PATIENCE).await.unwrap();
    let mut framework = Framework::builder("test")
        .masters([address.clone()])
        .roles(["team"])
        .credential(team)
        .spawn()
        .unwrap();
    let calls = framework.calls();
    // With the first offers it is subscribed for sure.
    loop {
        let event = timeout(PATIENCE, framework.next()).await.unwrap();
        if let Event::Offers(_) = event.unwrap().unwrap() {
            break;
        }
    }
    calls.revive(&[]).await.unwrap();
    assert_eq!(look(&url, &ops).await, Code::Unauthenticated);

    // One comes, one goes.
    put(&path, &[&agents_entry, &ops_entry]);
    again.notify_one();
    let let_in = async {
        while look(&url, &ops).await != Code::Ok {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, let_in).await.unwrap();
    let refused = calls.revive(&[]).await.unwrap_err();
    assert!(
        refused.to_string().contains("the credential is not good"),
        "{refused}"
    );
    // A file that is not good changes nothing. That it was read is seen when a good one after it was.
    put(&path, &["[[principal]]"]);
    again.notify_one();
    tokio::task::yield_now().await;
    let (late, late_entry) = made("late", "'read'");
    put(&path, &[&agents_entry, &ops_entry, &late_entry]);
    again.notify_one();
    let let_in = async {
        while look(&url, &late).await != Code::Ok {
            assert_eq!(look(&url, &ops).await, Code::Ok);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, let_in).await.unwrap();
    let counts = known.counts();
    assert_eq!(
        (counts.connected, counts.registrations),
        (3, 3),
        "{counts:?}"
    );
    assert_eq!(strangers.counts().registrations, 0);
    for fleet in [strangers, known] {
        fleet.stop().await;
    }
    framework.close().await;
    stop.cancel();
    timeout(PATIENCE, master).await.unwrap().unwrap().unwrap();
}
