//! `mezzo doctor`: what this machine lacks to run mezzo, and the fix. Changes nothing.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use mezzo_runtime::{CheckState, inspect_host};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use tokio::net::TcpStream;

use super::Context;
use crate::{
    args::cluster::DoctorArgs,
    failure::Failure,
    render::{Style, Table, Tone, bytes, section, toned},
    request,
};

/// Below this, an image or two fill the disk.
const LITTLE_SPACE: u64 = 2 << 30;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// mezzo runs, with less.
    Degraded,
    Missing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    name: String,
    state: State,
    found: String,
    fix: String,
}

impl Finding {
    fn new(name: &str, state: State, found: impl Into<String>, fix: &str) -> Self {
        let fix = if state == State::Ok {
            String::new()
        } else {
            fix.to_owned()
        };
        Self {
            name: name.to_owned(),
            state,
            found: found.into(),
            fix,
        }
    }
}

pub(crate) async fn run(context: &Context, args: &DoctorArgs) -> Result<(), Failure> {
    let mut findings: Vec<Finding> = inspect_host()
        .checks
        .into_iter()
        .map(|check| Finding {
            name: check.name,
            state: match check.state {
                CheckState::Ok => State::Ok,
                CheckState::Warning => State::Degraded,
                CheckState::Missing => State::Missing,
            },
            found: check.found,
            fix: check.fix,
        })
        .collect();
    findings.push(space(&args.state_dir));
    for (name, port, flag) in [
        ("master", 5050, "--master-port"),
        ("agent", 5051, "--agent-port"),
        ("scheduler", 8080, "--scheduler-port"),
    ] {
        findings.push(port_free(name, port, flag));
    }
    if let Some(registry) = &args.registry {
        findings.push(registry_answers(&request::address("--registry", registry)?).await);
    }
    let missing = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .count();
    context
        .output
        .emit(&findings, |style| render(&findings, style))?;
    if missing == 0 {
        Ok(())
    } else {
        Err(Failure::Code(1))
    }
}

fn space(dir: &Path) -> Finding {
    let existing = dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let name = "disk space";
    match statvfs(existing) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let state = if free < LITTLE_SPACE {
                State::Degraded
            } else {
                State::Ok
            };
            let fix = format!(
                "free some space below {} or choose another --state-dir",
                existing.display()
            );
            Finding::new(
                name,
                state,
                format!("{} free for {}", bytes(free), dir.display()),
                &fix,
            )
        }
        Err(error) => Finding::new(
            name,
            State::Degraded,
            format!("{}: {error}", existing.display()),
            "choose another --state-dir",
        ),
    }
}

fn port_free(name: &str, port: u16, flag: &str) -> Finding {
    let what = format!("port {port}");
    match TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))) {
        Ok(_) => Finding::new(&what, State::Ok, format!("free for the {name}"), ""),
        Err(error) => {
            let fix = format!("if that is not mezzo already running, give `mezzo dev` {flag}");
            Finding::new(&what, State::Degraded, error.to_string(), &fix)
        }
    }
}

async fn registry_answers(address: &str) -> Finding {
    let connected = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address)).await;
    let found = match connected {
        Ok(Ok(_)) => return Finding::new("registry", State::Ok, format!("{address} answers"), ""),
        Ok(Err(error)) => format!("{address}: {error}"),
        Err(_) => format!("{address}: no answer within 5 s"),
    };
    Finding::new(
        "registry",
        State::Missing,
        found,
        "start it, or check the address and the way there",
    )
}

fn render(findings: &[Finding], style: Style) -> String {
    let mut table = Table::new(&["CHECK", "STATE", "FOUND"]);
    let mut fixes = String::new();
    for finding in findings {
        let (tone, state) = match finding.state {
            State::Ok => (Tone::Good, "ok"),
            State::Degraded => (Tone::Busy, "limited"),
            State::Missing => (Tone::Bad, "missing"),
        };
        table.row([
            finding.name.as_str().into(),
            toned(tone, state),
            finding.found.as_str().into(),
        ]);
        if finding.state != State::Ok && !finding.fix.is_empty() {
            fixes.push_str(&format!(
                "  {}: {}\n",
                finding.name,
                crate::render::clean(&finding.fix)
            ));
        }
    }
    let mut text = table.render(style, "");
    if !fixes.is_empty() {
        text.push_str(&section(style, "FIXES", &fixes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::PLAIN;

    #[test]
    fn fixes_stand_below_the_table_and_only_for_what_is_not_well() {
        let findings = [
            Finding::new("root", State::Ok, "yes", "sudo"),
            Finding::new(
                "overlayfs",
                State::Missing,
                "not in /proc/filesystems",
                "modprobe overlay",
            ),
        ];
        insta::assert_snapshot!(render(&findings, PLAIN), @r"
        CHECK      STATE    FOUND
        root       ok       yes
        overlayfs  missing  not in /proc/filesystems

        FIXES
          overlayfs: modprobe overlay
        ");
    }

    #[test]
    fn a_port_in_use_is_told_with_the_flag() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let finding = port_free(
            "master",
            taken.local_addr().unwrap().port(),
            "--master-port",
        );
        assert_eq!(finding.state, State::Degraded);
        assert!(finding.fix.contains("--master-port"));
    }
}
