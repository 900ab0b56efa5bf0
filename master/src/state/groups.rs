//! Task groups: all tasks of one are counted against the offers at once, and launched together or not at all.

use mezzo_api::model::{FrameworkId, Reason, TaskId, TaskInfo, TaskState};

use super::{Core, Effect, ToAgent, Turn, offers::Hand, operations::Beside, tasks::master_status};

impl Core {
    pub(super) fn launch_group(
        &mut self,
        turn: &mut Turn<'_>,
        framework_id: &FrameworkId,
        hand: &mut Hand,
        mut infos: Vec<TaskInfo>,
    ) {
        let ids: Vec<TaskId> = infos.iter().map(|info| info.task_id.clone()).collect();
        if let Some(used) = ids.iter().find(|id| self.is_known(framework_id, id)) {
            let problem = format!("task id {used} of the group is in use");
            self.refuse_group(turn, framework_id, hand, &ids, &problem);
            return;
        }
        // As if they were taken one after the other, from a copy.
        let mut left = hand.left.clone();
        let mut parts = Vec::new();
        let mut beside = Beside::default();
        for info in &mut infos {
            let part = match self.part_for(info, hand, &left, &mut beside) {
                Ok(part) => part,
                Err(problem) => {
                    let problem = format!("task {} of the group: {problem}", info.task_id);
                    self.refuse_group(turn, framework_id, hand, &ids, &problem);
                    return;
                }
            };
            if let Some(less) = left.without(&part) {
                left = less;
            }
            parts.push(part);
        }
        let mut taken = Vec::new();
        for (info, part) in infos.iter().zip(&parts) {
            let holder = (framework_id.clone(), info.task_id.clone());
            let booked = self.with_ledger(&hand.agent_id, hand.supply, |ledger| {
                ledger.take(holder.clone(), part)
            });
            if booked == Some(true) {
                taken.push(holder);
                continue;
            }
            // Only where the agent turned out overcommitted between offer and accept.
            self.with_ledger(&hand.agent_id, hand.supply, |ledger| {
                for holder in &taken {
                    let _ = ledger.release(holder);
                }
            });
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
            .zip(parts)
            .map(|(info, part)| self.enter_task(turn, framework_id, hand, info, &part))
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
