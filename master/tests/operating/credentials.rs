//! Who may call, what, and how often.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use mezzo_api::proto::{
    self, event, framework_service_client::FrameworkServiceClient,
    operator_service_client::OperatorServiceClient,
};
use mezzo_master::Config;
use tokio::time::timeout;
use tonic::{Code, Request, Status, transport::Channel};

use super::NODE;
use crate::common::{Agent, DEADLINE, Master, config, framework_info};

/// A credentials file with these principals, and their `authorization`.
fn credentials(dir: &Path, principals: &[(&str, &str)], rest: &str) -> (Config, Vec<String>) {
    let (mut text, mut lines) = (String::new(), Vec::new());
    for (name, allow) in principals {
        let (line, entry) = mezzo_master::new_credential(name).unwrap();
        text += &entry.replace("allow = []", &format!("allow = {allow}"));
        lines.push(format!("Bearer {line}"));
    }
    text += rest;
    let path = dir.join("credentials.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = Config {
        credentials: Some(path),
        ..config(dir)
    };
    (config, lines)
}

fn with<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = authorization.parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

async fn subscribe(
    channel: Channel,
    authorization: &str,
    info: proto::FrameworkInfo,
) -> Result<String, Status> {
    let request = proto::SubscribeRequest {
        framework: Some(info),
        suppressed_roles: Vec::new(),
    };
    let mut client = FrameworkServiceClient::new(channel);
    let mut stream = client
        .subscribe(with(request, authorization))
        .await?
        .into_inner();
    match stream.message().await?.unwrap().event.unwrap() {
        event::Event::Subscribed(subscribed) => Ok(subscribed.framework_id),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_principal_may_do_what_its_rules_say_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let principals = [
        ("ops", "['operate']"),
        ("team-a", "['subscribe a', 'subscribe a/*']"),
        ("team-b", "['subscribe a', 'read']"),
        ("eng", "['update-weights eng']"),
    ];
    let (config, lines) = credentials(dir.path(), &principals, "");
    let [ops, team_a, team_b, eng] = &lines[..] else {
        panic!()
    };
    let master = Master::start(config).await;
    let channel = master.channel().await;
    let mut operator = OperatorServiceClient::new(channel.clone());
    let get = proto::GetClusterRequest {};
    let code = |status: Result<_, Status>| status.map(drop).map_err(|status| status.code());
    assert_eq!(
        code(operator.get_cluster(get).await),
        Err(Code::Unauthenticated)
    );
    for (who, wanted) in [
        (ops.as_str(), Ok(())),
        (team_a, Err(Code::PermissionDenied)),
        (team_b, Ok(())),
        ("Bearer ops:guess", Err(Code::Unauthenticated)),
        ("ops", Err(Code::Unauthenticated)),
    ] {
        let answer = operator.get_cluster(with(get, who)).await;
        assert_eq!(code(answer), wanted, "{}", who.split(':').next().unwrap());
    }
    // By the object, too.
    for (role, wanted) in [("eng", Ok(())), ("sales", Err(Code::PermissionDenied))] {
        let weight = proto::update_weights_request::Weight {
            role: role.into(),
            weight_millis: 1,
        };
        let request = proto::UpdateWeightsRequest {
            weights: vec![weight],
        };
        let answer = operator.update_weights(with(request, eng)).await;
        assert_eq!(
            answer.map(drop).map_err(|status| status.code()),
            wanted,
            "{role}"
        );
    }
    // Frameworks: in roles of the principal, under its name, and nobody else's.
    let info = |role: &str| framework_info("f", role, Duration::from_secs(60));
    for role in ["b", "*"] {
        let refused = subscribe(channel.clone(), team_a, info(role))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(
            refused.message().contains("team-a may not subscribe"),
            "{refused}"
        );
    }
    let id = subscribe(channel.clone(), team_a, info("a/b"))
        .await
        .unwrap();
    let listed = async {
        loop {
            let request = with(proto::ListFrameworksRequest::default(), ops);
            let listed = operator.list_frameworks(request).await.unwrap();
            // Readers see it a moment after the call.
            match listed.into_inner().frameworks.pop() {
                Some(framework) => return framework.info.unwrap(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let shown = timeout(DEADLINE, listed).await.expect("it is listed");
    assert_eq!(
        (shown.framework_id.as_str(), shown.principal.as_str()),
        (id.as_str(), "team-a")
    );
    let stolen = proto::FrameworkInfo {
        framework_id: id,
        ..info("a")
    };
    let refused = subscribe(channel.clone(), team_b, stolen)
        .await
        .unwrap_err();
    assert!(refused.message().contains("another principal"), "{refused}");
    let forged = proto::FrameworkInfo {
        principal: "ops".into(),
        ..info("a")
    };
    let refused = subscribe(channel, team_a, forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Agents need a credential, too.
    let refused = Agent::reattach(&master, "", "node-1", NODE, Vec::new()).await;
    assert_eq!(
        refused.map(|_| ()).unwrap_err().code(),
        Code::Unauthenticated
    );
    master.stop().await;
}

#[tokio::test]
async fn a_principal_that_calls_too_often_is_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let rest = "calls_per_sec = 1\ncalls_burst = 3\n";
    let (config, lines) = credentials(
        dir.path(),
        &[("ops", "['operate']"), ("busy", "['read']")],
        rest,
    );
    let master = Master::start(config).await;
    let mut operator = master.operator().await;
    let get = proto::GetClusterRequest {};
    let refused = async {
        loop {
            if let Err(status) = operator.get_cluster(with(get, &lines[1])).await {
                return status;
            }
        }
    };
    let refused = timeout(DEADLINE, refused).await.expect("the burst ends");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let pause = refused.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pause: u64 = pause.to_str().unwrap().parse().unwrap();
    assert!((1..=1000).contains(&pause), "{pause}");
    // Others are not held up by it.
    for _ in 0..20 {
        operator.get_cluster(with(get, &lines[0])).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(pause)).await;
    operator.get_cluster(with(get, &lines[1])).await.unwrap();
    master.stop().await;
}

#[tokio::test]
async fn credentials_that_everybody_can_read_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _) = credentials(dir.path(), &[("ops", "['*']")], "");
    let path = config.credentials.clone().unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let error = mezzo_master::run(config, stop).await.unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}
