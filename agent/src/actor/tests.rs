//! The owner with containers and images in memory: pulls that take long, ends, crashes of the agent itself.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mezzo_api::{
    model::{Change, LimitChange, Reason, RoleName, TaskInfo, TaskState, TaskStatus, UpdateId},
    proto::{self, agent_message::Message},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Actor, Clock, Command, Handle, OnShutdown, channel};
use crate::{
    launch::Launcher,
    node::{
        ContainerExit, ContainerId, Images, Runtime,
        fake::{FakeImages, FakeRuntime},
    },
    recovery::execute::recover,
    store::Store,
    task::{
        Context, TaskKey,
        change::Refused,
        core::{Core, Settings},
        event::Event,
        tests::a_task,
        updates::Retry,
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

/// What outlives an agent.
struct Machine {
    dir: tempfile::TempDir,
    runtime: Arc<FakeRuntime>,
    images: Arc<FakeImages>,
}

struct Agent {
    handle: Handle,
    outbound: mpsc::Receiver<proto::AgentMessage>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Arc::new(FakeRuntime::new(dir.path().join("logs")));
        Self {
            dir,
            runtime,
            images: Arc::new(FakeImages::default()),
        }
    }

    async fn start(&self, on_shutdown: OnShutdown) -> Agent {
        let settings = Settings {
            retry: Retry {
                first_ms: 200,
                max_ms: 1_000,
            },
            kill_grace: Duration::from_millis(50),
            retain_ended: 50,
            retain_ms: 3_600_000,
            allow_privileged: false,
            allow_host_users: false,
            allow_capabilities: vec![],
            host_path_allow: vec![],
            boot_id: "boot".into(),
            default_pids: 4096,
            enforce_disk: true,
            cgroup_mode: mezzo_api::model::CgroupMode::V2,
        };
        let (runtime, images): (Arc<dyn Runtime>, Arc<dyn Images>) = (
            Arc::clone(&self.runtime) as _,
            Arc::clone(&self.images) as _,
        );
        let store = Store::open(self.dir.path()).unwrap();
        let clock = Clock::start();
        let mut core = Core::new(
            settings.clone(),
            None,
            "cpus:4;mem:4096".parse().unwrap(),
            crate::resources::grant::Grants::default(),
        );
        let mut random = rand::random::<u128>;
        let mut ctx = Context {
            now: clock.now(),
            random: &mut random,
        };
        let recovered = recover(&mut core, &settings, &store, &runtime, &images, &mut ctx)
            .await
            .unwrap();
        let config = crate::Config {
            state_dir: self.dir.path().into(),
            ..crate::Config::default()
        };
        let disk = crate::disk::Disk::open(&config, &store, &runtime, &images);
        let launcher = Launcher {
            disk: Arc::new(disk),
            secrets: crate::node::secrets::TaskSecrets::new(None),
            fetcher: crate::fetch::Fetcher::open(&config).unwrap(),
            profiles: crate::node::profiles::Profiles::new(None, Vec::new()),
            dns: Vec::new(),
            runtime,
            images,
            store,
            hostname: "node".into(),
            host_path_allow: vec![],
            devices: vec![],
            starts: Arc::new(Semaphore::new(2)),
        };
        let (handle, commands) = channel();
        let stop = CancellationToken::new();
        let actor = Actor::new(core, clock, launcher, crate::stats::Stats::new(10));
        let running = tokio::spawn(actor.run(recovered, commands, stop.clone(), on_shutdown));
        let (sender, outbound) = mpsc::channel(64);
        handle
            .ask(|reply| Command::Attach(sender, reply))
            .await
            .unwrap();
        handle
            .event(Event::Registered("a".parse().unwrap()))
            .await
            .unwrap();
        Agent {
            handle,
            outbound,
            stop,
            running,
        }
    }
}

impl Agent {
    async fn launch(&self, info: TaskInfo) {
        let framework = "f".parse().unwrap();
        let event = Event::Launch {
            framework,
            role: RoleName::any(),
            info: Box::new(info),
        };
        self.handle.event(event).await.unwrap();
    }

    async fn kill(&self, id: &str) {
        self.handle
            .event(Event::Kill {
                key: key(id),
                grace: None,
            })
            .await
            .unwrap();
    }

    /// The next status, acknowledged.
    async fn next(&mut self) -> TaskStatus {
        let status = self.peek().await;
        let update: UpdateId = status.update_id.clone().unwrap();
        let key = TaskKey {
            framework: status.framework_id.clone(),
            task: status.task_id.clone(),
        };
        self.handle
            .event(Event::Acknowledge { key, update })
            .await
            .unwrap();
        status
    }

    /// The next status.
    async fn peek(&mut self) -> TaskStatus {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.outbound.recv())
                .await
                .unwrap()
                .unwrap();
            if let Some(Message::Status(status)) = message.message {
                return (*status).try_into().unwrap();
            }
        }
    }

    async fn expect(&mut self, state: TaskState, reason: Option<Reason>) -> TaskStatus {
        let status = self.next().await;
        assert_eq!(
            (status.state, status.reason),
            (state, reason),
            "{}",
            status.message
        );
        status
    }

    /// As `kill -9` would, without a word to anybody.
    async fn crash(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

fn key(id: &str) -> TaskKey {
    TaskKey {
        framework: "f".parse().unwrap(),
        task: id.parse().unwrap(),
    }
}

fn with_image(id: &str, image: &str) -> TaskInfo {
    let mut info = a_task(id);
    info.container.image = image.into();
    info
}

#[tokio::test]
async fn a_slow_pull_is_told_and_can_be_given_up() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(with_image("t", "slow:1")).await;
    let starting = agent.expect(TaskState::Starting, None).await;
    assert_eq!(starting.message, "pulling 43 %");
    agent.kill("t").await;
    agent
        .expect(TaskState::Killed, Some(Reason::TaskKilledDuringLaunch))
        .await;
    machine.images.release();
    assert!(machine.runtime.starts().is_empty());
}

#[tokio::test]
async fn news_of_a_pull_that_came_too_early_is_told_later() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(with_image("t", "slow:1")).await;
    assert_eq!(agent.peek().await.message, "pulling 43 %");
    // The status is not acknowledged yet: this is not told at once, and nothing more will change.
    machine
        .images
        .wait_for("12 s for registry r.example (rate limit)");
    // It is repeated until it is acknowledged, and may have been sent again before that.
    let waiting = loop {
        let status = agent.expect(TaskState::Starting, None).await;
        if status.message != "pulling 43 %" {
            break status;
        }
    };
    assert_eq!(
        waiting.message,
        "pulling 43 %, waiting 12 s for registry r.example (rate limit)"
    );
    agent.kill("t").await;
    agent
        .expect(TaskState::Killed, Some(Reason::TaskKilledDuringLaunch))
        .await;
}

#[tokio::test]
async fn an_image_that_is_nowhere_fails_with_its_name() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(with_image("t", "missing:1")).await;
    let failed = agent
        .expect(TaskState::Failed, Some(Reason::ImagePullFailed))
        .await;
    assert_eq!(
        failed.message,
        "image missing:1: the registry has no such image"
    );
    assert!(machine.images.list_snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_private_image_is_pulled_with_the_secret_that_the_task_names() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(with_image("t", "private:1")).await;
    agent
        .expect(TaskState::Failed, Some(Reason::ImagePullFailed))
        .await;
    let mut info = with_image("u", "private:1");
    info.container.pull_secret = Some("team/registry".parse().unwrap());
    agent.launch(info).await;
    agent.expect(TaskState::Running, None).await;
}

#[tokio::test]
async fn an_end_for_want_of_memory_is_told_as_such() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("t")).await;
    agent.expect(TaskState::Running, None).await;
    let (container, spec) = machine.runtime.starts().remove(0);
    assert_eq!(spec.limits.memory_bytes, Some(32 << 20));
    machine
        .runtime
        .end(&container, ContainerExit::Signal(9), true);
    let failed = agent
        .expect(TaskState::Failed, Some(Reason::ContainerLimitationMemory))
        .await;
    assert!(failed.exit.is_some_and(|exit| exit.oom_killed));
}

#[tokio::test]
async fn a_crash_loses_nothing_and_runs_nothing_twice() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("stays")).await;
    agent.expect(TaskState::Running, None).await;
    agent.launch(a_task("ends")).await;
    let told = agent.peek().await;
    agent.crash().await;
    let starts = machine.runtime.starts();
    machine
        .runtime
        .end(&starts[1].0, ContainerExit::Code(0), false);

    let mut agent = machine.start(OnShutdown::Leave).await;
    let again = agent.expect(TaskState::Running, None).await;
    assert_eq!(
        again.update_id, told.update_id,
        "unacknowledged, so told again"
    );
    agent
        .expect(TaskState::Finished, Some(Reason::CommandExited))
        .await;
    agent.launch(a_task("stays")).await;
    agent.launch(a_task("ends")).await;
    agent.kill("stays").await;
    while agent.peek().await.state != TaskState::Killing {}
    assert_eq!(machine.runtime.starts().len(), 2);
}

#[tokio::test]
async fn what_nobody_knows_is_removed_at_the_start() {
    let machine = Machine::new();
    let orphan = ContainerId::derive("orphan", 1);
    machine.runtime.plant(&orphan);
    machine.images.plant("left-over");
    let _agent = machine.start(OnShutdown::Leave).await;
    assert!(machine.runtime.list().await.unwrap().is_empty());
    assert!(machine.images.list_snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn one_that_ignores_the_request_is_killed_after_its_grace() {
    let machine = Machine::new();
    machine.runtime.be_stubborn();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("t")).await;
    agent.expect(TaskState::Running, None).await;
    agent.kill("t").await;
    agent
        .expect(TaskState::Killing, Some(Reason::KillRequested))
        .await;
    let killed = agent
        .expect(TaskState::Killed, Some(Reason::KillRequested))
        .await;
    assert_eq!(
        killed.exit.unwrap().exit,
        Some(mezzo_api::model::Exit::Signal(9))
    );
}

#[tokio::test]
async fn a_kill_under_way_goes_on_after_a_crash() {
    let machine = Machine::new();
    machine.runtime.be_stubborn();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("t")).await;
    agent.expect(TaskState::Running, None).await;
    let grace = Some(Duration::from_secs(600));
    agent
        .handle
        .event(Event::Kill {
            key: key("t"),
            grace,
        })
        .await
        .unwrap();
    agent
        .expect(TaskState::Killing, Some(Reason::KillRequested))
        .await;
    agent.crash().await;
    let mut agent = machine.start(OnShutdown::Leave).await;
    while agent.next().await.state != TaskState::Killed {}
    assert!(machine.runtime.running().is_empty());
}

#[tokio::test]
async fn told_to_leave_it_leaves_and_told_to_kill_it_kills() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("t")).await;
    agent.expect(TaskState::Running, None).await;
    agent.stop.cancel();
    tokio::time::timeout(DEADLINE, agent.running)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(machine.runtime.running().len(), 1);
    let agent = machine.start(OnShutdown::Kill).await;
    agent.stop.cancel();
    tokio::time::timeout(DEADLINE, agent.running)
        .await
        .unwrap()
        .unwrap();
    assert!(machine.runtime.running().is_empty());
}

#[tokio::test]
async fn the_sandbox_is_given_to_the_container() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("t")).await;
    agent.expect(TaskState::Running, None).await;
    let (container, spec) = machine.runtime.starts().remove(0);
    let sandbox: PathBuf = machine
        .dir
        .path()
        .join("tasks")
        .join(container.as_str())
        .join("sandbox");
    assert!(sandbox.is_dir());
    assert!(
        spec.mounts
            .iter()
            .any(|mount| mount.target == "/mnt/mezzo/sandbox" && !mount.read_only)
    );
}

#[tokio::test]
async fn changed_limits_are_told_answered_and_there_for_the_next_agent() {
    let machine = Machine::new();
    let mut agent = machine.start(OnShutdown::Leave).await;
    agent.launch(a_task("t")).await;
    agent.expect(TaskState::Running, None).await;
    let change = async |agent: &Agent, task: &str, change: LimitChange| {
        let answer = agent.handle.ask(|reply| Command::Change {
            framework: None,
            task: task.to_owned(),
            change: Box::new(change),
            reply,
        });
        tokio::time::timeout(DEADLINE, answer)
            .await
            .unwrap()
            .unwrap()
    };
    let pids = |limit| LimitChange {
        pids_limit: Change::Set(limit),
        ..LimitChange::default()
    };
    let task = change(&agent, "t", pids(9)).await.unwrap();
    assert_eq!(task.info.pids_limit, Some(9));
    let refused = LimitChange {
        io_weight: Change::Set(9_999),
        ..pids(11)
    };
    let refused = change(&agent, "t", refused).await.unwrap_err();
    assert_eq!(refused.to_string(), "limits.io_weight: not here");
    let nobody = change(&agent, "nobody", pids(9)).await.unwrap_err();
    assert_eq!(nobody, Refused::NotFound);
    // Of many at once each gets an answer, and the last that was taken holds everywhere.
    let (handle, mut asked) = (agent.handle.clone(), tokio::task::JoinSet::new());
    for limit in 20..30 {
        let handle = handle.clone();
        asked.spawn(async move {
            let answer = handle.ask(|reply| Command::Change {
                framework: None,
                task: "t".into(),
                change: Box::new(LimitChange {
                    pids_limit: Change::Set(limit),
                    ..LimitChange::default()
                }),
                reply,
            });
            tokio::time::timeout(DEADLINE, answer)
                .await
                .unwrap()
                .unwrap()
        });
    }
    let mut taken = 0;
    while let Some(answer) = asked.join_next().await {
        match answer.unwrap() {
            Ok(_) => taken += 1,
            Err(refused) => assert_eq!(refused, Refused::Busy),
        }
    }
    assert!(taken >= 1);
    let told = || machine.runtime.limits().last().unwrap().1.pids;
    let holds = told();
    agent.crash().await;
    let n_told = machine.runtime.limits().len();
    let agent = machine.start(OnShutdown::Leave).await;
    let recovered = async {
        while machine.runtime.limits().len() == n_told {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, recovered).await.unwrap();
    assert_eq!(told(), holds, "what is on record is told again");
    let view = agent.handle.ask(Command::View).await.unwrap();
    assert_eq!(view.tasks[0].info.pids_limit, holds);
}
