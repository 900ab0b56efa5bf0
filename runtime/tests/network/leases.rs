//! Who has which address, link and port: one holder each, found again after a restart, taken back from nobody else.

use std::fs;
use std::time::{Duration, Instant};

use mezzo_runtime::{Network, NetworkError, NetworkRequest};

use crate::common::{self, Node, chain, id, until};
use crate::place::{end, leases, node, serve, tcp};
use crate::world::{
    MACHINE, WORLD, World, ask_from, bridge_is_there, ip, is_silent, isolated, links,
};

#[test]
fn a_restart_finds_networks_again_and_takes_back_what_is_nobodys() {
    let test = "leases::a_restart_finds_networks_again_and_takes_back_what_is_nobodys";
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
    let test = "leases::a_bridge_or_subnet_of_somebody_else_is_left_alone_and_named";
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
    isolated(
        "leases::many_at_once_get_an_address_each_and_quickly",
        async {
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
        },
    );
}
