//! Resources by whose they are: what is open to all, what is reserved, and volumes. Exact, as [`Resources`] are.
//!
//! An agent's total, an offer, what a task takes are all of this kind. A [`PoolChange`] turns some of it into something
//! else of the same sum: master and agent apply the same change to their own books and come out alike.
//!
//! `change`: what is turned into what, and why it may not be. `text`: as people write them.

mod change;
mod text;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use thiserror::Error;

pub use change::{ChangeProblem, Conversion, PoolChange};

use super::{
    Overflow, PersistentVolume, Pool, ReservationKind, Resources, RoleName, Stack, Value, VolumeKey,
};

/// Resources by whose they are. Nothing empty is stored, so that equal pools compare equal. Where nothing is reserved, as
/// nearly everywhere, they are hardly larger than resources: the master has one for each refusal of each framework.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pools {
    open: Resources,
    apart: Option<Box<Apart>>,
}

/// What is not open to all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Apart {
    reserved: BTreeMap<Stack, Resources>,
    volumes: BTreeMap<VolumeKey, PersistentVolume>,
}

static NOTHING: Apart = Apart {
    reserved: BTreeMap::new(),
    volumes: BTreeMap::new(),
};

impl Pools {
    /// All of it open to everybody.
    #[must_use]
    pub fn open_to_all(open: Resources) -> Self {
        Self {
            open,
            ..Self::default()
        }
    }

    /// From all there is, of which that much is reserved and in volumes.
    ///
    /// # Errors
    ///
    /// When it is not that much, or a volume stands twice.
    pub fn divided(
        all: &Resources,
        reserved: &[Pool],
        volumes: &[PersistentVolume],
    ) -> Result<Self, Undivided> {
        let mut apart = Apart::default();
        for pool in reserved {
            let of = apart.reserved.entry(pool.stack.clone()).or_default();
            *of = of.checked_add(&pool.resources)?;
        }
        apart.reserved.retain(|_, of| !of.is_empty());
        for volume in volumes {
            let former = apart.volumes.insert(volume.key(), volume.clone());
            if former.is_some() {
                return Err(Undivided::Twice(volume.key()));
            }
        }
        let mut open = all.clone();
        let disks = apart.volumes.values().map(PersistentVolume::resources);
        for part in apart.reserved.values().cloned().chain(disks) {
            open = open.checked_sub(&part).ok_or_else(|| Undivided::TooMuch {
                part,
                rest: open.clone(),
            })?;
        }
        Ok(Self { open, apart: None }.with_apart(apart))
    }

    fn apart(&self) -> &Apart {
        self.apart.as_deref().unwrap_or(&NOTHING)
    }

    /// The same with that beside what is open.
    fn with_apart(mut self, apart: Apart) -> Self {
        let is_empty = apart.reserved.is_empty() && apart.volumes.is_empty();
        self.apart = (!is_empty).then(|| Box::new(apart));
        self
    }

    /// What is nobody's in particular.
    #[must_use]
    pub fn open(&self) -> &Resources {
        &self.open
    }

    /// By reservation, without what is in volumes.
    pub fn reserved(&self) -> impl Iterator<Item = (&Stack, &Resources)> {
        self.apart().reserved.iter()
    }

    /// The same as a list.
    #[must_use]
    pub fn pool_list(&self) -> Vec<Pool> {
        let pools = self.apart().reserved.iter().map(|(stack, resources)| Pool {
            stack: stack.clone(),
            resources: resources.clone(),
        });
        pools.collect()
    }

    /// By name.
    pub fn volumes(&self) -> impl Iterator<Item = &PersistentVolume> {
        self.apart().volumes.values()
    }

    /// One of them.
    #[must_use]
    pub fn volume(&self, key: &VolumeKey) -> Option<&PersistentVolume> {
        self.apart().volumes.get(key)
    }

    /// The volume of that id whose role is nearest to `role`: its own, or one above.
    #[must_use]
    pub fn volume_for(&self, role: &RoleName, id: &str) -> Option<&PersistentVolume> {
        let fits = |volume: &&PersistentVolume| {
            volume.id.as_str() == id && role.is_within(volume.stack.role())
        };
        let candidates = self.apart().volumes.values().filter(fits);
        candidates.max_by_key(|volume| volume.stack.role().as_str().len())
    }

    /// Nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.is_open()
    }

    /// Nothing of it is reserved.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.apart.is_none()
    }

    /// All together, whosever it is, with the disk of volumes.
    #[must_use]
    pub fn flat(&self) -> Resources {
        let mut sum = self.open.clone();
        for part in self.apart().reserved.values() {
            sum = sum.checked_add(part).unwrap_or(sum);
        }
        for volume in self.apart().volumes.values() {
            sum = sum.checked_add(&volume.resources()).unwrap_or(sum);
        }
        sum
    }

    /// All that a task may take without naming a reservation: what is open, and reservations without labels.
    #[must_use]
    pub fn plain(&self) -> Resources {
        let plain = self
            .apart()
            .reserved
            .iter()
            .filter(|(stack, _)| stack.is_plain());
        plain.fold(self.open.clone(), |sum, (_, part)| {
            sum.checked_add(part).unwrap_or(sum)
        })
    }

    /// Without the volumes that several may have at once: what one has of this, nobody else has. Sums over who has what are
    /// made of this part alone.
    #[must_use]
    pub fn exclusive(&self) -> Cow<'_, Self> {
        if !self.apart().volumes.values().any(|volume| volume.shared) {
            return Cow::Borrowed(self);
        }
        let mut part = self.apart().clone();
        part.volumes.retain(|_, volume| !volume.shared);
        Cow::Owned(Self::open_to_all(self.open.clone()).with_apart(part))
    }

    /// Whether all of it are amounts: of those no two can have the same.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let mut values = self.open.iter().map(|(_, value)| value);
        self.is_open() && values.all(|value| matches!(value, Value::Scalar(_)))
    }

    /// What others can still have when somebody has `other`: all that it does not have, and the volumes that are shared.
    /// `None` when this does not [contain](Self::contains) it.
    #[must_use]
    pub fn without(&self, other: &Self) -> Option<Self> {
        let mut shared = other.volumes().filter(|volume| volume.shared);
        let is_there = shared.all(|volume| self.volume(&volume.key()) == Some(volume));
        is_there.then(|| self.checked_sub(&other.exclusive()))?
    }

    /// The part that frameworks of that role may have.
    #[must_use]
    pub fn visible_to(&self, role: &RoleName) -> Cow<'_, Self> {
        if self.is_open() {
            return Cow::Borrowed(self);
        }
        let is_theirs = |stack: &Stack| role.is_within(stack.role());
        if self.apart().reserved.keys().all(is_theirs)
            && self
                .apart()
                .volumes
                .values()
                .all(|volume| is_theirs(&volume.stack))
        {
            return Cow::Borrowed(self);
        }
        let mut part = self.apart().clone();
        part.reserved.retain(|stack, _| is_theirs(stack));
        part.volumes.retain(|_, volume| is_theirs(&volume.stack));
        Cow::Owned(Self::open_to_all(self.open.clone()).with_apart(part))
    }

    /// The same with other open resources.
    #[must_use]
    pub fn with_open(mut self, open: Resources) -> Self {
        self.open = open;
        self
    }

    /// The same with other resources of that reservation.
    #[must_use]
    pub fn with_reserved(mut self, stack: &Stack, resources: Resources) -> Self {
        let mut apart = self.apart.take().unwrap_or_default();
        if resources.is_empty() {
            apart.reserved.remove(stack);
        } else {
            apart.reserved.insert(stack.clone(), resources);
        }
        self.with_apart(*apart)
    }

    /// The same with that volume.
    #[must_use]
    pub fn with_volume(mut self, volume: PersistentVolume) -> Self {
        let apart = self.apart.get_or_insert_default();
        apart.volumes.insert(volume.key(), volume);
        self
    }

    /// Whether all of `other` could be taken from it, each part from where it says.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.open.contains(&other.open)
            && other.apart().reserved.iter().all(|(stack, want)| {
                self.apart()
                    .reserved
                    .get(stack)
                    .is_some_and(|have| have.contains(want))
            })
            && other
                .apart()
                .volumes
                .iter()
                .all(|(key, want)| self.apart().volumes.get(key) == Some(want))
    }

    /// The sum. A volume that both have counts once, as ranges and sets do.
    ///
    /// # Errors
    ///
    /// When a scalar leaves the range of `i64` thousandths or the kinds of a name differ.
    pub fn checked_add(&self, other: &Self) -> Result<Self, Overflow> {
        let open = self.open.checked_add(&other.open)?;
        if self.is_open() && other.is_open() {
            return Ok(Self::open_to_all(open));
        }
        let mut sum = self.apart().clone();
        for (stack, more) in &other.apart().reserved {
            let of = sum.reserved.entry(stack.clone()).or_default();
            *of = of.checked_add(more)?;
        }
        let volumes = other.apart().volumes.iter();
        sum.volumes
            .extend(volumes.map(|(key, volume)| (key.clone(), volume.clone())));
        Ok(Self::open_to_all(open).with_apart(sum))
    }

    /// What is left when `other` is taken; `None` when it does not [contain](Self::contains) it.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let open = self.open.checked_sub(&other.open)?;
        if other.is_open() {
            let apart = self.apart.clone();
            return Some(Self { open, apart });
        }
        let mut left = self.apart().clone();
        for (stack, less) in &other.apart().reserved {
            let rest = left.reserved.remove(stack)?.checked_sub(less)?;
            if !rest.is_empty() {
                left.reserved.insert(stack.clone(), rest);
            }
        }
        for (key, volume) in &other.apart().volumes {
            if left.volumes.remove(key).as_ref() != Some(volume) {
                return None;
            }
        }
        Some(Self::open_to_all(open).with_apart(left))
    }

    /// Divides what a task takes: first from reservations without labels, the most refined first, then from what is
    /// open to all. `None` when it is not there.
    #[must_use]
    pub fn pick(&self, wanted: &Resources) -> Option<Self> {
        if self.apart().reserved.is_empty() {
            return self
                .open
                .contains(wanted)
                .then(|| Self::open_to_all(wanted.clone()));
        }
        let mut picked = Self::default();
        let mut rest = wanted.clone();
        let mut plain: Vec<_> = self
            .apart()
            .reserved
            .iter()
            .filter(|(s, _)| s.is_plain())
            .collect();
        plain.sort_by_key(|(stack, _)| std::cmp::Reverse(stack.as_slice().len()));
        for (stack, have) in plain {
            let part = common(have, &rest);
            rest = rest.checked_sub(&part)?;
            picked = picked.with_reserved(stack, part);
        }
        self.open.contains(&rest).then(|| picked.with_open(rest))
    }

    /// What a change takes from this, and what it makes of it.
    ///
    /// # Errors
    ///
    /// When it does not fit what is here.
    pub fn conversion(&self, change: &PoolChange) -> Result<Conversion, ChangeProblem> {
        let of = |stack: Option<&Stack>, resources: &Resources| match stack {
            None => Self::open_to_all(resources.clone()),
            Some(stack) => Self::default().with_reserved(stack, resources.clone()),
        };
        let conversion = match change {
            PoolChange::Reserve {
                from,
                with,
                resources,
            } => {
                let to = match from {
                    None => Stack::single(with.clone())?,
                    Some(from) => from.refined(with.clone())?,
                };
                Conversion {
                    consumed: of(from.as_ref(), resources),
                    produced: of(Some(&to), resources),
                }
            }
            PoolChange::Unreserve { stack, resources } => {
                if stack.top().kind == ReservationKind::Static {
                    return Err(ChangeProblem::Static(stack.role().clone()));
                }
                Conversion {
                    consumed: of(Some(stack), resources),
                    produced: of(stack.below().as_ref(), resources),
                }
            }
            PoolChange::Create(volume) => {
                if self.apart().volumes.contains_key(&volume.key()) {
                    return Err(ChangeProblem::VolumeThere(volume.key()));
                }
                Conversion {
                    consumed: of(Some(&volume.stack), &volume.resources()),
                    produced: Self::default().with_volume(volume.clone()),
                }
            }
            PoolChange::Destroy(key) => {
                let volume = self
                    .apart()
                    .volumes
                    .get(key)
                    .ok_or_else(|| ChangeProblem::NoVolume(key.clone()))?;
                Conversion {
                    consumed: Self::default().with_volume(volume.clone()),
                    produced: of(Some(&volume.stack), &volume.resources()),
                }
            }
        };
        if conversion.consumed.is_empty() {
            return Err(ChangeProblem::Nothing);
        }
        if !self.contains(&conversion.consumed) {
            return Err(ChangeProblem::NotThere {
                wanted: conversion.consumed.to_string(),
                have: self.to_string(),
            });
        }
        Ok(conversion)
    }

    /// After a conversion; `None` when this does not hold what it takes.
    #[must_use]
    pub fn converted(&self, conversion: &Conversion) -> Option<Self> {
        self.checked_sub(&conversion.consumed)?
            .checked_add(&conversion.produced)
            .ok()
    }
}

/// What both have.
fn common(have: &Resources, wanted: &Resources) -> Resources {
    let mut both = Resources::new();
    for (name, want) in wanted.iter() {
        let value = match (have.get(name), want) {
            (Some(Value::Scalar(a)), Value::Scalar(b)) => Value::Scalar(*a.min(b)),
            (Some(Value::Ranges(a)), Value::Ranges(b)) => {
                Value::Ranges(b.difference(&b.difference(a)))
            }
            (Some(Value::Set(a)), Value::Set(b)) => {
                Value::Set(a.intersection(b).cloned().collect::<BTreeSet<_>>())
            }
            (None | Some(Value::Scalar(_) | Value::Ranges(_) | Value::Set(_)), _) => continue,
        };
        both = both.with(name, value);
    }
    both
}

/// Resources that are not divided as somebody says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Undivided {
    /// Kinds differ, or a sum is too large.
    #[error(transparent)]
    Overflow(#[from] Overflow),
    /// More than there is.
    #[error("{part} cannot be reserved or in a volume: of all resources only {rest} is left")]
    TooMuch {
        /// Reserved, or a volume's.
        part: Resources,
        /// Without what was reserved before.
        rest: Resources,
    },
    /// Volumes are told apart by these.
    #[error("volume {0} stands twice")]
    Twice(VolumeKey),
}

impl From<Resources> for Pools {
    fn from(open: Resources) -> Self {
        Self::open_to_all(open)
    }
}

#[cfg(test)]
mod tests;
