//! Why an app is not as it should be, for people.

use super::{Style, Table, facts, section};
use crate::view::{
    app::{App, Deployment, QueueItem},
    problems::{failure_text, why_it_waits},
};

/// `mezzo app why`.
pub(crate) fn why(
    app: &App,
    waiting: Option<&QueueItem>,
    deployment: Option<&Deployment>,
    style: Style,
) -> String {
    let count = |item: &QueueItem| {
        let seen = item.processed_offers_summary.processed_offers_count;
        format!(
            "{} of {} to be launched since {}, {seen} offers seen",
            item.count, app.instances, item.since
        )
    };
    let deploys = deployment.map(|deployment| {
        let waits = deployment.reason.clone().unwrap_or_default();
        format!(
            "{} step {} of {}: {waits}",
            deployment.id, deployment.current_step, deployment.total_steps
        )
    });
    let failure = app.last_task_failure.as_ref().map(failure_text);
    let mut text = facts(
        style,
        &[
            ("app", app.id.clone()),
            (
                "running",
                format!("{} of {}", app.tasks_running, app.instances),
            ),
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
}
