//! Exactness of pools: nothing is made, lost or had twice.

use proptest::prelude::*;

use super::*;
use crate::model::{Reservation, Scalar};

fn pools(text: &str) -> Pools {
    text.parse().unwrap()
}

fn resources(text: &str) -> Resources {
    text.parse().unwrap()
}

fn dynamic(role: &str) -> Reservation {
    Reservation::dynamic(role.parse().unwrap(), "ops")
}

fn volume(role: &str, id: &str, size_mb: u64) -> PersistentVolume {
    PersistentVolume {
        id: id.parse().unwrap(),
        stack: Stack::single(dynamic(role)).unwrap(),
        size_mb,
        principal: String::new(),
        shared: false,
    }
}

fn shared(role: &str, id: &str, size_mb: u64) -> PersistentVolume {
    PersistentVolume {
        shared: true,
        ..volume(role, id, size_mb)
    }
}

#[test]
fn settings_are_read_as_mesos_writes_them_and_bad_ones_are_named() {
    let read = pools("cpus:4; cpus(eng):2;mem(eng):64 ;ports:[1-9]; ports(eng/web):[20-29]");
    assert_eq!(read.open(), &resources("cpus:4;ports:[1-9]"));
    assert_eq!(read.flat(), resources("cpus:6;mem:64;ports:[1-9,20-29]"));
    assert_eq!(read.to_string().parse::<Pools>().unwrap(), read);
    for (bad, part) in [
        ("cpus(eng:2", "`)` is missing"),
        ("cpus(*):2", "`*`"),
        ("cpus(a b):2", "white space"),
        ("cpus(eng):x", "decimal number"),
        ("cpus(eng):1;cpus(eng):2", "stands twice"),
        ("ports:[1-9];ports(eng):[9-10]", "another role"),
        ("cpus:1;cpus(eng):[1-2]", "another kind"),
    ] {
        let error = bad.parse::<Pools>().unwrap_err().to_string();
        assert!(error.contains(part), "{bad}: {error}");
    }
}

#[test]
fn a_task_is_served_from_the_most_refined_reservation_first_and_labels_keep_away() {
    let eng = Stack::single(dynamic("eng")).unwrap();
    let web = eng.refined(dynamic("eng/web")).unwrap();
    let mut kept = dynamic("eng");
    kept.labels.insert("app".into(), "db".into());
    let kept = Stack::single(kept).unwrap();
    let have = pools("cpus:1;ports:[1-9]")
        .with_reserved(&eng, resources("cpus:2"))
        .with_reserved(&web, resources("cpus:1;ports:[20-21]"))
        .with_reserved(&kept, resources("cpus:8"));
    let picked = have.pick(&resources("cpus:2.5;ports:[3-3,21-21]")).unwrap();
    let expected = pools("ports:[3-3]")
        .with_reserved(&eng, resources("cpus:1.5"))
        .with_reserved(&web, resources("cpus:1;ports:[21-21]"));
    assert_eq!(picked, expected);
    assert!(have.contains(&picked));
    assert_eq!(have.pick(&resources("cpus:4.001")), None);
    assert_eq!(have.plain(), resources("cpus:4;ports:[1-9,20-21]"));
}

#[test]
fn roles_see_what_is_open_and_what_is_reserved_for_them_or_above() {
    let have = pools("cpus:1;cpus(eng):2;cpus(eng/web):3").with_volume(volume("ops", "data", 5));
    for (role, seen) in [
        ("eng/web", "cpus:1;cpus(eng):2;cpus(eng/web):3"),
        ("eng/data", "cpus:1;cpus(eng):2"),
        ("engine", "cpus:1"),
        ("*", "cpus:1"),
    ] {
        let role: RoleName = role.parse().unwrap();
        assert_eq!(*have.visible_to(&role), pools(seen), "{role}");
    }
    let ops: RoleName = "ops/x".parse().unwrap();
    assert_eq!(have.visible_to(&ops).volumes().count(), 1);
    assert!(have.volume_for(&ops, "data").is_some() && have.volume_for(&ops, "x").is_none());
}

#[test]
fn who_has_a_shared_volume_takes_it_from_nobody() {
    let eng = Stack::single(dynamic("eng")).unwrap();
    let (corpus, orders) = (shared("eng", "corpus", 5), volume("eng", "orders", 7));
    let all = pools("cpus:2")
        .with_reserved(&eng, resources("disk:10"))
        .with_volume(corpus.clone())
        .with_volume(orders.clone());
    assert_eq!(
        all.exclusive().to_string(),
        "cpus:2;disk(eng,ops):10;disk(eng,ops)[orders]:7"
    );
    let task = pools("cpus:1")
        .with_volume(corpus.clone())
        .with_volume(orders);
    let rest = all.without(&task).unwrap();
    assert_eq!(
        rest.to_string(),
        "cpus:1;disk(eng,ops):10;disk(eng,ops)[corpus]<SHARED>:5"
    );
    // Once more for the next, and the same for nothing but it.
    let next = pools("cpus:1").with_volume(corpus.clone());
    assert_eq!(rest.without(&next).unwrap().open(), &Resources::new());
    assert_eq!(rest.without(&task), None, "the other volume is had");
    // One of another size is not the one that is here.
    let other = Pools::default().with_volume(shared("eng", "corpus", 6));
    assert_eq!(all.without(&other), None);
    // Its end takes it away as any other's.
    let gone = all.conversion(&PoolChange::Destroy(corpus.key())).unwrap();
    let after = all.converted(&gone).unwrap();
    assert_eq!((after.volumes().count(), after.flat()), (1, all.flat()));
}

#[test]
fn changes_that_do_not_fit_are_refused_with_the_reason() {
    let eng = Stack::single(dynamic("eng")).unwrap();
    let have = pools("cpus:1;cpus(ops):2")
        .with_reserved(&eng, resources("disk:10"))
        .with_volume(volume("eng", "data", 5));
    let fixed = Stack::single(Reservation::fixed("ops".parse().unwrap())).unwrap();
    let reserve = |role: &str, amount: &str| PoolChange::Reserve {
        from: None,
        with: dynamic(role),
        resources: resources(amount),
    };
    for (change, part) in [
        (reserve("*", "cpus:1"), "`*`"),
        (reserve("eng", "cpus:1.001"), "it takes cpus:1.001"),
        (reserve("eng", ""), "names no resources"),
        (
            PoolChange::Unreserve {
                stack: fixed,
                resources: resources("cpus:1"),
            },
            "is static",
        ),
        (
            PoolChange::Unreserve {
                stack: eng.clone(),
                resources: resources("disk:11"),
            },
            "it takes disk(eng,ops):11",
        ),
        (
            PoolChange::Create(volume("eng", "data", 1)),
            "exists already",
        ),
        (PoolChange::Create(volume("eng", "more", 11)), "it takes"),
        (
            PoolChange::Destroy(volume("eng", "gone", 1).key()),
            "no volume gone of role eng",
        ),
    ] {
        let told = have.conversion(&change).unwrap_err().to_string();
        assert!(told.contains(part), "{change}: {told}");
    }
}

proptest! {
    /// Whatever is asked for in whatever order: the sum stays, nothing is lost or made, and the way back is open.
    #[test]
    fn changes_keep_the_sum(
        steps in proptest::collection::vec((0..4_u8, 0..3_usize, 0..3_usize, 1..4000_i64), 0..40),
    ) {
        let start = pools("cpus:4;disk:4;cpus(eng):2;disk(ops):1.5");
        let roles = ["eng", "eng/web", "ops"];
        let mut now = start.clone();
        for (step, role, id, millis) in steps {
            let role: RoleName = roles[role].parse().unwrap();
            let amount = Resources::new()
                .with_scalar(["cpus", "disk"][id % 2], Scalar::from_millis(millis));
            let some = now.reserved().nth(id).map(|(stack, _)| stack.clone());
            let change = match (step, some) {
                (0, from) => PoolChange::Reserve {
                    from,
                    with: Reservation::dynamic(role, "x"),
                    resources: amount,
                },
                (1, Some(stack)) => PoolChange::Unreserve { stack, resources: amount },
                (2, Some(stack)) => PoolChange::Create(PersistentVolume {
                    id: ["a", "b", "c"][id].parse().unwrap(),
                    stack,
                    size_mb: 1,
                    principal: String::new(),
                    shared: millis % 2 == 0,
                }),
                _ => PoolChange::Destroy(VolumeKey {
                    role,
                    id: ["a", "b", "c"][id].parse().unwrap(),
                }),
            };
            let Ok(conversion) = now.conversion(&change) else { continue };
            let next = now.converted(&conversion).expect("a conversion that fits");
            prop_assert_eq!(next.flat(), start.flat());
            let back = Conversion {
                consumed: conversion.produced.clone(),
                produced: conversion.consumed.clone(),
            };
            prop_assert_eq!(next.converted(&back), Some(now.clone()));
            prop_assert_eq!(
                Pools::divided(&next.flat(), &next.pool_list(), &next.volumes().cloned().collect::<Vec<_>>()),
                Ok(next.clone())
            );
            now = next;
        }
    }

    #[test]
    fn what_is_taken_and_given_back_is_what_was(
        a in 0..5000_i64, b in 0..5000_i64, c in 0..5000_i64,
    ) {
        let of = |open: i64, reserved: i64| {
            let cpus = |millis| Resources::new().with_scalar("cpus", Scalar::from_millis(millis));
            let stack = Stack::single(dynamic("eng")).unwrap();
            Pools::open_to_all(cpus(open)).with_reserved(&stack, cpus(reserved))
        };
        let (all, part) = (of(a, b), of(c, a));
        match all.checked_sub(&part) {
            Some(rest) => {
                prop_assert!(all.contains(&part));
                prop_assert_eq!(rest.checked_add(&part).unwrap(), all);
            }
            None => prop_assert!(!all.contains(&part)),
        }
    }
}
