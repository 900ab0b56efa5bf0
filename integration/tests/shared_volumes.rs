//! One persistent volume that several tasks of several frameworks of its role have at once, on real containers: what one writes
//! the next one reads while the first still runs, a reader cannot write, and it ends only when nobody has it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_framework::model::{
    Capability, Offer, OperationId, OperationState, OperationStatus, PersistentVolume, PoolChange,
    Reservation, RoleName, Stack, TaskInfo, TaskState,
};
use mezzo_framework::{Event, Framework, REFUSE_LONG, Room, Task};
use mezzo_integration::cluster::PATIENCE;
use mezzo_integration::{process, wait};
use tokio::runtime::Runtime;
use tokio::time::timeout;

const FILE: &str = "/data/starts";

fn corpus() -> Result<PersistentVolume> {
    let role: RoleName = "crawl".parse()?;
    Ok(PersistentVolume {
        id: "corpus".parse()?,
        stack: Stack::single(Reservation::dynamic(role, ""))?,
        size_mb: 100,
        principal: String::new(),
        shared: true,
    })
}

/// A framework, and what it has heard.
struct Author {
    framework: Framework,
    subscribed: bool,
    offers: Vec<Offer>,
    states: BTreeMap<String, TaskState>,
    operations: BTreeMap<String, OperationStatus>,
}

impl Author {
    async fn subscribe(stage: &Stage, name: &str, shares: bool) -> Result<Self> {
        let framework = Framework::builder(name)
            .masters([stage.cluster.master()])
            .roles(["crawl"])
            .failover_timeout(Duration::from_secs(600))
            .capabilities(shares.then_some(Capability::SharedResources))
            .spawn()?;
        let mut author = Self {
            framework,
            subscribed: false,
            offers: Vec::new(),
            states: BTreeMap::new(),
            operations: BTreeMap::new(),
        };
        let is_subscribed = |author: &mut Self| author.subscribed.then_some(());
        author.until("its subscription", is_subscribed).await?;
        Ok(author)
    }

    /// Hears and acknowledges until `found` finds something.
    async fn until<T>(
        &mut self,
        what: &str,
        mut found: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T> {
        let calls = self.framework.calls();
        let hear = async {
            loop {
                if let Some(found) = found(self) {
                    return Ok(found);
                }
                let event = self.framework.next().await.context("the end")??;
                match event {
                    Event::Offers(offers) => self.offers.extend(offers),
                    Event::Rescinded(id) => self.offers.retain(|offer| offer.offer_id != id),
                    Event::Update(status) => {
                        calls.acknowledge(&status).await?;
                        self.states.insert(status.task_id.to_string(), status.state);
                    }
                    Event::Operation(status) => {
                        calls.acknowledge_operation(&status).await?;
                        self.operations.insert(status.id.to_string(), *status);
                    }
                    Event::Disconnected { why } => bail!("the subscription broke: {why}"),
                    Event::Subscribed { .. } => self.subscribed = true,
                    Event::AgentLost(_) | Event::InverseOffers(_) | Event::InverseRescinded(_) => {}
                }
            }
        };
        let heard = timeout(PATIENCE, hear).await;
        heard.with_context(|| format!("waited for {what}"))?
    }

    /// An offer on which there is something to run, with the volume or without.
    async fn offer(&mut self, with_volume: bool) -> Result<Offer> {
        let what = if with_volume {
            "an offer with the volume"
        } else {
            "an offer"
        };
        self.until(what, |author| {
            let offer = author.offers.pop()?;
            let is_there = offer
                .volumes
                .iter()
                .any(|volume| volume.id.as_str() == "corpus");
            (is_there == with_volume).then_some(offer)
        })
        .await
    }

    /// Asks for an offer with the volume, and uses it. What is left is for others.
    async fn on_the_volume(
        &mut self,
        changes: Vec<(OperationId, PoolChange)>,
        tasks: &[Task],
    ) -> Result<()> {
        let calls = self.framework.calls();
        // Nothing of before may be in the way.
        calls
            .decline(&std::mem::take(&mut self.offers), REFUSE_LONG)
            .await?;
        calls.revive(&[]).await?;
        let offer = self.offer(true).await?;
        // What comes free from here on is for the others.
        calls.suppress(&[]).await?;
        let infos = place(&offer, tasks)?;
        calls
            .launch_after(&offer, changes, infos, REFUSE_LONG)
            .await?;
        Ok(())
    }

    async fn state(&mut self, task: &str, wanted: TaskState) -> Result<()> {
        let what = format!("task {task} to be {wanted}");
        let is = self.until(&what, |author| {
            let state = *author.states.get(task)?;
            (state == wanted || state.is_terminal()).then_some(state)
        });
        let is = is.await?;
        ensure!(is == wanted, "task {task} is {is}, not {wanted}");
        Ok(())
    }

    async fn operation(&mut self, id: &str, wanted: OperationState) -> Result<String> {
        let what = format!("the end of operation {id}");
        let status = self.until(&what, |author| {
            let status = author.operations.get(id)?;
            status.state.is_terminal().then(|| status.clone())
        });
        let status = status.await?;
        ensure!(status.state == wanted, "{status:?}");
        Ok(status.message)
    }
}

fn place(offer: &Offer, tasks: &[Task]) -> Result<Vec<TaskInfo>> {
    let mut room = Room::of(offer);
    tasks.iter().map(|task| Ok(room.place(task)?)).collect()
}

fn task(stage: &Stage, id: &str) -> Task {
    Task::new(id)
        .image(&stage.registry.reference("sleep:1"))
        .args(["--count", FILE])
        .cpus("0.1")
        .mem(32)
}

/// Its log says which start it was.
fn check_start(stage: &Stage, task: &str, n: u32) -> Result<()> {
    wait::until("its words", PATIENCE, || {
        let log = process::output(&mut stage.cluster.mezzo(&["task", "log", task]))?;
        check_contains(&log, &format!("start {n} in {FILE}\n"))
    })
}

async fn share(stage: &Stage) -> Result<()> {
    let volume = corpus()?;
    let mut crawler = Author::subscribe(stage, "crawler", true).await?;
    let calls = crawler.framework.calls();
    let reserve = PoolChange::Reserve {
        from: None,
        with: volume.stack.top().clone(),
        resources: "disk:100".parse()?,
    };
    let changes = vec![
        ("o1".parse()?, reserve),
        ("o2".parse()?, PoolChange::Create(volume.clone())),
    ];
    let offer = crawler.offer(false).await?;
    calls.suppress(&[]).await?;
    let first = place(&offer, &[task(stage, "first").volume("/data", "corpus")])?;
    calls
        .launch_after(&offer, changes, first, REFUSE_LONG)
        .await?;
    crawler.operation("o1", OperationState::Finished).await?;
    crawler.operation("o2", OperationState::Finished).await?;
    crawler.state("first", TaskState::Running).await?;
    check_start(stage, "first", 1)?;

    // Offered while it is in use, to the same framework and to another one of the role.
    let second = task(stage, "second").volume("/data", "corpus");
    let reader = task(stage, "reader").volume_read_only("/data", "corpus");
    crawler.on_the_volume(Vec::new(), &[second, reader]).await?;
    crawler.state("second", TaskState::Running).await?;
    check_start(stage, "second", 2)?;
    // It is not to write, and opens the file for that.
    crawler.state("reader", TaskState::Failed).await?;
    // What a task says on standard error comes out there.
    let log = stage.cluster.mezzo(&["task", "log", "reader", "--stderr"]);
    let log = { log }.output()?.stderr;
    check_contains(&String::from_utf8_lossy(&log), "Read-only file system")?;

    let mut indexer = Author::subscribe(stage, "indexer", true).await?;
    indexer
        .on_the_volume(
            Vec::new(),
            &[task(stage, "third").volume("/data", "corpus")],
        )
        .await?;
    indexer.state("third", TaskState::Running).await?;
    check_start(stage, "third", 3)?;

    // Who cannot deal with it is offered all but that.
    let mut plain = Author::subscribe(stage, "plain", false).await?;
    let offer = plain.offer(false).await?;
    ensure!(offer.volumes.is_empty(), "{offer:?}");
    plain.framework.calls().teardown().await?;

    let list = stage.ask(&["volume", "list"])?;
    let users = list[0]["tasks"].as_array().context("no list of tasks")?;
    let mut users: Vec<_> = users
        .iter()
        .filter_map(|user| user["task"].as_str())
        .collect();
    users.sort_unstable();
    ensure!(
        list[0]["shared"] == true && users == ["first", "second", "third"],
        "{list}"
    );

    let destroy = || PoolChange::Destroy(volume.key());
    crawler
        .on_the_volume(vec![("o3".parse()?, destroy())], &[])
        .await?;
    let told = crawler.operation("o3", OperationState::Failed).await?;
    check_contains(&told, "in use by task")?;
    for (author, tasks) in [
        (&mut crawler, &["first", "second"][..]),
        (&mut indexer, &["third"][..]),
    ] {
        for task in tasks {
            author
                .framework
                .calls()
                .kill(&task.parse()?, None, None)
                .await?;
        }
        for task in tasks {
            author
                .until("an end", |author| {
                    author.states.get(*task)?.is_terminal().then_some(())
                })
                .await?;
        }
    }
    crawler
        .on_the_volume(vec![("o4".parse()?, destroy())], &[])
        .await?;
    crawler.operation("o4", OperationState::Finished).await?;
    let folder = stage.cluster.dir().join("agent/volumes");
    wait::until("its content to be gone", PATIENCE, || {
        let n_folders = fs::read_dir(&folder)?.count();
        ensure!(n_folders == 0, "{n_folders} folders");
        Ok(())
    })?;
    calls.teardown().await?;
    indexer.framework.calls().teardown().await?;
    Ok(())
}

#[test]
fn tasks_of_two_frameworks_write_and_read_one_volume_at_once() {
    on_stage("shared-volumes", |stage| {
        Runtime::new()?.block_on(share(stage))
    });
}
