//! `mezzo app …`: apps, through the scheduler's REST API.

mod diff;
mod edit;
mod logs;
pub(super) mod plan;
mod why;
pub(super) mod wipe;

use std::{fs, io::Read as _, path::Path};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, wait};
use crate::{
    args::app::{AppCommand, RollbackArgs, UpdateArgs},
    args::change::{AddArgs, Change, ChangeArgs},
    client::scheduler::Scheduler,
    failure::Failure,
    render::{self, clean},
    request,
    view::app::{self, App, QueueItem},
};

/// An app file may have this many bytes.
const LARGEST_FILE: u64 = 4 << 20;

pub(crate) async fn run(context: &Context, command: AppCommand) -> Result<(), Failure> {
    let scheduler = Scheduler::new(&context.servers.scheduler)?;
    match command {
        AppCommand::Add(args) => add(context, &scheduler, &args.add, args.plan).await,
        AppCommand::List => list(context, &scheduler).await,
        AppCommand::Show(args) => show(context, &scheduler, &request::app_id(&args.id)?).await,
        AppCommand::Why(args) => why::run(context, &scheduler, &request::app_id(&args.id)?).await,
        AppCommand::Scale(args) => {
            let id = request::app_id(&args.id)?;
            // A PUT creates what is missing; scaling must not.
            get(&scheduler, &id).await?;
            let body = json!({ "instances": args.instances });
            let sentence = format!(
                "{id}: scaling to {}",
                render::count(args.instances as usize, "instance")
            );
            change(
                context,
                &scheduler,
                Method::PUT,
                &id,
                "",
                Some(&body),
                &args.change,
                &sentence,
            )
            .await
        }
        AppCommand::Update(args) => update(context, &scheduler, &args).await,
        AppCommand::Diff(args) => diff::run(context, &scheduler, &args).await,
        AppCommand::Edit(args) => edit::run(context, &scheduler, &args).await,
        AppCommand::Logs(args) => logs::run(context, &scheduler, &args).await,
        AppCommand::Restart(ChangeArgs { id, change: how }) => {
            let id = request::app_id(&id)?;
            let sentence = format!("{id}: restarting");
            change(
                context,
                &scheduler,
                Method::POST,
                &id,
                "/restart",
                None,
                &how,
                &sentence,
            )
            .await
        }
        AppCommand::Remove(ChangeArgs { id, change: how }) => {
            let id = request::app_id(&id)?;
            let sentence = format!("{id}: removing");
            change(
                context,
                &scheduler,
                Method::DELETE,
                &id,
                "",
                None,
                &how,
                &sentence,
            )
            .await
        }
        AppCommand::Wipe(args) => wipe::run(context, &scheduler, &args).await,
        AppCommand::Versions(args) => {
            versions(context, &scheduler, &request::app_id(&args.id)?).await
        }
        AppCommand::Events(args) => super::events::of_app(context, &args).await,
        AppCommand::Rollback(args) => rollback(context, &scheduler, &args).await,
    }
}

async fn add(
    context: &Context,
    scheduler: &Scheduler,
    args: &AddArgs,
    only_plan: bool,
) -> Result<(), Failure> {
    // All files are read and checked before anything is deployed.
    let mut apps = Vec::new();
    for file in &args.files {
        let mut content = read_file(file)?;
        match content.as_array_mut().filter(|many| !many.is_empty()) {
            Some(many) => apps.extend(many.drain(..).map(|app| (file, app))),
            None => apps.push((file, content)),
        }
    }
    for (file, app) in &mut apps {
        request::default_role(app, args.role.as_deref());
        check(&file.display().to_string(), app)?;
    }
    if only_plan {
        for (file, app) in &apps {
            let id = app.get("id").and_then(Value::as_str).unwrap_or_default();
            let id = request::app_id(id)?;
            let planned = plan::add(context, scheduler, &id, app, args.change.force).await;
            planned.map_err(|failure| prefix(failure, &file.display().to_string()))?;
        }
        return Ok(());
    }
    let mut answers = Vec::new();
    let mut ids = Vec::new();
    for (file, app) in &apps {
        let answer = scheduler
            .send(Method::POST, "/v2/apps", args.change.force, Some(app))
            .await;
        let answer = answer.map_err(|failure| prefix(failure, &file.display().to_string()))?;
        let id = answer
            .get("id")
            .or_else(|| app.get("id"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        ids.push((request::app_id(id)?, wait::deployment_id(&answer)));
        answers.push(answer);
    }
    if args.change.wait {
        let timeout = request::duration("--timeout", &args.change.timeout)?;
        for (id, deployment) in &ids {
            wait::until_settled(scheduler, id, deployment.as_deref(), timeout).await?;
        }
    }
    let value = if let [one] = answers.as_slice() {
        one.clone()
    } else {
        Value::Array(answers)
    };
    let verb = if args.change.wait {
        "running"
    } else {
        "deploying"
    };
    let lines: Vec<String> = ids.iter().map(|(id, _)| format!("{id}: {verb}")).collect();
    context.output.done(&value, &lines.join("\n"))
}

/// Puts the file's name before a refusal.
pub(super) fn prefix(failure: Failure, file: &str) -> Failure {
    match failure {
        Failure::Usage(message) => Failure::Usage(format!("{file}: {message}")),
        Failure::Failed(message) => Failure::Failed(format!("{file}: {message}")),
        Failure::NotFound(_) | Failure::Unreachable(_) | Failure::Code(_) | Failure::ReaderGone => {
            failure
        }
    }
}

async fn list(context: &Context, scheduler: &Scheduler) -> Result<(), Failure> {
    let answer = scheduler
        .get("/v2/apps?embed=apps.counts&embed=apps.deployments&embed=apps.lastTaskFailure")
        .await?;
    let mut apps: Vec<App> = app::list(&answer, "apps");
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    context
        .output
        .emit(&app::raw_list(&answer, "apps"), |style| {
            render::app::list(&apps, style)
        })
}

/// A 404 in words that help.
fn no_app(failure: Failure, id: &str) -> Failure {
    if matches!(failure, Failure::NotFound(_)) {
        Failure::NotFound(format!(
            "no app `{id}`; `mezzo app list` shows which there are"
        ))
    } else {
        failure
    }
}

/// The `app` of `GET /v2/apps/{id}`.
pub(crate) async fn get(scheduler: &Scheduler, id: &str) -> Result<Value, Failure> {
    let answer = scheduler
        .get(&format!("/v2/apps{id}"))
        .await
        .map_err(|failure| no_app(failure, id))?;
    Ok(answer.get("app").cloned().unwrap_or(answer))
}

async fn show(context: &Context, scheduler: &Scheduler, id: &str) -> Result<(), Failure> {
    let value = get(scheduler, id).await?;
    let one: App = app::one(&value);
    let (queue, deployments) = if one.is_settled() {
        (Value::Null, Value::Null)
    } else {
        // What the app waits for is an addition: the app is shown also when these cannot be had.
        (
            scheduler.get("/v2/queue").await.unwrap_or_default(),
            scheduler.get("/v2/deployments").await.unwrap_or_default(),
        )
    };
    let queue: Vec<QueueItem> = app::list(&queue, "queue");
    let mut deployments: Vec<app::Deployment> = app::list(&deployments, "deployments");
    deployments.retain(|deployment| deployment.affected_apps.iter().any(|app| app == id));
    let waiting = queue.iter().find(|item| item.app.id == id);
    context.output.emit(&value, |style| {
        render::app::show(&one, waiting, &deployments, style)
    })
}

async fn update(
    context: &Context,
    scheduler: &Scheduler,
    args: &UpdateArgs,
) -> Result<(), Failure> {
    let env = request::pairs("--env", &args.env)?;
    let mut set = args
        .set
        .iter()
        .map(|text| request::field(text))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(role) = &args.role {
        set.push(("role".to_owned(), role.as_str().into()));
    }
    let by_flags = args.image.is_some() || !env.is_empty() || !set.is_empty();
    let (id, present, body) = if by_flags {
        let id = request::app_id(&args.target)?;
        let present = get(scheduler, &id).await?;
        let changes = Value::Object(request::changes(
            &present,
            args.image.as_deref(),
            &env,
            &set,
        ));
        check_changes("the changed fields", &id, &changes)?;
        (id, present, changes)
    } else {
        let file = Path::new(&args.target);
        if args.target != "-" && !file.exists() && request::app_id(&args.target).is_ok() {
            return Err(Failure::usage(format!(
                "`{0}` is not a file; to change the app `{0}`, say what with --image, --env, --role or --set",
                args.target
            )));
        }
        let body = read_file(file)?;
        let name = file.display().to_string();
        let id = body.get("id").and_then(Value::as_str);
        let id =
            id.ok_or_else(|| Failure::usage(format!("{name}: /id: the app's id is missing")))?;
        let id = request::app_id(id)?;
        check_changes(&name, &id, &body)?;
        let present = get(scheduler, &id).await?;
        (id, present, body)
    };
    if args.how.plan {
        let path = format!("/v2/apps{id}?dryRun=true&force={}", args.how.change.force);
        let answer = scheduler
            .send(Method::PUT, &path, false, Some(&body))
            .await?;
        return plan::emit(context, answer, &plan::of_update(&present, &body)?);
    }
    change(
        context,
        scheduler,
        Method::PUT,
        &id,
        "",
        Some(&body),
        &args.how.change,
        &format!("{id}: updating"),
    )
    .await
}

async fn versions(context: &Context, scheduler: &Scheduler, id: &str) -> Result<(), Failure> {
    let present = get(scheduler, id).await?;
    let current = present
        .get("version")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let versions = list_versions(scheduler, id).await?;
    context.output.emit(&versions, |style| {
        render::app::versions(&versions, &current, style)
    })
}

async fn list_versions(scheduler: &Scheduler, id: &str) -> Result<Vec<String>, Failure> {
    let answer = scheduler.get(&format!("/v2/apps{id}/versions")).await?;
    let versions = app::raw_list(&answer, "versions");
    let mut versions: Vec<String> = versions
        .iter()
        .filter_map(|version| version.as_str().map(str::to_owned))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    Ok(versions)
}

async fn rollback(
    context: &Context,
    scheduler: &Scheduler,
    args: &RollbackArgs,
) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    let present = get(scheduler, &id).await?;
    let versions = list_versions(scheduler, &id).await?;
    let version = match &args.version {
        Some(version) if versions.contains(version) => version.clone(),
        Some(version) => {
            return Err(Failure::NotFound(format!(
                "{id} has no version `{}`; `mezzo app versions {}` shows which there are",
                clean(version),
                id.trim_start_matches('/')
            )));
        }
        None => {
            let current = present
                .get("version")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let earlier = versions.iter().find(|version| version.as_str() < current);
            earlier
                .cloned()
                .ok_or_else(|| Failure::failed(format!("{id} has no earlier version")))?
        }
    };
    let body = json!({ "version": version });
    let sentence = format!("{id}: rolling back to {version}");
    change(
        context,
        scheduler,
        Method::PUT,
        &id,
        "",
        Some(&body),
        &args.change,
        &sentence,
    )
    .await
}

/// Makes a change of one app and, if asked to, waits until it is complete.
#[expect(
    clippy::too_many_arguments,
    reason = "one row of a table: method, path, body; the callers read like one"
)]
async fn change(
    context: &Context,
    scheduler: &Scheduler,
    method: Method,
    id: &str,
    suffix: &str,
    body: Option<&Value>,
    how: &Change,
    sentence: &str,
) -> Result<(), Failure> {
    let timeout = request::duration("--timeout", &how.timeout)?;
    let removal = method == Method::DELETE;
    let answer = scheduler
        .send(method, &format!("/v2/apps{id}{suffix}"), how.force, body)
        .await;
    let answer = answer.map_err(|failure| no_app(failure, id))?;
    if !how.wait {
        return context.output.done(&answer, sentence);
    }
    let deployment = wait::deployment_id(&answer);
    if removal {
        wait::until_gone(scheduler, id, deployment.as_deref(), timeout).await?;
        context.output.done(&answer, &format!("{id}: removed"))
    } else {
        let app = wait::until_settled(scheduler, id, deployment.as_deref(), timeout).await?;
        context.output.done(
            &answer,
            &format!(
                "{id}: done, {} of {} running",
                app.tasks_running, app.instances
            ),
        )
    }
}

/// Reads JSON, or YAML if the name says so.
pub(super) fn read_file(path: &Path) -> Result<Value, Failure> {
    let name = path.display();
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(LARGEST_FILE + 1)
            .read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(Failure::usage(format!(
            "{name} is larger than {LARGEST_FILE} bytes"
        )));
    }
    if path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
    {
        serde_yaml_ng::from_str(&text)
            .map_err(|error| Failure::usage(format!("{name} is not YAML: {error}")))
    } else {
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{name} is not JSON: {error}")))
    }
}

/// Refuses what the scheduler would refuse, and also fields that it would ignore.
fn check(name: &str, app: &Value) -> Result<(), Failure> {
    if mezzo_scheduler::is_pod_json(app) {
        return Err(Failure::usage(format!(
            "{name} describes a pod: `mezzo pod add {name}`, or `mezzo pod update {name}`"
        )));
    }
    complaints(name, "app", &mezzo_scheduler::check_app_json(app))
}

/// Everything that is wrong with a file's app or job.
pub(super) fn complaints(
    name: &str,
    what: &str,
    report: &mezzo_scheduler::Report,
) -> Result<(), Failure> {
    let mut lines: Vec<String> = report
        .errors
        .iter()
        .map(|problem| format!("  {}: {}", problem.path, problem.message))
        .collect();
    lines.extend(report.unknown.iter().map(|unknown| match &unknown.nearest {
        Some(nearest) => format!(
            "  {}: no such field; did you mean `{nearest}`?",
            unknown.path
        ),
        None => format!("  {}: no such field", unknown.path),
    }));
    if lines.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = lines.iter().map(|line| clean(line)).collect();
    Err(Failure::usage(format!(
        "{name} is not a valid {what}:\n{}",
        lines.join("\n")
    )))
}

/// The same for a part of an app: only fields that are there are looked at.
fn check_changes(name: &str, id: &str, changes: &Value) -> Result<(), Failure> {
    let mut probe = changes.clone();
    let Some(fields) = probe.as_object_mut() else {
        return check(name, changes);
    };
    fields.insert("id".to_owned(), Value::String(id.to_owned()));
    let changed = |path: &str| {
        let top = path
            .trim_start_matches('/')
            .split(['/', '('])
            .next()
            .unwrap_or_default();
        changes.get(top).is_some()
    };
    let mut report = mezzo_scheduler::check_app_json(&probe);
    report.errors.retain(|problem| changed(&problem.path));
    if report.errors.is_empty() && report.unknown.is_empty() {
        Ok(())
    } else {
        check(name, &probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<(), Failure>) -> String {
        result.expect_err("must be refused").to_string()
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        let app = json!({"id": "a", "instnces": 3, "container": {"docker": {"image": "x:1"}}});
        let text = refusal(check("a.json", &app));
        assert_eq!(
            text,
            "a.json is not a valid app:\n  /instnces: no such field; did you mean `instances`?"
        );
    }

    #[test]
    fn a_part_of_an_app_is_checked_without_asking_for_the_rest() {
        assert!(check_changes("x", "/a", &json!({"cpus": 0.5})).is_ok());
        assert!(refusal(check_changes("x", "/a", &json!({"cpus": "much"}))).contains("/cpus"));
        assert!(
            refusal(check_changes("x", "/a", &json!({"cpu": 1}))).contains("did you mean `cpus`?")
        );
    }

    #[test]
    fn files_are_json_or_yaml_by_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let json_file = dir.path().join("a.json");
        fs::write(&json_file, "{\"id\": \"a\"}").unwrap();
        let yaml_file = dir.path().join("a.yaml");
        fs::write(&yaml_file, "id: a\n").unwrap();
        assert_eq!(
            read_file(&json_file).unwrap(),
            read_file(&yaml_file).unwrap()
        );
        fs::write(&json_file, "{\"id\": ").unwrap();
        let error = read_file(&json_file).unwrap_err().to_string();
        assert!(
            error.contains("a.json is not JSON: ") && error.contains("line 1"),
            "{error}"
        );
        let missing = read_file(&dir.path().join("b.json")).unwrap_err();
        assert!(matches!(missing, Failure::Usage(_)), "{missing:?}");
    }
}
