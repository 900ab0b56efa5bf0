//! `/v2/queue`: instances that wait to be launched, and which offers were not enough for them, why.
//!
//! Pure but for the two handlers.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use mezzo_api::model::{self, Attribute, AttributeValue, Offer};
use serde_json::{Value, json};

use super::answer::{self, error, json_answer};
use super::filter::{Params, unknown_of_queue};
use super::{Context, render};
use crate::app::AppId;
use crate::app::json::{scalar, seconds};
use crate::core::command::Command;
use crate::core::state::{AppState, Queue, Refusal, State as Snapshot};
use crate::driver::now_ms;
use crate::place::lack::REASONS;
use crate::time::Timestamp;
use crate::why;

pub(super) async fn queue(
    State(context): State<Context>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Response {
    let params = Params(pairs);
    let with_offers = params.all("embed").any(|embed| embed == "lastUnusedOffers");
    let state = context.handle.state();
    let now = now_ms();
    let queue: Vec<Value> = state
        .apps
        .values()
        .filter_map(|app| entry(&state, app, with_offers, now))
        .collect();
    let answer = json_answer(StatusCode::OK, &json!({ "queue": queue }));
    answer::with_warnings(answer, &unknown_of_queue(&params))
}

pub(super) async fn reset_delay(
    State(context): State<Context>,
    Path(path): Path<String>,
) -> Response {
    let path = path.trim_matches('/');
    let Some(id) = path.strip_suffix("/delay") else {
        return error(StatusCode::NOT_FOUND, "DELETE is for /v2/queue/{app}/delay");
    };
    let app = match id.parse::<AppId>() {
        Ok(app) => app,
        Err(problem) => {
            return error(
                StatusCode::NOT_FOUND,
                &format!("not the id of an app: {problem}"),
            );
        }
    };
    match answer::command(&context.handle, Command::ResetDelay { app }).await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(response) => *response,
    }
}

/// One app's entry; `None` if nothing of it waits.
fn entry(state: &Snapshot, app: &AppState, with_offers: bool, now: u64) -> Option<Value> {
    let queue = app.queue.as_ref()?;
    let left = app.backoff.left_ms(now);
    let last = queue.refusals.iter().map(|refusal| refusal.at).max();
    let kind = if app.is_pod() { "pod" } else { "app" };
    let mut out = json!({
        kind: render::version(&app.current),
        "count": queue.count,
        "since": Timestamp::from_millis(queue.since).to_string(),
        "delay": {"timeLeftSeconds": seconds(left), "overdue": left == 0, "failures": app.backoff.failures()},
        "role": app.current.app.role.as_str(),
        "processedOffersSummary": {
            "processedOffersCount": queue.offers_seen,
            "unusedOffersCount": queue.rejected.values().sum::<u64>(),
            "lastUnusedOfferAt": last.map(|at| Timestamp::from_millis(at).to_string()),
            "lastUsedOfferAt": null,
            "rejectSummaryLastOffers": last_offers(queue),
            "rejectSummaryLaunchAttempt": launch_attempt(queue),
        },
        "waitingFor": why::why_not_launched(state, app, now),
        "impossible": why::impossible(state, &app.current.app).is_some(),
    });
    if with_offers {
        let offers: Vec<Value> = queue.refusals.iter().map(refusal).collect();
        out.as_object_mut()?
            .insert("lastUnusedOffers".into(), offers.into());
    }
    Some(out)
}

/// Marathon's reasons one after the other, each with how many offers came as far, and how many it refused.
fn summary(total: u64, declined: impl Fn(&str) -> u64) -> Vec<Value> {
    let mut processed = total;
    REASONS
        .iter()
        .map(|reason| {
            let declined = declined(reason);
            let line = json!({"reason": reason, "declined": declined, "processed": processed});
            processed = processed.saturating_sub(declined);
            line
        })
        .collect()
}

/// Of the latest offer of each machine.
fn last_offers(queue: &Queue) -> Vec<Value> {
    summary(queue.refusals.len() as u64, |reason| {
        let first = |one: &&Refusal| REASONS.iter().find(|reason| one.has(reason)) == Some(&reason);
        queue.refusals.iter().filter(first).count() as u64
    })
}

/// Of all offers since the app began to wait.
fn launch_attempt(queue: &Queue) -> Vec<Value> {
    summary(queue.offers_seen, |reason| {
        queue.rejected.get(reason).copied().unwrap_or(0)
    })
}

fn refusal(refusal: &Refusal) -> Value {
    json!({
        "offer": offer(&refusal.offer),
        "reason": refusal.lacks.iter().map(|lack| lack.marathon_reason()).collect::<Vec<_>>(),
        "details": why::lacks_text(&refusal.lacks),
        "timestamp": Timestamp::from_millis(refusal.at).to_string(),
    })
}

fn offer(offer: &Offer) -> Value {
    let resources: Vec<Value> = offer
        .resources
        .iter()
        .map(|(name, value)| match value {
            model::Value::Scalar(amount) => {
                json!({"name": name, "role": "*", "scalar": scalar(*amount)})
            }
            model::Value::Ranges(ranges) => {
                let ranges: Vec<Value> = ranges
                    .as_slice()
                    .iter()
                    .map(|(begin, end)| json!({"begin": begin, "end": end}))
                    .collect();
                json!({"name": name, "role": "*", "ranges": ranges})
            }
            model::Value::Set(items) => {
                json!({"name": name, "role": "*", "set": items})
            }
        })
        .collect();
    json!({
        "id": offer.offer_id.as_str(),
        "hostname": offer.hostname,
        "allocationRole": offer.role.as_str(),
        "agentId": offer.agent_id.as_str(),
        "region": offer.region,
        "zone": offer.zone,
        "resources": resources,
        "attributes": offer.attributes.iter().map(attribute).collect::<Vec<_>>(),
    })
}

fn attribute(attribute: &Attribute) -> Value {
    match &attribute.value {
        AttributeValue::Scalar(number) => {
            json!({"name": attribute.name, "scalar": scalar(*number)})
        }
        AttributeValue::Text(text) => json!({"name": attribute.name, "text": text}),
    }
}
