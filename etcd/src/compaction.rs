//! etcd's history, kept short: without this an etcd that does not compact by itself grows until its space quota is used up, and
//! then it takes no writes.
//!
//! Every candidate notes now and then how far etcd is; the one that leads then has etcd forget what came before its former
//! note. So what is forgotten is at least one such time old, and a new leader goes on with what it noted while it followed.
//! It is safe whoever does it: nothing reads that far back, but for a watch or a read that begins anew when it finds that out.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::{Client, Error, election::Standing, proto::RangeRequest};

/// For one request: nothing waits for it.
const REQUEST: Duration = Duration::from_secs(10);

/// Runs until there is no election any more, or the caller drops it. `key` is any.
pub(crate) async fn run(
    client: Client,
    key: String,
    every: Duration,
    standing: watch::Receiver<Standing>,
) {
    let mut noted = None;
    // An election that has ended drops its end.
    while standing.has_changed().is_ok() {
        sleep(every).await;
        let leads = matches!(&*standing.borrow(), Standing::Leading(..));
        match turn(&client, &key, noted.filter(|_| leads)).await {
            Ok(now) => noted = Some(now),
            // The former note becomes older: so much the better.
            Err(error) => tracing::warn!(%error, "cannot keep etcd's history short"),
        }
    }
}

/// Has etcd forget what came before that revision, and tells the newest.
async fn turn(client: &Client, key: &str, before: Option<i64>) -> Result<i64, Error> {
    let request = RangeRequest {
        key: key.into(),
        limit: 1,
        ..RangeRequest::default()
    };
    let answer = client.range(request, REQUEST).await?;
    if let Some(revision) = before {
        client.compact(revision, REQUEST).await?;
        tracing::debug!(revision, "etcd forgets what came before");
    }
    Ok(answer.header.map_or(0, |header| header.revision))
}
