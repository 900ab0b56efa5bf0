//! `mezzo pod wipe`: instances of a pod with persistent volumes end and give back what they kept; new ones begin empty.
//!
//! As `mezzo app wipe`: there is no way back, so without `--yes` nothing is asked for.

use reqwest::Method;
use serde_json::Value;

use super::super::{Context, app::wipe::encoded};
use super::{get, no_pod};
use crate::{
    args::pod::WipeArgs,
    client::scheduler::Scheduler,
    failure::Failure,
    render::{self, clean},
    request,
};

pub(super) async fn run(
    context: &Context,
    scheduler: &Scheduler,
    args: &WipeArgs,
) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    if !is_resident(&get(scheduler, &id, "").await?) {
        return Err(Failure::usage(format!(
            "{id} has no persistent volumes, so there is nothing to wipe; `mezzo pod kill` replaces an instance"
        )));
    }
    let whose = match &args.instance {
        Some(instance) => format!("what {} keeps", clean(instance)),
        None => format!("everything that instances of {id} keep"),
    };
    if !args.yes {
        return Err(Failure::usage(format!(
            "this ends them and removes {whose}, with all that is in it; say --yes if that is meant"
        )));
    }
    let path = path(&id, args.instance.as_deref());
    let answer = scheduler.send(Method::DELETE, &path, false, None).await;
    let answer = match &args.instance {
        Some(_) => answer?,
        None => answer.map_err(|failure| no_pod(failure, &id))?,
    };
    let ended = answer.as_array().map_or(1, Vec::len);
    let sentence = format!(
        "{id}: {} told to end, {whose} is given back; new ones begin empty",
        render::count(ended, "instance")
    );
    context.output.done(&answer, &sentence)
}

/// What the scheduler is asked for.
fn path(id: &str, instance: Option<&str>) -> String {
    match instance {
        Some(one) => format!("/v2/pods{id}::instances/{}?wipe=true", encoded(one)),
        None => format!("/v2/pods{id}::instances?wipe=true"),
    }
}

fn is_resident(pod: &Value) -> bool {
    let volumes = pod.get("volumes").and_then(Value::as_array);
    volumes.is_some_and(|all| all.iter().any(|volume| volume.get("persistent").is_some()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_are_wiped_or_one_and_only_where_something_is_kept() {
        assert_eq!(path("/db", None), "/v2/pods/db::instances?wipe=true");
        assert_eq!(
            path("/db", Some("db.instance-1/x")),
            "/v2/pods/db::instances/db.instance-1%2Fx?wipe=true"
        );
        let with = |volume: Value| json!({ "volumes": [volume] });
        assert!(is_resident(&with(
            json!({"name": "d", "persistent": {"size": 1}})
        )));
        assert!(!is_resident(&with(json!({"name": "d", "host": "/srv"}))));
        assert!(!is_resident(&json!({})));
    }
}
