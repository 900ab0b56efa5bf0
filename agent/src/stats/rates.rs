//! Rates from two samples of one task. Pure. What either sample does not tell, and what has gone back (a counter that
//! began anew), is `None`, never zero and never negative.

use mezzo_api::model::Usage;

/// Use per second between two samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Milliseconds between the samples.
    pub(crate) window_ms: u64,
    /// Thousandths of a processor.
    pub(crate) cpu_millis: Option<u64>,
    /// Thousandths of the periods of the cpu limit in which it was used up.
    pub(crate) cpu_throttled_permille: Option<u64>,
    /// Bytes read from block devices per second.
    pub(crate) io_read_bytes: Option<u64>,
    /// Bytes written to block devices per second.
    pub(crate) io_write_bytes: Option<u64>,
    /// Read operations per second.
    pub(crate) io_read_ops: Option<u64>,
    /// Write operations per second.
    pub(crate) io_write_ops: Option<u64>,
    /// Bytes received per second.
    pub(crate) network_rx_bytes: Option<u64>,
    /// Bytes sent per second.
    pub(crate) network_tx_bytes: Option<u64>,
    /// Packets received per second.
    pub(crate) network_rx_packets: Option<u64>,
    /// Packets sent per second.
    pub(crate) network_tx_packets: Option<u64>,
    /// Thousandths of the time in which something waited for a processor.
    pub(crate) cpu_pressure_permille: Option<u64>,
    /// The same for memory.
    pub(crate) memory_pressure_permille: Option<u64>,
    /// The same for block devices.
    pub(crate) io_pressure_permille: Option<u64>,
}

/// Between an earlier and a later sample that are so many milliseconds of monotonic time apart; `None` when no time
/// has passed.
pub(crate) fn between(before: &Usage, after: &Usage, window_ms: u64) -> Option<Rates> {
    if window_ms == 0 {
        return None;
    }
    let grown = |field: fn(&Usage) -> Option<u64>| field(after)?.checked_sub(field(before)?);
    let scaled = |growth: Option<u64>, by: u64| {
        let rate = u128::from(growth?) * u128::from(by) / u128::from(window_ms);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    };
    let per_second = |field| scaled(grown(field), 1000);
    // Microseconds in a window of milliseconds are thousandths as they are.
    let permille = |field| scaled(grown(field), 1).map(|share| share.min(1000));
    let periods = grown(|usage| usage.cpu_periods);
    let throttled = grown(|usage| usage.cpu_throttled_periods);
    Some(Rates {
        window_ms,
        cpu_millis: scaled(grown(|usage| usage.cpu_total_us), 1),
        cpu_throttled_permille: throttled.zip(periods).map(|(throttled, periods)| {
            throttled
                .saturating_mul(1000)
                .checked_div(periods)
                .unwrap_or(0)
                .min(1000)
        }),
        io_read_bytes: per_second(|usage| usage.io_read_bytes),
        io_write_bytes: per_second(|usage| usage.io_write_bytes),
        io_read_ops: per_second(|usage| usage.io_read_ops),
        io_write_ops: per_second(|usage| usage.io_write_ops),
        network_rx_bytes: per_second(|usage| usage.network_rx_bytes),
        network_tx_bytes: per_second(|usage| usage.network_tx_bytes),
        network_rx_packets: per_second(|usage| usage.network_rx_packets),
        network_tx_packets: per_second(|usage| usage.network_tx_packets),
        cpu_pressure_permille: permille(|usage| usage.cpu_pressure_some_us),
        memory_pressure_permille: permille(|usage| usage.memory_pressure_some_us),
        io_pressure_permille: permille(|usage| usage.io_pressure_some_us),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu: u64, read: Option<u64>) -> Usage {
        Usage {
            cpu_total_us: Some(cpu),
            cpu_periods: Some(cpu / 1000),
            cpu_throttled_periods: Some(cpu / 4000),
            io_read_bytes: read,
            cpu_pressure_some_us: Some(cpu / 2),
            ..Usage::default()
        }
    }

    #[test]
    fn growth_is_divided_by_the_time_that_passed() {
        let rates = between(&usage(0, Some(0)), &usage(1_000_000, Some(4096)), 2000).unwrap();
        assert_eq!(rates.cpu_millis, Some(500));
        assert_eq!(rates.cpu_throttled_permille, Some(250));
        assert_eq!(rates.io_read_bytes, Some(2048));
        assert_eq!(rates.cpu_pressure_permille, Some(250));
        assert_eq!((rates.io_write_bytes, rates.network_rx_bytes), (None, None));
    }

    #[test]
    fn what_went_back_or_is_not_told_has_no_rate() {
        let rates = between(&usage(900, Some(10)), &usage(100, None), 1000).unwrap();
        assert_eq!((rates.cpu_millis, rates.io_read_bytes), (None, None));
        assert_eq!(between(&usage(0, None), &usage(1, None), 0), None);
        let huge = between(&usage(0, Some(0)), &usage(u64::MAX, Some(u64::MAX)), 1).unwrap();
        assert_eq!(huge.io_read_bytes, Some(u64::MAX));
    }
}
