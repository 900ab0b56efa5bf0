//! Apps that keep volumes.

use super::*;

/// Fields of an app with one persistent volume.
fn volume(volume: Value) -> Value {
    let docker = json!({"image": "web:1"});
    json!({"container": {"docker": docker, "volumes": [merge(&json!({"containerPath": "data", "mode": "RW"}), &volume)]}})
}

#[test]
fn an_app_with_a_persistent_volume_is_resident_with_marathons_defaults() {
    let data = json!({"persistent": {"type": "root", "size": 100, "constraints": []}});
    let app = accepted(&with(volume(data.clone())));
    let residency = app.residency.expect("resident");
    assert_eq!(
        (residency.lost, residency.relaunch_ms),
        (TaskLost::WaitForever, 3_600_000)
    );
    assert_eq!(
        (app.upgrade.minimum_health_ppm, app.upgrade.maximum_over_ppm),
        (500_000, 0)
    );
    assert_eq!(app.unreachable, UnreachableStrategy::Disabled);
    assert_eq!(app.volumes_mb(), 100);
    assert_eq!(accepted(&app.to_json()), app);
    assert!(accepted(&with(json!({}))).residency.is_none());
    let given = json!({
        "residency": {"taskLostBehavior": "RELAUNCH_AFTER_TIMEOUT", "relaunchEscalationTimeoutSeconds": 10},
        "upgradeStrategy": {"minimumHealthCapacity": 0},
    });
    let app = accepted(&with(merge(&volume(data), &given)));
    let after = UnreachableStrategy::After {
        inactive_ms: 10_000,
        expunge_ms: 10_000,
    };
    assert_eq!(app.when_unreachable(), after);
    assert_eq!(app.upgrade.minimum_health_ppm, 0);
    assert_eq!(accepted(&app.to_json()), app);
}

#[test]
fn what_does_not_go_with_a_persistent_volume_is_named() {
    let good = json!({"persistent": {"size": 100}});
    for (extra, path) in [
        (
            volume(json!({"persistent": {}})),
            "/container/volumes(0)/persistent/size",
        ),
        (
            volume(json!({"persistent": {"size": 0}})),
            "/container/volumes(0)/persistent/size",
        ),
        (
            volume(json!({"persistent": {"size": 1, "type": "mount"}})),
            "/container/volumes(0)/persistent/type",
        ),
        (
            volume(json!({"persistent": {"size": 1}, "mode": "RO"})),
            "/container/volumes(0)/mode",
        ),
        (
            volume(json!({"persistent": {"size": 1}, "hostPath": "/a"})),
            "/container/volumes(0)/hostPath",
        ),
        (
            volume(json!({"persistent": {"size": 1}, "containerPath": "../a"})),
            "/container/volumes(0)/containerPath",
        ),
        (
            json!({"residency": {"taskLostBehavior": "WAIT_FOREVER"}}),
            "/residency",
        ),
        (
            merge(
                &volume(good.clone()),
                &json!({"upgradeStrategy": {"maximumOverCapacity": 0.5}}),
            ),
            "/upgradeStrategy/maximumOverCapacity",
        ),
        (
            merge(
                &volume(good.clone()),
                &json!({"unreachableStrategy": {"inactiveAfterSeconds": 1}}),
            ),
            "/unreachableStrategy",
        ),
        (
            merge(
                &volume(good.clone()),
                &json!({"residency": {"taskLostBehavior": "HOPE"}}),
            ),
            "/residency/taskLostBehavior",
        ),
        (
            merge(
                &volume(good),
                &json!({"revocable": true, "portDefinitions": []}),
            ),
            "/revocable",
        ),
    ] {
        let (_, paths) = refused(extra.clone());
        assert_eq!(paths, [path], "{extra}");
    }
}

/// Fields of an app with a persistent volume `data` and one with this `hostPath`.
fn beside(host_path: &str) -> Value {
    let data = json!({"containerPath": "data", "mode": "RW", "persistent": {"size": 1}});
    let other = json!({"containerPath": "/other", "hostPath": host_path, "mode": "RW"});
    json!({"container": {"docker": {"image": "web:1"}, "volumes": [data, other]}})
}

#[test]
fn a_relative_host_path_is_the_sandboxs_or_a_persistent_volumes() {
    let paths = |app: &mezzo_scheduler::app::App| {
        let volumes = app.volumes().into_iter();
        let in_sandbox = volumes.filter_map(|volume| Some(volume.source.in_sandbox()?.to_owned()));
        in_sandbox.collect::<Vec<String>>()
    };
    for (host_path, of_sandbox) in [("data", false), ("data2", true), ("a/b", true)] {
        let app = accepted(&with(beside(host_path)));
        assert_eq!(accepted(&app.to_json()), app, "{host_path}");
        let wanted: &[&str] = if of_sandbox { &[host_path] } else { &[] };
        assert_eq!(paths(&app), wanted, "what holds a volume mounts it");
    }
    for (host_path, words) in [
        ("data/x", "lies in the persistent volume \"data\""),
        (
            "../x",
            "must be an absolute path, or a relative one in the sandbox",
        ),
        (
            "a/./b",
            "must be an absolute path, or a relative one in the sandbox",
        ),
        (
            "a//b",
            "must be an absolute path, or a relative one in the sandbox",
        ),
        (
            "",
            "must be an absolute path, or a relative one in the sandbox",
        ),
    ] {
        let report = check_app_json(&with(beside(host_path)));
        let said = report.errors.iter().find(|problem| {
            problem.path == "/container/volumes(1)/hostPath" && problem.message.starts_with(words)
        });
        assert!(said.is_some(), "{host_path}: {:?}", report.errors);
    }
    // Also without any persistent volume.
    let plain = json!({"containerPath": "/data", "hostPath": "data", "mode": "RO"});
    let container = json!({"docker": {"image": "web:1"}, "volumes": [plain]});
    let app = accepted(&with(json!({ "container": container })));
    assert_eq!(paths(&app), ["data"]);
    assert!(app.residency.is_none());
    assert_eq!(app.to_json()["container"]["volumes"], json!([plain]));
}
