//! What a leader keeps in etcd: keys below a prefix, written by the leader alone, a batch at a time.
//!
//! Every transaction compares two keys first. The leader's must be the one that this process put there (its create
//! revision): so a deposed leader writes nothing, whatever it believes. And the *head*, `TERM-N`, must be what the last
//! write left: so a write that was given up and comes late changes nothing, and one whose answer was lost is known when
//! it is tried again.
//!
//! A batch that is too much for one transaction goes into a journal first, in parts; one more write says that the
//! journal counts; then it is carried out. Whoever leads next carries out what is left of one that counts.
//!
//! What the keys and values mean is the owner's business. One writer: batches come one after the other.

mod batch;

use std::time::Duration;

use tokio::sync::Mutex;

use self::batch::{Large, from_journal, gather, lay_out, parts, to_journal};
pub use self::batch::{Rows, Writes};
use crate::{
    Address, Client, Error, Fence,
    client::prefix_end,
    election::{LEADER, Seat, TERM},
    proto::{
        Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, ResponseOp,
        TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
};

const HEAD: &str = "head";
const FORMAT: &str = "format";
/// How many parts of the journal count.
const JOURNAL: &str = "journal";
/// What begins so belongs to the journal.
const JOURNAL_PARTS: &str = "journal/";

/// For one try; the fence bounds all of them together.
const TRY: Duration = Duration::from_secs(1);
/// Keys in one answer.
const PAGE: i64 = 500;
/// A reader whose revision is compacted away begins again; so often in a row it never is.
const MOST_READS: usize = 20;

/// Why what is kept in etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another leads, or may lead by now. What was to be written was not, or nobody will be told of it.
    #[error("this process does not lead any more")]
    Deposed,
    /// etcd does not do it.
    #[error("cannot use the state in {place}: {problem}")]
    Etcd {
        /// Its address.
        place: String,
        /// What it says.
        problem: String,
    },
    /// Not what a leader wrote.
    #[error("the state in {place} is corrupt ({problem}); put a backup of etcd in its place")]
    Corrupt {
        /// Its address.
        place: String,
        /// What was found.
        problem: String,
    },
    /// From a newer program.
    #[error("the state in {place} has format {found}, this mezzo reads up to {known}; upgrade it")]
    TooNew {
        /// Its address.
        place: String,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
}

/// The keys below one prefix, for one term. In this order: [`Ledger::begin`], [`Ledger::read`], then writes.
#[derive(Debug)]
pub struct Ledger {
    client: Client,
    address: Address,
    seat: Seat,
    fence: Fence,
    format: u32,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// Writes of this term, counted.
    head: u64,
    large: Large,
}

impl Ledger {
    /// For the leader that has this seat, while the fence is open. Records are of that format, and older ones are read.
    #[must_use]
    pub fn new(client: Client, address: Address, seat: Seat, fence: Fence, format: u32) -> Self {
        Self {
            client,
            address,
            seat,
            fence,
            format,
            written: Mutex::default(),
        }
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.address.to_string()
    }

    /// The election gave the term; here its writes begin.
    ///
    /// # Errors
    ///
    /// When another leads, the records are of a newer format, or etcd refuses.
    pub async fn begin(&self) -> Result<u64, LedgerError> {
        loop {
            let look = TxnRequest {
                compare: vec![self.is_leader()],
                success: vec![self.get(HEAD), self.get(FORMAT)],
                failure: Vec::new(),
            };
            let answer = self.insist(|| self.client.txn(look.clone(), TRY)).await?;
            if !answer.succeeded {
                return Err(self.deposed());
            }
            let mut found = answer.responses.into_iter().map(first_of);
            let head = found.next().flatten();
            if let Some(format) = found.next().flatten() {
                let text = String::from_utf8_lossy(&format.value);
                let found: u32 = text
                    .parse()
                    .map_err(|error| self.corrupt(format_args!("{FORMAT}: {error}")))?;
                if found > self.format {
                    return Err(LedgerError::TooNew {
                        place: self.place(),
                        found,
                        known: self.format,
                    });
                }
            }
            if head.as_ref().is_some_and(|pair| pair.value == self.head(0)) {
                return Ok(self.seat.term);
            }
            let revision = head.map_or(0, |pair| pair.mod_revision);
            let begin = TxnRequest {
                compare: vec![
                    self.is_leader(),
                    self.equal(HEAD, CompareTarget::Mod, TargetUnion::ModRevision(revision)),
                ],
                success: vec![
                    self.put(HEAD, self.head(0)),
                    self.put(FORMAT, self.format.to_string().into_bytes()),
                ],
                failure: Vec::new(),
            };
            // Then it is looked at again: also when the answer was lost.
            self.insist(|| self.client.txn(begin.clone(), TRY)).await?;
        }
    }

    /// All of it, after what the last leader left undone was done.
    ///
    /// # Errors
    ///
    /// When another leads, etcd refuses, or something is there that no leader wrote.
    pub async fn read(&self) -> Result<Rows, LedgerError> {
        let mut rows = self.read_all().await?;
        let parts = self.journal(&rows)?;
        if !parts.is_empty() {
            tracing::info!(parts = parts.len(), "finishing a write of the last leader");
            self.carry_out(&parts).await?;
            rows = self.read_all().await?;
        }
        let (rows, large) = self.records(rows)?;
        self.written.lock().await.large = large;
        Ok(rows)
    }

    /// All of it as it is now, while others may write. A journal that counts is what a write has come to so far: the rest of
    /// it is added here, and nothing is written.
    ///
    /// # Errors
    ///
    /// When etcd refuses, or something is there that no leader wrote.
    pub async fn look(&self) -> Result<Rows, LedgerError> {
        let mut rows = self.read_all().await?;
        for part in self.journal(&rows)? {
            for (key, value) in part {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
        Ok(self.records(rows)?.0)
    }

    /// Without the election's keys, ours, and the journal's.
    fn records(&self, mut rows: Rows) -> Result<(Rows, Large), LedgerError> {
        rows.retain(|name, _| {
            !matches!(name.as_str(), LEADER | TERM | HEAD | FORMAT | JOURNAL)
                && !name.starts_with(JOURNAL_PARTS)
        });
        gather(rows).map_err(|problem| self.corrupt(problem))
    }

    /// All of them or none; durable when it returns.
    ///
    /// # Errors
    ///
    /// When another leads, or etcd refuses. Then it may have been done.
    pub async fn write(&self, writes: Writes) -> Result<(), LedgerError> {
        let known = self.written.lock().await.large.clone();
        let (writes, large) = lay_out(writes, &known);
        match &parts(writes)[..] {
            [] => return Ok(()),
            [only] => self.commit(only).await?,
            several => {
                for (number, part) in several.iter().enumerate() {
                    let value = to_journal(part);
                    self.commit(&[(part_name(number), Some(value))].into())
                        .await?;
                }
                let count = several.len().to_string().into_bytes();
                self.commit(&[(JOURNAL.to_owned(), Some(count))].into())
                    .await?;
                self.carry_out(several).await?;
            }
        }
        self.written.lock().await.large = large;
        Ok(())
    }

    fn head(&self, number: u64) -> Vec<u8> {
        format!("{}-{number}", self.seat.term).into_bytes()
    }

    fn problem(&self, problem: impl ToString) -> LedgerError {
        LedgerError::Etcd {
            place: self.place(),
            problem: problem.to_string(),
        }
    }

    fn corrupt(&self, problem: impl ToString) -> LedgerError {
        LedgerError::Corrupt {
            place: self.place(),
            problem: problem.to_string(),
        }
    }

    /// It turned out that another leads.
    fn deposed(&self) -> LedgerError {
        self.fence.close();
        LedgerError::Deposed
    }

    /// Again and again until etcd answers, or until this master may lead no longer.
    async fn insist<T, F>(&self, call: impl Fn() -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        while self.fence.is_open() {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error @ Error::Unanswered { .. }) => {
                    tracing::warn!(%error, "the state waits for etcd");
                }
                Err(error) => return Err(self.problem(error)),
            }
        }
        Err(self.deposed())
    }

    fn equal(&self, name: &str, target: CompareTarget, union: TargetUnion) -> Compare {
        Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: self.address.key(name).into(),
            target_union: Some(union),
        }
    }

    fn is_leader(&self) -> Compare {
        let revision = TargetUnion::CreateRevision(self.seat.revision);
        self.equal(LEADER, CompareTarget::Create, revision)
    }

    fn put(&self, name: &str, value: Vec<u8>) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: self.address.key(name).into(),
                value,
                lease: 0,
            })),
        }
    }

    fn get(&self, name: &str) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestRange(RangeRequest {
                key: self.address.key(name).into(),
                ..RangeRequest::default()
            })),
        }
    }

    fn delete(&self, name: &str, end: Vec<u8>) -> RequestOp {
        RequestOp {
            request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
                key: self.address.key(name).into(),
                range_end: end,
            })),
        }
    }

    /// One transaction.
    async fn commit(&self, writes: &Writes) -> Result<(), LedgerError> {
        let operation = |(name, value): (&String, &Option<Vec<u8>>)| match value {
            Some(value) => self.put(name, value.clone()),
            None => self.delete(name, Vec::new()),
        };
        self.transact(writes.iter().map(operation).collect()).await
    }

    async fn transact(&self, mut operations: Vec<RequestOp>) -> Result<(), LedgerError> {
        let mut written = self.written.lock().await;
        let next = written.head + 1;
        operations.push(self.put(HEAD, self.head(next)));
        let request = TxnRequest {
            compare: vec![
                self.is_leader(),
                self.equal(
                    HEAD,
                    CompareTarget::Value,
                    TargetUnion::Value(self.head(written.head)),
                ),
            ],
            success: operations,
            failure: vec![self.get(LEADER), self.get(HEAD)],
        };
        let answer = self
            .insist(|| self.client.txn(request.clone(), TRY))
            .await?;
        if !answer.succeeded {
            let mut found = answer.responses.into_iter().map(first_of);
            let leader = found.next().flatten();
            let found = found.next().flatten().map(|pair| pair.value);
            let leads = leader.is_some_and(|pair| pair.create_revision == self.seat.revision);
            // Another try of the same write was done, and its answer lost.
            if !leads || found.as_ref() != Some(&self.head(next)) {
                let found = found.map(|value| String::from_utf8_lossy(&value).into_owned());
                tracing::warn!(
                    leads,
                    head = found,
                    ours = next,
                    "a write was refused by etcd"
                );
                return Err(self.deposed());
            }
        }
        written.head = next;
        Ok(())
    }

    /// All keys below the prefix, as of one revision.
    async fn read_all(&self) -> Result<Rows, LedgerError> {
        for _ in 0..MOST_READS {
            match self.try_read_all().await {
                Err(Error::Compacted) => {
                    tracing::info!("etcd compacted the revision that was being read; once more");
                }
                Err(error @ Error::Unanswered { .. }) if self.fence.is_open() => {
                    tracing::warn!(%error, "the state waits for etcd");
                }
                Err(Error::Unanswered { .. }) => return Err(self.deposed()),
                Err(error) => return Err(self.problem(error)),
                Ok(rows) => return Ok(rows),
            }
        }
        Err(self.problem("it could not be read whole, again and again"))
    }

    async fn try_read_all(&self) -> Result<Rows, Error> {
        let prefix = self.address.key("");
        let mut rows = Rows::new();
        let mut request = RangeRequest {
            key: prefix.clone().into(),
            range_end: prefix_end(&prefix),
            limit: PAGE,
            revision: 0,
        };
        loop {
            let page = self.client.range(request.clone(), TRY * 2).await?;
            if let Some(last) = page.kvs.last() {
                request.key = [last.key.as_slice(), &[0]].concat();
            }
            request.revision = page
                .header
                .map_or(0, |header| header.revision)
                .max(request.revision);
            for KeyValue { key, value, .. } in page.kvs {
                let key = String::from_utf8_lossy(&key);
                if let Some(name) = key.strip_prefix(&prefix) {
                    rows.insert(name.to_owned(), value);
                }
            }
            if !page.more {
                return Ok(rows);
            }
        }
    }

    /// What the journal says is done, and then the journal goes.
    async fn carry_out(&self, parts: &[Writes]) -> Result<(), LedgerError> {
        for part in parts {
            self.commit(part).await?;
        }
        let prefix = self.address.key(JOURNAL_PARTS);
        self.transact(vec![
            self.delete(JOURNAL, Vec::new()),
            self.delete(JOURNAL_PARTS, prefix_end(&prefix)),
        ])
        .await
    }

    /// The parts of a journal that counts.
    fn journal(&self, rows: &Rows) -> Result<Vec<Writes>, LedgerError> {
        let Some(count) = rows.get(JOURNAL) else {
            return Ok(Vec::new());
        };
        let text = String::from_utf8_lossy(count);
        let count: usize = text
            .parse()
            .map_err(|error| self.corrupt(format_args!("{JOURNAL}: {error}")))?;
        (0..count)
            .map(|number| {
                let name = part_name(number);
                let part = rows
                    .get(&name)
                    .ok_or_else(|| self.corrupt(format_args!("{name} is missing")))?;
                from_journal(part).map_err(|error| self.corrupt(format_args!("{name}: {error}")))
            })
            .collect()
    }
}

fn part_name(number: usize) -> String {
    format!("{JOURNAL_PARTS}{number:06}")
}

fn first_of(answer: ResponseOp) -> Option<KeyValue> {
    match answer.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
    }
}
