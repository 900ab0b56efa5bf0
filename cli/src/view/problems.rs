//! What fails or waits, and why: the part of `mezzo status` that an operator looks at first.
//!
//! Pure: the cluster as seen → a list of problems, the worst first. Each names its subject and, where one is known,
//! the fix or the next command.

use serde::Serialize;

use super::{
    Framework, Node,
    app::{App, CrashLoop, Deployment, QueueItem},
};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) subject: String,
    pub(crate) message: String,
}

/// Everything seen at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) nodes: &'a [Node],
    pub(crate) frameworks: &'a [Framework],
    pub(crate) apps: &'a [App],
    pub(crate) deployments: &'a [Deployment],
    pub(crate) queue: &'a [QueueItem],
    /// The line that tells why the scheduler could not be asked.
    pub(crate) scheduler_error: Option<&'a str>,
}

/// The problems, errors before warnings, else in the order seen.
pub(crate) fn find(seen: &Seen<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |severity, subject: String, message: String| {
        problems.push(Problem {
            severity,
            subject,
            message,
        })
    };

    if seen.nodes.iter().all(|node| node.state != "connected") {
        add(
            Severity::Error,
            "cluster".to_owned(),
            "no node is connected: nothing can run; start one with `mezzo agent`".to_owned(),
        );
    }
    for node in seen.nodes.iter().filter(|node| node.state != "connected") {
        let severity = if node.state == "unreachable" {
            Severity::Error
        } else {
            Severity::Warning
        };
        add(
            severity,
            format!("node {}", node.hostname),
            format!("{}, {} tasks on it", node.state, node.tasks),
        );
    }
    if let Some(error) = seen.scheduler_error {
        add(Severity::Error, "scheduler".to_owned(), error.to_owned());
    }
    for framework in seen
        .frameworks
        .iter()
        .filter(|framework| !framework.connected)
    {
        add(
            Severity::Warning,
            format!("framework {}", framework.name),
            format!("not connected, {} tasks run on without it", framework.tasks),
        );
    }
    for app in seen.apps {
        app_problems(app, seen, &mut add);
    }
    problems.sort_by_key(|problem| problem.severity);
    problems
}

fn app_problems(app: &App, seen: &Seen<'_>, add: &mut impl FnMut(Severity, String, String)) {
    let subject = format!("app {}", app.id);
    let missing = app.instances.saturating_sub(app.tasks_running);
    let waiting = seen.queue.iter().find(|item| item.app.id == app.id);
    if missing > 0 {
        let mut message = format!("{missing} of {} instances do not run", app.instances);
        let why = why_not_running(app, waiting);
        if !why.is_empty() {
            message.push_str(": ");
            message.push_str(&why);
        }
        let starting = app.tasks_staged >= missing && app.last_task_failure.is_none();
        add(
            if starting {
                Severity::Warning
            } else {
                Severity::Error
            },
            subject.clone(),
            message,
        );
    }
    if app.tasks_unhealthy > 0 {
        add(
            Severity::Error,
            subject.clone(),
            format!("{} instances fail their health check", app.tasks_unhealthy),
        );
    }
    // An app that misses instances has told already what its deployment waits for.
    let told = missing > 0;
    let affects = |deployment: &&Deployment| !told && deployment.affected_apps.contains(&app.id);
    for deployment in seen.deployments.iter().filter(affects) {
        if let Some(reason) = deployment
            .reason
            .as_deref()
            .filter(|reason| !reason.is_empty())
        {
            let message = format!("deployment {} waits: {reason}", deployment.id);
            add(Severity::Warning, subject.clone(), message);
        }
    }
}

/// What holds an app up and how it failed last; empty if nothing is known.
pub(crate) fn why_not_running(app: &App, waiting: Option<&QueueItem>) -> String {
    let waits = waiting.and_then(why_it_waits).unwrap_or_default();
    // The scheduler's own words may tell of the failure already.
    let failure = app.last_task_failure.as_ref();
    let failure =
        failure.filter(|failure| failure.message.is_empty() || !waits.contains(&failure.message));
    let failure = failure.map(|failure| format!("last failure: {}", failure_text(failure)));
    let looping = app.crash_loop.as_ref().map(crash_loop_text);
    let looping = looping.filter(|_| !waits.contains("crash loop"));
    let waits = Some(waits).filter(|waits| !waits.is_empty());
    let parts = [looping, waits, failure];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// That it fails again and again, and when it starts again.
pub(crate) fn crash_loop_text(looping: &CrashLoop) -> String {
    let failures = looping.failures;
    if looping.time_left_seconds > 0.0 {
        let left = looping.time_left_seconds.ceil();
        return format!("crash loop: {failures} failures, next start in {left:.0} s");
    }
    format!("crash loop: {failures} failures")
}

/// Why the launch queue holds an app back, if it tells.
pub(crate) fn why_it_waits(item: &QueueItem) -> Option<String> {
    if let Some(reason) = item.reason.as_deref().filter(|reason| !reason.is_empty()) {
        return Some(reason.to_owned());
    }
    if item.delay.time_left_seconds > 0.0 {
        return Some(format!(
            "backs off for {:.0} s more after failures",
            item.delay.time_left_seconds.ceil()
        ));
    }
    let rejections: Vec<String> = item
        .processed_offers_summary
        .reject_summary_last_offers
        .iter()
        .filter(|rejection| rejection.declined > 0)
        .map(|rejection| {
            format!(
                "{} ({} of {} offers)",
                words(&rejection.reason),
                rejection.declined,
                rejection.processed
            )
        })
        .collect();
    if !rejections.is_empty() {
        return Some(format!("no offer fits: {}", rejections.join(", ")));
    }
    (item.count > 0 && item.processed_offers_summary.processed_offers_count == 0)
        .then(|| "waits for an offer".to_owned())
}

/// A failure in one line.
pub(crate) fn failure_text(failure: &super::app::TaskFailure) -> String {
    let state = failure
        .state
        .strip_prefix("TASK_")
        .unwrap_or(&failure.state)
        .to_lowercase();
    if failure.message.is_empty() {
        state
    } else {
        format!("{state}, {}", failure.message)
    }
}

/// `InsufficientCpus` → `insufficient cpus`.
fn words(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::app::{Delay, DeploymentId, OffersSummary, Rejection, TaskFailure};

    fn nothing<'a>() -> Seen<'a> {
        Seen {
            nodes: &[],
            frameworks: &[],
            apps: &[],
            deployments: &[],
            queue: &[],
            scheduler_error: None,
        }
    }

    fn node(state: &str) -> Node {
        Node {
            hostname: "n1".into(),
            state: state.into(),
            tasks: 3,
            ..Node::default()
        }
    }

    fn lines(seen: &Seen<'_>) -> Vec<String> {
        find(seen)
            .iter()
            .map(|problem| {
                format!(
                    "{:?} {}: {}",
                    problem.severity, problem.subject, problem.message
                )
            })
            .collect()
    }

    #[test]
    fn a_sound_cluster_has_no_problems() {
        let app = App {
            id: "/a".into(),
            instances: 2,
            tasks_running: 2,
            ..App::default()
        };
        assert_eq!(
            find(&Seen {
                nodes: &[node("connected")],
                apps: &[app],
                ..nothing()
            }),
            vec![]
        );
    }

    #[test]
    fn an_app_that_waits_says_which_offers_were_refused() {
        let app = App {
            id: "/a".into(),
            instances: 2,
            tasks_running: 1,
            ..App::default()
        };
        let item = QueueItem {
            count: 1,
            app: DeploymentId { id: "/a".into() },
            processed_offers_summary: OffersSummary {
                processed_offers_count: 4,
                unused_offers_count: 4,
                reject_summary_last_offers: vec![Rejection {
                    reason: "InsufficientCpus".into(),
                    declined: 1,
                    processed: 1,
                }],
            },
            ..QueueItem::default()
        };
        assert_eq!(
            lines(&Seen {
                nodes: &[node("connected")],
                apps: &[app],
                queue: &[item],
                ..nothing()
            }),
            [
                "Error app /a: 1 of 2 instances do not run: no offer fits: insufficient cpus (1 of 1 offers)"
            ]
        );
    }

    #[test]
    fn a_failing_app_tells_its_last_failure_and_the_back_off() {
        let app = App {
            id: "/a".into(),
            instances: 1,
            last_task_failure: Some(TaskFailure {
                state: "TASK_FAILED".into(),
                message: "exit code 7".into(),
                ..TaskFailure::default()
            }),
            ..App::default()
        };
        let item = QueueItem {
            app: DeploymentId { id: "/a".into() },
            delay: Delay {
                time_left_seconds: 2.2,
                overdue: false,
            },
            ..QueueItem::default()
        };
        assert_eq!(
            lines(&Seen {
                nodes: &[node("connected")],
                apps: &[app],
                queue: &[item],
                ..nothing()
            }),
            [
                "Error app /a: 1 of 1 instances do not run: backs off for 3 s more after failures; last failure: failed, exit code 7"
            ]
        );
    }

    #[test]
    fn a_crash_loop_is_told_once() {
        let app = App {
            id: "/a".into(),
            instances: 1,
            crash_loop: Some(CrashLoop {
                failures: 5,
                time_left_seconds: 1.2,
            }),
            ..App::default()
        };
        let seen = |queue: &[QueueItem]| {
            lines(&Seen {
                nodes: &[node("connected")],
                apps: std::slice::from_ref(&app),
                queue,
                ..nothing()
            })
        };
        assert_eq!(
            seen(&[]),
            [
                "Error app /a: 1 of 1 instances do not run: crash loop: 5 failures, next start in 2 s"
            ]
        );
        let words = "crash loop: 5 failures in a row; the next launch is delayed by 1.2 s";
        let item = QueueItem {
            app: DeploymentId { id: "/a".into() },
            reason: Some(words.to_owned()),
            ..QueueItem::default()
        };
        let told = format!("Error app /a: 1 of 1 instances do not run: {words}");
        assert_eq!(seen(&[item]), [told]);
    }

    #[test]
    fn errors_come_before_warnings() {
        let nodes = [node("disconnected"), node("connected"), node("unreachable")];
        assert_eq!(
            lines(&Seen {
                nodes: &nodes,
                scheduler_error: Some("cannot reach it"),
                ..nothing()
            }),
            [
                "Error node n1: unreachable, 3 tasks on it",
                "Error scheduler: cannot reach it",
                "Warning node n1: disconnected, 3 tasks on it",
            ]
        );
    }
}
