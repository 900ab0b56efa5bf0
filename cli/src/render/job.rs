//! Jobs and their runs for people.
//!
//! Pure and forgiving: from the scheduler's JSON, a field that is missing is empty.

use serde_json::{Value, json};

use super::{Style, Table, Tone, clean, facts, section, toned};

/// Runs shown with a job.
const SHOWN_RUNS: usize = 10;

/// `mezzo job list`.
pub(crate) fn list(jobs: &[Value], style: Style) -> String {
    if jobs.is_empty() {
        return "no jobs; add one with `mezzo job add FILE`\n".to_owned();
    }
    let mut table = Table::new(&[
        "JOB", "ROLE", "STARTS", "NEXT", "LAST", "NOW", ">OK", ">FAILED",
    ]);
    for job in jobs {
        let last = text(job, "status");
        table.row([
            text(job, "name").into(),
            text(job, "role").into(),
            starts(job).into(),
            when(job).into(),
            toned(tone(&last), last),
            text(job, "state").into(),
            text(job, "successCount").into(),
            text(job, "errorCount").into(),
        ]);
    }
    table.render(style, "")
}

/// `mezzo job show`.
pub(crate) fn show(job: &Value, style: Style) -> String {
    let mut page = facts(
        style,
        &[
            ("job", text(job, "name")),
            ("starts", starts(job)),
            ("zone", text(job, "scheduleTimeZone")),
            ("next", when(job)),
            ("state", text(job, "state")),
            ("role", text(job, "role")),
            ("image", text(&job["container"], "image")),
            ("command", text(job, "command")),
            ("retries", text(job, "retries")),
            ("two at once", text(job, "concurrencyPolicy")),
            ("succeeded", text(job, "successCount")),
            ("failed", text(job, "errorCount")),
        ],
    );
    let runs: Vec<Value> = job["runs"].as_array().cloned().unwrap_or_default();
    let shown = runs.get(..SHOWN_RUNS).unwrap_or(&runs);
    page.push_str(&section(style, "runs", &history(shown, style)));
    page
}

/// `mezzo job history`.
pub(crate) fn history(runs: &[Value], style: Style) -> String {
    if runs.is_empty() {
        return "no runs yet\n".to_owned();
    }
    let mut table = Table::new(&[
        ">RUN", "DUE", "STATE", ">TRIES", "EXIT", "NODE", "ENDED", "WHY",
    ]);
    for run in runs {
        let attempts = run["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        let last = attempts.last().unwrap_or(&Value::Null);
        let state = text(run, "state");
        let exit = match (&last["exitCode"], &last["signal"]) {
            (Value::Null, Value::Null) => String::new(),
            (Value::Null, signal) => format!("signal {signal}"),
            (code, _) => code.to_string(),
        };
        let node = match text(&run["task"], "host") {
            none if none.is_empty() => text(last, "host"),
            host => host,
        };
        let why = [
            text(run, "why"),
            text(run, "waitsBecause"),
            text(last, "message"),
        ];
        table.row([
            text(run, "run").into(),
            text(run, "due").into(),
            toned(tone(&state), state),
            attempts.len().to_string().into(),
            exit.into(),
            node.into(),
            text(run, "endedAt").into(),
            why.into_iter()
                .find(|why| !why.is_empty())
                .unwrap_or_default()
                .into(),
        ]);
    }
    table.render(style, "")
}

/// When a job runs next.
pub(crate) fn when(job: &Value) -> String {
    match (text(job, "next"), job["disabled"].as_bool()) {
        (_, Some(true)) => format!("disabled {}", text(job, "disabledBecause")),
        (next, _) if next.is_empty() => "-".to_owned(),
        (next, _) => next,
    }
}

/// The task of a run that is under way, or that of its last attempt.
pub(crate) fn task_of(run: &Value) -> Option<&str> {
    let last = run["attempts"]
        .as_array()
        .and_then(|attempts| attempts.last());
    run["task"]["id"]
        .as_str()
        .or_else(|| last?["taskId"].as_str())
}

/// Parent and child of each edge.
pub(crate) fn edges(jobs: &[Value]) -> Vec<Value> {
    let of = |job: &Value| {
        let child = text(job, "name");
        let parents = job["parents"].as_array().cloned().unwrap_or_default();
        parents
            .into_iter()
            .map(move |parent| json!({"parent": parent, "child": child}))
    };
    jobs.iter().flat_map(of).collect()
}

/// `mezzo job graph`.
pub(crate) fn graph(jobs: &[Value]) -> String {
    let mut graph = String::from("digraph {\n");
    for job in jobs {
        graph.push_str(&format!("  \"{}\"\n", text(job, "name")));
    }
    for edge in edges(jobs) {
        graph.push_str(&format!(
            "  \"{}\" -> \"{}\"\n",
            text(&edge, "parent"),
            text(&edge, "child")
        ));
    }
    graph.push_str("}\n");
    graph
}

fn starts(job: &Value) -> String {
    let parents = job["parents"].as_array().cloned().unwrap_or_default();
    let parents: Vec<&str> = parents.iter().filter_map(Value::as_str).collect();
    match (text(job, "cron"), text(job, "schedule")) {
        (cron, _) if !cron.is_empty() => cron,
        (_, schedule) if !schedule.is_empty() => schedule,
        _ if parents.is_empty() => "on request".to_owned(),
        _ => clean(&format!("after {}", parents.join(", "))),
    }
}

fn tone(state: &str) -> Tone {
    match state {
        "success" | "succeeded" => Tone::Good,
        "failure" | "failed" => Tone::Bad,
        "skipped" | "missed" | "killed" | "replaced" | "fresh" => Tone::Faint,
        _ => Tone::Busy,
    }
}

fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            clean(&other.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_exit_codes_nodes_and_reasons() {
        let runs = [
            json!({"run": 2, "due": "2026-01-02T00:00:00.000Z", "state": "skipped", "attempts": [], "why": "run 1 was still under way"}),
            json!({"run": 1, "due": "2026-01-01T00:00:00.000Z", "state": "failed", "endedAt": "2026-01-01T00:01:00.000Z",
                   "attempts": [{"exitCode": 7, "host": "node1", "message": "exit code 7", "taskId": "t"}]}),
        ];
        let page = history(&runs, Style { colour: false });
        assert!(page.contains("run 1 was still under way"), "{page}");
        assert!(
            page.contains("failed") && page.contains("node1") && page.contains('7'),
            "{page}"
        );
        assert_eq!(task_of(&runs[1]), Some("t"));
        assert_eq!(task_of(&runs[0]), None);
    }

    #[test]
    fn a_list_says_what_starts_a_job_and_when() {
        let jobs = [
            json!({"name": "a", "cron": "@daily", "next": "2026-01-02T00:00:00.000Z", "status": "fresh", "state": "idle"}),
            json!({"name": "b", "parents": ["a"], "disabled": true, "disabledBecause": "on request"}),
        ];
        let page = list(&jobs, Style { colour: false });
        assert!(
            page.contains("@daily") && page.contains("2026-01-02T00:00:00.000Z"),
            "{page}"
        );
        assert!(
            page.contains("after a") && page.contains("disabled on request"),
            "{page}"
        );
        assert_eq!(
            graph(&jobs),
            "digraph {\n  \"a\"\n  \"b\"\n  \"a\" -> \"b\"\n}\n"
        );
    }
}
