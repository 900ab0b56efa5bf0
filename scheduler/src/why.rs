//! Says in words why something waits: no master, a delay after failures, offers that were too small, or an app that asks
//! for more than any machine has.
//!
//! Pure: from a snapshot of the state and the time.

use crate::core::state::{AppState, Condition, State};
use crate::place::{Ask, Lack};

/// Machines or offers spelled out at most.
const SHOWN: usize = 5;

/// Why instances of `app` are not launched; `None` if none waits.
#[must_use]
pub fn why_not_launched(state: &State, app: &AppState, now: u64) -> Option<String> {
    let queue = app.queue.as_ref()?;
    if !state.connected {
        return Some("not connected to the master; trying again".to_owned());
    }
    let left = app.backoff.left_ms(now);
    if left > 0 {
        let failure = app
            .last_failure
            .as_ref()
            .map_or_else(String::new, |failure| {
                format!(
                    ": {} on {}: {}",
                    failure.state, failure.host, failure.message
                )
            });
        return Some(format!(
            "the next launch is delayed by {}.{} s after a task that ended{failure}",
            left / 1000,
            left % 1000 / 100
        ));
    }
    let ask = Ask::of(&app.current.app);
    if let Some(text) = impossible(state, &ask) {
        return Some(text);
    }
    if queue.refusals.is_empty() && ask.revocable {
        return Some("no offer of revocable resources since it began to wait: whatever nodes lend is taken or offered to others".to_owned());
    }
    if queue.refusals.is_empty() {
        return Some("no offer since it began to wait: whatever the cluster has is taken or offered to others".to_owned());
    }
    let mut parts: Vec<String> = queue
        .refusals
        .iter()
        .rev()
        .take(SHOWN)
        .map(|refusal| format!("{} ({})", refusal.hostname, lacks_text(&refusal.lacks)))
        .collect();
    if queue.refusals.len() > SHOWN {
        parts.push(format!("and {} more", queue.refusals.len() - SHOWN));
    }
    Some(format!(
        "the latest offers were not enough: {}",
        parts.join("; ")
    ))
}

/// Whether no machine, were it empty, could take one instance; with the arithmetic.
#[must_use]
pub fn impossible(state: &State, ask: &Ask) -> Option<String> {
    let mut parts = Vec::new();
    for machine in state.machines.values() {
        let lacks = ask.lacks(&machine.total);
        if lacks.is_empty() {
            return None;
        }
        if parts.len() < SHOWN {
            let lacks: Vec<String> = lacks.iter().map(has_text).collect();
            parts.push(format!("{} has {}", machine.hostname, lacks.join(", ")));
        }
    }
    if parts.is_empty() {
        return None;
    }
    let more = state.machines.len().saturating_sub(SHOWN);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    Some(format!(
        "an instance asks for more than any node has: it asks for {}{}; {}",
        ask.scalars,
        match ask.ports.len() {
            0 => String::new(),
            n => format!(";ports:{n}"),
        },
        parts.join("; ")
    ))
}

fn has_text(lack: &Lack) -> String {
    match lack {
        Lack::Scalar {
            name,
            asked,
            offered,
        } => format!("{name} {offered} of {asked}"),
        Lack::Ports { asked, offered } => format!("{offered} of {asked} ports"),
        Lack::FixedPorts { missing } => format!("not the ports {missing:?}"),
    }
}

/// The lacks of one offer in one line.
#[must_use]
pub fn lacks_text(lacks: &[Lack]) -> String {
    let lacks: Vec<String> = lacks.iter().map(Lack::to_string).collect();
    lacks.join(", ")
}

/// How the latest task of the current version failed, if one did.
fn last_failure(app: &AppState) -> Option<String> {
    let failure = app.last_failure.as_ref()?;
    (failure.version >= app.current.config)
        .then(|| format!("{} on {}: {}", failure.state, failure.host, failure.message))
}

/// What the readiness checks of instances that run say, as long as they do not pass.
fn not_ready(app: &AppState) -> Option<String> {
    let waiting: Vec<_> = app
        .instances
        .values()
        .filter(|one| one.condition == Condition::Running && one.sentence.is_none())
        .filter(|one| !one.is_ready())
        .collect();
    let first = waiting.first()?;
    let what = match &first.readiness {
        None => "not asked yet".to_owned(),
        Some(last) => match &last.last_response {
            Some(response) => format!("{} answers {}", last.name, response.status),
            None => format!("{}: {}", last.name, last.problem),
        },
    };
    Some(format!(
        "{} running instance(s) not ready, {} on {}: {what}",
        waiting.len(),
        first.task_id,
        first.hostname
    ))
}

/// What an app under deployment waits for, with the reason if instances are not launched or fail.
#[must_use]
pub fn waiting_for(state: &State, app: &AppState, now: u64) -> String {
    let mut parts = vec![app.waiting_for.clone()];
    match why_not_launched(state, app, now) {
        Some(why) => parts.push(why),
        None if !app.waiting_for.is_empty() => {
            parts.extend(not_ready(app));
            parts.extend(
                last_failure(app).map(|failure| format!("the latest task that ended: {failure}")),
            );
        }
        None => {}
    }
    parts.retain(|part| !part.is_empty());
    parts.join(": ")
}
