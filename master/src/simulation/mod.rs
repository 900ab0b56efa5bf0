//! The pure core among simulated agents and frameworks, with faults; one seed, one history.
//!
//! `world` holds the core, the connections (ordered, lossy at their end) and the clock; `machine` is an agent that runs
//! tasks as state machines; `author` is a framework. After every step the rules hold:
//!
//! * books balance, and sums over agents, roles and frameworks agree (`Core::audit`);
//! * no task is sent to an agent twice, and what an agent runs is booked;
//! * a framework never sees two different ends of one task, and no offer that its filter excludes;
//! * no pass brings a role above its limit; the quotas in force are those in the store.
//!
//! In the end the world heals, and then every task has an end that its framework knows, nothing is booked, nothing
//! waits for acknowledgement. A failing seed is printed; `MEZZO_SEED=n` runs that one, `MEZZO_SEEDS=n` that many.

mod author;
mod machine;
mod world;

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
