//! A node goes out of service: its tasks are replaced at once, and nobody takes that for a failure of the app.

use mezzo_api::model::{Reason, TaskState};
use serde_json::json;

use super::{Bench, NODE, launched};

#[test]
fn a_drained_task_is_replaced_while_it_still_ends_and_without_a_delay() {
    let mut bench = Bench::new();
    let task = bench.run(json!({})).remove(0).task_id;
    bench.say_more(&task, TaskState::Killing, |status| {
        status.reason = Some(Reason::AgentDraining);
    });
    let replacement = launched(&bench.offer("agent-2", NODE));
    assert_eq!(replacement.len(), 1, "before the old one has ended");
    bench.say_more(&task, TaskState::Killed, |status| {
        status.reason = Some(Reason::AgentDraining);
    });
    assert_eq!(bench.app().backoff.left_ms(bench.now), 0);
    assert!(bench.app().last_failure.is_none());
    assert_eq!(bench.app().instances.len(), 1);
}
