//! Sums of scalars over many agents.
//!
//! Ranges and sets mean something on one machine only (two machines each have a port 31000), so that sums over the
//! cluster hold scalars alone, as in Mesos. 128 bits wide: no cluster overflows them.

use mezzo_api::model::{PersistentVolume, Pools, Resources, Scalar, Value};

/// Thousandths by name, ascending; never a zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quantities(Vec<(Box<str>, i128)>);

impl Quantities {
    /// The scalars among `resources`.
    #[must_use]
    pub fn of(resources: &Resources) -> Self {
        let mut sum = Self::default();
        sum.add(resources);
        sum
    }

    /// Adds the scalars among `resources`.
    pub fn add(&mut self, resources: &Resources) {
        self.change(resources, 1);
    }

    /// Takes the scalars among `resources` away.
    pub fn sub(&mut self, resources: &Resources) {
        self.change(resources, -1);
    }

    /// The scalars of pools, whosever they are, with the disk of volumes.
    #[must_use]
    pub fn of_pools(pools: &Pools) -> Self {
        let mut sum = Self::default();
        sum.add_pools(pools);
        sum
    }

    /// Adds them.
    pub fn add_pools(&mut self, pools: &Pools) {
        self.change_pools(pools, 1);
    }

    /// Takes them away.
    pub fn sub_pools(&mut self, pools: &Pools) {
        self.change_pools(pools, -1);
    }

    /// Adds the disk of a volume.
    pub fn add_volume(&mut self, volume: &PersistentVolume) {
        self.shift("disk", i128::from(volume.disk().millis()));
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        for (name, millis) in &other.0 {
            self.shift(name, *millis);
        }
    }

    /// Takes another sum away.
    pub fn part(&mut self, other: &Self) {
        for (name, millis) in &other.0 {
            self.shift(name, -*millis);
        }
    }

    /// Adds another sum so many times.
    pub fn merge_times(&mut self, other: &Self, times: i128) {
        for (name, millis) in &other.0 {
            self.shift(name, millis * times);
        }
    }

    /// Thousandths of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> i128 {
        self.position(name).map_or(0, |at| self.0[at].1)
    }

    /// Name and thousandths, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i128)> {
        self.0.iter().map(|(name, millis)| (&**name, *millis))
    }

    /// As resources; what does not fit 64 bits is cut there.
    #[must_use]
    pub fn to_resources(&self) -> Resources {
        self.0.iter().fold(Resources::new(), |sum, (name, millis)| {
            let millis = i64::try_from(*millis).unwrap_or(i64::MAX);
            sum.with_scalar(name, Scalar::from_millis(millis))
        })
    }

    fn change_pools(&mut self, pools: &Pools, sign: i128) {
        self.change(pools.open(), sign);
        for (_, resources) in pools.reserved() {
            self.change(resources, sign);
        }
        for volume in pools.volumes() {
            self.shift("disk", sign * i128::from(volume.disk().millis()));
        }
    }

    fn change(&mut self, resources: &Resources, sign: i128) {
        for (name, value) in resources.iter() {
            match value {
                Value::Scalar(scalar) => self.shift(name, sign * i128::from(scalar.millis())),
                Value::Ranges(_) | Value::Set(_) => {}
            }
        }
    }

    fn shift(&mut self, name: &str, millis: i128) {
        match self.position(name) {
            Ok(at) => {
                self.0[at].1 += millis;
                if self.0[at].1 == 0 {
                    self.0.remove(at);
                }
            }
            Err(at) if millis != 0 => self.0.insert(at, (name.into(), millis)),
            Err(_) => {}
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(have, _)| (**have).cmp(name))
    }
}
