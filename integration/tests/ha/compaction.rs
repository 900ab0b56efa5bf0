//! Who leads keeps the history of a real etcd short, who follows does not; watches and what is current survive it.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mezzo_etcd::election::Candidate;
use mezzo_etcd::proto::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request};
use mezzo_etcd::{Address, Candidacy, Client, Error};
use mezzo_integration::etcd::Etcd;
use tokio::time::{sleep, timeout};

use crate::{ALONE, PATIENCE};

const EVERY: Duration = Duration::from_millis(200);

fn stand(client: &Client, address: &Address, name: &str, every: Duration) -> Candidacy {
    let me = Candidate {
        id: name.to_owned(),
        address: format!("{name}:1"),
    };
    Candidacy::stand(client.clone(), address.clone(), me, 3).compacting(
        client.clone(),
        address,
        every,
    )
}

/// The revision of the write.
async fn put(client: &Client, key: &str, value: &str) -> Result<i64> {
    let put = PutRequest {
        key: key.into(),
        value: value.into(),
        lease: 0,
    };
    let request = TxnRequest {
        success: vec![RequestOp {
            request: Some(Request::RequestPut(put)),
        }],
        ..TxnRequest::default()
    };
    let answer = client.txn(request, PATIENCE).await?;
    Ok(answer.header.context("no header")?.revision)
}

async fn read(client: &Client, key: &str, revision: i64) -> Result<Vec<u8>, Error> {
    let request = RangeRequest {
        key: key.into(),
        revision,
        ..RangeRequest::default()
    };
    let answer = client.range(request, PATIENCE).await?;
    let value = answer.kvs.into_iter().next().map(|pair| pair.value);
    Ok(value.unwrap_or_default())
}

#[test]
fn a_leader_makes_etcd_forget_and_nobody_misses_it() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start(&dir.path().join("etcd"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(forgets(&etcd))?;
    etcd.stop()
}

async fn forgets(etcd: &Etcd) -> Result<()> {
    let address: Address = format!("etcd://{}/short", etcd.address()).parse()?;
    let client = Client::new(&address)?;
    let key = address.key("x");
    let mut first = stand(&client, &address, "first", Duration::ZERO);
    let elected = timeout(PATIENCE, first.elected(|_| {})).await?;
    elected.context("there is no election")?;
    let mut second = stand(&client, &address, "second", EVERY);

    let old = put(&client, &key, "old").await?;
    let newest = put(&client, &key, "new").await?;
    let watched = client.watch(&key, None, newest + 1, PATIENCE).await;
    let mut watched = watched?;
    // One that follows notes only. (Were it to compact, it would have done so several times by now.)
    sleep(EVERY * 8).await;
    ensure!(
        read(&client, &key, old).await? == b"old",
        "a follower compacts"
    );

    first.resign().await;
    let elected = timeout(PATIENCE, second.elected(|_| {})).await?;
    elected.context("there is no election")?;
    let forgotten = timeout(PATIENCE, async {
        loop {
            match read(&client, &key, old).await {
                Err(Error::Compacted) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => sleep(EVERY / 4).await,
            }
        }
    });
    forgotten
        .await
        .context("the old revision is not forgotten")??;
    ensure!(
        read(&client, &key, 0).await? == b"new",
        "what is current is lost"
    );

    put(&client, &key, "newer").await?;
    let heard = timeout(PATIENCE, async {
        while let Some(message) = watched.message().await? {
            if message.canceled {
                bail!("the watch was cancelled: {message:?}");
            }
            if !message.events.is_empty() {
                return Ok(());
            }
        }
        bail!("the watch ended")
    });
    heard.await.context("the watch says nothing")??;
    // Whoever comes now is told who leads.
    let third = stand(&client, &address, "third", Duration::ZERO);
    timeout(PATIENCE, async {
        while third.leader().is_none_or(|leader| leader.id != "second") {
            sleep(EVERY / 4).await;
        }
    })
    .await
    .context("the newcomer sees no leader")?;
    third.resign().await;
    second.resign().await;
    Ok(())
}
