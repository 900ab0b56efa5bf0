//! Each mistake is named with its path.

use super::*;

#[test]
fn wrong_types_are_named_with_their_path() {
    for (extra, path) in [
        (json!({"cpus": "1"}), "/cpus"),
        (json!({"instances": 1.5}), "/instances"),
        (json!({"env": ["A=1"]}), "/env"),
        (json!({"env": {"A": 1}}), "/env/A"),
        (json!({"labels": {"A": true}}), "/labels/A"),
        (json!({"args": "x"}), "/args"),
        (json!({"args": [1]}), "/args(0)"),
        (json!({"container": []}), "/container"),
        (
            json!({"container": {"docker": {"image": 1}}}),
            "/container/docker/image",
        ),
        (
            json!({"portDefinitions": [{"port": "80"}]}),
            "/portDefinitions(0)/port",
        ),
        (json!({"healthChecks": {}}), "/healthChecks"),
        (json!({"upgradeStrategy": 1}), "/upgradeStrategy"),
        (json!({"requirePorts": "yes"}), "/requirePorts"),
    ] {
        assert_eq!(refused(extra), (ProblemKind::Type, vec![path.to_owned()]));
    }
}

#[test]
fn wrong_values_are_named_with_their_path() {
    for (extra, path) in [
        (json!({"id": "/Web"}), "/id"),
        (json!({"id": "../../etc"}), "/id"),
        (json!({"id": "/web/restart"}), "/id"),
        (json!({"cpus": 0}), "/cpus"),
        (json!({"cpus": 0.0001}), "/cpus"),
        (json!({"cpus": 1e300}), "/cpus"),
        (json!({"mem": 0}), "/mem"),
        (json!({"disk": -1}), "/disk"),
        (json!({"instances": -1}), "/instances"),
        (json!({"instances": 10_000_000}), "/instances"),
        (json!({"cmd": "a", "args": ["b"]}), "/cmd"),
        (json!({"cmd": "a\u{0}b"}), "/cmd"),
        (json!({"env": {"A=B": "1"}}), "/env/A=B"),
        (json!({"env": {"A": {"secret": "s"}}}), "/env/A/secret"),
        (
            json!({"container": {"type": "ROCKET", "docker": {"image": "a"}}}),
            "/container/type",
        ),
        (
            json!({"container": {"docker": {}}}),
            "/container/docker/image",
        ),
        (
            json!({"container": {"docker": {"image": "a b"}}}),
            "/container/docker/image",
        ),
        (
            json!({"container": {"docker": {"image": "a", "network": "OVERLAY"}}}),
            "/container/docker/network",
        ),
        (
            json!({"container": {"docker": {"image": "a"}, "portMappings": [{"containerPort": 80}]}}),
            "/container/portMappings",
        ),
        (
            json!({"container": {"docker": {"image": "a"}, "volumes": [{"containerPath": "/d", "external": {"size": 1}}]}}),
            "/container/volumes(0)/external",
        ),
        (
            json!({"portDefinitions": [{"port": 70_000}]}),
            "/portDefinitions(0)/port",
        ),
        (
            json!({"portDefinitions": [{"port": 80}, {"port": 80}]}),
            "/portDefinitions(1)/port",
        ),
        (
            json!({"portDefinitions": [{"protocol": "sctp"}]}),
            "/portDefinitions(0)/protocol",
        ),
        (json!({"ports": [80, 80]}), "/ports(1)/port"),
        (
            json!({"healthChecks": [{"protocol": "SMTP"}]}),
            "/healthChecks(0)/protocol",
        ),
        (
            json!({"healthChecks": [{"protocol": "HTTP", "portIndex": 3}]}),
            "/healthChecks(0)/portIndex",
        ),
        (
            json!({"healthChecks": [{"protocol": "COMMAND"}]}),
            "/healthChecks(0)/command",
        ),
        (
            json!({"healthChecks": [{"protocol": "TCP"}, {"protocol": "TCP", "intervalSeconds": 0}]}),
            "/healthChecks(1)/intervalSeconds",
        ),
        (
            json!({"upgradeStrategy": {"minimumHealthCapacity": 1.5}}),
            "/upgradeStrategy/minimumHealthCapacity",
        ),
        (
            json!({"upgradeStrategy": {"canary": {}, "blueGreen": {}}}),
            "/upgradeStrategy/blueGreen",
        ),
        (
            json!({"upgradeStrategy": {"canary": {"instances": 0}}}),
            "/upgradeStrategy/canary/instances",
        ),
        (
            json!({"upgradeStrategy": {"rollbackAfterSeconds": 0}}),
            "/upgradeStrategy/rollbackAfterSeconds",
        ),
        (
            json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}, "instances": 2}),
            "/",
        ),
        (
            json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}, "upgradeStrategy": {"minimumHealthCapacity": 1}}),
            "/upgradeStrategy/minimumHealthCapacity",
        ),
        (
            json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}, "upgradeStrategy": {"maximumOverCapacity": 0.5}}),
            "/upgradeStrategy/maximumOverCapacity",
        ),
        (
            json!({"labels": {"MARATHON_SINGLE_INSTANCE_APP": "true"}, "upgradeStrategy": {"blueGreen": {}}}),
            "/upgradeStrategy/blueGreen",
        ),
        (json!({"backoffFactor": 0.5}), "/backoffFactor"),
        (
            json!({"unreachableStrategy": "never"}),
            "/unreachableStrategy",
        ),
        (
            json!({"unreachableStrategy": {"inactiveAfterSeconds": 9, "expungeAfterSeconds": 3}}),
            "/unreachableStrategy",
        ),
        (json!({"killSelection": "RANDOM"}), "/killSelection"),
        (
            json!({"resourceLimits": {"cpus": 0.5}}),
            "/resourceLimits/cpus",
        ),
        (
            json!({"role": "dev", "acceptedResourceRoles": ["slave_public"]}),
            "/acceptedResourceRoles",
        ),
        (json!({"constraints": [["hostname"]]}), "/constraints(0)"),
        (
            json!({"constraints": [["rack", "UNIQUE"], ["rack", "unique"]]}),
            "/constraints(1)",
        ),
        (
            json!({"constraints": [["hostname", "UNIQUE", "a"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["rack", "LIKE"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["rack", "LIKE", "(a"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["rack", "UNLIKE", "(a{1000}){1000}"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["rack", "MAX_PER", "many"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["rack", "MAX_PER"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["rack", "GROUP_BY", "0"]]}),
            "/constraints(0)",
        ),
        (json!({"constraints": [["rack", "IS"]]}), "/constraints(0)"),
        (
            json!({"constraints": [["rack", "NEAR", "x"]]}),
            "/constraints(0)",
        ),
        (
            json!({"constraints": [["@planet", "IS", "earth"]]}),
            "/constraints(0)",
        ),
        (json!({"placement": "tight"}), "/placement"),
        (json!({"fetch": [{"uri": "http://x"}]}), "/fetch(0)/uri"),
        (json!({"fetch": [{"extract": true}]}), "/fetch(0)/uri"),
        (
            json!({"fetch": [{"uri": "hdfs://n/a.tgz"}]}),
            "/fetch(0)/uri",
        ),
        (
            json!({"fetch": [{"uri": "http://h/a", "destPath": "../a"}]}),
            "/fetch(0)/destPath",
        ),
        (json!({"uris": ["relative"]}), "/uris(0)/uri"),
        (
            json!({"uris": ["http://h/a"], "fetch": [{"uri": "http://h/a"}]}),
            "/uris",
        ),
        (json!({"dependencies": ["/a b"]}), "/dependencies(0)"),
        (json!({"dependencies": ["."]}), "/dependencies(0)"),
        (
            json!({"readinessChecks": [{}]}),
            "/readinessChecks(0)/portName",
        ),
        (
            ready(json!([{"portName": "api"}, {"portName": "api"}])),
            "/readinessChecks(1)",
        ),
        (
            ready(json!([{"portName": "api", "protocol": "TCP"}])),
            "/readinessChecks(0)/protocol",
        ),
        (
            ready(json!([{"portName": "api", "path": "x"}])),
            "/readinessChecks(0)/path",
        ),
        (
            ready(json!([{"portName": "api", "intervalSeconds": 0}])),
            "/readinessChecks(0)/intervalSeconds",
        ),
        (
            ready(json!([{"portName": "api", "httpStatusCodesForReady": []}])),
            "/readinessChecks(0)/httpStatusCodesForReady",
        ),
        (
            ready(json!([{"portName": "api", "httpStatusCodesForReady": [200, 99]}])),
            "/readinessChecks(0)/httpStatusCodesForReady(1)",
        ),
        (
            json!({"secrets": {"s": {"source": "../x"}}}),
            "/secrets/s/source",
        ),
        (json!({"secrets": {"s": {}}}), "/secrets/s/source"),
        (
            json!({"container": {"docker": {"image": "a", "pullConfig": {"secret": "s"}}}, "secrets": {"t": {"source": "x"}}}),
            "/container/docker/pullConfig/secret",
        ),
        (
            json!({"container": {"docker": {"image": "a", "pullConfig": {}}}}),
            "/container/docker/pullConfig/secret",
        ),
        (
            json!({"container": {"docker": {"image": "a", "credential": {"principal": "me"}}}}),
            "/container/docker/credential",
        ),
        (
            json!({"networks": [{"mode": "container/overlay"}]}),
            "/networks(0)/mode",
        ),
        (json!({"storeUrls": ["http://h/x"]}), "/storeUrls"),
    ] {
        let shown = extra.to_string();
        assert_eq!(
            refused(extra),
            (ProblemKind::Value, vec![path.to_owned()]),
            "{shown}"
        );
    }
}
