//! Puts waiting instances on offers: which offer, which ports; and for each that found none, what was lacking.
//!
//! Pure. [`ask`] is what an instance takes, [`site`] whether constraints let it run there, [`lack`] why an offer was
//! refused. Among the offers that can take an instance, the app chooses: `spread` takes the machine with the fewest
//! instances of the app, `bestFit` the one that is fullest. GROUP_BY comes before either.

pub mod ask;
pub mod lack;
pub mod site;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use mezzo_api::model::{Offer, Pool, Pools, Ranges, Resources};

pub use ask::{Ask, PortAsk};
pub use lack::Lack;
pub use site::{Site, Tally};

use crate::app::AppId;
use crate::app::constraint::{Constraint, Operator};
use crate::app::role::{Accepts, named};
use crate::app::spec::Placing;

/// Instances of one app that wait.
#[derive(Debug, Clone)]
pub struct Need {
    /// Of which app.
    pub app: AppId,
    /// How many.
    pub count: u32,
    /// The tasks that each is: of a pod one per container.
    pub n_tasks: usize,
    /// What each takes.
    pub ask: Ask,
    /// Which resources of an offer.
    pub accepts: Accepts,
    /// Where they may be.
    pub constraints: Vec<Constraint>,
    /// How those of the same configuration lie already.
    pub tally: Tally,
    /// How many instances the app asks for in all.
    pub wanted: u32,
    /// Which machine comes first.
    pub placing: Placing,
    /// By the offers' indices: instances of the app that are on its machine already.
    pub there: Vec<u32>,
}

/// One instance on one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Index of the need.
    pub need: usize,
    /// Index of the offer.
    pub offer: usize,
    /// The machine's ports, in the order of the definitions.
    pub ports: Vec<u16>,
    /// All it takes.
    pub resources: Resources,
    /// What of that is from which reservation. One of nothing where it takes nothing of those that the offer has.
    pub reserved: Vec<Pool>,
}

/// An offer that could not take one more instance that still waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Index of the need.
    pub need: usize,
    /// Index of the offer.
    pub offer: usize,
    /// Why.
    pub lacks: Vec<Lack>,
}

/// Where everything goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What was placed.
    pub placements: Vec<Placement>,
    /// Why the rest was not.
    pub refused: Vec<Refused>,
}

/// What tasks may take of an offer without a word of its own: what is open to all, and reservations without labels.
#[must_use]
pub fn room_of(offer: &Offer) -> Pools {
    let plain = offer.reserved.iter().filter(|pool| pool.stack.is_plain());
    let plain: Vec<Pool> = plain.cloned().collect();
    Pools::divided(&offer.resources, &plain, &[]).unwrap_or_default()
}

/// Places `needs`, in their order, on what is left of `offers`, and takes it from there.
#[must_use]
pub fn place(offers: &[Offer], left: &mut [Pools], needs: &[Need], salt: u64) -> Plan {
    let mut plan = Plan::default();
    for (index, need) in needs.iter().enumerate() {
        let salt = salt.wrapping_add(plan.placements.len() as u64);
        let round = Round::new(need, index, offers, left, salt);
        round.run(&mut plan);
    }
    plan
}

/// The instances of one need going round the offers.
struct Round<'a> {
    need: &'a Need,
    index: usize,
    offers: &'a [Offer],
    free: &'a mut [Pools],
    /// By offer: the values of the constraints' fields.
    sites: Vec<BTreeMap<String, String>>,
    /// By offer: whether it is of the kind that is asked for. Others are no offers for it, and nothing to complain of.
    kind: Vec<bool>,
    tally: Tally,
    there: Vec<u32>,
    salt: u64,
}

/// Which offer comes first: the emptiest group, then what the app prefers, then as they came.
type Rank = Reverse<(u32, u64, usize)>;

impl<'a> Round<'a> {
    fn new(
        need: &'a Need,
        index: usize,
        offers: &'a [Offer],
        free: &'a mut [Pools],
        salt: u64,
    ) -> Self {
        let mut there = need.there.clone();
        there.resize(offers.len(), 0);
        Self {
            need,
            index,
            offers,
            free,
            sites: offers
                .iter()
                .map(|offer| Site::from(offer).values(&need.constraints))
                .collect(),
            kind: offers
                .iter()
                .map(|offer| offer.revocable == need.ask.revocable)
                .collect(),
            tally: need.tally.clone(),
            there,
            salt,
        }
    }

    fn run(mut self, plan: &mut Plan) {
        let grouped = self
            .need
            .constraints
            .iter()
            .any(|constraint| matches!(constraint.operator, Operator::GroupBy(_)));
        let mut open: BinaryHeap<Rank> = (0..self.sites.len())
            .filter(|i| self.kind[*i])
            .map(|i| self.rank(i))
            .collect();
        // Refused for where they are: another placement may change that.
        let mut parked: Vec<usize> = Vec::new();
        let mut refused: BTreeMap<usize, Vec<Lack>> = BTreeMap::new();
        let mut left = self.need.count;
        while left > 0
            && let Some(stored) = open.pop()
        {
            let Reverse((.., offer)) = stored;
            let rank = self.rank(offer);
            if rank < stored {
                // Its group has filled since: others may come first now.
                open.push(rank);
                continue;
            }
            match self.put(offer) {
                Ok(placement) => {
                    left -= 1;
                    plan.placements.push(placement);
                    open.push(self.rank(offer));
                    open.extend(parked.drain(..).map(|i| self.rank(i)));
                }
                Err(lacks) => {
                    let by_place = |lack: &Lack| matches!(lack, Lack::Constraint { .. });
                    if grouped && lacks.iter().all(by_place) {
                        parked.push(offer);
                    }
                    refused.insert(offer, lacks);
                }
            }
        }
        if left > 0 {
            plan.refused
                .extend(refused.into_iter().map(|(offer, lacks)| Refused {
                    need: self.index,
                    offer,
                    lacks,
                }));
        }
    }

    fn rank(&self, offer: usize) -> Rank {
        let preference = match self.need.placing {
            Placing::Spread => u64::from(self.there[offer]),
            Placing::BestFit => {
                let have = self.need.accepts.amounts(&self.free[offer]);
                self.need.ask.fits(&have)
            }
        };
        let crowd = self.tally.crowd(&self.need.constraints, &self.sites[offer]);
        Reverse((crowd, preference, offer))
    }

    /// One more instance on the offer, or all that speaks against it.
    fn put(&mut self, offer: usize) -> Result<Placement, Vec<Lack>> {
        let Need {
            ask,
            accepts,
            constraints,
            wanted,
            ..
        } = self.need;
        let site = &self.sites[offer];
        let have = accepts.amounts(&self.free[offer]);
        let mut lacks = ask.lacks_of(*accepts, &self.free[offer], &self.offers[offer].role);
        lacks.extend(self.tally.refuses(constraints, site, *wanted));
        if !lacks.is_empty() {
            return Err(lacks);
        }
        // What lacks nothing has the ports and the rest.
        let ports = ask
            .choose_ports(&have.ports(), self.salt)
            .ok_or_else(Vec::new)?;
        drop(have);
        let ranges = Ranges::new(ports.iter().map(|&port| (u64::from(port), u64::from(port))));
        let resources = ask.scalars.clone().with_ranges("ports", ranges);
        let reserved = accepts
            .take(&mut self.free[offer], &resources)
            .ok_or_else(Vec::new)?;
        self.tally.add(constraints, site);
        self.there[offer] += 1;
        self.salt = self.salt.wrapping_add(1);
        Ok(Placement {
            need: self.index,
            offer,
            ports,
            resources,
            reserved: named(reserved, &self.offers[offer]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mezzo_api::model::{Reservation, RoleName, Scalar, Stack};
    use proptest::prelude::*;

    fn place(offers: &[Offer], needs: &[Need], salt: u64) -> Plan {
        let mut left: Vec<Pools> = offers.iter().map(room_of).collect();
        super::place(offers, &mut left, needs, salt)
    }

    fn offer(i: usize, cpus: i64, mem: i64, ports: &[(u64, u64)]) -> Offer {
        Offer {
            offer_id: format!("o{i}").parse().expect("valid"),
            framework_id: "f".parse().expect("valid"),
            agent_id: format!("a{i}").parse().expect("valid"),
            hostname: format!("host{i}"),
            role: Default::default(),
            resources: Resources::new()
                .with_scalar("cpus", Scalar::from_millis(cpus))
                .with_scalar("mem", Scalar::from_units(mem))
                .with_ranges("ports", Ranges::new(ports.iter().copied())),
            attributes: Vec::new(),
            region: String::new(),
            zone: String::new(),
            address: String::new(),
            reserved: Vec::new(),
            volumes: Vec::new(),
            revocable: false,
            unavailability: None,
        }
    }

    fn need(count: u32, cpus: i64, mem: i64, ports: Vec<PortAsk>) -> Need {
        Need {
            app: "/a".parse().expect("valid"),
            count,
            n_tasks: 1,
            ask: Ask {
                revocable: false,
                scalars: Resources::new()
                    .with_scalar("cpus", Scalar::from_millis(cpus))
                    .with_scalar("mem", Scalar::from_units(mem)),
                ports,
            },
            accepts: Accepts::Both,
            constraints: Vec::new(),
            tally: Tally::default(),
            wanted: count,
            placing: Placing::Spread,
            there: Vec::new(),
        }
    }

    #[test]
    fn one_offer_takes_as_many_as_fit() {
        let plan = place(&[offer(0, 4000, 1000, &[])], &[need(20, 10, 32, vec![])], 0);
        assert_eq!(plan.placements.len(), 20);
        assert!(plan.refused.is_empty());
    }

    #[test]
    fn what_does_not_fit_says_what_lacks() {
        let plan = place(
            &[offer(0, 500, 100, &[(1, 1)])],
            &[need(1, 1000, 128, vec![PortAsk::Any; 2])],
            0,
        );
        let lacks: Vec<String> = plan.refused[0].lacks.iter().map(Lack::to_string).collect();
        assert_eq!(
            lacks,
            [
                "cpus: asks for 1, 0.5 offered",
                "mem: asks for 128, 100 offered",
                "ports: asks for 2, 1 offered"
            ]
        );
    }

    #[test]
    fn instances_spread_over_offers() {
        let offers = [offer(0, 4000, 1000, &[]), offer(1, 4000, 1000, &[])];
        let plan = place(&offers, &[need(4, 100, 32, vec![])], 0);
        assert_eq!(plan.placements.iter().filter(|p| p.offer == 0).count(), 2);
    }

    #[test]
    fn a_fixed_port_goes_to_one_instance_per_machine() {
        let offers = [offer(0, 4000, 1000, &[(80, 90)])];
        let plan = place(
            &offers,
            &[need(2, 100, 32, vec![PortAsk::Fixed(80), PortAsk::Any])],
            3,
        );
        assert_eq!(plan.placements.len(), 1);
        assert_eq!(plan.placements[0].ports[0], 80);
        assert_ne!(plan.placements[0].ports[1], 80);
    }

    #[test]
    fn what_is_lent_is_for_those_who_ask_for_it_and_for_nobody_else() {
        let mut lent = offer(1, 1000, 64, &[]);
        lent.revocable = true;
        let offers = [offer(0, 1000, 64, &[]), lent];
        for revocable in [false, true] {
            let mut need = need(3, 1000, 64, vec![]);
            need.ask.revocable = revocable;
            let plan = place(&offers, &[need], 0);
            let placed: Vec<usize> = plan.placements.iter().map(|one| one.offer).collect();
            assert_eq!(placed, [usize::from(revocable)]);
            assert!(plan.refused.iter().all(|one| one.offer == placed[0]));
        }
    }

    #[test]
    fn what_an_app_does_not_accept_is_not_taken_and_told() {
        let dev: RoleName = "dev".parse().expect("valid");
        let stack = Stack::single(Reservation::fixed(dev.clone())).expect("a role");
        let reserved = Resources::new().with_scalar("cpus", Scalar::from_millis(3000));
        let mut offer = offer(0, 4000, 1000, &[]);
        offer.role = dev;
        offer.reserved = vec![Pool {
            stack,
            resources: reserved,
        }];
        let of = |accepts, count| Need {
            accepts,
            ..need(count, 1000, 10, vec![])
        };
        let unreserved = Need {
            count: 1,
            ..of(Accepts::Unreserved, 1)
        };
        let plan = place(&[offer.clone()], &[unreserved, of(Accepts::Both, 4)], 0);
        let from: Vec<_> = plan
            .placements
            .iter()
            .map(|one| one.reserved[0].resources.scalar("cpus").millis())
            .collect();
        // Memory is open to all here; what accepts both takes what is reserved first.
        assert_eq!(from, [0, 1000, 1000, 1000]);
        let plan = place(&[offer], &[of(Accepts::Unreserved, 2)], 0);
        assert_eq!(plan.placements.len(), 1);
        let lacks: Vec<String> = plan.refused[0].lacks.iter().map(Lack::to_string).collect();
        assert_eq!(
            lacks,
            [
                "role: it accepts resources of role * alone, the offer of role dev has others",
                "cpus: asks for 1, 0 offered"
            ]
        );
    }

    proptest! {
        #[test]
        fn no_offer_gives_more_than_it_has(
            shapes in proptest::collection::vec((0i64..5000, 0i64..500, 0u64..6), 0..5),
            asks in proptest::collection::vec((1u32..8, 1i64..2000, 1i64..200, 0usize..3), 0..5),
            salt in any::<u64>(),
        ) {
            let offers: Vec<Offer> = shapes
                .iter()
                .enumerate()
                .map(|(i, &(cpus, mem, ports))| offer(i, cpus, mem, &[(100, 99 + ports)]))
                .collect();
            let needs: Vec<Need> = asks
                .iter()
                .map(|&(count, cpus, mem, ports)| need(count, cpus, mem, vec![PortAsk::Any; ports]))
                .collect();
            let plan = place(&offers, &needs, salt);
            for (i, offer) in offers.iter().enumerate() {
                let mut left = offer.resources.clone();
                for placement in plan.placements.iter().filter(|p| p.offer == i) {
                    left = left.checked_sub(&placement.resources).expect("fits, ports given once");
                }
            }
            for (i, need) in needs.iter().enumerate() {
                let placed = plan.placements.iter().filter(|p| p.need == i).count();
                prop_assert!(placed <= need.count as usize);
                let refusals = plan.refused.iter().filter(|r| r.need == i).count();
                prop_assert_eq!(refusals, if placed < need.count as usize { offers.len() } else { 0 });
            }
        }

        #[test]
        fn constraints_hold_for_every_placement(
            racks in proptest::collection::vec((0u8..4, 100i64..3000), 0..8),
            count in 0u32..12,
            operator in 0usize..5,
            best_fit in any::<bool>(),
        ) {
            let offers: Vec<Offer> = racks
                .iter()
                .enumerate()
                .map(|(i, &(rack, cpus))| Offer {
                    zone: format!("r{rack}"),
                    ..offer(i, cpus, 1000, &[])
                })
                .collect();
            let operators = [
                Operator::Unique,
                Operator::MaxPer(2),
                Operator::Cluster(None),
                Operator::GroupBy(None),
                Operator::GroupBy(Some(3)),
            ];
            let operator = operators[operator].clone();
            let constraints = vec![Constraint { field: "@zone".into(), operator: operator.clone() }];
            let need = Need {
                tally: Tally::new(&constraints, []),
                constraints,
                placing: if best_fit { Placing::BestFit } else { Placing::Spread },
                ..need(count, 100, 10, vec![])
            };
            let plan = place(&offers, &[need], 0);
            let mut by_rack: BTreeMap<&str, u32> = BTreeMap::new();
            for placement in &plan.placements {
                *by_rack.entry(&offers[placement.offer].zone).or_default() += 1;
            }
            let (most, least) = (
                by_rack.values().max().copied().unwrap_or(0),
                by_rack.values().min().copied().unwrap_or(0),
            );
            match operator {
                Operator::Unique => prop_assert!(most <= 1),
                Operator::MaxPer(bound) => prop_assert!(most <= bound),
                Operator::Cluster(_) => prop_assert!(by_rack.len() <= 1),
                Operator::GroupBy(None) => prop_assert!(most <= least + 1),
                Operator::GroupBy(Some(groups)) => {
                    prop_assert!(by_rack.len() <= groups as usize);
                    prop_assert!(most <= count.div_ceil(groups));
                }
                Operator::Like(_) | Operator::Unlike(_) | Operator::Is(_) => {}
            }
            // Whoever waits was refused by every offer that is left.
            if plan.placements.len() < count as usize {
                prop_assert_eq!(plan.refused.len(), offers.len());
            }
        }
    }
}
