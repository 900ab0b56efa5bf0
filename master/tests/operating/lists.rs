//! Lists: filtered, paged, and their tokens.

use std::time::Duration;

use mezzo_api::proto::{self, TaskState};
use tokio::time::timeout;
use tonic::Code;

use super::{NODE, set_weight};
use crate::common::{Agent, DEADLINE, Framework, Master, config, task};

#[tokio::test]
async fn lists_are_filtered_and_their_tokens_are_bound_to_the_filters() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(config(dir.path())).await;
    let mut agents = Vec::new();
    for n in 0..5 {
        agents.push(Agent::attach(&master, &format!("node-{}", n % 2), NODE).await);
    }
    // Readers see it a moment after the call.
    master
        .wait_for("all agents", |cluster| cluster.agents_connected == 5)
        .await;
    let mut operator = master.operator().await;
    let mut request = proto::ListAgentsRequest {
        hostname: "node-0".into(),
        page_size: 2,
        states: vec![proto::AgentState::AgentConnected.into()],
        draining: Some(false),
        ..proto::ListAgentsRequest::default()
    };
    let page = operator
        .list_agents(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.agents.len(), 2);
    request.page_token = page.next_page_token;
    let other = proto::ListAgentsRequest {
        hostname: "node-1".into(),
        ..request.clone()
    };
    let refused = operator.list_agents(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("other filters"), "{refused}");
    let page = operator.list_agents(request).await.unwrap().into_inner();
    assert_eq!((page.agents.len(), page.next_page_token.as_str()), (1, ""));

    let mut framework = Framework::subscribe(&master, "test").await;
    let offers = framework.expect_offers().await;
    framework
        .accept(
            &offers[..1],
            vec![task("t1", &offers[0].agent_id, "cpus:1;mem:64")],
        )
        .await;
    for (states, role, n) in [
        (vec![], "", 1),
        (vec![TaskState::TaskStaging], "*", 1),
        (vec![TaskState::TaskRunning], "", 0),
        (vec![], "eng", 0),
    ] {
        let request = proto::ListTasksRequest {
            states: states.into_iter().map(Into::into).collect(),
            role: role.to_owned(),
            ..proto::ListTasksRequest::default()
        };
        // Readers see it a moment after the call.
        let listed = async {
            loop {
                let page = operator
                    .list_tasks(request.clone())
                    .await
                    .unwrap()
                    .into_inner();
                if page.tasks.len() == n {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, listed).await.expect("the filter fits");
    }
    for role in ["eng", "eng/web", "sales"] {
        set_weight(&master, role).await;
    }
    let request = proto::ListRolesRequest {
        within: "eng".into(),
        page_size: 1,
        ..proto::ListRolesRequest::default()
    };
    let listed = async {
        loop {
            let both = proto::ListRolesRequest {
                page_size: 0,
                ..request.clone()
            };
            if operator
                .list_roles(both)
                .await
                .unwrap()
                .into_inner()
                .roles
                .len()
                == 2
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, listed)
        .await
        .expect("both roles are listed");
    let page = operator
        .list_roles(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.roles[0].name, "eng");
    let request = proto::ListRolesRequest {
        page_token: page.next_page_token,
        ..request
    };
    let page = operator.list_roles(request).await.unwrap().into_inner();
    assert_eq!(
        (page.roles[0].name.as_str(), page.next_page_token.as_str()),
        ("eng/web", "")
    );
    master.stop().await;
}
