//! `mezzo deployment …`: changes under way, through the scheduler's REST API.

use reqwest::Method;
use serde_json::Value;

use super::Context;
use crate::{
    args::app::DeploymentCommand,
    client::scheduler::Scheduler,
    failure::Failure,
    render, request,
    view::app::{self, Deployment},
};

pub(crate) async fn run(context: &Context, command: DeploymentCommand) -> Result<(), Failure> {
    let scheduler = Scheduler::new(&context.servers.scheduler)?;
    let answer = scheduler.get("/v2/deployments").await?;
    let raw = app::raw_list(&answer, "deployments");
    let ids = || {
        raw.iter()
            .filter_map(|one| one.get("id").and_then(Value::as_str))
    };
    match command {
        DeploymentCommand::List => {
            let deployments: Vec<Deployment> = app::list(&answer, "deployments");
            context
                .output
                .emit(&raw, |style| render::app::deployments(&deployments, style))
        }
        DeploymentCommand::Show(args) => {
            let id = request::resolve("deployment", &args.id, ids())?;
            let value = raw
                .iter()
                .find(|one| one.get("id").and_then(Value::as_str) == Some(id));
            let value = value.cloned().unwrap_or_default();
            let deployment: Deployment = app::one(&value);
            context.output.emit(&value, |style| {
                render::app::deployments(&[deployment], style)
            })
        }
        DeploymentCommand::Promote(args) => {
            let id = request::resolve("deployment", &args.id, ids())?;
            let path = format!("/v2/deployments/{id}/promote");
            let answer = scheduler.send(Method::POST, &path, false, None).await?;
            context
                .output
                .done(&answer, &format!("deployment {id}: going on"))
        }
        DeploymentCommand::Cancel(args) => {
            let id = request::resolve("deployment", &args.id, ids())?;
            let answer = scheduler
                .send(
                    Method::DELETE,
                    &format!("/v2/deployments/{id}"),
                    args.force,
                    None,
                )
                .await?;
            let what = if args.force {
                "stopped where it stood"
            } else {
                "rolling back"
            };
            context
                .output
                .done(&answer, &format!("deployment {id}: {what}"))
        }
    }
}
