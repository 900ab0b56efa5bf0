//! Steps of the core alone: what a start of the master keeps, and what one call may ask for.

use std::time::Duration;

use mezzo_api::{
    model::{
        AgentInfo, CgroupMode, FrameworkInfo, Reason, Resources, StatusSource, TaskInfo, TaskState,
        TaskStatus,
    },
    proto,
};

use super::{numbers::Numbers, *};
use crate::store::memory::MemoryStore;

/// A machine with nothing but that.
pub(super) fn machine(hostname: String, resources: Resources) -> AgentInfo {
    AgentInfo {
        hostname,
        address: "h:1".to_owned(),
        resources,
        attributes: Vec::new(),
        region: String::new(),
        zone: String::new(),
        version: String::new(),
        kernel: String::new(),
        architecture: String::new(),
        cgroup_mode: CgroupMode::V2,
        reserved: Vec::new(),
        volumes: Vec::new(),
    }
}

/// A core with its store and its clock, and what it said since the last look.
struct Bench {
    settings: Settings,
    core: Core,
    store: MemoryStore,
    numbers: Numbers,
    now: u64,
    to_agents: Vec<ToAgent>,
    to_frameworks: Vec<ToFramework>,
    n_conns: u64,
    n_updates: u64,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self {
            core: Core::restore(settings.clone(), Saved::default(), 0),
            settings,
            store: MemoryStore::default(),
            numbers: Numbers::default(),
            now: 1000,
            to_agents: Vec::new(),
            to_frameworks: Vec::new(),
            n_conns: 0,
            n_updates: 0,
        }
    }

    fn feed(&mut self, event: Event) {
        for effect in self.core.handle(event, self.now, &mut self.numbers) {
            match effect {
                Effect::Store(change) => self.store.write(change),
                Effect::ToAgent(_, message) => self.to_agents.push(message),
                Effect::ToFramework(_, event) => self.to_frameworks.push(event),
                Effect::Reply(reply) => reply.unwrap(),
                Effect::Note(_) | Effect::CloseAgent(..) | Effect::CloseFramework(..) => {}
            }
        }
        self.core.audit().unwrap();
    }

    /// The next master on the same store.
    fn restart(&mut self) {
        self.core = Core::restore(self.settings.clone(), self.store.saved(), self.now);
        self.to_agents.clear();
        self.to_frameworks.clear();
    }

    fn tick(&mut self, now: u64) {
        self.now = now;
        self.feed(Event::Tick);
        self.feed(Event::Allocate(Pass::All));
    }

    fn conn(&mut self) -> ConnId {
        self.n_conns += 1;
        ConnId(self.n_conns)
    }

    fn attach(&mut self, id: &str) -> ConnId {
        let conn = self.conn();
        let registration = Registration {
            agent_id: Some(id.parse().unwrap()),
            info: machine(format!("host-{id}"), "cpus:4;mem:1024".parse().unwrap()),
            boot_id: String::new(),
            operations: Vec::new(),
            tasks: Vec::new(),
        };
        self.feed(Event::AgentAttached { conn, registration });
        conn
    }

    fn subscribe(&mut self, roles: &[&str], suppressed: &[&str]) -> (ConnId, Caller) {
        let info = proto::FrameworkInfo {
            name: "f".into(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            failover_timeout_ms: 200_000,
            ..proto::FrameworkInfo::default()
        };
        let conn = self.conn();
        self.feed(Event::Subscribe {
            conn,
            info: FrameworkInfo::try_from(info).unwrap(),
            suppressed: suppressed
                .iter()
                .map(|role| role.parse().unwrap())
                .collect(),
        });
        let mut caller = None;
        for event in self.to_frameworks.drain(..) {
            if let ToFramework::Subscribed {
                framework_id,
                stream_id,
            } = event
            {
                caller = Some(Caller {
                    framework_id,
                    stream_id,
                });
            }
        }
        (conn, caller.unwrap())
    }

    fn offers(&mut self) -> Vec<MadeOffer> {
        let mut offers = Vec::new();
        for event in self.to_frameworks.drain(..) {
            if let ToFramework::Offers(more) = event {
                offers.extend(more);
            }
        }
        offers
    }

    fn updates(&mut self) -> Vec<(TaskState, Option<Reason>, String)> {
        let mut updates = Vec::new();
        for event in self.to_frameworks.drain(..) {
            if let ToFramework::Update(status) = event {
                updates.push((status.state, status.reason, status.message));
            }
        }
        updates
    }

    /// One task on all of these offers.
    fn accept(&mut self, caller: &Caller, offers: &[&MadeOffer], task_id: &str, takes: &str) {
        let info = proto::TaskInfo {
            task_id: task_id.into(),
            agent_id: offers[0].agent_id.to_string(),
            resources: takes.parse::<Resources>().unwrap().into(),
            container: Some(proto::ContainerInfo {
                image: "x:1".into(),
                ..proto::ContainerInfo::default()
            }),
            ..proto::TaskInfo::default()
        };
        let accept = Accept {
            offers: offers.iter().map(|offer| offer.offer_id.clone()).collect(),
            launches: vec![Launch::Valid(Box::new(TaskInfo::try_from(info).unwrap()))],
            refuse: Duration::ZERO,
        };
        self.call(caller, Call::Accept(vec![accept]));
    }

    fn call(&mut self, caller: &Caller, call: Call) {
        let caller = caller.clone();
        self.feed(Event::Call { caller, call });
    }

    /// The agent tells of a task, and the framework acknowledges it.
    fn report(
        &mut self,
        conn: ConnId,
        caller: &Caller,
        agent: &str,
        task_id: &str,
        state: TaskState,
    ) {
        self.n_updates += 1;
        let update_id: mezzo_api::model::UpdateId = format!("u{}", self.n_updates).parse().unwrap();
        let status = TaskStatus {
            task_id: task_id.parse().unwrap(),
            framework_id: caller.framework_id.clone(),
            agent_id: Some(agent.parse().unwrap()),
            state,
            reason: None,
            source: StatusSource::Agent,
            message: String::new(),
            timestamp_ms: self.now,
            update_id: Some(update_id.clone()),
            healthy: None,
            health_results: Vec::new(),
            container: None,
            exit: None,
            usage: None,
            readiness: None,
            check_result: None,
        };
        let status = Box::new(status);
        self.feed(Event::AgentStatus { conn, status });
        let acknowledgement = Acknowledgement {
            agent_id: agent.parse().unwrap(),
            task_id: task_id.parse().unwrap(),
            update_id,
        };
        self.call(caller, Call::Acknowledge(vec![acknowledgement]));
    }
}

fn settings() -> Settings {
    Settings {
        agent_timeout_ms: 10_000,
        recovery_timeout_ms: 60_000,
        ..Settings::from(&Config::default())
    }
}

#[test]
fn with_quotas_offers_wait_for_the_agents_of_before_and_for_none_whose_time_is_over() {
    let slow = LossLimit {
        count: 1,
        per_ms: 3_600_000,
    };
    for loss_limit in [None, Some(slow)] {
        let mut bench = Bench::new(Settings {
            loss_limit,
            ..settings()
        });
        let names: Vec<String> = (0..10).map(|n| format!("a{n}")).collect();
        for name in &names {
            bench.attach(name);
        }
        let quota = crate::allocator::Quota {
            limits: [("cpus".to_owned(), "100".parse().unwrap())].into(),
            ..Default::default()
        };
        bench.feed(Event::Operate(Operation::UpdateQuotas {
            quotas: vec![("r".parse().unwrap(), quota)],
            force: true,
        }));
        bench.now = 10_000;
        bench.restart();
        bench.subscribe(&["r"], &[]);
        for name in &names[..6] {
            bench.attach(name);
        }
        for before in [10_000, 69_999] {
            bench.tick(before);
            assert_eq!(bench.offers().len(), 0, "{loss_limit:?}");
        }
        // Of four that are late only one may be given up in an hour.
        bench.tick(70_000);
        assert_eq!(bench.offers().len(), 6, "{loss_limit:?}");

        // Four fifths are enough.
        bench.restart();
        bench.subscribe(&["r"], &[]);
        for name in &names[..8] {
            bench.attach(name);
        }
        bench.tick(70_001);
        assert_eq!(bench.offers().len(), 8, "{loss_limit:?}");
    }
}

#[test]
fn the_time_of_a_framework_that_is_away_runs_on_over_a_restart_of_the_master() {
    // Up to the last minute; then it may have had nobody to subscribe to, and keeps its tasks for as long as agents may take.
    for (restart, end) in [(50_000, 205_000), (180_000, 240_000)] {
        let mut bench = Bench::new(settings());
        let (conn, caller) = bench.subscribe(&["r"], &[]);
        bench.now = 5000;
        bench.feed(Event::FrameworkDetached { conn });
        bench.now = restart;
        bench.restart();
        let removed = |bench: &Bench| {
            let saved = bench.store.saved();
            let mut removed = saved.removed_frameworks.iter();
            removed.any(|(id, _)| *id == caller.framework_id)
        };
        bench.tick(end - 1);
        assert!(!removed(&bench), "{restart}");
        bench.tick(end);
        assert!(removed(&bench), "{restart}");
    }
}

#[test]
fn an_agent_that_was_removed_is_refused_by_the_next_master_too() {
    let mut bench = Bench::new(settings());
    let conn = bench.attach("a");
    bench.feed(Event::AgentDetached { conn });
    bench.tick(20_000);
    let agent_id: AgentId = "a".parse().unwrap();
    bench.feed(Event::Operate(Operation::RemoveAgent(agent_id)));
    bench.restart();
    bench.attach("a");
    let [ToAgent::Refused(message)] = &bench.to_agents[..] else {
        panic!("{:?}", bench.to_agents)
    };
    assert!(message.contains("was removed by an operator"), "{message}");
    bench.attach("b");
    let Some(ToAgent::Registered(id)) = bench.to_agents.last() else {
        panic!("{:?}", bench.to_agents)
    };
    assert_eq!(id.as_str(), "b");
}

#[test]
fn tasks_of_an_agent_that_is_away_are_unreachable_and_once_it_is_removed_gone() {
    let mut bench = Bench::new(settings());
    let conn = bench.attach("a");
    let (_, caller) = bench.subscribe(&["r"], &[]);
    bench.tick(2000);
    let offers = bench.offers();
    bench.accept(&caller, &[&offers[0]], "t", "cpus:1");
    bench.report(conn, &caller, "a", "t", TaskState::Running);
    bench.feed(Event::AgentDetached { conn });
    bench.updates();
    bench.tick(12_000);
    let told = bench.updates();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, TaskState::Unreachable);
    let agent_id: AgentId = "a".parse().unwrap();
    bench.feed(Event::Operate(Operation::RemoveAgent(agent_id)));
    let told = bench.updates();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].0, told[0].1),
        (TaskState::Gone, Some(Reason::AgentRemoved))
    );
}

#[test]
fn offers_of_one_agent_and_role_are_one_hand_and_others_are_refused_together() {
    let mut bench = Bench::new(settings());
    let conn = bench.attach("a");
    bench.attach("b");
    let (_, caller) = bench.subscribe(&["r"], &[]);
    bench.tick(2000);
    let mut offers = bench.offers();
    offers.sort_by(|a, b| a.agent_id.cmp(&b.agent_id));
    let [on_a, on_b] = &offers[..] else {
        panic!("{offers:?}")
    };

    // Two agents: the task is dropped, and what both offers held is offered again.
    bench.accept(&caller, &[on_a, on_b], "both", "cpus:1");
    let told = bench.updates();
    let [(TaskState::Dropped, Some(Reason::InvalidOffers), message)] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(message.contains("one agent and one role"), "{message}");
    assert!(
        bench
            .to_agents
            .iter()
            .all(|message| !matches!(message, ToAgent::Launch(_)))
    );
    bench.tick(3000);
    let again = bench.offers();
    assert_eq!(again.len(), 2, "{again:?}");

    // Two offers of one agent: what is left of the first, and what a task gave back.
    let on_a = again.iter().find(|offer| offer.agent_id.as_str() == "a");
    bench.accept(&caller, &[on_a.unwrap()], "first", "cpus:1;mem:256");
    bench.report(conn, &caller, "a", "first", TaskState::Running);
    bench.tick(4000);
    let left = bench.offers();
    assert_eq!(left.len(), 1, "{left:?}");
    bench.report(conn, &caller, "a", "first", TaskState::Finished);
    bench.tick(5000);
    let back = bench.offers();
    assert_eq!(back.len(), 1, "{back:?}");
    bench.accept(&caller, &[&left[0], &back[0]], "whole", "cpus:4;mem:1024");
    assert_eq!(bench.updates(), []);
    let mut launched = Vec::new();
    for message in &bench.to_agents {
        if let ToAgent::Launch(task) = message {
            launched.push(task.info.task_id.as_str());
        }
    }
    assert_eq!(launched, ["first", "whole"]);
}

#[test]
fn offers_of_one_agent_for_two_roles_are_not_one_hand() {
    let mut bench = Bench::new(settings());
    let conn = bench.attach("a");
    let (_, caller) = bench.subscribe(&["r", "s"], &[]);
    bench.tick(2000);
    let first = bench.offers();
    assert_eq!(first.len(), 1);
    bench.accept(&caller, &[&first[0]], "t", "cpus:1;mem:256");
    bench.report(conn, &caller, "a", "t", TaskState::Running);
    // The rest is for the role that has nothing; then what the task gave back is for the first one.
    bench.tick(3000);
    let rest = bench.offers();
    bench.report(conn, &caller, "a", "t", TaskState::Finished);
    bench.tick(4000);
    let back = bench.offers();
    assert_eq!((rest.len(), back.len()), (1, 1));
    assert_ne!(rest[0].role, back[0].role);
    bench.accept(&caller, &[&rest[0], &back[0]], "u", "cpus:1");
    let told = bench.updates();
    let [(TaskState::Dropped, Some(Reason::InvalidOffers), message)] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(message.contains("one agent and one role"), "{message}");
}

#[test]
fn a_role_that_is_suppressed_from_the_beginning_gets_nothing_before_it_is_revived() {
    let mut bench = Bench::new(settings());
    bench.attach("a");
    let (_, caller) = bench.subscribe(&["r", "s"], &["r", "s"]);
    bench.tick(2000);
    assert_eq!(bench.offers().len(), 0);
    bench.call(&caller, Call::Revive(vec!["s".parse().unwrap()]));
    bench.tick(3000);
    let offers = bench.offers();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].role.as_str(), "s");
}
