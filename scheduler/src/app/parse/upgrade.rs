//! `upgradeStrategy`: Marathon's two capacities, and mezzo's `canary`, `blueGreen` and `rollbackAfterSeconds`.
//!
//! Pure.

use serde_json::Value;

use super::{MAX_INSTANCES, MAX_SECONDS_MS};
use crate::app::read::{Fields, Report};
use crate::app::spec::{App, PPM, SINGLE_INSTANCE, Trial, UpgradeStrategy};

const FIELDS: [&str; 5] = [
    "minimumHealthCapacity",
    "maximumOverCapacity",
    "canary",
    "blueGreen",
    "rollbackAfterSeconds",
];

/// `name` is the field that has it.
pub(super) fn read(fields: &Fields<'_>, name: &str, report: &mut Report) -> UpgradeStrategy {
    let default = UpgradeStrategy::default();
    let Some(value) = fields.get(name) else {
        return default;
    };
    let Some(read) = Fields::open(value, fields.path_of(name), &FIELDS, report) else {
        return default;
    };
    UpgradeStrategy {
        minimum_health_ppm: read
            .decimal("minimumHealthCapacity", 6, 0, PPM, report)
            .unwrap_or(default.minimum_health_ppm),
        maximum_over_ppm: read
            .decimal("maximumOverCapacity", 6, 0, PPM, report)
            .unwrap_or(default.maximum_over_ppm),
        trial: trial(&read, report),
        rollback_after_ms: read.decimal("rollbackAfterSeconds", 3, 1, MAX_SECONDS_MS, report),
    }
}

/// An app with the label has at most one instance, which ends before its successor starts: capacities that `said` leaves open
/// are 0, others are refused.
pub(super) fn single_instance(said: &Value, app: &mut App, report: &mut Report) {
    if !app.is_single_instance() {
        return;
    }
    if app.instances > 1 {
        // On the path of the whole, with Marathon's words.
        report.value_problem("/", "Single instance app may only have one instance");
    }
    let strategy = said.get("upgradeStrategy").unwrap_or(&Value::Null);
    for (name, capacity) in [
        ("minimumHealthCapacity", &mut app.upgrade.minimum_health_ppm),
        ("maximumOverCapacity", &mut app.upgrade.maximum_over_ppm),
    ] {
        if strategy.get(name).is_none_or(Value::is_null) {
            *capacity = 0;
        } else if *capacity != 0 {
            report.value_problem(
                format!("/upgradeStrategy/{name}"),
                format!("must be 0 for an app with the label {SINGLE_INSTANCE}"),
            );
        }
    }
    if matches!(app.upgrade.trial, Trial::BlueGreen { .. }) {
        report.value_problem(
            "/upgradeStrategy/blueGreen",
            format!("runs old and new side by side, which an app with the label {SINGLE_INSTANCE} must not"),
        );
    }
}

fn trial(strategy: &Fields<'_>, report: &mut Report) -> Trial {
    let canary = strategy.get("canary").and_then(|value| {
        let known = ["instances", "holdSeconds"];
        let read = Fields::open(value, strategy.path_of("canary"), &known, report)?;
        let instances = read.integer("instances", 1, MAX_INSTANCES, report);
        Some(Trial::Canary {
            instances: u32::try_from(instances.unwrap_or(1)).unwrap_or(u32::MAX),
            hold_ms: read.decimal("holdSeconds", 3, 0, MAX_SECONDS_MS, report),
        })
    });
    let blue_green = strategy.get("blueGreen").and_then(|value| {
        let path = strategy.path_of("blueGreen");
        let read = Fields::open(value, path, &["holdSeconds"], report)?;
        Some(Trial::BlueGreen {
            hold_ms: read.decimal("holdSeconds", 3, 0, MAX_SECONDS_MS, report),
        })
    });
    if canary.is_some() && blue_green.is_some() {
        report.value_problem(
            strategy.path_of("blueGreen"),
            "exclude each other: canary and blueGreen; give one of them",
        );
    }
    canary.or(blue_green).unwrap_or_default()
}
