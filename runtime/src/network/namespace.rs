//! Network namespaces: made in threads that end at once, so that no thread of the agent is ever in another network
//! than the machine's; a few kept ready, because making one waits for locks of the kernel.
//!
//! A namespace lives as long as one of its descriptors, sockets or processes.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::Socket;
use crate::sys;

/// How many wait ready, once the first was asked for.
const READY: usize = 3;

/// A namespace with loopback up.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) descriptor: OwnedFd,
    /// For links in it.
    pub(super) route: Socket,
    /// Whether links may have IPv6 addresses.
    ipv6: bool,
}

/// What is kept ready.
#[derive(Debug, Default)]
pub(super) struct Pool {
    ready: Mutex<Vec<Namespace>>,
}

impl Pool {
    /// A namespace, ready or made now; in the background the pool is filled again.
    pub(super) fn take(self: &Arc<Self>, ipv6: bool) -> io::Result<Namespace> {
        let found = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.retain(|namespace| namespace.ipv6 == ipv6);
            ready.pop()
        };
        let pool = Arc::clone(self);
        let filling = std::thread::Builder::new()
            .name("mezzo-netns".to_owned())
            .spawn(move || pool.fill(ipv6));
        if let Err(error) = filling {
            tracing::debug!(%error, "no thread to make network namespaces ahead");
        }
        match found {
            Some(namespace) => Ok(namespace),
            None => make(ipv6),
        }
    }

    fn fill(&self, ipv6: bool) {
        for _ in 0..READY {
            let enough = {
                let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
                ready.len() >= READY
            };
            if enough {
                return;
            }
            match make(ipv6) {
                Ok(namespace) => {
                    let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
                    if ready.len() < READY {
                        ready.push(namespace);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no network namespace made ahead");
                    return;
                }
            }
        }
    }

    /// Lets go of what is ready.
    pub(super) fn clear(&self) {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Makes one, in a thread of its own.
pub(super) fn make(ipv6: bool) -> io::Result<Namespace> {
    in_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        sys::loopback_up()?;
        // As Docker does it: what runs as somebody may serve port 80 of an address that is its own.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        if !ipv6 {
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        }
        Ok(Namespace {
            descriptor: fs::File::open("/proc/thread-self/ns/net")?.into(),
            route: Socket::route()?,
            ipv6,
        })
    })
}

/// Runs something within a namespace, in a thread of its own; what it makes there (a socket) stays there.
fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = namespace.as_fd();
    in_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// A TCP socket in somebody's network namespace, not yet connected and not blocking.
pub(crate) fn tcp_socket_in(namespace: BorrowedFd<'_>, to: IpAddr) -> io::Result<OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let family = match to {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    within(namespace.as_fd(), move || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socket(family, SockType::Stream, flags, None)?)
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mezzo-netns".to_owned())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread in a network namespace broke")))
    })
}
