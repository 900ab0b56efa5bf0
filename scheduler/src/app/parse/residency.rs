//! `residency`, and what an app or a pod with persistent volumes may say beside it.
//!
//! Pure. The rules and their words are Marathon's.

use mezzo_api::model::RoleName;
use serde_json::Value;

use crate::app::read::{Fields, Report};
use crate::app::residency::{PersistentMount, Residency, TaskLost};
use crate::app::role::Accepts;
use crate::app::spec::{App, PPM, Trial, UnreachableStrategy};

use super::MAX_SECONDS_MS;

/// MiB of one volume: as much as an app may name of any resource.
const MAX_SIZE_MB: u64 = 1_000_000_000;

/// The size that `persistent` of a volume gives, in MiB.
pub(super) fn size(volume: &Fields<'_>, report: &mut Report) -> Option<u64> {
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
    persistent.integer("size", 1, MAX_SIZE_MB, report)
}

/// One volume of an app with `persistent`.
pub(super) fn volume(
    volume: &Fields<'_>,
    container_path: String,
    report: &mut Report,
) -> Option<PersistentMount> {
    let size_mb = size(volume, report)?;
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

/// What an app or pod with volumes gets where it says nothing: none more than asked for, and nobody is given up. `said` has
/// its strategies, that of updates in the field `upgrade`.
pub(super) fn defaults(said: &Value, upgrade: &str, app: &mut App) {
    if app.container.persistent.is_empty() {
        return;
    }
    app.residency.get_or_insert_default();
    let is_said = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
    let strategy = said.get(upgrade).unwrap_or(&Value::Null);
    if !is_said(strategy.get("minimumHealthCapacity")) {
        app.upgrade.minimum_health_ppm = PPM / 2;
    }
    if !is_said(strategy.get("maximumOverCapacity")) {
        app.upgrade.maximum_over_ppm = 0;
    }
    if !is_said(said.get("unreachableStrategy")) {
        app.unreachable = UnreachableStrategy::Disabled;
    }
    let accepted = said
        .get("acceptedResourceRoles")
        .or_else(|| said.pointer("/placement/acceptedResourceRoles"));
    if !is_said(accepted) && app.role != RoleName::any() {
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
    check_strategies(app, "/upgradeStrategy", "/unreachableStrategy", report);
    if app.revocable {
        report.value_problem(
            "/revocable",
            "an app with persistent volumes cannot be revocable: what it reserves is its own",
        );
    }
    check_paths(app, report);
}

/// The same of a pod.
pub(super) fn check_pod(app: &App, report: &mut Report) {
    let Some(pod) = app.pod.as_ref().filter(|_| app.residency.is_some()) else {
        return;
    };
    let paths = ["/scheduling/upgrade", "/scheduling/unreachableStrategy"];
    check_strategies(app, paths[0], paths[1], report);
    for volume in &app.container.persistent {
        let name = &volume.container_path;
        let mut mounts = pod.containers.iter().flat_map(|one| &one.mounts);
        if !mounts.any(|mount| mount.name == *name) {
            report.value_problem(
                format!("/volumes/{name}"),
                "volume must be referenced by at least one container",
            );
        }
    }
}

fn check_strategies(app: &App, upgrade: &str, unreachable: &str, report: &mut Report) {
    let what = if app.pod.is_some() { "a pod" } else { "an app" };
    if app.upgrade.maximum_over_ppm != 0 {
        report.value_problem(
            format!("{upgrade}/maximumOverCapacity"),
            format!(
                "must be 0 for {what} with persistent volumes: a new instance takes the volumes of an old one"
            ),
        );
    }
    if app.unreachable != UnreachableStrategy::Disabled {
        report.value_problem(
            unreachable,
            match app.pod.is_some() {
                true => "unreachableStrategy must be disabled for pods with persistent volumes",
                false => "unreachableStrategy must be disabled for resident tasks",
            },
        );
    }
    if app.role != RoleName::any() && app.accepts != Accepts::Unreserved {
        let (path, kind) = match app.pod.is_some() {
            true => ("/scheduling/placement/acceptedResourceRoles", "pod"),
            false => ("/acceptedResourceRoles", "app"),
        };
        report.value_problem(
            path,
            format!(
                "A resident {kind} must have `acceptedResourceRoles = [\"*\"]`: what it keeps is reserved for it out of what is open to all"
            ),
        );
    }
    let field = match app.upgrade.trial {
        Trial::None => return,
        Trial::Canary { .. } => "canary",
        Trial::BlueGreen { .. } => "blueGreen",
    };
    report.value_problem(
        format!("{upgrade}/{field}"),
        format!(
            "{what} with persistent volumes is updated in place: a new instance takes what an old one keeps"
        ),
    );
}

fn check_paths(app: &App, report: &mut Report) {
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
