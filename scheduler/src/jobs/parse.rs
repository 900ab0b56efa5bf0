//! Makes a [`Job`] from JSON: Chronos' fields with its defaults, and those that Chronos lacked; every problem with its
//! path, every unknown field by name.
//!
//! Pure. What Chronos knows and mezzo does not do is refused in so many words, never ignored.

use std::collections::{BTreeMap, BTreeSet};

use mezzo_api::model::{NetworkMode, Scalar};
use serde_json::Value;

use super::cron::Cron;
use super::name::JobName;
use super::repeat::Repeat;
use super::schedule::Schedule;
use super::spec::{Concurrency, Job, JobContainer, PPM, Retries, Trigger};
use super::zone;
use crate::app::read::{Fields, Report};
use crate::app::spec::Engine;
use crate::app::{Volumes, constraint, fetch, read_confinement, role, secrets, volumes};

/// The largest amount of a scalar resource, in units.
const MAX_UNITS: u64 = 1_000_000_000;
/// A year.
const MAX_SECONDS: u64 = 366 * 86_400;
const MAX_RETRIES: u64 = 1000;
const MAX_PARENTS: usize = 1000;
/// Chronos' `--failure_retry`.
const RETRY_DELAY_MS: u64 = 60_000;
/// An hour.
const MAX_RETRY_DELAY_MS: u64 = 3_600_000;
/// An hour: longer than an upgrade, shorter than a night.
const CATCH_UP_SECS: u64 = 3600;

/// Fields of a job, and what answers add to them.
const FIELDS: &[&str] = &[
    "name",
    "description",
    "owner",
    "ownerName",
    "command",
    "arguments",
    "shell",
    "schedule",
    "cron",
    "parents",
    "scheduleTimeZone",
    "retries",
    "retryDelaySeconds",
    "retryFactor",
    "maxRetryDelaySeconds",
    "maxCompletionTime",
    "cpus",
    "mem",
    "disk",
    "disabled",
    "concurrent",
    "concurrencyPolicy",
    "catchUpSeconds",
    "epsilon",
    "disableAfterFailures",
    "softError",
    "highPriority",
    "runAsUser",
    "container",
    "environmentVariables",
    "fetch",
    "uris",
    "secrets",
    "constraints",
    "role",
    "acceptedResourceRoles",
    // Chronos' that are refused with a word below unless they say nothing.
    "executor",
    "executorFlags",
    "taskInfoData",
    "dataProcessingJobType",
    "async",
    // Answers of the server, accepted back.
    "successCount",
    "errorCount",
    "lastSuccess",
    "lastError",
    "errorsSinceLastSuccess",
    "next",
    "disabledBecause",
    "succeededParents",
    "runs",
    "status",
    "state",
];

/// What a route of Chronos takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whatever starts it.
    Any,
    /// With set times.
    Times,
    /// With parents.
    Parents,
}

/// What is wrong with a job file, and which of its fields no job has.
#[must_use]
pub fn check_job_json(value: &Value) -> Report {
    parse_job(&role::guessed(value), None, Kind::Any, 0).1
}

/// Reads a job. `name` is that of the request's path, for bodies without one. An empty start of a schedule is `now`.
/// The job is there if the report has no errors.
#[must_use]
pub fn parse_job(
    value: &Value,
    name: Option<&JobName>,
    kind: Kind,
    now: u64,
) -> (Option<Job>, Report) {
    let mut report = Report::default();
    let job = read_job(value, name, kind, now, &mut report);
    (job.filter(|_| report.errors.is_empty()), report)
}

fn read_job(
    value: &Value,
    name: Option<&JobName>,
    kind: Kind,
    now: u64,
    report: &mut Report,
) -> Option<Job> {
    let fields = Fields::open(value, String::new(), FIELDS, report)?;
    let name = read_name(&fields, name, report);
    refuse_unsupported(&fields, report);
    let text = |name: &str, report: &mut Report| fields.string(name, report).unwrap_or_default();
    let time_zone = fields
        .string("scheduleTimeZone", report)
        .filter(|zone| !zone.is_empty());
    let trigger = read_trigger(&fields, time_zone.as_deref(), kind, now, report);
    let shell = fields.boolean("shell", report).unwrap_or(true);
    let amount = |name: &str, default: i64, report: &mut Report| {
        let read = fields.decimal(name, 3, 0, MAX_UNITS * 1000, report);
        read.and_then(|millis| i64::try_from(millis).ok())
            .map_or(Scalar::from_millis(default), Scalar::from_millis)
    };
    let container = read_container(&fields, report);
    let (env, secret_env) = read_env(&fields, report);
    let (role, accepts) = role::read(&fields, Some(&fields), report);
    let files = container.as_ref().map(|c| c.secret_volumes.as_slice());
    let variables = secret_env
        .iter()
        .map(|(variable, name)| (format!("/environmentVariables/{variable}"), name));
    secrets::check_secrets(&fields, "job", files.unwrap_or_default(), variables, report);
    let job = Job {
        description: text("description", report),
        owner: text("owner", report),
        owner_name: text("ownerName", report),
        command: text("command", report),
        arguments: fields.strings("arguments", report).unwrap_or_default(),
        shell,
        env,
        secrets: secrets::read_secrets(&fields, report),
        user: text("runAsUser", report),
        cpus: amount("cpus", 100, report),
        mem: amount("mem", 128_000, report),
        disk: amount("disk", 256_000, report),
        retries: read_retries(&fields, report),
        max_completion_secs: fields
            .integer("maxCompletionTime", 0, MAX_SECONDS, report)
            .unwrap_or(0),
        disabled: fields.boolean("disabled", report).unwrap_or(false),
        concurrency: read_concurrency(&fields, report),
        catch_up_secs: read_catch_up(&fields, report),
        disable_after_failures: small(fields.integer("disableAfterFailures", 0, 1_000_000, report)),
        soft_error: fields.boolean("softError", report).unwrap_or(false),
        high_priority: fields.boolean("highPriority", report).unwrap_or(false),
        fetch: fetch::read(&fields, report),
        constraints: constraint::read_of_job(&fields, report),
        role: fields.get("role").is_some().then_some(role),
        accepts: accepts.unwrap_or_default(),
        container: container?,
        secret_env,
        name: name?,
        trigger: trigger?,
        time_zone,
    };
    if let Some(parents) = job.parents()
        && parents.contains(&job.name)
    {
        report.value_problem("/parents", format!("{} cannot be its own parent", job.name));
    }
    Some(job)
}

fn small(read: Option<u64>) -> u32 {
    read.and_then(|value| u32::try_from(value).ok())
        .unwrap_or(0)
}

fn read_name(fields: &Fields<'_>, asked: Option<&JobName>, report: &mut Report) -> Option<JobName> {
    let Some(text) = fields.string("name", report) else {
        if fields.get("name").is_none() && asked.is_none() {
            report.value_problem(
                "/name",
                "is missing: give the job a name such as \"nightly-report\"",
            );
        }
        return asked.cloned();
    };
    let name: JobName = match text.parse() {
        Ok(name) => name,
        Err(problem) => {
            report.value_problem("/name", problem.to_string());
            return None;
        }
    };
    if let Some(asked) = asked.filter(|asked| **asked != name) {
        report.value_problem(
            "/name",
            format!("is {name}, but the request is about {asked}"),
        );
    }
    Some(name)
}

fn refuse_unsupported(fields: &Fields<'_>, report: &mut Report) {
    for (name, advice) in [
        ("executor", "mezzo runs containers without executors"),
        ("executorFlags", "mezzo runs containers without executors"),
        ("taskInfoData", "mezzo runs containers without executors"),
        ("async", "a run ends when its task does"),
    ] {
        fields.unsupported(name, advice, report);
    }
}

fn read_trigger(
    fields: &Fields<'_>,
    time_zone: Option<&str>,
    kind: Kind,
    now: u64,
    report: &mut Report,
) -> Option<Trigger> {
    let zone = time_zone.and_then(|name| match zone::by_name(name) {
        Ok(zone) => Some(zone),
        Err(problem) => {
            report.value_problem("/scheduleTimeZone", problem.to_string());
            None
        }
    });
    let given = |name: &str, report: &mut Report| {
        fields.string(name, report).filter(|text| !text.is_empty())
    };
    let (schedule, cron) = (given("schedule", report), given("cron", report));
    let parents = read_parents(fields, report);
    let n_given = usize::from(schedule.is_some())
        + usize::from(cron.is_some())
        + usize::from(!parents.is_empty());
    if n_given > 1 {
        report.value_problem(
            "/schedule",
            "exclude each other: schedule, cron and parents; give one of them",
        );
        return None;
    }
    match kind {
        Kind::Times if schedule.is_none() && cron.is_none() => {
            report.value_problem(
                "/schedule",
                "is missing: such as \"R/2026-01-31T02:00:00Z/P1D\", or give cron",
            );
        }
        Kind::Parents if parents.is_empty() => {
            report.value_problem(
                "/parents",
                "is missing: name the jobs after which this one runs",
            );
        }
        Kind::Any | Kind::Times | Kind::Parents => {}
    }
    if let Some(text) = schedule {
        return match Repeat::parse(&text, zone.as_ref(), now) {
            Ok(repeat) => Some(Trigger::Times(Schedule::Repeat(repeat))),
            Err(problem) => {
                report.value_problem("/schedule", problem.to_string());
                None
            }
        };
    }
    if let Some(text) = cron {
        return match Cron::parse(&text) {
            Ok(cron) => Some(Trigger::Times(Schedule::Cron(
                cron,
                zone.unwrap_or(jiff::tz::TimeZone::UTC),
            ))),
            Err(problem) => {
                report.value_problem("/cron", problem.to_string());
                None
            }
        };
    }
    Some(if parents.is_empty() {
        Trigger::Request
    } else {
        Trigger::Parents(parents)
    })
}

fn read_parents(fields: &Fields<'_>, report: &mut Report) -> BTreeSet<JobName> {
    let names = fields.strings("parents", report).unwrap_or_default();
    if names.len() > MAX_PARENTS {
        report.value_problem(
            "/parents",
            format!("are {}, must be at most {MAX_PARENTS}", names.len()),
        );
    }
    let mut parents = BTreeSet::new();
    for (i, name) in names.iter().enumerate().take(MAX_PARENTS) {
        match name.parse() {
            Ok(name) => {
                parents.insert(name);
            }
            Err(problem) => report.value_problem(
                format!("/parents({i})"),
                super::name::InvalidJobName::to_string(&problem),
            ),
        }
    }
    parents
}

fn read_retries(fields: &Fields<'_>, report: &mut Report) -> Retries {
    let seconds =
        |name: &str, report: &mut Report| fields.decimal(name, 3, 0, MAX_SECONDS * 1000, report);
    let delay_ms = seconds("retryDelaySeconds", report).unwrap_or(RETRY_DELAY_MS);
    Retries {
        count: fields
            .integer("retries", 0, MAX_RETRIES, report)
            .map_or(2, |count| small(Some(count))),
        delay_ms,
        factor_ppm: fields
            .decimal("retryFactor", 6, PPM, 1000 * PPM, report)
            .unwrap_or(PPM),
        max_delay_ms: seconds("maxRetryDelaySeconds", report)
            .unwrap_or(MAX_RETRY_DELAY_MS.max(delay_ms)),
    }
}

/// `concurrencyPolicy`, or Chronos' `concurrent`.
fn read_concurrency(fields: &Fields<'_>, report: &mut Report) -> Concurrency {
    let concurrent = fields.boolean("concurrent", report);
    let policy = fields.choice("concurrencyPolicy", &Concurrency::NAMES, report);
    match (policy, concurrent) {
        (Some(policy), Some(concurrent)) if concurrent != (policy == Concurrency::Allow) => {
            report.value_problem(
                "/concurrent",
                "contradicts concurrencyPolicy; give the latter",
            );
            policy
        }
        (Some(policy), _) => policy,
        (None, Some(true)) => Concurrency::Allow,
        (None, Some(false) | None) => Concurrency::Forbid,
    }
}

/// `catchUpSeconds`, or Chronos' old `epsilon`, a period such as `PT15M`.
fn read_catch_up(fields: &Fields<'_>, report: &mut Report) -> u64 {
    let old = fields
        .string("epsilon", report)
        .filter(|text| !text.is_empty());
    let given = fields.integer("catchUpSeconds", 0, MAX_SECONDS, report);
    let Some(old) = old.filter(|_| given.is_none()) else {
        return given.unwrap_or(CATCH_UP_SECS);
    };
    let parser = jiff::fmt::temporal::SpanParser::new();
    match parser.parse_unsigned_duration(&old) {
        Ok(window) if window.as_secs() <= MAX_SECONDS => window.as_secs(),
        Ok(_) | Err(_) => {
            report.value_problem(
                "/epsilon",
                format!("{old:?} is not a period such as PT15M; better give catchUpSeconds"),
            );
            CATCH_UP_SECS
        }
    }
}

/// `[{"name": …, "value": …}]`: plain variables; with `secret` instead of `value`, mezzo's own, those with secrets.
fn read_env(
    fields: &Fields<'_>,
    report: &mut Report,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut env, mut secret_env) = (BTreeMap::new(), BTreeMap::new());
    for (path, item) in fields
        .list("environmentVariables", report)
        .unwrap_or_default()
    {
        let Some(read) = Fields::open(item, path, &["name", "value", "secret"], report) else {
            continue;
        };
        let name = read.string("name", report).unwrap_or_default();
        if name.is_empty() || name.contains('=') {
            report.value_problem(
                read.path_of("name"),
                "a variable's name must not be empty or contain `=`",
            );
        }
        if env.contains_key(&name) || secret_env.contains_key(&name) {
            report.value_problem(read.path_of("name"), "is there twice");
        }
        match (read.string("value", report), read.string("secret", report)) {
            (Some(_), Some(_)) => report.value_problem(
                read.path_of("secret"),
                "exclude each other: value and secret",
            ),
            (None, Some(secret)) => {
                secret_env.insert(name, secret);
            }
            (value, None) => {
                env.insert(name, value.unwrap_or_default());
            }
        }
    }
    (env, secret_env)
}

fn read_container(fields: &Fields<'_>, report: &mut Report) -> Option<JobContainer> {
    let no_image =
        "is missing: mezzo runs container images; name one, such as \"busybox:1.36\", here";
    let Some(value) = fields.get("container") else {
        report.value_problem("/container/image", no_image);
        return None;
    };
    let known = [
        "type",
        "image",
        "forcePullImage",
        "network",
        "networkName",
        "networkInfos",
        "volumes",
        "parameters",
        "readOnlyRootfs",
        "capabilities",
    ];
    let container = Fields::open(value, fields.path_of("container"), &known, report)?;
    let engines = [("DOCKER", Engine::Docker), ("MESOS", Engine::Mesos)];
    let engine = container
        .choice("type", &engines, report)
        .unwrap_or(Engine::Docker);
    let image = container.string("image", report).unwrap_or_default();
    if image.is_empty() {
        report.value_problem("/container/image", no_image);
    } else if image.len() > 1024 || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        report.value_problem(
            "/container/image",
            format!("{image:?} is not an image reference"),
        );
    }
    let (network, network_name) = read_network(&container, report);
    let Volumes {
        host: volumes,
        secrets,
        persistent,
    } = volumes(&container, report);
    if !persistent.is_empty() {
        report.value_problem(
            "/container/volumes",
            "not supported: jobs with persistent volumes; their runs may be at once, on any machine",
        );
    }
    Some(JobContainer {
        engine,
        image,
        force_pull: container.boolean("forcePullImage", report).unwrap_or(false),
        confinement: read_confinement(&container, Some(&container), report),
        network,
        network_name,
        volumes,
        secret_volumes: secrets,
    })
}

fn read_network(container: &Fields<'_>, report: &mut Report) -> (NetworkMode, Option<String>) {
    let modes = [
        ("HOST", NetworkMode::Host),
        ("BRIDGE", NetworkMode::Bridge),
        ("NONE", NetworkMode::None),
        ("USER", NetworkMode::Container),
    ];
    let mode = container
        .choice("network", &modes, report)
        .unwrap_or(NetworkMode::Host);
    let mut name = container.string("networkName", report);
    for (path, item) in container.list("networkInfos", report).unwrap_or_default() {
        let known = ["name", "protocol", "labels", "portMappings"];
        let Some(read) = Fields::open(item, path, &known, report) else {
            continue;
        };
        for field in ["protocol", "labels", "portMappings"] {
            read.unsupported(field, "", report);
        }
        name = name.or(read.string("name", report));
    }
    if (mode == NetworkMode::Container) != name.is_some() {
        report.value_problem(
            "/container/network",
            "USER and the name of a network (networkInfos(0)/name) go together",
        );
    }
    (mode, name)
}
