//! Which master to try next: the one that another named as the leader, or else each in turn. Pure.

/// Redirections that are followed without a pause or another master in between: two masters that take each other for the
/// leader must not keep us running between them.
const MOST_HOPS: u32 = 3;

/// All masters, and where the search stands.
#[derive(Debug, Clone)]
pub(crate) struct Masters {
    addresses: Vec<String>,
    at: usize,
    named: Option<String>,
    hops: u32,
}

impl Masters {
    /// At least one address.
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            at: 0,
            named: None,
            hops: 0,
        }
    }

    /// The one to try now.
    pub(crate) fn current(&self) -> &str {
        match &self.named {
            Some(named) => named,
            None => &self.addresses[self.at % self.addresses.len()],
        }
    }

    /// It leads.
    pub(crate) fn succeeded(&mut self) {
        self.hops = 0;
    }

    /// It cannot be reached, or does not serve us: the next one, after a pause.
    pub(crate) fn failed(&mut self) {
        if self.named.take().is_none() {
            self.at = (self.at + 1) % self.addresses.len();
        }
        self.hops = 0;
    }

    /// It named another as the leader. Whether that one may be tried at once.
    pub(crate) fn redirected(&mut self, leader: &str) -> bool {
        if leader == self.current() || self.hops >= MOST_HOPS {
            self.failed();
            return false;
        }
        self.hops += 1;
        self.named = Some(leader.to_owned());
        true
    }

    /// How many there are to try in a round.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters() -> Masters {
        Masters::new(["a:1", "b:1", "c:1"].map(str::to_owned).to_vec())
    }

    #[test]
    fn each_is_tried_in_turn_and_a_good_one_is_kept() {
        let mut masters = masters();
        assert_eq!(masters.current(), "a:1");
        masters.failed();
        masters.succeeded();
        assert_eq!(masters.current(), "b:1");
        masters.failed();
        masters.failed();
        assert_eq!(masters.current(), "a:1");
    }

    #[test]
    fn a_named_leader_is_tried_at_once_and_forgotten_when_it_fails() {
        let mut masters = masters();
        assert!(masters.redirected("elsewhere:1"));
        assert_eq!(masters.current(), "elsewhere:1");
        masters.failed();
        assert_eq!(masters.current(), "a:1");
        assert!(
            !masters.redirected("a:1"),
            "it names itself, and does not serve"
        );
        assert_eq!(masters.current(), "b:1");
    }

    #[test]
    fn masters_that_name_each_other_do_not_keep_us_running() {
        let mut masters = masters();
        let hops = (0..10)
            .take_while(|n| masters.redirected(["b:1", "a:1"][n % 2]))
            .count();
        assert_eq!(hops, 3);
    }
}
