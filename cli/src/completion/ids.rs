//! Asks the servers for what they have, of one kind: one call, or two where the line must be understood first.

use mezzo_api::proto;
use serde_json::Value;

use super::{kind::Kind, line::Line, offer::Found};
use crate::{
    client::{
        master::{Master, TaskFilter},
        scheduler::Scheduler,
    },
    failure::Failure,
    request,
    view::app::raw_list,
};

pub(super) async fn of(kind: Kind, line: &Line) -> Result<Found, Failure> {
    match kind {
        Kind::App | Kind::AppOrFile => listed(line, "/v2/apps", "apps", "id").await,
        Kind::AppVersion => {
            let path = format!("/v2/apps{}/versions", path_on(line)?);
            versions(&line.scheduler()?, &path).await
        }
        Kind::AppTask => tasks_of_app(line, "id").await,
        Kind::AppHost => tasks_of_app(line, "host").await,
        Kind::Pod => listed(line, "/v2/pods", "pods", "id").await,
        Kind::PodInstance => {
            let path = format!("/v2/pods{}::status", path_on(line)?);
            listed(line, &path, "instances", "id").await
        }
        Kind::Group => groups(line).await,
        Kind::GroupVersion => {
            let id = path_on(line)?;
            let path = format!("/v2/groups{}/versions", id.trim_end_matches('/'));
            versions(&line.scheduler()?, &path).await
        }
        Kind::Job => listed(line, "/v1/jobs", "jobs", "name").await,
        Kind::JobRun => {
            let name = line.value("name").unwrap_or_default();
            let job: Result<mezzo_scheduler::jobs::JobName, _> = name.parse();
            let job = job.map_err(|problem| Failure::usage(problem.to_string()))?;
            listed(line, &format!("/v1/jobs/{job}"), "runs", "run").await
        }
        Kind::Deployment => listed(line, "/v2/deployments", "deployments", "id").await,
        Kind::Task | Kind::TaskPath => tasks(&mut line.master().await?, false).await,
        Kind::AnyTask => tasks(&mut line.master().await?, true).await,
        Kind::Node => Ok(Found::by_name(agents(line).await?)),
        Kind::AgentId => {
            let agents = agents(line).await?.into_iter();
            Ok(Found::new(agents.map(|(id, _)| id)))
        }
        Kind::Framework => Ok(Found::by_name(frameworks(line).await?)),
        Kind::FrameworkId => {
            let frameworks = frameworks(line).await?.into_iter();
            Ok(Found::new(frameworks.map(|(id, _)| id)))
        }
        Kind::FrameworkName => {
            let frameworks = frameworks(line).await?.into_iter();
            Ok(Found::new(frameworks.map(|(_, name)| name)))
        }
        Kind::Role => {
            let roles = line.master().await?.roles().await?.into_iter();
            Ok(Found::new(roles.map(|role| role.name)))
        }
        Kind::Volume => volumes(line).await,
        Kind::Window => {
            let windows = line.master().await?.windows().await?.into_iter();
            Ok(Found::new(windows.map(|window| window.name)))
        }
    }
}

/// The app, pod or group that the line names, as a path.
fn path_on(line: &Line) -> Result<String, Failure> {
    let named = line.value("id").or_else(|| line.value("target"));
    match named {
        Some("/") => Ok("/".to_owned()),
        named => request::app_id(named.unwrap_or_default()),
    }
}

/// One field of each entry of a list of the scheduler's.
async fn listed(line: &Line, path: &str, key: &str, field: &str) -> Result<Found, Failure> {
    let answer = line.scheduler()?.get(path).await?;
    Ok(Found::new(fields(&answer, key, field)))
}

fn fields(answer: &Value, key: &str, field: &str) -> Vec<String> {
    let entries = raw_list(answer, key).iter();
    entries
        .filter_map(|entry| match entry.get(field)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        })
        .collect()
}

async fn versions(scheduler: &Scheduler, path: &str) -> Result<Found, Failure> {
    let answer = scheduler.get(path).await?;
    let versions = raw_list(&answer, "versions").iter();
    let versions = versions.filter_map(|version| version.as_str().map(str::to_owned));
    Ok(Found::new(versions))
}

async fn tasks_of_app(line: &Line, field: &str) -> Result<Found, Failure> {
    let answer = line
        .scheduler()?
        .get(&format!("/v2/apps{}", path_on(line)?))
        .await?;
    let app = answer.get("app").unwrap_or(&answer);
    Ok(Found::new(fields(app, "tasks", field)))
}

async fn groups(line: &Line) -> Result<Found, Failure> {
    let root = line.scheduler()?.get("/v2/groups").await?;
    let mut names = Vec::new();
    let mut left = vec![&root];
    while let Some(group) = left.pop() {
        let id = group.get("id").and_then(Value::as_str);
        names.extend(id.map(str::to_owned));
        left.extend(raw_list(group, "groups"));
    }
    Ok(Found::new(names))
}

async fn tasks(master: &mut Master, include_ended: bool) -> Result<Found, Failure> {
    let filter = TaskFilter {
        include_ended,
        ..TaskFilter::default()
    };
    let tasks = master.tasks(&filter).await?.into_iter();
    let infos = tasks.filter_map(|task| task.info);
    Ok(Found::new(infos.map(|info| info.task_id)))
}

/// Ids and host names.
async fn agents(line: &Line) -> Result<Vec<(String, String)>, Failure> {
    let wanted = proto::ListAgentsRequest::default();
    let agents = line.master().await?.agents(&wanted).await?.into_iter();
    let pairs = agents.map(|agent| (agent.agent_id, agent.info.unwrap_or_default().hostname));
    Ok(pairs.collect())
}

/// Ids and names.
async fn frameworks(line: &Line) -> Result<Vec<(String, String)>, Failure> {
    let wanted = proto::ListFrameworksRequest::default();
    let frameworks = line.master().await?.frameworks(&wanted).await?;
    let infos = frameworks.into_iter().filter_map(|one| one.info);
    Ok(infos.map(|info| (info.framework_id, info.name)).collect())
}

/// Of the node that the line names, by its name or the beginning of its id.
async fn volumes(line: &Line) -> Result<Found, Failure> {
    let node = line.value("node").unwrap_or_default();
    let volumes = line.master().await?.volumes("").await?.into_iter();
    let there = volumes.filter(|one| one.hostname == node || one.agent_id.starts_with(node));
    let volumes = there.filter_map(|one| one.volume);
    Ok(Found::new(volumes.map(|volume| volume.volume_id)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_numbers_are_read_and_all_else_is_passed_over() {
        let answer = json!({"runs": [{"run": 17}, {"run": "x"}, {"run": null}, {}, 3]});
        assert_eq!(fields(&answer, "runs", "run"), ["17", "x"]);
        assert!(fields(&json!("no list"), "runs", "run").is_empty());
    }
}
