//! Which kernel modules a guest loads, and in what order. Pure: reads the text of `modules.dep`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

/// For a guest's devices. Whatever else is needed, a guest with udev and modprobe loads by itself.
pub(super) const DEVICES: [&str; 5] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
];

/// What containers, their networks and quotas ask the kernel for, in a guest without modprobe.
pub(super) const CONTAINERS: [&str; 15] = [
    "overlay",
    "loop",
    "quota_v2",
    "veth",
    "bridge",
    "dummy",
    "tun",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_fib_inet",
    "nf_conntrack_netlink",
    "fuse",
];

/// For a file system for data that is not ext4, which the kernel has built in.
pub(super) const XFS: [&str; 1] = ["xfs"];

/// The files (as `modules.dep` names them) of the wanted modules and of all that they need, each after what it needs.
pub(super) fn load_order(modules_dep: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut by_name: BTreeMap<String, &str> = BTreeMap::new();
    for line in modules_dep.lines() {
        let Some((file, rest)) = line.split_once(':') else {
            continue;
        };
        needs.insert(file, rest.split_whitespace().collect());
        by_name.insert(name_of(file), file);
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        let file = by_name.get(&name_of(name));
        let file = file.with_context(|| format!("the kernel package has no module {name}"))?;
        visit(file, &needs, &mut seen, &mut order);
    }
    Ok(order)
}

/// Depth first. `seen` comes before the descent, so that a circle (which depmod never writes) still ends.
fn visit<'a>(
    file: &'a str,
    needs: &BTreeMap<&'a str, Vec<&'a str>>,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<String>,
) {
    if !seen.insert(file) {
        return;
    }
    for needed in needs.get(file).into_iter().flatten() {
        visit(needed, needs, seen, order);
    }
    order.push(file.to_owned());
}

/// "virtio_net" of "kernel/drivers/net/virtio_net.ko"; files may be named with dashes.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/802/stp.ko: kernel/net/llc/llc.ko
kernel/net/llc/llc.ko:
kernel/drivers/char/hw_random/virtio-rng.ko:
";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let order = load_order(DEP, &["bridge", "virtio_rng"]).expect("order");
        let names: Vec<String> = order.iter().map(|file| name_of(file)).collect();
        assert_eq!(names, ["llc", "stp", "bridge", "virtio_rng"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        let told = load_order(DEP, &["btrfs"])
            .expect_err("unknown")
            .to_string();
        assert_eq!(told, "the kernel package has no module btrfs");
    }
}
