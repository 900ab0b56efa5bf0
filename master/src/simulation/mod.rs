//! The pure core among simulated agents and frameworks, with faults; one seed, one history.
//!
//! `world` holds the core, the connections (ordered, lossy at their end) and the clock; `machine` is an agent that runs
//! tasks as state machines; `author` is a framework. After every step the rules hold:
//!
//! * books balance, and sums over agents, roles and frameworks agree (`Core::audit`);
//! * no task is sent to an agent twice, and what an agent runs is booked;
//! * a framework never sees two different ends of one task, and no offer that its filter excludes;
//! * what is reserved is offered to its role and those below it alone; no change of it is told to have ended in two ways;
//! * no pass brings a role above its limit; the quotas, maintenance windows and deactivations in force are those in the store;
//! * nothing of an agent is offered in its window, while it drains, is deactivated or away; its window drains it;
//! * who watches knows every task's state from notices alone; no more agents are given up at once than the limit says;
//! * master and agent agree what is reserved there whenever nothing is under way between them.
//!
//! In the end the world heals, and then every task and every change has an end that its framework knows, nothing is
//! booked, nothing waits for acknowledgement. A failing seed is printed; `MEZZO_SEED=n` runs that one, `MEZZO_SEEDS=n` that many.
//! That each rule bites is a test of its own: bugs that are planted in the core (`planted`) must be found.

mod author;
mod machine;
mod world;

use mezzo_api::model::{
    PersistentVolume, PoolChange, Pools, Reservation, Resources, RoleName, Scalar, VolumeKey,
};
use world::World;

use crate::planted::{Bug, plant};

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
        (2, Some(stack)) => {
            let size_mb = 1 + dice.roll() % 9;
            PoolChange::Create(PersistentVolume {
                id,
                stack,
                size_mb,
                principal: String::new(),
                shared: size_mb.is_multiple_of(2),
            })
        }
        (3, _) => {
            let there: Vec<_> = pools.volumes().map(PersistentVolume::key).collect();
            let key = there.get(dice.below(there.len() + 1)).cloned();
            PoolChange::Destroy(key.unwrap_or(VolumeKey { role, id }))
        }
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

/// How much happened.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    launched: usize,
    /// Of them, on what machines lend.
    borrowed: usize,
    /// Of them, on a volume that another task had at the time.
    sharing: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.launched += more.launched;
        self.borrowed += more.borrowed;
        self.sharing += more.sharing;
    }
}

/// One history: what broke, if anything did, and how much happened.
fn live(seed: u64) -> (Result<(), String>, Counts) {
    let mut world = World::new(seed);
    let result = world.run();
    (result, world.counts())
}

#[test]
fn rules_hold_in_every_history_and_healed_worlds_come_to_rest() {
    let seeds = match number("MEZZO_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MEZZO_SEEDS").unwrap_or(300),
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Each thread takes every so manyth seed; the lowest that fails is told, whatever thread found it.
    let sums: Vec<(Counts, Option<u64>)> = std::thread::scope(|scope| {
        let run = |first: usize| {
            let seeds = seeds.clone().skip(first).step_by(n_threads);
            let mut counts = Counts::default();
            for seed in seeds {
                let (result, more) = live(seed);
                if result.is_err() {
                    return (counts, Some(seed));
                }
                counts += more;
            }
            (counts, None)
        };
        let threads: Vec<_> = (0..n_threads)
            .map(|first| scope.spawn(move || run(first)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .expect("a history panicked; run its seed alone")
        };
        threads.into_iter().map(join).collect()
    });
    if let Some(seed) = sums.iter().filter_map(|(.., failed)| *failed).min() {
        let broken = World::new(seed).record().run().unwrap_err();
        panic!("seed {seed} (MEZZO_SEED={seed} runs it alone): {broken}");
    }
    let mut counts = Counts::default();
    sums.iter().for_each(|(more, _)| counts += *more);
    let Counts {
        launched,
        borrowed,
        sharing,
    } = counts;
    let n = seeds.end - seeds.start;
    assert!(
        n < 100 || sharing as u64 * 4 > n,
        "only {sharing} tasks on a volume that another task has, in {n} histories"
    );
    assert!(
        n < 10 || borrowed as u64 * 2 > n,
        "only {borrowed} revocable tasks in {n} histories"
    );
    assert!(
        launched as u64 > 5 * n,
        "only {launched} tasks in {n} histories: the simulation does too little"
    );
}

/// Each bug with what the rule that finds it says.
const BUGS: [(Bug, &str); 30] = [
    (Bug::OfferNotBooked, "in use"),
    (Bug::EndNotReleased, "holds something"),
    (Bug::LaunchedTwice, "is launched twice"),
    (Bug::LearntNotBooked, "books say otherwise"),
    (Bug::SecondEnd, "ended as"),
    (Bug::FilterIgnored, "which it does not want"),
    (Bug::LimitIgnored, "the limit is"),
    (Bug::LentToAnybody, "cannot deal with it"),
    (Bug::SharedToAnybody, "cannot deal with it"),
    (Bug::EndedAndOffered, "which is gone"),
    (Bug::QuotaNotStored, "quotas in the store"),
    (Bug::AcknowledgementSwallowed, "still has"),
    (Bug::EndNotTold, "still has"),
    (Bug::KillSwallowed, "still waits for"),
    (Bug::OfferedInWindow, "is offered in its window"),
    (Bug::WindowNotDrained, "is not drained in its window"),
    (Bug::WindowNotStored, "windows in the store"),
    (Bug::NoticeMissing, "watchers believe"),
    (Bug::LossesUnlimited, "are given up within"),
    (Bug::ReservedToAnybody, "reserved for others"),
    (Bug::SecondOperationEnd, "has two ends"),
    (Bug::OperationEndNotTold, "still waits for operation"),
    (Bug::RefusalIgnored, "the master believes"),
    (Bug::DrainingAndOffered, "is draining and offered"),
    (Bug::AwayAndOffered, "is away and offered"),
    (Bug::DeactivatedAndOffered, "is deactivated and offered"),
    (Bug::DeactivationNotStored, "agents in the store"),
    (Bug::WeightNotStored, "weights in the store"),
    (Bug::DrainEndNotStored, "agents in the store"),
    (Bug::ReturnNotStored, "in the store is not the one in force"),
];

/// `--nocapture` prints in which history each was found, and how: the table of docs/test-bench.md.
#[test]
fn every_planted_bug_is_found_by_the_rule_that_is_there_for_it() {
    let mut missed = Vec::new();
    for (bug, says) in BUGS {
        plant(Some(bug));
        let found = (0..1500).find_map(|seed| live(seed).0.err().map(|broken| (seed, broken)));
        plant(None);
        match found {
            Some((seed, broken)) => {
                println!("| `{bug:?}` | {seed} | {broken} |");
                if !broken.contains(says) {
                    missed.push(format!("{bug:?} is found as: {broken}"));
                }
            }
            None => missed.push(format!("{bug:?} is not found in 1500 histories")),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
