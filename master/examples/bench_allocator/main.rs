//! Drives the pure core for `cargo xtask bench master`: whole passes over all agents, offers included, nothing else.
//!
//! ```text
//! bench_allocator --agents 10000 --frameworks 200 [--case fresh,declined,quiet,suppressed,quota,add,update]
//! ```
//!
//! `--rounds` says how often, 5 times unless told. One line of JSON per case: `{"case", "agents", "frameworks", "offers", "millis": [...], "cpu_millis": [...]}`. Time is
//! that of `Core::handle(Allocate(All))`: from the books to offers that are booked and ready to be sent; beside it the
//! thread's own CPU time, which holds on a busy machine too.
//!
//! * `fresh`: everything is free, everybody wants it.
//! * `declined`: the same after up to twenty frameworks have refused each agent.
//! * `quiet`: up to twenty frameworks, and all of them have refused everything.
//! * `suppressed`: all frameworks but one in a hundred want no offers.
//! * `quota`: as `fresh`, with a guarantee and a limit for every second role.
//! * `add`: all agents register, one after the other, and everything is offered.
//! * `update`: each agent lends something else than before (revocable resources, which all frameworks take), and all that is
//!   free is offered.
//! * `mixed`: 80 agents and 554 frameworks of three kinds until 19,500 tasks are launched, whatever the sizes say; the times
//!   are those of all its passes together.

mod mixed;

use std::{
    collections::BTreeMap,
    error::Error,
    process::ExitCode,
    time::{Duration, Instant},
};

use mezzo_api::model::{
    AgentId, AgentInfo, Attribute, AttributeValue, Capability, CgroupMode, FrameworkId,
    FrameworkInfo, OfferId, OperationId, Resources, Scalar, StreamId,
};
use mezzo_master::{
    Config,
    allocator::Quota,
    state::{
        Call, Caller, ConnId, Core, Effect, Event, MadeOffer, Operation, Pass, Registration,
        Settings, Source, ToFramework,
    },
    store::Saved,
};

use nix::time::{ClockId, clock_gettime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Free again at once.
const ZERO: Duration = Duration::ZERO;

/// Nothing ends while we measure.
const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);

const NOW: u64 = 1_000_000;

/// Refusals of each agent in `declined` and `quiet`.
const REFUSALS: u64 = 20;

/// Roles that the frameworks are spread over, ten with five below each.
const N_ROLES: u64 = 50;

/// As a master has it.
#[global_allocator]
static HEAP: mezzo_heap::Heap = mezzo_heap::Heap;

fn main() -> ExitCode {
    mezzo_heap::choose_for_server();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_allocator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut n_agents, mut n_frameworks, mut rounds) = (1000, 50, 5);
    let mut cases = "fresh,declined,quiet,suppressed,quota,add,update".to_owned();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        match &*word {
            "--agents" => n_agents = value.parse()?,
            "--frameworks" => n_frameworks = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            "--case" => cases = value,
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    for case in cases.split(',') {
        if case == "mixed" {
            tell_mixed(rounds)?;
            continue;
        }
        let n_frameworks = match case {
            "quiet" => REFUSALS.min(n_frameworks),
            _ => n_frameworks,
        };
        let mut bench = Bench::new(n_agents, n_frameworks)?;
        bench.prepare(case)?;
        let mut millis = Vec::new();
        let mut cpu_millis = Vec::new();
        let mut n_offers = 0;
        for round in 0..rounds {
            let mut events = match case {
                "add" => {
                    bench = Bench::new(0, n_frameworks)?;
                    attachments(n_agents)?
                }
                "update" => lendings(n_agents, round)?,
                _ => Vec::new(),
            };
            events.push(Event::Allocate(Pass::All));
            let (effects, times) = bench.timed(events)?;
            millis.push(in_millis(times.wall));
            cpu_millis.push(in_millis(times.cpu));
            let offers = offers(&effects);
            n_offers = offers.len();
            // Back to where it was: not refused, for it is measured again.
            bench.decline(offers, ZERO)?;
        }
        println!(
            "{{\"case\":\"{case}\",\"agents\":{n_agents},\"frameworks\":{n_frameworks},\
             \"offers\":{n_offers},\"millis\":{millis:?},\"cpu_millis\":{cpu_millis:?}}}"
        );
    }
    Ok(())
}

fn tell_mixed(rounds: usize) -> Result<()> {
    let (mut millis, mut cpu_millis) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..rounds {
        let run = mixed::run()?;
        millis.push(in_millis(run.times.wall));
        cpu_millis.push(in_millis(run.times.cpu));
        last = Some(run);
    }
    let run = last.ok_or("--rounds must be at least 1")?;
    println!(
        "{{\"case\":\"mixed, {} tasks in {} passes\",\"agents\":{},\"frameworks\":{},\
         \"offers\":{},\"millis\":{millis:?},\"cpu_millis\":{cpu_millis:?}}}",
        run.tasks, run.passes, run.agents, run.frameworks, run.offers
    );
    Ok(())
}

/// What something took.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    wall: Duration,
    cpu: Duration,
}

impl Times {
    fn add(&mut self, more: Self) {
        self.wall += more.wall;
        self.cpu += more.cpu;
    }
}

/// With three decimals.
fn in_millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Of this thread.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// A core with everybody connected.
struct Bench {
    core: Core,
    ids: Ids,
    callers: BTreeMap<FrameworkId, Caller>,
    n_frameworks: u64,
}

impl Bench {
    fn new(n_agents: u64, n_frameworks: u64) -> Result<Self> {
        let agents = (0..n_agents).map(registration).collect::<Result<_>>()?;
        let frameworks = (0..n_frameworks).map(framework).collect::<Result<_>>()?;
        Ok(Self::connect(agents, frameworks)?.0)
    }

    /// With the ids that the frameworks were given, in their order.
    fn connect(
        agents: Vec<Registration>,
        frameworks: Vec<FrameworkInfo>,
    ) -> Result<(Self, Vec<FrameworkId>)> {
        let mut bench = Self {
            core: Core::restore(Settings::from(&Config::default()), Saved::default(), NOW),
            ids: Ids(0),
            callers: BTreeMap::new(),
            n_frameworks: u64::try_from(frameworks.len())?,
        };
        let mut conns = (0..).map(ConnId);
        for (registration, conn) in agents.into_iter().zip(conns.by_ref()) {
            bench.feed(Event::AgentAttached { conn, registration });
            bench.feed(Event::AgentHeard { conn });
        }
        let mut ids = Vec::new();
        for (info, conn) in frameworks.into_iter().zip(conns) {
            let suppressed = Vec::new();
            let subscribe = Event::Subscribe {
                conn,
                info,
                suppressed,
            };
            for effect in bench.feed(subscribe) {
                if let Effect::ToFramework(_, event) = effect
                    && let ToFramework::Subscribed {
                        framework_id,
                        stream_id,
                    } = event
                {
                    let caller = Caller {
                        framework_id: framework_id.clone(),
                        stream_id,
                    };
                    ids.push(framework_id.clone());
                    bench.callers.insert(framework_id, caller);
                }
            }
        }
        Ok((bench, ids))
    }

    /// Feeds events one after the other, and says what came of the last one and what all together took.
    fn timed(&mut self, events: Vec<Event>) -> Result<(Vec<Effect>, Times)> {
        let (started, cpu) = (Instant::now(), cpu_time()?);
        let mut effects = Vec::new();
        for event in events {
            effects = self.feed(event);
        }
        let times = Times {
            wall: started.elapsed(),
            cpu: cpu_time()? - cpu,
        };
        Ok((effects, times))
    }

    fn call(&mut self, framework_id: &FrameworkId, call: Call) -> Result<()> {
        let caller = self.callers.get(framework_id).cloned();
        let caller = caller.ok_or("an offer for an unknown framework")?;
        self.feed(Event::Call { caller, call });
        Ok(())
    }

    fn feed(&mut self, event: Event) -> Vec<Effect> {
        self.core.handle(event, NOW, &mut self.ids)
    }

    fn prepare(&mut self, case: &str) -> Result<()> {
        match case {
            "fresh" | "add" | "update" => {}
            "declined" => {
                for _ in 0..REFUSALS.min(self.n_frameworks - 1) {
                    self.refuse_all()?;
                }
            }
            // The last pass finds that nobody is left.
            "quiet" => while self.refuse_all()? > 0 {},
            "suppressed" => {
                let callers: Vec<Caller> = self.callers.values().cloned().collect();
                let n_left = usize::try_from(self.n_frameworks.div_ceil(100))?;
                for caller in callers.into_iter().skip(n_left) {
                    let call = Call::Suppress(Vec::new());
                    self.feed(Event::Call { caller, call });
                }
            }
            "quota" => {
                let amount = |cpus| [("cpus".to_owned(), Scalar::from_units(cpus))].into();
                let mut quotas = Vec::new();
                for n in (0..self.n_frameworks.min(N_ROLES)).step_by(2) {
                    let quota = Quota {
                        guarantees: amount(240),
                        limits: amount(1_000_000),
                    };
                    quotas.push((role(n).parse()?, quota));
                }
                self.feed(Event::Operate(Operation::UpdateQuotas {
                    quotas,
                    force: true,
                }));
            }
            _ => return Err(format!("case {case} is not known").into()),
        }
        Ok(())
    }

    /// Everybody refuses for good what one pass offers; says how many offers that were.
    fn refuse_all(&mut self) -> Result<usize> {
        let effects = self.feed(Event::Allocate(Pass::All));
        let offers = offers(&effects);
        let n_offers = offers.len();
        self.decline(offers, FOR_GOOD)?;
        Ok(n_offers)
    }

    fn decline(&mut self, offers: Vec<(FrameworkId, OfferId)>, refuse: Duration) -> Result<()> {
        let mut by_framework: BTreeMap<FrameworkId, Vec<OfferId>> = BTreeMap::new();
        for (framework_id, offer_id) in offers {
            by_framework.entry(framework_id).or_default().push(offer_id);
        }
        for (framework_id, offers) in by_framework {
            self.call(&framework_id, Call::Decline { offers, refuse })?;
        }
        Ok(())
    }
}

fn offered(effects: &[Effect]) -> impl Iterator<Item = &MadeOffer> {
    let offers = effects.iter().filter_map(|effect| {
        if let Effect::ToFramework(_, ToFramework::Offers(offers)) = effect {
            Some(offers)
        } else {
            None
        }
    });
    offers.flatten()
}

fn offers(effects: &[Effect]) -> Vec<(FrameworkId, OfferId)> {
    offered(effects)
        .map(|offer| (offer.framework_id.clone(), offer.offer_id.clone()))
        .collect()
}

fn registration(n: u64) -> Result<Registration> {
    let rack = Attribute {
        name: "rack".to_owned(),
        value: AttributeValue::Text(format!("r{}", n % 100)),
    };
    Ok(Registration {
        agent_id: Some(format!("agent-{n:06}").parse()?),
        info: AgentInfo {
            hostname: format!("node-{n:06}.example"),
            address: format!("10.0.{}.{}:5051", n / 250 % 250, n % 250),
            resources: "cpus:24;mem:4096;disk:4096;ports:[31000-32000]".parse()?,
            attributes: vec![rack],
            region: "eu".to_owned(),
            zone: format!("eu-{}", n % 3),
            version: "0.1.0".to_owned(),
            kernel: "6.1.0".to_owned(),
            architecture: "x86_64".to_owned(),
            cgroup_mode: CgroupMode::V2,
            reserved: Vec::new(),
            volumes: Vec::new(),
        },
        boot_id: String::new(),
        operations: Vec::new(),
        tasks: Vec::new(),
    })
}

/// Every agent on a stream of its own. Those of frameworks have the first numbers.
fn attachments(n_agents: u64) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for n in 0..n_agents {
        let conn = ConnId(1_000_000 + n);
        let registration = registration(n)?;
        events.push(Event::AgentAttached { conn, registration });
        events.push(Event::AgentHeard { conn });
    }
    Ok(events)
}

/// What agents lend, another amount in each round. They have the first numbers here.
fn lendings(n_agents: u64, round: usize) -> Result<Vec<Event>> {
    let total: Resources = format!("cpus:{};mem:512", 1 + round % 4).parse()?;
    let lending = |n| Event::AgentSlack {
        conn: ConnId(n),
        total: total.clone(),
    };
    Ok((0..n_agents).map(lending).collect())
}

fn role(n: u64) -> String {
    let n = n % N_ROLES;
    format!("team-{}/part-{}", n % 10, n / 10)
}

fn framework(n: u64) -> Result<FrameworkInfo> {
    Ok(FrameworkInfo {
        framework_id: None,
        name: format!("framework-{n}"),
        user: String::new(),
        roles: vec![role(n).parse()?],
        failover_timeout: FOR_GOOD,
        hostname: String::new(),
        principal: String::new(),
        webui_url: String::new(),
        labels: BTreeMap::new(),
        offer_filters: BTreeMap::new(),
        // Only where something is lent it makes a difference.
        capabilities: [Capability::RevocableResources].into(),
    })
}

/// Ids in order.
struct Ids(u64);

impl Ids {
    fn next<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, kind: &str) -> T {
        self.0 += 1;
        format!("{kind}-{:012}", self.0)
            .parse()
            .expect("letters, a dash and digits are an id")
    }
}

impl Source for Ids {
    fn agent_id(&mut self) -> AgentId {
        self.next("agent")
    }

    fn framework_id(&mut self) -> FrameworkId {
        self.next("framework")
    }

    fn offer_id(&mut self) -> OfferId {
        self.next("offer")
    }

    fn stream_id(&mut self) -> StreamId {
        self.next("stream")
    }

    fn operation_id(&mut self) -> OperationId {
        self.next("operation")
    }

    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
    }
}
