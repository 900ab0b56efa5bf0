//! The tests of what is measured: rates, history, sums by app, and what measuring costs.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mezzo_api::proto::{
    self, NetworkMode,
    TaskState::{TaskFinished, TaskKilled, TaskRunning},
};
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, FRAMEWORK, eventually, task};

/// The agent's metrics, by a plain HTTP request.
pub(crate) fn metrics(bench: &Bench) -> String {
    let address = bench.address();
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn figure(metrics: &str, series: &str) -> Option<String> {
    metrics
        .lines()
        .find_map(|line| Some(line.strip_prefix(series)?.trim().to_owned()))
}

pub(crate) async fn what_tasks_use_is_told_with_rates_and_history(bench: &mut Bench) {
    bench.start(1).await;
    let mut spins = task("spins", &["spin"]);
    spins.cpu_limit = Some(proto::Scalar { millis: 200 });
    spins.container.as_mut().unwrap().network = NetworkMode::None.into();
    bench.launch(spins).await;
    bench.launch(task("idles", &["sleep"])).await;
    bench.master.status("spins", TaskRunning).await;
    bench.master.status("idles", TaskRunning).await;
    let mut client = bench.client().await;
    let request = proto::GetStatsRequest {
        task_ids: vec!["spins".into()],
        with_history: true,
    };
    let mut rounds = client
        .watch_stats(request.clone())
        .await
        .unwrap()
        .into_inner();
    let first = rounds.message().await.unwrap().unwrap();
    let mut before = first.sampled_at_ms;
    // Until it has run into its limit, between two samples.
    let told = loop {
        let round = rounds.message().await.unwrap().unwrap();
        assert!(round.sampled_at_ms >= before && round.tasks.len() <= 1);
        before = round.sampled_at_ms;
        if let Some(task) = round.tasks.into_iter().next()
            && let Some(rates) = task.rates
            && rates.cpu_millis.is_some_and(|cpu| cpu > 0)
            && rates.cpu_throttled_permille.is_some_and(|share| share > 0)
        {
            assert!(task.history.is_empty(), "only the first answer has it");
            break task;
        }
    };
    assert_eq!(told.cpu_limit_millis, Some(200));
    assert_eq!(told.memory_limit_bytes, Some(32 << 20));
    let usage = told.usage.unwrap();
    assert_eq!(
        usage.network_rx_bytes,
        Some(0),
        "a network of its own, and nobody there"
    );
    assert!(
        usage.memory_working_set_bytes.is_some()
            && usage.memory_working_set_bytes <= usage.memory_bytes
    );
    let once = client.get_stats(request).await.unwrap().into_inner();
    assert!(!once.tasks[0].history.is_empty());
    assert!(
        once.tasks[0]
            .history
            .iter()
            .any(|point| point.cpu_millis > Some(0))
    );
    assert!(once.node.is_some());
    let all = proto::GetStatsRequest::default();
    let mut names = Vec::new();
    while names.len() < 2 {
        let round = client.get_stats(all.clone()).await.unwrap().into_inner();
        names = round
            .tasks
            .iter()
            .map(|task| task.task_id.clone())
            .collect();
        let host = round.tasks.iter().find(|task| task.task_id == "idles");
        let rx = host.and_then(|task| task.usage?.network_rx_bytes);
        assert_eq!(rx, None, "the machine's network is nobody's");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(names, ["idles", "spins"]);
    let node = client
        .get_node(proto::GetNodeRequest {})
        .await
        .unwrap()
        .into_inner();
    let capacity = node.capacity.unwrap();
    assert!(capacity.configured && capacity.mem_mb > 0 && capacity.cpu_millis >= 1000);
}

pub(crate) async fn apps_are_counted_to_the_microsecond(bench: &mut Bench) {
    bench.start(1).await;
    let mut used = 0;
    for n in 0..3 {
        let mut short = task(&format!("short-{n}"), &["exit", "0"]);
        short.name = "short".into();
        bench.launch(short).await;
        let end = bench.master.end(&format!("short-{n}")).await;
        assert_eq!(end.state(), TaskFinished, "{}", end.message);
        used += end.usage.unwrap().cpu_total_us.unwrap();
    }
    let text = metrics(bench);
    let labels = format!("{{framework=\"{FRAMEWORK}\",app=\"short\"}}");
    assert_eq!(
        figure(&text, &format!("mezzo_agent_app_cpu_seconds_total{labels}")),
        Some(format!("{}.{:06}", used / 1_000_000, used % 1_000_000)),
        "{text}"
    );
    assert_eq!(
        figure(&text, &format!("mezzo_agent_app_tasks{labels}")).as_deref(),
        Some("0")
    );
    assert_eq!(
        figure(&text, "mezzo_agent_launch_seconds_count").as_deref(),
        Some("3")
    );
    assert!(!text.contains("short-1"), "no task is in a label:\n{text}");
    for series in [
        "own_cpu_seconds_total",
        "own_open_descriptors",
        "own_memory_bytes",
    ] {
        assert!(
            figure(&text, &format!("mezzo_agent_{series}")).is_some(),
            "{series}"
        );
    }
}

/// How long a master waits for an answer before it gives an agent up, unless it is told otherwise (`agent_ping_timeout_ms`).
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// With `MEZZO_STORM_TASKS` so many, and figures; else a few. No agent is given up for being busy.
pub(crate) async fn a_storm_of_launches_and_of_kills_holds_up_nothing(bench: &mut Bench) {
    let wanted = std::env::var("MEZZO_STORM_TASKS").ok();
    let count: usize = wanted.as_ref().map_or(60, |n| n.parse().unwrap());
    bench.config.resources = Some("cpus:4000;mem:40000000;disk:1000".parse().unwrap());
    bench.start(1).await;
    bench.master.report().await;
    let name = |n: usize| format!("storm-{n}");
    let bench = &*bench;
    let launches = async {
        for n in 0..count {
            bench.launch(task(&name(n), &["sleep"])).await;
        }
        for n in 0..count {
            bench.master.status(&name(n), TaskRunning).await;
        }
    };
    let kills = async {
        for n in 0..count {
            bench.kill_task(&name(n), Some(0)).await;
        }
        for n in 0..count {
            let end = bench.master.end(&name(n)).await;
            assert_eq!(end.state(), TaskKilled, "{}", end.message);
        }
    };
    let up = meanwhile(bench, launches).await;
    let down = meanwhile(bench, kills).await;
    if wanted.is_some() {
        println!("{count} launches: {up:?}");
        println!("{count} kills: {down:?}");
    }
    for storm in [&up, &down] {
        assert!(storm.silence < PING_TIMEOUT, "{storm:?}");
    }
}

/// What a master saw while something went on.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
struct Meanwhile {
    took: Duration,
    /// How many pings were answered, and the longest time without an answer.
    pings: u64,
    silence: Duration,
    /// Reports of samples, and the longest time without one.
    reports: usize,
    gap: Duration,
}

/// Pings all the time until it is over, which is at least once; what was asked before the end is waited for.
async fn meanwhile(bench: &Bench, work: impl Future<Output = ()>) -> Meanwhile {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let (begun, before) = (Instant::now(), bench.master.reports());
    let mut seen = Meanwhile {
        took: Duration::ZERO,
        pings: 0,
        silence: Duration::ZERO,
        reports: 0,
        gap: Duration::ZERO,
    };
    let is_over = CancellationToken::new();
    let working = async {
        work.await;
        is_over.cancel();
        begun.elapsed()
    };
    let watching = async {
        let (mut answered, mut reported) = (begun, begun);
        loop {
            let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
            bench.master.ping(sequence).await;
            seen.pings += 1;
            seen.silence = seen.silence.max(answered.elapsed());
            answered = Instant::now();
            let reports = bench.master.reports() - before;
            if reports > seen.reports {
                seen.reports = reports;
                seen.gap = seen.gap.max(reported.elapsed());
                reported = Instant::now();
            }
            if is_over.is_cancelled() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (took, ()) = tokio::join!(working, watching);
    seen.took = took;
    // One more after it, however short it was.
    eventually("another report", || bench.master.reports() > before).await;
    seen
}

/// Processor time of a process so far, from its `stat`: milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<u64> = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    fields.iter().sum::<u64>() * 10
}

/// With `MEZZO_MEASURE_TASKS` so many, and figures; else a few, to see that it works. The bound is of the samples' own
/// making (`usage::turn`), so that it holds on a slow machine too; it is wider for a build without optimisation.
pub(crate) async fn many_idle_tasks_cost_little(bench: &mut Bench) {
    let wanted = std::env::var("MEZZO_MEASURE_TASKS").ok();
    let count: usize = wanted.as_ref().map_or(5, |n| n.parse().unwrap());
    if wanted.is_some() {
        bench.config.usage_interval_ms = 2_000;
        bench.config.resources = Some("cpus:4000;mem:40000000;disk:1000".parse().unwrap());
    }
    bench.start(1).await;
    let begun = Instant::now();
    for n in 0..count {
        bench.launch(task(&format!("idle-{n}"), &["sleep"])).await;
    }
    for n in 0..count {
        bench.master.status(&format!("idle-{n}"), TaskRunning).await;
    }
    let started = begun.elapsed();
    all_sampled(bench, count).await;
    if wanted.is_none() {
        return;
    }
    println!("{count} tasks started in {started:?}");
    // The same tasks under agents that lend what these do not use, and under agents that do not, in turn.
    for round in 0..4 {
        let lends = round % 2 == 1;
        bench.kill_agent().await;
        bench.config.oversubscribe = lends;
        bench.start(round + 2).await;
        all_sampled(bench, count).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = cpu_ms(bench.agent_pid());
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(30)).await;
        let used = cpu_ms(bench.agent_pid()) - before;
        let node = all_sampled(bench, count).await;
        println!(
            "at rest the agent used {used} ms in {:?}: {:.2} % of a core; memory {:?}{}",
            begun.elapsed(),
            used as f64 / begun.elapsed().as_millis() as f64 * 100.0,
            node.agent_memory_bytes,
            if lends { "; it lends" } else { "" }
        );
    }
}

/// Waits until there is a sample of each of so many tasks.
async fn all_sampled(bench: &Bench, count: usize) -> proto::NodeUsage {
    let mut client = bench.client().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let request = proto::GetStatsRequest::default();
        let round = client.get_stats(request).await.unwrap().into_inner();
        if round.tasks.len() >= count {
            return round.node.unwrap();
        }
        assert!(Instant::now() < deadline, "not all were sampled");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
