//! `mezzo job …`: jobs, through the scheduler's `/v1/jobs`; logs through the master and the node of the run.

use reqwest::Method;
use serde_json::{Value, json};

use super::Context;
use super::app::{complaints, prefix, read_file};
use crate::{
    args::job::{AddArgs, JobCommand, LogArgs, UpdateArgs},
    args::task,
    client::scheduler::Scheduler,
    failure::Failure,
    output,
    render::{self, clean},
    request,
    view::app::raw_list,
};

pub(crate) async fn run(context: &Context, command: JobCommand) -> Result<(), Failure> {
    let scheduler = Scheduler::new(&context.servers.scheduler)?;
    match command {
        JobCommand::Add(args) => add(context, &scheduler, &args).await,
        JobCommand::Update(args) => update(context, &scheduler, &args).await,
        JobCommand::List => {
            let answer = scheduler.get("/v1/jobs").await?;
            let jobs = raw_list(&answer, "jobs");
            let list = |style| render::job::list(jobs, style);
            context.output.emit(&jobs, list)
        }
        JobCommand::Show(args) => {
            let job = get(&scheduler, &args.name).await?;
            let show = |style| render::job::show(&job, style);
            context.output.emit(&job, show)
        }
        JobCommand::History(args) => {
            let job = get(&scheduler, &args.name).await?;
            let runs = raw_list(&job, "runs");
            let history = |style| render::job::history(runs, style);
            context.output.emit(&runs, history)
        }
        JobCommand::Run(args) => {
            let body = json!({ "arguments": args.arguments });
            let path = format!("{}/run", path(&args.name)?);
            let answer = scheduler
                .send(Method::POST, &path, false, Some(&body))
                .await?;
            let sentence = format!("{}: run {} begins", args.name, answer["run"]);
            context.output.done(&answer, &sentence)
        }
        JobCommand::Kill(args) => {
            let run = args
                .run
                .map_or_else(String::new, |run| format!("?run={run}"));
            let path = format!("{}/kill{run}", path(&args.name)?);
            let answer = scheduler.send(Method::POST, &path, false, None).await?;
            let n = usize::try_from(answer["killed"].as_u64().unwrap_or(0)).unwrap_or(0);
            let sentence = format!("{}: killing {}", args.name, render::count(n, "run"));
            context.output.done(&answer, &sentence)
        }
        JobCommand::Remove(args) => {
            change(
                context,
                &scheduler,
                Method::DELETE,
                &args.name,
                "",
                "removed",
            )
            .await
        }
        JobCommand::Enable(args) => {
            change(
                context,
                &scheduler,
                Method::POST,
                &args.name,
                "/enable",
                "enabled",
            )
            .await
        }
        JobCommand::Disable(args) => {
            change(
                context,
                &scheduler,
                Method::POST,
                &args.name,
                "/disable",
                "disabled",
            )
            .await
        }
        JobCommand::Log(args) => log(context, &scheduler, &args).await,
        JobCommand::Graph => {
            let answer = scheduler.get("/v1/jobs").await?;
            let jobs = raw_list(&answer, "jobs");
            let edges = render::job::edges(jobs);
            context.output.emit(&edges, |_| render::job::graph(jobs))
        }
    }
}

async fn change(
    context: &Context,
    scheduler: &Scheduler,
    method: Method,
    name: &str,
    suffix: &str,
    done: &str,
) -> Result<(), Failure> {
    let path = format!("{}{suffix}", path(name)?);
    scheduler.send(method, &path, false, None).await?;
    context
        .output
        .done(&json!({ "name": name }), &format!("{name}: {done}"))
}

fn path(name: &str) -> Result<String, Failure> {
    match name.parse::<mezzo_scheduler::jobs::JobName>() {
        Ok(name) => Ok(format!("/v1/jobs/{name}")),
        Err(problem) => Err(Failure::usage(format!(
            "the job's name {}",
            clean(&problem.to_string())
        ))),
    }
}

async fn get(scheduler: &Scheduler, name: &str) -> Result<Value, Failure> {
    scheduler
        .get(&path(name)?)
        .await
        .map_err(|failure| match failure {
            Failure::NotFound(_) => Failure::NotFound(format!(
                "no job `{name}`; `mezzo job list` shows which there are"
            )),
            other @ (Failure::Failed(_)
            | Failure::Usage(_)
            | Failure::Unreachable(_)
            | Failure::Code(_)
            | Failure::ReaderGone) => other,
        })
}

/// All files are read and checked before anything is sent.
async fn add(context: &Context, scheduler: &Scheduler, args: &AddArgs) -> Result<(), Failure> {
    let mut jobs = Vec::new();
    for file in &args.files {
        let file_name = file.display().to_string();
        let content = read_file(file)?;
        let many = match content.as_array() {
            Some(many) if !many.is_empty() => many.clone(),
            Some(_) | None => vec![content],
        };
        for mut job in many {
            request::default_role(&mut job, args.role.as_deref());
            complaints(&file_name, "job", &mezzo_scheduler::check_job_json(&job))?;
            jobs.push((file_name.clone(), job));
        }
    }
    let (mut answers, mut lines) = (Vec::new(), Vec::new());
    for (file, job) in &jobs {
        let name = job.get("name").and_then(Value::as_str).unwrap_or_default();
        let answer = scheduler
            .send(Method::PUT, &path(name)?, false, Some(job))
            .await;
        let answer = answer.map_err(|failure| prefix(failure, file))?;
        lines.push(format!("{name}: {}", render::job::when(&answer)));
        answers.push(answer);
    }
    context.output.done(&answers, &lines.join("\n"))
}

/// The job as it is, with another role. Answers tell the default of what is accepted, which goes with the role.
async fn update(
    context: &Context,
    scheduler: &Scheduler,
    args: &UpdateArgs,
) -> Result<(), Failure> {
    let mut job = get(scheduler, &args.name).await?;
    request::new_job_role(&mut job, &args.role);
    let path = path(&args.name)?;
    let answer = scheduler
        .send(Method::PUT, &path, false, Some(&job))
        .await?;
    let sentence = format!("{}: role {}", args.name, clean(&args.role));
    context.output.done(&answer, &sentence)
}

async fn log(context: &Context, scheduler: &Scheduler, args: &LogArgs) -> Result<(), Failure> {
    let job = get(scheduler, &args.name).await?;
    let runs = raw_list(&job, "runs");
    let wanted = |run: &&Value| args.run.is_none_or(|number| run["run"] == number);
    let found = runs.iter().filter(wanted).find_map(render::job::task_of);
    let Some(id) = found else {
        return Err(Failure::NotFound(match args.run {
            Some(run) => format!("{}: run {run} is not known, or had no task", args.name),
            None => format!("{}: no run had a task yet", args.name),
        }));
    };
    output::say(&format!("task {id}"));
    let log = task::LogArgs {
        task: id.to_owned(),
        follow: args.follow,
        tail: args.tail,
        since: None,
        stdout: false,
        stderr: false,
    };
    let mut master = context.master().await?;
    super::task::log(&mut master, &log).await
}
