//! `mezzo node|framework|role …`, through the master's operator API.

use mezzo_api::proto;
use serde_json::json;

use super::{Context, now_ms, operating, task};
use crate::{
    args::cluster::{
        FrameworkCommand, NodeCommand, NodeListArgs, NodeState, QuotaCommand, RoleCommand,
    },
    client::master::{Master, TaskFilter},
    failure::Failure,
    render, request,
    view::{Capacity, Framework, Node, Role, sharing::Explanation},
};

/// How long a node may take to say what it has.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(3);

pub(crate) async fn node(context: &Context, command: NodeCommand) -> Result<(), Failure> {
    let mut master = context.master().await?;
    match command {
        NodeCommand::List(args) => {
            let agents = master.agents(&wanted_nodes(&args)).await?;
            let mut nodes: Vec<Node> = agents.iter().map(Node::from).collect();
            nodes.sort_by(|a, b| (&a.hostname, &a.id).cmp(&(&b.hostname, &b.id)));
            context
                .output
                .emit(&nodes, |style| render::cluster::nodes(&nodes, style))
        }
        NodeCommand::Show(args) => {
            let mut node = Node::from(&master.agent(&args.node).await?);
            // The rest is known without it.
            let asked = async {
                let mut agent = crate::client::node::Node::connect(&node.address).await?;
                agent.describe().await
            };
            if let Ok(Ok(told)) = tokio::time::timeout(ANSWER, asked).await {
                node.capacity = told.capacity.as_ref().map(Capacity::from);
            }
            let filter = TaskFilter {
                agent_id: node.id.clone(),
                ..TaskFilter::default()
            };
            let tasks = task::tasks(&mut master, &filter).await?;
            context.output.emit(&node, |style| {
                render::cluster::node(&node, &tasks, now_ms(), style)
            })
        }
        NodeCommand::Drain(args) => {
            let deadline = args
                .deadline
                .as_deref()
                .map(|text| request::duration("--deadline", text))
                .transpose()?;
            let node = Node::from(&master.agent(&args.node).await?);
            master
                .drain_agent(&node.id, deadline, args.mark_gone)
                .await?;
            let tasks = render::count(node.tasks as usize, "task");
            context.output.done(
                &json!({ "draining": node.id, "tasks": node.tasks }),
                &format!(
                    "node {} drains, {tasks} to end; `mezzo node show` tells how far it is",
                    render::clean(&node.hostname)
                ),
            )
        }
        NodeCommand::Maintenance(command) => {
            operating::maintenance(context, &mut master, command).await
        }
        NodeCommand::Deactivate(args) => {
            let node = Node::from(&master.agent(&args.node).await?);
            master.deactivate_agent(&node.id).await?;
            let tasks = render::count(node.tasks as usize, "task");
            context.output.done(
                &json!({ "deactivated": node.id, "tasks": node.tasks }),
                &format!(
                    "nothing more starts on node {}; {tasks} there {} on",
                    render::clean(&node.hostname),
                    if node.tasks == 1 { "runs" } else { "run" }
                ),
            )
        }
        NodeCommand::Activate(args) => {
            let node = Node::from(&master.agent(&args.node).await?);
            master.activate_agent(&node.id).await?;
            context.output.done(
                &json!({ "activated": node.id }),
                &format!("node {} is in service", render::clean(&node.hostname)),
            )
        }
        NodeCommand::Reserve(args) => super::volume::reserve(context, &mut master, &args).await,
        NodeCommand::Unreserve(args) => super::volume::unreserve(context, &mut master, &args).await,
        NodeCommand::Remove(args) => {
            let node = Node::from(&master.agent(&args.node).await?);
            if !args.yes {
                return Err(Failure::usage(format!(
                    "this forgets node {} ({}, {}), and {} on it count as lost; say --yes if that is meant",
                    render::clean(&node.hostname),
                    node.id,
                    node.state,
                    render::count(node.tasks as usize, "task"),
                )));
            }
            master.remove_agent(&node.id).await?;
            context.output.done(
                &json!({ "removed": node.id }),
                &format!("node {} removed", render::clean(&node.hostname)),
            )
        }
    }
}

pub(crate) async fn framework(context: &Context, command: FrameworkCommand) -> Result<(), Failure> {
    let mut master = context.master().await?;
    match command {
        FrameworkCommand::List(args) => {
            let wanted = proto::ListFrameworksRequest {
                role: args.role.unwrap_or_default(),
                name: args.name.unwrap_or_default(),
                ..proto::ListFrameworksRequest::default()
            };
            let frameworks: Vec<Framework> = master
                .frameworks(&wanted)
                .await?
                .iter()
                .map(Framework::from)
                .collect();
            context.output.emit(&frameworks, |style| {
                render::cluster::frameworks(&frameworks, now_ms(), style)
            })
        }
        FrameworkCommand::Show(args) => {
            let framework = find_framework(&mut master, &args.framework).await?;
            context.output.emit(&framework, |style| {
                render::cluster::framework(&framework, now_ms(), style)
            })
        }
        FrameworkCommand::Explain(args) => {
            let framework = find_framework(&mut master, &args.framework).await?;
            let told = Explanation::new(&framework, &master.explain(&framework.id).await?);
            context
                .output
                .emit(&told, |style| render::sharing::explanation(&told, style))
        }
        FrameworkCommand::Teardown(args) => {
            let framework = find_framework(&mut master, &args.framework).await?;
            if !args.yes {
                return Err(Failure::usage(format!(
                    "this kills {} of framework {} ({}) for good; say --yes if that is meant",
                    render::count(framework.tasks as usize, "task"),
                    framework.name,
                    framework.id
                )));
            }
            master.teardown(&framework.id).await?;
            context.output.done(
                &json!({ "torn_down": framework.id }),
                &format!("framework {} torn down", framework.id),
            )
        }
    }
}

/// The filters of a list of nodes.
fn wanted_nodes(args: &NodeListArgs) -> proto::ListAgentsRequest {
    let states = args.state.iter().map(|state| {
        i32::from(match state {
            NodeState::Connected => proto::AgentState::AgentConnected,
            NodeState::Disconnected => proto::AgentState::AgentDisconnected,
            NodeState::Unreachable => proto::AgentState::AgentUnreachable,
            NodeState::Recovering => proto::AgentState::AgentRecovering,
        })
    });
    proto::ListAgentsRequest {
        states: states.collect(),
        attribute: args.attribute.clone().unwrap_or_default(),
        draining: args.draining.then_some(true),
        deactivated: args.deactivated.then_some(true),
        ..proto::ListAgentsRequest::default()
    }
}

/// The framework that an id, the beginning of one, or a name means.
pub(crate) async fn find_framework(master: &mut Master, text: &str) -> Result<Framework, Failure> {
    let all: Vec<Framework> = master
        .frameworks(&proto::ListFrameworksRequest::default())
        .await?
        .iter()
        .map(Framework::from)
        .collect();
    let mut named = all.iter().filter(|framework| framework.name == text);
    if let (Some(one), None) = (named.next(), named.next()) {
        return Ok(one.clone());
    }
    let id = request::resolve(
        "framework",
        text,
        all.iter().map(|framework| framework.id.as_str()),
    )?;
    Ok(all
        .iter()
        .find(|framework| framework.id == id)
        .cloned()
        .unwrap_or_default())
}

pub(crate) async fn role(context: &Context, command: RoleCommand) -> Result<(), Failure> {
    match command {
        RoleCommand::List => {
            let mut master = context.master().await?;
            let roles: Vec<Role> = master.roles().await?.iter().map(Role::from).collect();
            context
                .output
                .emit(&roles, |style| render::cluster::roles(&roles, style))
        }
        RoleCommand::Quota(QuotaCommand::Set(args)) => {
            let quota = request::quota::quota(&args)?;
            let mut master = context.master().await?;
            master.set_quota(quota, args.force).await?;
            let role = render::clean(&args.role);
            context.output.done(
                &json!({ "role": args.role }),
                &format!("role {role} has a new quota"),
            )
        }
        RoleCommand::Quota(QuotaCommand::Clear(args)) => {
            let mut master = context.master().await?;
            let quota = mezzo_api::proto::update_quotas_request::Quota {
                role: args.role.clone(),
                ..Default::default()
            };
            master.set_quota(quota, false).await?;
            let role = render::clean(&args.role);
            context.output.done(
                &json!({ "role": args.role }),
                &format!("role {role} has no quota"),
            )
        }
        RoleCommand::Weight(args) => {
            let weight_millis = request::weight(&args.weight)?;
            let mut master = context.master().await?;
            master.set_weight(&args.role, weight_millis).await?;
            let value = json!({ "role": args.role, "weight_millis": weight_millis });
            context.output.done(
                &value,
                &format!(
                    "role {} has weight {}",
                    render::clean(&args.role),
                    args.weight
                ),
            )
        }
    }
}
