//! `mezzo app diff`: what a file or a version would change about an app, field by field.
//!
//! Both sides are read as the scheduler reads them and written out again, so that a default that one side spells out is no
//! difference, and what only the server says (tasks, counts, versions) is on neither. What a file changes is reckoned as for
//! `--plan`, in `plan.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::super::Context;
use super::{check_changes, get, plan, read_file};
use crate::{
    args::app::DiffArgs,
    client::scheduler::Scheduler,
    failure::Failure,
    render::{Style, Tone, clean},
    request,
};

pub(super) async fn run(
    context: &Context,
    scheduler: &Scheduler,
    args: &DiffArgs,
) -> Result<(), Failure> {
    let changes = if let Some(version) = &args.version {
        let id = request::app_id(&args.target)?;
        let present = definition(&get(scheduler, &id).await?)?;
        let path = format!("/v2/apps{id}/versions/{}", clean(version));
        let version = definition(&scheduler.get(&path).await?)?;
        changes(Some(&present), Some(&version))
    } else {
        let file = Path::new(&args.target);
        let body = read_file(file)?;
        let name = file.display().to_string();
        let id = body.get("id").and_then(Value::as_str);
        let id =
            id.ok_or_else(|| Failure::usage(format!("{name}: /id: the app's id is missing")))?;
        let id = request::app_id(id)?;
        check_changes(&name, &id, &body)?;
        // What the file does not name stays.
        plan::of_update(&get(scheduler, &id).await?, &body)?
    };
    context
        .output
        .emit(&as_json(&changes), |style| show(&changes, style))
}

/// For programs: a list of `path`, `before`, `after`.
pub(super) fn as_json(changes: &Changes) -> Value {
    let list = changes
        .iter()
        .map(|(path, (before, after))| json!({"path": path, "before": before, "after": after}));
    list.collect()
}

/// The app as the scheduler understands it, without what only the server says.
pub(super) fn definition(app: &Value) -> Result<Value, Failure> {
    let (read, report) = mezzo_scheduler::app::parse_app(app, None);
    read.map(|app| app.to_json()).ok_or_else(|| {
        let problems = report.errors.iter();
        let lines: Vec<String> = problems
            .map(|problem| clean(&format!("  {}: {}", problem.path, problem.message)))
            .collect();
        Failure::usage(format!("not a valid app:\n{}", lines.join("\n")))
    })
}

/// Values before and after by their path.
pub(super) type Changes = BTreeMap<String, (Option<Value>, Option<Value>)>;

/// Every path whose value differs, with both values; what is not there has none.
pub(super) fn changes(before: Option<&Value>, after: Option<&Value>) -> Changes {
    let (mut was, mut is) = (BTreeMap::new(), BTreeMap::new());
    for (value, into) in [(before, &mut was), (after, &mut is)] {
        if let Some(value) = value {
            flatten("", value, into);
        }
    }
    let mut changes = Changes::new();
    for (path, value) in &was {
        if is.get(path) != Some(value) {
            let after = is.get(path).cloned();
            changes.insert(path.clone(), (Some(value.clone()), after));
        }
    }
    for (path, value) in is {
        if !was.contains_key(&path) {
            changes.insert(path, (None, Some(value)));
        }
    }
    changes
}

/// The leaves by their paths; what is empty is a leaf, too.
fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                flatten(&format!("{path}/{name}"), value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, value) in items.iter().enumerate() {
                flatten(&format!("{path}({i})"), value, out);
            }
        }
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            out.insert(path.to_owned(), value.clone());
        }
    }
}

pub(super) fn show(changes: &Changes, style: Style) -> String {
    if changes.is_empty() {
        return "nothing would change\n".to_owned();
    }
    let mut text = String::new();
    for (path, (before, after)) in changes {
        for (sign, tone, value) in [("-", Tone::Bad, before), ("+", Tone::Good, after)] {
            if let Some(value) = value {
                let line = clean(&format!("{sign} {path}: {value}"));
                text.push_str(&style.paint(tone, &line));
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_shown_whatever_is_spelled_out() {
        let before = json!({"id": "/a", "container": {"docker": {"image": "x:1"}}, "env": {"A": "1", "B": "2"}});
        let after = json!({"id": "/a", "cpus": 1, "container": {"docker": {"image": "x:2"}}, "env": {"B": "2", "C": "3"}});
        let changes = changes(
            Some(&definition(&before).expect("an app")),
            Some(&definition(&after).expect("an app")),
        );
        insta::assert_snapshot!(show(&changes, Style { colour: false }), @r#"
        - /container/docker/image: "x:1"
        + /container/docker/image: "x:2"
        - /env/A: "1"
        + /env/C: "3"
        "#);
    }

    #[test]
    fn equal_apps_have_no_difference() {
        let app = json!({"id": "/a", "container": {"docker": {"image": "x:1"}}});
        let app = definition(&app).expect("an app");
        assert_eq!(
            show(&changes(Some(&app), Some(&app)), Style { colour: false }),
            "nothing would change\n"
        );
    }

    /// An update with one field, of everything that an app has.
    #[test]
    fn a_field_that_alone_differs_is_shown() {
        let present = json!({"id": "/dev/a", "container": {"docker": {"image": "x:1"}}, "role": "*", "acceptedResourceRoles": ["*"],
            "version": "v", "tasksRunning": 3, "portDefinitions": [{"port": 10001}], "requirePorts": false});
        let check = json!({"protocol": "TCP", "portIndex": 0});
        let readiness = json!({"protocol": "HTTP", "path": "/", "portName": "http"});
        let fields = json!({
            "cmd": "sleep 1", "args": ["1"], "cpus": 2, "mem": 64, "disk": 10, "gpus": 1, "instances": 3,
            "container": {"docker": {"image": "x:2"}}, "env": {"A": "1"}, "labels": {"a": "b"},
            "portDefinitions": [{"port": 10002}], "networks": [{"mode": "container/bridge"}], "requirePorts": true,
            "healthChecks": [check], "readinessChecks": [readiness], "check": {"tcp": {"port": 80}}, "upgradeStrategy": {"minimumHealthCapacity": 0.5},
            "backoffSeconds": 2, "backoffFactor": 2, "maxLaunchDelaySeconds": 10, "taskKillGracePeriodSeconds": 7,
            "killSelection": "OLDEST_FIRST", "user": "nobody", "unreachableStrategy": "disabled",
            "constraints": [["hostname", "UNIQUE"]], "placement": "bestFit", "dependencies": ["/dev/b"],
            "resourceLimits": {"cpus": 4}, "revocable": true, "role": "dev", "secrets": {"s": {"source": "s"}},
            "fetch": [{"uri": "http://h/f"}],
        });
        for (name, value) in fields.as_object().expect("fields") {
            let mut present = present.clone();
            match name.as_str() {
                "readinessChecks" => {
                    present["portDefinitions"] = json!([{"port": 10001, "name": "http"}]);
                }
                "revocable" => present["portDefinitions"] = json!([]),
                _ => {}
            }
            let changes = plan::of_update(&present, &json!({name: value}));
            let changes = changes.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            let top = format!("/{name}");
            assert!(
                changes.keys().any(|path| path.starts_with(&top)),
                "{name}: {changes:?}"
            );
        }
    }

    #[test]
    fn an_app_may_leave_its_role_and_what_was_reserved_for_it() {
        for (was, accepted) in [("*", json!(["*"])), ("dev", json!(["*", "dev"]))] {
            let present = json!({"id": "/ops/a", "container": {"docker": {"image": "x:1"}}, "role": was,
                "acceptedResourceRoles": accepted});
            let changes = plan::of_update(&present, &json!({"role": "ops"})).expect("an app");
            let both = (Some(json!(was)), Some(json!("ops")));
            assert_eq!(changes.get("/role"), Some(&both), "{changes:?}");
        }
    }
}
