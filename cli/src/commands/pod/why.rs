//! `mezzo pod why ID`: what a pod waits for, and the latest offers that were not enough for it; as `mezzo app why`.

use serde_json::{Value, json};

use super::get;
use crate::{
    client::scheduler::Scheduler,
    commands::Context,
    failure::Failure,
    render,
    view::{
        app::{self, Deployment, QueueItem},
        pod::PodStatus,
    },
};

pub(super) async fn run(context: &Context, scheduler: &Scheduler, id: &str) -> Result<(), Failure> {
    let status = get(scheduler, id, "::status").await?;
    let queue = scheduler.get("/v2/queue?embed=lastUnusedOffers").await?;
    let deployments = scheduler.get("/v2/deployments").await?;
    let is_mine = |entry: &&Value| entry.pointer("/pod/id").and_then(Value::as_str) == Some(id);
    let waiting = app::raw_list(&queue, "queue").iter().find(is_mine);
    let deployment = app::raw_list(&deployments, "deployments")
        .iter()
        .find(|one| super::affects(one, id));
    let answer = json!({"id": id, "queue": waiting, "deployment": deployment});
    context.output.emit(&answer, |style| {
        let waiting: Option<QueueItem> = waiting.map(app::one);
        let deployment: Option<Deployment> = deployment.map(app::one);
        let pod = PodStatus::of(&status);
        render::why::why_pod(&pod, waiting.as_ref(), deployment.as_ref(), style)
    })
}
