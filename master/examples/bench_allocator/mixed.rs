//! The published case of many frameworks of three kinds (Mesos' `MultiFrameworkAllocations`): 80 agents of 64 cpus and
//! 488,000 MiB; passes go on until every task is launched, and each framework takes so many tasks from an offer at most.

use std::collections::BTreeMap;

use mezzo_api::{
    model::{FrameworkId, FrameworkInfo, Resources, TaskInfo},
    proto,
};
use mezzo_master::state::{Accept, Call, Event, Launch, MadeOffer, Pass};

use super::{Bench, Result, Times, ZERO, framework, offered, registration};

const AGENTS: u64 = 80;
const OF_AN_AGENT: &str = "cpus:64;mem:488000";
/// Passes after which a case that does not end is given up.
const MOST_PASSES: usize = 10_000;

/// Frameworks that do the same.
struct Kind {
    role: &'static str,
    /// Whether each has a role of its own.
    own_roles: bool,
    frameworks: usize,
    /// Of each framework.
    tasks: usize,
    of_a_task: &'static str,
    /// From one offer.
    at_once: usize,
}

const KINDS: [Kind; 3] = [
    // Thousands of small apps, as Marathon has.
    Kind {
        role: "roleA",
        own_roles: true,
        frameworks: 4,
        tasks: 4000,
        of_a_task: "cpus:0.07;mem:400",
        at_once: 100,
    },
    // Many frameworks with a handful of builds each, as Jenkins has.
    Kind {
        role: "roleB",
        own_roles: false,
        frameworks: 500,
        tasks: 5,
        of_a_task: "cpus:0.1;mem:4000",
        at_once: 1,
    },
    // A few larger jobs, as Spark's drivers are.
    Kind {
        role: "roleC",
        own_roles: true,
        frameworks: 50,
        tasks: 20,
        of_a_task: "cpus:1;mem:1000",
        at_once: 5,
    },
];

/// What one framework still wants.
struct Wish {
    left: usize,
    resources: Resources,
    at_once: usize,
}

/// What came of it.
pub(super) struct Run {
    pub(super) agents: u64,
    pub(super) frameworks: usize,
    pub(super) tasks: usize,
    pub(super) passes: usize,
    pub(super) offers: usize,
    /// Of all passes together.
    pub(super) times: Times,
}

/// Everybody connects, and then pass after pass until every task is launched.
pub(super) fn run() -> Result<Run> {
    let mut infos = Vec::new();
    let mut wishes = Vec::new();
    for kind in &KINDS {
        for n in 0..kind.frameworks {
            let role = match kind.own_roles {
                true => format!("{}-{n}", kind.role),
                false => kind.role.to_owned(),
            };
            infos.push(FrameworkInfo {
                roles: vec![role.parse()?],
                ..framework(infos.len() as u64)?
            });
            wishes.push(Wish {
                left: kind.tasks,
                resources: kind.of_a_task.parse()?,
                at_once: kind.at_once,
            });
        }
    }
    let mut agents = Vec::new();
    for n in 0..AGENTS {
        let mut agent = registration(n)?;
        agent.info.resources = OF_AN_AGENT.parse()?;
        agents.push(agent);
    }
    let (mut bench, ids) = Bench::connect(agents, infos)?;
    let mut wishes: BTreeMap<FrameworkId, Wish> = ids.into_iter().zip(wishes).collect();
    let mut run = Run {
        agents: AGENTS,
        frameworks: wishes.len(),
        tasks: wishes.values().map(|wish| wish.left).sum(),
        passes: 0,
        offers: 0,
        times: Times::default(),
    };
    let mut n_launched = 0;
    while n_launched < run.tasks {
        if run.passes == MOST_PASSES {
            return Err(format!("{n_launched} tasks after {MOST_PASSES} passes").into());
        }
        let (effects, times) = bench.timed(vec![Event::Allocate(Pass::All)])?;
        run.passes += 1;
        run.times.add(times);
        for offer in offered(&effects) {
            run.offers += 1;
            let wish = wishes.get_mut(&offer.framework_id);
            let wish = wish.ok_or("an offer for an unknown framework")?;
            let n = answer(&mut bench, offer, wish, n_launched)?;
            n_launched += n;
        }
    }
    Ok(run)
}

/// Launches what fits; the rest of the offer is free again, and not refused. Says how many tasks that were.
fn answer(bench: &mut Bench, offer: &MadeOffer, wish: &mut Wish, first_id: usize) -> Result<usize> {
    let mut room = offer.resources.plain();
    let mut launches = Vec::new();
    while launches.len() < wish.at_once.min(wish.left)
        && let Some(rest) = room.checked_sub(&wish.resources)
    {
        room = rest;
        let task = proto::TaskInfo {
            task_id: format!("task-{}", first_id + launches.len()),
            name: "task".to_owned(),
            agent_id: offer.agent_id.to_string(),
            resources: wish.resources.clone().into(),
            container: Some(proto::ContainerInfo {
                image: "image:1".to_owned(),
                ..proto::ContainerInfo::default()
            }),
            ..proto::TaskInfo::default()
        };
        launches.push(Launch::Valid(Box::new(TaskInfo::try_from(task)?)));
    }
    let n_launched = launches.len();
    wish.left -= n_launched;
    let offers = vec![offer.offer_id.clone()];
    let call = match n_launched {
        0 => Call::Decline {
            offers,
            refuse: ZERO,
        },
        _ => Call::Accept(vec![Accept {
            offers,
            launches,
            refuse: ZERO,
        }]),
    };
    bench.call(&offer.framework_id, call)?;
    if wish.left == 0 {
        // Or those that want nothing more, whose share is the smallest, would be offered everything again and again.
        bench.call(&offer.framework_id, Call::Suppress(Vec::new()))?;
    }
    Ok(n_launched)
}
