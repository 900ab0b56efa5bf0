//! `check`, of an app and of a pod's container. Pure.

use serde_json::Value;

use super::MAX_SECONDS_MS;
use super::parts::check_port;
use super::pod::{Command, command, endpoint_index};
use crate::app::check::{AppCheck, CheckCommand, CheckWay};
use crate::app::read::{Fields, Report};
use crate::app::spec::{CheckPort, PortDefinition};

/// How a check names the port that it asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Named<'a> {
    /// `port`, or `portIndex` among so many.
    ByNumber(usize),
    /// `endpoint`, one of these.
    ByEndpoint(&'a [PortDefinition]),
}

impl Named<'_> {
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::ByNumber(_) => &["portIndex", "port"],
            Self::ByEndpoint(_) => &["endpoint"],
        }
    }

    fn read(self, asked: &Fields<'_>, report: &mut Report) -> Option<CheckPort> {
        match self {
            Self::ByNumber(n_ports) => check_port(asked, n_ports, report),
            Self::ByEndpoint(ports) => endpoint_index(asked, ports, report).map(CheckPort::Index),
        }
    }
}

/// The check, if there is one.
pub(super) fn check(
    fields: &Fields<'_>,
    named: Named<'_>,
    report: &mut Report,
) -> Option<AppCheck> {
    let known = [
        "http",
        "tcp",
        "exec",
        "intervalSeconds",
        "timeoutSeconds",
        "delaySeconds",
    ];
    let value = fields.get("check")?;
    let read = Fields::open(value, fields.path_of("check"), &known, report)?;
    let seconds = |name: &str, least: u64, default: u64, report: &mut Report| {
        let value = read
            .decimal(name, 3, 0, MAX_SECONDS_MS, report)
            .unwrap_or(default * 1000);
        if value < least {
            report.value_problem(read.path_of(name), "must be more than 0");
        }
        value
    };
    let interval_ms = seconds("intervalSeconds", 1, 60, report);
    let timeout_ms = seconds("timeoutSeconds", 1, 20, report);
    let delay_ms = seconds("delaySeconds", 0, 15, report);
    let ways: Vec<(&str, &Value)> = ["http", "tcp", "exec"]
        .into_iter()
        .filter_map(|way| Some((way, read.get(way)?)))
        .collect();
    let [(way, value)] = ways.as_slice() else {
        report.value_problem(
            fields.path_of("check"),
            "must have one of http, tcp and exec",
        );
        return None;
    };
    let at = read.path_of(way);
    let way = match *way {
        "http" => http(value, at, named, report),
        "tcp" => {
            let asked = Fields::open(value, at, named.fields(), report)?;
            named.read(&asked, report).map(CheckWay::Tcp)
        }
        _ => {
            let exec = Fields::open(value, at, &["command"], report)?;
            command(&exec, report).map(|command| {
                CheckWay::Exec(match command {
                    Command::Shell(line) => CheckCommand::Shell(line),
                    Command::Argv(argv) => CheckCommand::Argv(argv),
                })
            })
        }
    };
    Some(AppCheck {
        way: way?,
        interval_ms,
        timeout_ms,
        delay_ms,
    })
}

fn http(value: &Value, at: String, named: Named<'_>, report: &mut Report) -> Option<CheckWay> {
    let known = [&["path", "scheme"], named.fields()].concat();
    let asked = Fields::open(value, at, &known, report)?;
    let schemes = [
        ("HTTP", false),
        ("HTTPS", true),
        ("http", false),
        ("https", true),
    ];
    let tls = asked.choice("scheme", &schemes, report).unwrap_or(false);
    let path = asked.string("path", report);
    let path = path.unwrap_or_else(|| "/".to_owned());
    if !path.starts_with('/')
        || path.len() > 4096
        || path.contains(|c: char| c.is_control() || c == ' ')
    {
        report.value_problem(
            asked.path_of("path"),
            format!("got {path:?}, must begin with `/` and hold no spaces"),
        );
    }
    let port = named.read(&asked, report)?;
    Some(CheckWay::Http { port, path, tls })
}
