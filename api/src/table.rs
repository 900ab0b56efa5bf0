//! An ordered map whose copies share what did not change: what the core writes and what readers hold are one thing.
//!
//! A copy takes no time. The first write to a part that a copy shares copies that part: a leaf of at most [`LEAF`] entries, and
//! the two lists on the way to it. So a snapshot of a million tasks costs what changed since the last one.
//!
//! ```text
//! branches ──► leaves ──► entries      each list sorted; beside each part the least key that may be in it
//! ```
//!
//! Pure. Keys given one after the other in ascending order, as most frameworks number their tasks, fill leaves fully.

use std::{borrow::Borrow, fmt, ops::Index, slice, sync::Arc};

/// Entries of a leaf.
const LEAF: usize = 64;
/// Leaves of a branch.
const BRANCH: usize = 128;

/// Sorted; no key twice.
type Leaf<K, V> = Vec<(K, V)>;
/// For each part the least key that may be in it; that of the first counts as less than any.
type Parts<K, P> = Vec<(K, Arc<P>)>;
type Branch<K, V> = Parts<K, Leaf<K, V>>;

/// See the module.
pub struct Table<K, V> {
    branches: Arc<Parts<K, Branch<K, V>>>,
    len: usize,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self {
            branches: Arc::clone(&self.branches),
            len: self.len,
        }
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            branches: Arc::default(),
            len: 0,
        }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for Table<K, V> {}

impl<'a, K, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Entries in order.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    branches: slice::Iter<'a, (K, Arc<Branch<K, V>>)>,
    leaves: slice::Iter<'a, (K, Arc<Leaf<K, V>>)>,
    entries: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            if let Some((_, leaf)) = self.leaves.next() {
                self.entries = leaf.iter();
            } else {
                self.leaves = self.branches.next()?.1.iter();
            }
        }
    }
}

/// Where among `parts` a key is, if it is anywhere.
fn part_of<K: Borrow<Q>, P, Q: Ord + ?Sized>(parts: &[(K, P)], key: &Q) -> usize {
    parts
        .partition_point(|(least, _)| least.borrow() <= key)
        .saturating_sub(1)
}

fn entry_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(leaf: &[(K, V)], key: &Q) -> Result<usize, usize> {
    leaf.binary_search_by(|(have, _)| have.borrow().cmp(key))
}

/// What goes into a list of its own when something was put in at `at` and the list is too long: nothing but that where
/// it is the last (more of the kind will follow), else the second half.
fn overflow<T>(list: &mut Vec<T>, at: usize, most: usize) -> Option<Vec<T>> {
    if list.len() <= most {
        return None;
    }
    let from = if at + 1 == list.len() {
        at
    } else {
        list.len() / 2
    };
    // The list that is left has no more room than it needs.
    let rest = list.split_off(from);
    list.shrink_to_fit();
    Some(rest)
}

/// Joins a part that has become small with a neighbour, where both are not too much for one.
fn join<K: Clone, T: Clone>(parts: &mut Parts<K, Vec<T>>, at: usize, most: usize) {
    let small = |n: usize| n <= most / 4;
    if parts.get(at).is_none_or(|(_, part)| !small(part.len())) {
        return;
    }
    for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
        if let [(_, a), (_, b)] = &parts[left..(left + 2).min(parts.len())]
            && a.len() + b.len() <= most * 3 / 4
        {
            let (_, right) = parts.remove(left + 1);
            Arc::make_mut(&mut parts[left].1).extend_from_slice(&right);
            return;
        }
    }
}

impl<K, V> Table<K, V> {
    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, by key.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            branches: self.branches.iter(),
            leaves: [].iter(),
            entries: [].iter(),
        }
    }

    /// All keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// Entries behind that key, which need not be there; all, where there is none.
    #[must_use]
    pub fn after<Q: Ord + ?Sized>(&self, key: Option<&Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let Some(key) = key else { return self.iter() };
        let Some((branches, branch)) = split(&self.branches, key) else {
            return self.iter();
        };
        let Some((leaves, leaf)) = split(branch, key) else {
            return self.iter();
        };
        let from = leaf.partition_point(|(have, _)| have.borrow() <= key);
        Iter {
            branches: branches.iter(),
            leaves: leaves.iter(),
            entries: leaf[from..].iter(),
        }
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (_, branch) = self.branches.get(part_of(&self.branches, key))?;
        let (_, leaf) = branch.get(part_of(branch, key))?;
        entry_of(leaf, key).ok().map(|at| &leaf[at].1)
    }

    /// Whether the key is there.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The value of a key, to be changed. Copies for itself what it shares, so ask only to change it.
    #[must_use]
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        let branches = Arc::make_mut(&mut self.branches);
        let at = part_of(branches, key);
        let branch = Arc::make_mut(&mut branches.get_mut(at)?.1);
        let at = part_of(branch, key);
        let leaf = Arc::make_mut(&mut branch.get_mut(at)?.1);
        let at = entry_of(leaf, key).ok()?;
        Some(&mut leaf[at].1)
    }

    /// Puts a value in; the former one of the key comes back.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let branches = Arc::make_mut(&mut self.branches);
        if branches.is_empty() {
            branches.push((key.clone(), Arc::new(vec![(key.clone(), Arc::default())])));
        }
        let b = part_of(branches, &key);
        let (least, branch) = &mut branches[b];
        if key < *least {
            *least = key.clone();
        }
        let branch = Arc::make_mut(branch);
        let l = part_of(branch, &key);
        let (least, leaf) = &mut branch[l];
        if key < *least {
            *least = key.clone();
        }
        let leaf = Arc::make_mut(leaf);
        let e = match entry_of(leaf, &key) {
            Ok(at) => return Some(std::mem::replace(&mut leaf[at].1, value)),
            Err(at) => at,
        };
        leaf.insert(e, (key, value));
        self.len += 1;
        if let Some(rest) = overflow(leaf, e, LEAF) {
            branch.insert(l + 1, (rest[0].0.clone(), Arc::new(rest)));
            if let Some(rest) = overflow(branch, l + 1, BRANCH) {
                branches.insert(b + 1, (rest[0].0.clone(), Arc::new(rest)));
            }
        }
        None
    }

    /// Takes a key out; its value comes back.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if !self.contains_key(key) {
            return None;
        }
        let branches = Arc::make_mut(&mut self.branches);
        let b = part_of(branches, key);
        let branch = Arc::make_mut(&mut branches.get_mut(b)?.1);
        let l = part_of(branch, key);
        let leaf = Arc::make_mut(&mut branch.get_mut(l)?.1);
        let at = entry_of(leaf, key).ok()?;
        let (_, value) = leaf.remove(at);
        self.len -= 1;
        if leaf.is_empty() {
            branch.remove(l);
        } else {
            join(branch, l, LEAF);
        }
        if branch.is_empty() {
            branches.remove(b);
        } else {
            join(branches, b, BRANCH);
        }
        Some(value)
    }
}

impl<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized> Index<&Q> for Table<K, V> {
    type Output = V;

    /// The value of a key that is there.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("whoever indexes knows the key")
    }
}

/// Parts that follow one, and that one.
type Behind<'a, K, P> = (&'a [(K, Arc<P>)], &'a P);

/// The part where a key is, and those behind it.
fn split<'a, K: Borrow<Q>, P, Q: Ord + ?Sized>(
    parts: &'a [(K, Arc<P>)],
    key: &Q,
) -> Option<Behind<'a, K, P>> {
    let at = part_of(parts, key);
    let (_, part) = parts.get(at)?;
    Some((&parts[at + 1..], part))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Every rule about the inside.
    fn check(table: &Table<u16, u32>, model: &BTreeMap<u16, u32>) {
        let all: Vec<_> = table.iter().map(|(k, v)| (*k, *v)).collect();
        let wanted: Vec<_> = model.iter().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(all, wanted);
        assert_eq!(table.len(), model.len());
        let mut last = None;
        for (i, (least, branch)) in table.branches.iter().enumerate() {
            assert!(!branch.is_empty() && branch.len() <= BRANCH);
            assert!(i == 0 || last < Some(*least));
            for (j, (least, leaf)) in branch.iter().enumerate() {
                assert!(!leaf.is_empty() && leaf.len() <= LEAF);
                assert!(*least <= leaf[0].0, "{least} is not the least");
                assert!(i + j == 0 || last < Some(*least));
                last = leaf.last().map(|(key, _)| *key);
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u16, u32),
        Change(u16, u32),
        Remove(u16),
        /// A stretch of keys at once, as a framework that numbers its tasks.
        Fill(u16, u16),
        Clear(u16, u16),
        Copy,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..20_000_u16;
        prop_oneof![
            3 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Step::Insert(k, v)),
            2 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Step::Change(k, v)),
            2 => key.clone().prop_map(Step::Remove),
            2 => (key.clone(), 0..9_000_u16).prop_map(|(k, n)| Step::Fill(k, n)),
            2 => (key, 0..9_000_u16).prop_map(|(k, n)| Step::Clear(k, n)),
            1 => Just(Step::Copy),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_a_map_and_copies_do_not_change(steps in prop::collection::vec(step(), 0..40)) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(k, v) => prop_assert_eq!(table.insert(k, v), model.insert(k, v)),
                    Step::Change(k, v) => {
                        if let Some(value) = table.get_mut(&k) {
                            *value = v;
                        }
                        model.entry(k).and_modify(|value| *value = v);
                    }
                    Step::Remove(k) => prop_assert_eq!(table.remove(&k), model.remove(&k)),
                    Step::Fill(k, n) => {
                        for k in k..k.saturating_add(n) {
                            prop_assert_eq!(table.insert(k, 7), model.insert(k, 7));
                        }
                    }
                    Step::Clear(k, n) => {
                        for k in k..k.saturating_add(n) {
                            prop_assert_eq!(table.remove(&k), model.remove(&k));
                        }
                    }
                    Step::Copy => copies.push((table.clone(), model.clone())),
                }
                check(&table, &model);
            }
            for (copy, model) in &copies {
                check(copy, model);
            }
        }

        #[test]
        fn what_follows_a_key_follows_it(
            keys in prop::collection::btree_set(0..3_000_u16, 0..800),
            from in prop::option::of(0..3_000_u16),
        ) {
            let mut table = Table::default();
            for key in &keys {
                table.insert(*key, ());
            }
            let after: Vec<_> = table.after(from.as_ref()).map(|(key, ())| *key).collect();
            let wanted: Vec<_> = keys.iter().copied().filter(|key| from.is_none_or(|from| *key > from)).collect();
            prop_assert_eq!(after, wanted);
        }
    }

    #[test]
    fn a_copy_shares_what_did_not_change() {
        let mut table = Table::default();
        for key in 0..10_000_u16 {
            table.insert(key, 0);
        }
        let leaves = |table: &Table<u16, i32>| -> Vec<_> {
            let branches = table.branches.iter();
            let leaves = branches.flat_map(|(_, branch)| branch.iter());
            leaves.map(|(_, leaf)| Arc::as_ptr(leaf)).collect()
        };
        assert_eq!(leaves(&table).len(), 10_000_usize.div_ceil(LEAF), "full");
        let copy = table.clone();
        *table.get_mut(&5_000).unwrap() = 1;
        let differ = std::iter::zip(leaves(&table), leaves(&copy)).filter(|(a, b)| a != b);
        assert_eq!(differ.count(), 1);
        assert_eq!((copy.get(&5_000), table.get(&5_000)), (Some(&0), Some(&1)));
    }
}
