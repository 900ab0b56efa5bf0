//! Why an app or a pod is not as it should be, for people.

use super::{Style, Table, facts, section};
use crate::view::{
    app::{App, Deployment, QueueItem},
    pod::PodStatus,
    problems::{failure_text, why_it_waits},
};

/// Who is asked about.
struct Subject {
    /// What it is, and its id.
    name: (&'static str, String),
    /// How many of its instances are as they should be.
    good: (&'static str, u64),
    wanted: u64,
    /// The latest.
    failure: Option<String>,
}

/// `mezzo app why`.
pub(crate) fn why(
    app: &App,
    waiting: Option<&QueueItem>,
    deployment: Option<&Deployment>,
    style: Style,
) -> String {
    let subject = Subject {
        name: ("app", app.id.clone()),
        good: ("running", app.tasks_running),
        wanted: app.instances,
        failure: app.last_task_failure.as_ref().map(failure_text),
    };
    tell(subject, waiting, deployment, style)
}

/// `mezzo pod why`.
pub(crate) fn why_pod(
    pod: &PodStatus,
    waiting: Option<&QueueItem>,
    deployment: Option<&Deployment>,
    style: Style,
) -> String {
    let last = pod.termination_history.last();
    let subject = Subject {
        name: ("pod", pod.id.clone()),
        good: ("stable", pod.stable() as u64),
        wanted: pod.spec.scaling.instances as u64,
        failure: last.map(|last| format!("{} at {}", last.message, last.terminated_at)),
    };
    tell(subject, waiting, deployment, style)
}

fn tell(
    subject: Subject,
    waiting: Option<&QueueItem>,
    deployment: Option<&Deployment>,
    style: Style,
) -> String {
    let Subject {
        name,
        good,
        wanted,
        failure,
    } = subject;
    let count = |item: &QueueItem| {
        let seen = item.processed_offers_summary.processed_offers_count;
        format!(
            "{} of {wanted} to be launched since {}, {seen} offers seen",
            item.count, item.since
        )
    };
    let deploys = deployment.map(|deployment| {
        let waits = deployment.reason.clone().unwrap_or_default();
        format!(
            "{} step {} of {}: {waits}",
            deployment.id, deployment.current_step, deployment.total_steps
        )
    });
    let mut text = facts(
        style,
        &[
            name,
            (good.0, format!("{} of {wanted}", good.1)),
            (
                "waiting",
                waiting.map_or_else(|| "nothing waits to be launched".to_owned(), count),
            ),
            (
                "because",
                waiting.and_then(why_it_waits).unwrap_or_default(),
            ),
            ("deployment", deploys.unwrap_or_default()),
            ("last failure", failure.unwrap_or_default()),
        ],
    );
    let offers = waiting.map_or(&[][..], |item| &item.last_unused_offers);
    if !offers.is_empty() {
        let mut table = Table::new(&["NODE", "AT", "REFUSED BECAUSE"]);
        for unused in offers.iter().rev() {
            table.row([
                unused.offer.hostname.as_str().into(),
                unused.timestamp.as_str().into(),
                unused.details.as_str().into(),
            ]);
        }
        text.push_str(&section(style, "LATEST OFFERS", &table.render(style, "  ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::PLAIN;
    use super::*;
    use crate::view::app::one;

    #[test]
    fn what_waits_is_told_with_each_offer_and_its_reason() {
        let app: App = one(&json!({"id": "/web", "instances": 3, "tasksRunning": 2}));
        let item: QueueItem = one(&json!({
            "app": {"id": "/web"}, "count": 1, "since": "t0", "waitingFor": "the latest offers were not enough: n1 (...)",
            "processedOffersSummary": {"processedOffersCount": 7},
            "lastUnusedOffers": [
                {"offer": {"hostname": "n1"}, "details": "cpus: asks for 2, 1 offered", "timestamp": "t1", "reason": ["InsufficientCpus"]},
                {"offer": {"hostname": "n2"}, "details": "constraint rack IS r1: the node has r2", "timestamp": "t2", "reason": []},
            ],
        }));
        insta::assert_snapshot!(why(&app, Some(&item), None, PLAIN), @r"
        app      /web
        running  2 of 3
        waiting  1 of 3 to be launched since t0, 7 offers seen
        because  the latest offers were not enough: n1 (...)

        LATEST OFFERS
          NODE  AT  REFUSED BECAUSE
          n2    t2  constraint rack IS r1: the node has r2
          n1    t1  cpus: asks for 2, 1 offered
        ");
    }

    #[test]
    fn an_app_that_waits_for_nothing_says_so() {
        let app: App = one(&json!({"id": "/web", "instances": 3, "tasksRunning": 3}));
        insta::assert_snapshot!(why(&app, None, None, PLAIN), @r"
        app      /web
        running  3 of 3
        waiting  nothing waits to be launched
        ");
    }

    #[test]
    fn a_pod_is_told_as_an_app_is() {
        let pod = PodStatus::of(&json!({
            "id": "/shop", "spec": {"scaling": {"instances": 2}},
            "instances": [{"status": "STABLE"}],
            "terminationHistory": [{"message": "log: exit code 1", "terminatedAt": "t0"}],
        }));
        let item: QueueItem = one(&json!({
            "pod": {"id": "/shop"}, "count": 1, "since": "t1", "waitingFor": "no offer was enough",
            "processedOffersSummary": {"processedOffersCount": 3},
        }));
        insta::assert_snapshot!(why_pod(&pod, Some(&item), None, PLAIN), @r"
        pod           /shop
        stable        1 of 2
        waiting       1 of 2 to be launched since t1, 3 offers seen
        because       no offer was enough
        last failure  log: exit code 1 at t0
        ");
    }
}
