//! `mezzo dev`: master, agent and scheduler as children of one process, for a laptop, the demo and tests.
//!
//! ```text
//!   check: root, state directory free, ports free          (state, plan)
//!   start the three; restart one that dies, with back-off  (supervise)
//!   wait until they answer and know each other             (ready)
//!   ... until Ctrl-C or SIGTERM ...
//!   stop the scheduler, then the agent with its tasks, then the master; remove what is left
//! ```
//!
//! The children die with this process (`--die-with`), containers do not: after a `kill -9` the next `mezzo dev` on the
//! same state directory adopts them.

mod log;
mod plan;
mod ready;
mod state;
mod supervise;

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};

use crate::{
    args::server::DevArgs,
    commands::serve::need_host,
    failure::{Failure, chain},
    output::say,
};
use plan::{Plan, Server};
use state::StateDir;
use supervise::{Ended, Event, Supervisor};

/// Signals that arrive within this time of the first mean the same.
const SAME_WISH: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &DevArgs) -> Result<(), Failure> {
    // Clean errors first, in the order in which a person can fix them.
    let timeout = crate::request::duration("--ready-timeout", &args.ready_timeout)?;
    let registries = args.insecure_registry.iter();
    let registries = registries
        .map(|one| crate::request::registry(one))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(resources) = &args.resources {
        let parsed: Result<mezzo_api::model::Pools, _> = resources.parse();
        parsed.map_err(|error| Failure::usage(format!("--resources `{resources}`: {error}")))?;
    }
    need_host("mezzo dev")?;
    let state = StateDir::lock(&args.state_dir)?;
    let ports = plan::take_ports(
        args.bind,
        [args.master_port, args.agent_port, args.scheduler_port],
    )?;
    let plan = Plan::new(
        state.path(),
        args.bind,
        ports,
        registries,
        args.resources.clone(),
    );
    // One thread: the kernel ties a child's life to the thread that started it, and this one lives as long as we do.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the event loop: {error}")))?;
    let result = runtime.block_on(session(&plan, &state, timeout, args.verbose));
    runtime.shutdown_timeout(Duration::from_secs(1));
    let swept = sweep(state.path());
    state.forget();
    result.and(swept)
}

/// What an agent leaves that did not come to an orderly end: nothing may outlive us but state. Usually there is nothing.
fn sweep(state_dir: &Path) -> Result<(), Failure> {
    let config = mezzo_agent::Config {
        state_dir: state_dir.join(Server::Agent.name()),
        ..mezzo_agent::Config::default()
    };
    mezzo_agent::purge(&config).map_err(|error| {
        Failure::failed(format!("containers may be left behind: {}", chain(&error)))
    })
}

/// From the first start to the last stop.
async fn session(
    plan: &Plan,
    state: &StateDir,
    timeout: Duration,
    verbose: bool,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let (events, mut inbox) = mpsc::channel(64);
    let mut supervisor = Supervisor::new(plan, state.path(), events, verbose)?;
    let mut pids = BTreeMap::new();

    let mut ready = std::pin::pin!(ready::wait(plan, timeout));
    let mut is_ready = false;
    let failure = loop {
        tokio::select! {
            () = signals.next() => break None,
            result = &mut ready, if !is_ready => match result {
                Ok(()) => {
                    is_ready = true;
                    say(&plan.ready_line());
                }
                Err(missing) => {
                    let tail = supervisor.tails();
                    break Some(Failure::failed(format!("not ready after {} s: {missing}{tail}", timeout.as_secs())));
                }
            },
            Some(event) = inbox.recv() => match event {
                Event::Started { server, pid } => {
                    pids.insert(server, pid);
                    if let Err(failure) = state.write(plan, &pids) {
                        say(&format!("mezzo dev: {failure}"));
                    }
                }
                Event::Ended(ended) => {
                    if let Some(failure) = on_end(&ended, is_ready, &supervisor) {
                        break Some(failure);
                    }
                }
            },
        }
    };
    if failure.is_none() {
        say("mezzo dev: stopping; once more Ctrl-C stops the hard way");
    }
    let stopped = stop(&mut supervisor, &mut inbox, &mut signals).await;
    match failure {
        Some(failure) => Err(failure),
        None => stopped,
    }
}

/// A server that ends by itself before all is ready has found something wrong; later it is started again.
fn on_end(ended: &Ended, is_ready: bool, supervisor: &Supervisor) -> Option<Failure> {
    if !is_ready && ended.exit_code.is_some() {
        let words = supervisor.last_words(ended.server);
        return Some(Failure::failed(format!(
            "{} ended with {}{words}",
            ended.server.name(),
            ended.how
        )));
    }
    say(&format!(
        "mezzo dev: {} (pid {}) ended with {} after {:.1} s; starting it again in {:.1} s (log: {})",
        ended.server.name(),
        ended.pid,
        ended.how,
        ended.lived.as_secs_f64(),
        ended.restart_in.as_secs_f64(),
        supervisor.log_path(ended.server).display(),
    ));
    None
}

/// The scheduler first, so that nothing is started again; the agent ends its tasks; the master last.
async fn stop(
    supervisor: &mut Supervisor,
    inbox: &mut mpsc::Receiver<Event>,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut unclean = Vec::new();
    for server in [Server::Scheduler, Server::Agent, Server::Master] {
        let how = {
            let mut stopping = std::pin::pin!(supervisor.stop(server));
            loop {
                tokio::select! {
                    how = &mut stopping => break how,
                    // Nobody needs these any more, but a full queue would hold the supervisors up.
                    Some(_) = inbox.recv() => {}
                    // `timeout` and some shells signal the process and its group: twice the same wish.
                    () = signals.next() => if begin.elapsed() > SAME_WISH { supervise::stop_hard() },
                }
            }
        };
        if let Some(how) = how {
            let log = supervisor.log_path(server);
            unclean.push(format!(
                "{} ended with {how} (log: {})",
                server.name(),
                log.display()
            ));
        }
    }
    if unclean.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "not stopped cleanly: {}",
            unclean.join("; ")
        )))
    }
}

/// Everything that means "stop".
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let watch = |kind| {
            signal(kind)
                .map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))
        };
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
