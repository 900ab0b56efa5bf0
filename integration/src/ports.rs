//! Ports of loopback for servers that have to be told theirs before they start, and again when they come back.
//!
//! The kernel's own choice (port 0) is the wrong one here: between our look and the server's start, and while a
//! server is down, it hands the same number to any outgoing connection. So these come from below its range.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};

/// Below what Linux gives to outgoing connections (`ip_local_port_range`, from 32768 on), and away from the ports
/// that agents offer to tasks (31000 to 32000).
const RANGE: Range<u16> = 20_000..30_000;

/// A port of loopback that nothing listens on, never the same one twice in this process. Another program that wants
/// this very number may still take it before we do: then starting fails and says so.
pub fn free() -> Result<u16> {
    static START: OnceLock<u16> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = RANGE.end - RANGE.start;
    // Test programs that run at the same time start far from each other.
    let start = START.get_or_init(|| (std::process::id() % 997) as u16 * 10);
    (0..size)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|step| RANGE.start + (start + step % size) % size)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| format!("find a free port of 127.0.0.1 in {RANGE:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_below_the_kernels_range_and_given_once() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)), "{ports:?}");
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len(), "{ports:?}");
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let first = free().unwrap();
        let next: Vec<_> = (first + 1..first + 20)
            .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .filter_map(|listener| Some((listener.local_addr().ok()?.port(), listener)))
            .collect();
        let port = free().unwrap();
        assert!(next.iter().all(|(taken, _)| *taken != port), "{port}");
    }
}
