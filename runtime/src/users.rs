//! User numbers of containers: the host's, or for each container a range of the host's numbers to itself, which its user
//! namespace shows as 0 to 65,535. Root of such a container is nobody on the host, and nobody in another container. Pure:
//! which range is free is known from what is on record.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Whose user numbers a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserNamespace {
    /// The host's: its root is the host's root, held back by everything else.
    #[default]
    Host,
    /// A range to itself: its root is nobody on the host. Layers and volumes are shown to it with shifted owners
    /// (idmapped mounts), so that on disk they stay as they are. Refused where `Runtime::user_namespaces` says no,
    /// for privileged containers and for those that are given devices.
    Own,
}

/// How many numbers a container has: what POSIX asks for, and every image is made for.
pub(crate) const RANGE_SIZE: u32 = 65_536;

/// The numbers of the host that containers may have: `n` ranges of 65,536, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRanges {
    /// The first number of the first range.
    pub first: u32,
    /// How many ranges.
    pub n: u32,
}

impl Default for UserRanges {
    /// 8,192 ranges from 2^30 on: above what accounts and subordinate numbers (`/etc/subuid`) are given, below what
    /// systemd keeps for itself, far from 2^31, where programs begin to miscount.
    fn default() -> Self {
        Self {
            first: 1 << 30,
            n: 8192,
        }
    }
}

impl UserRanges {
    /// What is wrong with them, if anything.
    pub(crate) fn problem(self) -> Option<String> {
        let end = u64::from(self.first) + u64::from(self.n) * u64::from(RANGE_SIZE);
        if self.n == 0 {
            Some("no range at all: at least 1 is needed".to_owned())
        } else if self.first < RANGE_SIZE {
            Some(format!(
                "{} is among the host's own numbers: begin at {RANGE_SIZE} or above",
                self.first
            ))
        } else if end > u64::from(u32::MAX) {
            Some(format!(
                "the last number would be {}, the kernel's is {}",
                end - 1,
                u32::MAX - 1
            ))
        } else {
            None
        }
    }
}

/// The numbers of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct UserRange {
    first: u32,
}

impl UserRange {
    /// The host's number for a number of the container; `None` beyond its range.
    pub(crate) fn on_host(self, inside: u32) -> Option<u32> {
        (inside < RANGE_SIZE).then(|| self.first + inside)
    }

    /// The container's root, as the host sees it.
    pub(crate) fn root(self) -> u32 {
        self.first
    }

    /// A line of a namespace's `uid_map` or `gid_map`.
    pub(crate) fn map(self) -> String {
        format!("0 {} {RANGE_SIZE}", self.first)
    }
}

/// Which ranges are taken.
#[derive(Debug)]
pub(crate) struct RangePool {
    ranges: UserRanges,
    taken: BTreeSet<UserRange>,
}

impl RangePool {
    pub(crate) fn new(ranges: UserRanges) -> Self {
        Self {
            ranges,
            taken: BTreeSet::new(),
        }
    }

    /// The lowest range that is free; `None` when all are taken.
    pub(crate) fn take(&mut self) -> Option<UserRange> {
        let free = (0..self.ranges.n)
            .map(|index| UserRange {
                first: self.ranges.first + index * RANGE_SIZE,
            })
            .find(|range| !self.taken.contains(range))?;
        self.taken.insert(free);
        Some(free)
    }

    /// Takes note of a range that is on record, be it among those of today's settings or not.
    pub(crate) fn note(&mut self, range: UserRange) {
        self.taken.insert(range);
    }

    pub(crate) fn give_back(&mut self, range: UserRange) {
        self.taken.remove(&range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_once_and_again_when_they_are_back() {
        let ranges = UserRanges {
            first: 100_000,
            n: 2,
        };
        let mut pool = RangePool::new(ranges);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((first.root(), second.root()), (100_000, 165_536));
        assert_eq!(pool.take(), None);
        pool.give_back(first);
        assert_eq!(pool.take(), Some(first));
        let mut restarted = RangePool::new(ranges);
        restarted.note(first);
        assert_eq!(restarted.take(), Some(second));
    }

    #[test]
    fn numbers_beyond_the_range_are_nobodys() {
        let range = RangePool::new(UserRanges::default()).take().unwrap();
        assert_eq!(range.on_host(0), Some(1 << 30));
        assert_eq!(range.on_host(65_535), Some((1 << 30) + 65_535));
        assert_eq!(range.on_host(65_536), None);
        assert_eq!(range.map(), "0 1073741824 65536");
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let problem = |first, n| UserRanges { first, n }.problem();
        assert_eq!(UserRanges::default().problem(), None);
        assert!(problem(0, 1).unwrap().contains("host's own"));
        assert!(problem(100_000, 0).unwrap().contains("at least 1"));
        assert!(
            problem(u32::MAX - 65_536, 2)
                .unwrap()
                .contains("the last number")
        );
    }
}
