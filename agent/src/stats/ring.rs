//! A task's history in fixed memory: the newest points as they were sampled, older ones thinned to the mean of some
//! that follow each other. Pure.
//!
//! With samples every 2 s: four minutes in full, the hour before in steps of half a minute, below 6 KiB.

use std::collections::VecDeque;

/// Points kept as sampled.
pub(crate) const RECENT: usize = 120;
/// Points kept of what is older.
pub(crate) const OLDER: usize = 120;
/// Points that become one of the older.
pub(crate) const MERGED: u32 = 15;

/// What is kept of one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// Unix milliseconds; of the last one where several were merged.
    pub(crate) at_ms: u64,
    /// The figures; not a number where one is not known.
    figures: [f32; FIGURES],
}

const FIGURES: usize = 4;

/// One figure of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    /// Thousandths of a processor.
    Cpu = 0,
    /// Working set, bytes.
    Memory = 1,
    /// To and from block devices, bytes per second.
    Io = 2,
    /// Sent and received, bytes per second.
    Network = 3,
}

impl Point {
    /// A point of what is known.
    pub(crate) fn new(
        at_ms: u64,
        cpu: Option<u64>,
        memory: Option<u64>,
        io: Option<u64>,
        network: Option<u64>,
    ) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "for a picture: 24 bits are plenty"
        )]
        let figure = |value: Option<u64>| value.map_or(f32::NAN, |value| value as f32);
        Self {
            at_ms,
            figures: [cpu, memory, io, network].map(figure),
        }
    }

    /// One figure, if it is known.
    pub(crate) fn get(&self, figure: Figure) -> Option<u64> {
        let value = self.figures[figure as usize];
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative, and a cast of floats saturates"
        )]
        (!value.is_nan()).then_some(value.round() as u64)
    }
}

/// The history.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring {
    recent: VecDeque<Point>,
    older: VecDeque<Point>,
    merging: Merge,
}

/// Points on their way to become one.
#[derive(Debug, Clone, Copy, Default)]
struct Merge {
    points: u32,
    sums: [f32; FIGURES],
    known: [u32; FIGURES],
}

impl Merge {
    /// Takes a point in; gives the mean when there are enough.
    fn add(&mut self, point: Point) -> Option<Point> {
        self.points += 1;
        for (n, figure) in point.figures.iter().enumerate() {
            if !figure.is_nan() {
                self.sums[n] += figure;
                self.known[n] += 1;
            }
        }
        if self.points < MERGED {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most MERGED")]
        let figures = std::array::from_fn(|n| match self.known[n] {
            0 => f32::NAN,
            known => self.sums[n] / known as f32,
        });
        *self = Self::default();
        Some(Point {
            at_ms: point.at_ms,
            figures,
        })
    }
}

impl Ring {
    /// Takes a point in; the oldest goes if there is no room.
    pub(crate) fn push(&mut self, point: Point) {
        if self.recent.len() == RECENT
            && let Some(oldest) = self.recent.pop_front()
            && let Some(mean) = self.merging.add(oldest)
        {
            if self.older.len() == OLDER {
                self.older.pop_front();
            }
            self.older.push_back(mean);
        }
        self.recent.push_back(point);
    }

    /// Oldest first.
    pub(crate) fn points(&self) -> impl Iterator<Item = &Point> {
        self.older.iter().chain(&self.recent)
    }

    /// Most bytes that one takes.
    #[cfg(test)]
    fn most_bytes(&self) -> usize {
        size_of::<Self>() + (self.recent.capacity() + self.older.capacity()) * size_of::<Point>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_older_ones_thinned_in_bounded_memory() {
        let mut ring = Ring::default();
        for n in 0..10_000 {
            ring.push(Point::new(n, Some(n), Some(7), None, None));
        }
        let points: Vec<_> = ring.points().copied().collect();
        assert_eq!(points.len(), RECENT + OLDER);
        assert!(points.is_sorted_by_key(|point| point.at_ms));
        let newest: Vec<u64> = points[OLDER..].iter().map(|point| point.at_ms).collect();
        assert_eq!(newest, (9_880..10_000).collect::<Vec<_>>());
        // The mean of fifteen that follow each other is the one in their middle.
        let merged = points[OLDER - 1];
        assert_eq!(merged.get(Figure::Cpu), Some(merged.at_ms - 7));
        assert_eq!(merged.get(Figure::Memory), Some(7));
        assert_eq!(merged.get(Figure::Io), None);
        assert!(ring.most_bytes() < 6500, "{}", ring.most_bytes());
    }

    #[test]
    fn what_is_unknown_in_some_points_is_the_mean_of_the_others() {
        let mut ring = Ring::default();
        for n in 0..200_u64 {
            ring.push(Point::new(
                n,
                n.is_multiple_of(2).then_some(10),
                None,
                None,
                None,
            ));
        }
        assert_eq!(ring.points().next().unwrap().get(Figure::Cpu), Some(10));
    }
}
