//! Windows and the limit of losses, step by step on the core alone.

use std::collections::{BTreeSet, VecDeque};

use mezzo_api::{
    model::{FrameworkInfo, TaskInfo},
    proto,
};

use super::*;
use crate::{
    config::Config,
    state::{
        Accept, AgentState, Call, Caller, Event, Launch, LossLimit, Operation, Pass, Registration,
        Settings, Snapshot, numbers::Numbers, tests::machine,
    },
    store::{Saved, memory::MemoryStore},
};

/// A core with its store, its clock, and all that it said.
struct Bench {
    core: Core,
    store: MemoryStore,
    numbers: Numbers,
    now: u64,
    to_agents: Vec<(ConnId, ToAgent)>,
    to_frameworks: VecDeque<ToFramework>,
    notices: Vec<Notice>,
    reply: Result<(), Refusal>,
}

impl Bench {
    fn new(limit: Option<LossLimit>) -> Self {
        let settings = Settings {
            loss_limit: limit,
            ..Settings::from(&Config::default())
        };
        Self {
            core: Core::restore(settings, Saved::default(), 0),
            store: MemoryStore::default(),
            numbers: Numbers::default(),
            now: 1000,
            to_agents: Vec::new(),
            to_frameworks: VecDeque::new(),
            notices: Vec::new(),
            reply: Ok(()),
        }
    }

    fn feed(&mut self, event: Event) {
        for effect in self.core.handle(event, self.now, &mut self.numbers) {
            match effect {
                Effect::Store(change) => self.store.write(change),
                Effect::ToAgent(conn, message) => self.to_agents.push((conn, message)),
                Effect::ToFramework(_, event) => self.to_frameworks.push_back(event),
                Effect::Note(notice) => self.notices.push(notice),
                Effect::Reply(reply) => self.reply = reply,
                Effect::CloseAgent(..) | Effect::CloseFramework(..) => {}
            }
        }
        self.core.audit_windows(self.now).unwrap();
        assert_eq!(self.core.window_records(), self.store.saved().windows);
    }

    fn tick(&mut self, now: u64) {
        self.now = now;
        self.feed(Event::Tick);
        self.feed(Event::Allocate(Pass::All));
    }

    fn operate(&mut self, operation: Operation) -> Result<(), Refusal> {
        self.feed(Event::Operate(operation));
        std::mem::replace(&mut self.reply, Ok(()))
    }

    fn attach(&mut self, conn: u64, id: &str) {
        let registration = Registration {
            agent_id: Some(id.parse().unwrap()),
            info: machine(format!("host-{id}"), "cpus:4;mem:1024".parse().unwrap()),
            boot_id: String::new(),
            operations: Vec::new(),
            tasks: Vec::new(),
        };
        let conn = ConnId(conn);
        self.feed(Event::AgentAttached { conn, registration });
    }

    fn subscribe(&mut self, conn: u64, id: Option<&FrameworkId>) -> Caller {
        let info = proto::FrameworkInfo {
            name: "f".into(),
            roles: vec!["*".into()],
            failover_timeout_ms: 1_000_000,
            framework_id: id.map_or_else(String::new, ToString::to_string),
            ..proto::FrameworkInfo::default()
        };
        self.feed(Event::Subscribe {
            conn: ConnId(conn),
            info: FrameworkInfo::try_from(info).unwrap(),
            suppressed: Vec::new(),
        });
        loop {
            if let Some(ToFramework::Subscribed {
                framework_id,
                stream_id,
            }) = self.to_frameworks.pop_front()
            {
                return Caller {
                    framework_id,
                    stream_id,
                };
            }
        }
    }

    /// Offers that came since the last look, by agent.
    fn offers(&mut self) -> Vec<mezzo_api::model::Offer> {
        let mut offers = Vec::new();
        for event in self.to_frameworks.drain(..) {
            if let ToFramework::Offers(more) = event {
                offers.extend(more.into_iter().map(mezzo_api::model::Offer::from));
            }
        }
        offers
    }

    fn inverse_offers(&mut self) -> Vec<InverseOffer> {
        let mut asked = Vec::new();
        for event in self.to_frameworks.drain(..) {
            if let ToFramework::InverseOffers(more) = event {
                asked.extend(more);
            }
        }
        asked
    }

    fn launch(&mut self, caller: &Caller, offer: &mezzo_api::model::Offer) {
        let info = proto::TaskInfo {
            task_id: "t".into(),
            agent_id: offer.agent_id.to_string(),
            resources: "cpus:1;mem:64"
                .parse::<mezzo_api::model::Resources>()
                .unwrap()
                .into(),
            container: Some(proto::ContainerInfo {
                image: "x:1".into(),
                ..proto::ContainerInfo::default()
            }),
            ..proto::TaskInfo::default()
        };
        self.feed(Event::Call {
            caller: caller.clone(),
            call: Call::Accept(vec![Accept {
                offers: vec![offer.offer_id.clone()],
                launches: vec![Launch::Valid(Box::new(TaskInfo::try_from(info).unwrap()))],
                refuse: std::time::Duration::ZERO,
            }]),
        });
    }

    fn snapshot(&mut self) -> Snapshot {
        self.core.snapshot(self.now)
    }

    fn drained(&mut self, id: &str) -> bool {
        let snapshot = self.snapshot();
        snapshot.agents.get(id).unwrap().drain.is_some()
    }
}

fn window(
    name: &str,
    agents: &[&str],
    starts: u64,
    drains: u64,
    ends: Option<u64>,
) -> WindowRecord {
    WindowRecord {
        name: name.parse().unwrap(),
        agents: agents.iter().map(|id| id.parse().unwrap()).collect(),
        starts_at_ms: starts,
        drains_at_ms: drains,
        ends_at_ms: ends,
        drained: BTreeSet::new(),
    }
}

fn schedule(record: &WindowRecord) -> Operation {
    Operation::ScheduleWindow(Box::new(record.clone()))
}

#[test]
fn a_window_vacates_then_drains_then_gives_back() {
    let mut bench = Bench::new(None);
    bench.attach(1, "a");
    bench.attach(2, "b");
    let caller = bench.subscribe(3, None);
    bench.tick(1100);
    let offers = bench.offers();
    let on_a = offers
        .iter()
        .find(|offer| offer.agent_id.as_str() == "a")
        .unwrap();
    bench.launch(&caller, on_a);

    let record = window("w", &["a"], 2000, 3000, Some(4000));
    bench.operate(schedule(&record)).unwrap();
    bench.tick(1900);
    assert!(bench.inverse_offers().is_empty());

    bench.tick(2000);
    let asked = bench.inverse_offers();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].agent_id.as_str(), asked[0].hostname.as_str()),
        ("a", "host-a")
    );
    assert_eq!(
        (asked[0].drains_at_ms, asked[0].ends_at_ms),
        (3000, Some(4000))
    );
    // Once is enough, also when it subscribes to a second round of ticks.
    bench.tick(2200);
    assert!(bench.inverse_offers().is_empty());
    assert!(!bench.drained("a"));

    // Another subscription hears it again, and answers.
    let caller = bench.subscribe(4, Some(&caller.framework_id));
    bench.tick(2400);
    let mut events = bench.to_frameworks.drain(..).collect::<Vec<_>>();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, ToFramework::InverseOffers(_)))
    );
    events.retain(|event| matches!(event, ToFramework::Offers(_)));
    for event in &events {
        if let ToFramework::Offers(offers) = event {
            assert!(
                offers.iter().all(|offer| offer.agent_id.as_str() == "b"),
                "{offers:?}"
            );
        }
    }
    let call = Call::AnswerInverseOffers {
        ids: vec![asked[0].id.clone()],
        accept: true,
    };
    bench.feed(Event::Call { caller, call });
    let snapshot = bench.snapshot();
    let view = &snapshot.windows["w"];
    assert_eq!(view.stage, WindowStage::Vacating);
    assert_eq!(view.answers.values().collect::<Vec<_>>(), [&Some(true)]);
    assert_eq!(
        snapshot
            .agents
            .get("a")
            .unwrap()
            .window
            .as_ref()
            .unwrap()
            .as_str(),
        "w"
    );

    bench.tick(3000);
    assert!(bench.drained("a") && !bench.drained("b"));
    let drain = |(conn, message): &(ConnId, ToAgent)| {
        *conn == ConnId(1) && matches!(message, ToAgent::Drain { .. })
    };
    assert!(bench.to_agents.iter().any(drain));

    bench.tick(4000);
    assert!(!bench.drained("a"));
    assert!(bench.snapshot().windows.is_empty());
    let activate = |(_, message): &(ConnId, ToAgent)| matches!(message, ToAgent::Activate);
    assert!(bench.to_agents.iter().any(activate));
    let stages: Vec<_> = bench
        .notices
        .iter()
        .filter_map(|notice| match notice {
            Notice::Window { stage, .. } => Some(*stage),
            Notice::Agent { .. }
            | Notice::Framework { .. }
            | Notice::Task { .. }
            | Notice::Role(_) => None,
        })
        .collect();
    assert_eq!(
        stages,
        [
            Some(WindowStage::Scheduled),
            Some(WindowStage::Vacating),
            Some(WindowStage::Draining),
            None
        ]
    );
}

#[test]
fn offers_tell_what_is_planned_and_are_made_anew_when_that_changes() {
    let mut bench = Bench::new(None);
    bench.attach(1, "a");
    bench.attach(2, "b");
    bench.subscribe(3, None);
    bench.tick(1100);
    assert!(
        bench
            .offers()
            .iter()
            .all(|offer| offer.unavailability.is_none())
    );
    // By agent, what is told of it.
    let told = |bench: &mut Bench, now| {
        bench.tick(now);
        let offers = bench.offers().into_iter();
        let told = offers.map(|offer| (offer.agent_id.to_string(), offer.unavailability));
        told.collect::<Vec<_>>()
    };
    let planned = |drains_at_ms, ends_at_ms| {
        Some(Box::new(Unavailability {
            window: "w".parse().unwrap(),
            starts_at_ms: 50_000,
            drains_at_ms,
            ends_at_ms,
        }))
    };
    let rescinded = |bench: &mut Bench| {
        let rescinds = |event: &ToFramework| matches!(event, ToFramework::Rescind(_));
        bench
            .to_frameworks
            .iter()
            .filter(|event| rescinds(event))
            .count()
    };
    let record = window("w", &["a"], 50_000, 60_000, Some(70_000));
    bench.operate(schedule(&record)).unwrap();
    assert_eq!(rescinded(&mut bench), 1, "that of b tells what is true");
    let again = told(&mut bench, 1200);
    assert_eq!(again, [("a".to_owned(), planned(60_000, Some(70_000)))]);

    // Planned otherwise.
    bench
        .operate(schedule(&window("w", &["a"], 50_000, 65_000, None)))
        .unwrap();
    let again = told(&mut bench, 1300);
    assert_eq!(again, [("a".to_owned(), planned(65_000, None))]);
    // A new master knows it, too; and nothing is told of what was cancelled.
    bench
        .operate(Operation::CancelWindow("w".parse().unwrap()))
        .unwrap();
    assert_eq!(told(&mut bench, 1400), [("a".to_owned(), None)]);
    let restored = Windows::restore(vec![record], 1500);
    assert_eq!(
        restored.planned(&"a".parse().unwrap()),
        planned(60_000, Some(70_000))
    );
    assert_eq!(restored.planned(&"b".parse().unwrap()), None);
}

#[test]
fn what_an_operator_did_stays_done() {
    let mut bench = Bench::new(None);
    for (conn, id) in [(1, "a"), (2, "b"), (3, "c")] {
        bench.attach(conn, id);
    }
    let drain = |id: &str| Operation::DrainAgent {
        agent_id: id.parse().unwrap(),
        deadline: None,
        mark_gone: false,
    };
    bench.operate(drain("a")).unwrap();
    let record = window("w", &["a", "b", "c"], 1000, 1000, Some(9000));
    bench.operate(schedule(&record)).unwrap();
    assert!(bench.drained("a") && bench.drained("b") && bench.drained("c"));
    // One is drained once more, by an operator; one is put into service.
    bench.operate(drain("b")).unwrap();
    bench
        .operate(Operation::ActivateAgent("c".parse().unwrap()))
        .unwrap();
    bench.tick(2000);
    assert!(bench.drained("a") && bench.drained("b") && !bench.drained("c"));
    bench.tick(9000);
    assert!(bench.drained("a") && bench.drained("b") && !bench.drained("c"));
}

#[test]
fn a_new_master_goes_on_where_the_window_is() {
    let mut bench = Bench::new(None);
    bench.attach(1, "a");
    let record = window("w", &["a"], 1500, 3000, Some(5000));
    bench.operate(schedule(&record)).unwrap();
    for (now, drained) in [(2000, false), (3500, true), (4000, true), (5000, false)] {
        let saved = bench.store.saved();
        bench.core = Core::restore(Settings::from(&Config::default()), saved, now);
        bench.now = now;
        bench.attach(now, "a");
        bench.subscribe(now + 1, None);
        bench.feed(Event::Allocate(Pass::All));
        if now < 5000 {
            assert!(bench.offers().is_empty(), "offered at {now}");
        }
        bench.tick(now);
        assert_eq!(bench.drained("a"), drained, "at {now}");
    }
    assert!(bench.store.saved().windows.is_empty());
}

#[test]
fn windows_that_cannot_be_are_refused_with_the_reason() {
    let mut bench = Bench::new(None);
    bench.attach(1, "a");
    bench.attach(2, "b");
    bench
        .operate(schedule(&window("w", &["a"], 2000, 3000, None)))
        .unwrap();
    for (record, part) in [
        (window("v", &[], 2000, 3000, None), "no agent"),
        (window("v", &["b"], 3000, 2000, None), "in order"),
        (window("v", &["b"], 2000, 3000, Some(3000)), "in order"),
        (window("v", &["b"], 1, 2, Some(3)), "over"),
        (window("v", &["x"], 2000, 3000, None), "agent x"),
        (window("v", &["a", "b"], 2000, 3000, None), "in window w"),
    ] {
        let refused = bench.operate(schedule(&record)).unwrap_err();
        assert!(refused.to_string().contains(part), "{refused}");
    }
    // In its own place it may come again, for other agents; and go.
    bench
        .operate(schedule(&window("w", &["b"], 1000, 1000, None)))
        .unwrap();
    assert!(!bench.drained("a") && bench.drained("b"));
    bench
        .operate(schedule(&window("w", &["a", "b"], 1000, 9000, None)))
        .unwrap();
    assert!(!bench.drained("a") && !bench.drained("b"));
    let name: WindowName = "w".parse().unwrap();
    bench
        .operate(Operation::CancelWindow(name.clone()))
        .unwrap();
    let refused = bench.operate(Operation::CancelWindow(name)).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownWindow(_)), "{refused}");
}

#[test]
fn a_removed_agent_leaves_its_window() {
    let mut bench = Bench::new(None);
    bench.attach(1, "a");
    bench
        .operate(schedule(&window("w", &["a"], 1000, 9000, None)))
        .unwrap();
    bench.feed(Event::AgentDetached { conn: ConnId(1) });
    bench
        .operate(Operation::RemoveAgent("a".parse().unwrap()))
        .unwrap();
    assert!(bench.store.saved().windows.is_empty());
}

#[test]
fn only_so_many_agents_are_given_up_at_once_and_the_rest_are_shown() {
    let limit = LossLimit {
        count: 2,
        per_ms: 10_000,
    };
    let mut bench = Bench::new(Some(limit));
    for conn in 0..5 {
        bench.attach(conn, &format!("a{conn}"));
    }
    for conn in 0..5 {
        bench.now += 10;
        bench.feed(Event::AgentDetached { conn: ConnId(conn) });
    }
    let states = |bench: &mut Bench| -> (Vec<String>, Vec<String>) {
        let snapshot = bench.snapshot();
        let of = |fits: &dyn Fn(&crate::state::AgentView) -> bool| {
            let views = snapshot.agents.values().filter(|view| fits(view));
            views.map(|view| view.agent_id.to_string()).collect()
        };
        (
            of(&|view| view.state == AgentState::Unreachable),
            of(&|view| view.loss_waits_since_ms.is_some()),
        )
    };
    bench.tick(30_000);
    // The longest away first.
    assert_eq!(
        states(&mut bench),
        (
            vec!["a0".into(), "a1".into()],
            vec!["a2".into(), "a3".into(), "a4".into()]
        )
    );
    // One comes back in time, and was never lost.
    bench.attach(7, "a2");
    bench.tick(39_999);
    assert_eq!(states(&mut bench).0.len(), 2);
    bench.tick(40_000);
    assert_eq!(
        states(&mut bench),
        (
            vec!["a0".into(), "a1".into(), "a3".into(), "a4".into()],
            vec![]
        )
    );
    let lost = |notice: &&Notice| {
        matches!(
            notice,
            Notice::Agent {
                change: AgentChange::Unreachable,
                ..
            }
        )
    };
    assert_eq!(bench.notices.iter().filter(lost).count(), 4);
}
