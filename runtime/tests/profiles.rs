//! Walls of an operator's own: seccomp and AppArmor profiles.

mod common;

use std::fs;

use common::{Node, chain, id, output, probe_in, tell};
use mezzo_runtime::{AppArmor, DEFAULT_APPARMOR_PROFILE, SeccompProfile, StartError};

/// Everything but two calls: one with an answer of its own, one for some arguments only.
const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
         "args": [{"index": 1, "value": 3, "op": "SCMP_CMP_EQ"}]}
    ]
}"#;

fn answer(out: &str, what: &str) -> String {
    let line = out
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{what}: ")));
    line.unwrap_or_else(|| panic!("{what} in {out}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seccomp_profile_of_ones_own_decides_also_for_executed_programs() {
    let Some(mut node) = Node::new().await else {
        return;
    };
    let mut spec = node.spec(&["sleep"]);
    spec.seccomp = Some(SeccompProfile::parse(PROFILE.as_bytes()).unwrap());
    node.runtime()
        .start(&id("own"), spec.clone())
        .await
        .unwrap();
    let refused = |out: &str| {
        assert_eq!(answer(out, "mknod"), "No space left on device");
        assert_eq!(
            answer(out, "raw socket"),
            "Address family not supported by protocol"
        );
        // The default profile refuses it, this one leaves it to the kernel.
        assert_ne!(answer(out, "keyctl"), "Operation not permitted");
    };
    refused(&output(&node, "own", probe_in(&["attack", "8"])).await);
    spec.args = node.spec(&["attack", "8"]).args;
    node.run("first", spec).await;
    refused(&node.stdout("first"));
    // The record keeps it for a runtime that comes later.
    node.close();
    node.open().await;
    refused(&output(&node, "own", probe_in(&["attack", "8"])).await);
    node.run("default", node.spec(&["attack", "8"])).await;
    assert_eq!(
        answer(&node.stdout("default"), "keyctl"),
        "Operation not permitted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_used_is_named() {
    let Some(node) = Node::new().await else {
        return;
    };
    let refuse = async |name: &str, spec| {
        let error = node.runtime().start(&id(name), spec).await.unwrap_err();
        let StartError::BadSpec { problem, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(
            problem.field,
            if name == "apparmor" { name } else { "seccomp" }
        );
        chain(&error)
    };
    let mut privileged = node.spec(&["true"]);
    privileged.privileged = true;
    privileged.seccomp = Some(SeccompProfile::parse(PROFILE.as_bytes()).unwrap());
    assert!(
        refuse("privileged", privileged)
            .await
            .contains("privileged")
    );
    let rules: Vec<String> = (0..200_u64)
        .map(|n| {
            let compare = |index| {
                let value = (n << 33) | n;
                format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#)
            };
            let args: Vec<String> = (0..6).map(compare).collect();
            let args = args.join(",");
            format!(r#"{{"name": "ioctl", "action": "SCMP_ACT_ERRNO", "args": [{args}]}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#,
        rules.join(",")
    );
    let mut long = node.spec(&["true"]);
    long.seccomp = Some(SeccompProfile::parse(text.as_bytes()).unwrap());
    assert!(refuse("long", long).await.contains("instructions"));
    let mut unknown = node.spec(&["true"]);
    unknown.apparmor = Some("nobody-loaded-this".to_owned());
    assert!(refuse("apparmor", unknown).await.contains("AppArmor"));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_under_an_apparmor_profile_where_the_kernel_has_it() {
    let Some(mut node) = Node::closed() else {
        return;
    };
    node.config.apparmor = AppArmor::Auto;
    node.open().await;
    let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    if !loaded.contains(DEFAULT_APPARMOR_PROFILE) {
        tell("skipped: this machine has no AppArmor, or no apparmor_parser");
        return;
    }
    let current = "/proc/self/attr/current";
    node.run("first", node.spec(&["cat", current])).await;
    assert_eq!(node.stdout("first").trim(), "mezzo-default (enforce)");
    node.runtime()
        .start(&id("lasting"), node.spec(&["sleep"]))
        .await
        .unwrap();
    let executed = output(&node, "lasting", probe_in(&["cat", current])).await;
    assert_eq!(executed.trim(), "mezzo-default (enforce)");
    // What no capability gives back; and what it does where there is no profile.
    for (name, profile, mounted) in [
        ("confined", None, "Permission denied"),
        ("unconfined", Some("unconfined".to_owned()), "ok"),
    ] {
        let mut spec = node.spec(&["attack", "8"]);
        spec.capabilities_add.push("SYS_ADMIN".to_owned());
        spec.apparmor = profile;
        node.run(name, spec).await;
        assert_eq!(answer(&node.stdout(name), "mount"), mounted, "{name}");
    }
}
