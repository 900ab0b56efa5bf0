//! `taskStats` of an app: how many of its tasks do what, and for how long they have run, as Marathon groups them.
//!
//! Pure. A group without tasks is left out, as is `lifeTime` of a group of which nothing ran yet.

use serde::Serialize;

use crate::core::state::{AppState, Condition, Instance};

/// Tasks by how they stand to the app's version.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskStats {
    #[serde(skip_serializing_if = "Option::is_none")]
    started_after_last_scaling: Option<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    with_latest_config: Option<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    with_outdated_config: Option<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_summary: Option<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    stats: Stats,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    life_time: Option<LifeTime>,
}

/// Since they first ran.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LifeTime {
    average_seconds: f64,
    median_seconds: f64,
}

/// How many tasks do what. Healthy and unhealthy are those that have a health check and its word.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    pub(super) staged: usize,
    pub(super) running: usize,
    pub(super) healthy: usize,
    pub(super) unhealthy: usize,
}

impl Counts {
    pub(super) fn of<'i>(instances: impl Iterator<Item = &'i Instance>) -> Self {
        let mut counts = Self::default();
        for instance in instances {
            match instance.condition {
                Condition::Provisioned | Condition::Staging | Condition::Starting => {
                    counts.staged += 1;
                }
                Condition::Running => {
                    counts.running += 1;
                    let healthy = instance.healthy.filter(|_| instance.checked);
                    counts.healthy += usize::from(healthy == Some(true));
                    counts.unhealthy += usize::from(healthy == Some(false));
                }
                Condition::Killing | Condition::Unreachable { .. } => {}
            }
        }
        counts
    }
}

/// The statistics at `now`, Unix milliseconds. A task has the latest configuration also if it was launched before the app
/// was taken back to that: its version is older than the change, its configuration is not.
pub(super) fn task_stats(app: &AppState, now: u64) -> TaskStats {
    let current = &app.current;
    TaskStats {
        started_after_last_scaling: group(app, now, |one| one.version >= current.last_scaling_at),
        with_latest_config: group(app, now, |one| one.config == current.config),
        with_outdated_config: group(app, now, |one| one.config != current.config),
        total_summary: group(app, now, |_| true),
    }
}

fn group(app: &AppState, now: u64, holds: impl Fn(&Instance) -> bool) -> Option<Group> {
    let instances = app.instances.values().map(|instance| &**instance);
    let tasks: Vec<&Instance> = instances.filter(|one| holds(one)).collect();
    if tasks.is_empty() {
        return None;
    }
    let started = tasks.iter().filter_map(|task| task.started_at);
    let mut lives: Vec<u64> = started.map(|at| now.saturating_sub(at)).collect();
    lives.sort_unstable();
    Some(Group {
        stats: Stats {
            counts: Counts::of(tasks.into_iter()),
            life_time: life_time(&lives),
        },
    })
}

/// Of an even number of tasks the median is the upper of the two in the middle, as in Marathon.
fn life_time(sorted_ms: &[u64]) -> Option<LifeTime> {
    let median_ms = *sorted_ms.get(sorted_ms.len() / 2)?;
    let sum_ms = sorted_ms
        .iter()
        .fold(0, |sum: u64, ms| sum.saturating_add(*ms));
    Some(LifeTime {
        average_seconds: sum_ms as f64 / sorted_ms.len() as f64 / 1000.0,
        median_seconds: median_ms as f64 / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::app::{AppVersion, parse_app};
    use crate::time::Timestamp;

    const NOW: u64 = 100_000;

    /// An app that was taken back at 20 s to its configuration of 5 s, and scaled at 30 s.
    fn app(instances: &[Instance]) -> AppState {
        let body = json!({"id": "/a", "container": {"docker": {"image": "a"}}});
        let (spec, report) = parse_app(&body, None);
        let at = Timestamp::from_millis;
        let mut app = AppState::new(Arc::new(AppVersion {
            version: at(30_000),
            config: at(5_000),
            last_scaling_at: at(30_000),
            last_config_change_at: at(20_000),
            app: spec.unwrap_or_else(|| panic!("{report:?}")),
            written: Default::default(),
        }));
        for one in instances {
            app.instances
                .insert(one.task_id.clone(), Arc::new(one.clone()));
        }
        app
    }

    /// Launched with these versions; `started` says since when it runs.
    fn task(
        name: &str,
        version: u64,
        config: u64,
        started: Option<u64>,
        healthy: Option<bool>,
    ) -> Instance {
        let at = |millis| Timestamp::from_millis(millis).to_string();
        let condition = if started.is_some() {
            json!("running")
        } else {
            json!("staging")
        };
        serde_json::from_value(json!({
            "task_id": name, "app": "/a", "version": at(version), "config": at(config), "agent_id": "agent-1",
            "hostname": "node1", "ports": [], "checked": healthy.is_some(), "staged_at": version,
            "started_at": started, "condition": condition, "healthy": healthy, "sentence": null, "late": false,
            "progress_at": version, "message": "",
        }))
        .expect("an instance")
    }

    fn rendered(instances: &[Instance]) -> Value {
        serde_json::to_value(task_stats(&app(instances), NOW)).expect("JSON")
    }

    #[test]
    fn tasks_are_grouped_by_version_and_configuration() {
        let stats = rendered(&[
            task("old", 10_000, 10_000, Some(40_000), Some(false)),
            task("kept", 5_000, 5_000, Some(70_000), Some(true)),
            task("scaled", 30_000, 5_000, Some(90_000), Some(true)),
            task("new", 30_000, 5_000, None, None),
        ]);
        let group = |staged: u64,
                     running: u64,
                     healthy: u64,
                     unhealthy: u64,
                     average: f64,
                     median: f64| {
            json!({"stats": {
                "counts": {"staged": staged, "running": running, "healthy": healthy, "unhealthy": unhealthy},
                "lifeTime": {"averageSeconds": average, "medianSeconds": median},
            }})
        };
        assert_eq!(
            stats["startedAfterLastScaling"],
            group(1, 1, 1, 0, 10.0, 10.0)
        );
        assert_eq!(stats["withLatestConfig"], group(1, 2, 2, 0, 20.0, 30.0));
        assert_eq!(stats["withOutdatedConfig"], group(0, 1, 0, 1, 60.0, 60.0));
        assert_eq!(
            stats["totalSummary"]["stats"]["lifeTime"]["medianSeconds"],
            30.0
        );
        assert_eq!(stats["totalSummary"]["stats"]["counts"]["running"], 3);
    }

    #[test]
    fn what_has_no_tasks_and_no_life_is_left_out() {
        assert_eq!(rendered(&[]), json!({}));
        let stats = rendered(&[task("new", 30_000, 5_000, None, None)]);
        assert_eq!(stats["withOutdatedConfig"], Value::Null);
        assert_eq!(stats["totalSummary"]["stats"]["counts"]["staged"], 1);
        assert_eq!(stats["totalSummary"]["stats"]["lifeTime"], Value::Null);
    }
}
