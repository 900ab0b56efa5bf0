//! Waiting for other work on the machine to end, but not forever.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mezzo_integration::interrupt;

/// Waits until nothing but us wants a processor, or until `patience` is over.
pub(super) fn wait(patience: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < patience && !is_quiet()? && !interrupt::requested() {
        thread::sleep(patience.min(Duration::from_millis(200)));
    }
    Ok(())
}

/// Whether nothing but us wants a processor at this moment.
fn is_quiet() -> Result<bool> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let running = text
        .split([' ', '/'])
        .nth(3)
        .and_then(|n| n.parse::<u32>().ok());
    Ok(running.is_none_or(|running| running <= 1))
}
