//! From a container's specification to the OCI runtime specification that libcontainer executes, with the safe
//! defaults filled in. Pure: what the host is like and who the user is come in as arguments.

pub(crate) mod devices;
pub(crate) mod grant;
mod mounts;
pub(crate) mod security;
pub(crate) mod validate;

use std::path::Path;

use oci_spec::runtime::{
    LinuxBuilder, LinuxDevice, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec,
    UserBuilder,
};

use crate::cgroup::CgroupMode;
use crate::group::Shared;
use crate::model::{ContainerSpec, Network};
use crate::stage::Staged;
use crate::terminal::USUAL_KIND;
use crate::user::ResolvedUser;
use devices::HostDevice;
pub(crate) use mounts::PART_OF_PARENT;

/// What the builder must know beside the specification.
#[derive(Clone, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) id: &'a str,
    /// Where the root file system is mounted.
    pub(crate) rootfs: &'a Path,
    pub(crate) cgroup: &'a str,
    pub(crate) user: &'a ResolvedUser,
    pub(crate) host: HostFacts,
    /// The devices of the specification, as the host has them.
    pub(crate) devices: &'a [HostDevice],
    /// Whether it is in a user namespace of its own.
    pub(crate) own_users: bool,
    /// What was made ready for that.
    pub(crate) staged: Option<&'a Staged>,
    /// What it shares with the others of its group.
    pub(crate) shared: Option<&'a Shared>,
}

/// What the builder must know of the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostFacts {
    pub(crate) cgroups: CgroupMode,
    /// Whether hard limits may be raised (CAP_SYS_RESOURCE).
    pub(crate) may_raise_limits: bool,
    /// The most open files that anybody may ask for, whatever their capabilities.
    pub(crate) most_files: u64,
}

/// Builds the OCI specification. `hard_limit` tells the present hard limit for a kind, for hosts that cannot
/// raise it.
pub(crate) fn build(
    spec: &ContainerSpec,
    context: &Context<'_>,
    hard_limit: &dyn Fn(&str) -> Option<u64>,
) -> Result<Spec, String> {
    let text = |error: oci_spec::OciSpecError| error.to_string();
    let root = RootBuilder::default()
        .path(context.rootfs)
        .readonly(spec.readonly_rootfs)
        .build()
        .map_err(text)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(spec, context.own_users)?)
        .cgroups_path(context.cgroup)
        .masked_paths(security::masked_paths(spec.privileged))
        .readonly_paths(security::readonly_paths(spec.privileged))
        .build()
        .map_err(text)?;
    // Limits and devices are `cgroup`'s; the filter is loaded by the executor, compiled once: see seccomp.rs.
    linux
        .set_resources(None)
        .set_seccomp(None)
        .set_devices(nodes(context.devices)?)
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    linux.set_rootfs_propagation(Some("private".to_owned()));
    let mut oci = Spec::default();
    oci.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(Some(hostname(spec, context.id)))
        .set_mounts(Some(mounts::mounts(spec, context)?))
        .set_process(Some(process(spec, context, hard_limit)?))
        .set_linux(Some(linux));
    Ok(oci)
}

/// Beside these libcontainer makes the standard few.
fn nodes(devices: &[HostDevice]) -> Result<Option<Vec<LinuxDevice>>, String> {
    let nodes: Result<Vec<_>, _> = devices.iter().map(HostDevice::node).collect();
    nodes.map(|nodes| (!nodes.is_empty()).then_some(nodes))
}

fn process(
    spec: &ContainerSpec,
    context: &Context<'_>,
    hard_limit: &dyn Fn(&str) -> Option<u64>,
) -> Result<Process, String> {
    let text = |error: oci_spec::OciSpecError| error.to_string();
    let mut user = UserBuilder::default()
        .uid(context.user.uid)
        .gid(context.user.gid);
    if !context.user.additional_gids.is_empty() {
        user = user.additional_gids(context.user.additional_gids.clone());
    }
    let mut rlimits = Vec::new();
    for limit in &spec.rlimits {
        let hard = match hard_limit(&limit.kind) {
            Some(present) if !context.host.may_raise_limits => limit.hard.min(present),
            Some(_) | None if limit.kind == "RLIMIT_NOFILE" => {
                limit.hard.min(context.host.most_files)
            }
            Some(_) | None => limit.hard,
        };
        rlimits.push(rlimit(&limit.kind, limit.soft.min(hard), hard)?);
    }
    let mut process = ProcessBuilder::default()
        .terminal(spec.terminal)
        .user(user.build().map_err(text)?)
        .args(spec.args.clone())
        .env(environment(spec, &context.user.home))
        .cwd(&spec.cwd)
        .capabilities(security::capabilities(spec)?)
        .rlimits(rlimits)
        // Keepers protect themselves from the OOM killer; their containers must not inherit that.
        .oom_score_adj(spec.limits.oom_score_adj())
        .build()
        .map_err(text)?;
    process.set_apparmor_profile(spec.apparmor.clone());
    // Absent and false differ in libcontainer: absent alone means that set-user-ID programs may gain privileges.
    process.set_no_new_privileges(if spec.privileged { None } else { Some(true) });
    Ok(process)
}

fn rlimit(kind: &str, soft: u64, hard: u64) -> Result<PosixRlimit, String> {
    let parsed: PosixRlimitType =
        serde_json::from_value(serde_json::Value::String(kind.to_owned()))
            .map_err(|_| format!("rlimit {kind:?} is not known"))?;
    PosixRlimitBuilder::default()
        .typ(parsed)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| error.to_string())
}

/// The environment as `NAME=value`, with HOME and PATH, and of a terminal TERM, if the caller gave none.
fn environment(spec: &ContainerSpec, home: &str) -> Vec<String> {
    let mut result: Vec<String> = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let term = spec.terminal.then_some(("TERM", USUAL_KIND));
    let missing = [("HOME", home), ("PATH", crate::model::DEFAULT_PATH)];
    for (name, value) in missing.into_iter().chain(term) {
        if !spec.env.iter().any(|(known, _)| known == name) {
            result.push(format!("{name}={value}"));
        }
    }
    result
}

fn hostname(spec: &ContainerSpec, id: &str) -> String {
    // The kernel takes 64 bytes, DNS labels 63.
    spec.hostname
        .clone()
        .unwrap_or_else(|| id.chars().take(63).collect())
}

fn namespaces(spec: &ContainerSpec, own_users: bool) -> Result<Vec<LinuxNamespace>, String> {
    let mut types = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    match spec.network {
        Network::Host => {}
        Network::None | Network::Prepared => types.push(LinuxNamespaceType::Network),
    }
    if own_users {
        types.push(LinuxNamespaceType::User);
    }
    types
        .into_iter()
        .map(|kind| {
            let builder = LinuxNamespaceBuilder::default().typ(kind);
            builder.build().map_err(|error| error.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MountSpec, Rlimit, Rootfs};

    fn oci(spec: &ContainerSpec) -> serde_json::Value {
        oci_on(spec, CgroupMode::Hybrid)
    }

    fn oci_on(spec: &ContainerSpec, cgroups: CgroupMode) -> serde_json::Value {
        let user = ResolvedUser {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![7],
            home: "/srv".into(),
        };
        let context = Context {
            id: "web.1",
            rootfs: Path::new("/state/rootfs"),
            cgroup: "/mezzo/containers/web.1",
            user: &user,
            host: HostFacts {
                cgroups,
                may_raise_limits: false,
                most_files: 1 << 20,
            },
            devices: &[],
            own_users: false,
            staged: None,
            shared: None,
        };
        serde_json::to_value(build(spec, &context, &|_| Some(1024)).unwrap()).unwrap()
    }

    fn plain() -> ContainerSpec {
        ContainerSpec::new(
            Rootfs::Dir("/image".into()),
            vec!["/bin/app".into(), "-v".into()],
        )
    }

    #[test]
    fn the_defaults_are_the_safe_ones() {
        let oci = oci(&plain());
        let process = &oci["process"];
        assert_eq!(process["noNewPrivileges"], true);
        let capabilities = &process["capabilities"];
        for set in ["inheritable", "ambient"] {
            assert!(
                capabilities[set].as_array().is_none_or(Vec::is_empty),
                "{set} is empty"
            );
        }
        let bounding = capabilities["bounding"].to_string();
        for dangerous in [
            "SYS_ADMIN",
            "MKNOD",
            "NET_RAW",
            "SYS_PTRACE",
            "NET_ADMIN",
            "AUDIT_WRITE",
        ] {
            assert!(!bounding.contains(dangerous), "{dangerous}");
        }
        assert!(
            oci["linux"]["maskedPaths"]
                .to_string()
                .contains("/proc/kcore")
        );
        assert!(
            oci["linux"]["readonlyPaths"]
                .to_string()
                .contains("/proc/sys")
        );
        assert_eq!(oci["linux"]["rootfsPropagation"], "private");
    }

    #[test]
    fn process_and_namespaces_follow_the_specification() {
        let mut spec = plain();
        spec.network = Network::None;
        spec.env = vec![("A".into(), "b=c".into())];
        spec.rlimits = vec![Rlimit {
            kind: "RLIMIT_NOFILE".into(),
            soft: 4096,
            hard: 4096,
        }];
        let oci = oci(&spec);
        insta::assert_json_snapshot!(serde_json::json!([
            oci["process"]["env"], oci["process"]["user"], oci["process"]["rlimits"], oci["linux"]["namespaces"],
            oci["hostname"],
        ]), @r#"
        [
          [
            "A=b=c",
            "HOME=/srv",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
          ],
          {
            "additionalGids": [
              7
            ],
            "gid": 1001,
            "uid": 1000
          },
          [
            {
              "hard": 1024,
              "soft": 1024,
              "type": "RLIMIT_NOFILE"
            }
          ],
          [
            {
              "type": "pid"
            },
            {
              "type": "mount"
            },
            {
              "type": "ipc"
            },
            {
              "type": "uts"
            },
            {
              "type": "cgroup"
            },
            {
              "type": "network"
            }
          ],
          "web.1"
        ]
        "#);
    }

    #[test]
    fn devices_in_directories_get_those_made_first() {
        let mut spec = plain();
        for target in ["/dev/a/b/two", "/dev/a/one", "/dev/zero9"] {
            spec.devices.push(crate::model::DeviceSpec {
                source: "/dev/zero".into(),
                target: target.into(),
            });
        }
        let oci = oci(&spec);
        let targets: Vec<_> = oci["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        assert_eq!(targets[6..], ["/dev/a", "/dev/a/b"]);
    }

    #[test]
    fn binds_and_memory_file_systems_come_after_the_standard_mounts() {
        let mut spec = plain();
        spec.mounts = vec![
            MountSpec::Bind {
                source: "/host/dir".into(),
                target: "/mnt/x".into(),
                readonly: true,
            },
            MountSpec::Tmpfs {
                target: "/scratch".into(),
                size_bytes: 4096,
                mode: 0o1777,
            },
        ];
        let oci = oci_on(&spec, CgroupMode::V2);
        let mounts = oci["mounts"].as_array().unwrap();
        let targets: Vec<_> = mounts
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        assert_eq!(
            targets,
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/dev/shm",
                "/dev/mqueue",
                "/sys",
                "/sys/fs/cgroup",
                "/mnt/x",
                "/scratch"
            ]
        );
        assert_eq!(
            mounts[7]["options"],
            serde_json::json!([
                "rbind", "rprivate", "nosuid", "nodev", "rnosuid", "rnodev", "ro", "rro"
            ])
        );
        assert_eq!(
            mounts[8]["options"],
            serde_json::json!(["nosuid", "nodev", "size=4096", "mode=1777"])
        );
    }
}
