//! What a container sends and receives: the counters of the interfaces in its network namespace, loopback left out,
//! read through one descriptor that is opened while its first process is there and kept.
//!
//! That descriptor holds the namespace: it can still be read when the last process is gone, which is how the last
//! sample is exact. For the same reason nobody may keep it longer than the container lives: the namespace, and with it
//! the container's interfaces, would stay. Whoever shares the host's namespace has no figures of its own: none are told.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use crate::model::Traffic;
use crate::process::ProcessRef;
use crate::stats_file;

/// The kept descriptor.
#[derive(Debug)]
pub(crate) struct TrafficReader(File);

impl TrafficReader {
    /// Of a process that is known to be there (a child not yet waited for); `None` on the host's network, and where
    /// the kernel does not tell.
    pub(crate) fn open(pid: i32) -> Option<Self> {
        let namespace = |process: &str| {
            let link = fs::metadata(format!("/proc/{process}/ns/net")).ok()?;
            Some((link.dev(), link.ino()))
        };
        if namespace(&pid.to_string())? == namespace("self")? {
            return None;
        }
        File::open(format!("/proc/{pid}/net/dev")).ok().map(Self)
    }

    /// Of a process by number and start time.
    pub(crate) fn of(process: ProcessRef) -> Option<Self> {
        let reader = Self::open(process.pid)?;
        // Looked up after the file was opened: if it is still the same process, the file is of its namespace.
        (ProcessRef::of(process.pid).ok()? == process).then_some(reader)
    }

    /// The counters now.
    pub(crate) fn read(&self, buffer: &mut Vec<u8>) -> Option<Traffic> {
        parse(stats_file::read(&self.0, buffer)?)
    }
}

/// The sum over all interfaces but loopback in the text of `net/dev`. Pure; `None` for a text that is something else.
fn parse(text: &str) -> Option<Traffic> {
    let mut sum = Traffic::default();
    // Two lines of headings.
    for line in text.lines().skip(2) {
        // A name may hold colons (an alias), never a blank.
        let (name, figures) = line.rsplit_once(':')?;
        if name.trim() == "lo" {
            continue;
        }
        let mut figures = figures.split_ascii_whitespace().map(str::parse::<u64>);
        let mut next = || figures.next()?.ok();
        let received = [next()?, next()?, next()?, next()?];
        for _ in 0..4 {
            next()?;
        }
        let sent = [next()?, next()?, next()?, next()?];
        let add = |to: &mut u64, figure: u64| *to = to.saturating_add(figure);
        add(&mut sum.rx_bytes, received[0]);
        add(&mut sum.rx_packets, received[1]);
        add(&mut sum.rx_errors, received[2]);
        add(&mut sum.rx_dropped, received[3]);
        add(&mut sum.tx_bytes, sent[0]);
        add(&mut sum.tx_packets, sent[1]);
        add(&mut sum.tx_errors, sent[2]);
        add(&mut sum.tx_dropped, sent[3]);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn interfaces_are_summed_without_loopback() {
        let text = format!(
            "{HEAD}    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  eth0:1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\neth1:1: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n"
        );
        let sum = parse(&text).unwrap();
        assert_eq!(
            (sum.rx_bytes, sum.rx_packets, sum.rx_errors, sum.rx_dropped),
            (1005, 11, 1, 2)
        );
        assert_eq!(
            (sum.tx_bytes, sum.tx_packets, sum.tx_errors, sum.tx_dropped),
            (2007, 21, 3, 4)
        );
    }

    #[test]
    fn a_namespace_with_loopback_alone_has_sent_nothing_and_nonsense_is_no_answer() {
        let text = format!("{HEAD}    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n");
        assert_eq!(parse(&text), Some(Traffic::default()));
        assert_eq!(parse(&format!("{HEAD}  eth0: 1 2 three\n")), None);
        assert_eq!(parse(&format!("{HEAD}no colon\n")), None);
    }

    #[test]
    fn whoever_shares_our_namespace_has_no_traffic_of_its_own() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(TrafficReader::open(me).is_none());
    }
}
