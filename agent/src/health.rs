//! Health checks of one task, run beside it: [`tracker`] decides what results mean (pure), [`probe`] asks.
//!
//! One task per checked container, started and stopped by `actor`. Only changes are reported. [`readiness`] asks whether
//! a task that has just started is ready for its work, until it is.

mod probe;
pub(crate) mod readiness;
pub(crate) mod tracker;

use std::sync::Arc;

use mezzo_api::model::HealthCheck;
use tokio::{sync::mpsc, time::Instant};

use self::tracker::Tracker;
use crate::{
    node::{ContainerId, Runtime},
    task::event::Event,
};

/// Checks until the caller gives it up or the task is to be killed.
pub(crate) async fn run(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &HealthCheck,
    feedback: &mpsc::Sender<Event>,
) {
    let started = Instant::now();
    let mut tracker = Tracker::new(check.grace_period, check.max_consecutive_failures);
    tokio::time::sleep(check.delay).await;
    let mut interval =
        tokio::time::interval(check.interval.max(std::time::Duration::from_millis(100)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let result = match tokio::time::timeout(
            check.timeout,
            probe::probe(runtime, container, check),
        )
        .await
        {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", check.timeout.as_millis())),
        };
        if let Err(problem) = &result {
            tracing::debug!(%container, problem, "health check failed");
        }
        if let Some(verdict) = tracker.result(started.elapsed(), result)
            && feedback
                .send(Event::Health(container.clone(), verdict))
                .await
                .is_err()
        {
            return;
        }
    }
}
