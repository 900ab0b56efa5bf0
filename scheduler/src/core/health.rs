//! How an instance stands by its health checks. One check is all there is to know of it; several have each a word and a
//! patience of their own, and the instance is as unhealthy as the one of them that gives up on it first.
//!
//! Pure, and by level: what holds for the instance follows from how all checks stand.

use mezzo_api::model::{TaskStatus, health_of_all};
use serde::{Deserialize, Serialize};

use super::state::Instance;
use crate::app::App;

/// How an instance stands by one of several health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its latest word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// So long an instance may go on to fail it before it is replaced; `None`: for ever, or the agent ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
    /// Since when it fails it, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_since: Option<u64>,
}

/// Those of a new instance of `app`; none where there are not several.
pub(super) fn checks(app: &App) -> Vec<Check> {
    let several = app
        .health_checks
        .iter()
        .filter(|_| app.health_checks.len() > 1);
    several
        .map(|check| Check {
            patience_ms: app.patience_ms(check),
            ..Check::default()
        })
        .collect()
}

/// Some answers leave the health out; none ever takes it back.
fn hear(healthy: &mut Option<bool>, since: &mut Option<u64>, word: Option<bool>, now: u64) {
    *healthy = word.or(*healthy);
    *since = match *healthy {
        Some(false) => since.or(Some(now)),
        Some(true) | None => None,
    };
}

impl Instance {
    /// Takes in what a status says of the health.
    pub(super) fn hear_health(&mut self, status: &TaskStatus, now: u64) {
        let is_told_each = status.health_results.len() == self.checks.len();
        if self.checks.is_empty() || !is_told_each {
            let (healthy, since) = (&mut self.healthy, &mut self.unhealthy_since);
            hear(healthy, since, status.healthy, now);
            return;
        }
        for (check, word) in self.checks.iter_mut().zip(&status.health_results) {
            hear(&mut check.healthy, &mut check.unhealthy_since, *word, now);
        }
        self.healthy = health_of_all(self.words());
        let failing = self.checks.iter().filter_map(|check| {
            let since = check.unhealthy_since?;
            let gives_up_at = check
                .patience_ms
                .map(|patience| since.saturating_add(patience));
            // One that never does comes last.
            Some((gives_up_at.is_none(), gives_up_at, since, check.patience_ms))
        });
        let first = failing.min();
        self.unhealthy_since = first.map(|(_, _, since, _)| since);
        if let Some((.., patience_ms)) = first {
            self.patience_ms = patience_ms;
        }
    }

    /// What each of its health checks says, if it has any.
    pub fn words(&self) -> impl Iterator<Item = Option<bool>> {
        let only = (self.checked && self.checks.is_empty()).then_some(self.healthy);
        let several = self.checks.iter().map(|check| check.healthy);
        only.into_iter().chain(several)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::app::parse_app;
    use crate::core::state::Condition;

    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);

    /// An instance that runs, of an app with checks of these `maxConsecutiveFailures`, each asked every 10 seconds.
    fn instance(failures: &[u32]) -> Instance {
        let checks_json: Vec<_> = failures
            .iter()
            .map(|failures| {
                json!({
                    "protocol": "TCP", "portIndex": 0, "intervalSeconds": 10,
                    "maxConsecutiveFailures": failures,
                })
            })
            .collect();
        let body = json!({
            "id": "/a", "container": {"docker": {"image": "a:1"}}, "healthChecks": checks_json,
        });
        let (app, report) = parse_app(&body, None);
        let app = app.unwrap_or_else(|| panic!("{report:?}"));
        let version = "2026-01-01T00:00:00.000Z";
        let mut instance: Instance = serde_json::from_value(json!({
            "task_id": "a.1", "app": "/a", "version": version, "config": version, "agent_id": "agent-1",
            "hostname": "node1", "ports": [], "checked": true, "staged_at": 0, "started_at": null,
            "condition": "running", "healthy": null, "sentence": null, "late": false, "progress_at": 0, "message": "",
        }))
        .expect("an instance as it was stored before there could be several checks");
        assert_eq!(instance.condition, Condition::Running);
        instance.patience_ms = app.most_patience_ms();
        instance.checks = checks(&app);
        instance
    }

    fn say(instance: &mut Instance, each: &[Option<bool>], healthy: Option<bool>, now: u64) {
        let status = TaskStatus {
            task_id: instance.task_id.clone(),
            framework_id: "f".parse().expect("valid"),
            agent_id: None,
            state: mezzo_api::model::TaskState::Running,
            reason: None,
            source: mezzo_api::model::StatusSource::Agent,
            message: String::new(),
            timestamp_ms: now,
            update_id: None,
            healthy,
            health_results: each.to_vec(),
            container: None,
            exit: None,
            usage: None,
            readiness: None,
            check_result: None,
        };
        instance.hear_health(&status, now);
    }

    #[test]
    fn the_check_that_gives_up_first_decides_when() {
        let mut it = instance(&[4, 2, 0]);
        let mut step = |each: [Option<bool>; 3], now| {
            say(&mut it, &each, None, now);
            (it.healthy, it.failing_at())
        };
        assert_eq!(step([YES, None, None], 1_000), (None, None));
        assert_eq!(step([YES, YES, YES], 2_000), (YES, None));
        assert_eq!(step([NO, YES, YES], 5_000), (NO, Some(35_000)));
        assert_eq!(step([NO, NO, YES], 10_000), (NO, Some(20_000)));
        assert_eq!(step([NO, NO, NO], 11_000), (NO, Some(20_000)));
        assert_eq!(step([NO, YES, NO], 12_000), (NO, Some(35_000)));
        assert_eq!(step([YES, YES, NO], 13_000), (NO, None), "for ever");
        assert_eq!(
            step([None, None, YES], 14_000),
            (YES, None),
            "none is taken back"
        );
    }

    #[test]
    fn who_tells_only_the_sum_is_heard_too() {
        let mut several = instance(&[4, 2]);
        say(&mut several, &[], NO, 5_000);
        assert_eq!((several.healthy, several.failing_at()), (NO, Some(35_000)));
        say(&mut several, &[], None, 6_000);
        assert_eq!(several.healthy, NO);
        assert_eq!(several.words().collect::<Vec<_>>(), [None, None]);

        // The one that fails may be the one that never gives up.
        let mut patient = instance(&[2, 0]);
        say(&mut patient, &[], NO, 5_000);
        assert_eq!((patient.healthy, patient.failing_at()), (NO, None));

        let mut one = instance(&[3]);
        assert_eq!(one.checks, []);
        say(&mut one, &[NO], NO, 5_000);
        assert_eq!((one.healthy, one.failing_at()), (NO, Some(25_000)));
        assert_eq!(one.words().collect::<Vec<_>>(), [NO]);
    }
}
