//! The calls to etcd that are needed. Each has a deadline, and is tried on one member after the other until it passes.
//!
//! A call may have had its effect although no answer came: whoever writes must be able to do it twice. Calls ask only
//! members that know a leader of etcd, so that one that was cut off from the others is found out at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    Address,
    proto::{
        CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
        RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
        WatchResponse, kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient,
        watch_request::RequestUnion,
    },
};

/// A member that does not take a connection within this time is passed over.
const CONNECT: Duration = Duration::from_millis(500);
/// One that does not answer, too.
const ATTEMPT: Duration = Duration::from_secs(1);
/// When all members refuse at once.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection over which nothing comes is found dead after both.
const PING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));
/// etcd's own bound for requests is 1.5 MiB; answers of many keys are larger.
const LARGEST_ANSWER: usize = 64 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that no connection can be made to.
    #[error("cannot use etcd's member {member}")]
    Member {
        /// Which.
        member: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answered in time; the call may have had its effect.
    #[error("etcd did not answer within {within:?}: {last}")]
    Unanswered {
        /// The time there was.
        within: Duration,
        /// What the last try came to.
        last: String,
    },
    /// What was asked for is not kept any more.
    #[error("etcd has compacted that revision")]
    Compacted,
    /// There is no such lease.
    #[error("etcd has no such lease any more")]
    NoLease,
    /// etcd does not do it.
    #[error("etcd refuses: {}", .0.message())]
    Refused(Box<Status>),
}

/// A connection to each member, made when it is needed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    members: Arc<[Channel]>,
    /// The one that answered last.
    current: Arc<AtomicUsize>,
}

impl Client {
    /// Connects to nobody yet.
    ///
    /// # Errors
    ///
    /// When a member's address makes no URL.
    pub fn new(address: &Address) -> Result<Self, Error> {
        let channel = |member: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{member}"));
            let endpoint = endpoint.map_err(|source| Error::Member {
                member: member.clone(),
                source,
            })?;
            Ok(endpoint
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(PING.0)
                .keep_alive_timeout(PING.1)
                .keep_alive_while_idle(true)
                .tcp_nodelay(true)
                .connect_lazy())
        };
        let members: Result<Arc<[Channel]>, Error> =
            address.members().iter().map(channel).collect();
        Ok(Self {
            members: members?,
            current: Arc::default(),
        })
    }

    /// Reads keys.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time, or etcd refuses.
    pub async fn range(
        &self,
        request: RangeRequest,
        within: Duration,
    ) -> Result<RangeResponse, Error> {
        self.call(within, |channel| {
            let request = asking(request.clone());
            async move {
                let mut client = KvClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
                client.range(request).await
            }
        })
        .await
    }

    /// Compares, then writes or reads.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time (it may have been done), or etcd refuses.
    pub async fn txn(&self, request: TxnRequest, within: Duration) -> Result<TxnResponse, Error> {
        self.call(within, |channel| {
            let request = asking(request.clone());
            async move { KvClient::new(channel).txn(request).await }
        })
        .await
    }

    /// Forgets what was overwritten or deleted before that revision. One that is forgotten already is none to forget.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time (it may have been done), or etcd refuses.
    pub async fn compact(&self, revision: i64, within: Duration) -> Result<(), Error> {
        let compacted = self
            .call(within, |channel| async move {
                let request = asking(CompactionRequest { revision });
                KvClient::new(channel).compact(request).await
            })
            .await;
        match compacted {
            Ok(_) | Err(Error::Compacted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A new lease: its id, and the whole seconds that etcd keeps it at least.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time, or etcd refuses.
    pub async fn grant(&self, seconds: i64, within: Duration) -> Result<(i64, i64), Error> {
        let request = LeaseGrantRequest {
            ttl: seconds,
            id: 0,
        };
        let lease = self
            .call(within, |channel| async move {
                LeaseClient::new(channel).lease_grant(asking(request)).await
            })
            .await?;
        if lease.error.is_empty() {
            Ok((lease.id, lease.ttl))
        } else {
            Err(Error::Refused(Box::new(Status::internal(lease.error))))
        }
    }

    /// Ends a lease, and with it the keys that hang on it.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time, or etcd refuses. A lease that is gone is none.
    pub async fn revoke(&self, lease: i64, within: Duration) -> Result<(), Error> {
        let revoked = self
            .call(within, |channel| async move {
                let request = asking(LeaseRevokeRequest { id: lease });
                LeaseClient::new(channel).lease_revoke(request).await
            })
            .await;
        match revoked {
            Ok(_) | Err(Error::NoLease) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A lease's time begins again.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time, etcd refuses, or there is no such lease any more.
    pub async fn keep_alive(&self, lease: i64, within: Duration) -> Result<(), Error> {
        let answer = self
            .call(within, |channel| async move {
                // A stream of one: nothing to be kept, so nothing that could be stale.
                let one = tokio_stream::once(LeaseKeepAliveRequest { id: lease });
                let mut answers = LeaseClient::new(channel)
                    .lease_keep_alive(asking(one))
                    .await?
                    .into_inner();
                let first = answers.message().await?;
                let none = || Status::unavailable("the stream ended without an answer");
                first.map(tonic::Response::new).ok_or_else(none)
            })
            .await?;
        if answer.ttl > 0 {
            Ok(())
        } else {
            Err(Error::NoLease)
        }
    }

    /// Everything that happens to the keys from `key` to before `end` (none: to that key alone) from a revision on.
    ///
    /// # Errors
    ///
    /// When nobody answers within that time, or etcd refuses.
    pub async fn watch(
        &self,
        key: &str,
        end: Option<Vec<u8>>,
        from: i64,
        within: Duration,
    ) -> Result<Streaming<WatchResponse>, Error> {
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: end.unwrap_or_default(),
            start_revision: from,
        };
        self.call(within, |channel| {
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create.clone())),
            };
            async move {
                // The request side stays open: its end would end the watch.
                let requests =
                    futures::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
                let mut client =
                    WatchClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
                client.watch(asking(requests)).await
            }
        })
        .await
    }

    async fn call<T, F>(&self, within: Duration, call: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + within;
        let mut last = "no member was asked".to_owned();
        for tried in 1_usize.. {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let at = self.current.load(Ordering::Relaxed) % self.members.len();
            match timeout(left.min(ATTEMPT), call(self.members[at].clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => match verdict(status) {
                    Ok(passing) => last = passing,
                    Err(lasting) => return Err(lasting),
                },
                Err(_) => last = "a member does not answer".to_owned(),
            }
            // If another call has gone on already, that is enough.
            let _ = self.current.compare_exchange(
                at,
                (at + 1) % self.members.len(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if tried.is_multiple_of(self.members.len()) {
                let left = deadline.saturating_duration_since(Instant::now());
                sleep(PAUSE.min(left)).await;
            }
        }
        Err(Error::Unanswered { within, last })
    }
}

/// The end of the range of all keys that begin so.
#[must_use]
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // Prefixes end with a printable character.
        *last += 1;
    }
    end
}

fn asking<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let yes = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", yes);
    request
}

/// `Ok` with a word if another try may succeed.
fn verdict(status: Status) -> Result<String, Error> {
    match status.code() {
        Code::Ok
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Aborted
        | Code::Internal => Ok(format!("{}: {}", status.code(), status.message())),
        Code::ResourceExhausted if status.message().contains("too many requests") => {
            Ok(status.message().to_owned())
        }
        Code::OutOfRange if status.message().contains("compacted") => Err(Error::Compacted),
        Code::NotFound if status.message().contains("lease") => Err(Error::NoLease),
        Code::NotFound
        | Code::OutOfRange
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Err(Error::Refused(Box::new(status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_a_prefix_ends_right_after_it() {
        assert_eq!(prefix_end("/mezzo/"), b"/mezzo0");
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_may_not_is_told() {
        assert!(verdict(Status::unavailable("etcdserver: leader changed")).is_ok());
        let lasting = |status| verdict(status).unwrap_err();
        assert!(matches!(
            lasting(Status::out_of_range(
                "etcdserver: mvcc: required revision has been compacted"
            )),
            Error::Compacted
        ));
        assert!(matches!(
            lasting(Status::not_found("etcdserver: requested lease not found")),
            Error::NoLease
        ));
        assert!(matches!(
            lasting(Status::resource_exhausted(
                "etcdserver: mvcc: database space exceeded"
            )),
            Error::Refused(_)
        ));
    }

    #[tokio::test]
    async fn nobody_there_is_told_within_the_deadline() {
        // Port 1 of loopback: nobody listens.
        let address = "etcd://127.0.0.1:1,localhost:1".parse().unwrap();
        let client = Client::new(&address).unwrap();
        let error = client
            .grant(3, Duration::from_millis(300))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unanswered { .. }), "{error}");
    }
}
