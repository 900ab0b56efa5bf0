//! Resources by whose they are: what is open to all, what is reserved, and volumes. Exact, as [`Resources`] are.
//!
//! An agent's total, an offer, what a task takes are all of this kind. A [`PoolChange`] turns some of it into something
//! else of the same sum: master and agent apply the same change to their own books and come out alike.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    BadStack, Excess, InvalidResources, Overflow, PersistentVolume, Pool, Reservation,
    ReservationKind, Resources, RoleName, Stack, Value, VolumeKey,
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

/// Turns resources into others of the same sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolChange {
    /// Puts a reservation upon what is open, or upon another reservation.
    Reserve {
        /// `None`: what is open to all.
        from: Option<Stack>,
        /// The new one.
        with: Reservation,
        /// How much.
        resources: Resources,
    },
    /// Takes the topmost reservation away.
    Unreserve {
        /// With the one that goes.
        stack: Stack,
        /// How much.
        resources: Resources,
    },
    /// Makes a volume of reserved disk.
    Create(PersistentVolume),
    /// Makes reserved disk of a volume. Its content is lost.
    Destroy(VolumeKey),
}

impl PoolChange {
    /// Whose reservation or volume it is about.
    #[must_use]
    pub fn role(&self) -> &RoleName {
        match self {
            Self::Reserve { with, .. } => &with.role,
            Self::Unreserve { stack, .. } => stack.role(),
            Self::Create(volume) => volume.stack.role(),
            Self::Destroy(key) => &key.role,
        }
    }
}

impl fmt::Display for PoolChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve {
                with, resources, ..
            } => write!(f, "reserve {resources} for role {}", with.role),
            Self::Unreserve { stack, resources } => {
                write!(f, "unreserve {resources} of role {}", stack.role())
            }
            Self::Create(volume) => write!(f, "create volume {}", volume.key()),
            Self::Destroy(key) => write!(f, "destroy volume {key}"),
        }
    }
}

/// What a [`PoolChange`] takes, and what it makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// Is there before.
    pub consumed: Pools,
    /// Is there after.
    pub produced: Pools,
}

/// Why a change cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeProblem {
    /// The reservation cannot be.
    #[error(transparent)]
    Stack(#[from] BadStack),
    /// The agent's settings say so.
    #[error(
        "the reservation for role {0} is static: it ends when the agent's settings no longer name it"
    )]
    Static(RoleName),
    /// Names are used once at a time.
    #[error("volume {0} exists already")]
    VolumeThere(VolumeKey),
    /// No such volume.
    #[error("there is no volume {0}")]
    NoVolume(VolumeKey),
    /// Too much kept apart.
    #[error(transparent)]
    Excess(#[from] Excess),
    /// A change of nothing.
    #[error("it names no resources")]
    Nothing,
    /// It takes what is not there.
    #[error("it takes {wanted}, and there is {have}")]
    NotThere {
        /// What it takes.
        wanted: String,
        /// What there is.
        have: String,
    },
}

impl fmt::Display for Pools {
    /// Mesos' notation: `cpus:2;cpus(eng):1;disk(eng)[data]:100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.open.is_empty() {
            parts.push(self.open.to_string());
        }
        for (stack, resources) in &self.apart().reserved {
            parts.extend(
                resources
                    .iter()
                    .map(|(name, value)| format!("{name}{stack}:{value}")),
            );
        }
        for volume in self.apart().volumes.values() {
            parts.push(format!(
                "disk{}[{}]:{}",
                volume.stack, volume.id, volume.size_mb
            ));
        }
        if parts.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&parts.join(";"))
    }
}

impl FromStr for Pools {
    type Err = InvalidResources;

    /// As an agent's settings have it: `cpus:2;cpus(eng):1;ports:[31000-31009]`. A role makes a static reservation.
    fn from_str(text: &str) -> Result<Self, InvalidResources> {
        let mut open = Vec::new();
        let mut by_role: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once(':').unwrap_or((part, ""));
            match name.split_once('(') {
                None => open.push(part),
                Some((name, role)) => {
                    let role =
                        role.trim_end()
                            .strip_suffix(')')
                            .ok_or_else(|| InvalidResources {
                                text: part.chars().take(80).collect(),
                                problem: "`)` is missing after the role".to_owned(),
                            })?;
                    let plain = format!("{}:{value}", name.trim());
                    by_role.entry(role).or_default().push(plain);
                }
            }
        }
        let mut pools = Self::open_to_all(open.join(";").parse()?);
        for (role, parts) in by_role {
            let invalid = |problem: String| InvalidResources {
                text: role.chars().take(80).collect(),
                problem,
            };
            let name: RoleName = role.parse().map_err(|error| invalid(format!("{error}")))?;
            let stack = Stack::single(Reservation::fixed(name));
            let stack = stack.map_err(|error| invalid(error.to_string()))?;
            pools = pools.with_reserved(&stack, parts.join(";").parse()?);
        }
        check_kinds(&pools)?;
        Ok(pools)
    }
}

/// A port or an item is had by one at a time, and a name is of one kind.
fn check_kinds(pools: &Pools) -> Result<(), InvalidResources> {
    let mut sum = Resources::new();
    let parts = std::iter::once(&pools.open).chain(pools.apart().reserved.values());
    for part in parts {
        let more = sum.checked_add(part);
        let disjoint = more
            .as_ref()
            .is_ok_and(|more| more.checked_sub(part).as_ref() == Some(&sum));
        match more {
            Ok(more) if disjoint => sum = more,
            Ok(_) | Err(_) => {
                return Err(InvalidResources {
                    text: part.to_string().chars().take(80).collect(),
                    problem:
                        "a part of it stands for another role too, or is of another kind there"
                            .to_owned(),
                });
            }
        }
    }
    Ok(())
}

impl Serialize for Pools {
    /// As text; for settings, which have no volumes and only static reservations.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pools {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl From<Resources> for Pools {
    fn from(open: Resources) -> Self {
        Self::open_to_all(open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Scalar;

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
        let have =
            pools("cpus:1;cpus(eng):2;cpus(eng/web):3").with_volume(volume("ops", "data", 5));
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
}
