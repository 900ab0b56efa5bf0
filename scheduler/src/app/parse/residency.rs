//! `residency`, and what an app with persistent volumes may say beside it.
//!
//! Pure. The rules and their words are Marathon's.

use mezzo_api::model::RoleName;

use crate::app::read::{Fields, Report};
use crate::app::residency::{PersistentMount, Residency, TaskLost};
use crate::app::role::Accepts;
use crate::app::spec::{App, PPM, UnreachableStrategy, UpgradeStrategy};

use super::MAX_SECONDS_MS;

/// MiB of one volume: as much as an app may name of any resource.
const MAX_SIZE_MB: u64 = 1_000_000_000;

/// One volume with `persistent`.
pub(super) fn volume(
    volume: &Fields<'_>,
    container_path: String,
    report: &mut Report,
) -> Option<PersistentMount> {
    let path = volume.path_of("persistent");
    let known = ["type", "size", "maxSize", "profileName", "constraints"];
    let persistent = Fields::open(volume.get("persistent")?, path, &known, report)?;
    if let Some(kind) = persistent.string("type", report)
        && kind != "root"
    {
        report.value_problem(
            persistent.path_of("type"),
            format!("{kind:?} is not supported yet: volumes are of type \"root\""),
        );
    }
    for name in ["maxSize", "profileName", "constraints"] {
        persistent.unsupported(name, "they are for other types than \"root\"", report);
    }
    if persistent.get("size").is_none() {
        report.value_problem(persistent.path_of("size"), "is missing: MiB");
    }
    let size_mb = persistent.integer("size", 1, MAX_SIZE_MB, report)?;
    if volume.get("hostPath").is_some() {
        report.value_problem(
            volume.path_of("hostPath"),
            "a persistent volume has none: its place is the agent's to choose",
        );
    }
    if volume
        .string("mode", report)
        .is_some_and(|mode| mode != "RW")
    {
        report.value_problem(volume.path_of("mode"), "must be RW");
    }
    let shown = volume.path_of("containerPath");
    let mut parts = container_path
        .split('/')
        .skip(usize::from(container_path.starts_with('/')));
    if parts.any(|part| part.is_empty() || part == "." || part == "..") {
        report.value_problem(
            shown,
            "must be an absolute path, or one relative to the sandbox, without \".\" and \"..\"",
        );
    }
    Some(PersistentMount {
        container_path,
        size_mb,
    })
}

/// `residency`; whether there are volumes to go with it is seen in the app.
pub(super) fn residency(fields: &Fields<'_>, report: &mut Report) -> Option<Residency> {
    let default = Residency::default();
    let value = fields.get("residency")?;
    let known = ["taskLostBehavior", "relaunchEscalationTimeoutSeconds"];
    let read = Fields::open(value, fields.path_of("residency"), &known, report)?;
    let lost = read.choice("taskLostBehavior", &TaskLost::NAMES, report);
    let timeout = read.decimal(
        "relaunchEscalationTimeoutSeconds",
        3,
        0,
        MAX_SECONDS_MS,
        report,
    );
    Some(Residency {
        lost: lost.unwrap_or(default.lost),
        relaunch_ms: timeout.unwrap_or(default.relaunch_ms),
    })
}

/// What an app with volumes gets where it says nothing: none more than asked for, and nobody is given up.
pub(super) fn defaults(fields: &Fields<'_>, app: &mut App) {
    if app.container.persistent.is_empty() {
        return;
    }
    app.residency.get_or_insert_default();
    let says = |name: &str| {
        let strategy = fields.get("upgradeStrategy");
        strategy.is_some_and(|strategy| strategy.get(name).is_some_and(|value| !value.is_null()))
    };
    let given = app.upgrade;
    app.upgrade = UpgradeStrategy {
        minimum_health_ppm: match says("minimumHealthCapacity") {
            true => given.minimum_health_ppm,
            false => PPM / 2,
        },
        maximum_over_ppm: match says("maximumOverCapacity") {
            true => given.maximum_over_ppm,
            false => 0,
        },
        ..given
    };
    if fields.get("unreachableStrategy").is_none() {
        app.unreachable = UnreachableStrategy::Disabled;
    }
    if fields.get("acceptedResourceRoles").is_none() && app.role != RoleName::any() {
        app.accepts = Accepts::Unreserved;
    }
}

/// What speaks against an app with volumes, or with a residency and none.
pub(super) fn check(app: &App, report: &mut Report) {
    if app.residency.is_none() {
        return;
    }
    if app.container.persistent.is_empty() {
        report.value_problem(
            "/residency",
            "AppDefinition must contain persistent volumes and define residency",
        );
        return;
    }
    if app.upgrade.maximum_over_ppm != 0 {
        report.value_problem(
            "/upgradeStrategy/maximumOverCapacity",
            "must be 0 for an app with persistent volumes: a new instance takes the volumes of an old one",
        );
    }
    if app.unreachable != UnreachableStrategy::Disabled {
        report.value_problem(
            "/unreachableStrategy",
            "unreachableStrategy must be disabled for resident tasks",
        );
    }
    if app.role != RoleName::any() && app.accepts != Accepts::Unreserved {
        report.value_problem(
            "/acceptedResourceRoles",
            "A resident app must have `acceptedResourceRoles = [\"*\"]`: what it keeps is reserved for it out of what is open to all",
        );
    }
    if app.revocable {
        report.value_problem(
            "/revocable",
            "an app with persistent volumes cannot be revocable: what it reserves is its own",
        );
    }
    let mut paths: Vec<&str> = app
        .container
        .volumes
        .iter()
        .map(|volume| volume.container_path.as_str())
        .chain(
            app.container
                .secret_volumes
                .iter()
                .map(|(path, _)| path.as_str()),
        )
        .chain(
            app.container
                .persistent
                .iter()
                .map(|mount| mount.container_path.as_str()),
        )
        .collect();
    paths.sort_unstable();
    if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        report.value_problem(
            "/container/volumes",
            format!("two volumes have the containerPath {:?}", twice[0]),
        );
    }
}
