//! Page tokens: opaque to clients, checked when they come back.
//!
//! A token says which list it is of, a fingerprint of the filters, and the last key that was shown: the next page begins after
//! it, whatever came or went meanwhile. One of another list, or with other filters, is refused instead of answered wrongly.
//! Tokens need no memory of the master's and outlive its restart.

use std::{collections::BTreeMap, fmt::Debug, ops::Bound};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;

use super::status::invalid;
use crate::state::Table;

/// The most that a page holds, and what it holds when nobody asks.
pub(super) const LARGEST_PAGE: usize = 1000;

/// Of the text below.
const VERSION: &str = "p1";

/// The pages of one list with one set of filters.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    list: &'static str,
    fingerprint: u64,
    size: usize,
}

impl Pages {
    /// `filters`: all of the request but size and token.
    pub(super) fn new(list: &'static str, filters: &impl Debug, size: u32) -> Self {
        let size = match usize::try_from(size).unwrap_or(LARGEST_PAGE) {
            0 => LARGEST_PAGE,
            n => n.min(LARGEST_PAGE),
        };
        Self {
            list,
            fingerprint: fnv1a(format!("{filters:?}").as_bytes()),
            size,
        }
    }

    /// Entries of one page.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The key that a token stands for; `None` on the first page.
    pub(super) fn after<K>(
        &self,
        token: &str,
        parse: impl Fn(&str) -> Option<K>,
    ) -> Result<Option<K>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let foreign = || invalid("page_token", "is not one that a master gave");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| foreign())?;
        let text = String::from_utf8(bytes).map_err(|_| foreign())?;
        let mut parts = text.splitn(4, '\n');
        let mut next = || parts.next().ok_or_else(foreign);
        let (version, list, fingerprint, key) = (next()?, next()?, next()?, next()?);
        if version != VERSION || list != self.list {
            return Err(foreign());
        }
        if fingerprint != format!("{:x}", self.fingerprint) {
            let problem = "is of a list with other filters: begin again without it";
            return Err(invalid("page_token", problem));
        }
        parse(key).map(Some).ok_or_else(foreign)
    }

    /// For the page after that key.
    pub(super) fn token(&self, last: &str) -> String {
        let text = format!("{VERSION}\n{}\n{:x}\n{last}", self.list, self.fingerprint);
        URL_SAFE_NO_PAD.encode(text)
    }

    /// The entries of a page that fit, and its `next_page_token`: empty where nothing that fits follows.
    pub(super) fn page<'a, K: AsKey + 'a, V: 'a>(
        &self,
        entries: &'a impl Ordered<K, V>,
        token: &str,
        fits: impl Fn(&V) -> bool,
    ) -> Result<(Vec<&'a V>, String), Status> {
        let after = self.after(token, K::parse)?;
        let mut entries = entries
            .following(after.as_ref())
            .filter(|(_, value)| fits(value));
        let page: Vec<_> = entries.by_ref().take(self.size).collect();
        let next = page.last().filter(|_| entries.next().is_some());
        let next = next.map(|(key, _)| self.token(&key.text()));
        let page = page.into_iter().map(|(_, value)| value).collect();
        Ok((page, next.unwrap_or_default()))
    }
}

/// What pages can be made of.
pub(super) trait Ordered<K, V> {
    /// The entries behind that key, which need not be there; all, where there is none.
    fn following<'a>(&'a self, key: Option<&K>) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a;
}

impl<K: Ord, V> Ordered<K, V> for BTreeMap<K, V> {
    fn following<'a>(&'a self, key: Option<&K>) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a,
    {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.range((start, Bound::Unbounded))
    }
}

impl<K: Ord + Clone, V: Clone> Ordered<K, V> for Table<K, V> {
    fn following<'a>(&'a self, key: Option<&K>) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a,
    {
        self.after(key)
    }
}

/// What a list is ordered by.
pub(super) trait AsKey: Sized {
    fn text(&self) -> String;
    fn parse(text: &str) -> Option<Self>;
}

impl<T: std::str::FromStr + ToString> AsKey for T {
    fn text(&self) -> String {
        self.to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Enough to tell one set of filters from another; nobody gains by a collision of their own.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::AgentId;
    use proptest::prelude::*;

    use super::*;

    fn map(n: usize) -> BTreeMap<AgentId, usize> {
        (0..n)
            .map(|i| (format!("a{i:05}").parse().unwrap(), i))
            .collect()
    }

    proptest! {
        #[test]
        fn all_pages_together_are_the_whole_list(n in 0_usize..200, size in 1_u32..60, step in 1_usize..4) {
            let map = map(n);
            let pages = Pages::new("agents", &step, size);
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let (page, next) = pages.page(&map, &token, |i| i % step == 0).unwrap();
                prop_assert!(page.len() <= size as usize);
                seen.extend(page.into_iter().copied());
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            prop_assert_eq!(seen, (0..n).step_by(step).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_goes_between_two_pages_makes_no_gap() {
        let mut map = map(10);
        let pages = Pages::new("agents", &(), 3);
        let (_, token) = pages.page(&map, "", |_| true).unwrap();
        map.remove::<str>("a00002");
        map.insert("a00002x".parse().unwrap(), 99);
        let (page, _) = pages.page(&map, &token, |_| true).unwrap();
        assert_eq!(page, [&99, &3, &4]);
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let map = map(10);
        let pages = Pages::new("agents", &"x", 3);
        let (_, token) = pages.page(&map, "", |_| true).unwrap();
        for other in [Pages::new("tasks", &"x", 3), Pages::new("agents", &"y", 3)] {
            let refused = other.page(&map, &token, |_| true).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
        for nonsense in ["x", "a00003", "####", "cDEK"] {
            let refused = pages.page(&map, nonsense, |_| true).unwrap_err();
            assert!(refused.message().starts_with("page_token"), "{refused}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        let map = map(1500);
        for size in [0, 1000, 5000, u32::MAX] {
            let (page, next) = Pages::new("agents", &(), size)
                .page(&map, "", |_| true)
                .unwrap();
            assert_eq!((page.len(), next.is_empty()), (1000, false));
        }
    }
}
