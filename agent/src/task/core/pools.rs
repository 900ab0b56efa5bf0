//! Reservations and volumes: a change is decided, written, and only then in force and told. While it is written the
//! owner takes no command, so that a launch that follows a change finds it done. Pure.

use mezzo_api::model::{
    FrameworkId, OperationId, OperationState, OperationStatus, PoolChange, PoolOperation, Pools,
    Reason, TaskInfo, TaskState, VolumeId, VolumeKey,
};

use super::Core;
use crate::{
    node::ContainerId,
    resources::book::{Book, ended},
    task::{Context, entry::Entry, event::Effect, status::Outcome},
};

/// What is being written.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    next: Box<Book>,
    /// To be told after it. `None`: an acknowledgement.
    told: Option<OperationStatus>,
}

impl Core {
    /// In place of a machine on which nothing is reserved. Removes what was destroyed before the agent ended.
    pub(crate) fn open_book(&mut self, book: Book) -> Vec<Effect> {
        let destroyed = book.saved().destroyed.iter().cloned();
        let effects = destroyed.map(Effect::Purge).collect();
        self.book = book;
        effects
    }

    /// What is reserved, and which volumes there are.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Why a task cannot have what it takes from where it says. What is lent is reserved for nobody.
    /// `holder`: of the task's group, whose members share the volumes that they write.
    pub(super) fn refuse_pools(
        &self,
        info: &TaskInfo,
        holder: Option<&ContainerId>,
    ) -> Option<Outcome> {
        if info.revocable {
            return None;
        }
        if self.book.pools().is_open() && info.reserved.is_empty() && info.persistent.is_empty() {
            return None;
        }
        let refused = |message: String| {
            let reason = Reason::ResourcesUnavailable;
            Some(Outcome::new(TaskState::Error, reason, message))
        };
        let part = match info.pools() {
            Ok(part) => part,
            Err(error) => return refused(format!("reserved: {error}")),
        };
        let free = self.free_pools();
        for volume in &info.persistent {
            let key = volume.key();
            if self.book.pools().volume(&key) != Some(volume) {
                return refused(format!("there is no such volume {key} here"));
            }
            // However many have it: its end is what cannot be meanwhile.
            if volume.shared {
                continue;
            }
            let others = |entry: &&Entry| holder.is_none() || entry.holder.as_ref() != holder;
            let users: Vec<&Entry> = self.users_of(&key).filter(others).collect();
            if !users.is_empty() && info.writes(&volume.id) {
                return refused(format!(
                    "volume {key} is in use by task {}",
                    names(users.into_iter())
                ));
            }
            // Whether or not they hold it: who did may have ended before the others of its group.
            let mut writers = users.iter().copied();
            if writers.any(|entry| entry.info.writes(&volume.id)) {
                return refused(format!(
                    "volume {key} is written by task {}",
                    names(users.into_iter())
                ));
            }
        }
        if !free.contains(&part) {
            return refused(format!("the task takes {part}, and {free} is free here"));
        }
        None
    }

    /// Where the volumes are that a task mounts.
    pub(super) fn volume_folders(&self, id: &ContainerId) -> Vec<(VolumeId, String)> {
        let mounted = self.by_container(id).into_iter();
        let mounted = mounted.flat_map(|entry| &entry.info.persistent);
        mounted
            .filter_map(|volume| {
                let folder = self.book.folder(&volume.key())?;
                Some((volume.id.clone(), folder.to_owned()))
            })
            .collect()
    }

    /// Of them those that it writes.
    pub(crate) fn written_volumes(&self, entry: &Entry) -> Vec<(VolumeId, String)> {
        let info = &entry.info;
        let written = info
            .persistent
            .iter()
            .filter(|volume| info.writes(&volume.id));
        written
            .filter_map(|volume| {
                let folder = self.book.folder(&volume.key())?;
                Some((volume.id.clone(), folder.to_owned()))
            })
            .collect()
    }

    fn free_pools(&self) -> Pools {
        let mut free = self.book.pools().clone();
        let holds = |entry: &&Entry| !entry.info.revocable && entry.ended_at().is_none();
        for entry in self.tasks.values().filter(holds) {
            let held = entry.info.pools();
            free = held
                .ok()
                .and_then(|held| free.without(&held))
                .unwrap_or_default();
        }
        free
    }

    /// The tasks that mount a volume and have not ended.
    fn users_of(&self, key: &VolumeKey) -> impl Iterator<Item = &Entry> {
        self.tasks.values().filter(move |entry| {
            let mut mounted = entry.info.persistent.iter();
            entry.ended_at().is_none() && mounted.any(|volume| volume.key() == *key)
        })
    }

    pub(super) fn operate(
        &mut self,
        operation: &PoolOperation,
        ctx: &mut Context<'_>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(known) = self.book.known(operation) {
            effects.push(Effect::SendPools(Box::new(known.clone())));
            return;
        }
        let folder = format!("v-{:032x}", (ctx.random)());
        let in_use = match &operation.change {
            PoolChange::Destroy(key) => names(self.users_of(key)),
            PoolChange::Reserve { .. } | PoolChange::Unreserve { .. } | PoolChange::Create(_) => {
                String::new()
            }
        };
        let changed = if in_use.is_empty() {
            self.book.changed(operation, &self.free_pools(), &folder)
        } else {
            Err(format!("it is in use by task {in_use}"))
        };
        let (next, told) = match changed {
            Ok(next) => {
                let told = ended(operation, OperationState::Finished, String::new());
                (next, told)
            }
            Err(problem) => {
                let told = ended(operation, OperationState::Failed, problem);
                if !operation.keep {
                    effects.push(Effect::SendPools(Box::new(told)));
                    return;
                }
                (self.book.refused(&told), told)
            }
        };
        self.write_book(next, Some(told), effects);
    }

    pub(super) fn acknowledge_operation(
        &mut self,
        framework: Option<&FrameworkId>,
        id: &OperationId,
        effects: &mut Vec<Effect>,
    ) {
        let over =
            |status: &OperationStatus| status.id == *id && status.framework.as_ref() == framework;
        if let Some(next) = self.book.without(over) {
            self.write_book(next, None, effects);
        }
    }

    pub(super) fn forget_operations(&mut self, of: &FrameworkId, effects: &mut Vec<Effect>) {
        let over = |status: &OperationStatus| status.framework.as_ref() == Some(of);
        if let Some(next) = self.book.without(over) {
            self.write_book(next, None, effects);
        }
    }

    fn write_book(&mut self, next: Book, told: Option<OperationStatus>, effects: &mut Vec<Effect>) {
        let had = &self.book.saved().volumes;
        let new = next.saved().volumes.iter().find(|kept| !had.contains(kept));
        effects.push(Effect::WriteBook {
            saved: Box::new(next.saved().clone()),
            make: new.map(|kept| kept.folder.clone()),
        });
        self.writing = Some(Writing {
            next: Box::new(next),
            told,
        });
    }

    /// It is on disk, or not.
    pub(super) fn book_written(&mut self, result: Result<(), String>, effects: &mut Vec<Effect>) {
        let Some(Writing { next, told }) = self.writing.take() else {
            return;
        };
        match (result, told) {
            (Ok(()), told) => {
                let before = std::mem::replace(&mut self.book, *next);
                let destroyed = self.book.saved().destroyed.iter();
                let new = destroyed.filter(|folder| !before.saved().destroyed.contains(folder));
                effects.extend(new.cloned().map(Effect::Purge));
                effects.extend(told.map(|told| Effect::SendPools(Box::new(told))));
            }
            (Err(error), Some(told)) => {
                effects.push(Effect::SendPools(Box::new(OperationStatus {
                    state: OperationState::Failed,
                    message: format!("the agent cannot write it down: {error}"),
                    ..told
                })))
            }
            // It is told again, and acknowledged again.
            (Err(_), None) => {}
        }
    }
}

fn names<'e>(entries: impl Iterator<Item = &'e Entry>) -> String {
    let names: Vec<&str> = entries.map(|entry| entry.key.task.as_str()).collect();
    names.join(", ")
}
