//! What is reserved on this machine and which volumes it has: the truth that the master hears. Pure; `store` keeps the
//! [`Saved`] part on disk, and the rest is the agent's settings.
//!
//! A change is decided here, written, and only then in force and told (`task::core::pools`). What is destroyed is first
//! written as such, under the name of its folder, and then removed; so nothing is removed that the file does not name.

use mezzo_api::model::{
    OperationState, OperationStatus, PersistentVolume, Pool, PoolChange, PoolOperation, Pools,
    ReservationKind, VolumeKey,
};
use serde::{Deserialize, Serialize};

/// Ends of changes that wait for their acknowledgement.
const MOST_KEPT: usize = 10_000;

/// A volume and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) volume: PersistentVolume,
    /// Made by this agent from chance alone: what somebody calls a volume never becomes a path.
    pub(crate) folder: String,
}

/// What must survive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Dynamic reservations, without the disk of volumes.
    #[serde(default)]
    pub(crate) reserved: Vec<Pool>,
    #[serde(default)]
    pub(crate) volumes: Vec<Kept>,
    /// Folders that are to be removed.
    #[serde(default)]
    pub(crate) destroyed: Vec<String>,
    /// Ends of changes that nobody has acknowledged.
    #[serde(default)]
    pub(crate) operations: Vec<OperationStatus>,
}

/// Settings and changes together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pools: Pools,
    saved: Saved,
}

impl Book {
    /// From what the settings say there is, and what was changed before.
    ///
    /// # Errors
    ///
    /// Words for the operator, when the settings leave too little for what is reserved.
    pub(crate) fn open(declared: Pools, saved: Saved) -> Result<Self, String> {
        let mut pools = declared;
        let volumes = saved.volumes.iter().map(|kept| {
            let disk = kept.volume.resources();
            (kept.volume.stack.clone(), disk, Some(&kept.volume))
        });
        let reserved = saved.reserved.iter();
        let reserved = reserved.map(|pool| (pool.stack.clone(), pool.resources.clone(), None));
        for (stack, resources, volume) in reserved.chain(volumes) {
            let base = match stack.fixed() {
                None => Pools::open_to_all(resources.clone()),
                Some(fixed) => Pools::default().with_reserved(&fixed, resources.clone()),
            };
            let what = match volume {
                None => format!("{resources} is reserved for role {}", stack.role()),
                Some(volume) => format!("volume {} has {resources}", volume.key()),
            };
            let rest = pools
                .checked_sub(&base)
                .ok_or_else(|| format!("{what}, but the agent is to offer {pools}"))?;
            let part = match volume {
                None => Pools::default().with_reserved(&stack, resources),
                Some(volume) => Pools::default().with_volume(volume.clone()),
            };
            pools = rest.checked_add(&part).map_err(|error| error.to_string())?;
        }
        Ok(Self { pools, saved })
    }

    /// All there is.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What must survive.
    pub(crate) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Where a volume is.
    pub(crate) fn folder(&self, key: &VolumeKey) -> Option<&str> {
        let kept = self
            .saved
            .volumes
            .iter()
            .find(|kept| kept.volume.key() == *key);
        kept.map(|kept| kept.folder.as_str())
    }

    /// How it ended, if that is not acknowledged.
    pub(crate) fn known(&self, operation: &PoolOperation) -> Option<&OperationStatus> {
        let is_it = |status: &&OperationStatus| {
            status.id == operation.id && status.framework == operation.framework
        };
        self.saved.operations.iter().find(is_it)
    }

    /// The book after a change of what is free, with a new name for a folder.
    ///
    /// # Errors
    ///
    /// Why it cannot be made.
    pub(crate) fn changed(
        &self,
        operation: &PoolOperation,
        free: &Pools,
        folder: &str,
    ) -> Result<Self, String> {
        if operation.keep && self.saved.operations.len() >= MOST_KEPT {
            return Err(format!(
                "{MOST_KEPT} operations wait for their acknowledgement"
            ));
        }
        let change = &operation.change;
        if let PoolChange::Create(volume) = change
            && self.pools.volume(&volume.key()).is_some()
        {
            return Err(format!("volume {} exists already", volume.key()));
        }
        let conversion = free
            .conversion(change)
            .map_err(|problem| problem.to_string())?;
        self.pools
            .room_for(&conversion)
            .map_err(|problem| problem.to_string())?;
        let pools = self
            .pools
            .converted(&conversion)
            .ok_or("the agent does not have that")?;
        let mut saved = self.saved.clone();
        let dynamic = |pool: &Pool| pool.stack.top().kind == ReservationKind::Dynamic;
        saved.reserved = pools.pool_list().into_iter().filter(dynamic).collect();
        match change {
            PoolChange::Create(volume) => saved.volumes.push(Kept {
                volume: volume.clone(),
                folder: folder.to_owned(),
            }),
            PoolChange::Destroy(key) => {
                let gone = saved
                    .volumes
                    .iter()
                    .position(|kept| kept.volume.key() == *key);
                if let Some(at) = gone {
                    saved.destroyed.push(saved.volumes.remove(at).folder);
                }
            }
            PoolChange::Reserve { .. } | PoolChange::Unreserve { .. } => {}
        }
        let mut next = Self { pools, saved };
        if operation.keep {
            let status = ended(operation, OperationState::Finished, String::new());
            next.saved.operations.push(status);
        }
        Ok(next)
    }

    /// The same with the end of a change that was refused.
    pub(crate) fn refused(&self, status: &OperationStatus) -> Self {
        let mut next = self.clone();
        if next.saved.operations.len() < MOST_KEPT {
            next.saved.operations.push(status.clone());
        }
        next
    }

    /// Without the ends of changes that are acknowledged; `None` when there are none such.
    pub(crate) fn without(&self, over: impl Fn(&OperationStatus) -> bool) -> Option<Self> {
        self.saved.operations.iter().any(&over).then(|| {
            let mut next = self.clone();
            next.saved.operations.retain(|status| !over(status));
            next
        })
    }

    /// The content of that folder is gone. It is written with the next change; until then it is removed once more.
    pub(crate) fn purged(&mut self, folder: &str) {
        self.saved.destroyed.retain(|other| other != folder);
    }
}

/// What is told of a change.
pub(crate) fn ended(
    operation: &PoolOperation,
    state: OperationState,
    message: String,
) -> OperationStatus {
    OperationStatus {
        id: operation.id.clone(),
        framework: operation.framework.clone(),
        agent_id: None,
        state,
        message,
        keep: operation.keep,
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::{Reservation, Stack};

    use super::*;

    fn operation(change: PoolChange) -> PoolOperation {
        PoolOperation {
            id: "o".parse().unwrap(),
            framework: None,
            keep: true,
            change,
        }
    }

    fn eng() -> Stack {
        Stack::single(Reservation::dynamic("eng".parse().unwrap(), "ops")).unwrap()
    }

    fn with_a_volume() -> Book {
        let declared: Pools = "cpus:4;disk:100;cpus(ops):2".parse().unwrap();
        let book = Book::open(declared, Saved::default()).unwrap();
        let reserve = operation(PoolChange::Reserve {
            from: None,
            with: eng().top().clone(),
            resources: "cpus:1;disk:50".parse().unwrap(),
        });
        let book = book.changed(&reserve, book.pools(), "x").unwrap();
        let create = operation(PoolChange::Create(PersistentVolume {
            id: "../data".replace('/', "-").parse().unwrap(),
            stack: eng(),
            size_mb: 20,
            principal: String::new(),
            shared: false,
        }));
        book.changed(&create, book.pools(), "v-1").unwrap()
    }

    #[test]
    fn what_is_saved_and_the_settings_make_the_same_book_again() {
        let book = with_a_volume();
        let text = serde_json::to_string(book.saved()).unwrap();
        let declared: Pools = "cpus:4;disk:100;cpus(ops):2".parse().unwrap();
        assert_eq!(
            Book::open(declared, serde_json::from_str(&text).unwrap()),
            Ok(book.clone())
        );
        // More is fine, less as long as it suffices.
        let more: Pools = "cpus:1;disk:50;mem:5".parse().unwrap();
        assert!(Book::open(more, book.saved().clone()).is_ok());
        let less: Pools = "cpus:1;disk:49".parse().unwrap();
        let told = Book::open(less, book.saved().clone()).unwrap_err();
        assert!(
            told.contains("volume ..-data of role eng has disk:20"),
            "{told}"
        );
    }

    #[test]
    fn a_destroyed_volume_is_named_for_removal_and_its_disk_is_reserved_again() {
        let book = with_a_volume();
        let key = book.saved().volumes[0].volume.key();
        assert_eq!(book.folder(&key), Some("v-1"));
        let destroy = operation(PoolChange::Destroy(key));
        let mut after = book.changed(&destroy, book.pools(), "x").unwrap();
        assert_eq!(after.saved().destroyed, ["v-1"]);
        assert_eq!(after.pools().flat(), book.pools().flat());
        assert!(after.changed(&destroy, after.pools(), "x").is_err());
        after.purged("v-1");
        assert!(after.saved().destroyed.is_empty());
    }
}
