//! `mezzo task stats` and `mezzo top`: figures from every node concerned, once or as they come.
//!
//! Each node is followed by a task of its own, which connects again when the connection breaks; what it hears goes
//! through one bounded queue to the loop that paints. A node that does not answer is named, and holds up nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mezzo_api::proto;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{Context, task};
use crate::{
    args::task::{StatsArgs, TopArgs, TopSort},
    client::{master::Master, node::Node},
    failure::Failure,
    output::{Format, print, say},
    render,
    screen::{Key, Screen},
    view::{
        NodeUsage,
        stats::{NodeStats, Point, SortBy, TaskStats, Top},
    },
};

/// How long one node may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Before a node that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks at which nodes there are.
const NODES_EVERY: Duration = Duration::from_secs(10);
/// Between two pictures at most.
const PAINT_EVERY: Duration = Duration::from_millis(500);
/// Points kept of each task's history.
const HISTORY: usize = 64;

/// A node to ask.
#[derive(Debug, Clone)]
struct Target {
    id: String,
    hostname: String,
    address: String,
    cpus: f64,
    /// Empty: all of its tasks.
    tasks: Vec<String>,
}

impl Target {
    fn request(&self) -> proto::GetStatsRequest {
        proto::GetStatsRequest {
            task_ids: self.tasks.clone(),
            with_history: true,
        }
    }
}

/// All nodes that may have something to tell.
async fn all_nodes(master: &mut Master) -> Result<Vec<Target>, Failure> {
    let agents = master
        .agents(&proto::ListAgentsRequest::default())
        .await?
        .into_iter();
    let targets = agents.map(|agent| {
        let node = crate::view::Node::from(&agent);
        Target {
            cpus: node.resources.number("cpus"),
            id: node.id,
            hostname: node.hostname,
            address: node.address,
            tasks: Vec::new(),
        }
    });
    Ok(targets.collect())
}

/// What has been heard.
#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, NodeStats>,
    tasks: BTreeMap<String, Vec<TaskStats>>,
    /// By node and task, for pictures.
    history: BTreeMap<(String, String), VecDeque<Point>>,
}

impl State {
    fn know(&mut self, target: &Target) {
        let node = self.nodes.entry(target.id.clone()).or_default();
        node.id.clone_from(&target.id);
        node.hostname.clone_from(&target.hostname);
        node.cpus = target.cpus;
    }

    fn hear(&mut self, id: &str, heard: Result<proto::StatsRound, String>) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let round = match heard {
            Ok(round) => round,
            Err(problem) => {
                node.problem = Some(problem);
                self.tasks.remove(id);
                return;
            }
        };
        node.problem = None;
        node.used = round.node.as_ref().map(NodeUsage::from);
        node.tasks = round.tasks.len();
        let mut tasks: Vec<TaskStats> = round
            .tasks
            .iter()
            .map(|task| TaskStats::new(task, &node.hostname, &round.groups))
            .collect();
        for task in &mut tasks {
            let key = (id.to_owned(), task.id.clone());
            let history = self.history.entry(key).or_default();
            if !task.history.is_empty() {
                history.clear();
                history.extend(task.history.iter().copied());
            } else if task.cpus.is_some()
                && history
                    .back()
                    .is_none_or(|last| last.at_ms < task.usage.sampled_at_ms)
            {
                history.push_back(task.point());
            }
            while history.len() > HISTORY {
                history.pop_front();
            }
            task.history = history.iter().copied().collect();
        }
        self.history.retain(|(node, task), _| {
            node != id || tasks.iter().any(|running| running.id == *task)
        });
        self.tasks.insert(id.to_owned(), tasks);
    }

    fn top(&self) -> Top {
        let mut nodes: Vec<NodeStats> = self.nodes.values().cloned().collect();
        nodes.sort_by(|a, b| (&a.hostname, &a.id).cmp(&(&b.hostname, &b.id)));
        Top {
            nodes,
            tasks: self.tasks.values().flatten().cloned().collect(),
        }
    }

    fn in_order(&self) -> Vec<TaskStats> {
        let mut tasks = self.top().tasks;
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks
    }
}

type Heard = (String, Result<proto::StatsRound, String>);

/// Asks all nodes once, side by side.
async fn once(targets: &[Target]) -> State {
    let mut state = State::default();
    let mut asking = JoinSet::new();
    for target in targets {
        state.know(target);
        let target = target.clone();
        asking.spawn(async move {
            let asked = async {
                let mut node = Node::connect(&target.address).await?;
                node.stats(target.request()).await
            };
            let heard = match tokio::time::timeout(ANSWER, asked).await {
                Ok(answer) => answer.map_err(|failure| reason(&failure)),
                Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
            };
            (target.id, heard)
        });
    }
    while let Some(heard) = asking.join_next().await {
        if let Ok((id, heard)) = heard {
            state.hear(&id, heard);
        }
    }
    state
}

fn reason(failure: &Failure) -> String {
    failure
        .message()
        .unwrap_or_else(|| "cannot be reached".to_owned())
}

/// Follows one node for good.
async fn follow(target: Target, heard: mpsc::Sender<Heard>) {
    loop {
        let problem = match follow_once(&target, &heard).await {
            Ok(()) => return,
            Err(problem) => problem,
        };
        if heard.send((target.id.clone(), Err(problem))).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Until nobody listens, or with the reason why no more comes.
async fn follow_once(target: &Target, heard: &mpsc::Sender<Heard>) -> Result<(), String> {
    let late = |_| format!("no answer within {} s", ANSWER.as_secs());
    let connecting = async {
        let mut node = Node::connect(&target.address).await?;
        let rounds = node.watch_stats(target.request()).await?;
        Ok::<_, Failure>((node, rounds))
    };
    let (node, mut rounds) = tokio::time::timeout(ANSWER, connecting)
        .await
        .map_err(late)?
        .map_err(|failure| reason(&failure))?;
    loop {
        let round = rounds
            .message()
            .await
            .map_err(|status| reason(&node.refused(&status)))?
            .ok_or_else(|| "the agent is stopping".to_owned())?;
        if heard.send((target.id.clone(), Ok(round))).await.is_err() {
            return Ok(());
        }
    }
}

/// Followed nodes and what is known of them.
struct Feed {
    state: State,
    heard: mpsc::Receiver<Heard>,
    sender: mpsc::Sender<Heard>,
    following: JoinSet<()>,
}

impl Feed {
    fn new(targets: Vec<Target>) -> Self {
        let (sender, heard) = mpsc::channel(16);
        let mut feed = Self {
            state: State::default(),
            heard,
            sender,
            following: JoinSet::new(),
        };
        feed.add(targets);
        feed
    }

    /// Follows those that are not yet followed.
    fn add(&mut self, targets: Vec<Target>) {
        for target in targets {
            let new = !self.state.nodes.contains_key(&target.id);
            self.state.know(&target);
            if new {
                self.following.spawn(follow(target, self.sender.clone()));
            }
        }
    }

    async fn next(&mut self) {
        if let Some((id, heard)) = self.heard.recv().await {
            self.state.hear(&id, heard);
        }
    }
}

/// `mezzo task stats`.
pub(crate) async fn run_stats(
    context: &Context,
    master: &mut Master,
    args: &StatsArgs,
) -> Result<(), Failure> {
    let targets = targets(master, &args.tasks).await?;
    if !args.watch {
        let state = once(&targets).await;
        for node in state.nodes.values() {
            if let Some(problem) = &node.problem {
                say(&format!(
                    "node {}: {}",
                    render::clean(&node.hostname),
                    render::clean(problem)
                ));
            }
        }
        let problems = state.nodes.values().filter(|node| node.problem.is_some());
        if problems.count() == state.nodes.len() && !state.nodes.is_empty() {
            return Err(Failure::Unreachable("no node answers".to_owned()));
        }
        let tasks = state.in_order();
        return context
            .output
            .emit(&tasks, |style| render::stats::tasks(&tasks, style));
    }
    let feed = Feed::new(targets);
    if Screen::is_there() && context.output.format == Format::Table {
        let style = context.output.style;
        return paint(feed, None, |state, _, _, _| {
            render::stats::tasks(&state.in_order(), style)
        })
        .await;
    }
    stream(context, feed).await
}

/// The nodes of these tasks, or all.
async fn targets(master: &mut Master, tasks: &[String]) -> Result<Vec<Target>, Failure> {
    let nodes = all_nodes(master).await?;
    if tasks.is_empty() {
        return Ok(nodes);
    }
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in tasks {
        let found = task::find_task(master, text).await?;
        if !found.is_live() {
            return Err(Failure::failed(format!(
                "task {} has ended already ({}); `mezzo task show` tells what it used",
                found.id,
                found.short_state()
            )));
        }
        wanted.entry(found.agent_id).or_default().push(found.id);
    }
    let targets = nodes.into_iter().filter_map(|node| {
        let tasks = wanted.remove(&node.id)?;
        Some(Target { tasks, ..node })
    });
    Ok(targets.collect())
}

/// One table, or one line of JSON, after another, for a pipe.
async fn stream(context: &Context, mut feed: Feed) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    loop {
        let pause = tokio::time::sleep(Duration::from_secs(1));
        tokio::pin!(pause);
        tokio::select! {
            () = feed.next() => {}
            () = stop.asked() => return Ok(()),
        }
        // What comes within a second is told together.
        loop {
            tokio::select! {
                () = feed.next() => {}
                () = &mut pause => break,
                () = stop.asked() => return Ok(()),
            }
        }
        let tasks = feed.state.in_order();
        let text = match context.output.format {
            Format::Table => {
                let mut text = render::stats::tasks(&tasks, context.output.style);
                text.push('\n');
                text
            }
            Format::Json => serde_json::to_string(&tasks)
                .map(|line| line + "\n")
                .map_err(|error| {
                    Failure::failed(format!("cannot write the result as JSON: {error}"))
                })?,
        };
        print(&text)?;
    }
}

/// `mezzo top`.
pub(crate) async fn run_top(context: &Context, args: &TopArgs) -> Result<(), Failure> {
    let sort = match args.sort {
        TopSort::Cpu => SortBy::Cpu,
        TopSort::Mem => SortBy::Memory,
        TopSort::Io => SortBy::Io,
        TopSort::Net => SortBy::Network,
    };
    let mut master = context.master().await?;
    let targets = all_nodes(&mut master).await?;
    if args.once || context.output.format == Format::Json || !Screen::is_there() {
        let mut top = once(&targets).await.top();
        sort.sort(&mut top.tasks);
        return context
            .output
            .emit(&top, |style| render::stats::top(&top, sort, 0, None, style));
    }
    let style = context.output.style;
    let feed = Feed::new(targets);
    paint(
        feed,
        Some((master, sort)),
        move |state, sort, skip, size| {
            render::stats::top(&state.top(), sort, skip, Some(size), style)
        },
    )
    .await
}

/// Paints until somebody has seen enough.
async fn paint(
    mut feed: Feed,
    mut more: Option<(Master, SortBy)>,
    picture: impl Fn(&State, SortBy, usize, (u16, u16)) -> String,
) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let mut sort = more.as_ref().map(|(_, sort)| *sort).unwrap_or_default();
    let (screen, mut keys) = Screen::enter()?;
    let mut ticks = tokio::time::interval(PAINT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut nodes_at = Instant::now() + NODES_EVERY;
    let (mut skip, mut changed) = (0_usize, true);
    loop {
        tokio::select! {
            () = stop.asked() => return Ok(()),
            () = feed.next() => changed = true,
            Some(key) = keys.recv() => {
                let count = feed.state.tasks.values().map(Vec::len).sum::<usize>();
                match key {
                    Key::Quit => return Ok(()),
                    Key::Up => skip = skip.saturating_sub(1),
                    Key::Down => skip += 1,
                    Key::PageUp => skip = skip.saturating_sub(10),
                    Key::PageDown => skip += 10,
                    Key::Left => sort = sort.step(-1),
                    Key::Right => sort = sort.step(1),
                }
                skip = skip.min(count.saturating_sub(1));
                screen.paint(&picture(&feed.state, sort, skip, screen.size()))?;
            }
            _ = ticks.tick() => {
                if changed {
                    changed = false;
                    screen.paint(&picture(&feed.state, sort, skip, screen.size()))?;
                }
                if let Some((master, _)) = &mut more
                    && Instant::now() >= nodes_at
                {
                    nodes_at = Instant::now() + NODES_EVERY;
                    // A master that is away for a while changes nothing: the nodes go on telling.
                    let asked = tokio::time::timeout(ANSWER, all_nodes(master)).await;
                    if let Ok(Ok(targets)) = asked {
                        feed.add(targets);
                    }
                }
            }
        }
    }
}

/// Ctrl-C and SIGTERM, so that the terminal is put back.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot watch for signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
