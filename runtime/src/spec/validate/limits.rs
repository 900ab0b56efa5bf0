//! Checks limits: what means nothing anywhere, and what this host cannot enforce. Pure.

use super::{BadSpec, bad, clean};
use crate::cgroup::{CgroupMode, hugetlb};
use crate::cpuset::CpuSet;
use crate::model::{HugePageLimit, IoDevice, IoLimit, Limits};

/// Less than this does not hold even the process that sets the container up.
const MIN_MEMORY_BYTES: u64 = 4 << 20;

/// The first problem of limits, on whatever host.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), BadSpec> {
    for (field, bytes) in [
        ("limits.memory_bytes", limits.memory_bytes),
        ("limits.memory_high", limits.memory_high),
    ] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes < MIN_MEMORY_BYTES) {
            return Err(bad(
                field,
                format!("{bytes} is less than the least that works, {MIN_MEMORY_BYTES}"),
            ));
        }
    }
    if limits.memory_swap.is_some() && limits.memory_bytes.is_none() {
        return Err(bad(
            "limits.memory_swap",
            "needs limits.memory_bytes beside it",
        ));
    }
    if let Some(most) = limits.memory_bytes {
        for (field, bytes) in [
            ("limits.memory_high", limits.memory_high),
            ("limits.memory_low", limits.memory_low),
        ] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes > most) {
                return Err(bad(
                    field,
                    format!("{bytes} is above limits.memory_bytes, {most}, where it means nothing"),
                ));
            }
        }
    }
    if limits.pids == Some(0) {
        return Err(bad("limits.pids", "must be at least 1"));
    }
    if limits.cpu_limit_millis == Some(0) {
        return Err(bad("limits.cpu_limit_millis", "must be more than 0"));
    }
    if limits
        .io_weight
        .is_some_and(|weight| !(1..=10_000).contains(&weight))
    {
        return Err(bad("limits.io_weight", "must be 1 to 10000"));
    }
    if limits.cpuset.as_ref().is_some_and(CpuSet::is_empty) {
        return Err(bad("limits.cpuset", "holds no processor"));
    }
    for (index, limit) in limits.huge_pages.iter().enumerate() {
        let field = format!("limits.huge_pages[{index}]");
        if hugetlb::size(limit.page_bytes).is_none() {
            return Err(bad(
                format!("{field}.page_bytes"),
                format!("{} is no size of a huge page", limit.page_bytes),
            ));
        }
        if limit.bytes % limit.page_bytes != 0 {
            return Err(bad(
                format!("{field}.bytes"),
                format!("{} is no whole number of pages", limit.bytes),
            ));
        }
        let twice = |other: &HugePageLimit| other.page_bytes == limit.page_bytes;
        if limits.huge_pages[..index].iter().any(twice) {
            return Err(bad(field, "this size has a limit already"));
        }
    }
    for (index, limit) in limits.io_max.iter().enumerate() {
        check_io_limit(&format!("limits.io_max[{index}]"), limit)?;
    }
    Ok(())
}

fn check_io_limit(field: &str, limit: &IoLimit) -> Result<(), BadSpec> {
    if let IoDevice::Path(path) = &limit.device {
        clean(&format!("{field}.device"), path)?;
    }
    let rates = [
        ("read_bytes_per_sec", limit.read_bytes_per_sec),
        ("write_bytes_per_sec", limit.write_bytes_per_sec),
        ("reads_per_sec", limit.reads_per_sec),
        ("writes_per_sec", limit.writes_per_sec),
    ];
    if rates.iter().all(|(_, rate)| rate.is_none()) {
        return Err(bad(field, "limits nothing: give at least one rate"));
    }
    for (name, rate) in rates {
        if rate == Some(0) {
            return Err(bad(format!("{field}.{name}"), "must be more than 0"));
        }
        // The kernel counts operations in 32 bits and would quietly take less.
        if name.ends_with("s_per_sec")
            && !name.contains("bytes")
            && rate.is_some_and(|rate| rate > u64::from(u32::MAX))
        {
            return Err(bad(
                format!("{field}.{name}"),
                format!("must be at most {}", u32::MAX),
            ));
        }
    }
    Ok(())
}

/// What a host can limit.
#[derive(Clone, Debug)]
pub(crate) struct HostLimits {
    pub(crate) mode: CgroupMode,
    /// Whether swap is accounted.
    pub(crate) swap: bool,
    /// Those that containers may use; `None`: they cannot be chosen.
    pub(crate) processors: Option<CpuSet>,
    /// In bytes; `None`: they cannot be limited.
    pub(crate) huge_page_sizes: Option<Vec<u64>>,
    /// Whether the io of containers can be weighed; of version 2 alone.
    pub(crate) io_weight: bool,
}

/// The first limit that this host cannot enforce: refused, because a limit that does not hold is worse than none.
pub(crate) fn check_host(limits: &Limits, host: &HostLimits) -> Result<(), BadSpec> {
    if let Some(set) = &limits.cpuset {
        let Some(allowed) = &host.processors else {
            return Err(bad(
                "limits.cpuset",
                "this host has no cpuset controller for containers",
            ));
        };
        if let Some(missing) = set.missing_in(allowed) {
            return Err(bad(
                "limits.cpuset",
                format!(
                    "processor {missing} is not one of those that containers may use here, {allowed}"
                ),
            ));
        }
    }
    for (index, limit) in limits.huge_pages.iter().enumerate() {
        let Some(sizes) = &host.huge_page_sizes else {
            return Err(bad(
                "limits.huge_pages",
                "this host has no hugetlb controller for containers (a delegated cgroup must be given it, too)",
            ));
        };
        if !sizes.contains(&limit.page_bytes) {
            return Err(bad(
                format!("limits.huge_pages[{index}].page_bytes"),
                format!(
                    "this host has no pages of {} bytes, but of {sizes:?}",
                    limit.page_bytes
                ),
            ));
        }
    }
    if limits.memory_swap.is_some() && !host.swap {
        return Err(bad(
            "limits.memory_swap",
            "this host does not account swap (boot with swapaccount=1)",
        ));
    }
    let only_v2 = [
        ("limits.memory_high", limits.memory_high.is_some()),
        ("limits.memory_low", limits.memory_low.is_some()),
        ("limits.io_weight", limits.io_weight.is_some()),
        ("limits.io_max", !limits.io_max.is_empty()),
    ];
    match host.mode {
        CgroupMode::V2 if limits.io_weight.is_some() && !host.io_weight => Err(bad(
            "limits.io_weight",
            "this host has no weights of io for containers: its kernel needs the scheduler BFQ (modprobe bfq) or CONFIG_BLK_CGROUP_IOCOST, and a delegated cgroup must be given the controller io",
        )),
        CgroupMode::V2 => Ok(()),
        CgroupMode::V1 | CgroupMode::Hybrid => {
            only_v2
                .iter()
                .find(|(_, given)| *given)
                .map_or(Ok(()), |(field, _)| {
                    Err(bad(
                    *field,
                    "needs cgroup v2, and this host's controllers are on version 1 (boot with systemd.unified_cgroup_hierarchy=1)",
                ))
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(device: IoDevice, rate: Option<u64>) -> IoLimit {
        IoLimit {
            device,
            read_bytes_per_sec: rate,
            write_bytes_per_sec: None,
            reads_per_sec: None,
            writes_per_sec: None,
        }
    }

    #[test]
    fn limits_that_mean_nothing_are_refused() {
        let field = |limits: Limits| {
            check_limits(&limits).map_or_else(|bad| bad.field, |()| "none".to_owned())
        };
        let memory = |memory_bytes, memory_high, memory_low| {
            field(Limits {
                memory_bytes,
                memory_high,
                memory_low,
                ..Limits::default()
            })
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(memory(Some(8 * MIB), Some(8 * MIB), Some(MIB)), "none");
        assert_eq!(memory(None, Some(MIB), None), "limits.memory_high");
        assert_eq!(
            memory(Some(8 * MIB), Some(9 * MIB), None),
            "limits.memory_high"
        );
        assert_eq!(
            memory(Some(8 * MIB), None, Some(9 * MIB)),
            "limits.memory_low"
        );
        let weight = |weight| {
            field(Limits {
                io_weight: Some(weight),
                ..Limits::default()
            })
        };
        assert_eq!(weight(10_000), "none");
        assert_eq!(weight(10_001), "limits.io_weight");
        let pages = |page_bytes, bytes| {
            let limit = HugePageLimit { page_bytes, bytes };
            field(Limits {
                huge_pages: vec![limit, limit],
                ..Limits::default()
            })
        };
        assert_eq!(pages(3 << 20, 0), "limits.huge_pages[0].page_bytes");
        assert_eq!(pages(2 << 20, 1 << 20), "limits.huge_pages[0].bytes");
        assert_eq!(pages(2 << 20, 2 << 20), "limits.huge_pages[1]");
        let none = Limits {
            cpuset: Some(CpuSet::default()),
            ..Limits::default()
        };
        assert_eq!(field(none), "limits.cpuset");
        let device = |limit| {
            field(Limits {
                io_max: vec![limit],
                ..Limits::default()
            })
        };
        assert_eq!(device(io(IoDevice::Path("/data".into()), Some(1))), "none");
        assert_eq!(
            device(io(IoDevice::Path("data".into()), Some(1))),
            "limits.io_max[0].device"
        );
        assert_eq!(
            device(io(IoDevice::Path("/data".into()), None)),
            "limits.io_max[0]"
        );
        let none = IoDevice::Number { major: 8, minor: 0 };
        assert_eq!(
            device(io(none.clone(), Some(0))),
            "limits.io_max[0].read_bytes_per_sec"
        );
        let mut many = io(none, None);
        many.writes_per_sec = Some(1 << 40);
        assert_eq!(device(many), "limits.io_max[0].writes_per_sec");
    }

    #[test]
    fn what_a_host_cannot_enforce_is_refused() {
        let limits = |memory_high, memory_swap| Limits {
            memory_high,
            memory_swap,
            ..Limits::default()
        };
        let problem = |limits: &Limits, mode, swap| {
            let host = HostLimits {
                mode,
                swap,
                processors: Some("0-3".parse().unwrap()),
                huge_page_sizes: Some(vec![2 << 20]),
                io_weight: mode == CgroupMode::V2,
            };
            check_host(limits, &host).map_or_else(|bad| bad.field, |()| "none".to_owned())
        };
        let cpus = |text: &str| Limits {
            cpuset: Some(text.parse().unwrap()),
            ..Limits::default()
        };
        assert_eq!(problem(&cpus("1-3"), CgroupMode::V1, false), "none");
        assert_eq!(
            problem(&cpus("3-4"), CgroupMode::V2, false),
            "limits.cpuset"
        );
        let pages = |page_bytes| Limits {
            huge_pages: vec![HugePageLimit {
                page_bytes,
                bytes: 0,
            }],
            ..Limits::default()
        };
        assert_eq!(problem(&pages(2 << 20), CgroupMode::V2, false), "none");
        assert_eq!(
            problem(&pages(1 << 30), CgroupMode::V2, false),
            "limits.huge_pages[0].page_bytes"
        );
        let nothing = HostLimits {
            mode: CgroupMode::V2,
            swap: true,
            processors: None,
            huge_page_sizes: None,
            io_weight: false,
        };
        let field = |limits| check_host(&limits, &nothing).unwrap_err().field;
        assert_eq!(field(cpus("0")), "limits.cpuset");
        assert_eq!(field(pages(2 << 20)), "limits.huge_pages");
        let weight = || Limits {
            io_weight: Some(100),
            ..Limits::default()
        };
        assert_eq!(field(weight()), "limits.io_weight");
        assert_eq!(problem(&weight(), CgroupMode::V2, false), "none");
        assert_eq!(
            problem(&weight(), CgroupMode::V1, false),
            "limits.io_weight"
        );
        let high = limits(Some(8 << 20), None);
        assert_eq!(problem(&high, CgroupMode::V2, false), "none");
        assert_eq!(
            problem(&high, CgroupMode::Hybrid, false),
            "limits.memory_high"
        );
        let swap = limits(None, Some(1));
        assert_eq!(problem(&swap, CgroupMode::V1, true), "none");
        assert_eq!(problem(&swap, CgroupMode::V2, false), "limits.memory_swap");
        let disk = Limits {
            io_max: vec![io(IoDevice::Path("/data".into()), Some(1))],
            ..Limits::default()
        };
        assert_eq!(problem(&disk, CgroupMode::V1, true), "limits.io_max");
    }
}
