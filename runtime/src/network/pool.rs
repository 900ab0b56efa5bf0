//! Which address goes to whom: numbers within a subnet, the least lately given first, so that an address comes back
//! to a new container as late as possible. Pure.

use std::collections::BTreeSet;

/// The addresses of one subnet, by their number in it.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// All there are; the first is the network, the second the gateway, the last broadcast.
    size: u32,
    taken: BTreeSet<u32>,
    /// Where the search begins.
    next: u32,
}

const FIRST: u32 = 2;

impl Pool {
    /// A pool from which nothing was taken.
    pub(super) fn new(size: u32) -> Self {
        Self {
            size,
            taken: BTreeSet::new(),
            next: FIRST,
        }
    }

    /// A free number; `None` when all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        let end = self.size.saturating_sub(1);
        let free = (self.next..end)
            .chain(FIRST..self.next.min(end))
            .find(|number| !self.taken.contains(number))?;
        self.take_exactly(free);
        Some(free)
    }

    /// Takes note of a number that somebody has; `false` if that was known.
    pub(super) fn take_exactly(&mut self, number: u32) -> bool {
        self.next = if number + 2 >= self.size {
            FIRST
        } else {
            number + 1
        };
        self.taken.insert(number)
    }

    /// Gives a number back; fine when nobody has it.
    pub(super) fn give_back(&mut self, number: u32) {
        self.taken.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_given_once_and_the_last_returned_comes_last() {
        let mut pool = Pool::new(8);
        let all: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(
            all,
            [2, 3, 4, 5, 6],
            "not the network, the gateway, the broadcast"
        );
        pool.give_back(3);
        pool.give_back(5);
        assert_eq!(pool.take(), Some(3));
        pool.give_back(3);
        assert_eq!(pool.take(), Some(5), "3 was given back only now");
        assert_eq!(pool.take(), Some(3));
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn what_is_found_at_the_start_is_not_given_out() {
        let mut pool = Pool::new(8);
        assert!(pool.take_exactly(2));
        assert!(!pool.take_exactly(2));
        assert!(pool.take_exactly(6));
        assert_eq!(
            std::iter::from_fn(|| pool.take()).collect::<Vec<_>>(),
            [3, 4, 5]
        );
        assert_eq!(Pool::new(4).take(), Some(2));
        let mut smallest = Pool::new(4);
        smallest.take();
        assert_eq!(smallest.take(), None);
    }

    #[test]
    fn any_sequence_keeps_the_books() {
        // A small generator of our own: the crate has no property tests.
        let mut state = 7_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u32
        };
        let mut pool = Pool::new(32);
        let mut held: Vec<u32> = Vec::new();
        for _ in 0..10_000 {
            if random() % 2 == 0 {
                match pool.take() {
                    Some(number) => {
                        assert!((2..31).contains(&number) && !held.contains(&number));
                        held.push(number);
                    }
                    None => assert_eq!(held.len(), 29),
                }
            } else if !held.is_empty() {
                let at = random() as usize % held.len();
                pool.give_back(held.swap_remove(at));
            }
        }
    }
}
