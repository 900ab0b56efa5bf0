//! A whole framework in one file: runs one task on a mezzo cluster to its end, and tells how it ended and what it used.
//!
//! The crate `mezzo-framework` subscribes, and again when the stream breaks or another master leads. Here is what is left to
//! an author, in the order of the file: take an offer that is large enough, decline the others, launch, acknowledge each
//! status, ask after a reconnect what became of the task, and tear down at the end. (The same on the generated messages
//! alone, for any language: `examples/python-framework`.)
//!
//! Driven by one loop in `run`; nothing is spawned. `integration/tests/frameworks.rs` runs it against a live cluster.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use mezzo_framework::model::{AgentId, Exit, Offer, Scalar, TaskState, TaskStatus};
use mezzo_framework::{
    CallError, Calls, Event, Framework, REFUSE_LONG, Reconciliation, Room, Task,
};

/// How long the master keeps our task while we are away.
const FAILOVER: Duration = Duration::from_secs(60);
/// How often is looked whether a question is due again.
const TICK: Duration = Duration::from_secs(1);

/// Runs one task to its end and prints its exit code and what it used.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example:\n  example-rust-framework --image 127.0.0.1:5000/sleep:1 -- 1 --exit-code 7"
)]
struct Args {
    /// host:port of every master, with commas between them
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:5050",
        env = "MEZZO_MASTER"
    )]
    master: Vec<String>,
    /// The image to run
    #[arg(long)]
    image: String,
    /// Processors, in thousandths
    #[arg(long, default_value_t = 100)]
    cpu_millis: u32,
    /// MiB of memory
    #[arg(long, default_value_t = 32)]
    memory: u32,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 300)]
    deadline: u64,
    /// Arguments of the task, after `--`
    #[arg(last = true)]
    args: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let deadline = Duration::from_secs(args.deadline);
    match tokio::time::timeout(deadline, run(args)).await {
        Ok(Ok(ended)) => {
            println!("{}", describe(&ended));
            if ended.exit.is_some() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!(
                "error: the task did not end within {} s",
                deadline.as_secs()
            );
            ExitCode::FAILURE
        }
    }
}

/// Follows events until the task has ended and the framework is torn down.
async fn run(args: Args) -> Result<TaskStatus> {
    let mut framework = Framework::builder("example-rust-framework")
        .masters(args.master.clone())
        .failover_timeout(FAILOVER)
        .spawn()?;
    let mut author = Author::new(framework.calls(), args);
    let mut clock = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            event = framework.next() => {
                let event = event.context("the subscription ended")??;
                author.handle(event).await?;
            }
            _ = clock.tick() => author.ask().await?,
        }
        if let Some(ended) = author.ended.clone()
            && settled(author.calls.teardown().await)?
        {
            framework.close().await;
            return Ok(ended);
        }
    }
}

/// Whether a call was done. One that may succeed on another subscription is told, and no error.
fn settled(result: Result<(), CallError>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_passing() => {
            eprintln!("{:#}", anyhow::Error::from(error));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

struct Author {
    calls: Calls,
    task: Task,
    /// The agent that our task was launched on.
    launched_on: Option<AgentId>,
    /// What we ask for after a reconnect.
    open: Reconciliation,
    /// The last status of our task.
    ended: Option<TaskStatus>,
}

impl Author {
    fn new(calls: Calls, args: Args) -> Self {
        // Chosen once: a task id is never used twice.
        let task = Task::new(format!("example-{}", uuid::Uuid::new_v4()))
            .name("example")
            .image(&args.image)
            .args(args.args)
            .cpus(&Scalar::from_millis(args.cpu_millis.into()).to_string())
            .mem(args.memory);
        Self {
            calls,
            task,
            launched_on: None,
            open: Reconciliation::default(),
            ended: None,
        }
    }

    async fn handle(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Subscribed { framework_id, .. } => {
                println!("subscribed as {framework_id}");
                // What happened to our task while we were away? The answer comes as an update.
                if let (Some(agent), None) = (&self.launched_on, &self.ended) {
                    let task = self.task.id().parse()?;
                    self.open = Reconciliation::of([(task, Some(agent.clone()))]);
                }
                self.ask().await
            }
            Event::Disconnected { why } => {
                eprintln!("the stream broke ({why}), connecting again");
                Ok(())
            }
            Event::Offers(offers) => self.use_offers(&offers).await,
            Event::Update(status) => self.updated(*status).await,
            // A withdrawn offer is one we have answered already, or a launch of ours will be answered by an update.
            Event::Rescinded(_)
            | Event::Operation(_)
            | Event::AgentLost(_)
            | Event::InverseOffers(_)
            | Event::InverseRescinded(_) => Ok(()),
        }
    }

    /// Again and again until there is an answer: a master that has just begun to lead has none.
    async fn ask(&mut self) -> Result<()> {
        let due = self.open.due(Instant::now());
        if !due.is_empty() {
            settled(self.calls.reconcile(due).await)?;
        }
        Ok(())
    }

    /// Launches on the first offer that is large enough; declines everything else.
    async fn use_offers(&mut self, offers: &[Offer]) -> Result<()> {
        let mut unused = Vec::new();
        for offer in offers {
            let info = match self.launched_on {
                None => Room::of(offer).place(&self.task).ok(),
                Some(_) => None,
            };
            let Some(info) = info else {
                unused.push(offer);
                continue;
            };
            // Noted before the call: if the answer gets lost, reconciliation tells whether the launch did.
            self.launched_on = Some(offer.agent_id.clone());
            println!("launches {} on {}", self.task.id(), offer.hostname);
            let launched = self.calls.launch(offer, vec![info], REFUSE_LONG).await;
            if let Err(error) = &launched
                && !error.may_have_happened()
            {
                self.launched_on = None;
            }
            settled(launched)?;
        }
        settled(self.calls.decline(unused, REFUSE_LONG).await)?;
        Ok(())
    }

    /// Acknowledges, or the agent would send it again and again.
    async fn updated(&mut self, status: TaskStatus) -> Result<()> {
        println!("{} {}", status.state, status.message);
        settled(self.calls.acknowledge(&status).await)?;
        self.open.answered(&status);
        // Unknown, of a task that we know to have launched: the launch never arrived.
        let over = status.state.is_terminal() || status.state == TaskState::Unknown;
        if over && self.ended.is_none() && status.task_id.as_str() == self.task.id() {
            self.ended = Some(status);
        }
        Ok(())
    }
}

fn describe(ended: &TaskStatus) -> String {
    let how = match ended.exit.as_ref().map(|info| &info.exit) {
        Some(Some(Exit::Code(code))) => format!("exit code {code}"),
        Some(Some(Exit::Signal(signal))) => format!("killed by signal {signal}"),
        Some(None) | None => format!("did not run: {}", ended.message),
    };
    let usage = ended.usage.as_deref();
    let seconds = usage
        .and_then(|usage| usage.cpu_total_us)
        .map_or("unknown".to_owned(), |us| {
            format!("{:.3} s", us as f64 / 1e6)
        });
    let peak = usage
        .and_then(|usage| usage.memory_peak_bytes)
        .map_or("unknown".to_owned(), |bytes| {
            format!("{} KiB", bytes / 1024)
        });
    format!("{how}; final usage: cpu {seconds}, memory peak {peak}")
}
