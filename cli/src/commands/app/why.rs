//! `mezzo app why ID`: what an app waits for, and the latest offers that were not enough for it.

use serde_json::{Value, json};

use super::get;
use crate::{
    client::scheduler::Scheduler,
    commands::Context,
    failure::Failure,
    render,
    view::app::{self, App, Deployment, QueueItem},
};

pub(super) async fn run(context: &Context, scheduler: &Scheduler, id: &str) -> Result<(), Failure> {
    let present = get(scheduler, id).await?;
    let queue = scheduler.get("/v2/queue?embed=lastUnusedOffers").await?;
    let deployments = scheduler.get("/v2/deployments").await?;
    let is_mine = |entry: &&Value| entry.pointer("/app/id").and_then(Value::as_str) == Some(id);
    let waiting = app::raw_list(&queue, "queue").iter().find(is_mine);
    let affects = |one: &&Value| {
        let affected = one.get("affectedApps").and_then(Value::as_array);
        affected.is_some_and(|apps| apps.iter().any(|app| app.as_str() == Some(id)))
    };
    let deployment = app::raw_list(&deployments, "deployments")
        .iter()
        .find(affects);
    let answer = json!({"id": id, "queue": waiting, "deployment": deployment});
    context.output.emit(&answer, |style| {
        let one: App = app::one(&present);
        let waiting: Option<QueueItem> = waiting.map(app::one);
        let deployment: Option<Deployment> = deployment.map(app::one);
        render::why::why(&one, waiting.as_ref(), deployment.as_ref(), style)
    })
}
