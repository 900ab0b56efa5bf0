//! Bugs on purpose: one line each where the core could go wrong, switched on by a test of the simulation, which must find them.
//!
//! In a build that is no test [`planted`] is `false` at compile time, and nothing of this is left. docs/test-bench.md says what
//! each does and how it was found.

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An offer is in no role's sum.
    OfferNotBooked,
    /// A task's end gives nothing back before it is acknowledged.
    EndNotReleased,
    /// A launch is sent twice.
    LaunchedTwice,
    /// A task that an agent brings along is not booked.
    LearntNotBooked,
    /// A task that was lost is told as lost although its end was told.
    SecondEnd,
    /// Offer filters are not looked at.
    FilterIgnored,
    /// Limits are not looked at.
    LimitIgnored,
    /// What is lent is offered to those who cannot deal with it.
    LentToAnybody,
    /// Shared volumes are offered to those who cannot deal with them.
    SharedToAnybody,
    /// Offers of a shared volume outlive it.
    EndedAndOffered,
    /// A quota is in force and not in the store.
    QuotaNotStored,
    /// Acknowledgements do not reach the agent.
    AcknowledgementSwallowed,
    /// Ends are not told.
    EndNotTold,
    /// Kills do not reach the agent.
    KillSwallowed,
    /// Agents are offered in their maintenance window.
    OfferedInWindow,
    /// A window does not drain.
    WindowNotDrained,
    /// A window is in force and not in the store.
    WindowNotStored,
    /// Watchers are not told that a task was lost.
    NoticeMissing,
    /// Agents are given up faster than the limit says.
    LossesUnlimited,
    /// What is reserved is offered to every role.
    ReservedToAnybody,
    /// An agent that comes back with the end of a change is believed to have lost the change, too.
    SecondOperationEnd,
    /// Ends of changes are not told.
    OperationEndNotTold,
    /// What an agent refused to change is believed to be changed.
    RefusalIgnored,
    /// Offers of an agent outlive the beginning of its drain.
    DrainingAndOffered,
    /// Offers of an agent outlive its connection.
    AwayAndOffered,
    /// Offers of an agent outlive its deactivation.
    DeactivatedAndOffered,
    /// A deactivation is in force and not in the store.
    DeactivationNotStored,
    /// A weight is in force and not in the store.
    WeightNotStored,
    /// A drain was ended, and the store has it.
    DrainEndNotStored,
    /// A framework is back, and the store lets its time run on.
    ReturnNotStored,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// On this thread, until it is called again.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
