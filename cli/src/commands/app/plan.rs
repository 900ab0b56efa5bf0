//! `--plan`: what a change would do, field by field and then step by step, and nothing happens.
//!
//! The steps are the scheduler's own dry run. The fields are compared here, both sides as the scheduler reads them; what it
//! gives by itself where a file says nothing (service ports, roles that a group enforces) is no difference.

use std::collections::BTreeMap;

use mezzo_scheduler::app::role::{with_default, without_old_default};
use mezzo_scheduler::app::{AppId, merge, parse_app};
use reqwest::Method;
use serde_json::Value;

use super::super::Context;
use super::diff::{self, Changes, changes, definition};
use super::get;
use crate::{
    client::scheduler::Scheduler,
    failure::Failure,
    render::{self, Style},
    view::app,
};

/// Prints a dry run's answer below the fields that would change.
pub(in crate::commands) fn emit(
    context: &Context,
    mut answer: Value,
    changes: &Changes,
) -> Result<(), Failure> {
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("changes".to_owned(), diff::as_json(changes));
    }
    context
        .output
        .emit(&answer, |style| both(changes, &answer, style))
}

fn both(changes: &Changes, answer: &Value, style: Style) -> String {
    let steps = render::app::plan(answer, style);
    match changes.is_empty() {
        true => steps,
        false => format!("{}\n{steps}", diff::show(changes, style)),
    }
}

/// An update of an app: `body` is laid over what is there.
pub(super) fn of_update(present: &Value, body: &Value) -> Result<Changes, Failure> {
    let present = definition(present)?;
    // What it accepts by default goes with its role.
    let base = match parse_app(&present, None) {
        (Some(app), _) => without_old_default(present.clone(), app.accepts, body),
        (None, _) => present.clone(),
    };
    let merged = definition(&merge(&base, body))?;
    Ok(without_given(changes(Some(&present), Some(&merged)), body))
}

/// A new app: what its file says.
pub(super) async fn add(
    context: &Context,
    scheduler: &Scheduler,
    id: &str,
    body: &Value,
    force: bool,
) -> Result<(), Failure> {
    match get(scheduler, id).await {
        Err(Failure::NotFound(_)) => {}
        Err(other) => return Err(other),
        Ok(_) => {
            return Err(Failure::failed(format!(
                "{id} is there already; `mezzo app update FILE --plan` shows what would change"
            )));
        }
    }
    let path = format!("/v2/apps{id}?dryRun=true&force={force}");
    let answer = scheduler
        .send(Method::PUT, &path, false, Some(body))
        .await?;
    emit(context, answer, &changes(None, Some(body)))
}

/// What a group's file would change about the apps that it names. `present` is the group as it is, if it is there.
pub(in crate::commands) fn of_group(
    id: &str,
    present: Option<&Value>,
    body: &Value,
) -> Result<Changes, Failure> {
    let mut there = BTreeMap::new();
    if let Some(present) = present {
        apps_in(id, present, &mut there);
    }
    let mut named = BTreeMap::new();
    apps_in(id, body, &mut named);
    let mut all = Changes::new();
    for (app, body) in named {
        let of_app = match there.get(&app) {
            Some(present) => {
                let (before, after) = (definition(present)?, definition(&like(present, &body))?);
                without_given(changes(Some(&before), Some(&after)), &body)
            }
            None => changes(None, Some(&body)),
        };
        let of_app = of_app.into_iter();
        all.extend(of_app.map(|(path, values)| (format!("{app}: {path}"), values)));
    }
    Ok(all)
}

/// The file's app in the role that it has, where the file names none: a group may have given it.
fn like(present: &Value, body: &Value) -> Value {
    let role = present.get("role").and_then(Value::as_str);
    match role.and_then(|role| role.parse().ok()) {
        Some(role) => with_default(body, &role),
        None => body.clone(),
    }
}

/// What scaling a group would change about the apps that are in it.
pub(in crate::commands) fn of_scale(id: &str, present: &Value, factor: f64) -> Changes {
    let mut there = BTreeMap::new();
    apps_in(id, present, &mut there);
    let mut all = Changes::new();
    // In millionths, as the scheduler reckons.
    let factor_ppm = (factor * 1e6).round() as u64;
    for (app, present) in there {
        let before = present.get("instances").and_then(Value::as_u64);
        let before = before.unwrap_or(1);
        let after = before.saturating_mul(factor_ppm).div_ceil(1_000_000);
        if before != after {
            let both = (Some(before.into()), Some(after.into()));
            all.insert(format!("{app}: /instances"), both);
        }
    }
    all
}

/// Every app of a group and of those in it, by its id, which each of them then has in full.
fn apps_in(id: &str, group: &Value, out: &mut BTreeMap<String, Value>) {
    for one in app::raw_list(group, "apps") {
        let name = one.get("id").and_then(Value::as_str).unwrap_or_default();
        // A path that is none is refused by the scheduler, with the rest that is wrong.
        let Ok(full) = AppId::resolve(name, id) else {
            continue;
        };
        let mut one = one.clone();
        if let Some(fields) = one.as_object_mut() {
            fields.insert("id".to_owned(), full.to_string().into());
        }
        out.insert(full.to_string(), one);
    }
    for child in app::raw_list(group, "groups") {
        let name = child.get("id").and_then(Value::as_str).unwrap_or_default();
        if let Ok(full) = AppId::resolve(name, id) {
            apps_in(full.as_str(), child, out);
        }
    }
}

/// Leaves out what the scheduler gives where `body` leaves it open: ports that it says are 0, and roles.
fn without_given(mut changes: Changes, body: &Value) -> Changes {
    changes.retain(|path, (_, after)| {
        let top = path.trim_start_matches('/').split(['/', '(']).next();
        let is_open = top.is_some_and(|top| body.get(top).is_none_or(Value::is_null));
        let gives_role = is_open && matches!(top, Some("role" | "acceptedResourceRoles"));
        let is_port =
            path.ends_with("/port") || path.ends_with("/servicePort") || top == Some("ports");
        let gives_port = is_port && after.as_ref().is_some_and(|after| *after == 0);
        !gives_role && !gives_port
    });
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Style = Style { colour: false };

    #[test]
    fn a_plan_has_the_fields_above_the_steps() {
        let present = json!({"id": "/a", "cpus": 0.1, "container": {"docker": {"image": "a:1"}}, "env": {"A": "1"},
            "portDefinitions": [{"port": 10001}], "tasksRunning": 3});
        let changes =
            of_update(&present, &json!({"cpus": 0.2, "env": {"A": "2"}})).expect("an app");
        let answer =
            json!({"steps": [{"actions": [{"action": "RestartApplication", "app": "/a"}]}]});
        insta::assert_snapshot!(both(&changes, &answer, PLAIN), @r#"
        - /cpus: 0.1
        + /cpus: 0.2
        - /env/A: "1"
        + /env/A: "2"

        STEP  DOES                APP
           1  RestartApplication  /a
        "#);
        let nothing = of_update(&present, &json!({})).expect("an app");
        assert_eq!(
            both(&nothing, &json!({"steps": []}), PLAIN),
            "nothing would change\n"
        );
    }

    #[test]
    fn an_app_may_change_its_role_in_a_plan() {
        let present = json!({"id": "/dev/a", "container": {"docker": {"image": "a:1"}}, "role": "*",
            "acceptedResourceRoles": ["*"]});
        let changes = of_update(&present, &json!({"role": "dev"})).expect("an app");
        let both = (Some(json!("*")), Some(json!("dev")));
        assert_eq!(changes.get("/role"), Some(&both));
    }

    #[test]
    fn a_groups_plan_names_the_app_of_each_field() {
        let image = json!({"docker": {"image": "a:1"}});
        let present = json!({"id": "/shop", "groups": [{"id": "/shop/web", "apps": [
            {"id": "/shop/web/front", "instances": 2, "role": "shop", "portDefinitions": [{"port": 10007}], "container": image}]}]});
        let file = json!({"id": "/shop", "groups": [{"id": "web", "apps": [
            {"id": "front", "instances": 3, "container": image}, {"id": "new", "cmd": "serve"}]}]});
        let changes = of_group("/shop", Some(&present), &file).expect("apps");
        insta::assert_snapshot!(diff::show(&changes, PLAIN), @r#"
        - /shop/web/front: /instances: 2
        + /shop/web/front: /instances: 3
        + /shop/web/new: /cmd: "serve"
        + /shop/web/new: /id: "/shop/web/new"
        "#);
        let scaled = of_scale("/shop", &present, 1.5);
        let both = (Some(json!(2)), Some(json!(3)));
        assert_eq!(scaled.get("/shop/web/front: /instances"), Some(&both));
        assert!(of_scale("/shop", &present, 1.0).is_empty());
    }
}
