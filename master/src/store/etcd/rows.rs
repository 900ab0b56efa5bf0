//! What the store's keys and values are. Pure.
//!
//! ```text
//! PREFIX/agents/ID             JSON, as in the embedded store     PREFIX/format    of all this
//! PREFIX/removed_agents/ID     a number                           PREFIX/head      TERM-N: the last write
//! PREFIX/frameworks/ID         JSON                               PREFIX/leader    the election's
//! PREFIX/removed_frameworks/ID a number                           PREFIX/term      the election's
//! PREFIX/weights/ROLE          a number                           PREFIX/journal…  of a batch in several parts
//! PREFIX/quotas/ROLE           JSON                             PREFIX/large/…   pieces of large values
//! PREFIX/windows/NAME          JSON
//! ```

use std::fmt::Display;

use mezzo_api::model::RoleName;
use mezzo_etcd::{Rows, Writes};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    allocator::Quota,
    store::{Change, Saved},
};

const AGENTS: &str = "agents";
const REMOVED_AGENTS: &str = "removed_agents";
const FRAMEWORKS: &str = "frameworks";
const REMOVED_FRAMEWORKS: &str = "removed_frameworks";
const WEIGHTS: &str = "weights";
const QUOTAS: &str = "quotas";
const WINDOWS: &str = "windows";

/// What a batch comes to: of several changes of one key the last counts, as etcd takes each key only once.
pub(super) fn writes(changes: &[Change]) -> Writes {
    let mut writes = Writes::new();
    let mut set = |table: &str, id: &str, value: Option<Vec<u8>>| {
        writes.insert(format!("{table}/{id}"), value);
    };
    let number = |value: &u64| Some(value.to_string().into_bytes());
    for change in changes {
        match change {
            Change::PutAgent(record) => set(AGENTS, record.agent_id.as_str(), encode(record)),
            Change::ForgetAgent(id) => set(AGENTS, id.as_str(), None),
            Change::RemoveAgent { agent_id, at_ms } => {
                set(AGENTS, agent_id.as_str(), None);
                set(REMOVED_AGENTS, agent_id.as_str(), number(at_ms));
            }
            Change::ForgetRemovedAgent(id) => set(REMOVED_AGENTS, id.as_str(), None),
            Change::PutFramework(record) => {
                set(FRAMEWORKS, record.framework_id.as_str(), encode(record));
            }
            Change::RemoveFramework {
                framework_id,
                at_ms,
            } => {
                set(FRAMEWORKS, framework_id.as_str(), None);
                set(REMOVED_FRAMEWORKS, framework_id.as_str(), number(at_ms));
            }
            Change::ForgetRemovedFramework(id) => set(REMOVED_FRAMEWORKS, id.as_str(), None),
            Change::PutWeight {
                role,
                weight_millis,
            } => set(WEIGHTS, role.as_str(), number(weight_millis)),
            Change::PutQuota { role, quota } => {
                set(QUOTAS, role.as_str(), quota.as_ref().and_then(encode));
            }
            Change::PutWindow { name, window } => {
                set(WINDOWS, name.as_str(), window.as_ref().and_then(encode));
            }
        }
    }
    writes
}

fn encode(record: &impl Serialize) -> Option<Vec<u8>> {
    let text = serde_json::to_vec(record);
    Some(text.expect("records hold only strings, numbers, lists and maps with string keys"))
}

/// All that is durable, from all keys below the prefix. Keys of other tables are not ours.
pub(super) fn saved(rows: &Rows) -> Result<Saved, String> {
    Ok(Saved {
        agents: records(rows, AGENTS)?,
        removed_agents: numbers(rows, REMOVED_AGENTS)?,
        frameworks: records(rows, FRAMEWORKS)?,
        removed_frameworks: numbers(rows, REMOVED_FRAMEWORKS)?,
        weights: numbers(rows, WEIGHTS)?,
        quotas: quotas(rows)?,
        windows: records(rows, WINDOWS)?,
    })
}

/// The rest of the key, and the value.
fn table<'a>(rows: &'a Rows, name: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let row = move |(key, value): (&'a String, &'a Vec<u8>)| {
        let id = key.strip_prefix(name)?.strip_prefix('/')?;
        Some((id, value.as_slice()))
    };
    rows.iter().filter_map(row)
}

fn records<T: DeserializeOwned>(rows: &Rows, name: &str) -> Result<Vec<T>, String> {
    let parse = |(id, value): (&str, &[u8])| {
        serde_json::from_slice(value).map_err(|error| wrong(name, id, error))
    };
    table(rows, name).map(parse).collect()
}

fn numbers<K: TryFrom<String, Error: Display>>(
    rows: &Rows,
    name: &str,
) -> Result<Vec<(K, u64)>, String> {
    let parse = |(id, value): (&str, &[u8])| {
        let key = K::try_from(id.to_owned()).map_err(|error| wrong(name, id, error))?;
        let text = String::from_utf8_lossy(value);
        let number = text.parse().map_err(|error| wrong(name, id, error))?;
        Ok((key, number))
    };
    table(rows, name).map(parse).collect()
}

fn quotas(rows: &Rows) -> Result<Vec<(RoleName, Quota)>, String> {
    let parse = |(id, value): (&str, &[u8])| {
        let role = RoleName::try_from(id.to_owned()).map_err(|error| wrong(QUOTAS, id, error))?;
        let quota = serde_json::from_slice(value).map_err(|error| wrong(QUOTAS, id, error))?;
        Ok((role, quota))
    };
    table(rows, QUOTAS).map(parse).collect()
}

fn wrong(table: &str, id: &str, problem: impl Display) -> String {
    format!("{table}/{id}: {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(role: &str, weight_millis: u64) -> Change {
        Change::PutWeight {
            role: role.parse().unwrap(),
            weight_millis,
        }
    }

    #[test]
    fn the_last_change_of_a_key_counts() {
        let removed = Change::RemoveFramework {
            framework_id: "f".parse().unwrap(),
            at_ms: 7,
        };
        let writes = writes(&[weight("eng/web", 1), removed, weight("eng/web", 2)]);
        let mut rows = Rows::new();
        assert_eq!(writes.get("frameworks/f"), Some(&None));
        rows.extend(
            writes
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        rows.insert("term".to_owned(), b"9".to_vec());
        let saved = saved(&rows).unwrap();
        assert_eq!(saved.weights, [("eng/web".parse().unwrap(), 2)]);
        assert_eq!(saved.removed_frameworks, [("f".parse().unwrap(), 7)]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (key, value) in [("weights/a", "x"), ("agents/a", "{}"), ("quotas/a", "[")] {
            let rows = Rows::from([(key.to_owned(), value.as_bytes().to_vec())]);
            let problem = saved(&rows).unwrap_err();
            assert!(problem.starts_with(key), "{problem}");
        }
    }
}
