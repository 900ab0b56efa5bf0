//! Images go when the disk fills: above the high mark, down to the low one, the longest unused first.
//!
//! Runs beside pulls and must not be felt: what goes is renamed away at once and deleted slowly, a few hundred files at a
//! time, because ext4 makes files many times slower for minutes after a large tree was deleted at full speed. What it
//! decides is in `gc` (pure); what it frees is measured, not believed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::gc::{self, Candidate};
use super::{ImageStore, Inner, StoreError, blocking, content, io_error};
use crate::digest::Digest;
use crate::reference::Reference;

/// Files that are deleted in a row, and the rest after them; a longer one while a layer is being fetched.
const IN_A_ROW: u32 = 200;
const REST: Duration = Duration::from_millis(20);
const REST_BESIDE_A_PULL: Duration = Duration::from_millis(100);

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Nothing goes while less of the disk is used.
    pub high_percent: u8,
    /// Then images go until no more than this is used.
    pub low_percent: u8,
    /// Images that were used within this time stay.
    pub min_age: Duration,
}

/// What went, and why not more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Images that went.
    pub removed: Vec<Reference>,
    /// Layers that went.
    pub layers: usize,
    /// What they took on the disk.
    pub freed_bytes: u64,
    /// Of the disk, before.
    pub used_percent_before: u8,
    /// Of the disk, after.
    pub used_percent_after: u8,
    /// Bytes still used above the low mark: nothing more could go.
    pub short_bytes: u64,
    /// Images that stay because a container, a mount or a pull stands on them.
    pub in_use: usize,
    /// Images that stay because they were used just now.
    pub young: usize,
}

/// The file system below a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    used: u64,
    /// Used, and what may still be.
    total: u64,
}

impl Disk {
    fn of(path: &Path) -> Result<Self, StoreError> {
        let stat = nix::sys::statvfs::statvfs(path)
            .map_err(|errno| io_error("measure the disk below", path, errno.into()))?;
        let block = stat.fragment_size();
        let used = (stat.blocks() - stat.blocks_free()) * block;
        // As df does it: what is kept for root counts as neither.
        Ok(Self {
            used,
            total: used + stat.blocks_available() * block,
        })
    }

    fn percent(self) -> u8 {
        let percent = u128::from(self.used) * 100 / u128::from(self.total.max(1));
        u8::try_from(percent).unwrap_or(100)
    }

    /// Bytes used above a mark.
    fn above(self, percent: u8) -> u64 {
        let allowed = u128::from(self.total) * u128::from(percent) / 100;
        self.used
            .saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX))
    }
}

impl ImageStore {
    /// Removes images if the disk is used above the high mark. None: it is not.
    pub async fn collect_garbage(&self, policy: GcPolicy) -> Result<Option<GcReport>, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || collect(&inner, policy)).await
    }
}

fn collect(inner: &Inner, policy: GcPolicy) -> Result<Option<GcReport>, StoreError> {
    let root = inner.layout.root();
    let before = Disk::of(root)?;
    if before.above(policy.high_percent) == 0 {
        return Ok(None);
    }
    let mut report = GcReport {
        used_percent_before: before.percent(),
        ..GcReport::default()
    };
    // What no image has any more goes first.
    take(inner, policy, &[], &mut report)?;
    let need = Disk::of(root)?.above(policy.low_percent);
    let planned = plan(inner, policy, need)?;
    (report.in_use, report.young) = (planned.in_use, planned.young);
    for victim in planned.victims {
        if Disk::of(root)?.above(policy.low_percent) == 0 {
            break;
        }
        // Time has passed: it may be in use now.
        if !plan(inner, policy, u64::MAX)?.victims.contains(&victim) {
            continue;
        }
        let layers = inner.layers_of(&victim);
        inner.forget(&victim)?;
        report.removed.push(victim);
        take(inner, policy, &layers, &mut report)?;
    }
    let after = Disk::of(root)?;
    report.used_percent_after = after.percent();
    report.short_bytes = after.above(policy.low_percent);
    Ok(Some(report))
}

fn plan(inner: &Inner, policy: GcPolicy, need: u64) -> Result<gc::Plan, StoreError> {
    let held = inner.held_layers()?;
    let state = inner.state();
    let images = state.images.values().map(|record| Candidate {
        reference: record.reference.clone(),
        layers: record.layers.clone(),
        last_used: state
            .last_used
            .get(&record.reference)
            .copied()
            .unwrap_or(SystemTime::UNIX_EPOCH),
    });
    let size = |chain: &_| {
        let layer = state.layers.get(chain);
        layer.map_or(0, |layer| inner.disk_bytes(layer))
    };
    let now = SystemTime::now();
    Ok(gc::plan(
        images.collect(),
        &held,
        size,
        need,
        now,
        policy.min_age,
    ))
}

/// Deletes what nobody needs any more: `doomed` layers, and others that did not come just now. A pull that broke will
/// want those again.
fn take(
    inner: &Inner,
    policy: GcPolicy,
    doomed: &[Digest],
    report: &mut GcReport,
) -> Result<(), StoreError> {
    let now = SystemTime::now();
    let is_young = |layer: &Digest| {
        let record = inner.layout.layer(layer).join("layer.json");
        let came = record.metadata().and_then(|record| record.modified());
        came.is_ok_and(|came| now.duration_since(came).unwrap_or_default() < policy.min_age)
    };
    let taken = inner.take_garbage(|layer| !doomed.contains(layer) && is_young(layer))?;
    report.layers += taken.layers;
    report.freed_bytes += taken.bytes;
    let mut deleted = 0;
    let mut rest = || {
        deleted += 1;
        if deleted % IN_A_ROW == 0 {
            let quiet = inner.permits.available_permits() >= inner.config.parallel_layers.max(1);
            std::thread::sleep(if quiet { REST } else { REST_BESIDE_A_PULL });
        }
    };
    for path in &taken.trash {
        delete_slowly(path, &mut rest)
            .and_then(|()| content::delete(path))
            .map_err(|source| io_error("delete", path, source))?;
    }
    Ok(())
}

/// Deletes what is below a path, one file after the other. The path is one of ours in `tmp`; links are not followed.
fn delete_slowly(path: &Path, rest: &mut dyn FnMut()) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    rest();
    if !found.is_dir() {
        return std::fs::remove_file(path);
    }
    for entry in std::fs::read_dir(path)? {
        delete_slowly(&entry?.path(), rest)?;
    }
    match std::fs::remove_dir(path) {
        // A mark that came meanwhile; whoever called deletes the rest.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_measured_as_df_does() {
        let disk = Disk {
            used: 850,
            total: 1000,
        };
        assert_eq!(disk.percent(), 85);
        assert_eq!(disk.above(80), 50);
        assert_eq!(disk.above(85), 0);
        let empty = Disk { used: 0, total: 0 };
        assert_eq!((empty.percent(), empty.above(0)), (0, 0));
    }
}
