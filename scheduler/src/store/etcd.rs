//! The records of several schedulers: a [`Ledger`] in etcd, written by the leader alone. Edge; what is where is pure.
//!
//! ```text
//! PREFIX-scheduler/records/app:/web            as in the file's tables
//! PREFIX-scheduler/jobs/NAME
//! PREFIX-scheduler/job_runs/NAME:NUMBER
//! PREFIX-scheduler/{leader,term,head,format,…} the election's and the ledger's
//! ```

use mezzo_etcd::{Address, Client, Fence, Ledger, LedgerError, Rows, Writes, election::Seat};

use super::{FORMAT_NUMBER, StoreError, key_text, parse_key, parse_run_key};
use crate::core::record::{Key, Write, decode};
use crate::core::state::State;

const RECORDS: &str = "records/";
const JOBS: &str = "jobs/";
const JOB_RUNS: &str = "job_runs/";

/// The records, for one term.
#[derive(Debug)]
pub(crate) struct EtcdStore(Ledger);

impl From<LedgerError> for StoreError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Deposed => Self::Deposed,
            LedgerError::Etcd { .. } | LedgerError::Corrupt { .. } | LedgerError::TooNew { .. } => {
                Self::Etcd {
                    problem: error.to_string(),
                }
            }
        }
    }
}

impl EtcdStore {
    /// Begins the term of the leader that has this seat, and reads everything.
    pub(crate) async fn open(
        client: Client,
        address: Address,
        seat: Seat,
        fence: Fence,
    ) -> Result<(Self, State), StoreError> {
        let ledger = Ledger::new(client, address, seat, fence, FORMAT_NUMBER);
        ledger.begin().await?;
        let rows = ledger.read().await?;
        let state = state(rows).map_err(|problem| StoreError::Etcd {
            problem: format!("the state in {} is damaged: {problem}", ledger.place()),
        })?;
        Ok((Self(ledger), state))
    }

    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let writes: Writes = writes
            .into_iter()
            .map(|write| (name(&write.key), write.value))
            .collect();
        Ok(self.0.write(writes).await?)
    }
}

fn name(key: &Key) -> String {
    let table = match key {
        Key::Job(_) => JOBS,
        Key::JobRun(..) => JOB_RUNS,
        Key::Framework
        | Key::MasterTerm
        | Key::App(_)
        | Key::Version(..)
        | Key::Instance(_)
        | Key::Deployment(_)
        | Key::Group(_)
        | Key::GroupVersion(..)
        | Key::Holding(..) => RECORDS,
    };
    format!("{table}{}", key_text(key))
}

fn parse(name: &str) -> Option<Key> {
    if let Some(text) = name.strip_prefix(RECORDS) {
        return parse_key(text);
    }
    if let Some(text) = name.strip_prefix(JOBS) {
        return text.parse().ok().map(Key::Job);
    }
    parse_run_key(name.strip_prefix(JOB_RUNS)?)
}

fn state(rows: Rows) -> Result<State, String> {
    let mut keyed = Vec::with_capacity(rows.len());
    for (name, value) in rows {
        let key = parse(&name).ok_or_else(|| format!("it has an unknown record {name:?}"))?;
        keyed.push((key, value));
    }
    decode(keyed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_has_a_place_and_is_found_there() {
        let version = crate::time::Timestamp::from_millis(17);
        for key in [
            Key::Framework,
            Key::MasterTerm,
            Key::App("/a/b".parse().expect("valid")),
            Key::Version("/a/b".parse().expect("valid"), version),
            Key::Instance("a_b.instance-1._app.1".parse().expect("valid")),
            Key::Deployment(crate::deployment::DeploymentId(uuid::Uuid::nil())),
            Key::Group(crate::group::GroupId::root()),
            Key::GroupVersion("/a/b".parse().expect("valid"), version),
            Key::Job("a.b-c".parse().expect("valid")),
            Key::JobRun("a.b-c".parse().expect("valid"), 17),
        ] {
            assert_eq!(parse(&name(&key)), Some(key));
        }
        assert_eq!(parse("weights/x"), None);
    }

    #[test]
    fn a_row_that_is_no_record_is_named() {
        let rows = |name: &str, value: &[u8]| Rows::from([(name.to_owned(), value.to_vec())]);
        let told = state(rows("weights/x", b"1")).expect_err("unknown");
        assert!(told.contains("weights/x"), "{told}");
        let told = state(rows("records/framework", b"{")).expect_err("no JSON");
        assert!(told.contains("Framework"), "{told}");
        let read = state(rows("records/masterterm", b"7")).expect("reads");
        assert_eq!(read.master_term, 7);
    }
}
