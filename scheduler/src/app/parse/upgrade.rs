//! `upgradeStrategy`: Marathon's two capacities, and mezzo's `canary`, `blueGreen` and `rollbackAfterSeconds`.
//!
//! Pure.

use super::{MAX_INSTANCES, MAX_SECONDS_MS};
use crate::app::read::{Fields, Report};
use crate::app::spec::{PPM, Trial, UpgradeStrategy};

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
