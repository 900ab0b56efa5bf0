//! Tasks with a network of their own: from the order to the address in the status, the files inside, checks within, a
//! restart, ports that somebody else has.
//!
//! Each runs in a process and a network namespace of its own: the machine's network is never touched.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mezzo_api::proto::{
    self,
    TaskState::{TaskFailed, TaskRunning},
};
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::wrappers::TcpListenerStream;

use crate::bench::{Bench, eventually, task};
use crate::cases::Case;

/// Set in the process that has a network of its own.
pub(crate) const ISOLATED: &str = "MEZZO_TEST_NETWORK";

pub(crate) fn all() -> Vec<Case> {
    vec![
        Case {
            name: "a_task_on_the_bridge_is_reached_by_its_port_also_after_a_restart",
            run: |bench| Box::pin(reached(bench)),
            isolated: true,
        },
        Case {
            name: "a_port_that_somebody_has_is_told_before_anything_starts",
            run: |bench| Box::pin(taken(bench)),
            isolated: true,
        },
        Case {
            name: "kills_of_the_agent_in_the_middle_of_launches_leave_no_network_behind",
            run: |bench| Box::pin(killed(bench)),
            isolated: true,
        },
        Case {
            name: "checks_over_https_and_grpc_ask_within_the_tasks_own_network",
            run: |bench| Box::pin(asked(bench)),
            isolated: true,
        },
    ]
}

/// Runs this program again for one case. What it mounts is gone with its last process, too.
pub(crate) async fn in_a_network_of_its_own(case: &str) -> bool {
    tokio::process::Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .arg(case)
        .env(ISOLATED, "1")
        .status()
        .await
        .is_ok_and(|status| status.success())
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_ascii_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// The machine: loopback, and an uplink with a way out.
pub(crate) fn machine() {
    ip("link set lo up");
    ip("link add uplink type veth peer name far");
    ip("link set far up");
    ip("link set uplink mtu 1450 up");
    ip("addr add 10.99.0.1/24 dev uplink");
    ip("route add default via 10.99.0.2");
}

pub(crate) fn on_the_bridge(id: &str, host_port: u32, args: &[&str]) -> proto::TaskInfo {
    let mut info = task(id, args);
    info.resources.push(proto::Resource {
        name: "ports".into(),
        value: Some(proto::resource::Value::Ranges(proto::Ranges {
            ranges: vec![proto::Range {
                begin: host_port.into(),
                end: host_port.into(),
            }],
        })),
    });
    let container = info.container.as_mut().unwrap();
    container.network = proto::NetworkMode::Bridge.into();
    container.port_mappings = vec![proto::PortMapping {
        container_port: 80,
        host_port,
        ..proto::PortMapping::default()
    }];
    info
}

fn get(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) fn check(kind: proto::CheckKind, port: u32) -> proto::HealthCheck {
    proto::HealthCheck {
        kind: kind.into(),
        path: "/".into(),
        port,
        interval_ms: 200,
        timeout_ms: 10_000,
        max_consecutive_failures: 3,
        grace_period_ms: 60_000,
        ..proto::HealthCheck::default()
    }
}

pub(crate) fn log_of(bench: &Bench, container: &str) -> String {
    let folder = bench.config.state_dir.join("runtime/containers");
    fs::read_to_string(folder.join(container).join("stdout")).unwrap_or_default()
}

async fn reached(bench: &mut Bench) {
    machine();
    bench.config.network.dns = vec!["9.9.9.9".parse().unwrap()];
    bench.start(1).await;
    let mut info = on_the_bridge(
        "web",
        31_000,
        &[
            "serve",
            "80",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/hostname",
        ],
    );
    info.health_checks = vec![check(proto::CheckKind::Http, 80)];
    bench.launch(info).await;
    let running = bench.master.status("web", TaskRunning).await;
    let container = running.container.unwrap();
    assert_eq!(container.ip_addresses, ["172.28.0.2"]);
    eventually("healthy from within its own network", || {
        let statuses = bench.master.statuses();
        statuses
            .iter()
            .any(|status| status.task_id == "web" && status.healthy == Some(true))
    })
    .await;
    for address in ["127.0.0.1:31000", "10.99.0.1:31000", "172.28.0.2:80"] {
        let answer = get(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer}");
    }
    // What it is told of itself.
    let id = &container.container_id;
    eventually("it has told what it sees", || {
        log_of(bench, id).contains("ready")
    })
    .await;
    let log = log_of(bench, id);
    for line in [
        format!("172.28.0.2\t{id}"),
        format!("== /etc/hostname\n{id}\n"),
        "nameserver 9.9.9.9\n".to_owned(),
        format!("HOSTNAME={id}\n"),
        "MESOS_CONTAINER_IP=172.28.0.2\n".to_owned(),
    ] {
        assert!(log.contains(&line), "{line:?} is missing in {log}");
    }

    bench.kill_agent().await;
    get("127.0.0.1:31000").expect("served while no agent is there");
    bench.start(2).await;
    let known = bench.master.last_registration().tasks;
    let status = known[0].status.clone().unwrap();
    assert_eq!(
        status.container.unwrap().ip_addresses,
        ["172.28.0.2"],
        "found again"
    );
    get("127.0.0.1:31000").expect("and afterwards");
    bench.kill_task("web", Some(100)).await;
    bench.master.end("web").await;
    assert!(get("127.0.0.1:31000").is_err(), "nobody's any more");
}

async fn taken(bench: &mut Bench) {
    machine();
    let holder = TcpListener::bind("0.0.0.0:31000").unwrap();
    bench.start(1).await;
    bench
        .launch(on_the_bridge("web", 31_000, &["serve", "80"]))
        .await;
    let end = bench.master.end("web").await;
    assert_eq!(end.state(), TaskFailed);
    let named = format!("(pid {})", std::process::id());
    assert!(
        end.message.contains("port 31000") && end.message.contains(&named),
        "{}",
        end.message
    );
    drop(holder);
    // A port that the task does not hold is refused; a bridge that is somebody else's, named.
    let mut foreign = on_the_bridge("foreign", 31_001, &["serve", "80"]);
    foreign.container.as_mut().unwrap().port_mappings[0].host_port = 31_002;
    bench.launch(foreign).await;
    let end = bench.master.end("foreign").await;
    assert!(
        end.message.contains("port_mappings[0].host_port"),
        "{}",
        end.message
    );
    ip("link add mezzo0 type bridge");
    bench
        .launch(on_the_bridge("late", 31_003, &["serve", "80"]))
        .await;
    let end = bench.master.end("late").await;
    assert!(
        end.message.contains("bridge mezzo0") && end.message.contains("network.bridge"),
        "{}",
        end.message
    );
    ip("link delete mezzo0");
    let leases = bench.config.state_dir.join("runtime/network/leases");
    assert_eq!(fs::read_dir(leases).map_or(0, Iterator::count), 0);
}

fn links() -> usize {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "master", "mezzo0"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).lines().count()
}

async fn killed(bench: &mut Bench) {
    machine();
    bench.start(1).await;
    bench
        .launch(on_the_bridge("calm", 31_000, &["serve", "80"]))
        .await;
    bench.master.status("calm", TaskRunning).await;
    for round in 0..6_u32 {
        for n in 0..4 {
            let port = 31_001 + round * 4 + n;
            let id = format!("hasty{round}-{n}");
            bench
                .launch(on_the_bridge(&id, port, &["serve", "80"]))
                .await;
        }
        // Not synchronisation: the point is to hit the launches at a different moment in every round.
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 12)).await;
        bench.kill_agent().await;
        bench.start(usize::try_from(round).unwrap() + 2).await;
    }
    let mut client = bench.client().await;
    let leases = bench.config.state_dir.join("runtime/network/leases");
    let n_leases = || fs::read_dir(&leases).map_or(0, Iterator::count);
    // Every task that runs has its address, its link and its port, and nobody else has any.
    let mut settled = None;
    for _ in 0..2_000 {
        let node = client
            .get_node(proto::GetNodeRequest {})
            .await
            .unwrap()
            .into_inner();
        let statuses: Vec<_> = node.tasks.into_iter().filter_map(|t| t.status).collect();
        let running: Vec<_> = statuses
            .iter()
            .filter(|status| status.state() == TaskRunning)
            .cloned()
            .collect();
        let busy = statuses.iter().any(|status| {
            matches!(
                status.state(),
                proto::TaskState::TaskStaging | proto::TaskState::TaskStarting
            )
        });
        if !busy && running.len() == n_leases() && running.len() == links() {
            settled = Some(running);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let running = settled.expect("networks and running tasks agree");
    let addresses: std::collections::BTreeSet<_> = running
        .iter()
        .map(|status| status.container.as_ref().unwrap().ip_addresses.clone())
        .collect();
    assert_eq!(addresses.len(), running.len(), "an address each");
    for port in 31_000..31_025_u32 {
        let id = match port - 31_000 {
            0 => "calm".to_owned(),
            n => format!("hasty{}-{}", (n - 1) / 4, (n - 1) % 4),
        };
        let serves = running.iter().any(|status| status.task_id == id);
        let answers = get(&format!("127.0.0.1:{port}")).is_ok();
        assert_eq!(answers, serves, "{id} on {port}");
    }
}

/// A listener in the task's own network, of this process: beside the task's own, as far as anybody who connects can tell.
fn listener_in_network_of(pid: u32, port: u16) -> tokio::net::TcpListener {
    let bound = std::thread::spawn(move || {
        // Of this thread alone, which ends. A socket stays in the network where it was made.
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(("127.0.0.1", port)).unwrap()
    });
    let listener = bound.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    tokio::net::TcpListener::from_std(listener).unwrap()
}

/// Answers HTTPS requests, with a certificate that nobody signed: well, until it is told not to.
async fn serve_https(listener: tokio::net::TcpListener, is_well: Arc<AtomicBool>) {
    let made = rcgen::generate_simple_self_signed(vec!["elsewhere.example".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = if is_well.load(Ordering::Relaxed) {
            "HTTP/1.1 200 OK\r\n\r\n"
        } else {
            "HTTP/1.1 503 No\r\n\r\n"
        };
        // Who asks may be gone at any time.
        let Ok(mut stream) = acceptor.accept(stream).await else {
            continue;
        };
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

async fn asked(bench: &mut Bench) {
    machine();
    bench.start(1).await;
    let mut pids = Vec::new();
    for (id, kind, path, host_port) in [
        ("secure", proto::CheckKind::Https, "/up", 31_000),
        ("remote", proto::CheckKind::Grpc, "shop.Cart", 31_001),
    ] {
        let mut info = on_the_bridge(id, host_port, &["sleep"]);
        info.health_checks = vec![proto::HealthCheck {
            path: path.into(),
            ..check(kind, 9_443)
        }];
        bench.launch(info).await;
        let running = bench.master.status(id, TaskRunning).await;
        pids.push(running.container.unwrap().pid);
    }
    // The same port in both networks, and nobody at it on the machine.
    let is_well = Arc::new(AtomicBool::new(true));
    let https = serve_https(listener_in_network_of(pids[0], 9_443), Arc::clone(&is_well));
    let https = tokio::spawn(https);
    let (reporter, service) = tonic_health::server::health_reporter();
    let serving = tonic_health::ServingStatus::Serving;
    reporter.set_service_status("shop.Cart", serving).await;
    let incoming = TcpListenerStream::new(listener_in_network_of(pids[1], 9_443));
    let server = tonic::transport::Server::builder().add_service(service);
    let grpc = tokio::spawn(server.serve_with_incoming(incoming));
    assert!(TcpStream::connect("127.0.0.1:9443").is_err());
    for id in ["secure", "remote"] {
        eventually("healthy from within its own network", || {
            let statuses = bench.master.statuses();
            statuses
                .iter()
                .any(|status| status.task_id == id && status.healthy == Some(true))
        })
        .await;
    }
    // What they answer counts, too.
    is_well.store(false, Ordering::Relaxed);
    let not = tonic_health::ServingStatus::NotServing;
    reporter.set_service_status("shop.Cart", not).await;
    for (id, words) in [("secure", "503"), ("remote", "is not serving")] {
        let end = bench.master.end(id).await;
        let told = (end.state(), end.reason());
        let wanted = (TaskFailed, proto::Reason::HealthCheckStatusUpdated);
        assert_eq!(told, wanted, "{id}: {}", end.message);
        assert!(end.message.contains(words), "{id}: {}", end.message);
    }
    // A socket keeps the network of a task: it goes with the servers.
    https.abort();
    grpc.abort();
}
