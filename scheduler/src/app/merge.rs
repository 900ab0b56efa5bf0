//! Overlays a partial update on an app's JSON, as `PUT` and `PATCH` do.
//!
//! Pure. Top-level fields replace; fields that exclude each other (`cmd` and `args`, deprecated and new names of ports)
//! push their rivals out.

use serde_json::Value;

/// Pairs of which setting the first drops the second, unless the update has both.
const RIVALS: [(&str, &str); 4] = [
    ("cmd", "args"),
    ("args", "cmd"),
    ("ports", "portDefinitions"),
    ("portDefinitions", "ports"),
];

/// `base` with the fields of `update` that are not null.
#[must_use]
pub fn merge(base: &Value, update: &Value) -> Value {
    let (Some(base), Some(update)) = (base.as_object(), update.as_object()) else {
        return update.clone();
    };
    let mut merged = base.clone();
    if changes_network(&Value::Object(update.clone())) {
        for name in ["portDefinitions", "ports", "networks", "requirePorts"] {
            merged.remove(name);
        }
    }
    for (name, value) in update.iter().filter(|(_, value)| !value.is_null()) {
        merged.insert(name.clone(), value.clone());
        for (_, rival) in RIVALS.iter().filter(|(winner, _)| winner == name) {
            if update.get(*rival).is_none_or(Value::is_null) {
                merged.remove(*rival);
            }
        }
    }
    Value::Object(merged)
}

/// Whether the update gives the app a network of its own, in the new way or in the old one: then ports of the machine's
/// network that it had mean nothing any more.
fn changes_network(update: &Value) -> bool {
    let new = update
        .pointer("/networks/0/mode")
        .and_then(Value::as_str)
        .is_some_and(|mode| mode.starts_with("container"));
    let old = update
        .pointer("/container/docker/network")
        .and_then(Value::as_str)
        .is_some_and(|network| matches!(network, "BRIDGE" | "USER"));
    new || old
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_given_changes() {
        let base = json!({"id": "/a", "cmd": "x", "cpus": 1, "env": {"A": "1", "B": "2"}});
        let update = json!({"cpus": 2, "env": {"A": "3"}, "mem": null});
        assert_eq!(
            merge(&base, &update),
            json!({"id": "/a", "cmd": "x", "cpus": 2, "env": {"A": "3"}})
        );
    }

    #[test]
    fn a_network_of_its_own_pushes_out_the_machines_ports() {
        let base =
            json!({"id": "/a", "networks": [{"mode": "host"}], "portDefinitions": [{"port": 1}]});
        let new = json!({"networks": [{"mode": "container/bridge"}]});
        let merged = merge(&base, &new);
        assert_eq!(
            merged,
            json!({"id": "/a", "networks": [{"mode": "container/bridge"}]})
        );
        let old = json!({"container": {"docker": {"network": "BRIDGE"}}});
        assert_eq!(
            merge(&base, &old),
            json!({"id": "/a", "container": {"docker": {"network": "BRIDGE"}}})
        );
        let host = json!({"networks": [{"mode": "host"}]});
        assert_eq!(merge(&base, &host), base);
    }

    #[test]
    fn args_push_out_cmd() {
        let base = json!({"id": "/a", "cmd": "x"});
        assert_eq!(
            merge(&base, &json!({"args": ["y"]})),
            json!({"id": "/a", "args": ["y"]})
        );
    }
}
