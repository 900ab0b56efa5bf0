//! `mezzo pod …`: pods, through the scheduler's REST API.

mod why;
mod wipe;

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::Context;
use super::app::{complaints, prefix, read_file};
use crate::{
    args::change::{AddArgs, Change, ScaleArgs},
    args::pod::{PodCommand, UpdateArgs},
    client::scheduler::Scheduler,
    failure::Failure,
    output::Progress,
    render::{self, clean},
    request,
    view::{app, pod::PodStatus},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// A scheduler that is being restarted is waited for this long.
const AWAY: Duration = Duration::from_secs(30);

pub(crate) async fn run(context: &Context, command: PodCommand) -> Result<(), Failure> {
    let scheduler = Scheduler::new(&context.servers.scheduler)?;
    match command {
        PodCommand::Add(args) => add(context, &scheduler, &args).await,
        PodCommand::List => {
            let answer = scheduler.get("/v2/pods/::status").await?;
            let all = answer.as_array().cloned().unwrap_or_default();
            let pods: Vec<PodStatus> = all.iter().map(PodStatus::of).collect();
            context
                .output
                .emit(&answer, |style| render::pod::list(&pods, style))
        }
        PodCommand::Show(args) => {
            let id = request::app_id(&args.id)?;
            let pod = get(&scheduler, &id, "").await?;
            let text = serde_json::to_string_pretty(&pod).unwrap_or_default();
            context.output.emit(&pod, |_| format!("{text}\n"))
        }
        PodCommand::Update(args) => update(context, &scheduler, &args).await,
        PodCommand::Scale(args) => scale(context, &scheduler, &args).await,
        PodCommand::Remove(args) => {
            let id = request::app_id(&args.id)?;
            let timeout = request::duration("--timeout", &args.change.timeout)?;
            let path = format!("/v2/pods{id}");
            let answer = scheduler.send(Method::DELETE, &path, args.change.force, None);
            let answer = answer.await.map_err(|failure| no_pod(failure, &id))?;
            if !args.change.wait {
                return context.output.done(&answer, &format!("{id}: removing"));
            }
            wait(&scheduler, &id, timeout, true).await?;
            context.output.done(&answer, &format!("{id}: removed"))
        }
        PodCommand::Status(args) => {
            let id = request::app_id(&args.id)?;
            let timeout = request::duration("--timeout", &args.timeout)?;
            if args.wait {
                wait(&scheduler, &id, timeout, false).await?;
            }
            let status = get(&scheduler, &id, "::status").await?;
            context.output.emit(&status, |style| {
                render::pod::status(&PodStatus::of(&status), style)
            })
        }
        PodCommand::Why(args) => {
            let id = request::app_id(&args.id)?;
            why::run(context, &scheduler, &id).await
        }
        PodCommand::Wipe(args) => wipe::run(context, &scheduler, &args).await,
        PodCommand::Kill(args) => {
            let id = request::app_id(&args.id)?;
            let path = format!(
                "/v2/pods{id}::instances/{}",
                args.instance.trim_start_matches('/')
            );
            let answer = scheduler.send(Method::DELETE, &path, false, None).await?;
            context
                .output
                .done(&answer, &format!("{}: ending", clean(&args.instance)))
        }
    }
}

async fn add(context: &Context, scheduler: &Scheduler, args: &AddArgs) -> Result<(), Failure> {
    // All files are read and checked before anything is deployed.
    let mut pods = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        let mut content = read_file(file)?;
        let many = content.as_array_mut().map(std::mem::take);
        for mut pod in many.unwrap_or_else(|| vec![content]) {
            request::default_role(&mut pod, args.role.as_deref());
            check(&name, &pod)?;
            pods.push((name.clone(), pod));
        }
    }
    let mut answers = Vec::new();
    let mut lines = Vec::new();
    let mut ids = Vec::new();
    for (name, pod) in &pods {
        let answer = scheduler
            .send(Method::POST, "/v2/pods", args.change.force, Some(pod))
            .await
            .map_err(|failure| prefix(failure, name))?;
        let id = answer.get("id").or_else(|| pod.get("id"));
        ids.push(request::app_id(
            id.and_then(Value::as_str).unwrap_or_default(),
        )?);
        answers.push(answer);
    }
    let timeout = request::duration("--timeout", &args.change.timeout)?;
    for id in &ids {
        if args.change.wait {
            wait(scheduler, id, timeout, false).await?;
            lines.push(format!("{id}: running"));
        } else {
            lines.push(format!("{id}: deploying"));
        }
    }
    let value = match answers.as_slice() {
        [one] => one.clone(),
        _ => Value::Array(answers),
    };
    context.output.done(&value, &lines.join("\n"))
}

async fn update(
    context: &Context,
    scheduler: &Scheduler,
    args: &UpdateArgs,
) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let body = read_file(&args.file)?;
    check(&name, &body)?;
    let id = body.get("id").and_then(Value::as_str).unwrap_or_default();
    let id = request::app_id(id)?;
    if args.how.plan {
        let path = format!("/v2/pods{id}?dryRun=true&force={}", args.how.change.force);
        let answer = scheduler
            .send(Method::PUT, &path, false, Some(&body))
            .await
            .map_err(|failure| no_pod(failure, &id))?;
        return context
            .output
            .emit(&answer, |style| render::app::plan(&answer, style));
    }
    put(context, scheduler, &id, &body, &args.how.change, "updating").await
}

async fn scale(context: &Context, scheduler: &Scheduler, args: &ScaleArgs) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    let mut body = get(scheduler, &id, "").await?;
    body["scaling"] = serde_json::json!({"kind": "fixed", "instances": args.instances});
    let instances = render::count(args.instances as usize, "instance");
    let verb = format!("scaling to {instances}");
    put(context, scheduler, &id, &body, &args.change, &verb).await
}

async fn put(
    context: &Context,
    scheduler: &Scheduler,
    id: &str,
    body: &Value,
    how: &Change,
    verb: &str,
) -> Result<(), Failure> {
    let timeout = request::duration("--timeout", &how.timeout)?;
    let path = format!("/v2/pods{id}");
    let answer = scheduler.send(Method::PUT, &path, how.force, Some(body));
    let answer = answer.await.map_err(|failure| no_pod(failure, id))?;
    if !how.wait {
        return context.output.done(&answer, &format!("{id}: {verb}"));
    }
    let status = wait(scheduler, id, timeout, false).await?;
    let (stable, wanted) = (status.stable(), status.spec.scaling.instances);
    let sentence = format!("{id}: done, {stable} of {wanted} stable");
    context.output.done(&answer, &sentence)
}

async fn get(scheduler: &Scheduler, id: &str, what: &str) -> Result<Value, Failure> {
    let answer = scheduler.get(&format!("/v2/pods{id}{what}")).await;
    answer.map_err(|failure| no_pod(failure, id))
}

/// A 404 in words that help.
fn no_pod(failure: Failure, id: &str) -> Failure {
    if matches!(failure, Failure::NotFound(_)) {
        Failure::NotFound(format!(
            "no pod `{id}`; `mezzo pod list` shows which there are"
        ))
    } else {
        failure
    }
}

/// Refuses what the scheduler would refuse, and also fields that it would ignore.
fn check(name: &str, pod: &Value) -> Result<(), Failure> {
    complaints(name, "pod", &mezzo_scheduler::check_pod_json(pod))
}

/// Until no deployment touches the pod and all its instances are stable, or `gone`: until nothing is left of it.
async fn wait(
    scheduler: &Scheduler,
    id: &str,
    timeout: Duration,
    gone: bool,
) -> Result<PodStatus, Failure> {
    let start = Instant::now();
    let mut heard = start;
    let mut progress = Progress::new();
    loop {
        let looked = match look(scheduler, id).await {
            Err(Failure::Unreachable(_)) if heard.elapsed() < AWAY => None,
            Err(Failure::NotFound(problem)) if !gone => return Err(Failure::NotFound(problem)),
            other => Some(other),
        };
        let text = match looked {
            None => format!("{id}: the scheduler is away"),
            Some(Ok((status, is_busy))) => {
                heard = Instant::now();
                if !gone && !is_busy && status.is_settled() {
                    progress.clear();
                    return Ok(status);
                }
                let waits = match status.message.as_str() {
                    "" => String::new(),
                    message => format!(": {}", clean(message)),
                };
                format!("{}{waits}", render::pod::progress(&status))
            }
            // The pod is forgotten at once; its tasks end within their grace periods.
            Some(Err(Failure::NotFound(_))) => {
                heard = Instant::now();
                if !is_busy(scheduler, id).await? {
                    progress.clear();
                    return Ok(PodStatus::default());
                }
                format!("{id}: its containers are ending")
            }
            Some(Err(other)) => return Err(other),
        };
        progress.show(&text, &format!(" ({} s)", start.elapsed().as_secs()));
        if start.elapsed() >= timeout {
            progress.clear();
            return Err(Failure::failed(format!(
                "{text}; not complete after {} s, it goes on without us",
                timeout.as_secs()
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look(scheduler: &Scheduler, id: &str) -> Result<(PodStatus, bool), Failure> {
    // First the deployments: one that is over by then has left the status that comes next.
    let is_busy = is_busy(scheduler, id).await?;
    let status = get(scheduler, id, "::status").await?;
    Ok((PodStatus::of(&status), is_busy))
}

/// Whether a deployment under way has to do with the pod.
async fn is_busy(scheduler: &Scheduler, id: &str) -> Result<bool, Failure> {
    let answer = scheduler.get("/v2/deployments").await?;
    let all = app::raw_list(&answer, "deployments");
    Ok(all.iter().any(|one| affects(one, id)))
}

/// Whether a deployment has to do with the pod.
fn affects(deployment: &Value, id: &str) -> bool {
    let pods = deployment.get("affectedPods").and_then(Value::as_array);
    pods.is_some_and(|pods| pods.iter().any(|pod| pod.as_str() == Some(id)))
}
