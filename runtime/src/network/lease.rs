//! What a container was given, on disk before anything of it is made: one file per container in
//! `<state>/network/leases`. A lease of another boot is nothing: no link, address or map survived.
//!
//! Form: version 1. A reader ignores fields that it does not know and leaves alone what has a newer version.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::nftables::{Forward, PortMap};
use super::subnet::{Ipv4Subnet, Ipv6Subnet};
use crate::id::ContainerId;
use crate::layout;

const VERSION: u32 = 1;

/// One container's place in the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) version: u32,
    pub(super) boot_id: String,
    pub(super) container: ContainerId,
    /// The end of its pair of links that is on the machine's side.
    pub(super) link: String,
    pub(super) subnet4: Ipv4Subnet,
    pub(super) ipv4: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subnet6: Option<Ipv6Subnet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ipv6: Option<Ipv6Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<PortMap>,
}

impl Lease {
    pub(super) fn new(
        boot_id: &str,
        container: &ContainerId,
        subnets: (Ipv4Subnet, Option<Ipv6Subnet>),
        number: u32,
        ports: &[PortMap],
    ) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            container: container.clone(),
            link: link_name(container),
            subnet4: subnets.0,
            ipv4: subnets.0.nth(number),
            subnet6: subnets.1,
            ipv6: subnets.1.map(|subnet| subnet.nth(number)),
            ports: ports.to_vec(),
        }
    }

    /// IPv4 first.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let six = self.ipv6.map(IpAddr::V6);
        std::iter::once(IpAddr::V4(self.ipv4)).chain(six).collect()
    }

    /// The lines of the maps that belong to it.
    pub(super) fn forwards(&self) -> Vec<Forward> {
        let mut forwards = Vec::new();
        for to in self.addresses() {
            forwards.extend(self.ports.iter().map(|map| Forward {
                map: *map,
                to,
                comment: self.container.to_string(),
            }));
        }
        forwards
    }
}

/// What our end of a container's pair of links is called: 15 bytes are all the kernel takes. Pure.
pub(super) fn link_name(container: &ContainerId) -> String {
    // FNV-1a, 48 bits of it: names need to differ among the containers of one machine, nothing more.
    let hash = container
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{LINK_PREFIX}{:012x}", hash & 0xffff_ffff_ffff)
}

/// How the names of all links of containers begin.
pub(super) const LINK_PREFIX: &str = "mz";

/// The folder of the leases.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    dir: PathBuf,
}

impl Leases {
    pub(super) fn new(state: &Path) -> Self {
        Self {
            dir: state.join("network/leases"),
        }
    }

    pub(super) fn write(&self, lease: &Lease) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        layout::write_record(
            &self.dir,
            &format!("{}.json", lease.container),
            lease,
            layout::Durability::Process,
        )
    }

    /// Fine when it is gone already.
    pub(super) fn remove(&self, container: &ContainerId) -> io::Result<()> {
        match fs::remove_file(self.dir.join(format!("{container}.json"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All leases of this boot; those of others, and files that were being written, are removed.
    pub(super) fn read(&self, boot_id: &str) -> io::Result<Vec<Lease>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut leases = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let is_record = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| !name.starts_with('.') && name.ends_with(".json"));
            if !is_record {
                let _ = fs::remove_file(&path);
                continue;
            }
            match layout::read_record::<Lease>(&path) {
                Ok(Some(lease)) if lease.boot_id == boot_id => leases.push(lease),
                Ok(Some(_)) => fs::remove_file(&path)?,
                Ok(None) => {}
                Err(error) => {
                    // Its container, if it runs, keeps its network; nobody else may be given its address, and
                    // nobody can tell which it is.
                    tracing::error!(path = %path.display(), %error, "a lease cannot be read; it is left alone");
                }
            }
        }
        Ok(leases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, boot: &str) -> Lease {
        let map = PortMap {
            protocol: super::super::PortProtocol::Tcp,
            host_port: 31_000,
            container_port: 80,
        };
        let six = Some("fd00::/64".parse().unwrap());
        Lease::new(
            boot,
            &name.parse().unwrap(),
            (Ipv4Subnet::DEFAULT, six),
            5,
            &[map],
        )
    }

    #[test]
    fn leases_are_found_again_and_those_of_another_boot_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::new(dir.path());
        assert_eq!(leases.read("now").unwrap(), []);
        leases.write(&lease("a", "now")).unwrap();
        leases.write(&lease("b", "before")).unwrap();
        fs::write(dir.path().join("network/leases/.c.json.new"), "half").unwrap();
        fs::write(dir.path().join("network/leases/d.json"), "half").unwrap();
        assert_eq!(leases.read("now").unwrap(), [lease("a", "now")]);
        let left = || {
            fs::read_dir(dir.path().join("network/leases"))
                .unwrap()
                .count()
        };
        assert_eq!(left(), 2, "a, and d which somebody must look at");
        leases.remove(&"a".parse().unwrap()).unwrap();
        leases.remove(&"a".parse().unwrap()).unwrap();
        assert_eq!(left(), 1);
    }

    #[test]
    fn names_of_links_fit_and_differ() {
        let names: std::collections::BTreeSet<String> = (0..1000)
            .map(|n| link_name(&format!("web-{n:016x}").parse().unwrap()))
            .collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() <= 15));
    }

    #[test]
    fn each_address_gets_each_port() {
        let forwards = lease("a", "now").forwards();
        let to: Vec<String> = forwards.iter().map(|f| f.to.to_string()).collect();
        assert_eq!(to, ["172.28.0.5", "fd00::5"]);
    }
}
