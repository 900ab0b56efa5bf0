//! Mapped ports: who reaches what behind them, and who does not any more.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use mezzo_runtime::{NetworkError, NetworkRequest, PortMap, PortProtocol};

use crate::common::{id, until, within};
use crate::place::{begin, end, node, serve, tcp};
use crate::world::{
    MACHINE, MACHINE6, SILENCE, WORLD, WORLD6, World, ask, ask_from, is_silent, isolated,
    within_network,
};

#[test]
fn mapped_ports_answer_from_every_side() {
    isolated("ports::mapped_ports_answer_from_every_side", async {
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
    isolated(
        "ports::a_stream_of_udp_finds_the_next_holder_of_its_port",
        async {
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
        },
    );
}

/// An address is used again: what was under way to the container that had it before is not for the one that has it now.
#[test]
fn a_stream_of_udp_to_a_departed_container_does_not_reach_who_has_its_address_next() {
    let test =
        "ports::a_stream_of_udp_to_a_departed_container_does_not_reach_who_has_its_address_next";
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
