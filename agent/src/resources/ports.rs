//! Is a port really free, and if not, who has it? Asks the kernel: a test bind, then `/proc/net/tcp*` and the open
//! files of all processes.

use std::net::{Ipv4Addr, TcpListener};

use mezzo_api::model::Ranges;
use procfs::{net::TcpState, process::FDTarget};

/// Somebody has the port.
#[derive(Debug, thiserror::Error)]
#[error("port {port} of this machine is in use by {holder}")]
pub(crate) struct Taken {
    port: u64,
    holder: String,
}

/// Checks every port with a bind on all addresses.
pub(crate) fn check_free(ports: &Ranges) -> Result<(), Taken> {
    for port in ports.values() {
        let Ok(number) = u16::try_from(port) else {
            return Err(Taken {
                port,
                holder: "nobody: it is no port number".into(),
            });
        };
        if let Err(error) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)) {
            return Err(Taken {
                port,
                holder: holder(number).unwrap_or_else(|| format!("an unknown process ({error})")),
            });
        }
    }
    Ok(())
}

/// Who listens on the port, as far as this process may see.
fn holder(port: u16) -> Option<String> {
    let entries = procfs::net::tcp()
        .unwrap_or_default()
        .into_iter()
        .chain(procfs::net::tcp6().unwrap_or_default());
    let inodes: Vec<u64> = entries
        .filter(|entry| entry.local_address.port() == port && entry.state == TcpState::Listen)
        .map(|entry| entry.inode)
        .collect();
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

    #[test]
    fn a_taken_port_is_told_with_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let message = check_free(&Ranges::single(u64::from(port)))
            .unwrap_err()
            .to_string();
        assert!(message.contains(&format!("port {port}")), "{message}");
        assert!(
            message.contains(&format!("pid {}", std::process::id())),
            "{message}"
        );
        drop(listener);
        check_free(&Ranges::single(u64::from(port))).unwrap();
    }
}
