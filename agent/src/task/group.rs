//! Task groups: when a member may start, when the others have to go, when what they shared is given up. Pure: from how
//! each member stands to what comes next, looked at anew after every event.
//!
//! ```text
//! Gathering ──all images here──► Holding ──held──► Held ──no member left──► LettingGo ─► forgotten
//!     │ a member cannot start: the others are killed │ init tasks one by one, then the rest in order
//!     └──────────────────────────────────────────────┴► by the policy, a member's end is the others' end
//! ```

use mezzo_api::model::{FrameworkId, GroupId, GroupPolicy, NetworkMode, TaskGroup, TaskId};

use super::TaskKey;
use crate::node::{Attachment, ContainerId, Limits, NetworkRequest};

/// What holds what a group shares: made once, before its first member starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Holding {
    pub(crate) holder: ContainerId,
    pub(crate) group: TaskGroup,
    pub(crate) network: NetworkMode,
    /// For a network that has to be prepared.
    pub(crate) request: Option<NetworkRequest>,
    /// Of all members together.
    pub(crate) limits: Limits,
    /// What its volumes on the disk may take; no bound if some member has none.
    pub(crate) disk_bytes: Option<u64>,
    /// Some member needs the machine's user numbers, so all have them.
    pub(crate) host_users: bool,
}

/// One group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) info: Box<TaskGroup>,
    /// In their order.
    pub(crate) members: Vec<TaskKey>,
    pub(crate) phase: Phase,
    /// Why all have to go, whatever the policy.
    pub(crate) lost: Option<String>,
    /// What the runtime was told last that all may use together; `None`: by an agent before this one.
    pub(crate) told: Option<Limits>,
    /// Whose change of limits waits until all together may use more.
    pub(crate) widens_for: Option<ContainerId>,
}

/// A group of which what it shares is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldGroup {
    pub(crate) holder: ContainerId,
    pub(crate) framework: FrameworkId,
    pub(crate) group: GroupId,
    /// Members that run.
    pub(crate) running: Vec<TaskId>,
}

/// How far a group has come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Images are on the way.
    Gathering,
    /// What is shared is being made.
    Holding,
    /// It is there.
    Held(Attachment),
    /// It is being taken back.
    LettingGo,
}

/// How a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stands {
    /// Its checkpoint or its image is on the way.
    Coming,
    /// It waits for its turn.
    Ready,
    /// It may start, and does.
    Starting,
    /// Its process runs.
    Running,
    /// It was asked to end, for a cause of its own (`true`) or the group's.
    Ending(bool),
    /// It ended with exit code 0, or so long ago that nobody knows.
    Done,
    /// It ended in any other way; with its last words.
    Failed(String),
    /// It ended before its process ran; with its last words.
    NeverRan(String),
}

/// A member, as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) init: bool,
    pub(crate) stands: Stands,
}

/// What comes next for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing until something happens.
    Wait,
    /// Make what is shared.
    Hold,
    /// Let this member start.
    Admit(usize),
    /// End every member that has not ended, for this cause.
    KillAll(String),
    /// Nobody is left: take back what is shared.
    LetGo,
}

/// Decides.
pub(crate) fn step(
    members: &[Member],
    policy: GroupPolicy,
    phase: &Phase,
    lost: Option<&str>,
) -> Step {
    let has_ended = |member: &Member| {
        matches!(
            member.stands,
            Stands::Done | Stands::Failed(_) | Stands::NeverRan(_)
        )
    };
    if members.iter().all(has_ended) {
        return match phase {
            // Who makes it answers first, so that nothing comes to be behind our back.
            Phase::Holding | Phase::LettingGo => Step::Wait,
            Phase::Gathering | Phase::Held(_) => Step::LetGo,
        };
    }
    let cause = lost
        .map(str::to_owned)
        .or_else(|| members.iter().find_map(|member| fatal(member, policy)));
    if let Some(cause) = cause {
        return Step::KillAll(cause);
    }
    let coming = |member: &Member| member.stands == Stands::Coming;
    match phase {
        Phase::Gathering if !members.iter().any(coming) => Step::Hold,
        Phase::Gathering | Phase::Holding | Phase::LettingGo => Step::Wait,
        Phase::Held(_) => next_start(members),
    }
}

/// Why this member takes the others along, if it does.
fn fatal(member: &Member, policy: GroupPolicy) -> Option<String> {
    let (name, takes_all) = (&member.name, policy == GroupPolicy::KillGroup);
    let kind = if member.init { "init task" } else { "task" };
    match &member.stands {
        Stands::NeverRan(words) => Some(format!(
            "{kind} {name} of its group was not started: {words}"
        )),
        Stands::Failed(words) if takes_all || member.init => {
            Some(format!("{kind} {name} of its group ended: {words}"))
        }
        Stands::Ending(true) if takes_all || member.init => {
            Some(format!("{kind} {name} of its group is being killed"))
        }
        Stands::Failed(_)
        | Stands::Ending(_)
        | Stands::Coming
        | Stands::Ready
        | Stands::Starting
        | Stands::Running
        | Stands::Done => None,
    }
}

/// The first that waits, once all before it have got as far as they must.
fn next_start(members: &[Member]) -> Step {
    for (index, member) in members.iter().enumerate() {
        match (&member.stands, member.init) {
            (Stands::Ready, _) => return Step::Admit(index),
            (Stands::Coming | Stands::Starting, _) => return Step::Wait,
            (Stands::Running | Stands::Ending(_), true) => return Step::Wait,
            (Stands::Running | Stands::Ending(_), false)
            | (Stands::Done | Stands::Failed(_) | Stands::NeverRan(_), _) => {}
        }
    }
    Step::Wait
}

/// What all members together may use. A holder takes next to nothing, but not nothing.
pub(crate) fn sum(limits: &[Limits]) -> Limits {
    const HOLDER_BYTES: u64 = 16 << 20;
    const HOLDER_PIDS: u64 = 8;
    let all = |of: fn(&Limits) -> Option<u64>| -> Option<u64> {
        limits
            .iter()
            .map(of)
            .try_fold(0_u64, |sum, one| Some(sum.saturating_add(one?)))
    };
    let swap = limits.iter().filter_map(|one| one.swap_bytes);
    let swap = swap.fold(0_u64, u64::saturating_add);
    Limits {
        cpu_millis: limits.iter().map(|one| one.cpu_millis).sum(),
        cpu_limit_millis: all(|one| one.cpu_limit_millis),
        memory_bytes: all(|one| one.memory_bytes).map(|sum| sum.saturating_add(HOLDER_BYTES)),
        swap_bytes: (swap > 0).then_some(swap),
        pids: all(|one| one.pids).map(|sum| sum.saturating_add(HOLDER_PIDS)),
        ..Limits::default()
    }
}

/// What holds as little up as either of two sums. Pure.
pub(crate) fn roomier(one: &Limits, other: &Limits) -> Limits {
    let most = |of: fn(&Limits) -> Option<u64>| Some(of(one)?.max(of(other)?));
    Limits {
        cpu_millis: one.cpu_millis.max(other.cpu_millis),
        cpu_limit_millis: most(|limits| limits.cpu_limit_millis),
        memory_bytes: most(|limits| limits.memory_bytes),
        pids: most(|limits| limits.pids),
        // Here none means nothing.
        swap_bytes: one.swap_bytes.max(other.swap_bytes),
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(init: bool, stands: Stands) -> Member {
        Member {
            name: "m".into(),
            init,
            stands,
        }
    }

    fn next(policy: GroupPolicy, phase: &Phase, members: &[(bool, Stands)]) -> Step {
        let members: Vec<_> = members
            .iter()
            .map(|(init, stands)| member(*init, stands.clone()))
            .collect();
        step(&members, policy, phase, None)
    }

    fn held() -> Phase {
        Phase::Held(Attachment::default())
    }

    #[test]
    fn nobody_starts_before_all_images_are_here_and_what_is_shared_is_there() {
        use Stands::{Coming, Ready};
        let policy = GroupPolicy::KillGroup;
        let gathering = &Phase::Gathering;
        assert_eq!(
            next(policy, gathering, &[(false, Ready), (false, Coming)]),
            Step::Wait
        );
        assert_eq!(
            next(policy, gathering, &[(false, Ready), (false, Ready)]),
            Step::Hold
        );
        assert_eq!(next(policy, &Phase::Holding, &[(false, Ready)]), Step::Wait);
        assert_eq!(
            next(policy, &held(), &[(false, Ready), (false, Ready)]),
            Step::Admit(0)
        );
    }

    #[test]
    fn init_tasks_run_to_their_end_in_order_and_then_the_others_start() {
        use Stands::{Done, Ready, Running, Starting};
        let of = |one, two, three| {
            next(
                GroupPolicy::Keep,
                &held(),
                &[(true, one), (true, two), (false, three)],
            )
        };
        assert_eq!(of(Ready, Ready, Ready), Step::Admit(0));
        assert_eq!(of(Running, Ready, Ready), Step::Wait);
        assert_eq!(of(Done, Ready, Ready), Step::Admit(1));
        assert_eq!(of(Done, Starting, Ready), Step::Wait);
        assert_eq!(of(Done, Done, Ready), Step::Admit(2));
        assert_eq!(of(Done, Done, Done), Step::LetGo);
    }

    #[test]
    fn one_that_fails_takes_the_others_along_unless_the_policy_keeps_them() {
        use Stands::{Done, Ending, Failed, NeverRan, Running};
        let of = |policy, init, stands| next(policy, &held(), &[(init, stands), (false, Running)]);
        let failed = || Failed("exited with code 3".into());
        let killed = Step::KillAll("task m of its group ended: exited with code 3".into());
        assert_eq!(of(GroupPolicy::KillGroup, false, failed()), killed);
        assert_eq!(of(GroupPolicy::Keep, false, failed()), Step::Wait);
        assert!(matches!(
            of(GroupPolicy::Keep, true, failed()),
            Step::KillAll(_)
        ));
        assert_eq!(of(GroupPolicy::KillGroup, false, Done), Step::Wait);
        for policy in [GroupPolicy::KillGroup, GroupPolicy::Keep] {
            assert!(matches!(
                of(policy, false, NeverRan("no image".into())),
                Step::KillAll(cause) if cause.ends_with("was not started: no image")
            ));
        }
        assert!(matches!(
            of(GroupPolicy::KillGroup, false, Ending(true)),
            Step::KillAll(_)
        ));
        assert_eq!(of(GroupPolicy::KillGroup, false, Ending(false)), Step::Wait);
        assert_eq!(of(GroupPolicy::Keep, false, Ending(true)), Step::Wait);
    }

    #[test]
    fn a_group_may_use_what_its_members_may_together() {
        let one = Limits {
            cpu_millis: 500,
            memory_bytes: Some(32 << 20),
            pids: Some(10),
            ..Limits::default()
        };
        let both = sum(&[one.clone(), one.clone()]);
        assert_eq!(both.cpu_millis, 1000);
        assert_eq!(both.memory_bytes, Some((64 + 16) << 20));
        assert_eq!(both.pids, Some(28));
        let unlimited = Limits {
            memory_bytes: None,
            ..one.clone()
        };
        assert_eq!(sum(&[one, unlimited]).memory_bytes, None);
    }

    fn stands() -> impl Strategy<Value = Stands> {
        prop_oneof![
            Just(Stands::Coming),
            Just(Stands::Ready),
            Just(Stands::Starting),
            Just(Stands::Running),
            any::<bool>().prop_map(Stands::Ending),
            Just(Stands::Done),
            Just(Stands::Failed("f".into())),
            Just(Stands::NeverRan("n".into())),
        ]
    }

    proptest! {
        #[test]
        fn who_is_admitted_waits_for_it_and_everybody_before_is_far_enough(
            all in prop::collection::vec((any::<bool>(), stands()), 1..6),
            keep in any::<bool>(),
        ) {
            let policy = if keep { GroupPolicy::Keep } else { GroupPolicy::KillGroup };
            match next(policy, &held(), &all) {
                Step::Admit(index) => {
                    prop_assert_eq!(&all[index].1, &Stands::Ready);
                    for (init, before) in &all[..index] {
                        prop_assert!(!matches!(before, Stands::Coming | Stands::Ready | Stands::Starting));
                        prop_assert!(!*init || *before == Stands::Done);
                    }
                    let unstarted = all.iter().any(|(_, one)| matches!(one, Stands::NeverRan(_)));
                    prop_assert!(!unstarted);
                }
                Step::LetGo => {
                    let ended = all.iter().all(|(_, one)| {
                        matches!(one, Stands::Done | Stands::Failed(_) | Stands::NeverRan(_))
                    });
                    prop_assert!(ended);
                }
                Step::Wait | Step::KillAll(_) => {}
                Step::Hold => prop_assert!(false, "it is held"),
            }
        }
    }
}
