//! How much may be kept apart on one agent. What it registers with has to fit into a message and into one record of the
//! master's store, with room for the rest of its description.

use thiserror::Error;

use super::{ChangeProblem, Conversion, Pools};

/// Different reservations: of one agent, in one offer or task.
pub const MOST_POOLS: usize = 1024;
/// Volumes: of one agent, in one offer or task.
pub const MOST_VOLUMES: usize = 1024;
/// Bytes of all that as JSON: a store takes records of 512 KiB.
const MOST_BYTES: usize = 384 << 10;

/// More than an agent may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Excess {
    /// Of reservations.
    #[error("the agent would have more than {MOST_POOLS} different reservations")]
    Pools,
    /// Of volumes.
    #[error("the agent would have more than {MOST_VOLUMES} volumes")]
    Volumes,
    /// Of text.
    #[error(
        "the agent's reservations and volumes would take more than {MOST_BYTES} bytes, labels included"
    )]
    Bytes,
}

impl Pools {
    /// Whether an agent that has this may have it after that conversion, too.
    ///
    /// # Errors
    ///
    /// What it would have too much of.
    pub fn room_for(&self, conversion: &Conversion) -> Result<(), ChangeProblem> {
        match self.converted(conversion).and_then(|next| next.excess()) {
            Some(excess) => Err(excess.into()),
            None => Ok(()),
        }
    }

    fn excess(&self) -> Option<Excess> {
        let (pools, volumes) = (self.pool_list(), self.volumes().collect::<Vec<_>>());
        if pools.len() > MOST_POOLS {
            return Some(Excess::Pools);
        }
        if volumes.len() > MOST_VOLUMES {
            return Some(Excess::Volumes);
        }
        let text = serde_json::to_vec(&(pools, volumes));
        let size = text.map_or(usize::MAX, |text| text.len());
        (size > MOST_BYTES).then_some(Excess::Bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{PersistentVolume, PoolChange, Reservation, Stack};

    use super::*;

    /// Makes changes until one is refused, and says how many there were before and why.
    fn fill(mut pools: Pools, change: impl Fn(usize) -> PoolChange) -> (usize, ChangeProblem) {
        for n in 0.. {
            let conversion = pools.conversion(&change(n)).unwrap();
            match pools.room_for(&conversion) {
                Ok(()) => pools = pools.converted(&conversion).unwrap(),
                Err(problem) => return (n, problem),
            }
        }
        unreachable!("there are bounds")
    }

    #[test]
    fn an_agent_has_room_for_so_many_volumes_and_no_more() {
        let eng = Stack::single(Reservation::dynamic("eng".parse().unwrap(), "ops")).unwrap();
        let volume = |n: usize| PersistentVolume {
            id: format!("v{n}").parse().unwrap(),
            stack: eng.clone(),
            size_mb: 1,
            principal: "ops".to_owned(),
            shared: false,
        };
        let pools = Pools::default().with_reserved(&eng, "disk:5".parse().unwrap());
        let almost = (1..MOST_VOLUMES).fold(pools, |pools, n| pools.with_volume(volume(n)));
        let create = |n| PoolChange::Create(volume(MOST_VOLUMES + n));
        assert_eq!(fill(almost, create), (1, Excess::Volumes.into()));
    }

    #[test]
    fn labels_do_not_make_an_agent_too_large_for_the_store() {
        let reserve = |n| {
            let mut with = Reservation::dynamic("eng".parse().unwrap(), "ops");
            let labels = (0..60).map(|i| (format!("l{i}"), format!("{n}{}", "x".repeat(1000))));
            with.labels = labels.collect();
            PoolChange::Reserve {
                from: None,
                with,
                resources: "mem:1".parse().unwrap(),
            }
        };
        let (n, problem) = fill("mem:100".parse().unwrap(), reserve);
        assert!(n > 1 && n < 10, "{n}");
        assert_eq!(problem, Excess::Bytes.into());
    }
}
