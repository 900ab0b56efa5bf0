//! `mezzo task …`: found through the master, then asked of the node that runs them.

use std::collections::BTreeMap;

use mezzo_api::proto;
use serde_json::json;

use super::{Context, attach, copy, exec, now_ms, stats};
use crate::{
    args::task::{KillArgs, LimitArgs, ListArgs, LogArgs, TaskCommand},
    client::{
        master::{Master, TaskFilter},
        node::Node,
    },
    failure::Failure,
    output::{eprint_bytes, print_bytes, say},
    render, request,
    view::{Task, Usage},
};

pub(crate) async fn run(context: &Context, command: TaskCommand) -> Result<(), Failure> {
    let mut master = context.master().await?;
    match command {
        TaskCommand::List(args) => list(context, &mut master, &args).await,
        TaskCommand::Show(args) => show(context, &mut master, &args.task).await,
        TaskCommand::Log(args) => log(&mut master, &args).await,
        TaskCommand::Attach(args) => attach::run(&mut master, &args).await,
        TaskCommand::Cp(args) => copy::run(context, &mut master, &args).await,
        TaskCommand::Exec(args) => {
            let request = exec::Request::new(&args)?;
            let found = find(&mut master, &args.task).await?;
            let mut node = found.node().await?;
            exec::run(&mut node, &found.task.id, request).await
        }
        TaskCommand::Stats(args) => stats::run_stats(context, &mut master, &args).await,
        TaskCommand::Limit(args) => limit(context, &mut master, &args).await,
        TaskCommand::Kill(args) => kill(context, &mut master, &args).await,
    }
}

/// A task and where to ask for it.
struct Found {
    task: Task,
    address: String,
}

impl Found {
    /// Takes what the task's own node says of it.
    fn renew(&mut self, tasks: &[proto::Task]) {
        let own = tasks.iter().find(|task| {
            let id = task.info.as_ref().map(|info| info.task_id.as_str());
            id == Some(&self.task.id) && task.framework_id == self.task.framework_id
        });
        if let Some(task) = own {
            self.task = Task::new(task, &self.task.node);
        }
    }

    async fn node(&self) -> Result<Node, Failure> {
        if self.address.is_empty() {
            return Err(Failure::failed(format!(
                "the node of task {} ({}) is not known to the master any more",
                self.task.id, self.task.agent_id
            )));
        }
        Node::connect(&self.address).await
    }
}

/// Host names and addresses of agents by their id.
pub(crate) async fn agents(
    master: &mut Master,
) -> Result<BTreeMap<String, (String, String)>, Failure> {
    let agents = master
        .agents(&proto::ListAgentsRequest::default())
        .await?
        .into_iter();
    let named = agents.map(|agent| {
        let info = agent.info.unwrap_or_default();
        (agent.agent_id, (info.hostname, info.address))
    });
    Ok(named.collect())
}

/// Tasks with the host names of their nodes, in the order of their ids.
pub(crate) async fn tasks(master: &mut Master, filter: &TaskFilter) -> Result<Vec<Task>, Failure> {
    let agents = agents(master).await?;
    let tasks = master.tasks(filter).await?;
    let mut tasks: Vec<Task> = tasks
        .iter()
        .map(|task| {
            let agent_id = task.info.as_ref().map_or("", |info| info.agent_id.as_str());
            Task::new(
                task,
                agents.get(agent_id).map_or("", |(hostname, _)| hostname),
            )
        })
        .collect();
    tasks.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(tasks)
}

/// The task that a text names, without the way to its node.
pub(crate) async fn find_task(master: &mut Master, text: &str) -> Result<Task, Failure> {
    Ok(find(master, text).await?.task)
}

/// The task that a text names, and its node.
pub(crate) async fn find_node(master: &mut Master, text: &str) -> Result<(Task, Node), Failure> {
    let found = find(master, text).await?;
    let node = found.node().await?;
    Ok((found.task, node))
}

/// The task that an id or the beginning of one names; live ones win over ended ones.
async fn find(master: &mut Master, text: &str) -> Result<Found, Failure> {
    let filter = TaskFilter {
        include_ended: true,
        ..TaskFilter::default()
    };
    let all = tasks(master, &filter).await?;
    let live = all
        .iter()
        .filter(|task| task.is_live())
        .map(|task| task.id.as_str());
    let id = match request::resolve("task", text, live) {
        Err(Failure::NotFound(_)) => {
            request::resolve("task", text, all.iter().map(|task| task.id.as_str()))?
        }
        other => other?,
    };
    let task = all
        .iter()
        .find(|task| task.id == id)
        .cloned()
        .unwrap_or_default();
    let agents = agents(master).await?;
    let address = agents
        .get(&task.agent_id)
        .map(|(_, address)| address.clone())
        .unwrap_or_default();
    Ok(Found { task, address })
}

async fn list(context: &Context, master: &mut Master, args: &ListArgs) -> Result<(), Failure> {
    let app = args.app.as_deref().map(request::app_id).transpose()?;
    let mut filter = TaskFilter {
        include_ended: args.all,
        ..TaskFilter::default()
    };
    if let Some(framework) = &args.framework {
        filter.framework_id = super::cluster::find_framework(master, framework).await?.id;
    }
    if let Some(node) = &args.node {
        filter.agent_id = master.agent(node).await?.agent_id;
    }
    let mut tasks = tasks(master, &filter).await?;
    if let Some(app) = app {
        let prefix = request::task_prefix(&app);
        tasks.retain(|task| task.id.starts_with(&prefix));
    }
    if !args.all {
        tasks.retain(Task::is_live);
    }
    context
        .output
        .emit(&tasks, |style| render::task::list(&tasks, now_ms(), style))
}

async fn show(context: &Context, master: &mut Master, text: &str) -> Result<(), Failure> {
    let mut found = find(master, text).await?;
    if found.task.state == "TASK_RUNNING" {
        // The master's sample may be seconds old; the node takes a new one. It may be away: then the old one stays.
        let fresh = match found.node().await {
            Ok(mut node) => {
                // Limits may have been changed there, and the master hears of it when the agent registers again.
                if let Ok(here) = node.describe().await {
                    found.renew(&here.tasks);
                }
                node.usage(&found.task.id).await.unwrap_or_default()
            }
            Err(_) => None,
        };
        if let Some(usage) = fresh {
            found.task.usage = Some(Usage::from(&usage));
        }
    }
    context.output.emit(&found.task, |style| {
        render::task::show(&found.task, now_ms(), style)
    })
}

async fn limit(context: &Context, master: &mut Master, args: &LimitArgs) -> Result<(), Failure> {
    let mut request = request::limits::change(args)?;
    let found = find(master, &args.task).await?;
    request.task_id.clone_from(&found.task.id);
    request.framework_id.clone_from(&found.task.framework_id);
    let mut node = found.node().await?;
    let task = Task::new(&node.update_task(request).await?, &found.task.node);
    context
        .output
        .emit(&task, |_| render::task::limits_changed(&task))
}

pub(super) async fn log(master: &mut Master, args: &LogArgs) -> Result<(), Failure> {
    let found = find(master, &args.task).await?;
    let mut node = found.node().await?;
    let stream = match (args.stdout, args.stderr) {
        (true, _) => proto::LogStream::Stdout,
        (false, true) => proto::LogStream::Stderr,
        (false, false) => proto::LogStream::Unspecified,
    };
    let since = args
        .since
        .as_deref()
        .map(|text| request::duration("--since", text))
        .transpose()?;
    // By this machine's clock; the node's may differ.
    let since_ms = since
        .map(|since| now_ms().saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)));
    let request = proto::ReadLogRequest {
        task_id: found.task.id.clone(),
        stream: stream.into(),
        tail_lines: args.tail,
        follow: args.follow,
        since_ms,
    };
    print_log(&mut node, request).await
}

/// Prints what comes, until its end.
pub(super) async fn print_log(
    node: &mut Node,
    request: proto::ReadLogRequest,
) -> Result<(), Failure> {
    let mut chunks = node.log(request).await?;
    while let Some(chunk) = chunks
        .message()
        .await
        .map_err(|status| node.refused(&status))?
    {
        print_chunk(&chunk)?;
    }
    Ok(())
}

pub(super) fn print_chunk(chunk: &proto::LogChunk) -> Result<(), Failure> {
    if chunk.gap {
        say("[output is missing here: it was rotated away before it could be read]");
    }
    match chunk.stream() {
        proto::LogStream::Stderr => eprint_bytes(&chunk.data),
        proto::LogStream::Stdout | proto::LogStream::Unspecified => print_bytes(&chunk.data),
    }
}

async fn kill(context: &Context, master: &mut Master, args: &KillArgs) -> Result<(), Failure> {
    let grace = args
        .grace
        .as_deref()
        .map(|text| request::duration("--grace", text))
        .transpose()?;
    let grace_ms = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    // All names are resolved before the first is killed.
    let mut found = Vec::new();
    for text in &args.tasks {
        found.push(find(master, text).await?.task);
    }
    if let Some(ended) = found.iter().find(|task| !task.is_live()) {
        return Err(Failure::failed(format!(
            "task {} has ended already ({})",
            ended.id,
            ended.short_state()
        )));
    }
    for task in &found {
        master
            .kill_task(&task.framework_id, &task.id, grace_ms)
            .await?;
    }
    let ids: Vec<String> = found.into_iter().map(|task| task.id).collect();
    context
        .output
        .done(&json!({ "killing": ids }), &render::task::killed(&ids))
}
