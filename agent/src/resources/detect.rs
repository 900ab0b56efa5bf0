//! What the machine has to offer, when the operator did not say: processors, memory and disk less a reserve, ports.

use std::path::Path;

use mezzo_api::model::{Pools, Resources, Scalar};
use procfs::Current as _;

use super::cores::Processor;
use crate::{Config, node::runtime::has_cpuset};

/// What the machine has and what of it is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpu_millis: u64,
    pub(crate) mem_mb: u64,
    pub(crate) disk_mb: u64,
    pub(crate) reserved_cpu_millis: u64,
    pub(crate) reserved_mem_mb: u64,
    pub(crate) reserved_disk_mb: u64,
}

/// Looks at the machine.
pub(crate) fn capacity(config: &Config) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mem_mb = procfs::Meminfo::current().map_or(0, |info| info.mem_total >> 20);
    let disk_mb = disk(&config.state_dir).map_or(0, |(total, _)| total >> 20);
    with_reserve(config, cpus as u64 * 1000, mem_mb, disk_mb)
}

/// What is kept back of so much. Pure.
fn with_reserve(config: &Config, cpu_millis: u64, mem_mb: u64, disk_mb: u64) -> Capacity {
    let share =
        |all: u64, part: u64, least: u64, most: u64| (all / part).clamp(least, most).min(all / 4);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked with the configuration, and a cast of floats saturates"
    )]
    let reserved_cpu_millis = (config.reserve_cpus.unwrap_or(0.0) * 1000.0).round() as u64;
    Capacity {
        cpu_millis,
        mem_mb,
        disk_mb,
        reserved_cpu_millis,
        reserved_mem_mb: config
            .reserve_mem_mb
            .unwrap_or_else(|| share(mem_mb, 16, 256, 2048)),
        reserved_disk_mb: config
            .reserve_disk_mb
            .unwrap_or_else(|| share(disk_mb, 20, 1024, 20 << 10)),
    }
}

/// All there is to offer, with what the settings reserve.
pub(crate) fn declared(config: &Config, capacity: &Capacity) -> Pools {
    let all = total(config, capacity);
    let given = config.resources.clone().unwrap_or_default();
    Pools::divided(&all, &given.pool_list(), &[]).unwrap_or_else(|_| Pools::open_to_all(all))
}

/// The same, whosever it is.
pub(crate) fn total(config: &Config, capacity: &Capacity) -> Resources {
    if let Some(given) = &config.resources {
        let given = given.flat();
        // Without ports no task on the host network could be placed; give them unless the operator did.
        let given = if given.get("ports").is_some() {
            given
        } else {
            given.with_ranges("ports", config.ports())
        };
        return with_devices(given, config);
    }
    let scalar = |value: u64| Scalar::from_units(i64::try_from(value).unwrap_or(i64::MAX / 1000));
    // A machine that offers no processor at all runs nothing, and nobody would see why.
    let cpu_millis = capacity
        .cpu_millis
        .saturating_sub(capacity.reserved_cpu_millis)
        .max(100);
    let found = Resources::new()
        .with_scalar(
            "cpus",
            Scalar::from_millis(i64::try_from(cpu_millis).unwrap_or(i64::MAX)),
        )
        .with_scalar(
            "mem",
            scalar(capacity.mem_mb.saturating_sub(capacity.reserved_mem_mb)),
        )
        .with_scalar(
            "disk",
            scalar(capacity.disk_mb.saturating_sub(capacity.reserved_disk_mb)),
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
        let found = total(&config, &capacity(&config));
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
        let found = total(&config, &capacity(&config));
        assert_eq!(found.cpus(), Scalar::from_units(3));
        assert!(found.ports().has(32_000));
    }

    #[test]
    fn something_is_kept_back_for_the_system_and_never_much() {
        let reserve = |mem, disk| {
            let found = with_reserve(&Config::default(), 2000, mem, disk);
            (found.reserved_mem_mb, found.reserved_disk_mb)
        };
        assert_eq!(reserve(512, 2000), (128, 500));
        assert_eq!(reserve(2048, 10_000), (256, 1024));
        assert_eq!(reserve(16_384, 100_000), (1024, 5000));
        assert_eq!(reserve(1 << 20, 10 << 20), (2048, 20_480));
        let config = Config {
            reserve_cpus: Some(0.25),
            reserve_mem_mb: Some(100),
            reserve_disk_mb: Some(0),
            ..Config::default()
        };
        let found = total(&config, &with_reserve(&config, 2000, 1000, 1000));
        assert_eq!(found.cpus(), Scalar::from_millis(1750));
        assert_eq!(
            (found.mem(), found.disk()),
            (Scalar::from_units(900), Scalar::from_units(1000))
        );
        // More kept back than there is: nothing is offered, nothing wraps.
        let greedy = Config {
            reserve_mem_mb: Some(5000),
            ..config
        };
        let found = total(&greedy, &with_reserve(&greedy, 2000, 1000, 1000));
        assert!(found.mem().is_zero());
    }
}
