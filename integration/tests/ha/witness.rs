//! Follows every key in etcd and checks each revision: only the leader of that moment writes, its writes are counted
//! without a gap, and terms only grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mezzo_etcd::proto::{Event, event::EventType};
use mezzo_etcd::{Client, prefix_end};
use serde_json::Value;

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) broken: Vec<String>,
    pub(crate) n_writes: u64,
    /// Each with when it was seen to begin, Unix milliseconds.
    pub(crate) terms: Vec<(u64, u64)>,
    highest: u64,
    leader: Option<u64>,
    /// Term and number of the last write.
    head: Option<(u64, u64)>,
    /// Compaction took revisions that were not seen: what holds now is not known.
    blind: bool,
}

pub(crate) struct Witness {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
}

impl Witness {
    /// Of all keys below a prefix, which begins and ends with a slash.
    pub(crate) fn start(etcd: &str, prefix: &'static str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, address) = (Arc::clone(&over), format!("etcd://{etcd}{prefix}"));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(follow(&address, prefix, &stop))
        });
        Self { over, thread }
    }

    pub(crate) fn finish(self) -> Result<Seen> {
        self.over.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        joined.map_err(|_| anyhow::anyhow!("the witness panicked"))?
    }
}

async fn follow(address: &str, prefix: &str, over: &AtomicBool) -> Result<Seen> {
    let client = Client::new(&address.parse()?)?;
    let (mut seen, mut from) = (Seen::default(), 1);
    while !over.load(Ordering::Relaxed) {
        let end = Some(prefix_end(prefix));
        let watch = client
            .watch(prefix, end, from, Duration::from_secs(1))
            .await;
        let Ok(mut stream) = watch else {
            continue;
        };
        while !over.load(Ordering::Relaxed) {
            let message = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
            match message {
                Err(_) => {}
                Ok(Ok(Some(message))) if message.canceled => {
                    from = from.max(message.compact_revision);
                    seen.blind |= message.compact_revision > 0;
                    break;
                }
                Ok(Ok(Some(message))) => {
                    let revision =
                        |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                    for group in message.events.chunk_by(|a, b| revision(a) == revision(b)) {
                        seen.look(prefix, group)?;
                        from = from.max(revision(&group[0]) + 1);
                    }
                }
                Ok(Ok(None) | Err(_)) => break,
            }
        }
    }
    Ok(seen)
}

impl Seen {
    /// At all that one transaction did.
    fn look(&mut self, prefix: &str, group: &[Event]) -> Result<()> {
        let mut others = Vec::new();
        let mut head = None;
        for event in group {
            let pair = event.kv.as_ref().context("an event without a key")?;
            let key = String::from_utf8_lossy(&pair.key).into_owned();
            let value = String::from_utf8_lossy(&pair.value).into_owned();
            let name = key.strip_prefix(prefix).unwrap_or(&key);
            match (name, event.r#type()) {
                ("leader", EventType::Delete) => self.leader = None,
                ("leader", EventType::Put) => {
                    let leader: Value = serde_json::from_str(&value)?;
                    let term = leader["term"].as_u64().context("a leader without a term")?;
                    if term <= self.highest {
                        self.broken
                            .push(format!("term {term} after {}", self.highest));
                    }
                    (self.highest, self.leader, self.blind) = (term, Some(term), false);
                    self.terms.push((term, unix_ms()));
                }
                ("term", _) => {}
                ("head", _) => {
                    let (term, number) = value.split_once('-').context("a head without a term")?;
                    head = Some((term.parse()?, number.parse()?));
                }
                _ => others.push(key),
            }
        }
        if head.is_none() && others.is_empty() {
            return Ok(());
        }
        self.n_writes += 1;
        let expected = match (self.leader, self.head) {
            (Some(leader), Some((term, number))) if leader == term => Some((leader, number + 1)),
            (Some(leader), _) => Some((leader, 0)),
            (None, _) => None,
        };
        if !self.blind && (expected.is_none() || head != expected) {
            self.broken.push(format!(
                "{others:?} written with head {head:?}, expected was {expected:?}"
            ));
        }
        self.head = head;
        Ok(())
    }
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
