//! Says in words why something waits: no master, a delay after failures, offers that were too small, or an app that asks
//! for more than any machine has.
//!
//! Pure: from a snapshot of the state and the time.

use std::collections::BTreeSet;

use mezzo_api::model::{AgentId, RoleName};

use crate::app::App;
use crate::app::constraint::Operator;
use crate::core::state::{AppState, Condition, Machine, Refusal, State};
use crate::deployment::ActionKind;
use crate::place::{Ask, Lack, Site, Tally};
use crate::reconcile::bounds;

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
        let looping = app.backoff.crash_loop(app.active().app.backoff, now);
        let looping = looping.map_or_else(String::new, |failures| {
            format!("crash loop: {failures} failures in a row; ")
        });
        return Some(format!(
            "{looping}the next launch is delayed by {}.{} s after a task that ended{failure}",
            left / 1000,
            left % 1000 / 100
        ));
    }
    let spec = &app.active().app;
    if let Some(text) = impossible(state, spec).or_else(|| crowded(state, spec)) {
        return Some(text);
    }
    if queue.refusals.is_empty() && spec.revocable {
        return Some("no offer of revocable resources since it began to wait: whatever nodes lend is taken or offered to others".to_owned());
    }
    if queue.refusals.is_empty()
        && let Some(text) = kept_elsewhere(app)
    {
        return Some(text);
    }
    let of_others = |refusal: &Refusal| matches!(refusal.lacks.as_slice(), [Lack::Role { .. }]);
    if queue.refusals.iter().all(of_others) {
        return Some(no_offer(state, &spec.role, &queue.refusals));
    }
    let mut parts: Vec<String> = queue
        .refusals
        .iter()
        .rev()
        .take(SHOWN)
        .map(refusal_text)
        .collect();
    if queue.refusals.len() > SHOWN {
        parts.push(format!("and {} more", queue.refusals.len() - SHOWN));
    }
    let advice = match held_by_old(state, app) {
        0 => String::new(),
        n => format!(
            ". {n} old instance(s) hold what new ones need, and upgradeStrategy keeps {} healthy: with a lower \
             minimumHealthCapacity some of them go first",
            bounds(spec.instances, spec.upgrade, 0).min_healthy
        ),
    };
    Some(format!(
        "the latest offers were not enough: {}{}{advice}",
        parts.join("; "),
        at_limit(state, &spec.role)
    ))
}

/// That the role has no more quota, which also makes offers smaller than they could be.
fn at_limit(state: &State, role: &RoleName) -> String {
    let word = state.roles.get(role).into_iter();
    let mut reasons = word.flat_map(|word| &word.reasons);
    match reasons.find(|reason| reason.contains("limit")) {
        Some(reason) => format!(". The master says of role {role}: {reason}"),
        None => String::new(),
    }
}

/// Why a run of a job of the role waits for an offer, given what was said of the latest ones.
#[must_use]
pub fn why_run_waits(state: &State, role: &RoleName, latest: &str) -> String {
    if !state.connected {
        "not connected to the master; trying again".to_owned()
    } else if latest.is_empty() {
        no_offer(state, role, &[])
    } else {
        format!("{latest}{}", at_limit(state, role))
    }
}

/// No offer of the role came: what the master says of that, and what it offered in other roles.
fn no_offer(state: &State, role: &RoleName, others: &[Refusal]) -> String {
    let word = state.roles.get(role);
    let role = match *role == RoleName::any() {
        true => String::new(),
        false => format!(" of role {role}"),
    };
    if let Some(refused) = word.and_then(|word| word.refused.as_ref()) {
        return format!(
            "no offer{role}: the master does not let this scheduler have it: {refused}"
        );
    }
    let reasons = word.map_or(&[][..], |word| word.reasons.as_slice());
    let cause = match reasons {
        [] => "whatever the cluster has is taken or offered to others".to_owned(),
        reasons => {
            let shown: Vec<&str> = reasons.iter().take(SHOWN).map(String::as_str).collect();
            format!("the master says: {}", shown.join(", "))
        }
    };
    let shown: Vec<String> = others.iter().rev().take(SHOWN).map(refusal_text).collect();
    let others = match shown.is_empty() {
        true => String::new(),
        false => format!(". Offered in other roles: {}", shown.join("; ")),
    };
    format!("no offer{role} since it began to wait: {cause}{others}")
}

fn refusal_text(refusal: &Refusal) -> String {
    let host = &refusal.offer.hostname;
    format!("{host} ({})", lacks_text(&refusal.lacks))
}

/// The machines that instances wait for, because their volumes are there.
fn kept_elsewhere(app: &AppState) -> Option<String> {
    let free = app.free_holdings();
    let hosts: BTreeSet<&str> = free.iter().map(|one| one.hostname.as_str()).collect();
    let shown: Vec<&str> = hosts.iter().copied().take(SHOWN).collect();
    let id = &app.current.app.id;
    let wipe = match app.is_pod() {
        true => format!("/v2/pods{id}::instances"),
        false => format!("/v2/apps{id}/tasks"),
    };
    (!shown.is_empty()).then(|| {
        format!(
            "no offer since it began to wait of the nodes that have its volumes: {}. To begin anew, with empty ones: \
             DELETE {wipe}?wipe=true",
            shown.join(", "),
        )
    })
}

/// How many instances of an earlier configuration an update keeps on machines that refused new ones, while it may end
/// none: Marathon's trap of minimumHealthCapacity 1 on a full cluster.
fn held_by_old(state: &State, app: &AppState) -> usize {
    if state.action_on(&app.current.app.id) != Some(ActionKind::RestartApplication) {
        return 0;
    }
    let refused = |agent: &AgentId| {
        let refusals = app.queue.iter().flat_map(|queue| &queue.refusals);
        refusals.into_iter().any(|one| one.offer.agent_id == *agent)
    };
    app.instances
        .values()
        .filter(|one| one.config != app.current.config && one.sentence.is_none())
        .filter(|one| refused(&one.agent_id))
        .count()
}

/// Whether no machine, were it empty, could take one instance of `app`; with the arithmetic. `None` also where nobody
/// knows what the cluster has.
#[must_use]
pub fn impossible(state: &State, app: &App) -> Option<String> {
    let ask = Ask::of(app);
    let nobody = Tally::new(&app.constraints, []);
    let mut parts = Vec::new();
    for machine in state.machines.values() {
        let lacks = alone(&ask, &nobody, app, machine);
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
    let ports = match ask.ports.len() {
        0 => String::new(),
        n => format!(";ports:{n}"),
    };
    let constraints: String = app
        .constraints
        .iter()
        .map(|constraint| format!("; {constraint}"))
        .collect();
    Some(format!(
        "an instance asks for more than any node has: it asks for {}{ports}{constraints}; {}",
        ask.scalars,
        parts.join("; ")
    ))
}

/// What an empty machine lacks for the first instance.
fn alone(ask: &Ask, nobody: &Tally, app: &App, machine: &Machine) -> Vec<Lack> {
    let mut lacks = ask.lacks(&machine.total);
    let place = Site::from(machine).values(&app.constraints);
    lacks.extend(nobody.refuses(&app.constraints, &place, app.instances));
    lacks
}

/// Whether the app asks for more instances than its constraints leave room for, were all machines empty.
fn crowded(state: &State, app: &App) -> Option<String> {
    let ask = Ask::of(app);
    let nobody = Tally::new(&app.constraints, []);
    let fitting: Vec<&Machine> = state
        .machines
        .values()
        .filter(|machine| alone(&ask, &nobody, app, machine).is_empty())
        .collect();
    if fitting.is_empty() {
        // Nobody knows, or not even one fits, which is told elsewhere.
        return None;
    }
    app.constraints.iter().find_map(|constraint| {
        let values: BTreeSet<String> = fitting
            .iter()
            .filter_map(|machine| Site::from(*machine).value(&constraint.field))
            .collect();
        let field = constraint.field.trim_start_matches('@');
        if let Operator::GroupBy(Some(groups)) = constraint.operator
            && values.len() < groups as usize
        {
            return Some(format!(
                "{constraint} wants {groups} values of {field}, the nodes that can take an instance have {}",
                values.len()
            ));
        }
        let room = u64::from(constraint.per_value()?) * values.len() as u64;
        (u64::from(app.instances) > room).then(|| {
            format!(
                "{constraint} leaves room for {room} of {} instances: the nodes that can take one have {} values of {field}",
                app.instances,
                values.len(),
            )
        })
    })
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
        Lack::Role { .. } | Lack::Reservation { .. } | Lack::Constraint { .. } => {
            format!("no place for it ({lack})")
        }
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
    if !app.asks_readiness() {
        return None;
    }
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
