//! Exactness of resources, and their text.

use proptest::prelude::*;

use super::*;

fn resources() -> impl Strategy<Value = Resources> {
    (
        0i64..100_000,
        0i64..100_000,
        proptest::collection::vec((0u64..60, 0u64..6), 0..5),
        // Those that an operator thinks of: a scalar, ranges, a set.
        0i64..2_000,
        proptest::collection::vec((0u64..20, 0u64..4), 0..3),
        proptest::collection::btree_set("[a-d]{1,2}", 0..5),
    )
        .prop_map(|(cpus, mem, ports, licences, vlans, disks)| {
            Resources::new()
                .with_scalar("cpus", Scalar::from_millis(cpus))
                .with_scalar("mem", Scalar::from_millis(mem))
                .with_ranges(
                    "ports",
                    Ranges::new(ports.into_iter().map(|(b, n)| (b, b + n))),
                )
                .with_scalar("licences", Scalar::from_millis(licences))
                .with_ranges(
                    "vlans",
                    Ranges::new(vlans.into_iter().map(|(b, n)| (b, b + n))),
                )
                .with("disks", Value::Set(disks))
        })
}

proptest! {
    #[test]
    fn what_is_taken_and_given_back_is_the_same(a in resources(), b in resources()) {
        match a.checked_sub(&b) {
            Some(rest) => {
                prop_assert!(a.contains(&b));
                let mut back = rest;
                back.add(&b);
                prop_assert_eq!(back, a);
            }
            None => prop_assert!(!a.contains(&b)),
        }
    }

    // Two at random seldom hold one another; a sum always does.
    #[test]
    fn a_sum_holds_both_and_gives_each_back(a in resources(), b in resources()) {
        let sum = a.checked_add(&b).unwrap();
        prop_assert!(sum.contains(&a) && sum.contains(&b));
        let mut back = sum.checked_sub(&b).unwrap();
        prop_assert!(a.contains(&back), "what both have counts once");
        back.add(&b);
        prop_assert_eq!(back, sum);
    }

    #[test]
    fn ranges_behave_as_sets_of_values(
        a in proptest::collection::vec((0u64..60, 0u64..6), 0..6),
        b in proptest::collection::vec((0u64..60, 0u64..6), 0..6),
    ) {
        let a = Ranges::new(a.into_iter().map(|(b, n)| (b, b + n)));
        let b = Ranges::new(b.into_iter().map(|(b, n)| (b, b + n)));
        let (sa, sb): (BTreeSet<_>, BTreeSet<_>) = (a.values().collect(), b.values().collect());
        prop_assert_eq!(a.union(&b).values().collect::<BTreeSet<_>>(), &sa | &sb);
        prop_assert_eq!(a.difference(&b).values().collect::<BTreeSet<_>>(), &sa - &sb);
        prop_assert_eq!(a.contains(&b), sa.is_superset(&sb));
        prop_assert_eq!(a.intersects(&b), !sa.is_disjoint(&sb));
        prop_assert_eq!(a.len(), sa.len() as u64);
    }

    #[test]
    fn text_round_trips(a in resources()) {
        prop_assert_eq!(a.to_string().parse::<Resources>().unwrap(), a);
    }

    #[test]
    fn any_text_is_read_or_refused_without_panic(text in ".{0,40}") {
        let _ = text.parse::<Resources>();
        let _ = text.parse::<Scalar>();
    }
}

#[test]
fn ranges_at_the_end_of_u64_do_not_overflow() {
    let all = Ranges::new([(0, u64::MAX)]);
    assert_eq!(
        all.difference(&Ranges::single(u64::MAX)).as_slice(),
        [(0, u64::MAX - 1)]
    );
    assert!(all.difference(&all).is_empty());
    assert_eq!(all.union(&Ranges::single(u64::MAX)), all);
}

#[test]
fn scalars_are_exact() {
    for (text, millis) in [
        ("0.1", 100),
        ("1", 1000),
        ("-2.5", -2500),
        ("0.001", 1),
        ("3.1400", 3140),
    ] {
        assert_eq!(text.parse::<Scalar>().unwrap().millis(), millis, "{text}");
    }
    for bad in [
        "",
        ".",
        "1.",
        ".5",
        "1e3",
        "0.0001",
        "--1",
        "9223372036854775807",
        "NaN",
        "+1",
        "1 ",
    ] {
        assert!(bad.parse::<Scalar>().is_err(), "{bad:?}");
    }
    assert_eq!(Scalar::from_millis(-1500).to_string(), "-1.5");
    assert_eq!(Scalar::from_millis(1010).to_string(), "1.01");
}
