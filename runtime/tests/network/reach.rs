//! Which ways there are for a container and to it, and which there are not.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use mezzo_runtime::{Network, NetworkRequest};

use crate::common::{id, until, within};
use crate::place::{end, leases, node, serve};
use crate::world::{
    MACHINE, SILENCE, UPLINK_MTU, WORLD, World, ask, ask_from, bridge_is_there, in_namespace_of,
    is_silent, isolated, links, within_network,
};

#[test]
fn a_container_reaches_out_behind_the_machine_and_knows_the_uplinks_mtu() {
    let test = "reach::a_container_reaches_out_behind_the_machine_and_knows_the_uplinks_mtu";
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

/// CVE-2020-8558: `route_localnet`, without which mapped ports would not answer on 127.0.0.1, must not open the
/// machine's own loopback to containers.
#[test]
fn the_machines_loopback_stays_its_own() {
    isolated("reach::the_machines_loopback_stays_its_own", async {
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
