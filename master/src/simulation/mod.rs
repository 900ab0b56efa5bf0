//! The pure core among simulated agents and frameworks, with faults; one seed, one history.
//!
//! `world` holds the core, the connections (ordered, lossy at their end) and the clock; `machine` is an agent that runs
//! tasks as state machines; `author` is a framework. After every step the rules hold:
//!
//! * books balance, and sums over agents, roles and frameworks agree (`Core::audit`);
//! * no task is sent to an agent twice, and what an agent runs is booked;
//! * a framework never sees two different ends of one task, and no offer that its filter excludes;
//! * what is reserved is offered to its role and those below it alone; no change of it is told to have ended in two ways;
//! * no pass brings a role above its limit; the quotas in force are those in the store.
//!
//! In the end the world heals, and then every task and every change has an end that its framework knows, nothing is
//! booked, master and agents agree what is reserved, nothing waits for acknowledgement. A failing seed is printed; `MEZZO_SEED=n` runs that one, `MEZZO_SEEDS=n` that many.

mod author;
mod machine;
mod world;

use mezzo_api::model::{
    PersistentVolume, PoolChange, Pools, Reservation, Resources, RoleName, Scalar, VolumeKey,
};
use world::World;

/// Deterministic chance (splitmix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Of what there is, or nearly.
fn any_change(pools: &Pools, dice: &mut Dice) -> PoolChange {
    let role: RoleName = ["a", "b", "b/c"][dice.below(3)].parse().unwrap();
    let tenths = i64::try_from(1 + dice.below(12)).unwrap();
    let mut some = Resources::new().with_scalar("cpus", Scalar::from_millis(tenths * 100));
    if dice.one_in(2) {
        some = some.with_scalar("disk", Scalar::from_units(20));
    }
    let stacks: Vec<_> = pools.reserved().map(|(stack, _)| stack.clone()).collect();
    let stack = stacks.get(dice.below(stacks.len() + 1)).cloned();
    let id = ["x", "y"][dice.below(2)].parse().unwrap();
    match (dice.below(4), stack) {
        (1, Some(stack)) => PoolChange::Unreserve {
            stack,
            resources: some,
        },
        (2, Some(stack)) => PoolChange::Create(PersistentVolume {
            id,
            stack,
            size_mb: 1 + dice.roll() % 9,
            principal: String::new(),
        }),
        (3, _) => PoolChange::Destroy(VolumeKey { role, id }),
        (_, from) => PoolChange::Reserve {
            from,
            with: Reservation::dynamic(role, ""),
            resources: some,
        },
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn rules_hold_in_every_history_and_healed_worlds_come_to_rest() {
    let seeds = match number("MEZZO_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MEZZO_SEEDS").unwrap_or(300),
    };
    let (mut launched, mut borrowed) = (0, 0);
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        if world.run().is_err() {
            let broken = World::new(seed).record().run().unwrap_err();
            panic!("seed {seed} (MEZZO_SEED={seed} runs it alone): {broken}");
        }
        launched += world.n_launched();
        borrowed += world.n_borrowed();
    }
    let n = seeds.end - seeds.start;
    assert!(
        n < 10 || borrowed as u64 * 2 > n,
        "only {borrowed} revocable tasks in {n} histories"
    );
    assert!(
        launched as u64 > 5 * n,
        "only {launched} tasks in {n} histories: the simulation does too little"
    );
}
