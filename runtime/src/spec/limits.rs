//! Limits to OCI resources. Pure.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder,
};

use super::HostFacts;
use crate::cgroup::CgroupMode;
use crate::model::ContainerSpec;

/// The period of the CPU limit: the kernel's own default.
const PERIOD_US: u64 = 100_000;

pub(super) fn resources(spec: &ContainerSpec, host: HostFacts) -> Result<LinuxResources, String> {
    let text = |error: oci_spec::OciSpecError| error.to_string();
    let limits = &spec.limits;
    // Every device is refused first; the libraries then allow the standard few (null, zero, random, tty, pts).
    let devices = LinuxDeviceCgroupBuilder::default()
        .allow(spec.privileged)
        .access("rwm")
        .build()
        .map_err(text)?;
    let mut cpu = LinuxCpuBuilder::default();
    let mut unified = HashMap::new();
    match host.cgroups {
        // Not as shares: the libraries bend those on their way to a weight, and 0.5 and 2 cores come out as 1:3.
        CgroupMode::V2 => {
            let weight = weight(limits.cpu_millis_weight).to_string();
            unified.insert("cpu.weight".to_owned(), weight);
        }
        CgroupMode::V1 | CgroupMode::Hybrid => {
            cpu = cpu.shares(shares(limits.cpu_millis_weight));
        }
    }
    if let Some(millis) = limits.cpu_limit_millis {
        let quota = millis.saturating_mul(PERIOD_US) / 1000;
        // The kernel takes no quota under one millisecond.
        cpu = cpu
            .quota(i64::try_from(quota.max(1000)).unwrap_or(i64::MAX))
            .period(PERIOD_US);
    }
    let mut resources = LinuxResourcesBuilder::default()
        .devices(vec![devices])
        .cpu(cpu.build().map_err(text)?);
    if let Some(bytes) = limits.memory_bytes {
        let mut memory = LinuxMemoryBuilder::default().limit(signed(bytes));
        let swap = limits.memory_swap.unwrap_or(0);
        match host.cgroups {
            _ if !host.swap => {}
            // libcgroups takes a swap limit of zero for none at all.
            CgroupMode::V2 => {
                unified.insert("memory.swap.max".to_owned(), swap.to_string());
            }
            CgroupMode::V1 | CgroupMode::Hybrid => {
                memory = memory.swap(signed(bytes.saturating_add(swap)));
            }
        }
        resources = resources.memory(memory.build().map_err(text)?);
    }
    if let Some(pids) = limits.pids {
        resources = resources.pids(
            LinuxPidsBuilder::default()
                .limit(signed(pids))
                .build()
                .map_err(text)?,
        );
    }
    resources.unified(unified).build().map_err(text)
}

/// 1024 shares per core; the kernel takes 2 to 262144.
fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// 100 per core, the kernel's default; it takes 1 to 10000.
fn weight(millis: u64) -> u64 {
    (millis.saturating_add(5) / 10).clamp(1, 10_000)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_in_proportion_and_in_the_kernels_range() {
        assert_eq!(
            [0, 1, 20, 500, 1000, 2000, u64::MAX].map(weight),
            [1, 1, 2, 50, 100, 200, 10_000]
        );
    }

    #[test]
    fn shares_stay_in_the_kernels_range() {
        assert_eq!(
            [
                shares(0),
                shares(1),
                shares(1000),
                shares(100),
                shares(u64::MAX)
            ],
            [2, 2, 1024, 102, 262_144]
        );
    }
}
