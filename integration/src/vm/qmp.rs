//! A word to QEMU itself, by its machine protocol: JSON lines over a socket, one command per connection.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The name of the socket in the guest's folder.
pub(super) const SOCKET: &str = "qmp.sock";
/// QEMU answers at once.
const LIMIT: Duration = Duration::from_secs(20);

/// Carries out one command, with its arguments as an object.
pub(super) fn command(dir: &Path, name: &str, arguments: &Value) -> Result<()> {
    let context = || format!("tell QEMU to {name}");
    let folder = File::open(dir).with_context(context)?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    let mut to = UnixStream::connect(short).with_context(context)?;
    to.set_read_timeout(Some(LIMIT)).with_context(context)?;
    let mut from = BufReader::new(to.try_clone().with_context(context)?);
    for (name, arguments) in [("qmp_capabilities", &json!({})), (name, arguments)] {
        let line = json!({ "execute": name, "arguments": arguments });
        writeln!(to, "{line}").with_context(context)?;
        answer(&mut from).with_context(context)?;
    }
    Ok(())
}

/// The next line that is an answer; greetings and events come between.
fn answer(from: &mut impl BufRead) -> Result<()> {
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).context("read the answer")? == 0 {
            bail!("QEMU hung up");
        }
        let told: Value = serde_json::from_str(&line).context("parse the answer")?;
        if !told["error"].is_null() {
            bail!("QEMU refuses: {}", told["error"]["desc"]);
        }
        if !told["return"].is_null() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_passed_over_and_refusals_are_told() {
        let mut told = "{\"QMP\":{}}\n{\"event\":\"STOP\"}\n{\"return\":{}}\n".as_bytes();
        assert!(answer(&mut told).is_ok());
        let mut told = "{\"error\":{\"desc\":\"no such command\"}}\n".as_bytes();
        let refused = answer(&mut told).expect_err("refused").to_string();
        assert_eq!(refused, "QEMU refuses: \"no such command\"");
        assert!(answer(&mut "".as_bytes()).is_err());
    }
}
