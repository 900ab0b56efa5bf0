//! `mezzo node reserve|unreserve` and `mezzo volume …`, through the master's operator API. Each answers when the node has
//! made it durable.

use std::collections::HashMap;

use mezzo_api::proto::{
    self, CreateVolume, DestroyVolume, PersistentVolume, Reservation, ReservationKind, Reserve,
    Unreserve, pool_change::Change,
};
use serde_json::json;

use super::Context;
use crate::{
    args::volume::{
        ReserveArgs, UnreserveArgs, VolumeCommand, VolumeCreateArgs, VolumeDestroyArgs,
    },
    client::master::Master,
    failure::Failure,
    render,
    request::quota::{amounts, mebibytes},
    view::volume::Volume,
};

pub(crate) async fn run(context: &Context, command: VolumeCommand) -> Result<(), Failure> {
    let mut master = context.master().await?;
    match command {
        VolumeCommand::List(args) => {
            let agent_id = match &args.node {
                Some(node) => master.agent(node).await?.agent_id,
                None => String::new(),
            };
            let found = master.volumes(&agent_id).await?;
            let volumes: Vec<Volume> = found.into_iter().map(Volume::from).collect();
            context
                .output
                .emit(&volumes, |style| render::volume::volumes(&volumes, style))
        }
        VolumeCommand::Create(args) => create(context, &mut master, args).await,
        VolumeCommand::Destroy(args) => destroy(context, &mut master, args).await,
    }
}

pub(crate) async fn reserve(
    context: &Context,
    master: &mut Master,
    args: &ReserveArgs,
) -> Result<(), Failure> {
    let resources = amounts("AMOUNTS", &args.amounts)?;
    let reservation = Reservation {
        role: args.role.clone(),
        kind: ReservationKind::Dynamic.into(),
        principal: args.principal.clone(),
        labels: labels(&args.labels)?,
    };
    let agent = master.agent(&args.node).await?;
    let from = match &args.within {
        Some(role) => pool_of(&agent, role, None)?.stack,
        None => Vec::new(),
    };
    let change = Change::Reserve(Reserve {
        resources,
        reservation: Some(reservation),
        from,
    });
    master.change_pools(&agent.agent_id, vec![change]).await?;
    told(context, &agent, "reserved", &args.role, &args.amounts)
}

pub(crate) async fn unreserve(
    context: &Context,
    master: &mut Master,
    args: &UnreserveArgs,
) -> Result<(), Failure> {
    let resources = amounts("AMOUNTS", &args.amounts)?;
    let labels = labels(&args.labels)?;
    let agent = master.agent(&args.node).await?;
    let stack = pool_of(&agent, &args.role, Some(&labels))?.stack;
    let change = Change::Unreserve(Unreserve { resources, stack });
    master.change_pools(&agent.agent_id, vec![change]).await?;
    told(context, &agent, "unreserved", &args.role, &args.amounts)
}

fn told(
    context: &Context,
    agent: &proto::Agent,
    what: &str,
    role: &str,
    amounts: &str,
) -> Result<(), Failure> {
    context.output.done(
        &json!({ "node": agent.agent_id, "role": role, what: amounts }),
        &format!(
            "{} {what} for role {} on node {}",
            render::clean(amounts),
            render::clean(role),
            render::clean(&agent.info.clone().unwrap_or_default().hostname)
        ),
    )
}

async fn create(
    context: &Context,
    master: &mut Master,
    args: VolumeCreateArgs,
) -> Result<(), Failure> {
    let size = mebibytes(&args.size).filter(|size| size.millis() % 1000 == 0);
    let size_mb = size.and_then(|size| u64::try_from(size.units_floor()).ok());
    let Some(size_mb) = size_mb.filter(|mb| *mb > 0) else {
        return Err(Failure::usage(format!(
            "--size `{}`: give whole MiB, like 512 or 10G",
            args.size
        )));
    };
    let agent = master.agent(&args.node).await?;
    let mut changes = Vec::new();
    let stack = if args.reserve {
        let reservation = Reservation {
            role: args.role.clone(),
            kind: ReservationKind::Dynamic.into(),
            principal: args.principal.clone(),
            labels: HashMap::new(),
        };
        changes.push(Change::Reserve(Reserve {
            resources: amounts("--size", &format!("disk={size_mb}"))?,
            reservation: Some(reservation.clone()),
            from: Vec::new(),
        }));
        vec![reservation]
    } else {
        pool_of(&agent, &args.role, None)?.stack
    };
    changes.push(Change::CreateVolume(CreateVolume {
        volume: Some(PersistentVolume {
            volume_id: args.id.clone(),
            stack,
            size_mb,
            principal: args.principal,
            shared: args.shared,
        }),
    }));
    master.change_pools(&agent.agent_id, changes).await?;
    context.output.done(
        &json!({
            "node": agent.agent_id,
            "role": args.role,
            "volume": args.id,
            "size_mb": size_mb,
            "shared": args.shared,
        }),
        &format!(
            "{}volume {} made",
            if args.shared { "shared " } else { "" },
            render::clean(&args.id)
        ),
    )
}

async fn destroy(
    context: &Context,
    master: &mut Master,
    args: VolumeDestroyArgs,
) -> Result<(), Failure> {
    if !args.yes {
        return Err(Failure::usage(format!(
            "this removes volume {} of role {} and all that is in it; say --yes if that is meant",
            render::clean(&args.id),
            render::clean(&args.role)
        )));
    }
    let agent = master.agent(&args.node).await?;
    let change = Change::DestroyVolume(DestroyVolume {
        role: args.role.clone(),
        volume_id: args.id.clone(),
    });
    master.change_pools(&agent.agent_id, vec![change]).await?;
    context.output.done(
        &json!({ "node": agent.agent_id, "role": args.role, "destroyed": args.id }),
        &format!(
            "volume {} destroyed; its disk is still reserved for role {}",
            render::clean(&args.id),
            render::clean(&args.role)
        ),
    )
}

/// The one reservation of a role on a node: with these labels, if any are asked for.
fn pool_of(
    agent: &proto::Agent,
    role: &str,
    labels: Option<&HashMap<String, String>>,
) -> Result<proto::Pool, Failure> {
    let info = agent.info.clone().unwrap_or_default();
    let fits = |pool: &proto::Pool| {
        pool.stack.last().is_some_and(|top| {
            top.role == role && labels.is_none_or(|labels| top.labels == *labels)
        })
    };
    let mut found: Vec<_> = info.reserved.into_iter().filter(fits).collect();
    match (found.pop(), found.len()) {
        (Some(pool), 0) => Ok(pool),
        (None, _) => Err(Failure::failed(format!(
            "node {} has nothing reserved for role {}; `mezzo node show {0}` tells what it has",
            render::clean(&info.hostname),
            render::clean(role)
        ))),
        (Some(_), more) => Err(Failure::failed(format!(
            "node {} has {} reservations for role {}, by different people or with different labels; say which with --label, or use \
             OperatorService.ChangePools",
            render::clean(&info.hostname),
            more + 1,
            render::clean(role)
        ))),
    }
}

fn labels(texts: &[String]) -> Result<HashMap<String, String>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!(
                "--label `{text}`: give NAME=VALUE, like app=orders"
            ))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}
