//! Limits to OCI resources, for hosts whose controllers are on cgroup v1. On version 2 there are none:
//! `cgroup::settings` and `cgroup::devices` write them, the former also while the container runs. Pure.

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder,
};

use super::HostFacts;
use super::devices::HostDevice;
use crate::cgroup::CgroupMode;
use crate::cgroup::settings::{PERIOD_US, quota_us, shares};
use crate::model::ContainerSpec;

pub(super) fn resources(
    spec: &ContainerSpec,
    host: HostFacts,
    given: &[HostDevice],
) -> Result<Option<LinuxResources>, String> {
    match host.cgroups {
        CgroupMode::V2 => Ok(None),
        CgroupMode::V1 | CgroupMode::Hybrid => resources_v1(spec, host, given).map(Some),
    }
}

fn resources_v1(
    spec: &ContainerSpec,
    host: HostFacts,
    given: &[HostDevice],
) -> Result<LinuxResources, String> {
    let text = |error: oci_spec::OciSpecError| error.to_string();
    let limits = &spec.limits;
    // Every device is refused first; the libraries then allow the standard few (null, zero, random, tty, pts).
    let mut devices = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(spec.privileged)
            .access("rwm")
            .build()
            .map_err(text)?,
    ];
    for device in given {
        devices.push(device.rule()?);
    }
    let mut cpu = LinuxCpuBuilder::default().shares(shares(limits.cpu_millis_weight));
    if let Some(millis) = limits.cpu_limit_millis {
        cpu = cpu.quota(signed(quota_us(millis))).period(PERIOD_US);
    }
    let mut resources = LinuxResourcesBuilder::default()
        .devices(devices)
        .cpu(cpu.build().map_err(text)?);
    if let Some(bytes) = limits.memory_bytes {
        let mut memory = LinuxMemoryBuilder::default().limit(signed(bytes));
        if host.swap {
            let swap = limits.memory_swap.unwrap_or(0);
            memory = memory.swap(signed(bytes.saturating_add(swap)));
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
    resources.build().map_err(text)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
