//! What one instance takes of a machine, and what a machine lacks for it.
//!
//! Pure.

use mezzo_api::model::{Pools, Ranges, Resources, RoleName, Scalar};

use super::Lack;
use crate::app::App;
use crate::app::role::Accepts;
use crate::app::spec::HostPort;

/// What one instance takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// cpus, mem, disk, gpus; none zero. With the disk of persistent volumes.
    pub scalars: Resources,
    /// One per port of the machine that is wanted, in the order of the definitions.
    pub ports: Vec<PortAsk>,
    /// Only of offers of what can be taken back; otherwise only of others.
    pub revocable: bool,
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
        let mut scalars = Self::scalars_of(app);
        if app.residency.is_some() {
            let volumes = i64::try_from(app.volumes_mb()).unwrap_or(i64::MAX / 1000);
            let disk = Scalar::from_units(volumes)
                .millis()
                .saturating_add(app.disk.millis());
            scalars = scalars.with_scalar("disk", Scalar::from_millis(disk));
        }
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
        Self {
            scalars,
            ports,
            revocable: app.revocable,
        }
    }

    /// What a task takes, without ports and persistent volumes.
    #[must_use]
    pub fn scalars_of(app: &App) -> Resources {
        Resources::new()
            .with_scalar("cpus", app.cpus)
            .with_scalar("mem", app.mem)
            .with_scalar("disk", app.disk)
            .with_scalar("gpus", app.gpus)
    }

    /// The same ports and nothing else.
    pub(crate) fn ports_only(&self) -> Self {
        Self {
            scalars: Resources::new(),
            ..self.clone()
        }
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

    /// What an offer of the role, with `room` left, lacks for one instance that takes only what it accepts.
    pub(crate) fn lacks_of(&self, accepts: Accepts, room: &Pools, role: &RoleName) -> Vec<Lack> {
        let mut lacks = self.lacks(&accepts.amounts(room));
        if !lacks.is_empty() && self.lacks(&Accepts::Both.amounts(room)).is_empty() {
            lacks.insert(0, Lack::not_accepted(accepts, role));
        }
        lacks
    }

    /// How many instances the amounts in `have` are enough for.
    #[must_use]
    pub fn fits(&self, have: &Resources) -> u64 {
        ["cpus", "mem", "disk", "gpus"]
            .iter()
            .filter_map(|name| {
                let each = self.scalars.scalar(name).millis();
                let times = have.scalar(name).millis().checked_div(each)?;
                Some(u64::try_from(times).unwrap_or(0))
            })
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Ports for one instance out of `have`, in the order of the definitions. `salt` spreads the choice, so that a port
    /// that was just given back is rarely given out again at once.
    pub(crate) fn choose_ports(&self, have: &Ranges, salt: u64) -> Option<Vec<u16>> {
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
