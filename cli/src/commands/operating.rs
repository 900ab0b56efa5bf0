//! `mezzo master backup|restore|events|credential` and `mezzo node maintenance …`.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use mezzo_api::proto::{self, operator_event::Event};
use mezzo_master::store::backup;
use serde_json::{Value, json};
use toml::Table;

use super::{Context, now_ms, serve};
use crate::{
    args::operating::{
        BackupArgs, CredentialArgs, EventsArgs, Kind, MaintenanceCommand, RestoreArgs, ScheduleArgs,
    },
    client::master::Master,
    failure::{Failure, chain},
    output::{Format, print},
    render, request,
};

pub(crate) async fn backup(context: &Context, args: &BackupArgs) -> Result<(), Failure> {
    let mut master = context.master().await?;
    let file = master.backup().await?;
    let read = backup::read(&file).map_err(|error| {
        Failure::failed(format!("what the master sent cannot be used: {error}"))
    })?;
    write_whole(&args.file, &file).map_err(|error| {
        Failure::failed(format!("cannot write {}: {error}", args.file.display()))
    })?;
    let (agents, frameworks) = (read.saved.agents.len(), read.saved.frameworks.len());
    let file_name = args.file.display().to_string();
    context.output.done(
        &json!({ "file": file_name, "bytes": file.len(), "agents": agents, "frameworks": frameworks }),
        &format!(
            "{file_name}: {} bytes, {}, {}",
            file.len(),
            render::count(agents, "agent"),
            render::count(frameworks, "framework"),
        ),
    )
}

/// On the disk when this returns, under its name only when it is whole. It tells who may do what nowhere, but what the
/// cluster is made of: for its owner only.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(name);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    })();
    if written.is_err() {
        // It may not be there at all.
        let _ = fs::remove_file(&part);
    }
    written
}

pub(crate) async fn restore(context: &Context, args: &RestoreArgs) -> Result<(), Failure> {
    let name = args.file.display();
    let file = fs::read(&args.file)
        .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    let read = backup::read(&file).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
    let mut flags = Table::new();
    if let Some(store) = &args.store {
        flags.insert("store".to_owned(), store.clone().into());
    }
    if let Some(dir) = &args.state_dir {
        let dir = std::path::absolute(dir)
            .map_err(|error| Failure::usage(format!("--state-dir {}: {error}", dir.display())))?;
        flags.insert("state_dir".to_owned(), dir.display().to_string().into());
    }
    let config: mezzo_master::Config = serve::settings(args.config.as_deref(), flags)?;
    mezzo_master::restore(&config, &read, args.replace)
        .await
        .map_err(|error| Failure::failed(format!("nothing was restored: {}", chain(&error))))?;
    let saved = &read.saved;
    context.output.done(
        &json!({ "agents": saved.agents.len(), "frameworks": saved.frameworks.len(), "made_at_ms": read.made_at_ms }),
        &format!(
            "restored {}, {}; the backup is {} old",
            render::count(saved.agents.len(), "agent"),
            render::count(saved.frameworks.len(), "framework"),
            render::age(read.made_at_ms, now_ms()),
        ),
    )
}

pub(crate) fn credential(context: &Context, args: &CredentialArgs) -> Result<(), Failure> {
    let (line, entry) = mezzo_master::new_credential(&args.name)
        .map_err(|error| Failure::usage(error.to_string()))?;
    context
        .output
        .emit(&json!({ "credential": line, "entry": entry }), |_| {
            format!(
                "For its owner, in a file of mode 600 (shown only now):\n\n{line}\n\n\
             For the master's credentials file; say in `allow` what it may do:\n\n{entry}"
            )
        })
}

pub(crate) async fn events(context: &Context, args: &EventsArgs) -> Result<(), Failure> {
    let kinds = args.kind.iter().map(|kind| {
        i32::from(match kind {
            Kind::Agent => proto::EventKind::Agent,
            Kind::Framework => proto::EventKind::Framework,
            Kind::Task => proto::EventKind::Task,
            Kind::Role => proto::EventKind::Role,
            Kind::Maintenance => proto::EventKind::Maintenance,
        })
    });
    let request = proto::WatchEventsRequest {
        resume_token: args.after.clone().unwrap_or_default(),
        kinds: kinds.collect(),
        framework_id: args.framework.clone().unwrap_or_default(),
        agent_id: args.agent.clone().unwrap_or_default(),
    };
    let mut master = context.master().await?;
    let mut watch = master.watch_events(request).await?;
    let mut left = args.count;
    while left != Some(0) {
        let Some(event) = watch.next().await? else {
            return Ok(());
        };
        let Some((kind, what, value)) = told(&event) else {
            continue;
        };
        match context.output.format {
            Format::Table => print(&format!("{kind:<12} {what}\n"))?,
            Format::Json => {
                let line = json!({
                    "at_ms": event.at_ms, "kind": kind, "event": value, "token": event.resume_token
                });
                print(&format!("{line}\n"))?;
            }
        }
        left = left.map(|n| n - 1);
    }
    Ok(())
}

/// Kind, sentence and value of what an operator wants to see.
fn told(event: &proto::OperatorEvent) -> Option<(&'static str, String, Value)> {
    let lower = |name: &str| name.to_ascii_lowercase();
    Some(match event.event.as_ref()? {
        Event::Started(_) | Event::Heartbeat(_) => return None,
        Event::Agent(agent) => {
            let change = lower(agent.change().as_str_name());
            let hostname = render::clean(&agent.hostname);
            (
                "agent",
                format!("{hostname} ({}) {change}", agent.agent_id),
                json!({ "agent_id": agent.agent_id, "hostname": agent.hostname, "change": change }),
            )
        }
        Event::Framework(framework) => {
            let change = lower(framework.change().as_str_name());
            let name = render::clean(&framework.name);
            (
                "framework",
                format!("{name} ({}) {change}", framework.framework_id),
                json!({
                    "framework_id": framework.framework_id, "name": framework.name, "change": change
                }),
            )
        }
        Event::Task(task) => {
            let state = task.state().as_str_name();
            let mut text = format!("{} {state}", render::clean(&task.task_id));
            if !task.message.is_empty() {
                text = format!("{text}: {}", render::clean(&task.message));
            }
            (
                "task",
                text,
                json!({
                    "framework_id": task.framework_id, "task_id": task.task_id, "agent_id": task.agent_id,
                    "state": state, "message": task.message
                }),
            )
        }
        Event::Role(role) => (
            "role",
            format!("{} has another weight or quota", render::clean(&role.role)),
            json!({ "role": role.role }),
        ),
        Event::Maintenance(window) => {
            let stage = stage(window.stage());
            (
                "maintenance",
                format!("{} {stage}", render::clean(&window.name)),
                json!({ "name": window.name, "stage": stage }),
            )
        }
    })
}

fn stage(stage: proto::MaintenanceStage) -> &'static str {
    match stage {
        proto::MaintenanceStage::Unspecified => "over",
        proto::MaintenanceStage::Scheduled => "scheduled",
        proto::MaintenanceStage::Vacating => "vacating",
        proto::MaintenanceStage::Draining => "draining",
    }
}

pub(crate) async fn maintenance(
    context: &Context,
    master: &mut Master,
    command: MaintenanceCommand,
) -> Result<(), Failure> {
    match command {
        MaintenanceCommand::List => {
            let windows = master.windows().await?;
            let values: Vec<Value> = windows.iter().map(value).collect();
            context.output.emit(&values, |style| {
                render::operating::windows(&windows, now_ms(), style)
            })
        }
        MaintenanceCommand::Schedule(args) => {
            let mut window = window(&args, now_ms())?;
            for node in &args.nodes {
                window.agent_ids.push(master.agent(node).await?.agent_id);
            }
            let nodes = render::count(window.agent_ids.len(), "node");
            master.schedule_window(window).await?;
            context.output.done(
                &json!({ "scheduled": args.name }),
                &format!(
                    "maintenance {} of {nodes} is scheduled",
                    render::clean(&args.name)
                ),
            )
        }
        MaintenanceCommand::Cancel(args) => {
            master.cancel_window(&args.name).await?;
            context.output.done(
                &json!({ "cancelled": args.name }),
                &format!("maintenance {} is cancelled", render::clean(&args.name)),
            )
        }
    }
}

/// Its moments, without its nodes.
fn window(args: &ScheduleArgs, now: u64) -> Result<proto::MaintenanceWindow, Failure> {
    let starts_at_ms = request::moment("--start", &args.start, now)?;
    let after = |flag: &str, text: &str| {
        let later = request::duration(flag, text)?;
        let later = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        Ok::<u64, Failure>(starts_at_ms.saturating_add(later))
    };
    Ok(proto::MaintenanceWindow {
        name: args.name.clone(),
        starts_at_ms,
        drains_at_ms: after("--drain", &args.drain)?,
        ends_at_ms: match &args.end {
            Some(text) => Some(after("--end", text)?),
            None => None,
        },
        ..proto::MaintenanceWindow::default()
    })
}

fn value(window: &proto::MaintenanceWindow) -> Value {
    let answers = window.answers.iter().map(|answer| {
        json!({
            "framework_id": answer.framework_id, "agent_id": answer.agent_id, "accepted": answer.accepted
        })
    });
    json!({
        "name": window.name,
        "stage": stage(window.stage()),
        "agent_ids": window.agent_ids,
        "starts_at_ms": window.starts_at_ms,
        "drains_at_ms": window.drains_at_ms,
        "ends_at_ms": window.ends_at_ms,
        "answers": answers.collect::<Vec<_>>(),
    })
}
