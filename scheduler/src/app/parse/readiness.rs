//! `readinessChecks`. Pure.

use mezzo_api::model::ReadinessProtocol;
use serde_json::Value;

use super::MAX_SECONDS_MS;
use crate::app::read::{Fields, Report, expected};
use crate::app::readiness::AppReadinessCheck;
use crate::app::spec::PortDefinition;

const FIELDS: [&str; 8] = [
    "name",
    "protocol",
    "path",
    "portName",
    "intervalSeconds",
    "timeoutSeconds",
    "httpStatusCodesForReady",
    "preserveLastResponse",
];

/// The app's readiness check, if it has one. As in Marathon there is at most one.
pub(super) fn check(
    fields: &Fields<'_>,
    ports: &[PortDefinition],
    report: &mut Report,
) -> Option<AppReadinessCheck> {
    let mut checks = Vec::new();
    for (i, (path, item)) in fields
        .list("readinessChecks", report)?
        .into_iter()
        .enumerate()
    {
        if i > 0 {
            report.value_problem(&path, "at most one readiness check is allowed");
        }
        checks.extend(one(item, path, ports, report));
    }
    checks.into_iter().next()
}

fn one(
    item: &Value,
    path: String,
    ports: &[PortDefinition],
    report: &mut Report,
) -> Option<AppReadinessCheck> {
    let read = Fields::open(item, path, &FIELDS, report)?;
    let text = |name: &str, default: &str, report: &mut Report| {
        let text = read.string(name, report);
        text.unwrap_or_else(|| default.to_owned())
    };
    let name = text("name", "readinessCheck", report);
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        report.value_problem(
            read.path_of("name"),
            "must not be empty, longer than 255 bytes or hold control characters",
        );
    }
    let protocol = read
        .choice("protocol", &AppReadinessCheck::PROTOCOLS, report)
        .unwrap_or(ReadinessProtocol::Http);
    let http_path = text("path", "/", report);
    if !http_path.starts_with('/')
        || http_path.len() > 4096
        || http_path.chars().any(|c| c.is_control() || c == ' ')
    {
        report.value_problem(
            read.path_of("path"),
            format!("got {http_path:?}, must begin with `/` and hold no spaces"),
        );
    }
    let port_name = text("portName", "http-api", report);
    if !ports
        .iter()
        .any(|port| port.name.as_ref() == Some(&port_name))
    {
        let names: Vec<&str> = ports
            .iter()
            .filter_map(|port| port.name.as_deref())
            .collect();
        let theirs = if names.is_empty() {
            "none of its ports has a name".to_owned()
        } else {
            format!("its named ports are {}", names.join(", "))
        };
        report.value_problem(
            read.path_of("portName"),
            format!("the app has no port named {port_name:?}; {theirs}"),
        );
    }
    let seconds = |name: &str, default: u64, report: &mut Report| {
        let value = read
            .decimal(name, 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default * 1000);
        if value == 0 {
            report.value_problem(read.path_of(name), "must be more than 0");
        }
        value
    };
    let interval_ms = seconds("intervalSeconds", 30, report);
    let timeout_ms = seconds("timeoutSeconds", 10, report);
    Some(AppReadinessCheck {
        name,
        protocol,
        path: http_path,
        port_name,
        interval_ms,
        timeout_ms,
        ready_statuses: statuses(&read, report),
        preserve_last_response: read
            .boolean("preserveLastResponse", report)
            .unwrap_or(false),
    })
}

fn statuses(read: &Fields<'_>, report: &mut Report) -> Vec<u16> {
    let Some(items) = read.list("httpStatusCodesForReady", report) else {
        return vec![200];
    };
    if items.is_empty() {
        report.value_problem(
            read.path_of("httpStatusCodesForReady"),
            "is empty: nothing would ever be ready; leave it out for 200",
        );
    }
    let mut statuses = Vec::new();
    for (path, item) in items {
        match item.as_u64().and_then(|status| u16::try_from(status).ok()) {
            Some(status @ 100..=599) => statuses.push(status),
            Some(_) | None if item.is_number() => {
                report.value_problem(path, format!("got {item}, must be between 100 and 599"));
            }
            Some(_) | None => report.type_problem(path, expected("a number", item)),
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}
