//! Waiting for a state of the world, never for a length of time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// How often a state is looked at. Short, because it is also the error of the times that the demo prints.
const PACE: Duration = Duration::from_millis(10);

/// Looks until `probe` succeeds. Its error says why the state is not there yet; the last one becomes the reason of
/// the time-out. `what` completes "waited for …".
pub fn until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if interrupt::requested() {
            bail!("interrupted while waiting for {what}");
        }
        match probe() {
            Ok(found) => return Ok(found),
            Err(reason) if start.elapsed() >= within => {
                return Err(reason)
                    .with_context(|| format!("waited {} s for {what}", within.as_secs_f32()));
            }
            Err(_) => thread::sleep(PACE),
        }
    }
}

/// Looks for as long as `during` lasts, and fails at the first look that fails: for what must never happen.
pub fn always(what: &str, during: Duration, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < during {
        if interrupt::requested() {
            bail!("interrupted while watching that {what}");
        }
        probe().with_context(|| {
            format!(
                "{what}: no longer after {:.2} s",
                start.elapsed().as_secs_f32()
            )
        })?;
        thread::sleep(PACE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_the_probe_found_at_last() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            if looks < 3 {
                bail!("look {looks}")
            } else {
                Ok(looks)
            }
        });
        assert_eq!(found.expect("found"), 3);
    }

    #[test]
    fn the_time_out_tells_the_last_reason() {
        let error = until("rain", Duration::from_millis(20), || -> Result<()> {
            bail!("the sky is blue")
        });
        let told = format!("{:#}", error.expect_err("never rains"));
        assert_eq!(told, "waited 0.02 s for rain: the sky is blue");
    }

    #[test]
    fn always_fails_at_the_first_bad_look() {
        let mut looks = 0;
        let result = always("it holds", Duration::from_secs(5), || {
            looks += 1;
            if looks == 2 { bail!("broken") } else { Ok(()) }
        });
        assert!(result.is_err());
        assert_eq!(looks, 2);
    }
}
