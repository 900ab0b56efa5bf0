//! Readiness checks: asked from the start of a task until it is ready, then never again (as Marathon did it).
//!
//! [`Tracker`] decides what is worth a status (pure): every change of what is answered at once, a changed body alone only
//! so often, so that a task that counts its steps does not fill its log of statuses.

use std::{sync::Arc, time::Duration};

use mezzo_api::model::{ReadinessCheck, ReadinessResponse, ReadinessStatus};
use tokio::{sync::mpsc, time::Instant};

use super::probe;
use crate::{
    node::{ContainerId, Runtime},
    task::event::Event,
};

/// Between two statuses that differ in the body alone.
const BODY_PAUSE: Duration = Duration::from_secs(10);

/// Checks until the task is ready or the caller gives it up.
pub(crate) async fn run(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    check: &ReadinessCheck,
    feedback: &mpsc::Sender<Event>,
) {
    let started = Instant::now();
    let mut tracker = Tracker::new(check);
    let mut interval = tokio::time::interval(check.interval.max(Duration::from_millis(100)));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let asked = probe::readiness(runtime, container, check);
        let result = match tokio::time::timeout(check.timeout, asked).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} ms", check.timeout.as_millis())),
        };
        let Some(status) = tracker.result(started.elapsed(), result) else {
            continue;
        };
        let ready = status.ready;
        tracing::debug!(%container, ready, problem = status.problem, "readiness check");
        let told = feedback
            .send(Event::Readiness(container.clone(), Box::new(status)))
            .await;
        if ready || told.is_err() {
            return;
        }
    }
}

/// What was told, and what is worth telling.
#[derive(Debug)]
struct Tracker<'a> {
    check: &'a ReadinessCheck,
    told: Option<(Duration, ReadinessStatus)>,
}

impl<'a> Tracker<'a> {
    fn new(check: &'a ReadinessCheck) -> Self {
        Self { check, told: None }
    }

    /// Takes the result of one check in, `age` after the start; gives the status if it is worth telling.
    fn result(
        &mut self,
        age: Duration,
        result: Result<ReadinessResponse, String>,
    ) -> Option<ReadinessStatus> {
        let (last_response, problem) = match result {
            Ok(response) => (Some(response), String::new()),
            Err(problem) => (None, problem),
        };
        let status = ReadinessStatus {
            name: self.check.name.clone(),
            ready: last_response
                .as_ref()
                .is_some_and(|response| self.check.ready_statuses.contains(&response.status)),
            last_response,
            problem,
        };
        if let Some((at, told)) = &self.told {
            let code = |status: &ReadinessStatus| status.last_response.as_ref().map(|r| r.status);
            let same = (told.ready, code(told)) == (status.ready, code(&status));
            if *told == status || (same && age < *at + BODY_PAUSE) {
                return None;
            }
        }
        self.told = Some((age, status.clone()));
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::ReadinessProtocol;

    use super::*;

    fn check() -> ReadinessCheck {
        ReadinessCheck {
            name: "up".into(),
            protocol: ReadinessProtocol::Http,
            path: "/".into(),
            port: 1,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            ready_statuses: vec![200, 204],
            preserve_last_response: true,
        }
    }

    fn answer(status: u16, body: &str) -> Result<ReadinessResponse, String> {
        Ok(ReadinessResponse {
            status,
            content_type: "text/plain".into(),
            body: body.into(),
        })
    }

    #[test]
    fn every_change_is_told_once_and_bodies_only_so_often() {
        let check = check();
        let mut tracker = Tracker::new(&check);
        let mut told = |age, result| {
            tracker
                .result(Duration::from_secs(age), result)
                .map(|status| (status.ready, status.last_response.map(|r| r.body)))
        };
        assert_eq!(told(0, Err("refused".into())), Some((false, None)));
        assert_eq!(told(1, Err("refused".into())), None);
        let one = || Some("1".to_owned());
        assert_eq!(told(2, answer(503, "1")), Some((false, one())));
        assert_eq!(told(3, answer(503, "2")), None, "the body alone");
        let three = Some("3".to_owned());
        assert_eq!(told(12, answer(503, "3")), Some((false, three)));
        assert_eq!(told(30, answer(503, "3")), None, "nothing new");
        assert_eq!(told(31, answer(200, "1")), Some((true, one())));
    }

    #[test]
    fn only_the_answers_of_the_check_mean_ready() {
        let check = check();
        for (status, ready) in [(200, true), (204, true), (201, false), (302, false)] {
            let told = Tracker::new(&check).result(Duration::ZERO, answer(status, ""));
            assert_eq!(told.unwrap().ready, ready, "{status}");
        }
    }
}
