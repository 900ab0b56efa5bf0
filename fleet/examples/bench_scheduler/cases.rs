//! What is measured, and how it is told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mezzo_fleet::{Config, Fleet};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http::Client;
use crate::servers::{Process, Used};
use crate::{Args, Result};

/// For what is measured as a whole: far above every aim.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks at what is under way.
const LOOK: Duration = Duration::from_millis(20);

/// A fresh cluster.
struct Cluster {
    // In the order in which they are to end.
    scheduler: Process,
    fleet: Fleet,
    master: Process,
    dir: tempfile::TempDir,
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    for case in &args.case {
        let cluster = Cluster::start(args).await?;
        match case.as_str() {
            "scale" => scale(args, &cluster).await?,
            "apps" => apps(args, cluster).await?,
            "roll" => roll(args, &cluster).await?,
            other => return Err(format!("there is no case {other:?}").into()),
        }
    }
    Ok(())
}

fn tell(case: &str, unit: &str, values: &[f64]) {
    println!("{}", json!({"case": case, "unit": unit, "values": values}));
}

impl Cluster {
    async fn start(args: &Args) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("mezzo-bench-scheduler-")
            .tempdir()?;
        let master_dir = dir.path().join("master");
        let master = Process::start(&["master", text(&master_dir)?], &master_dir)?;
        let fleet = Fleet::spawn(Config {
            masters: vec![master.address.to_string()],
            agents: args.agents,
            resources: "cpus:64;mem:262144;disk:1000000;ports:[31000-32999]".parse()?,
            tell_starting: true,
            ..Config::default()
        })?;
        fleet.all_connected(PATIENCE).await?;
        let scheduler = start_scheduler(dir.path(), &master)?;
        let cluster = Self {
            scheduler,
            fleet,
            master,
            dir,
        };
        cluster.subscribed().await?;
        Ok(cluster)
    }

    async fn client(&self) -> Result<Client> {
        Client::connect(self.scheduler.address).await
    }

    /// Until the scheduler has its framework id.
    async fn subscribed(&self) -> Result<()> {
        let mut client = self.client().await?;
        self.until(
            "a framework id",
            || true,
            &mut client,
            "/v2/info",
            |info| info["frameworkId"].is_string(),
        )
        .await
    }

    /// Until the answer at `path` is as it should be; `before` says when asking begins to make sense.
    async fn until(
        &self,
        what: &str,
        before: impl Fn() -> bool,
        client: &mut Client,
        path: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let begin = Instant::now();
        loop {
            if before() && fits(&client.json(path).await?) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                return Err(
                    format!("no {what} within {PATIENCE:?}: {:?}", self.fleet.counts()).into(),
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until so many tasks run, and nothing is under way any more.
    async fn settled(&self, tasks: u64) -> Result<()> {
        let mut client = self.client().await?;
        self.until(
            "rest",
            || self.fleet.counts().tasks == tasks,
            &mut client,
            "/v2/deployments",
            |list| list.as_array().is_some_and(Vec::is_empty),
        )
        .await
    }

    fn used(&self) -> Result<(Used, Used)> {
        Ok((self.scheduler.used()?, self.master.used()?))
    }
}

fn start_scheduler(dir: &Path, master: &Process) -> Result<Process> {
    let own = dir.join("scheduler");
    let address = master.address.to_string();
    Process::start(&["scheduler", text(&own)?, &address], &own)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "a path that is no text".into())
}

/// Small enough that thousands fit, with a port as most apps have one.
fn app(id: &str, instances: u32) -> Value {
    json!({
        "id": id, "cpus": 0.1, "mem": 32, "instances": instances,
        "container": {"type": "MESOS", "docker": {"image": "registry.example/sleep:1"}},
        "env": {"LEVEL": "info"}, "labels": {"team": "bench"},
        "portDefinitions": [{"port": 0, "name": "http"}],
    })
}

/// Wall time and processor time of both servers since `before`.
fn tell_since(case: &str, begin: Instant, before: (Used, Used), after: (Used, Used)) {
    tell(case, "s", &[begin.elapsed().as_secs_f64()]);
    tell(
        &format!("{case}: scheduler"),
        "CPU s",
        &[after.0.cpu_s - before.0.cpu_s],
    );
    tell(
        &format!("{case}: master"),
        "CPU s",
        &[after.1.cpu_s - before.1.cpu_s],
    );
    tell(&format!("{case}: scheduler"), "MB", &[after.0.rss_mb]);
}

async fn scale(args: &Args, cluster: &Cluster) -> Result<()> {
    tell("idle: scheduler", "MB", &[cluster.scheduler.used()?.rss_mb]);
    let mut client = cluster.client().await?;
    client
        .done("POST", "/v2/apps", &app("/bench", 0).to_string())
        .await?;
    cluster.settled(0).await?;
    let (before, begin) = (cluster.used()?, Instant::now());
    let body = json!({"instances": args.scale}).to_string();
    client.done("PUT", "/v2/apps//bench", &body).await?;
    cluster.settled(u64::from(args.scale)).await?;
    let case = format!("one app, 0 to {} instances", args.scale);
    tell_since(&case, begin, before, cluster.used()?);
    Ok(())
}

async fn apps(args: &Args, cluster: Cluster) -> Result<()> {
    let (before, begin) = (cluster.used()?, Instant::now());
    let address = cluster.scheduler.address;
    let slowest = by_clients(args, address, |i| {
        (
            "POST",
            "/v2/apps".to_owned(),
            app(&format!("/bench/app-{i}"), 1).to_string(),
        )
    })
    .await?;
    let case = format!("{} apps by {} clients", args.apps, args.clients);
    tell(
        &format!("{case}: all answered"),
        "s",
        &[begin.elapsed().as_secs_f64()],
    );
    tell(&format!("{case}: slowest answer"), "ms", &[slowest]);
    cluster.settled(u64::from(args.apps)).await?;
    tell_since(&case, begin, before, cluster.used()?);
    list(args, &cluster, 1).await?;
    if args.each > 1 {
        let begin = Instant::now();
        let before = cluster.used()?;
        let each = args.each;
        by_clients(args, address, move |i| {
            let body = json!({"instances": each}).to_string();
            ("PUT", format!("/v2/apps//bench/app-{i}"), body)
        })
        .await?;
        cluster
            .settled(u64::from(args.apps) * u64::from(args.each))
            .await?;
        let case = format!("{} apps, 1 to {} instances each", args.apps, args.each);
        tell_since(&case, begin, before, cluster.used()?);
        list(args, &cluster, args.each).await?;
    }
    restart(args, cluster).await
}

/// `GET` of everything.
async fn list(args: &Args, cluster: &Cluster, each: u32) -> Result<()> {
    let mut client = cluster.client().await?;
    let mut times = Vec::new();
    let mut bytes = 0;
    let before = cluster.scheduler.used()?;
    for _ in 0..args.rounds {
        let begin = Instant::now();
        let body = client.done("GET", "/v2/apps?embed=apps.tasks", "").await?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        bytes = body.len();
    }
    let after = cluster.scheduler.used()?;
    let case = format!("GET of {} apps with {each} task(s) each", args.apps);
    tell(&case, "ms", &times);
    let cpu_ms = (after.cpu_s - before.cpu_s) * 1000.0 / f64::from(args.rounds);
    tell(&case, "CPU ms", &[cpu_ms]);
    tell(&case, "MB", &[bytes as f64 / 1e6]);
    Ok(())
}

/// `kill -9`, and how long until the next one has read its state and answers.
async fn restart(args: &Args, mut cluster: Cluster) -> Result<()> {
    let tasks = cluster.fleet.counts().tasks;
    let mut serving = Vec::new();
    let mut cpu = Vec::new();
    for _ in 0..args.rounds {
        let dir = cluster.dir.path().to_owned();
        let Cluster { scheduler, .. } = cluster;
        drop(scheduler);
        let begin = Instant::now();
        let scheduler = start_scheduler(&dir, &cluster.master)?;
        let mut client = Client::connect(scheduler.address).await?;
        client.done("GET", "/v2/apps//bench/app-0", "").await?;
        serving.push(begin.elapsed().as_secs_f64());
        cpu.push(scheduler.used()?.cpu_s);
        cluster = Cluster {
            scheduler,
            ..cluster
        };
        cluster.subscribed().await?;
    }
    cluster.settled(tasks).await?;
    let kills = cluster.fleet.counts().kills;
    let case = format!("restart with {} apps and {tasks} instances", args.apps);
    tell(&case, "s", &serving);
    tell(&case, "CPU s", &cpu);
    tell(
        &format!("{case}: scheduler"),
        "MB",
        &[cluster.scheduler.used()?.rss_mb],
    );
    tell(&format!("{case}: tasks killed"), "tasks", &[kills as f64]);
    Ok(())
}

/// Every client takes the next request until none is left. Returns the longest time to an answer, in ms.
async fn by_clients(
    args: &Args,
    address: SocketAddr,
    request: impl Fn(u32) -> (&'static str, String, String) + Send + Sync + 'static,
) -> Result<f64> {
    let (next, request) = (Arc::new(AtomicU32::new(0)), Arc::new(request));
    let apps = args.apps;
    let mut clients: JoinSet<std::result::Result<f64, String>> = JoinSet::new();
    for _ in 0..args.clients {
        let (next, request) = (Arc::clone(&next), Arc::clone(&request));
        clients.spawn(async move {
            let mut slowest = 0f64;
            let mut client = Client::connect(address).await.map_err(|e| e.to_string())?;
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= apps {
                    return Ok(slowest);
                }
                let (method, path, body) = request(i);
                let begin = Instant::now();
                client
                    .done(method, &path, &body)
                    .await
                    .map_err(|e| e.to_string())?;
                slowest = slowest.max(begin.elapsed().as_secs_f64() * 1000.0);
            }
        });
    }
    let mut slowest = 0f64;
    while let Some(ended) = clients.join_next().await {
        slowest = slowest.max(ended??);
    }
    Ok(slowest)
}

/// Every instance replaced, and what was seen of the bounds: by the scheduler itself, and by the agents.
async fn roll(args: &Args, cluster: &Cluster) -> Result<()> {
    let n = args.roll;
    let mut body = app("/bench", n);
    body["upgradeStrategy"] = json!({"minimumHealthCapacity": 0.9, "maximumOverCapacity": 0.1});
    let mut client = cluster.client().await?;
    client.done("POST", "/v2/apps", &body.to_string()).await?;
    cluster.settled(u64::from(n)).await?;
    let (before, begin) = (cluster.used()?, Instant::now());
    let launched = cluster.fleet.counts().launches;
    let update = json!({"env": {"LEVEL": "debug"}}).to_string();
    client.done("PUT", "/v2/apps//bench", &update).await?;
    let (mut fewest, mut most) = (u64::from(n), 0);
    loop {
        let found = client.json("/v2/apps?id=/bench").await?;
        let found = &found["apps"][0];
        let running = found["tasksRunning"].as_u64().ok_or("no tasksRunning")?;
        fewest = fewest.min(running);
        let counts = cluster.fleet.counts();
        // Those that have ended and are not acknowledged yet take no room.
        let lives = counts.launches.saturating_sub(counts.ended);
        most = most.max(lives);
        if found["deployments"].as_array().is_some_and(Vec::is_empty) {
            break;
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("the update does not end: {counts:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let case = format!("rolling update of {n} instances");
    tell_since(&case, begin, before, cluster.used()?);
    tell(
        &format!("{case}: fewest running"),
        "tasks",
        &[fewest as f64],
    );
    tell(&format!("{case}: most at once"), "tasks", &[most as f64]);
    let replaced = cluster.fleet.counts().launches - launched;
    let (least, limit) = (u64::from(n) * 9 / 10, u64::from(n) * 11 / 10);
    if fewest < least || most > limit || replaced != u64::from(n) {
        let seen = format!("{fewest} to {most} instances, {replaced} launched");
        return Err(format!("bounds {least} to {limit} were crossed: {seen}").into());
    }
    Ok(())
}
