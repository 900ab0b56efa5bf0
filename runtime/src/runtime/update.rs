//! New limits for a running container: checked, written to the kernel's files, then to the container's record. The
//! kernel first: if we die between the two, the caller has had no answer, and the next runtime enforces what is
//! recorded, the old limits. If the record cannot be written, the kernel gets the old values back.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::Inner;
use crate::cgroup::settings::{self, ChangeError, Changed};
use crate::container;
use crate::error::UpdateError;
use crate::model::Limits;
use crate::spec::validate;
use crate::supervise::Entry;

/// See [`crate::Runtime::update`].
pub(super) async fn update(
    inner: &Arc<Inner>,
    entry: &Arc<Entry>,
    limits: Limits,
) -> Result<(), UpdateError> {
    let (inner, changing) = (Arc::clone(inner), Arc::clone(entry));
    // It goes on if the caller stops waiting, so that it is never half done.
    let done =
        tokio::task::spawn_blocking(move || update_blocking(&inner, &changing, limits)).await;
    done.unwrap_or_else(|error| {
        Err(UpdateError::Record {
            id: entry.id.clone(),
            stuck: Vec::new(),
            source: io::Error::other(error),
        })
    })
}

fn update_blocking(inner: &Inner, entry: &Entry, limits: Limits) -> Result<(), UpdateError> {
    // Nothing is half changed when somebody panics with it: the kernel's files are the state.
    let _one_at_a_time = entry
        .updating
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let not_running = || UpdateError::NotRunning {
        id: entry.id.clone(),
    };
    let not_recorded = |stuck, source| UpdateError::Record {
        id: entry.id.clone(),
        stuck,
        source,
    };
    entry.running().ok_or_else(not_running)?;
    let mut record = entry
        .dir
        .read_spec()
        .map_err(|error| not_recorded(Vec::new(), error))?
        .ok_or_else(not_running)?;
    let changed = change(inner, entry, &limits).map_err(|error| {
        // Its cgroup goes right after its end; what that looks like is not the reason.
        if inner.hierarchies.processes(&entry.cgroup).is_empty() {
            not_running()
        } else {
            error
        }
    })?;
    let protects = record.spec.limits.memory_low.is_some() || limits.memory_low.is_some();
    let recorded = if record.spec.limits == limits {
        Ok(())
    } else {
        record.spec.limits = limits;
        entry
            .dir
            .write_spec(&record)
            .map_err(|error| not_recorded(changed.undo(), error))
    };
    // A group's own limits say nothing of what its members have.
    if protects {
        inner
            .hierarchies
            .carry_memory_low(entry.containers_cgroup());
    }
    recorded
}

fn change(inner: &Inner, entry: &Entry, limits: &Limits) -> Result<Changed, UpdateError> {
    let bad = |problem| UpdateError::BadLimits {
        id: entry.id.clone(),
        problem,
    };
    let hierarchies = &inner.hierarchies;
    let host = container::host_limits(hierarchies, entry.limited_cgroup(), limits);
    validate::check_host(limits, &host).map_err(bad)?;
    let devices = container::io_devices(&limits.io_max).map_err(bad)?;
    if limits.cpuset.is_some() {
        let moved = hierarchies.ensure_cpuset(entry.limited_cgroup());
        moved.map_err(|error| UpdateError::Cgroup {
            id: entry.id.clone(),
            reason: format!("entering the hierarchy of processors: {error}"),
            stuck: Vec::new(),
        })?;
    }
    let dir = |controller: &str| hierarchies.controller_dir(controller, entry.limited_cgroup());
    let wanted = settings::wanted(limits, hierarchies.mode, &devices);
    settings::change(&dir, &wanted).map_err(|(error, stuck)| refused(entry, &error, stuck))
}

fn refused(entry: &Entry, error: &ChangeError, stuck: Vec<PathBuf>) -> UpdateError {
    let id = entry.id.clone();
    match error {
        ChangeError::MemoryInUse { wanted, used } if stuck.is_empty() => UpdateError::MemoryInUse {
            id,
            wanted_bytes: *wanted,
            used_bytes: *used,
        },
        ChangeError::MemoryInUse { .. }
        | ChangeError::Missing { .. }
        | ChangeError::Refused { .. } => UpdateError::Cgroup {
            id,
            reason: error.to_string(),
            stuck,
        },
    }
}

/// Gives a container that was found running the limits of its record, should a runtime before this one have died
/// in the middle of changing them. Files that hold the right value are not written.
pub(super) async fn enforce(inner: &Arc<Inner>, entry: &Arc<Entry>, limits: &Limits) {
    let (changing, limits) = (Arc::clone(entry), limits.clone());
    let (hierarchies, inner) = (Arc::clone(&inner.hierarchies), Arc::clone(inner));
    let done = tokio::task::spawn_blocking(move || change(&inner, &changing, &limits)).await;
    if let Ok(Err(error)) = done
        && !hierarchies.processes(&entry.cgroup).is_empty()
    {
        tracing::warn!(container = %entry.id, %error, "runs under other limits than those on record");
    }
}
