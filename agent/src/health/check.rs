//! General checks: asked as long as the task runs, and what they find is told when it is another. Nothing follows from it.

use std::{sync::Arc, time::Duration};

use mezzo_api::model::{Check, CheckResult};
use tokio::sync::mpsc;

use super::probe;
use crate::{
    node::{ContainerId, Runtime},
    task::event::Event,
};

/// Asks until the caller gives it up.
pub(crate) async fn run(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &Check,
    feedback: &mpsc::Sender<Event>,
) {
    let mut last: Option<CheckResult> = None;
    tokio::time::sleep(check.delay).await;
    let mut interval = tokio::time::interval(check.interval.max(Duration::from_millis(100)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let asked = probe::check(runtime, container, check);
        let result = match tokio::time::timeout(check.timeout, asked).await {
            Ok(result) => result,
            Err(_) => CheckResult::nothing(&format!(
                "no answer within {} ms",
                check.timeout.as_millis()
            )),
        };
        if last
            .as_ref()
            .is_some_and(|last| last.says_the_same(&result))
        {
            continue;
        }
        tracing::debug!(%container, ?result, "check");
        last = Some(result.clone());
        if feedback
            .send(Event::Check(container.clone(), result))
            .await
            .is_err()
        {
            return;
        }
    }
}
