//! Huge pages: which sizes there are, and the names of their files in each version of control groups. Pure, but for
//! the look at which sizes a host has.

use std::fs;
use std::path::Path;

/// One size of page: bytes, and the files of its limit and of the limit on reservations, on version 2 and 1.
///
/// Reservations too, because a page beyond the first limit alone would be a SIGBUS in the middle of the program, where
/// one beyond the second is an `mmap` that fails.
pub(crate) struct PageSize {
    pub(crate) bytes: u64,
    pub(crate) v2: [&'static str; 2],
    pub(crate) v1: [&'static str; 2],
}

macro_rules! sizes {
    ($($bytes:expr, $name:literal;)*) => {
        [$(PageSize {
            bytes: $bytes,
            v2: [
                concat!("hugetlb.", $name, ".max"),
                concat!("hugetlb.", $name, ".rsvd.max"),
            ],
            v1: [
                concat!("hugetlb.", $name, ".limit_in_bytes"),
                concat!("hugetlb.", $name, ".rsvd.limit_in_bytes"),
            ],
        }),*]
    };
}

/// All sizes that Linux has on any architecture.
pub(crate) const SIZES: [PageSize; 13] = sizes![
    64 << 10, "64KB";
    512 << 10, "512KB";
    1 << 20, "1MB";
    2 << 20, "2MB";
    4 << 20, "4MB";
    8 << 20, "8MB";
    16 << 20, "16MB";
    32 << 20, "32MB";
    256 << 20, "256MB";
    512 << 20, "512MB";
    1 << 30, "1GB";
    2 << 30, "2GB";
    16 << 30, "16GB";
];

/// The size with so many bytes.
pub(crate) fn size(bytes: u64) -> Option<&'static PageSize> {
    const ALL: &[PageSize] = &SIZES;
    ALL.iter().find(|size| size.bytes == bytes)
}

/// The sizes of a host, in bytes; `sys` is where sysfs is mounted.
pub(crate) fn of_host(sys: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(sys.join("kernel/mm/hugepages")) else {
        return Vec::new();
    };
    let mut sizes: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| parse(entry.file_name().to_str()?))
        .collect();
    sizes.sort_unstable();
    sizes
}

/// `hugepages-2048kB` in bytes.
fn parse(name: &str) -> Option<u64> {
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_by_their_directories() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hugepages-1048576kB", "hugepages-2048kB", "other"] {
            fs::create_dir_all(dir.path().join("kernel/mm/hugepages").join(name)).unwrap();
        }
        assert_eq!(of_host(dir.path()), [2 << 20, 1 << 30]);
        assert_eq!(size(2 << 20).unwrap().v2[0], "hugetlb.2MB.max");
        assert!(size(3 << 20).is_none());
    }
}
