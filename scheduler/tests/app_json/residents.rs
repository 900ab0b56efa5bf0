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
