//! Containers behind the machine's bridge: addresses, the way out, mapped ports from every side, what must not get
//! through, and what is left after ends and crashes.
//!
//! Each test runs in a process and a network namespace of its own (the test program executes itself again under
//! `unshare -n`), with a second namespace as the world outside: nothing here touches the machine's network.

#![expect(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Node, chain, id, until, within};
use mezzo_runtime::{
    Attachment, Network, NetworkConfig, NetworkError, NetworkRequest, PortMap, PortProtocol,
};

const INSIDE: &str = "MEZZO_TEST_NETWORK";
/// The machine's own address on its uplink, and that of the world outside.
const MACHINE: &str = "10.99.0.1";
const WORLD: &str = "10.99.0.2";
const MACHINE6: &str = "fd99::1";
const WORLD6: &str = "fd99::2";
const UPLINK_MTU: &str = "1400";
/// How long something that must not happen is waited for.
const SILENCE: Duration = Duration::from_millis(500);

/// Runs a test in a network namespace of its own.
fn isolated(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_none() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        // What a small machine's own `ip` cannot do.
        let version = Command::new("ip").arg("-V").output();
        if !version.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("iproute2")) {
            eprintln!("skipped: needs iproute2");
            return;
        }
        let status = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{test} failed in its own network");
        return;
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body);
}

/// The world outside: a namespace held by a process that ends with the test.
struct World(Child);

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl World {
    fn new() -> Self {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let child = Command::new("unshare")
            .args(["--net", "--", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let world = Self(child);
        let deadline = Instant::now() + common::TIMEOUT;
        while fs::read_link(format!("/proc/{}/ns/net", world.pid())).unwrap() == own {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        ip("link set lo up");
        ip("link add uplink type veth peer name far");
        ip(&format!("link set far netns {}", world.pid()));
        ip(&format!("link set uplink mtu {UPLINK_MTU} up"));
        ip(&format!("addr add {MACHINE}/24 dev uplink"));
        ip(&format!("addr add {MACHINE6}/64 dev uplink nodad"));
        world.ip("link set lo up");
        world.ip(&format!("link set far mtu {UPLINK_MTU} up"));
        world.ip(&format!("addr add {WORLD}/24 dev far"));
        world.ip(&format!("addr add {WORLD6}/64 dev far nodad"));
        ip(&format!("route add default via {WORLD}"));
        world
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn ip(&self, arguments: &str) {
        in_namespace_of(self.pid(), arguments);
    }
}

fn in_namespace_of(pid: i32, arguments: &str) {
    let output = Command::new("nsenter")
        .args(["--net", "--target", &pid.to_string(), "ip"])
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Does something in another process's network namespace.
fn within_network<T: Send + 'static>(pid: i32, work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// What the server at that address says: who it thinks asks.
fn ask(to: &str, port: u16) -> Result<String, std::io::Error> {
    let address = SocketAddr::new(to.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_from(pid: i32, to: &'static str, port: u16) -> String {
    within_network(pid, move || ask(to, port))
        .unwrap_or_else(|error| panic!("from {pid} to {to}:{port}: {error}"))
}

/// Whether nothing answers at that address.
fn is_silent(pid: i32, to: &'static str, port: u16) -> bool {
    within_network(pid, move || {
        let address = SocketAddr::new(to.parse().unwrap(), port);
        TcpStream::connect_timeout(&address, SILENCE).is_err()
    })
}

fn node(configure: impl FnOnce(&mut NetworkConfig)) -> Option<Node> {
    let mut node = Node::closed()?;
    configure(&mut node.config.network);
    Some(node)
}

fn tcp(host_port: u16, container_port: u16) -> PortMap {
    PortMap {
        protocol: PortProtocol::Tcp,
        host_port,
        container_port,
    }
}

/// A container that serves, once it does; with its first process.
async fn serve(node: &Node, name: &str, how: &[&str], ports: Vec<PortMap>) -> (Attachment, i32) {
    let attachment = node
        .runtime()
        .prepare_network(&id(name), NetworkRequest::Bridge { ports })
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    (attachment, begin(node, name, how).await)
}

/// The server of a container that has its place in the network, once it serves.
async fn begin(node: &Node, name: &str, how: &[&str]) -> i32 {
    let mut spec = node.spec(&[&["serve"], how].concat());
    spec.network = Network::Prepared;
    let started = node
        .runtime()
        .start(&id(name), spec)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    node.await_output(name, "ready").await;
    started.pid
}

async fn end(node: &Node, name: &str) {
    let id = id(name);
    let stopped = node.runtime().stop(&id, Duration::ZERO, 9);
    within(stopped).await.unwrap();
    within(node.runtime().wait(&id)).await.unwrap();
}

fn links() -> Vec<String> {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "type", "veth"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .filter(|name| name.starts_with("mz"))
        .map(str::to_owned)
        .collect()
}

fn leases(node: &Node) -> usize {
    let dir = node.config.state_dir.join("network/leases");
    fs::read_dir(dir).map_or(0, Iterator::count)
}

fn bridge_is_there() -> bool {
    Command::new("ip")
        .args(["link", "show", "mezzo0"])
        .output()
        .unwrap()
        .status
        .success()
}

#[test]
fn a_container_reaches_out_behind_the_machine_and_knows_the_uplinks_mtu() {
    let test = "a_container_reaches_out_behind_the_machine_and_knows_the_uplinks_mtu";
    isolated(test, async {
        let world = World::new();
        let Some(mut node) = node(|_| {}) else {
            return;
        };
        node.open().await;
        assert!(!bridge_is_there(), "made before anybody needs it");
        let (attachment, pid) = serve(&node, "a", &["tcp4", "80"], vec![]).await;
        assert_eq!(
            attachment.addresses,
            ["172.28.0.2".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(node.runtime().attachment(&id("a")), Some(attachment));

        let listener = within_network(world.pid(), || TcpListener::bind("0.0.0.0:900").unwrap());
        let out = within_network(pid, || TcpStream::connect(format!("{WORLD}:900")).unwrap());
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), MACHINE, "seen under the machine's");
        drop(out);

        // The machine itself, other containers, itself over loopback.
        let (_, other) = serve(&node, "b", &["tcp4", "80"], vec![]).await;
        assert_eq!(ask("172.28.0.2", 80).unwrap(), "172.28.0.1");
        assert_eq!(ask_from(other, "172.28.0.2", 80), "172.28.0.3");
        assert_eq!(ask_from(pid, "127.0.0.1", 80), "127.0.0.1");
        // A check's socket is in the container's network.
        let socket: OwnedFd = node
            .runtime()
            .tcp_socket(&id("a"), "127.0.0.1".parse().unwrap())
            .await
            .unwrap();
        let stream = TcpStream::from(socket);
        let socket = tokio::net::TcpSocket::from_std_stream(stream);
        let mut stream = within(socket.connect("127.0.0.1:80".parse().unwrap()))
            .await
            .unwrap()
            .into_std()
            .unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "127.0.0.1");

        node.runtime()
            .prepare_network(&id("m"), NetworkRequest::Bridge { ports: vec![] })
            .await
            .unwrap();
        let mut spec = node.spec(&["cat", "/sys/class/net/eth0/mtu", "/proc/net/dev"]);
        spec.network = Network::Prepared;
        node.run("m", spec).await;
        let seen = node.stdout("m");
        assert!(seen.starts_with(UPLINK_MTU), "{seen}");
        assert!(!seen.contains("uplink") && seen.contains("eth0"), "{seen}");

        // An address of a container is nobody's business outside, whoever knows the way.
        world.ip(&format!("route add 172.28.0.0/16 via {MACHINE}"));
        assert!(is_silent(world.pid(), "172.28.0.2", 80));
        for name in ["a", "b"] {
            end(&node, name).await;
        }
        assert_eq!(leases(&node), 0);
        until("the links are gone", || links().is_empty()).await;
        node.runtime().purge().await.unwrap();
        assert!(!bridge_is_there());
    });
}

#[test]
fn mapped_ports_answer_from_every_side() {
    isolated("mapped_ports_answer_from_every_side", async {
        let world = World::new();
        let Some(mut node) = node(|network| network.ipv6 = Some("fd28::/64".parse().unwrap()))
        else {
            return;
        };
        node.open().await;
        let udp = PortMap {
            protocol: PortProtocol::Udp,
            host_port: 31_001,
            container_port: 53,
        };
        let (attachment, pid) = serve(&node, "a", &["tcp6", "80"], vec![tcp(31_000, 80)]).await;
        let text: Vec<String> = attachment.addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(text, ["172.28.0.2", "fd28::2"]);
        let (_, other) = serve(&node, "u", &["udp4", "53"], vec![udp]).await;

        // From outside: the container sees who really asks.
        assert_eq!(
            ask_from(world.pid(), MACHINE, 31_000),
            format!("::ffff:{WORLD}")
        );
        assert_eq!(ask_from(world.pid(), MACHINE6, 31_000), WORLD6);
        // From the machine: by its address, by loopback.
        assert_eq!(ask(MACHINE, 31_000).unwrap(), format!("::ffff:{MACHINE}"));
        assert_eq!(ask("127.0.0.1", 31_000).unwrap(), "::ffff:172.28.0.1");
        assert_eq!(ask("127.8.9.1", 31_000).unwrap(), "::ffff:172.28.0.1");
        assert_eq!(ask(MACHINE6, 31_000).unwrap(), MACHINE6);
        // From another container, and from the container itself (hairpin), by every address of the machine.
        for (from, to, seen) in [
            (other, MACHINE, "::ffff:172.28.0.1"),
            (pid, MACHINE, "::ffff:172.28.0.1"),
            (pid, "172.28.0.1", "::ffff:172.28.0.1"),
            (other, MACHINE6, "fd28::1"),
            (pid, MACHINE6, "fd28::1"),
        ] {
            assert_eq!(ask_from(from, to, 31_000), seen, "from {from} to {to}");
        }
        let seen = within_network(world.pid(), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            socket.send_to(b"who", (MACHINE, 31_001)).unwrap();
            let mut bytes = [0; 100];
            let (length, _) = socket.recv_from(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        });
        assert_eq!(seen, WORLD);
        // The protocol counts: nobody serves UDP's port by TCP.
        assert!(is_silent(world.pid(), MACHINE, 31_001));

        // A port has one holder; what it was given goes with its end.
        let refused = node
            .runtime()
            .prepare_network(
                &id("c"),
                NetworkRequest::Bridge {
                    ports: vec![tcp(31_000, 81)],
                },
            )
            .await
            .unwrap_err();
        assert!(
            matches!(&refused, NetworkError::PortTaken { port: 31_000, holder } if holder.as_str() == "a"),
            "{refused}"
        );
        end(&node, "a").await;
        assert!(is_silent(world.pid(), MACHINE, 31_000));
        let (_, _) = serve(&node, "c", &["tcp6", "81"], vec![tcp(31_000, 81)]).await;
        assert_eq!(
            ask_from(world.pid(), MACHINE, 31_000),
            format!("::ffff:{WORLD}")
        );
        for name in ["c", "u"] {
            end(&node, name).await;
        }
    });
}

/// The kernel remembers where a stream went; whoever never pauses must still reach the port's next holder.
#[test]
fn a_stream_of_udp_finds_the_next_holder_of_its_port() {
    isolated("a_stream_of_udp_finds_the_next_holder_of_its_port", async {
        let world = World::new();
        let Some(mut node) = node(|_| {}) else {
            return;
        };
        node.open().await;
        let udp = |container_port| PortMap {
            protocol: PortProtocol::Udp,
            host_port: 31_001,
            container_port,
        };
        let socket = within_network(world.pid(), || {
            let socket = UdpSocket::bind("0.0.0.0:4444").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect((MACHINE, 31_001)).unwrap();
            socket
        });
        // Always from the same port, and before anybody is there.
        let answered = || {
            let _ = socket.send(b"who");
            std::thread::sleep(Duration::from_millis(5));
            let mut bytes = [0; 100];
            socket.recv(&mut bytes).is_ok()
        };
        for _ in 0..5 {
            assert!(!answered());
        }
        serve(&node, "a", &["udp4", "53"], vec![udp(53)]).await;
        until("the first holder answers", answered).await;
        end(&node, "a").await;
        for _ in 0..5 {
            let _ = answered();
        }
        serve(&node, "b", &["udp4", "54"], vec![udp(54)]).await;
        until("the next holder answers", answered).await;
        end(&node, "b").await;
    });
}

/// An address is used again: what was under way to the container that had it before is not for the one that has it now.
#[test]
fn a_stream_of_udp_to_a_departed_container_does_not_reach_who_has_its_address_next() {
    let test = "a_stream_of_udp_to_a_departed_container_does_not_reach_who_has_its_address_next";
    isolated(test, async {
        let world = World::new();
        // Room for one container.
        let Some(mut node) = node(|network| network.ipv4 = "172.28.0.0/30".parse().unwrap()) else {
            return;
        };
        node.open().await;
        let socket = within_network(world.pid(), || {
            let socket = UdpSocket::bind("0.0.0.0:4444").unwrap();
            socket.connect((MACHINE, 31_001)).unwrap();
            socket
        });
        let answered = |patience: Duration| {
            socket.set_read_timeout(Some(patience)).unwrap();
            let _ = socket.send(b"who");
            let mut bytes = [0; 100];
            socket.recv(&mut bytes).is_ok()
        };
        let mapped = PortMap {
            protocol: PortProtocol::Udp,
            host_port: 31_001,
            container_port: 53,
        };
        let (first, _) = serve(&node, "a", &["udp4", "53"], vec![mapped]).await;
        until("it answers", || answered(Duration::from_millis(5))).await;
        end(&node, "a").await;
        // Its address is free a moment after its end.
        let second = within(async {
            loop {
                let request = NetworkRequest::Bridge { ports: vec![] };
                match node.runtime().prepare_network(&id("b"), request).await {
                    Err(NetworkError::NoAddress { .. }) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    prepared => break prepared.unwrap(),
                }
            }
        })
        .await;
        assert_eq!(first.addresses, second.addresses);
        let pid = begin(&node, "b", &["udp4", "53"]).await;
        // It does answer those who mean it.
        let asked = within_network(pid, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let timeout = Some(Duration::from_secs(20));
            socket.set_read_timeout(timeout).unwrap();
            socket.send_to(b"who", "127.0.0.1:53").unwrap();
            socket.recv(&mut [0; 100]).is_ok()
        });
        assert!(asked);
        for _ in 0..5 {
            assert!(!answered(SILENCE / 5));
        }
        end(&node, "b").await;
    });
}

/// CVE-2020-8558: `route_localnet`, without which mapped ports would not answer on 127.0.0.1, must not open the
/// machine's own loopback to containers.
#[test]
fn the_machines_loopback_stays_its_own() {
    isolated("the_machines_loopback_stays_its_own", async {
        let _world = World::new();
        let Some(mut node) = node(|_| {}) else {
            return;
        };
        node.open().await;
        let (_, pid) = serve(&node, "a", &["tcp4", "80"], vec![]).await;
        let listener = TcpListener::bind("127.0.0.2:700").unwrap();
        listener.set_nonblocking(true).unwrap();
        // A container that may change its own network sends there what should never leave a machine.
        in_namespace_of(
            pid,
            "route add 127.0.0.2/32 via 172.28.0.1 dev eth0 table 9",
        );
        in_namespace_of(pid, "rule del pref 0");
        in_namespace_of(pid, "rule add pref 5 table local");
        in_namespace_of(pid, "rule add pref 1 table 9");
        within_network(pid, || {
            fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        });
        let sent = within_network(pid, || {
            let socket = std::net::SocketAddr::new("127.0.0.2".parse().unwrap(), 700);
            TcpStream::connect_timeout(&socket, SILENCE).is_ok()
        });
        assert!(!sent, "a container reached the machine's 127.0.0.2");
        assert!(listener.accept().is_err());
        // The same way does lead to the machine where it may.
        let public = TcpListener::bind("172.28.0.1:700").unwrap();
        within_network(pid, || TcpStream::connect("172.28.0.1:700").unwrap());
        public.accept().unwrap();
        end(&node, "a").await;
    });
}

#[test]
fn a_restart_finds_networks_again_and_takes_back_what_is_nobodys() {
    let test = "a_restart_finds_networks_again_and_takes_back_what_is_nobodys";
    isolated(test, async {
        let world = World::new();
        let Some(mut node) = node(|_| {}) else {
            return;
        };
        node.open().await;
        serve(&node, "a", &["tcp4", "80"], vec![tcp(31_000, 80)]).await;
        // The agent dies between preparing and starting, and at the end of another.
        node.runtime()
            .prepare_network(
                &id("never"),
                NetworkRequest::Bridge {
                    ports: vec![tcp(31_002, 80)],
                },
            )
            .await
            .unwrap();
        assert_eq!((links().len(), leases(&node)), (2, 2));
        node.close();
        // A link as a crash of the worst kind would leave it, and lines that are nobody's.
        ip("link add mzdead type veth peer name mzdead2");
        ip("link set mzdead master mezzo0");
        node.open().await;
        assert_eq!(leases(&node), 1);
        until("only one link is left", || links().len() == 1).await;
        assert_eq!(ask_from(world.pid(), MACHINE, 31_000), WORLD);
        assert!(is_silent(world.pid(), MACHINE, 31_002));
        // Its address is not given to others.
        let (attachment, _) = serve(&node, "b", &["tcp4", "80"], vec![tcp(31_002, 80)]).await;
        assert_ne!(attachment.addresses[0].to_string(), "172.28.0.2");
        assert_eq!(ask_from(world.pid(), MACHINE, 31_002), WORLD);

        // Somebody removes the bridge under us: those that run have lost their network, new ones have one.
        ip("link delete mezzo0");
        serve(&node, "c", &["tcp4", "80"], vec![tcp(31_003, 80)]).await;
        assert_eq!(ask_from(world.pid(), MACHINE, 31_003), WORLD);
        // Ends while no agent is there.
        node.close();
        let keeper = node.config.state_dir.join("containers/c/lock");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(keeper).unwrap()).unwrap();
        let pid = record["running"]["process"]["pid"].as_i64().unwrap();
        common::kill(i32::try_from(pid).unwrap());
        until("its end is written down", || {
            node.config
                .state_dir
                .join("containers/c/exit.json")
                .exists()
        })
        .await;
        node.open().await;
        until("released", || leases(&node) == 2).await;
        assert!(is_silent(world.pid(), MACHINE, 31_003));
        for name in ["a", "b"] {
            end(&node, name).await;
        }
        assert_eq!(leases(&node), 0);
    });
}

#[test]
fn a_bridge_or_subnet_of_somebody_else_is_left_alone_and_named() {
    let test = "a_bridge_or_subnet_of_somebody_else_is_left_alone_and_named";
    isolated(test, async {
        let _world = World::new();
        ip("link add mezzo0 type bridge");
        ip("link add other0 type bridge");
        ip("link set other0 up");
        ip("addr add 172.29.1.1/24 dev other0");
        let Some(mut node) = node(|_| {}) else {
            return;
        };
        node.open().await;
        let prepare = async |node: &Node| {
            let request = NetworkRequest::Bridge { ports: vec![] };
            let prepared = node.runtime().prepare_network(&id("a"), request).await;
            prepared.map_err(|error| chain(&error))
        };
        let refused = prepare(&node).await.unwrap_err();
        assert!(
            refused.contains("bridge mezzo0 has nobody's note"),
            "{refused}"
        );
        assert!(refused.contains("network.bridge"), "{refused}");
        node.close();
        node.config.network.bridge = "mezzo1".to_owned();
        node.config.network.ipv4 = "172.29.0.0/16".parse().unwrap();
        node.open().await;
        let refused = prepare(&node).await.unwrap_err();
        assert!(
            refused.contains("overlaps 172.29.1.0/24") && refused.contains("other0"),
            "{refused}"
        );
        // A start without what should come before it says so, and leaves nothing.
        let mut spec = node.spec(&["true"]);
        spec.network = Network::Prepared;
        let refused = node.runtime().start(&id("a"), spec).await.unwrap_err();
        assert!(chain(&refused).contains("prepare_network"), "{refused}");
        node.close();
        node.config.network.ipv4 = "172.30.0.0/30".parse().unwrap();
        node.open().await;
        prepare(&node).await.unwrap();
        assert!(prepare(&node).await.unwrap_err().contains("already"));
        let request = NetworkRequest::Bridge { ports: vec![] };
        let full = node.runtime().prepare_network(&id("b"), request).await;
        assert!(
            matches!(full, Err(NetworkError::NoAddress { taken: 1, .. })),
            "{full:?}"
        );
        node.runtime().release_network(&id("a")).await;
        node.runtime().release_network(&id("a")).await;
        let deadline = Instant::now() + common::TIMEOUT;
        while let Err(refused) = prepare(&node).await {
            assert!(refused.contains("no free address"), "{refused}");
            assert!(Instant::now() < deadline, "the address does not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.runtime().purge().await.unwrap();
        assert!(bridge_is_there(), "mezzo0 is somebody else's");
    });
}

#[test]
fn many_at_once_get_an_address_each_and_quickly() {
    isolated("many_at_once_get_an_address_each_and_quickly", async {
        let _world = World::new();
        let Some(mut node) = node(|_| {}) else {
            return;
        };
        node.open().await;
        let mut times = Vec::new();
        let mut addresses = std::collections::BTreeSet::new();
        for n in 0..20_u16 {
            let request = NetworkRequest::Bridge {
                ports: vec![tcp(31_000 + n, 80)],
            };
            let began = Instant::now();
            let id = id(&format!("one-{n}"));
            let prepared = node.runtime().prepare_network(&id, request).await;
            addresses.extend(prepared.unwrap().addresses);
            times.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times.sort();
        common::tell(&format!(
            "one after the other: median {:?}, worst {:?}",
            times[10], times[19]
        ));
        let mut tasks = tokio::task::JoinSet::new();
        let began = Instant::now();
        for n in 0..40_u16 {
            let runtime = node.runtime().clone();
            tasks.spawn(async move {
                let request = NetworkRequest::Bridge {
                    ports: vec![tcp(32_000 + n, 80)],
                };
                runtime
                    .prepare_network(&id(&format!("many-{n}")), request)
                    .await
                    .unwrap()
            });
        }
        while let Some(prepared) = tasks.join_next().await {
            addresses.extend(prepared.unwrap().addresses);
        }
        common::tell(&format!("40 at once: {:?}", began.elapsed()));
        assert_eq!(addresses.len(), 60);
        assert_eq!(links().len(), 60);
        let began = Instant::now();
        for n in 0..20 {
            node.runtime()
                .release_network(&id(&format!("one-{n}")))
                .await;
        }
        common::tell(&format!("released, each: {:?}", began.elapsed() / 20));
        assert_eq!(leases(&node), 40);
        until("their links are gone", || links().len() == 40).await;
    });
}
