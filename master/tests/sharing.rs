//! Quotas, offer filters and their explanation, over real gRPC.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the message it expects"
)]

mod common;

use std::time::Duration;

use common::{Agent, Framework, Master, config, framework_info, resources};
use mezzo_api::proto::{self, attribute_constraint as wire, update_quotas_request::Quota};
use tonic::Code;

const NODE: &str = "cpus:4;mem:4096;ports:[31000-31009]";

fn quotas(role: &str, guarantees: &str, limits: &str, force: bool) -> proto::UpdateQuotasRequest {
    proto::UpdateQuotasRequest {
        quotas: vec![Quota {
            role: role.to_owned(),
            guarantees: resources(guarantees),
            limits: resources(limits),
        }],
        force,
    }
}

/// The reasons that the master tells, when they have become what a pass makes of them.
async fn reasons(master: &Master, framework: &Framework, wanted: &str) -> Vec<String> {
    let framework_id = framework.id.clone();
    let mut operator = master.operator().await;
    for _ in 0..600 {
        let request = proto::ExplainFrameworkRequest {
            framework_id: framework_id.clone(),
        };
        // Snapshots come a little behind.
        let reasons = match operator.explain_framework(request).await {
            Ok(told) => told.into_inner().roles.remove(0).reasons,
            Err(status) if status.code() == Code::NotFound => Vec::new(),
            Err(status) => panic!("{status}"),
        };
        if reasons.iter().any(|reason| reason.contains(wanted)) {
            return reasons;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{wanted:?} was never told");
}

#[tokio::test]
async fn a_limit_cuts_offers_is_explained_and_outlives_the_master() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let agent = Agent::attach(&master, "node-1", NODE).await;
    let mut operator = master.operator().await;
    operator
        .update_quotas(quotas("team", "", "cpus:1.5", false))
        .await
        .unwrap();

    let info = framework_info("test", "team/web", Duration::from_secs(60));
    let mut framework = Framework::subscribe_as(&master, info.clone())
        .await
        .unwrap();
    let offers = framework.expect_offers().await;
    assert_eq!(
        offers[0].resources,
        resources("cpus:1.5;mem:4096;ports:[31000-31009]")
    );
    let told = reasons(&master, &framework, "it has not answered").await;
    assert_eq!(
        told[0],
        "role team is at its limit of 1.5 cpus, offers included"
    );
    assert!(told[1].contains("cpus:1.5"), "{told:?}");

    let held = operator
        .list_roles(proto::ListRolesRequest::default())
        .await
        .unwrap();
    let roles = held.into_inner().roles;
    let team = roles.iter().find(|role| role.name == "team").unwrap();
    assert_eq!(team.limits, resources("cpus:1.5"));
    assert_eq!(team.allocated_within, resources("cpus:1.5;mem:4096"));
    drop(operator);
    drop(framework);
    drop(agent);
    master.stop().await;

    let master = Master::start(config(dir.path())).await;
    let mut operator = master.operator().await;
    let roles = operator
        .list_roles(proto::ListRolesRequest::default())
        .await
        .unwrap();
    assert_eq!(roles.into_inner().roles[0].limits, resources("cpus:1.5"));
}

#[tokio::test]
async fn quotas_that_do_not_fit_are_refused_and_some_may_be_forced() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let _agent = Agent::attach(&master, "node-1", NODE).await;
    let mut operator = master.operator().await;
    let refused = operator
        .update_quotas(quotas("a", "cpus:5", "", false))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(
        refused.message().contains("5 cpus, and the cluster has 4"),
        "{refused}"
    );
    operator
        .update_quotas(quotas("a", "cpus:5;mem:4096", "", true))
        .await
        .unwrap();
    let refused = operator
        .update_quotas(quotas("a/b", "cpus:6", "", true))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused.message().contains("below it are guaranteed 6"),
        "{refused}"
    );

    // Nothing is left for others, and they can see why.
    let info = framework_info("other", "b", Duration::from_secs(60));
    let other = Framework::subscribe_as(&master, info).await.unwrap();
    reasons(&master, &other, "kept for guarantees of other roles").await;
}

#[tokio::test]
async fn a_framework_hears_only_of_agents_that_its_filter_admits() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let _unwanted = Agent::attach(&master, "node-1", NODE).await;
    let mut info = framework_info("picky", "*", Duration::from_secs(60));
    let filter = |pattern: &str| proto::OfferFilter {
        groups: vec![proto::ConstraintGroup {
            constraints: vec![proto::AttributeConstraint {
                selector: Some(wire::Selector::Field(wire::Field::Hostname.into())),
                predicate: Some(wire::Predicate::TextMatches(pattern.to_owned())),
            }],
        }],
        minimum: Vec::new(),
    };
    info.offer_filters = [("*".to_owned(), filter("node-[23"))].into();
    let Err(refused) = Framework::subscribe_as(&master, info.clone()).await else {
        panic!("a pattern that is none was taken");
    };
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    info.offer_filters = [("*".to_owned(), filter("node-[23]"))].into();
    let mut picky = Framework::subscribe_as(&master, info).await.unwrap();
    reasons(&master, &picky, "its offer filter does not admit").await;
    let _wanted = Agent::attach(&master, "node-2", NODE).await;
    let offers = picky.expect_offers().await;
    assert_eq!(offers[0].hostname, "node-2");
}
