//! Makes an [`App`] from JSON: defaults, deprecated forms, every problem with its path, every unknown field by name.
//!
//! Pure. What Marathon knows and mezzo does not do yet is refused in so many words, never ignored: an app that deploys
//! means what its file says. Ports, health checks and volumes are read in `parts`, the container in `container`,
//! general checks in `check`, files to fetch in `fetch`, limits in `limits`, readiness checks in `readiness`, residency in `residency`, the environment in `secrets`,
//! pods in `pod`.

mod check;
mod confinement;
mod container;
pub(crate) mod fetch;
mod limits;
mod network;
mod parts;
pub(crate) mod pod;
mod readiness;
mod residency;
pub(crate) mod secrets;
mod upgrade;

use std::collections::BTreeSet;

use mezzo_api::model::{CpuPinning, Scalar};
use serde_json::Value;

pub(crate) use confinement::confinement;
pub(crate) use limits::memory;
pub(crate) use parts::{Volumes, volumes};
pub use pod::{check_pod_json, is_pod_json, parse_app_or_pod, parse_pod};
use secrets::{check_secrets, read_env, read_secrets};

use super::AppId;
use super::constraint;
use super::read::{Fields, Report};
use super::role;
use super::spec::{
    App, BackoffStrategy, KillSelection, Limit, PPM, Placing, Run, UnreachableStrategy,
};
use crate::place::Ask;

/// The largest amount of a scalar resource an app may name, in units.
const MAX_UNITS: u64 = 1_000_000_000;
/// A year: longer than any delay that makes sense.
pub(crate) const MAX_SECONDS_MS: u64 = 366 * 86_400 * 1000;
/// More instances than any cluster of Mesos ever ran.
const MAX_INSTANCES: u64 = 1_000_000;

/// Fields of an app that have a meaning here.
pub(crate) const FIELDS: &[&str] = &[
    "id",
    "cmd",
    "args",
    "cpus",
    "mem",
    "disk",
    "gpus",
    "instances",
    "container",
    "env",
    "labels",
    "portDefinitions",
    "ports",
    "networks",
    "requirePorts",
    "healthChecks",
    "readinessChecks",
    "check",
    "upgradeStrategy",
    "backoffSeconds",
    "backoffFactor",
    "maxLaunchDelaySeconds",
    "taskKillGracePeriodSeconds",
    "killSelection",
    "user",
    "tty",
    "acceptedResourceRoles",
    "unreachableStrategy",
    "constraints",
    "placement",
    "dependencies",
    "resourceLimits",
    "revocable",
    "role",
    "secrets",
    "residency",
    "fetch",
    "uris",
    // Marathon's that are refused with a word below unless they say nothing.
    "executor",
    "executorResources",
    "storeUrls",
    "ipAddress",
    // Answers of the server, accepted back.
    "version",
    "versionInfo",
    "tasksStaged",
    "tasksRunning",
    "tasksHealthy",
    "tasksUnhealthy",
    "deployments",
    "tasks",
    "readinessCheckResults",
    "lastTaskFailure",
    "lastRollback",
    "crashLoop",
    "taskStats",
    "waitingFor",
];

/// What is wrong with an app file, and which of its fields no app has.
#[must_use]
pub fn check_app_json(value: &Value) -> Report {
    parse_app(&role::guessed(value), None).1
}

/// Reads an app. `id` is the path of the request, for bodies without an id. The app is there if the report has no errors.
#[must_use]
pub fn parse_app(value: &Value, id: Option<&AppId>) -> (Option<App>, Report) {
    let mut report = Report::default();
    let app = read_app(value, id, &mut report);
    (app.filter(|_| report.errors.is_empty()), report)
}

fn read_app(value: &Value, id: Option<&AppId>, report: &mut Report) -> Option<App> {
    let fields = Fields::open(value, String::new(), FIELDS, report)?;
    let id = read_id(&fields, id, report);
    refuse_unsupported(&fields, report);
    let network = network::read(&fields, report);
    let container = container::container(&fields, &network, report);
    let secrets = read_secrets(&fields, report);
    if let Some(name) = container.as_ref().and_then(|c| c.pull_secret.as_ref())
        && fields
            .get("secrets")
            .is_none_or(|secrets| secrets.get(name).is_none())
    {
        report.value_problem(
            "/container/docker/pullConfig/secret",
            format!("the app has no secret {name:?}; add it to /secrets with its source"),
        );
    }
    let run = read_run(&fields, report);
    let amount = |name: &str, min: u64, default: u64, report: &mut Report| {
        let millis = fields
            .decimal(name, 3, min, MAX_UNITS * 1000, report)
            .unwrap_or(default);
        Scalar::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    };
    let cpus = amount("cpus", 1, 1000, report);
    let mem = amount("mem", 1000, 128_000, report);
    let disk = amount("disk", 0, 0, report);
    let gpus = Scalar::from_units(
        i64::try_from(fields.integer("gpus", 0, 1_000_000, report).unwrap_or(0)).unwrap_or(0),
    );
    let instances = fields
        .integer("instances", 0, MAX_INSTANCES, report)
        .unwrap_or(1);
    let (env, secret_env) = read_env(&fields, "env", report);
    let files = container.as_ref().map(|c| c.secret_volumes.as_slice());
    let variables = secret_env
        .iter()
        .map(|(variable, name)| (format!("/env/{variable}/secret"), name));
    check_secrets(&fields, "app", files.unwrap_or_default(), variables, report);
    let labels = fields.string_map("labels", report).unwrap_or_default();
    let ports = network::ports(&fields, &network, report);
    let require_ports = fields.boolean("requirePorts", report).unwrap_or(false);
    let health_checks = parts::health_checks(&fields, ports.len(), report);
    let readiness_check = readiness::check(&fields, &ports, report);
    let check = check::check(&fields, check::Named::ByNumber(ports.len()), report);
    let upgrade = upgrade::read(&fields, "upgradeStrategy", report);
    let backoff = read_backoff(&fields, report);
    let kill_grace_ms = fields.decimal("taskKillGracePeriodSeconds", 3, 0, MAX_SECONDS_MS, report);
    let kill_selection = kill_selection(&fields, report);
    let constraints = constraint::read(&fields, report);
    let placements = [("spread", Placing::Spread), ("bestFit", Placing::BestFit)];
    let placing = fields
        .choice("placement", &placements, report)
        .unwrap_or_default();
    let dependencies = dependencies(&fields, id.as_ref().map_or("/", AppId::as_str), report);
    let unreachable = read_unreachable(&fields, report);
    let limits = limits::limits(&fields, cpus, mem, report);
    let user = fields
        .string("user", report)
        .filter(|user| !user.is_empty());
    let (role, accepts) = role::read(&fields, Some(&fields), report);
    let revocable = fields.boolean("revocable", report).unwrap_or(false);
    let mut app = App {
        revocable,
        residency: residency::residency(&fields, report),
        id: id?,
        run,
        cpus,
        mem,
        disk,
        gpus,
        instances: u32::try_from(instances).ok()?,
        container: container?,
        env,
        secret_env,
        labels,
        ports,
        require_ports,
        health_checks,
        readiness_check,
        check,
        upgrade,
        backoff,
        kill_grace_ms,
        kill_selection,
        constraints,
        placing,
        dependencies,
        unreachable,
        cpu_limit: limits.cpus,
        mem_limit: limits.mem,
        pids_limit: limits.pids,
        limits: limits.more,
        user,
        tty: fields.boolean("tty", report).unwrap_or(false),
        secrets,
        pod: None,
        fetch: fetch::read(&fields, report),
        role,
        accepts: accepts.unwrap_or_default(),
    };
    residency::defaults(value, "upgradeStrategy", &mut app);
    upgrade::single_instance(value, &mut app, report);
    residency::check(&app, report);
    check_revocable(&app, report);
    Some(app)
}

fn kill_selection(fields: &Fields<'_>, report: &mut Report) -> KillSelection {
    let words = [
        ("YOUNGEST_FIRST", KillSelection::YoungestFirst),
        ("OLDEST_FIRST", KillSelection::OldestFirst),
    ];
    fields
        .choice("killSelection", &words, report)
        .unwrap_or_default()
}

/// What is lent is processors and memory, and can be taken back.
fn check_revocable(app: &App, report: &mut Report) {
    if !app.revocable {
        return;
    }
    let ask = Ask::of(app);
    for (has, field, what) in [
        (
            !ask.ports.is_empty(),
            "portDefinitions",
            "ports of the machine",
        ),
        (
            app.disk != Scalar::from_millis(0),
            "disk",
            "room on the disk",
        ),
        (app.gpus != Scalar::from_millis(0), "gpus", "gpus"),
        (
            app.limits.memory_low_mb.is_some(),
            "resourceLimits/memLow",
            "memory that is kept from others",
        ),
        (
            app.limits.cpu_pinning == CpuPinning::Exclusive,
            "resourceLimits/cpuPinning",
            "processors for itself",
        ),
        (
            app.mem_limit == Some(Limit::Unlimited),
            "resourceLimits/mem",
            "memory without a limit",
        ),
    ] {
        if has {
            report.value_problem(
                format!("/{field}"),
                format!("a revocable app takes only cpus and mem, and cannot have {what}"),
            );
        }
    }
}

fn read_id(fields: &Fields<'_>, from_path: Option<&AppId>, report: &mut Report) -> Option<AppId> {
    let Some(text) = fields.string("id", report) else {
        if from_path.is_none() && fields.get("id").is_none() {
            report.value_problem("/id", "is missing; an app needs a name such as \"/web\"");
        }
        return from_path.cloned();
    };
    match text.parse::<AppId>() {
        Err(error) => {
            report.value_problem("/id", error.to_string());
            None
        }
        Ok(id) => {
            let last = id.as_str().rsplit('/').next().unwrap_or_default();
            if RESERVED.contains(&last) {
                report.value_problem(
                    "/id",
                    format!("must not end with {last:?}, which the API itself uses"),
                );
            }
            if let Some(wanted) = from_path
                && *wanted != id
            {
                report.value_problem("/id", format!("is {id}, but the request is for {wanted}"));
            }
            Some(id)
        }
    }
}

/// Names that the API itself uses below an app.
const RESERVED: [&str; 3] = ["restart", "tasks", "versions"];

fn refuse_unsupported(fields: &Fields<'_>, report: &mut Report) {
    for (name, advice) in [
        ("executor", "mezzo runs containers without executors"),
        ("executorResources", ""),
        ("storeUrls", "use fetch"),
    ] {
        fields.unsupported(name, advice, report);
    }
}

fn read_run(fields: &Fields<'_>, report: &mut Report) -> Run {
    let cmd = fields.string("cmd", report).filter(|cmd| !cmd.is_empty());
    let args = fields
        .strings("args", report)
        .filter(|args| !args.is_empty());
    match (cmd, args) {
        (Some(_), Some(_)) => {
            report.value_problem("/cmd", "exclude each other: cmd and args; give one of them");
            Run::Image
        }
        (Some(line), None) => Run::Shell(line),
        (None, Some(args)) => Run::Args(args),
        (None, None) => Run::Image,
    }
}

fn read_backoff(fields: &Fields<'_>, report: &mut Report) -> BackoffStrategy {
    let default = BackoffStrategy::default();
    BackoffStrategy {
        initial_ms: fields
            .decimal("backoffSeconds", 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default.initial_ms),
        factor_ppm: fields
            .decimal("backoffFactor", 6, PPM, 1000 * PPM, report)
            .unwrap_or(default.factor_ppm),
        max_ms: fields
            .decimal("maxLaunchDelaySeconds", 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default.max_ms),
    }
}

fn read_unreachable(fields: &Fields<'_>, report: &mut Report) -> UnreachableStrategy {
    let Some(value) = fields.get("unreachableStrategy") else {
        return UnreachableStrategy::default();
    };
    let path = fields.path_of("unreachableStrategy");
    if let Some(text) = value.as_str() {
        if text != "disabled" {
            report.value_problem(
                path,
                format!("got {text:?}, must be \"disabled\" or an object"),
            );
        }
        return UnreachableStrategy::Disabled;
    }
    let known = ["inactiveAfterSeconds", "expungeAfterSeconds"];
    let Some(read) = Fields::open(value, path.clone(), &known, report) else {
        return UnreachableStrategy::default();
    };
    let inactive = read.decimal("inactiveAfterSeconds", 3, 0, MAX_SECONDS_MS, report);
    let expunge = read.decimal("expungeAfterSeconds", 3, 0, MAX_SECONDS_MS, report);
    let inactive_ms = inactive.unwrap_or(0);
    let expunge_ms = expunge.unwrap_or(inactive_ms);
    if expunge_ms < inactive_ms {
        report.value_problem(
            path,
            "inactiveAfterSeconds must not be more than expungeAfterSeconds",
        );
    }
    UnreachableStrategy::After {
        inactive_ms,
        expunge_ms,
    }
}

/// `dependencies`, resolved at `base`, the path of the app or group that has them.
pub(crate) fn dependencies(
    fields: &Fields<'_>,
    base: &str,
    report: &mut Report,
) -> BTreeSet<AppId> {
    let mut dependencies = BTreeSet::new();
    let given = fields.strings("dependencies", report).unwrap_or_default();
    for (i, text) in given.iter().enumerate() {
        let path = format!("{}({i})", fields.path_of("dependencies"));
        match AppId::resolve(text, base) {
            Ok(id) if id.as_str() == base => {
                report.value_problem(path, format!("{id} cannot depend on itself"));
            }
            Ok(id) => {
                dependencies.insert(id);
            }
            Err(problem) => report.value_problem(path, problem.to_string()),
        }
    }
    dependencies
}
