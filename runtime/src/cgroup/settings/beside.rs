//! Settings that are the same in both versions but for the names of their files: processors, idleness and huge pages.

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
