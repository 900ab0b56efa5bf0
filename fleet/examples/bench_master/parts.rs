//! What this program is when it starts itself: the master, the fleet, who lists. Each ends when its standard input closes.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mezzo_api::proto::{self, operator_service_client::OperatorServiceClient};
use mezzo_fleet::{Config, Fleet};
use mezzo_framework::model::Resources;
use serde_json::json;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;

/// A master with the defaults, until standard input closes.
pub(super) async fn serve(listen: SocketAddr, state_dir: PathBuf) -> Result<()> {
    mezzo_heap::choose_for_server();
    let config = mezzo_master::Config {
        listen,
        state_dir,
        ..mezzo_master::Config::default()
    };
    let shutdown = CancellationToken::new();
    let (ready, address) = tokio::sync::oneshot::channel();
    let run = mezzo_master::run_and_tell(config, shutdown.clone(), Some(ready));
    let run = tokio::spawn(run);
    if let Ok(address) = address.await {
        println!("{address}");
    }
    tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop)).await?;
    shutdown.cancel();
    Ok(run.await??)
}

/// Simulated agents; after they are connected, each line of standard input is answered with their counts.
pub(super) async fn fleet(master: SocketAddr, agents: usize, resources: Resources) -> Result<()> {
    mezzo_heap::choose_for_server();
    let fleet = Fleet::spawn(Config {
        masters: vec![master.to_string()],
        agents,
        resources,
        // As many as come at once: agents of a cluster do not wait for each other.
        registrations: 512,
        // A lost acknowledgement would be seen; slow ones are not to be answered with more work.
        repeat_after: Duration::from_secs(60),
        ..Config::default()
    })?;
    fleet.all_connected(PATIENCE).await?;
    println!("connected");
    let fleet = tokio::task::spawn_blocking(move || -> Result<Fleet> {
        for line in std::io::stdin().lines() {
            line?;
            let counts = fleet.counts();
            let told = json!({
                "connected": counts.connected, "registrations": counts.registrations,
                "launches": counts.launches, "tasks": counts.tasks, "repeats": counts.repeats,
                "acknowledgements": counts.acknowledgements, "overcommitted": counts.overcommitted,
            });
            println!("{told}");
        }
        Ok(fleet)
    });
    fleet.await??.stop().await;
    Ok(())
}

/// The first tasks again and again, page by page. Each line of standard input is answered with the seconds that lists took since
/// the last one, and with why there are no more of them.
pub(super) async fn list(master: SocketAddr, n: usize, every: Duration) -> Result<()> {
    let lists: Arc<Mutex<Lists>> = Arc::default();
    let told = Arc::clone(&lists);
    let mut answers = tokio::task::spawn_blocking(move || -> Result<()> {
        for line in std::io::stdin().lines() {
            line?;
            let mut lists = told.lock().expect("nobody panics with it");
            let seconds = std::mem::take(&mut lists.seconds);
            println!("{}", json!({"seconds": seconds, "failed": lists.failed}));
        }
        Ok(())
    });
    let again = async {
        // However long the launches take, as many lists fall into them as into all time.
        let mut next = time::interval_at(time::Instant::now() + every / 2, every);
        loop {
            next.tick().await;
            let started = Instant::now();
            let read = read(master, n).await;
            let took = started.elapsed().as_secs_f64();
            let mut lists = lists.lock().expect("nobody panics with it");
            match read {
                Ok(()) => lists.seconds.push(took),
                Err(error) => {
                    lists.failed = Some(format!("{error:#}"));
                    return;
                }
            }
        }
    };
    tokio::select! {
        ended = &mut answers => return ended?,
        () = again => {}
    }
    answers.await?
}

/// What came of lists.
#[derive(Debug, Default)]
struct Lists {
    seconds: Vec<f64>,
    failed: Option<String>,
}

/// The first tasks once.
async fn read(master: SocketAddr, wanted: usize) -> Result<()> {
    let mut client = OperatorServiceClient::connect(format!("http://{master}"))
        .await?
        .max_decoding_message_size(64 << 20);
    let (mut n, mut page_token) = (0, String::new());
    while n < wanted {
        let request = proto::ListTasksRequest {
            page_token,
            ..proto::ListTasksRequest::default()
        };
        let page = client.list_tasks(request).await?.into_inner();
        n += page.tasks.len();
        page_token = page.next_page_token;
        ensure!(
            n >= wanted || !page_token.is_empty(),
            "only {n} tasks are listed"
        );
    }
    Ok(())
}
