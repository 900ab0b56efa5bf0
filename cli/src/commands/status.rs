//! `mezzo status`: asks the master and the scheduler at once and shows what fails first.

use mezzo_api::proto;
use serde_json::Value;

use super::{Context, now_ms};
use crate::{
    client::scheduler::Scheduler,
    failure::Failure,
    render::{self, status::Status},
    view::{
        Cluster, Framework, Node,
        app::{self, App, Deployment, QueueItem},
        problems::{self, Seen},
    },
};

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let (cluster, services) = tokio::join!(cluster(context), services(&context.servers.scheduler));
    let (cluster, nodes, frameworks) = cluster?;
    // A cluster may run without this scheduler: its absence is a problem to show, not a reason to show nothing.
    let (services, scheduler_error) = match services {
        Ok(services) => (services, None),
        Err(failure) => (Services::default(), Some(failure.to_string())),
    };
    let seen = Seen {
        nodes: &nodes,
        frameworks: &frameworks,
        apps: &services.apps,
        deployments: &services.deployments,
        queue: &services.queue,
        scheduler_error: scheduler_error.as_deref(),
    };
    let problems = problems::find(&seen);
    let status = Status {
        cluster,
        nodes,
        frameworks,
        apps: services.apps,
        problems,
    };
    context.output.emit(&status, |style| {
        render::status::status(&status, &context.servers.master, now_ms(), style)
    })
}

async fn cluster(context: &Context) -> Result<(Cluster, Vec<Node>, Vec<Framework>), Failure> {
    let mut master = context.master().await?;
    let cluster = Cluster::from(&master.cluster().await?);
    let nodes = master
        .agents(&proto::ListAgentsRequest::default())
        .await?
        .iter()
        .map(Node::from)
        .collect();
    let frameworks = master
        .frameworks(&proto::ListFrameworksRequest::default())
        .await?
        .iter()
        .map(Framework::from)
        .collect();
    Ok((cluster, nodes, frameworks))
}

#[derive(Debug, Default)]
struct Services {
    apps: Vec<App>,
    deployments: Vec<Deployment>,
    queue: Vec<QueueItem>,
}

async fn services(url: &str) -> Result<Services, Failure> {
    let scheduler = Scheduler::new(url)?;
    let apps = "/v2/apps?embed=apps.counts&embed=apps.deployments&embed=apps.lastTaskFailure";
    let (apps, deployments, queue) = tokio::join!(
        scheduler.get(apps),
        scheduler.get("/v2/deployments"),
        scheduler.get("/v2/queue")
    );
    let mut apps: Vec<App> = app::list(&apps?, "apps");
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    let list = |answer: Result<Value, Failure>| answer.unwrap_or_default();
    Ok(Services {
        apps,
        deployments: app::list(&list(deployments), "deployments"),
        queue: app::list(&list(queue), "queue"),
    })
}
