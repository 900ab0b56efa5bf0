//! What the author wants of the subscription as a whole, told through calls and kept for subscriptions to come.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Shared by the line and all handles for calls.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// All of the framework's.
    roles: Vec<String>,
    suppressed: Mutex<BTreeSet<String>>,
    leaving: AtomicBool,
}

impl Wishes {
    pub(crate) fn new(roles: Vec<String>, suppressed: bool) -> Self {
        let quiet = if suppressed {
            roles.iter().cloned().collect()
        } else {
            BTreeSet::new()
        };
        Self {
            roles,
            suppressed: Mutex::new(quiet),
            leaving: AtomicBool::new(false),
        }
    }

    /// Roles for which no offers are wanted.
    pub(crate) fn suppressed(&self) -> Vec<String> {
        self.locked(|suppressed| suppressed.iter().cloned().collect())
    }

    /// The master has heard that; no role means all.
    pub(crate) fn suppress(&self, roles: &[String]) {
        let roles = if roles.is_empty() { &self.roles } else { roles };
        self.locked(|suppressed| suppressed.extend(roles.iter().cloned()));
    }

    /// The master has heard that; no role means all.
    pub(crate) fn revive(&self, roles: &[String]) {
        self.locked(|suppressed| {
            suppressed.retain(|role| !roles.is_empty() && !roles.contains(role))
        });
    }

    /// Whether the author tears the framework down: the end of the stream is no error then.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn leave(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Release);
    }

    fn locked<T>(&self, act: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        act(&mut self
            .suppressed
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_role_means_all_of_them() {
        let wishes = Wishes::new(vec!["a".to_owned(), "b".to_owned()], true);
        wishes.revive(&["a".to_owned()]);
        assert_eq!(wishes.suppressed(), ["b"]);
        wishes.suppress(&[]);
        assert_eq!(wishes.suppressed(), ["a", "b"]);
        wishes.revive(&[]);
        assert!(wishes.suppressed().is_empty());
    }
}
