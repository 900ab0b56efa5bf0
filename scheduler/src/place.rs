//! Puts waiting instances on offers: which offer, which ports; and for each that found none, what was lacking.
//!
//! Pure. Instances go round the offers in turn, as many on each as fit, so that an app spreads over the machines that
//! are offered together.

use std::fmt;

use mezzo_api::model::{Offer, Ranges, Resources, Scalar};

use crate::app::spec::HostPort;
use crate::app::{App, AppId};

/// What one instance takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// cpus, mem, disk, gpus; none zero.
    pub scalars: Resources,
    /// One per port of the machine that is wanted, in the order of the definitions.
    pub ports: Vec<PortAsk>,
}

/// One port of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortAsk {
    /// Whichever is free.
    Any,
    /// This one.
    Fixed(u16),
}

impl Ask {
    /// What an instance of `app` takes.
    #[must_use]
    pub fn of(app: &App) -> Self {
        let scalars = Resources::new()
            .with_scalar("cpus", app.cpus)
            .with_scalar("mem", app.mem)
            .with_scalar("disk", app.disk)
            .with_scalar("gpus", app.gpus);
        let ports = app
            .ports
            .iter()
            .filter_map(|definition| match definition.target {
                None if app.require_ports && definition.port != 0 => {
                    Some(PortAsk::Fixed(definition.port))
                }
                None => Some(PortAsk::Any),
                Some(target) => match target.host {
                    HostPort::None => None,
                    HostPort::Any => Some(PortAsk::Any),
                    HostPort::Fixed(port) => Some(PortAsk::Fixed(port)),
                },
            })
            .collect();
        Self { scalars, ports }
    }

    /// What `have` lacks for one instance; empty if it fits.
    #[must_use]
    pub fn lacks(&self, have: &Resources) -> Vec<Lack> {
        let mut lacks = Vec::new();
        for name in ["cpus", "mem", "disk", "gpus"] {
            let (asked, offered) = (self.scalars.scalar(name), have.scalar(name));
            if asked > offered {
                lacks.push(Lack::Scalar {
                    name,
                    asked,
                    offered,
                });
            }
        }
        if !self.ports.is_empty() {
            let ports = have.ports();
            let missing: Vec<u16> = self
                .ports
                .iter()
                .filter_map(|ask| match ask {
                    PortAsk::Fixed(port) if !ports.has(u64::from(*port)) => Some(*port),
                    PortAsk::Fixed(_) | PortAsk::Any => None,
                })
                .collect();
            if !missing.is_empty() {
                lacks.push(Lack::FixedPorts { missing });
            } else if ports.len() < self.ports.len() as u64 {
                lacks.push(Lack::Ports {
                    asked: self.ports.len() as u64,
                    offered: ports.len(),
                });
            }
        }
        lacks
    }

    /// Ports for one instance out of `have`, in the order of the definitions. `salt` spreads the choice, so that a port
    /// that was just given back is rarely given out again at once.
    fn choose_ports(&self, have: &Ranges, salt: u64) -> Option<Vec<u16>> {
        let fixed = Ranges::new(self.ports.iter().filter_map(|ask| match ask {
            PortAsk::Fixed(port) => Some((u64::from(*port), u64::from(*port))),
            PortAsk::Any => None,
        }));
        if !have.contains(&fixed) {
            return None;
        }
        let free = have.difference(&fixed);
        let skip = usize::try_from(salt.checked_rem(free.len()).unwrap_or(0)).unwrap_or(0);
        let mut any = free.values().skip(skip).chain(free.values().take(skip));
        self.ports
            .iter()
            .map(|ask| match ask {
                PortAsk::Fixed(port) => Some(*port),
                PortAsk::Any => any.next().and_then(|port| u16::try_from(port).ok()),
            })
            .collect()
    }
}

/// Something an offer has too little of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lack {
    /// An amount.
    Scalar {
        /// Of what.
        name: &'static str,
        /// By one instance.
        asked: Scalar,
        /// In the offer, after what others took of it.
        offered: Scalar,
    },
    /// Any ports.
    Ports {
        /// By one instance.
        asked: u64,
        /// In the offer.
        offered: u64,
    },
    /// Certain ports.
    FixedPorts {
        /// Those that are not offered.
        missing: Vec<u16>,
    },
}

impl Lack {
    /// Marathon's name for the reason, as `/v2/queue` counts it.
    #[must_use]
    pub fn marathon_reason(&self) -> &'static str {
        match self {
            Self::Scalar { name: "cpus", .. } => "InsufficientCpus",
            Self::Scalar { name: "mem", .. } => "InsufficientMemory",
            Self::Scalar { name: "disk", .. } => "InsufficientDisk",
            Self::Scalar { .. } => "InsufficientGpus",
            Self::Ports { .. } | Self::FixedPorts { .. } => "InsufficientPorts",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar {
                name,
                asked,
                offered,
            } => write!(f, "{name}: asks for {asked}, {offered} offered"),
            Self::Ports { asked, offered } => {
                write!(f, "ports: asks for {asked}, {offered} offered")
            }
            Self::FixedPorts { missing } => {
                let missing: Vec<String> = missing.iter().map(u16::to_string).collect();
                write!(f, "ports: {} not offered", missing.join(", "))
            }
        }
    }
}

/// Instances of one app that wait.
#[derive(Debug, Clone)]
pub struct Need {
    /// Of which app.
    pub app: AppId,
    /// How many.
    pub count: u32,
    /// What each takes.
    pub ask: Ask,
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

/// Places `needs`, in their order, on `offers`.
#[must_use]
pub fn place(offers: &[Offer], needs: &[Need], salt: u64) -> Plan {
    let mut free: Vec<Resources> = offers.iter().map(|offer| offer.resources.clone()).collect();
    let mut plan = Plan::default();
    let mut placed: u64 = 0;
    for (need_index, need) in needs.iter().enumerate() {
        let mut left = need.count;
        let mut open: Vec<usize> = (0..offers.len()).collect();
        let mut refused = Vec::new();
        while left > 0 && !open.is_empty() {
            open.retain(|&offer| {
                if left == 0 {
                    return true;
                }
                let lacks = need.ask.lacks(&free[offer]);
                if !lacks.is_empty() {
                    refused.push(Refused {
                        need: need_index,
                        offer,
                        lacks,
                    });
                    return false;
                }
                let Some(ports) = need
                    .ask
                    .choose_ports(&free[offer].ports(), salt.wrapping_add(placed))
                else {
                    return false;
                };
                let port_ranges =
                    Ranges::new(ports.iter().map(|&port| (u64::from(port), u64::from(port))));
                let resources = need.ask.scalars.clone().with_ranges("ports", port_ranges);
                let Some(rest) = free[offer].checked_sub(&resources) else {
                    return false;
                };
                free[offer] = rest;
                left -= 1;
                placed += 1;
                plan.placements.push(Placement {
                    need: need_index,
                    offer,
                    ports,
                    resources,
                });
                true
            });
        }
        if left > 0 {
            plan.refused.append(&mut refused);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        }
    }

    fn need(count: u32, cpus: i64, mem: i64, ports: Vec<PortAsk>) -> Need {
        Need {
            app: "/a".parse().expect("valid"),
            count,
            ask: Ask {
                scalars: Resources::new()
                    .with_scalar("cpus", Scalar::from_millis(cpus))
                    .with_scalar("mem", Scalar::from_units(mem)),
                ports,
            },
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
    }
}
