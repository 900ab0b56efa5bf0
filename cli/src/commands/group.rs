//! `mezzo group …`: groups of apps and pods, through the scheduler's REST API.

use std::collections::BTreeSet;

use mezzo_scheduler::group::GroupId;
use reqwest::Method;
use serde_json::{Value, json};

use super::app::{plan, read_file};
use super::{Context, wait};
use crate::{
    args::{change::Planned, group::GroupCommand},
    client::scheduler::Scheduler,
    failure::Failure,
    render::{self, Style},
    request,
    view::{
        app::{self, App},
        pod::PodStatus,
    },
};

pub(crate) async fn run(context: &Context, command: GroupCommand) -> Result<(), Failure> {
    let scheduler = Scheduler::new(&context.servers.scheduler)?;
    match command {
        GroupCommand::List(args) => {
            list(context, &scheduler, &group_id(&args.id)?, Shown::Members).await
        }
        GroupCommand::Show(args) => {
            list(context, &scheduler, &group_id(&args.id)?, Shown::Whole).await
        }
        GroupCommand::Versions(args) => {
            let history = history(&scheduler, &group_id(&args.id)?).await?;
            context.output.emit(&history.versions, |style| {
                render::app::versions(&history.versions, &history.current, style)
            })
        }
        GroupCommand::Rollback(args) => {
            let id = group_id(&args.id)?;
            let history = history(&scheduler, &id).await?;
            let version = history.chosen(&id, args.version.as_deref())?;
            let body = json!({ "version": version });
            let how = (Method::PUT, "rolling back");
            change(context, &scheduler, how, &id, Some(&body), &args.how).await
        }
        GroupCommand::Apply(args) => {
            let body = read_file(&args.file)?;
            let name = args.file.display().to_string();
            check(&name, &body)?;
            let id = body.get("id").and_then(Value::as_str).unwrap_or("/");
            let id = group_id(id)?;
            if args.how.plan {
                let present = present(&scheduler, &id).await?;
                let changes = plan::of_group(id.as_str(), present.as_ref(), &body)?;
                let force = args.how.change.force;
                let answer = dry_run(&scheduler, Method::PUT, &id, force, Some(&body)).await?;
                return plan::emit(context, answer, &changes);
            }
            let how = (Method::PUT, "applying");
            change(context, &scheduler, how, &id, Some(&body), &args.how).await
        }
        GroupCommand::Scale(args) => {
            let id = group_id(&args.id)?;
            let body = json!({"scaleBy": args.factor});
            if args.how.plan {
                let present = present(&scheduler, &id).await?.unwrap_or_default();
                let changes = plan::of_scale(id.as_str(), &present, args.factor);
                let force = args.how.change.force;
                let answer = dry_run(&scheduler, Method::PUT, &id, force, Some(&body)).await?;
                return plan::emit(context, answer, &changes);
            }
            let how = (Method::PUT, "scaling");
            change(context, &scheduler, how, &id, Some(&body), &args.how).await
        }
        GroupCommand::Remove(args) => {
            let id = group_id(&args.id)?;
            let how = (Method::DELETE, "removing");
            change(context, &scheduler, how, &id, None, &args.how).await
        }
    }
}

fn group_id(text: &str) -> Result<GroupId, Failure> {
    text.parse().map_err(|problem| {
        Failure::usage(format!("`{text}` is not the path of a group: {problem}"))
    })
}

/// The versions that a group can go back to.
struct History {
    current: String,
    /// Newest first.
    versions: Vec<String>,
}

impl History {
    /// The version that was asked for, or the one before the present.
    fn chosen(&self, id: &GroupId, asked: Option<&str>) -> Result<String, Failure> {
        let mut versions = self.versions.iter();
        match asked {
            Some(asked) => versions
                .find(|version| *version == asked)
                .cloned()
                .ok_or_else(|| {
                    let asked = render::clean(asked);
                    Failure::NotFound(format!(
                        "{id} has no version `{asked}`; `mezzo group versions {id}` shows which there are"
                    ))
                }),
            None => versions
                .find(|version| **version < self.current)
                .cloned()
                .ok_or_else(|| Failure::failed(format!("{id} has no earlier version"))),
        }
    }
}

async fn history(scheduler: &Scheduler, id: &GroupId) -> Result<History, Failure> {
    let path = format!("/v2/groups{}", below(id));
    let group = scheduler.get(&format!("{path}?embed=group.groups")).await?;
    let current = group.get("version").and_then(Value::as_str);
    let answer = scheduler.get(&format!("{path}/versions")).await?;
    let versions = app::raw_list(&answer, "versions").iter();
    let mut versions: Vec<String> = versions
        .filter_map(|version| version.as_str().map(str::to_owned))
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    Ok(History {
        current: current.unwrap_or_default().to_owned(),
        versions,
    })
}

/// How much of a group is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// What lies in it.
    Members,
    /// Also what it is.
    Whole,
}

async fn list(
    context: &Context,
    scheduler: &Scheduler,
    id: &GroupId,
    shown: Shown,
) -> Result<(), Failure> {
    let answer = scheduler.get(&format!("/v2/groups{}", below(id))).await?;
    let mut apps: Vec<App> = Vec::new();
    let mut of_pods: BTreeSet<&str> = BTreeSet::new();
    let mut groups = vec![&answer];
    while let Some(group) = groups.pop() {
        apps.extend(app::list::<App>(group, "apps"));
        let pods = app::raw_list(group, "pods").iter();
        of_pods.extend(pods.filter_map(|pod| pod.get("id").and_then(Value::as_str)));
        groups.extend(app::raw_list(group, "groups"));
    }
    apps.sort_by(|a, b| a.id.cmp(&b.id));
    // A group has what its pods are to be, not how they stand.
    let stand = match of_pods.is_empty() {
        true => Value::Null,
        false => scheduler.get("/v2/pods/::status").await?,
    };
    let pods: Vec<PodStatus> = stand
        .as_array()
        .into_iter()
        .flatten()
        .map(PodStatus::of)
        .filter(|pod| of_pods.contains(pod.id.as_str()))
        .collect();
    context.output.emit(&answer, |style| match shown {
        Shown::Members => both(&apps, &pods, style),
        Shown::Whole => format!("{}\n{}", about(&answer, style), both(&apps, &pods, style)),
    })
}

/// What a group is, without what lies in it.
fn about(group: &Value, style: Style) -> String {
    let text = |field: &str| {
        let text = group.get(field).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let needs = app::raw_list(group.get("dependencies").unwrap_or(&Value::Null), "");
    let needs: Vec<&str> = needs.iter().filter_map(Value::as_str).collect();
    let enforces = group.get("enforceRole").and_then(Value::as_bool);
    let role = match enforces == Some(true) {
        true => "new apps have the group's name as their role".to_owned(),
        false => String::new(),
    };
    render::facts(
        style,
        &[
            ("group", text("id")),
            ("version", text("version")),
            ("needs", needs.join(", ")),
            ("role", role),
        ],
    )
}

/// Apps, and below them pods; of what there is none, nothing is said where there is something of the other.
fn both(apps: &[App], pods: &[PodStatus], style: Style) -> String {
    match (apps.is_empty(), pods.is_empty()) {
        (_, true) => render::app::list(apps, style),
        (true, false) => render::pod::list(pods, style),
        (false, false) => format!(
            "{}\n{}",
            render::app::list(apps, style),
            render::pod::list(pods, style)
        ),
    }
}

/// What follows `/v2/groups`.
fn below(id: &GroupId) -> &str {
    if *id == GroupId::root() {
        ""
    } else {
        id.as_str()
    }
}

/// The group as it is; none where there is none yet.
async fn present(scheduler: &Scheduler, id: &GroupId) -> Result<Option<Value>, Failure> {
    match scheduler.get(&format!("/v2/groups{}", below(id))).await {
        Ok(group) => Ok(Some(group)),
        Err(Failure::NotFound(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// The steps of a change that is not made.
async fn dry_run(
    scheduler: &Scheduler,
    method: Method,
    id: &GroupId,
    force: bool,
    body: Option<&Value>,
) -> Result<Value, Failure> {
    let path = format!("/v2/groups{}?force={force}&dryRun=true", below(id));
    scheduler.send(method, &path, false, body).await
}

async fn change(
    context: &Context,
    scheduler: &Scheduler,
    (method, verb): (Method, &str),
    id: &GroupId,
    body: Option<&Value>,
    Planned { plan, change: how }: &Planned,
) -> Result<(), Failure> {
    let timeout = request::duration("--timeout", &how.timeout)?;
    if *plan {
        let answer = dry_run(scheduler, method, id, how.force, body).await?;
        return context
            .output
            .emit(&answer, |style| render::app::plan(&answer, style));
    }
    let path = format!("/v2/groups{}?force={}", below(id), how.force);
    let answer = scheduler.send(method, &path, false, body).await?;
    if !how.wait {
        return context.output.done(&answer, &format!("{id}: {verb}"));
    }
    if let Some(deployment) = wait::deployment_id(&answer) {
        let group = format!("/v2/groups{}", below(id));
        wait::until_over(scheduler, id.as_str(), &group, &deployment, timeout).await?;
    }
    context.output.done(&answer, &format!("{id}: done"))
}

/// Refuses what the scheduler would refuse, and also fields that it would ignore.
fn check(name: &str, group: &Value) -> Result<(), Failure> {
    let report = mezzo_scheduler::check_group_json(group);
    let problems = report.errors.iter();
    let mut lines: Vec<String> = problems
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
    let lines: Vec<String> = lines.iter().map(|line| render::clean(line)).collect();
    Err(Failure::usage(format!(
        "{name} is not a valid group:\n{}",
        lines.join("\n")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_shown_with_what_it_needs() {
        let group = json!({"id": "/shop/web", "version": "v2", "dependencies": ["/shop/db", "/mail"], "enforceRole": false});
        insta::assert_snapshot!(about(&group, Style { colour: false }), @r"
        group    /shop/web
        version  v2
        needs    /shop/db, /mail
        ");
    }

    #[test]
    fn without_a_word_the_version_before_the_present_is_chosen() {
        let id = GroupId::root();
        let mut history = History {
            current: "2026-01-02".to_owned(),
            versions: ["2026-01-03", "2026-01-02", "2026-01-01"]
                .map(str::to_owned)
                .into(),
        };
        assert_eq!(history.chosen(&id, None).expect("one"), "2026-01-01");
        assert_eq!(
            history.chosen(&id, Some("2026-01-03")).expect("there"),
            "2026-01-03"
        );
        let missing = history.chosen(&id, Some("2025-01-01"));
        assert!(matches!(missing, Err(Failure::NotFound(_))), "{missing:?}");
        history.current = "2026-01-01".to_owned();
        assert!(matches!(history.chosen(&id, None), Err(Failure::Failed(_))));
    }

    #[test]
    fn a_group_file_is_checked_to_the_last_app_in_it() {
        let file = json!({"id": "/shop", "groups": [{"id": "web", "apps": [
            {"id": "front", "instnces": 2, "container": {"docker": {"image": "x:1"}}}]}]});
        let refusal = check("shop.json", &file).expect_err("refused").to_string();
        assert_eq!(
            refusal,
            "shop.json is not a valid group:\n  /groups(0)/apps(0)/instnces: no such field; did you mean `instances`?"
        );
    }
}
