//! A launch's share of the network: ports that must be free, a place in a network, and the files that tell the
//! container about it (`resolv.conf`, `hosts`, `hostname`).
//!
//! What the files say is decided by pure functions from the machine's own; they are given read-only copies, so that a
//! container neither changes ours nor sees a replaced file's ghost.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use mezzo_api::model::{NetworkMode, PortProtocol, TaskInfo};
use tokio::task::JoinHandle;

use crate::{
    node::{Attachment, ContainerId, NetworkRequest, Runtime, StartError},
    resources::ports::{self, Taken},
};

const MAX_ETC_FILE: u64 = 64 * 1024;
/// Where systemd's resolver says whom it asks itself.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// The kernel takes 64 bytes, DNS labels 63.
const MAX_HOSTNAME: usize = 63;

/// A place in a network that is being made while the image comes.
pub(super) type Preparing = JoinHandle<Result<Attachment, StartError>>;

/// Starts to prepare the network of a task that has one of its own.
pub(super) fn prepare(
    runtime: &Arc<dyn Runtime>,
    container: &ContainerId,
    info: &TaskInfo,
) -> Option<Preparing> {
    let wanted = &info.container;
    if !wanted.network.is_own() {
        return None;
    }
    let request = NetworkRequest {
        name: wanted.network_name.clone(),
        labels: wanted.network_labels.clone(),
        ports: wanted.port_mappings.clone(),
    };
    let (runtime, container) = (Arc::clone(runtime), container.clone());
    Some(tokio::spawn(async move {
        runtime.prepare_network(&container, request).await
    }))
}

/// Whether nobody on the machine has the task's ports.
pub(super) fn check_ports(info: &TaskInfo) -> Result<(), Taken> {
    match info.container.network {
        NetworkMode::Host => info
            .resources
            .ports()
            .values()
            .try_for_each(|port| ports::check_free(port, PortProtocol::Tcp)),
        NetworkMode::Bridge | NetworkMode::Container => {
            let mapped = info.container.port_mappings.iter();
            mapped
                .filter_map(|mapping| Some((mapping.host_port?, mapping.protocol)))
                .try_for_each(|(port, protocol)| ports::check_free(port.into(), protocol))
        }
        NetworkMode::None => Ok(()),
    }
}

/// What a container with a network of its own is called inside. Pure.
pub(crate) fn own_hostname(container: &ContainerId) -> String {
    container.as_str().chars().take(MAX_HOSTNAME).collect()
}

/// Who a container with addresses of its own is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) hostname: &'a str,
    pub(super) addresses: &'a [IpAddr],
    /// Name servers instead of the machine's.
    pub(super) dns: &'a [IpAddr],
}

/// Writes the files beneath the task's folder; each with its place in the container. `own` is `None` in the
/// machine's network.
pub(super) fn files(folder: &Path, own: Option<Own<'_>>) -> io::Result<Vec<(PathBuf, String)>> {
    let etc = folder.join("etc");
    fs::create_dir_all(&etc)?;
    let mut contents = Vec::new();
    match own {
        None => {
            for name in ["resolv.conf", "hosts"] {
                if let Some(content) = read(&Path::new("/etc").join(name))? {
                    contents.push((name, content));
                }
            }
        }
        Some(own) => {
            let machines = read(Path::new("/etc/resolv.conf"))?.unwrap_or_default();
            let behind = read(Path::new(BEHIND_RESOLVED))?;
            let resolv = resolv_conf(&machines, behind.as_deref(), own.dns);
            if !resolv.contains("nameserver") {
                tracing::warn!(
                    "this machine's /etc/resolv.conf names no server that containers can reach; set network.dns"
                );
            }
            contents.push(("resolv.conf", resolv));
            contents.push(("hosts", hosts(own.hostname, own.addresses)));
            contents.push(("hostname", format!("{}\n", own.hostname)));
        }
    }
    let mut files = Vec::new();
    for (name, content) in contents {
        let copy = etc.join(name);
        fs::write(&copy, content)?;
        // The folder above is ours alone; inside the container everybody reads it.
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        files.push((copy, format!("/etc/{name}")));
    }
    Ok(files)
}

/// The text of a file; `None` if there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::File::open(path) {
        Ok(file) => {
            let mut content = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, MAX_ETC_FILE), &mut content)?;
            Ok(Some(String::from_utf8_lossy(&content).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The server that a line names, if it names one.
fn nameserver(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some("nameserver"))
        .then(|| words.next())
        .flatten()
}

/// Whether a server answers a container too: not one on the machine's loopback, not one that only a link knows. Pure.
fn is_reachable(server: &str) -> bool {
    match server.parse() {
        Ok(IpAddr::V4(address)) => !address.is_loopback() && !address.is_unspecified(),
        Ok(IpAddr::V6(address)) => {
            let link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            !address.is_loopback() && !address.is_unspecified() && !link_local
        }
        Err(_) => false,
    }
}

/// `/etc/resolv.conf` for a network of its own: the machine's, or, where only resolvers on loopback are named, that of
/// systemd's resolver; without what a container cannot reach. Pure.
fn resolv_conf(machines: &str, behind: Option<&str>, dns: &[IpAddr]) -> String {
    let any = |text: &str| text.lines().filter_map(nameserver).any(is_reachable);
    let text = match behind {
        Some(behind) if !any(machines) && any(behind) => behind,
        Some(_) | None => machines,
    };
    let mut out = String::new();
    for address in dns {
        out.push_str(&format!("nameserver {address}\n"));
    }
    for line in text.lines() {
        let line = line.trim();
        let keep = match nameserver(line) {
            Some(server) => dns.is_empty() && is_reachable(server),
            None => !line.is_empty() && !line.starts_with(['#', ';']),
        };
        if keep {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// `/etc/hosts` for a network of its own. Pure.
fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut out = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for address in addresses {
        out.push_str(&format!("{address}\t{hostname}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_asks_whom_it_can_reach() {
        let plain = "# made by hand\nsearch example.org\nnameserver 10.0.0.2\noptions ndots:2\n";
        assert_eq!(
            resolv_conf(plain, None, &[]),
            "search example.org\nnameserver 10.0.0.2\noptions ndots:2\n"
        );
        let resolved = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let behind = "nameserver 192.168.1.1\nnameserver fe80::1%eth0\nsearch lan\n";
        assert_eq!(
            resolv_conf(resolved, Some(behind), &[]),
            "nameserver 192.168.1.1\nsearch lan\n"
        );
        assert_eq!(
            resolv_conf(resolved, None, &[]),
            "options edns0 trust-ad\nsearch lan\n"
        );
        // A real server beside one on loopback: no need to look behind.
        let both = "nameserver 127.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(
            resolv_conf(both, Some(behind), &[]),
            "nameserver 10.0.0.2\n"
        );
        let dns = ["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()];
        assert_eq!(
            resolv_conf(plain, Some(behind), &dns),
            "nameserver 9.9.9.9\nnameserver 2620:fe::fe\nsearch example.org\noptions ndots:2\n"
        );
        assert_eq!(resolv_conf("", None, &[]), "");
    }

    #[test]
    fn a_container_knows_its_own_name() {
        let addresses = ["172.28.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(
            hosts("web-1", &addresses),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n172.28.0.2\tweb-1\nfd00::2\tweb-1\n"
        );
        let long = ContainerId::derive(&"x".repeat(200), u64::MAX);
        assert_eq!(own_hostname(&long).len(), MAX_HOSTNAME);
    }

    #[test]
    fn the_files_are_written_for_everybody_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own {
            hostname: "web-1",
            addresses: &["172.28.0.2".parse().unwrap()],
            dns: &[],
        };
        let files = files(dir.path(), Some(own)).unwrap();
        let targets: Vec<&str> = files.iter().map(|(_, target)| target.as_str()).collect();
        assert_eq!(targets, ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"]);
        for (copy, _) in files {
            let mode = fs::metadata(copy).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
    }
}
