//! Which of several masters to ask: a list of addresses, the leader that one of them named, and when to try again.
//! Pure; agents, frameworks, simulated agents and clients share it.
//!
//! A master that does not lead refuses every call with UNAVAILABLE and names the leader in the status' metadata
//! ([`LEADER_KEY`], [`TERM_KEY`]). Whoever asks goes there at once; otherwise to the next of the list, with growing
//! pauses after each round.

use std::time::Duration;

use thiserror::Error;
use tonic::{
    Status,
    metadata::{AsciiMetadataValue, MetadataMap},
};

/// In the metadata of a refusal: `host:port` of the leader.
pub const LEADER_KEY: &str = "mezzo-leader";
/// Beside it: the term of its leadership.
pub const TERM_KEY: &str = "mezzo-term";

/// No cluster has more masters.
const MOST: usize = 32;
/// The leader that was named names another, and so on: then they don't know either.
const MOST_REDIRECTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two masters of one round.
const SHORT_PAUSE: Duration = Duration::from_millis(50);

/// Why a text is no list of masters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no list of masters: {problem}; give host:port,host:port,...")]
pub struct InvalidMasters {
    text: String,
    problem: String,
}

/// The masters, and where the search for the leader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masters {
    known: Vec<String>,
    at: usize,
    /// As a master named it.
    named: Option<String>,
    n_redirects: u32,
    /// In a row, of the list.
    n_failures: u32,
}

impl Masters {
    /// From `host:port,host:port`; each may begin with `http://`.
    ///
    /// # Errors
    ///
    /// With what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidMasters> {
        let wrong = |problem: String| InvalidMasters {
            text: text.to_owned(),
            problem,
        };
        let mut known: Vec<String> = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let part = part.strip_prefix("http://").unwrap_or(part);
            let part = part.trim_end_matches('/');
            check(part).map_err(&wrong)?;
            if known.iter().any(|one| one == part) {
                return Err(wrong(format!("{part} stands there twice")));
            }
            known.push(part.to_owned());
        }
        if known.len() > MOST {
            return Err(wrong(format!("more than {MOST} masters")));
        }
        Ok(Self {
            known,
            at: 0,
            named: None,
            n_redirects: 0,
            n_failures: 0,
        })
    }

    /// `host:port` of the one to ask now.
    #[must_use]
    pub fn current(&self) -> &str {
        self.named.as_deref().unwrap_or(&self.known[self.at])
    }

    /// How many the list has.
    #[must_use]
    pub fn n_known(&self) -> usize {
        self.known.len()
    }

    /// The current one leads.
    pub fn reached(&mut self) {
        self.n_failures = 0;
        self.n_redirects = 0;
    }

    /// The current one does not, or is not there; it may have named another. The next one is current now, to be asked
    /// after this pause; `random` in 0..1 keeps a thousand peers apart.
    pub fn failed(&mut self, named: Option<String>, random: f64) -> Duration {
        let random = random.clamp(0.0, 1.0);
        if let Some(named) = named.filter(|named| check(named).is_ok())
            && named != self.current()
            && self.n_redirects < MOST_REDIRECTS
        {
            self.named = Some(named);
            self.n_redirects += 1;
            return SHORT_PAUSE.mul_f64(random);
        }
        if self.named.take().is_none() {
            self.at = (self.at + 1) % self.known.len();
        }
        self.n_redirects = 0;
        self.n_failures = self.n_failures.saturating_add(1);
        let of_list = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let round = (self.n_failures - 1) / of_list;
        if !self.n_failures.is_multiple_of(of_list) {
            return SHORT_PAUSE.mul_f64(random);
        }
        FIRST_PAUSE
            .saturating_mul(1_u32.checked_shl(round).unwrap_or(u32::MAX))
            .min(LONGEST_PAUSE)
            .mul_f64(random)
    }
}

/// The leader that a refusal names, if it names one.
///
/// ```
/// let mut status = tonic::Status::unavailable("m2:5050 leads");
/// assert_eq!(mezzo_api::masters::leader_named(&status), None);
/// mezzo_api::masters::name_leader(status.metadata_mut(), "m2:5050", 7);
/// assert_eq!(mezzo_api::masters::leader_named(&status).as_deref(), Some("m2:5050"));
/// ```
#[must_use]
pub fn leader_named(status: &Status) -> Option<String> {
    let value = status.metadata().get(LEADER_KEY)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Says in a status' metadata who leads.
pub fn name_leader(metadata: &mut MetadataMap, address: &str, term: u64) {
    // An address that does not fit was not checked; then nobody is named.
    if let Ok(address) = AsciiMetadataValue::try_from(address) {
        metadata.insert(LEADER_KEY, address);
        metadata.insert(TERM_KEY, term.into());
    }
}

fn check(address: &str) -> Result<(), String> {
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| format!("{address:?} has no port"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let host_fits = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    if !host_fits {
        return Err(format!(
            "{address:?} has no host name or address (IPv6 in brackets)"
        ));
    }
    match port.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "the port of {address:?} is no number from 0 to 65535"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters() -> Masters {
        Masters::parse("a:1, http://b:2/,[::1]:3").unwrap()
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        for (text, part) in [
            ("", "no port"),
            ("nowhere", "no port"),
            (":5050", "no host"),
            ("a:1,,b:2", "no port"),
            ("a:1,a:1", "twice"),
            ("a:x", "0 to 65535"),
            ("::1:5050", "brackets"),
        ] {
            let error = Masters::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn each_is_tried_in_turn_and_pauses_grow_by_the_round() {
        let mut masters = masters();
        let mut asked = Vec::new();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            asked.push(masters.current().to_owned());
            pauses.push(masters.failed(None, 1.0).as_millis());
        }
        assert_eq!(asked, ["a:1", "b:2", "[::1]:3", "a:1", "b:2", "[::1]:3"]);
        assert_eq!(pauses, [50, 50, 200, 50, 50, 400]);
        for _ in 0..300 {
            assert!(masters.failed(None, 1.0) <= LONGEST_PAUSE);
        }
        assert_eq!(masters.failed(None, 0.0), Duration::ZERO);
        masters.reached();
        let mut one = Masters::parse("a:1").unwrap();
        assert_eq!(one.failed(None, 1.0), FIRST_PAUSE);
    }

    #[test]
    fn a_leader_that_is_named_is_asked_at_once_even_if_the_list_lacks_it() {
        let mut masters = masters();
        assert!(masters.failed(Some("new:9".into()), 1.0) <= SHORT_PAUSE);
        assert_eq!(masters.current(), "new:9");
        // It is not there: back to the list, where it was left.
        masters.failed(None, 1.0);
        assert_eq!(masters.current(), "a:1");
        masters.failed(Some("no address".into()), 1.0);
        assert_eq!(masters.current(), "b:2");
    }

    #[test]
    fn masters_that_name_each_other_do_not_keep_anybody_busy() {
        let mut masters = masters();
        let mut paused = Duration::ZERO;
        for i in 0..100 {
            let other = if i % 2 == 0 { "x:1" } else { "y:1" };
            paused += masters.failed(Some(other.into()), 1.0);
        }
        assert!(paused > Duration::from_secs(5), "{paused:?}");
    }

    #[test]
    fn a_status_names_the_leader() {
        let mut status = tonic::Status::unavailable("not here");
        assert_eq!(leader_named(&status), None);
        name_leader(status.metadata_mut(), "a:1", 7);
        assert_eq!(leader_named(&status).as_deref(), Some("a:1"));
    }
}
