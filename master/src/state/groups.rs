//! Task groups: all tasks of one are counted against the offers at once, and launched together or not at all.

use mezzo_api::model::{FrameworkId, Reason, TaskId, TaskInfo, TaskState};

use super::{
    Core, Effect, ToAgent, Turn,
    offers::{Hand, problem_of},
    tasks::master_status,
};

impl Core {
    pub(super) fn launch_group(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &mut Hand,
        infos: Vec<TaskInfo>,
    ) {
        let ids: Vec<TaskId> = infos.iter().map(|info| info.task_id.clone()).collect();
        if let Some(used) = ids.iter().find(|id| self.is_known(framework_id, id)) {
            let problem = format!("task id {used} of the group is in use");
            self.refuse_group(turn, framework_id, hand, &ids, &problem);
            return;
        }
        // As if they were taken one after the other, from a copy.
        let mut left = hand.left.clone();
        for info in &infos {
            if let Some(problem) = problem_of(info, hand, &left) {
                let problem = format!("task {} of the group: {problem}", info.task_id);
                self.refuse_group(turn, framework_id, hand, &ids, &problem);
                return;
            }
            if let Some(less) = left.checked_sub(&info.resources) {
                left = less;
            }
        }
        let mut taken = Vec::new();
        for info in &infos {
            let holder = (framework_id.clone(), info.task_id.clone());
            let booked = self.agents.get_mut(&hand.agent_id).is_some_and(|agent| {
                agent
                    .ledger_mut(hand.supply)
                    .take(holder.clone(), &info.resources)
            });
            if booked {
                taken.push(holder);
                continue;
            }
            // Only where the agent turned out overcommitted between offer and accept.
            if let Some(agent) = self.agents.get_mut(&hand.agent_id) {
                for holder in &taken {
                    let _ = agent.ledger_mut(hand.supply).release(holder);
                }
            }
            let problem = format!(
                "agent {} no longer has free what the group takes",
                hand.agent_id
            );
            let (state, reason) = (TaskState::Dropped, Reason::ResourcesUnavailable);
            self.tell_group(turn, framework_id, hand, &ids, (state, reason), &problem);
            return;
        }
        let tasks = infos
            .into_iter()
            .map(|info| self.enter_task(turn, framework_id, hand, info))
            .collect();
        turn.push(Effect::ToAgent(hand.conn, ToAgent::LaunchGroup(tasks)));
    }

    /// The same word for each of them.
    pub(super) fn refuse_group(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &Hand,
        ids: &[TaskId],
        problem: &str,
    ) {
        let what = (TaskState::Error, Reason::TaskGroupInvalid);
        self.tell_group(turn, framework_id, hand, ids, what, problem);
    }

    fn tell_group(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &Hand,
        ids: &[TaskId],
        (state, reason): (TaskState, Reason),
        problem: &str,
    ) {
        for id in ids {
            self.counters.tasks_refused += 1;
            if self.tell_if_known(turn, framework_id, id) {
                continue;
            }
            let agent_id = Some(hand.agent_id.clone());
            let status =
                master_status(framework_id, id, agent_id, state, reason, problem, turn.now);
            self.tell(turn, status);
        }
    }
}
