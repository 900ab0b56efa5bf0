//! What instances of apps with persistent volumes keep on machines, and what of an offer they use.
//!
//! Pure. A [`Holding`] is what one instance at a time has: a reservation with a label of its own, and the volumes in it. It
//! outlives the instance; the next one starts on it. The label is how it is found in offers, whoever the
//! master says made it.
//!
//! ```text
//! New ── an agent has begun a task on it ──► Kept ── wiped, or its app is removed ──► Wiped ── no task uses it ──► given back
//!  └── its first task never began: nothing is in it ─────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mezzo_api::model::{
    AgentId, Offer, PersistentVolume, Pool, PoolChange, Pools, Ranges, Reservation, Resources,
    RoleName, Stack, TaskInfo, Volume, VolumeSource,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::pod::PodContainer;
use crate::app::{App, AppId};
use crate::place::{Ask, Lack};

/// The label of a reservation that names its holding.
const LABEL: &str = "instance";
/// The label with the app, for people.
const APP_LABEL: &str = "app";
/// Where relative paths lie: Mesos' sandbox.
pub(crate) const SANDBOX: &str = "/mnt/mezzo/sandbox";

/// Names a holding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldingId(pub Uuid);

impl fmt::Display for HoldingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HoldingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl HoldingId {
    /// The holding that a reservation is part of.
    #[must_use]
    pub fn of(stack: &Stack) -> Option<Self> {
        Self::of_labels(&stack.top().labels)
    }

    /// The same from the labels of its topmost reservation.
    pub(crate) fn of_labels<'l>(
        labels: impl IntoIterator<Item = (&'l String, &'l String)>,
    ) -> Option<Self> {
        let mut labels = labels.into_iter();
        let (_, label) = labels.find(|(name, _)| *name == LABEL)?;
        label.parse().ok().map(Self)
    }
}

/// Whether there is anything in it, and whether that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Asked for; no task has begun on it.
    New,
    /// A task has begun on it: it has data.
    Kept,
    /// It goes as soon as no task uses it.
    Wiped,
}

/// A volume of a holding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldVolume {
    /// As the app wrote it; of a pod the volume's name.
    pub container_path: String,
    /// On the agent.
    pub volume: PersistentVolume,
}

/// What one instance at a time has on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Which.
    pub id: HoldingId,
    /// Whose.
    pub app: AppId,
    /// Where.
    pub agent_id: AgentId,
    /// As people know the machine.
    pub hostname: String,
    /// The reservation, as it was asked for.
    pub stack: Stack,
    /// What of it a task takes, volumes left aside.
    pub resources: Resources,
    /// In the order of the app's.
    pub volumes: Vec<HeldVolume>,
    /// How far.
    pub stage: Stage,
    /// When a task was last launched on it, Unix milliseconds.
    pub used_at: u64,
}

impl Holding {
    /// A new one for an instance of `app`.
    #[must_use]
    pub fn new(id: HoldingId, app: &App, role: &RoleName, offer: &Offer, now: u64) -> Option<Self> {
        let mut reservation = Reservation::dynamic(role.clone(), "");
        reservation.labels = [
            (LABEL.to_owned(), id.to_string()),
            (APP_LABEL.to_owned(), app.id.to_string()),
        ]
        .into();
        let stack = Stack::single(reservation).ok()?;
        let mounts = app.container.persistent.iter().enumerate();
        let volumes = mounts.map(|(n, mount)| HeldVolume {
            container_path: mount.container_path.clone(),
            volume: PersistentVolume {
                id: format!("{}.{n}.{id}", app.id.safe_path())
                    .parse()
                    .expect("an app id is short and has no slashes as a safe path"),
                stack: stack.clone(),
                size_mb: mount.size_mb,
                principal: String::new(),
                shared: false,
            },
        });
        Some(Self {
            id,
            app: app.id.clone(),
            agent_id: offer.agent_id.clone(),
            hostname: offer.hostname.clone(),
            resources: Ask::scalars_of(app),
            volumes: volumes.collect(),
            stack,
            stage: Stage::New,
            used_at: now,
        })
    }

    /// The changes that make it, out of what is open to all.
    #[must_use]
    pub fn making(&self) -> Vec<PoolChange> {
        let disk = self.volumes.iter().map(|held| held.volume.resources());
        let resources = disk.fold(self.resources.clone(), |sum, disk| {
            sum.checked_add(&disk).unwrap_or(sum)
        });
        let reserve = PoolChange::Reserve {
            from: None,
            with: self.stack.top().clone(),
            resources,
        };
        let volumes = self.volumes.iter();
        let create = volumes.map(|held| PoolChange::Create(held.volume.clone()));
        std::iter::once(reserve).chain(create).collect()
    }

    /// What of a task's resources is from it. `stack` as the offer has it.
    #[must_use]
    pub fn pool(&self, stack: &Stack) -> Pool {
        Pool {
            stack: stack.clone(),
            resources: self.resources.clone(),
        }
    }

    /// What of a container of a pod's instance is from it: its amounts, and the volumes that it mounts.
    pub fn give_to(&self, stack: &Stack, container: &PodContainer, task: &mut TaskInfo) {
        task.reserved.push(Pool {
            stack: stack.clone(),
            resources: Ask::scalars_of(&container.spec),
        });
        for mount in &container.mounts {
            let mut held = self.volumes.iter();
            if let Some(held) = held.find(|held| held.container_path == mount.name) {
                task.container.volumes.push(Volume {
                    container_path: mount.absolute(),
                    read_only: mount.read_only,
                    source: VolumeSource::Persistent(held.volume.id.clone()),
                });
            }
        }
    }

    /// Where its volumes are mounted: each at its own path, and where `app` has one of them by its name in the sandbox.
    pub fn mounts(&self, app: &App) -> impl Iterator<Item = Volume> {
        self.volumes.iter().flat_map(move |held| {
            let source = VolumeSource::Persistent(held.volume.id.clone());
            let own = Volume {
                container_path: match held.container_path.starts_with('/') {
                    true => held.container_path.clone(),
                    false => format!("{SANDBOX}/{}", held.container_path),
                },
                read_only: false,
                source: source.clone(),
            };
            let by_name = VolumeSource::HostPath(held.container_path.clone());
            let volumes = app.container.volumes.iter();
            let again = volumes
                .filter(move |volume| {
                    volume.source.in_sandbox().is_some() && volume.source == by_name
                })
                .map(move |volume| Volume {
                    source: source.clone(),
                    ..volume.clone()
                });
            std::iter::once(own).chain(again)
        })
    }

    /// The reservation in an offer that has all of it; otherwise what is missing there.
    ///
    /// # Errors
    ///
    /// Names of volumes, or the amounts.
    pub fn found_in<'o>(&self, offer: &'o Offer) -> Result<&'o Stack, String> {
        for held in &self.volumes {
            let is_it = |volume: &PersistentVolume| {
                volume.id == held.volume.id && HoldingId::of(&volume.stack) == Some(self.id)
            };
            if !offer.volumes.iter().any(is_it) {
                return Err(format!("volume {}", held.volume.id));
            }
        }
        let pool = offer
            .reserved
            .iter()
            .find(|pool| HoldingId::of(&pool.stack) == Some(self.id));
        match pool {
            Some(pool) if pool.resources.contains(&self.resources) => Ok(&pool.stack),
            Some(_) | None => Err(format!("reserved {}", self.resources)),
        }
    }
}

/// The changes that give back all that an offer has of a holding; none where it has nothing of it.
#[must_use]
pub fn giving_back(id: HoldingId, offer: &Offer) -> Vec<PoolChange> {
    let mut changes = Vec::new();
    let mut parts: BTreeMap<Stack, Resources> = BTreeMap::new();
    let mut add = |stack: &Stack, resources: &Resources| {
        let part = parts.entry(stack.clone()).or_default();
        if let Ok(sum) = part.checked_add(resources) {
            *part = sum;
        }
    };
    for volume in &offer.volumes {
        if HoldingId::of(&volume.stack) == Some(id) {
            changes.push(PoolChange::Destroy(volume.key()));
            add(&volume.stack, &volume.resources());
        }
    }
    for pool in &offer.reserved {
        if HoldingId::of(&pool.stack) == Some(id) {
            add(&pool.stack, &pool.resources);
        }
    }
    changes.extend(
        parts
            .into_iter()
            .map(|(stack, resources)| PoolChange::Unreserve { stack, resources }),
    );
    changes
}

/// One task on a holding that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relaunch {
    /// Which.
    pub holding: HoldingId,
    /// Index of the offer.
    pub offer: usize,
    /// The reservation as the offer has it.
    pub stack: Stack,
    /// Of the machine.
    pub ports: Vec<u16>,
}

/// Puts at most `count` tasks on `holdings`, in their order, and takes the ports they need from what is `left` open to
/// all. Beside them: what
/// offers of the right machines lack.
#[must_use]
pub fn relaunch(
    holdings: &[&Holding],
    count: usize,
    ask: &Ask,
    offers: &[Offer],
    left: &mut [Pools],
    salt: u64,
) -> (Vec<Relaunch>, Vec<(usize, Vec<Lack>)>) {
    let (mut placed, mut lacking) = (Vec::new(), Vec::new());
    let mut taken = BTreeSet::new();
    for holding in holdings {
        for (index, offer) in offers.iter().enumerate() {
            if placed.len() >= count || taken.contains(&holding.id) {
                break;
            }
            if offer.agent_id != holding.agent_id || offer.revocable {
                continue;
            }
            let stack = match holding.found_in(offer) {
                Ok(stack) => stack,
                Err(missing) => {
                    let lack = Lack::Reservation { missing };
                    lacking.push((index, vec![lack]));
                    continue;
                }
            };
            let open = left[index].open();
            let ports = ask.ports_only().lacks(open);
            let chosen = ask.choose_ports(&open.ports(), salt.wrapping_add(index as u64));
            let (true, Some(ports)) = (ports.is_empty(), chosen) else {
                lacking.push((index, ports));
                continue;
            };
            let less = Resources::new().with_ranges("ports", ranges(&ports));
            let Some(rest) = open.checked_sub(&less) else {
                continue;
            };
            left[index] = left[index].clone().with_open(rest);
            taken.insert(holding.id);
            placed.push(Relaunch {
                holding: holding.id,
                offer: index,
                stack: stack.clone(),
                ports,
            });
        }
    }
    (placed, lacking)
}

/// Ports as a resource.
#[must_use]
pub fn ranges(ports: &[u16]) -> Ranges {
    Ranges::new(ports.iter().map(|&port| (u64::from(port), u64::from(port))))
}

#[cfg(test)]
mod tests;
