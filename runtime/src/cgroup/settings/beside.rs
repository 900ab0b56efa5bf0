//! Settings that are the same in both versions but for the names of their files: processors, idleness and huge pages. And the
//! weight of io, which has two files in version 2.

use std::fs;
use std::path::Path;

use super::{Setting, setting};
use crate::cgroup::hugetlb::{PageSize, SIZES};
use crate::model::Limits;

/// The processors of a cgroup, on both versions.
pub(super) const CPUS: &str = "cpuset.cpus";
/// Those that it really has, of version 2 alone.
const EFFECTIVE: &str = "cpuset.cpus.effective";

/// Without a set: nothing, which `look` makes into what the version has for it.
pub(super) fn processors(limits: &Limits) -> Setting {
    let set = limits.cpuset.as_ref().map(ToString::to_string);
    let optional = set.is_none();
    setting("cpuset", CPUS, set.unwrap_or_default(), optional)
}

/// Weights, which an idle cgroup does not have.
const WEIGHTS: [&str; 2] = ["cpu.weight", "cpu.shares"];
const IDLE: &str = "cpu.idle";

/// Behind the weight, which the kernel refuses to set once the cgroup is idle. Where the kernel does not know it, the
/// least weight must do. One that does not yield never was idle.
pub(super) fn idle(limits: &Limits) -> Option<Setting> {
    limits
        .yields
        .then(|| setting("cpu", IDLE, "1".to_owned(), true))
}

/// Whether that is the weight of a cgroup that is idle: it reads as some other number, and cannot be set.
pub(super) fn has_no_weight(name: &str, file: &Path) -> bool {
    WEIGHTS.contains(&name)
        && fs::read_to_string(file.with_file_name(IDLE)).is_ok_and(|idle| idle.trim() == "1")
}

/// The kernel's cost model (`CONFIG_BLK_CGROUP_IOCOST`) goes by this one, where it is on for a disk.
pub(super) const IO_WEIGHT: &str = "io.weight";
/// BFQ goes by this one, where it is a disk's scheduler; the file is there as soon as its module is.
pub(super) const BFQ_WEIGHT: &str = "io.bfq.weight";
/// What both start with.
const DEFAULT_IO_WEIGHT: u64 = 100;

/// Both, as far as they are there: which of the two counts is decided disk by disk.
pub(super) fn io_weights(limits: &Limits) -> [Setting; 2] {
    let weight = limits.io_weight.unwrap_or(DEFAULT_IO_WEIGHT);
    let of = |file, weight| {
        setting(
            "io",
            file,
            format!("default {weight}"),
            limits.io_weight.is_none(),
        )
    };
    [of(IO_WEIGHT, weight), of(BFQ_WEIGHT, bfq_weight(weight))]
}

/// BFQ takes 1 to 1000. The default stays the default, and what is above it is drawn together as systemd does, so that
/// tasks and units of one machine are weighed alike. Pure.
pub(super) fn bfq_weight(weight: u64) -> u64 {
    let above = weight.clamp(1, 10_000).saturating_sub(DEFAULT_IO_WEIGHT);
    weight.clamp(1, DEFAULT_IO_WEIGHT) + above * 900 / 9_900
}

/// Whether io can be weighed in the cgroup at `dir`.
pub(crate) fn has_io_weight(dir: &Path) -> bool {
    [IO_WEIGHT, BFQ_WEIGHT]
        .iter()
        .any(|name| dir.join(name).exists())
}

/// Whether that is one of the two weights of io, and the other one is there.
pub(super) fn other_weight_is_there(file: &Path) -> bool {
    let of = |one, other| file.ends_with(one) && file.with_file_name(other).exists();
    of(IO_WEIGHT, BFQ_WEIGHT) || of(BFQ_WEIGHT, IO_WEIGHT)
}

/// For every size there is, so that a limit that is no longer wanted goes.
pub(super) fn huge_pages(
    limits: &Limits,
    no_limit: &str,
    files: fn(&'static PageSize) -> &'static [&'static str; 2],
) -> Vec<Setting> {
    const ALL: &[PageSize] = &SIZES;
    let mut settings = Vec::new();
    for size in ALL {
        let limit = limits
            .huge_pages
            .iter()
            .find(|limit| limit.page_bytes == size.bytes);
        let value = limit.map_or(no_limit.to_owned(), |limit| limit.bytes.to_string());
        let [pages, reserved] = files(size);
        settings.push(setting("hugetlb", pages, value.clone(), limit.is_none()));
        // Older kernels do not have it.
        settings.push(setting("hugetlb", reserved, value, true));
    }
    settings
}

/// What means "no set of its own": nothing where nothing was ever set, on version 2; else what the parent has, because
/// the kernel takes no set back from processes that have one (and on version 1 nothing is no processor at all).
pub(super) fn all_processors(file: &Path) -> String {
    let (dir, mut source) = (file.parent(), CPUS);
    if dir.is_some_and(|dir| dir.join(EFFECTIVE).exists()) {
        if fs::read_to_string(file).is_ok_and(|set| set.trim().is_empty()) {
            return String::new();
        }
        source = EFFECTIVE;
    }
    let above = dir.and_then(Path::parent).map(|dir| dir.join(source));
    let text = above.and_then(|file| fs::read_to_string(file).ok());
    text.unwrap_or_default().trim().to_owned()
}
