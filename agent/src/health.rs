//! Health checks of tasks, run beside them: [`tracker`] decides what results mean (pure), [`probe`] asks.
//!
//! One Tokio task per check, started and stopped by `actor`; what the checks of a task say together is for the core. Only
//! changes are reported. [`readiness`] asks whether a task that has just started is ready for its work, until it is;
//! [`check`] asks what is told and has no meaning here.

pub(crate) mod check;
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

/// Asks until the caller gives it up or the task is to be killed. `number`: which of the task's checks it is.
pub(crate) async fn run(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    number: usize,
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
            tracing::debug!(%container, number, problem, "health check failed");
        }
        if let Some(verdict) = tracker.result(started.elapsed(), result)
            && feedback
                .send(Event::Health(container.clone(), number, verdict))
                .await
                .is_err()
        {
            return;
        }
    }
}
