//! The shell of the election: carries out what the core asks of etcd, watches the leader's key, tells who leads.
//!
//! One task per candidate drives it. One request is under way at a time; the next one supersedes it. A watch only
//! nudges: what is true is read again, also when the watch breaks or etcd has compacted what it was to begin with.

use std::{pin::Pin, time::Duration};

use tokio::sync::{mpsc, watch};

use super::{
    LEADER, Leader, Seat, TERM, Times,
    core::{Command, Core, Event, Kept, Sight, Verdict},
};
use crate::{
    Address, Client, Error, Fence, now,
    proto::{
        Compare, KeyValue, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
        response_op::Response,
    },
};

/// For one request to etcd; a leader has less when its time is up sooner.
const REQUEST: Duration = Duration::from_secs(1);
/// After a watch that could not be had.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// Who runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Of the process.
    pub id: String,
    /// `host:port` at which others reach it.
    pub address: String,
}

/// How a candidate stands.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Another leads, or nobody that is known.
    Following(Option<Leader>),
    /// It leads while the fence is open.
    Leading(Seat, Fence),
}

/// What the candidate's owner may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It turned out that this one does not lead.
    Deposed,
    /// Lead no more, and never again.
    Resign,
}

/// With what was seen, after a look.
type Asked = Pin<Box<dyn Future<Output = (Event, Option<Seen>)> + Send>>;
type Nudge = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs until told to resign, or until nobody gives orders any more.
pub async fn run(
    client: Client,
    address: Address,
    me: Candidate,
    times: Times,
    mut orders: mpsc::Receiver<Order>,
    standing: watch::Sender<Standing>,
) {
    let (mut core, first) = Core::start(times);
    let mut office = Office {
        client,
        leader_key: address.key(LEADER),
        term_key: address.key(TERM),
        me,
        times,
        seen: Seen::default(),
    };
    let mut request: Option<Asked> = Some(office.ask(first));
    let mut nudge: Option<Nudge> = None;
    let mut fence: Option<Fence> = None;
    while !core.is_over() {
        let wake = core.wakes_at().map(|at| at.saturating_sub(now()));
        let event = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Deposed) => Event::Deposed,
                Some(Order::Resign) | None => Event::Resign,
            },
            (event, seen) = finish(&mut request) => {
                if let Some(seen) = seen {
                    office.seen = seen;
                    nudge = Some(office.watch());
                }
                event
            }
            () = finish(&mut nudge) => Event::Nudged,
            () = sleep(wake) => Event::Tick,
        };
        let command = core.handle(event, now());
        match (core.leads(), &fence) {
            (Some((_, until)), Some(fence)) => fence.extend(until),
            (Some((seat, until)), None) => {
                tracing::info!(term = seat.term, "elected to lead");
                let open = Fence::until(until);
                fence = Some(open.clone());
                standing.send_replace(Standing::Leading(seat, open));
            }
            (None, _) => {
                // Before the lease goes back.
                if let Some(fence) = fence.take() {
                    fence.close();
                    tracing::warn!("no longer the leader");
                }
                follow(&standing, core.leader());
            }
        }
        if let Some(command) = command {
            request = Some(office.ask(command));
        }
    }
}

fn follow(standing: &watch::Sender<Standing>, leader: Option<&Leader>) {
    standing.send_if_modified(|standing| {
        let news = match standing {
            Standing::Following(known) => known.as_ref() != leader,
            Standing::Leading(..) => true,
        };
        if news {
            *standing = Standing::Following(leader.cloned());
        }
        news
    });
}

/// What is under way; for ever if nothing is. What came is gone from there.
async fn finish<T>(under_way: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    let Some(future) = under_way else {
        return std::future::pending().await;
    };
    let result = future.await;
    *under_way = None;
    result
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// What the last look found.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Of etcd.
    revision: i64,
    /// The highest so far.
    term: u64,
    /// Of that key; 0: there is none.
    term_revision: i64,
}

/// All that is needed to ask.
struct Office {
    client: Client,
    leader_key: String,
    term_key: String,
    me: Candidate,
    times: Times,
    seen: Seen,
}

impl Office {
    fn ask(&self, command: Command) -> Asked {
        let client = self.client.clone();
        match command {
            Command::Look => {
                let keys = [self.leader_key.clone(), self.term_key.clone()];
                let me = self.me.id.clone();
                Box::pin(async move {
                    match look(&client, &keys, &me).await {
                        Ok((sight, seen)) => (Event::Seen(Some(sight)), Some(seen)),
                        Err(problem) => {
                            tracing::warn!(problem, "cannot see who leads");
                            (Event::Seen(None), None)
                        }
                    }
                })
            }
            Command::Grant => {
                let wanted = i64::try_from(self.times.lease.as_secs()).unwrap_or(i64::MAX);
                Box::pin(async move { (Event::Granted(grant(&client, wanted).await), None) })
            }
            Command::Run { lease } => {
                let term = super::next_term(self.seen.term);
                let request = self.candidacy(lease, term);
                let me = self.me.id.clone();
                Box::pin(async move {
                    let verdict = elect(&client, request, term, (&me, lease)).await;
                    (Event::Ran(verdict), None)
                })
            }
            Command::KeepAlive { lease } => Box::pin(async move {
                let kept = match client.keep_alive(lease, REQUEST).await {
                    Ok(()) => Kept::Alive,
                    Err(Error::NoLease) => Kept::Gone,
                    Err(error) => {
                        tell("keep the lease alive", &error);
                        Kept::Unanswered
                    }
                };
                (Event::KeptAlive(kept), None)
            }),
            Command::Return { lease } => Box::pin(async move {
                if let Err(error) = client.revoke(lease, REQUEST).await {
                    tell("give the lease back; it runs out", &error);
                }
                (Event::Returned, None)
            }),
        }
    }

    /// Only if there is no leader, and no term was given since the last look.
    fn candidacy(&self, lease: i64, term: u64) -> TxnRequest {
        let leader = Leader {
            id: self.me.id.clone(),
            address: self.me.address.clone(),
            term,
        };
        let equal = |key: &str, target, union| Compare {
            result: CompareResult::Equal.into(),
            target: i32::from(target),
            key: key.into(),
            target_union: Some(union),
        };
        let put = |key: &str, value: Vec<u8>, lease| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: key.into(),
                value,
                lease,
            })),
        };
        TxnRequest {
            compare: vec![
                equal(
                    &self.leader_key,
                    CompareTarget::Create,
                    TargetUnion::CreateRevision(0),
                ),
                equal(
                    &self.term_key,
                    CompareTarget::Mod,
                    TargetUnion::ModRevision(self.seen.term_revision),
                ),
            ],
            success: vec![
                put(
                    &self.leader_key,
                    serde_json::to_vec(&leader).expect("strings and a number"),
                    lease,
                ),
                put(&self.term_key, term.to_string().into_bytes(), 0),
            ],
            failure: vec![get(&self.leader_key)],
        }
    }

    fn watch(&self) -> Nudge {
        let (client, key) = (self.client.clone(), self.leader_key.clone());
        let from = self.seen.revision + 1;
        Box::pin(async move {
            if let Err(error) = watch_one(&client, &key, from).await {
                tell("watch the leader's key", &error);
                tokio::time::sleep(WATCH_PAUSE).await;
            }
        })
    }
}

fn tell(what: &str, error: &Error) {
    tracing::warn!(what, %error, "etcd does not do what the election needs");
}

/// The leader, and what a candidacy builds on, as of one revision.
async fn look(client: &Client, keys: &[String; 2], me: &str) -> Result<(Sight, Seen), String> {
    let request = TxnRequest {
        compare: Vec::new(),
        success: keys.iter().map(|key| get(key)).collect(),
        failure: Vec::new(),
    };
    let answer = client
        .txn(request, REQUEST)
        .await
        .map_err(|error| error.to_string())?;
    let revision = answer.header.map_or(0, |header| header.revision);
    let mut found = answer.responses.into_iter().map(first_of);
    let sight = match found.next().flatten() {
        None => Sight::Nobody,
        Some(pair) => match parse_leader(&pair)? {
            leader if leader.id == me => Sight::Ours { lease: pair.lease },
            leader => Sight::Other(leader),
        },
    };
    let term = found.next().flatten();
    let mut seen = Seen {
        revision,
        ..Seen::default()
    };
    if let Some(pair) = term {
        let text = String::from_utf8_lossy(&pair.value);
        seen.term_revision = pair.mod_revision;
        seen.term = text.parse().map_err(|_| {
            format!(
                "{} is {text:?}, not a number: put the highest term there",
                keys[1]
            )
        })?;
    }
    Ok((sight, seen))
}

async fn grant(client: &Client, wanted: i64) -> Option<i64> {
    match client.grant(wanted, REQUEST).await {
        // etcd may give more, never less: what we count on is over first.
        Ok((lease, seconds)) if seconds >= wanted => Some(lease),
        Ok((lease, seconds)) => {
            tracing::error!(lease, seconds, wanted, "etcd grants too short a lease");
            None
        }
        Err(error) => {
            tell("grant a lease", &error);
            None
        }
    }
}

/// `None`: nobody knows. A lease that has the key already was given it by an earlier try of the same candidacy.
async fn elect(
    client: &Client,
    request: TxnRequest,
    term: u64,
    (me, lease): (&str, i64),
) -> Option<Verdict> {
    let answer = match client.txn(request, REQUEST).await {
        Ok(answer) => answer,
        Err(error) => {
            tell("run for the lead", &error);
            return match error {
                Error::Unanswered { .. } => None,
                Error::Member { .. } | Error::Compacted | Error::NoLease | Error::Refused(_) => {
                    Some(Verdict::Refused)
                }
            };
        }
    };
    let revision = answer.header.map_or(0, |header| header.revision);
    if answer.succeeded {
        return Some(Verdict::Won(Seat { term, revision }));
    }
    let Some(pair) = answer.responses.into_iter().find_map(first_of) else {
        return Some(Verdict::Lost(None));
    };
    let leader = parse_leader(&pair).ok();
    Some(match leader {
        Some(leader) if leader.id == me && pair.lease == lease => Verdict::Won(Seat {
            term: leader.term,
            revision: pair.create_revision,
        }),
        leader => Verdict::Lost(leader),
    })
}

/// Until something happens to the key from that revision on, or etcd ends the watch.
async fn watch_one(client: &Client, key: &str, from: i64) -> Result<(), Error> {
    let mut stream = client.watch(key, None, from, REQUEST).await?;
    loop {
        let message = stream.message().await;
        let message = message.map_err(|status| Error::Refused(Box::new(status)))?;
        // Cancelled when what it was to begin with is compacted: then, too, it is read again.
        match message {
            Some(message) if message.events.is_empty() && !message.canceled => {}
            Some(_) | None => return Ok(()),
        }
    }
}

fn get(key: &str) -> RequestOp {
    RequestOp {
        request: Some(Request::RequestRange(RangeRequest {
            key: key.into(),
            ..RangeRequest::default()
        })),
    }
}

fn first_of(answer: ResponseOp) -> Option<KeyValue> {
    match answer.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) | None => None,
    }
}

fn parse_leader(pair: &KeyValue) -> Result<Leader, String> {
    serde_json::from_slice(&pair.value).map_err(|error| {
        format!(
            "{} holds no leader ({error}); is the prefix another program's?",
            String::from_utf8_lossy(&pair.key)
        )
    })
}
