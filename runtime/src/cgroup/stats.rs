//! The texts of cgroup files turned into numbers. Pure; what a file does not say is `None`.

use crate::model::Pressure;

/// A file that holds one number (or `max`, which is no number).
pub(crate) fn parse_single(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn parse_keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

/// The totals of a pressure file.
pub(crate) fn parse_pressure(text: &str) -> Option<Pressure> {
    let total = |kind: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split(' ');
            (words.next() == Some(kind))
                .then(|| words.find_map(|word| word.strip_prefix("total=")?.trim().parse().ok()))
                .flatten()
        })
    };
    Some(Pressure {
        some_us: total("some")?,
        full_us: total("full"),
    })
}

/// The lines of a file of `key value` lines, in one pass.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

/// What went to and from block devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IoSums {
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) read_ops: u64,
    pub(crate) write_ops: u64,
}

/// Summed over the devices of a version 2 `io.stat`.
pub(crate) fn parse_io_stat(text: &str) -> IoSums {
    let mut sums = IoSums::default();
    for word in text.split_ascii_whitespace() {
        let Some((key, value)) = word.split_once('=') else {
            continue;
        };
        let to = match key {
            "rbytes" => &mut sums.read_bytes,
            "wbytes" => &mut sums.write_bytes,
            "rios" => &mut sums.read_ops,
            "wios" => &mut sums.write_ops,
            _ => continue,
        };
        *to = to.saturating_add(value.parse().unwrap_or(0));
    }
    sums
}

/// Read and written, summed over the devices of a version 1 `blkio.throttle.io_service_bytes` or `io_serviced`. `None` where
/// no device is named: kernels since 6.10 count for those alone that somebody has limited.
pub(crate) fn parse_blkio(text: &str) -> Option<(u64, u64)> {
    let sum = |kind: &str| {
        text.lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                (words.next() == Some(kind))
                    .then(|| words.next()?.parse::<u64>().ok())
                    .flatten()
            })
            .reduce(u64::saturating_add)
    };
    Some((sum("Read")?, sum("Write")?))
}

/// The process ids of a `cgroup.procs` (0 stands for a process of another pid namespace).
pub(crate) fn parse_pids(text: &str) -> Vec<i32> {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_numbers_are_read_and_max_is_none() {
        assert_eq!(parse_single("4096\n"), Some(4096));
        assert_eq!(parse_single("max\n"), None);
        assert_eq!(parse_single(""), None);
    }

    #[test]
    fn keys_are_matched_whole() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(parse_keyed(text, "oom_kill"), Some(3));
        assert_eq!(parse_keyed(text, "oom"), None);
        assert_eq!(parse_keyed("oom_kill x", "oom_kill"), None);
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text =
            "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:0 rbytes=10 wbytes=20\n";
        let sums = IoSums {
            read_bytes: 11,
            write_bytes: 22,
            read_ops: 3,
            write_ops: 4,
        };
        assert_eq!(parse_io_stat(text), sums);
        assert_eq!(parse_io_stat(""), IoSums::default());
        let text = "253:0 Read 4096\n253:0 Write 8192\n8:0 Read 1\nTotal 12289\n";
        assert_eq!(parse_blkio(text), Some((4097, 8192)));
        assert_eq!(parse_blkio("Total 0\n"), None);
    }

    #[test]
    fn pressure_is_told_in_totals() {
        let some = "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        let told = |text: &str| parse_pressure(text).map(|found| (found.some_us, found.full_us));
        assert_eq!(told(some), Some((12, None)));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
        assert_eq!(told(&both), Some((12, Some(7))));
        assert_eq!(told(""), None);
    }

    #[test]
    fn processes_of_other_namespaces_are_left_out() {
        assert_eq!(parse_pids("12\n0\n7\n\n"), [12, 7]);
    }
}
