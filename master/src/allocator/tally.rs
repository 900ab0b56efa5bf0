//! Why a framework got what it got: counted by a pass, kept in short, told to operators.

/// What became of the agents that one pass had to give, seen from one framework in one role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Offered to it.
    pub offered: u32,
    /// It refused what is free there before, and the filter holds.
    pub declined: u32,
    /// Its constraints do not admit the agent.
    pub unfit: u32,
    /// Less is free there than it said is worth an offer.
    pub too_little: u32,
    /// A limit of its role, or of one above, is reached.
    pub over_limit: u32,
    /// What is free is owed to guarantees of other roles.
    pub kept_for_others: u32,
    /// What is free is reserved for other roles.
    pub reserved_for_others: u32,
}

/// Agents that a pass had to give, and all that came of it for one framework in one role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassRecord {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Agents with something free.
    pub agents: u32,
    /// Those that were looked at for it.
    pub tally: Tally,
}
