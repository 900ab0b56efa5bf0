//! Events in lines: when, what, of what, and what of it.
//!
//! Pure.

use serde_json::Value;

use super::{Style, Tone, clean};

/// A text field; empty if there is none.
pub(crate) fn field<'v>(event: &'v Value, name: &str) -> &'v str {
    event.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether the event is about this app.
pub(crate) fn speaks_of(event: &Value, app: &str) -> bool {
    let affected = event
        .pointer("/plan/affectedApps")
        .and_then(Value::as_array);
    field(event, "appId") == app
        || field(event, "runSpecId") == app
        || event.pointer("/appDefinition/id").and_then(Value::as_str) == Some(app)
        || affected.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(app)))
}

/// One line.
pub(crate) fn line(event: &Value, style: Style) -> String {
    let kind = clean(field(event, "eventType"));
    // The date is the reader's own.
    let time = field(event, "timestamp");
    let time = time.split_once('T').map_or(time, |(_, time)| time);
    let time = time.trim_end_matches('Z');
    let tone = if kind.contains("fail") || kind.contains("unhealthy") || kind.ends_with("gap") {
        Tone::Bad
    } else if kind.ends_with("success") {
        Tone::Good
    } else {
        Tone::Plain
    };
    let shown = style.paint(tone, &format!("{kind:<33}"));
    let text = [subject(event), detail(event)]
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| clean(part))
        .collect::<Vec<String>>()
        .join("  ");
    let line = format!("{} {shown} {text}", clean(time));
    format!("{}\n", line.trim_end())
}

/// What it is about: the most exact name there is.
fn subject(event: &Value) -> String {
    for name in ["taskId", "instanceId", "appId", "groupId", "remoteAddress"] {
        let value = field(event, name);
        if !value.is_empty() {
            return value.to_owned();
        }
    }
    if let Some(app) = event.pointer("/appDefinition/id").and_then(Value::as_str) {
        return app.to_owned();
    }
    let affected = event
        .pointer("/plan/affectedApps")
        .and_then(Value::as_array);
    let affected: Vec<&str> = affected
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match affected.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn detail(event: &Value) -> String {
    let message = field(event, "message");
    let joined = |word: &str, on: &str, message: &str| {
        let mut text = word.to_owned();
        if !on.is_empty() {
            text.push_str(&format!(" on {on}"));
        }
        if !message.is_empty() {
            text.push_str(&format!(": {message}"));
        }
        text
    };
    let host = field(event, "host");
    for name in ["taskStatus", "condition", "reason"] {
        let word = field(event, name);
        if !word.is_empty() {
            return joined(word, host, message);
        }
    }
    for name in ["alive", "healthy"] {
        if let Some(value) = event.get(name).and_then(Value::as_bool) {
            return if value { "healthy" } else { "not healthy" }.to_owned();
        }
    }
    let actions = event
        .pointer("/currentStep/actions")
        .and_then(Value::as_array);
    let actions: Vec<&str> = actions
        .into_iter()
        .flatten()
        .take(3)
        .map(|action| field(action, "action"))
        .collect();
    if actions.is_empty() {
        message.to_owned()
    } else {
        actions.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_sort_of_event_is_a_line() {
        let at = "2026-01-31T12:00:00.000Z";
        let events = [
            json!({"eventType": "status_update_event", "timestamp": at, "taskId": "a.1", "taskStatus": "TASK_FAILED",
                "host": "node1", "message": "exit code 1", "appId": "/a"}),
            json!({"eventType": "deployment_info", "timestamp": at, "plan": {"affectedApps": ["/a", "/b"]},
                "currentStep": {"actions": [{"action": "StartApplication", "app": "/a"}]}}),
            json!({"eventType": "health_status_changed_event", "timestamp": at, "instanceId": "a.1", "alive": false}),
            json!({"eventType": "scheduler_disconnected_event", "timestamp": at}),
            json!({"eventType": "event_stream_gap", "timestamp": at, "reason": "too old"}),
        ];
        let lines: String = events
            .iter()
            .map(|event| line(event, Style { colour: false }))
            .collect();
        insta::assert_snapshot!(lines, @r"
        12:00:00.000 status_update_event               a.1  TASK_FAILED on node1: exit code 1
        12:00:00.000 deployment_info                   /a and 1 more  StartApplication
        12:00:00.000 health_status_changed_event       a.1  not healthy
        12:00:00.000 scheduler_disconnected_event
        12:00:00.000 event_stream_gap                  too old
        ");
    }

    #[test]
    fn an_event_is_found_by_its_app() {
        assert!(speaks_of(&json!({"appId": "/a"}), "/a"));
        assert!(speaks_of(&json!({"runSpecId": "/a"}), "/a"));
        assert!(speaks_of(
            &json!({"plan": {"affectedApps": ["/b", "/a"]}}),
            "/a"
        ));
        assert!(!speaks_of(&json!({"appId": "/a/b"}), "/a"));
    }
}
