//! What is mounted in a container: the standard file systems, then the caller's. Pure. Targets are resolved
//! beneath the root by libcontainer (openat2), never by string.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use super::Context;
use crate::cgroup::CgroupMode;
use crate::model::{ContainerSpec, MountSpec, SHARED_VOLUMES};

/// An option of a mount that is a new directory of the file system above it, with attributes of its own. The kernel walks
/// all file systems of all containers when a memory cgroup goes: each that is saved makes a full node faster.
pub(crate) const PART_OF_PARENT: &str = "x-mezzo.part-of-parent";

pub(super) fn mounts(spec: &ContainerSpec, context: &Context<'_>) -> Result<Vec<Mount>, String> {
    let (staged, shared) = (context.staged, context.shared);
    let sys_access = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        match shared {
            // Their 64 MiB are those of /dev, in which hardly anything else is.
            None => mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", PART_OF_PARENT],
            )?,
            Some(shared) => mount(
                "/dev/shm",
                "bind",
                &shared.shm.to_string_lossy(),
                &["rbind", "rprivate", "nosuid", "noexec", "nodev"],
            )?,
        },
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        )?,
        match staged {
            None => mount(
                "/sys",
                "sysfs",
                "sysfs",
                &["nosuid", "noexec", "nodev", sys_access],
            )?,
            Some(staged) => mount(
                "/sys",
                "bind",
                &staged.sys.to_string_lossy(),
                &["rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"],
            )?,
        },
    ];
    match context.host.cgroups {
        CgroupMode::V2 => {
            mounts.push(mount(
                "/sys/fs/cgroup",
                "cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", "ro"],
            )?);
        }
        // A dozen mounts per container, for programs that want to know their limits: left out until asked for.
        CgroupMode::V1 | CgroupMode::Hybrid => {}
    }
    // libcontainer would make the directories of devices itself, writable for everybody.
    let parents: BTreeSet<_> = spec
        .devices
        .iter()
        .filter_map(|device| device.target.parent())
        .filter(|parent| *parent != Path::new("/dev"))
        .collect();
    for parent in parents {
        mounts.push(mount(
            &parent.to_string_lossy(),
            "tmpfs",
            "tmpfs",
            &["nosuid", "noexec", "mode=755", "size=64k"],
        )?);
    }
    let mut binds = staged.map(|staged| staged.binds.iter());
    let mut volumes = shared.iter().flat_map(|shared| &shared.volumes);
    for extra in &spec.mounts {
        mounts.push(match extra {
            MountSpec::Bind {
                source,
                target,
                readonly,
            } => {
                // What is mounted below the source comes along, and must not be a way round.
                let mut options = vec!["rbind", "rprivate", "nosuid", "nodev", "rnosuid", "rnodev"];
                options.extend(if *readonly {
                    &["ro", "rro"][..]
                } else {
                    &["rw"]
                });
                let source = binds.as_mut().and_then(Iterator::next).unwrap_or(source);
                mount(
                    &target.to_string_lossy(),
                    "bind",
                    &source.to_string_lossy(),
                    &options,
                )?
            }
            MountSpec::Shared {
                volume,
                target,
                readonly,
            } => {
                // Made long ago where this is asked for again: for programs that are executed in the container.
                let made = volumes.next().cloned();
                let source = made.unwrap_or_else(|| Path::new(SHARED_VOLUMES).join(volume));
                let access = if *readonly { "ro" } else { "rw" };
                mount(
                    &target.to_string_lossy(),
                    "bind",
                    &source.to_string_lossy(),
                    &["rbind", "rprivate", "nosuid", "nodev", access],
                )?
            }
            MountSpec::Tmpfs {
                target,
                size_bytes,
                mode,
            } => {
                let (size, mode) = (format!("size={size_bytes}"), format!("mode={mode:o}"));
                mount(
                    &target.to_string_lossy(),
                    "tmpfs",
                    "tmpfs",
                    &["nosuid", "nodev", &size, &mode],
                )?
            }
        });
    }
    Ok(mounts)
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, String> {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(
            options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .map_err(|error| error.to_string())
}
