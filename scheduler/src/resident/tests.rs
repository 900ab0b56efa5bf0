//! What a resident app keeps on a machine: whether an offer fits, which changes it takes, and that nothing kept is lost.

use mezzo_api::model::Pools;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::app::parse_app;
use crate::place::room_of;

fn app(cpus: u32, sizes: &[u32]) -> App {
    let volumes = sizes.iter().enumerate();
    let volumes = volumes.map(|(n, size)| {
        json!({"containerPath": format!("/v{n}"), "mode": "RW", "persistent": {"size": size}})
    });
    let body = json!({
        "id": "/shop/db",
        "cpus": cpus,
        "mem": 32,
        "container": {"docker": {"image": "db:1"}, "volumes": volumes.collect::<Vec<_>>()},
    });
    parse_app(&body, None).0.expect("a good app")
}

fn offer(pools: &Pools) -> Offer {
    Offer {
        offer_id: "o".parse().expect("valid"),
        framework_id: "f".parse().expect("valid"),
        agent_id: "a".parse().expect("valid"),
        hostname: "node".to_owned(),
        role: role(),
        resources: pools.plain(),
        reserved: pools.pool_list(),
        volumes: pools.volumes().cloned().collect(),
        attributes: Vec::new(),
        region: String::new(),
        zone: String::new(),
        address: String::new(),
        revocable: false,
        unavailability: None,
    }
}

fn role() -> RoleName {
    "apps".parse().expect("valid")
}

fn apply(pools: &Pools, changes: &[PoolChange]) -> Pools {
    changes.iter().fold(pools.clone(), |pools, change| {
        let conversion = pools.conversion(change).expect("it is there");
        pools.converted(&conversion).expect("just looked")
    })
}

#[test]
fn a_volume_is_also_mounted_where_the_app_names_it_by_its_place_in_the_sandbox() {
    let body = json!({
        "id": "/db",
        "container": {"docker": {"image": "mysql"}, "volumes": [
            {"containerPath": "mysqldata", "mode": "RW", "persistent": {"type": "root", "size": 10}},
            {"containerPath": "/var/lib/mysql", "hostPath": "mysqldata", "mode": "RW"},
            {"containerPath": "/srv", "hostPath": "/srv", "mode": "RO"},
        ]},
    });
    let app = parse_app(&body, None).0.expect("a good app");
    let written = parse_app(&app.to_json(), None).0;
    assert_eq!(written.as_ref(), Some(&app));
    let offer = offer(&Pools::default());
    let id = HoldingId(Uuid::from_u128(1));
    let holding = Holding::new(id, &app, &role(), &offer, 0).expect("a role");
    let id = holding.volumes[0].volume.id.clone();
    let mounts: Vec<(String, bool)> = holding
        .mounts(&app)
        .map(|mount| {
            let is_it = mount.source == VolumeSource::Persistent(id.clone());
            (mount.container_path, is_it)
        })
        .collect();
    let at = |path: &str| (path.to_owned(), true);
    assert_eq!(
        mounts,
        [at("/mnt/mezzo/sandbox/mysqldata"), at("/var/lib/mysql")]
    );
    // What is the machine's stays the machine's.
    let paths: Vec<String> = app
        .volumes()
        .into_iter()
        .map(|v| v.container_path)
        .collect();
    assert_eq!(paths, ["/srv"]);
}

proptest! {
    /// Whatever else is on the machine.
    #[test]
    fn what_is_made_is_found_and_given_back_whole(
        cpus in 1u32..4,
        sizes in proptest::collection::vec(1u32..200, 1..4),
        others in 0u128..3,
    ) {
        let machine: Resources = "cpus:20;mem:4096;disk:10000;ports:[1-9]".parse().expect("resources");
        let app = app(cpus, &sizes);
        let mut pools = Pools::open_to_all(machine);
        for n in 0..others {
            let id = HoldingId(Uuid::from_u128(n));
            let other = Holding::new(id, &app, &role(), &offer(&pools), 0).expect("a role");
            pools = apply(&pools, &other.making());
        }
        let id = HoldingId(Uuid::from_u128(99));
        let holding = Holding::new(id, &app, &role(), &offer(&pools), 0).expect("a role");
        prop_assert!(holding.found_in(&offer(&pools)).is_err());
        prop_assert!(giving_back(id, &offer(&pools)).is_empty());
        let made = apply(&pools, &holding.making());
        prop_assert!(holding.found_in(&offer(&made)).is_ok());
        prop_assert_eq!(made.flat(), pools.flat());
        let room = room_of(&offer(&made));
        prop_assert_eq!(room.open(), made.open());
        let text = serde_json::to_string(&holding).expect("plain");
        prop_assert_eq!(serde_json::from_str::<Holding>(&text).expect("plain"), holding);
        prop_assert_eq!(apply(&made, &giving_back(id, &offer(&made))), pools);
    }
}

#[test]
fn a_task_starts_on_what_is_there_with_ports_of_its_own() {
    let machine: Resources = "cpus:20;mem:4096;disk:10000;ports:[1-3]"
        .parse()
        .expect("resources");
    let app = app(1, &[10]);
    let mut pools = Pools::open_to_all(machine);
    let holdings: Vec<Holding> = (0..4)
        .map(|n| {
            let id = HoldingId(Uuid::from_u128(n));
            let holding = Holding::new(id, &app, &role(), &offer(&pools), 0).expect("a role");
            pools = apply(&pools, &holding.making());
            holding
        })
        .collect();
    let offers = [offer(&pools)];
    let mut open = vec![room_of(&offers[0])];
    let all: Vec<&Holding> = holdings.iter().collect();
    let (placed, lacking) = relaunch(&all, 9, &Ask::of(&app), &offers, &mut open, 7);
    let ports: BTreeSet<u16> = placed.iter().flat_map(|one| one.ports.clone()).collect();
    assert_eq!((placed.len(), ports.len()), (3, 3));
    assert!(matches!(lacking[0].1[0], Lack::Ports { .. }), "{lacking:?}");
    let gone = HoldingId(Uuid::from_u128(9));
    let gone = Holding::new(gone, &app, &role(), &offers[0], 0).expect("a role");
    let (placed, lacking) = relaunch(&[&gone], 1, &Ask::of(&app), &offers, &mut open, 7);
    assert!(placed.is_empty());
    assert!(matches!(lacking[0].1[0], Lack::Reservation { .. }));
}
