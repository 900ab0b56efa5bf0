//! What the machine has to offer, when the operator did not say: processors, memory and disk less a reserve, ports.

use std::path::Path;

use mezzo_api::model::{Resources, Scalar};
use procfs::Current as _;

use super::cores::Processor;
use crate::{Config, node::runtime::has_cpuset};

/// All there is to offer.
pub(crate) fn total(config: &Config) -> Resources {
    if let Some(given) = &config.resources {
        // Without ports no task on the host network could be placed; give them unless the operator did.
        let given = if given.get("ports").is_some() {
            given.clone()
        } else {
            given.clone().with_ranges("ports", config.ports())
        };
        return with_devices(given, config);
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpu_millis = (cpus as u64 * 1000)
        .saturating_sub(config.reserve_cpu_millis)
        .max(100);
    let memory_mb = procfs::Meminfo::current().map_or(0, |info| info.mem_total >> 20);
    let disk_mb = disk(&config.state_dir).map_or(0, |(total, _)| total >> 20);
    let scalar = |value: u64| Scalar::from_units(i64::try_from(value).unwrap_or(i64::MAX / 1000));
    let found = Resources::new()
        .with_scalar(
            "cpus",
            Scalar::from_millis(i64::try_from(cpu_millis).unwrap_or(i64::MAX)),
        )
        .with_scalar(
            "mem",
            scalar(memory_mb.saturating_sub(config.reserve_mem_mb)),
        )
        .with_scalar(
            "disk",
            scalar(disk_mb.saturating_sub(config.reserve_disk_mb)),
        )
        .with_ranges("ports", config.ports());
    with_devices(found, config)
}

/// One unit per declared device, unless the operator says how many.
fn with_devices(resources: Resources, config: &Config) -> Resources {
    config.devices.iter().fold(resources, |found, set| {
        if found.get(set.resource()).is_some() {
            found
        } else {
            found.with_scalar(set.resource(), set.total())
        }
    })
}

/// The processors that this process may use, and with it the containers; none where they cannot be kept to some.
pub(crate) fn processors() -> Vec<Processor> {
    if !has_cpuset() {
        return Vec::new();
    }
    let allowed = procfs::process::Process::myself()
        .and_then(|own| own.status())
        .ok()
        .and_then(|status| status.cpus_allowed_list)
        .unwrap_or_default();
    let numbers = allowed.into_iter().flat_map(|(first, last)| first..=last);
    numbers
        .map(|number| {
            let read = |name: &str| {
                let file = format!("/sys/devices/system/cpu/cpu{number}/topology/{name}");
                let text = std::fs::read_to_string(file).unwrap_or_default();
                text.trim().parse().ok()
            };
            Processor {
                package: read("physical_package_id").unwrap_or(0),
                // Where the kernel does not tell (some virtual machines), each stands alone.
                core: read("core_id").unwrap_or(number),
                number,
            }
        })
        .collect()
}

/// Bytes of the file system that holds a path: (all, used).
pub(crate) fn disk(path: &Path) -> Option<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = stat.fragment_size();
    Some((
        stat.blocks() * block,
        (stat.blocks() - stat.blocks_free()) * block,
    ))
}

/// The kernel's name for this boot.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// The kernel's host name.
pub(crate) fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "unknown".to_owned(),
        |release| release.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_to_offer() {
        let config = Config {
            state_dir: "/".into(),
            ..Config::default()
        };
        let found = total(&config);
        assert!(
            found.cpus() > Scalar::from_millis(0) && found.mem() > Scalar::from_millis(0),
            "{found}"
        );
        assert!(found.ports().has(31_000) && !boot_id().is_empty());
        let cpus = std::thread::available_parallelism().unwrap().get();
        let found = processors();
        assert!(found.is_empty() || found.len() >= cpus, "{found:?}");
    }

    #[test]
    fn what_the_operator_says_is_taken() {
        let config = Config {
            resources: Some("cpus:3;mem:100".parse().unwrap()),
            ..Config::default()
        };
        assert_eq!(total(&config).cpus(), Scalar::from_units(3));
        assert!(total(&config).ports().has(32_000));
    }
}
