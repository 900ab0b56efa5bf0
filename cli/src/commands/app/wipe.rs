//! `mezzo app wipe`: instances of an app with persistent volumes end and give back what they kept; new ones begin empty.
//!
//! Marathon's `DELETE /v2/apps/ID/tasks?wipe=true`, which has no way back: without `--yes` nothing is asked for.

use reqwest::Method;
use serde_json::Value;

use super::super::Context;
use super::get;
use crate::{
    args::app::WipeArgs,
    client::scheduler::Scheduler,
    failure::Failure,
    render::{self, clean},
    request,
    view::app,
};

pub(super) async fn run(
    context: &Context,
    scheduler: &Scheduler,
    args: &WipeArgs,
) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    let present = get(scheduler, &id).await?;
    if !is_resident(&present) {
        return Err(Failure::usage(format!(
            "{id} has no persistent volumes, so there is nothing to wipe; `mezzo app restart {}` replaces its instances",
            id.trim_start_matches('/')
        )));
    }
    let whose = match (&args.task, &args.host) {
        (Some(task), _) => format!("what {} keeps", clean(task)),
        (None, Some(host)) => format!("what the instances of {id} on {} keep", clean(host)),
        (None, None) => format!("everything that instances of {id} keep"),
    };
    if !args.yes {
        return Err(Failure::usage(format!(
            "this ends them and removes {whose}, with all that is in it; say --yes if that is meant"
        )));
    }
    let path = path(&id, args);
    let answer = scheduler.send(Method::DELETE, &path, false, None).await?;
    let ended = match answer.get("task") {
        Some(task) => usize::from(!task.is_null()),
        None => app::raw_list(&answer, "tasks").len(),
    };
    let sentence = format!(
        "{id}: {} told to end, {whose} is given back; new ones begin empty",
        render::count(ended, "instance")
    );
    context.output.done(&answer, &sentence)
}

/// What the scheduler is asked for.
fn path(id: &str, args: &WipeArgs) -> String {
    let path = match (&args.task, &args.host) {
        (Some(task), _) => format!("/v2/apps{id}/tasks/{}?wipe=true", encoded(task)),
        (None, Some(host)) => format!("/v2/apps{id}/tasks?wipe=true&host={}", encoded(host)),
        (None, None) => format!("/v2/apps{id}/tasks?wipe=true"),
    };
    if args.force {
        path + "&force=true"
    } else {
        path
    }
}

/// As a part of a path, or the value of a query.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn is_resident(app: &Value) -> bool {
    let volumes = app.pointer("/container/volumes").and_then(Value::as_array);
    volumes.is_some_and(|all| all.iter().any(|volume| volume.get("persistent").is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(task: Option<&str>, host: Option<&str>) -> WipeArgs {
        WipeArgs {
            id: "db".into(),
            task: task.map(str::to_owned),
            host: host.map(str::to_owned),
            yes: true,
            force: false,
        }
    }

    #[test]
    fn all_are_wiped_or_those_of_a_host_or_one() {
        assert_eq!(
            path("/db", &args(None, None)),
            "/v2/apps/db/tasks?wipe=true"
        );
        assert_eq!(
            path("/a/db", &args(None, Some("node 1"))),
            "/v2/apps/a/db/tasks?wipe=true&host=node%201"
        );
        assert_eq!(
            path("/db", &args(Some("db.instance-1/x"), None)),
            "/v2/apps/db/tasks/db.instance-1%2Fx?wipe=true"
        );
    }

    #[test]
    fn only_apps_with_persistent_volumes_have_something_to_wipe() {
        let with = |volume: Value| json!({"container": {"volumes": [volume]}});
        assert!(is_resident(&with(json!({"persistent": {"size": 1}}))));
        assert!(!is_resident(&with(json!({"hostPath": "/srv"}))));
        assert!(!is_resident(&json!({"container": {}})));
    }
}
