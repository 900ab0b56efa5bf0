//! Is a port really free, and if not, who has it? Asks the kernel: a test bind, then `/proc/net/{tcp,udp}*` and the
//! open files of all processes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use mezzo_api::model::PortProtocol;
use procfs::{net::TcpState, process::FDTarget};

/// Somebody has the port.
#[derive(Debug, thiserror::Error)]
#[error("port {port} of this machine is in use by {holder}")]
pub(crate) struct Taken {
    port: u64,
    holder: String,
}

/// Checks a port with a bind on all addresses.
pub(crate) fn check_free(port: u64, protocol: PortProtocol) -> Result<(), Taken> {
    let Ok(number) = u16::try_from(port) else {
        return Err(Taken {
            port,
            holder: "nobody: it is no port number".into(),
        });
    };
    for (wanted, is_udp) in [(protocol.has_tcp(), false), (protocol.has_udp(), true)] {
        if wanted && let Err(error) = bind(number, is_udp) {
            return Err(Taken {
                port,
                holder: holder(number, is_udp)
                    .unwrap_or_else(|| format!("an unknown process ({error})")),
            });
        }
    }
    Ok(())
}

fn bind(port: u16, is_udp: bool) -> io::Result<()> {
    // Both versions of IP at once; a machine without IPv6 has the other.
    let (six, four) = ((Ipv6Addr::UNSPECIFIED, port), (Ipv4Addr::UNSPECIFIED, port));
    let bound = if is_udp {
        UdpSocket::bind(six).map(|_| ())
    } else {
        TcpListener::bind(six).map(|_| ())
    };
    match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if is_udp {
        UdpSocket::bind(four).map(|_| ())
    } else {
        TcpListener::bind(four).map(|_| ())
    }
}

/// Who listens on the port, as far as this process may see.
fn holder(port: u16, is_udp: bool) -> Option<String> {
    let inodes: Vec<u64> = if is_udp {
        let entries = procfs::net::udp()
            .unwrap_or_default()
            .into_iter()
            .chain(procfs::net::udp6().unwrap_or_default());
        entries
            .filter(|entry| entry.local_address.port() == port)
            .map(|entry| entry.inode)
            .collect()
    } else {
        let entries = procfs::net::tcp()
            .unwrap_or_default()
            .into_iter()
            .chain(procfs::net::tcp6().unwrap_or_default());
        entries
            .filter(|entry| entry.local_address.port() == port && entry.state == TcpState::Listen)
            .map(|entry| entry.inode)
            .collect()
    };
    for process in procfs::process::all_processes().ok()?.flatten() {
        let Ok(fds) = process.fd() else { continue };
        let holds = fds
            .flatten()
            .any(|fd| matches!(fd.target, FDTarget::Socket(inode) if inodes.contains(&inode)));
        if holds {
            let name = process
                .stat()
                .map_or_else(|_| "?".to_owned(), |stat| stat.comm);
            return Some(format!("{name} (pid {})", process.pid));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_told(port: u16, protocol: PortProtocol) {
        let message = check_free(u64::from(port), protocol)
            .unwrap_err()
            .to_string();
        assert!(message.contains(&format!("port {port}")), "{message}");
        assert!(
            message.contains(&format!("pid {}", std::process::id())),
            "{message}"
        );
    }

    #[test]
    fn a_taken_port_is_told_with_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        check_told(port, PortProtocol::Tcp);
        check_told(port, PortProtocol::TcpUdp);
        check_free(u64::from(port), PortProtocol::Udp).unwrap();
        drop(listener);
        check_free(u64::from(port), PortProtocol::Tcp).unwrap();
        assert!(check_free(70_000, PortProtocol::Tcp).is_err());
    }

    #[test]
    fn udp_and_ipv6_count_too() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        check_told(port, PortProtocol::Udp);
        check_told(port, PortProtocol::TcpUdp);
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            check_told(listener.local_addr().unwrap().port(), PortProtocol::Tcp);
        }
    }
}
