//! The history of a cluster under faults, and the rules that it must keep. Pure: what was seen goes in, the first
//! broken rule comes out with the events that break it.
//!
//! Three witnesses who do not trust each other: the kernels (which processes really ran, look by look), the scheduler
//! (which statuses it was told, in order), and the agents' disks (which statuses are written there).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// One process of a task, on one machine: an identity that no other process ever has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// `MESOS_TASK_ID`.
    pub task: String,
    /// `MARATHON_APP_ID`.
    pub app: String,
    /// Which machine.
    pub machine: String,
    /// How often it had been switched on.
    pub boot: u32,
    /// There.
    pub pid: i32,
    /// Clock ticks after its boot.
    pub started: u64,
}

/// All machines that answered were looked at, one after the other, from `at` on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Since the history begins.
    pub at: Duration,
    /// What ran.
    pub seen: Vec<Seen>,
    /// Machines that the master cannot reach: what runs there does not count against an app's limit, because
    /// replacing it is what the app asks for.
    pub cut_off: BTreeSet<String>,
}

/// A status of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whose.
    pub task: String,
    /// "TASK_RUNNING".
    pub state: String,
    /// Given by the agent; none for what the master makes up.
    pub update: Option<String>,
}

impl Status {
    /// Nothing may follow it.
    pub fn is_terminal(&self) -> bool {
        const TERMINAL: [&str; 6] = [
            "TASK_FINISHED",
            "TASK_FAILED",
            "TASK_KILLED",
            "TASK_ERROR",
            "TASK_DROPPED",
            "TASK_GONE",
        ];
        TERMINAL.contains(&self.state.as_str())
    }
}

/// What happened, as the witnesses tell it.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In order.
    pub looks: Vec<Look>,
    /// To the scheduler, in the order of their coming, repetitions included.
    pub told: Vec<Status>,
    /// On the agents' disks in the end, in each task's order. All machines must be there to be asked.
    pub written: BTreeMap<String, Vec<Status>>,
    /// From that time on never more than so many of an app at once.
    pub allowed: Vec<(Duration, String, usize)>,
    /// Thousandths of processors that a task of an app holds.
    pub cpu_millis: BTreeMap<String, u64>,
    /// Thousandths of processors that each machine offers.
    pub capacity_millis: u64,
}

/// A rule is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: &'static str,
    /// Whether what is still under way may mend it; the past stays broken.
    pub may_heal: bool,
    /// The events, a line each.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}", self.rule)?;
        self.history
            .iter()
            .try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Violation {}

/// What was checked, for a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Looks at all machines.
    pub looks: usize,
    /// Tasks that any witness knows.
    pub tasks: usize,
    /// Statuses that the scheduler was told, repetitions left out.
    pub statuses: usize,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            looks,
            tasks,
            statuses,
        } = self;
        write!(f, "{tasks} tasks, {statuses} statuses, {looks} looks")
    }
}

impl History {
    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// The first that is broken.
    pub fn check(&self) -> Result<Checked, Violation> {
        self.one_process_per_task()?;
        self.never_more_than_allowed()?;
        self.nothing_is_given_twice()?;
        self.one_end_per_task()?;
        self.what_was_told_is_written()?;
        self.what_is_written_was_told_in_order()?;
        let seen = self.looks.iter().flat_map(|look| &look.seen);
        let tasks = seen.map(|one| &one.task);
        let tasks = tasks.chain(self.told.iter().map(|status| &status.task));
        Ok(Checked {
            looks: self.looks.len(),
            tasks: tasks.collect::<BTreeSet<_>>().len(),
            statuses: self.told_once().count(),
        })
    }

    /// Statuses without their repetitions. Those that the master makes up have no id: a repetition of one is the same
    /// state again.
    fn told_once(&self) -> impl Iterator<Item = &Status> {
        let mut known = BTreeSet::new();
        self.told.iter().filter(move |status| {
            let id = status.update.as_ref().unwrap_or(&status.state);
            known.insert((&status.task, id))
        })
    }

    fn one_process_per_task(&self) -> Result<(), Violation> {
        let mut first: BTreeMap<&str, &Seen> = BTreeMap::new();
        for one in self.looks.iter().flat_map(|look| &look.seen) {
            let known = *first.entry(&one.task).or_insert(one);
            if known != one {
                return Err(Violation {
                    rule: "a task is launched at most once",
                    may_heal: false,
                    history: self.of_task(&one.task),
                });
            }
        }
        Ok(())
    }

    /// What was seen by two looks in a row ran at one moment between them, wherever it ran.
    fn together(&self) -> impl Iterator<Item = (&Look, Vec<&Seen>)> {
        self.looks.windows(2).map(|pair| {
            let after: BTreeSet<&Seen> = pair[1].seen.iter().collect();
            let both = pair[0].seen.iter().filter(|one| after.contains(one));
            (&pair[1], both.collect())
        })
    }

    fn never_more_than_allowed(&self) -> Result<(), Violation> {
        for (look, together) in self.together() {
            let mut n_of: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
            for one in together {
                if !look.cut_off.contains(&one.machine) {
                    n_of.entry(&one.app).or_default().push(one);
                }
            }
            for (app, running) in n_of {
                let applies =
                    |(at, of, _): &&(Duration, String, usize)| *at <= look.at && of == app;
                let allowed = self.allowed.iter().rev().find(applies);
                let Some((_, _, most)) = allowed else {
                    continue;
                };
                if running.len() > *most {
                    let at = look.at.as_secs_f64();
                    let mut history = vec![format!(
                        "{app}: {} at once {at:.1} s after the beginning, {most} allowed",
                        running.len()
                    )];
                    history.extend(running.iter().map(|one| tell(one)));
                    return Err(Violation {
                        rule: "never more instances of an app than its upgrade strategy allows",
                        may_heal: false,
                        history,
                    });
                }
            }
        }
        Ok(())
    }

    fn nothing_is_given_twice(&self) -> Result<(), Violation> {
        for (look, together) in self.together() {
            let mut used: BTreeMap<&str, (u64, Vec<&Seen>)> = BTreeMap::new();
            for one in together {
                let (sum, tasks) = used.entry(&one.machine).or_default();
                *sum += self.cpu_millis.get(&one.app).copied().unwrap_or(0);
                tasks.push(one);
            }
            for (machine, (sum, tasks)) in used {
                if sum > self.capacity_millis {
                    let at = look.at.as_secs_f64();
                    let mut history = vec![format!(
                        "{machine}: tasks hold {sum} of {} thousandths of a processor at {at:.1} s",
                        self.capacity_millis
                    )];
                    history.extend(tasks.iter().map(|one| tell(one)));
                    return Err(Violation {
                        rule: "no resource is given twice",
                        may_heal: false,
                        history,
                    });
                }
            }
        }
        Ok(())
    }

    fn one_end_per_task(&self) -> Result<(), Violation> {
        let running = self.looks.last().map(|look| &look.seen);
        let running: BTreeSet<&str> = running
            .into_iter()
            .flatten()
            .map(|one| one.task.as_str())
            .collect();
        // An end is told by the agent and, when somebody asks or an agent comes back, by the master in its own words:
        // the same state, or it is another end.
        let mut ends: BTreeMap<&str, (BTreeSet<&str>, usize)> = BTreeMap::new();
        for status in self.told_once() {
            let (states, n_updates) = ends.entry(&status.task).or_default();
            if status.is_terminal() {
                states.insert(&status.state);
                *n_updates += usize::from(status.update.is_some());
            }
        }
        for (task, (states, n_updates)) in ends {
            let (rule, may_heal) = match (states.len(), running.contains(task)) {
                (1, false) if n_updates <= 1 => continue,
                (0, true) => continue,
                (0, false) => ("a task that no longer runs has an end that was told", true),
                (1, true) => ("a task that was told to have ended does not run", true),
                (_, _) => ("a task ends once", false),
            };
            return Err(Violation {
                rule,
                may_heal,
                history: self.of_task(task),
            });
        }
        Ok(())
    }

    fn what_was_told_is_written(&self) -> Result<(), Violation> {
        for status in &self.told {
            let Some(update) = &status.update else {
                continue;
            };
            let written = match self.written.get(&status.task) {
                Some(written) => written,
                // What could not even be begun for want of a disk is told without one.
                None if status.state != "TASK_RUNNING" => continue,
                None => &Vec::new(),
            };
            if !written
                .iter()
                .any(|known| known.update.as_ref() == Some(update))
            {
                return Err(Violation {
                    rule: "a status is on the agent's disk before it is told",
                    may_heal: false,
                    history: self.of_task(&status.task),
                });
            }
        }
        Ok(())
    }

    fn what_is_written_was_told_in_order(&self) -> Result<(), Violation> {
        // Gathered once: a long history has thousands of tasks.
        let mut told: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for status in self.told_once() {
            let of_task = told.entry(&status.task).or_default();
            of_task.extend(status.update.as_ref());
        }
        for (task, written) in &self.written {
            let told = told.get(task.as_str()).map_or(&[][..], Vec::as_slice);
            let written: Vec<_> = written
                .iter()
                .filter_map(|one| one.update.as_ref())
                .collect();
            if told != written {
                return Err(Violation {
                    rule: "no status is lost or overtakes another",
                    may_heal: true,
                    history: self.of_task(task),
                });
            }
        }
        Ok(())
    }

    /// All that the witnesses tell of a task.
    fn of_task(&self, task: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut before: Vec<&Seen> = Vec::new();
        for look in &self.looks {
            let now: Vec<&Seen> = look.seen.iter().filter(|one| one.task == task).collect();
            if now != before {
                let told: Vec<String> = now.iter().map(|one| tell(one)).collect();
                let told = if told.is_empty() {
                    "runs nowhere".to_owned()
                } else {
                    told.join("; ")
                };
                lines.push(format!("{:6.1} s  {told}", look.at.as_secs_f64()));
            }
            before = now;
        }
        let tell_status = |witness: &str, status: &Status| {
            let update = status.update.as_deref().unwrap_or("the master's own");
            format!("{witness}  {task} {} ({update})", status.state)
        };
        let told = self.told.iter().filter(|status| status.task == task);
        lines.extend(told.map(|status| tell_status("told    ", status)));
        let written = self.written.get(task).into_iter().flatten();
        lines.extend(written.map(|status| tell_status("on disk ", status)));
        lines
    }
}

fn tell(one: &Seen) -> String {
    format!(
        "{} on {} (boot {}) as process {}, started at tick {}",
        one.task, one.machine, one.boot, one.pid, one.started
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(task: &str, machine: &str, pid: i32) -> Seen {
        Seen {
            task: task.to_owned(),
            app: "/a".to_owned(),
            machine: machine.to_owned(),
            boot: 1,
            pid,
            started: 7,
        }
    }

    fn look(at: u64, seen: &[Seen]) -> Look {
        Look {
            at: Duration::from_secs(at),
            seen: seen.to_vec(),
            cut_off: BTreeSet::new(),
        }
    }

    fn status(task: &str, state: &str, update: Option<&str>) -> Status {
        Status {
            task: task.to_owned(),
            state: state.to_owned(),
            update: update.map(str::to_owned),
        }
    }

    /// Two tasks; one of them ends and is told, with a repetition, the other runs on.
    fn sound() -> History {
        let (one, two) = (seen("t1", "m1", 1), seen("t2", "m2", 2));
        let running = |task, id| status(task, "TASK_RUNNING", Some(id));
        let end = status("t1", "TASK_FINISHED", Some("u2"));
        History {
            looks: vec![
                look(1, &[one.clone(), two.clone()]),
                look(2, &[one, two.clone()]),
                look(3, &[two]),
            ],
            told: vec![
                running("t1", "u1"),
                running("t2", "v1"),
                end.clone(),
                end.clone(),
            ],
            written: BTreeMap::from([
                ("t1".to_owned(), vec![running("t1", "u1"), end]),
                ("t2".to_owned(), vec![running("t2", "v1")]),
            ]),
            allowed: vec![(Duration::ZERO, "/a".to_owned(), 2)],
            cpu_millis: BTreeMap::from([("/a".to_owned(), 500)]),
            capacity_millis: 500,
        }
    }

    #[track_caller]
    fn breaks(history: &History, rule: &str) -> Vec<String> {
        let broken = history.check().expect_err("a broken rule");
        assert!(broken.rule.contains(rule), "{broken}");
        broken.history
    }

    #[test]
    fn a_sound_history_passes() {
        let checked = sound().check().expect("sound");
        assert_eq!(checked.to_string(), "2 tasks, 3 statuses, 3 looks");
        assert!(History::default().check().is_ok());
    }

    #[test]
    fn a_second_process_of_a_task_is_found() {
        let mut history = sound();
        history.looks[2].seen.push(seen("t1", "m2", 9));
        let told = breaks(&history, "at most once");
        assert!(
            told.iter().any(|line| line.contains("process 9")),
            "{told:?}"
        );
        let mut history = sound();
        history.looks[2].seen[0].boot = 2;
        breaks(&history, "at most once");
    }

    #[test]
    fn one_instance_too_many_is_found_unless_its_machine_is_cut_off() {
        let mut history = sound();
        history
            .allowed
            .push((Duration::from_secs(2), "/a".to_owned(), 1));
        let told = breaks(&history, "upgrade strategy");
        assert!(told[0].contains("2 at once"), "{told:?}");
        history.looks[1].cut_off.insert("m1".to_owned());
        assert!(history.check().is_ok());
    }

    #[test]
    fn what_two_looks_saw_one_after_the_other_did_not_run_together() {
        let mut history = sound();
        history.allowed = vec![(Duration::ZERO, "/a".to_owned(), 1)];
        history.looks.remove(1);
        assert!(history.check().is_ok());
    }

    #[test]
    fn more_than_a_machine_has_is_found() {
        let mut history = sound();
        history.capacity_millis = 499;
        breaks(&history, "given twice");
    }

    #[test]
    fn ends_are_told_once_and_are_true() {
        let mut history = sound();
        history.told.push(status("t1", "TASK_GONE", None));
        breaks(&history, "ends once");
        let mut history = sound();
        history.told.push(status("t1", "TASK_FINISHED", Some("u3")));
        breaks(&history, "ends once");
        let mut history = sound();
        history.told.push(status("t1", "TASK_FINISHED", None));
        assert!(
            history.check().is_ok(),
            "the master repeats it in its own words"
        );
        let mut history = sound();
        history.told.push(status("t2", "TASK_GONE", None));
        breaks(&history, "does not run");
        let mut history = sound();
        history.looks[2].seen.clear();
        breaks(&history, "has an end");
    }

    #[test]
    fn what_is_told_before_it_is_on_disk_is_found() {
        let mut history = sound();
        let of_task = history.written.get_mut("t1").expect("t1");
        of_task.pop();
        let told = breaks(&history, "before it is told");
        assert!(told.iter().any(|line| line.contains("u2")), "{told:?}");
    }

    #[test]
    fn a_task_that_ran_and_is_on_no_disk_is_found() {
        let mut history = sound();
        history.written.remove("t2");
        breaks(&history, "before it is told");
        history.told[1].state = "TASK_FAILED".to_owned();
        history.looks.iter_mut().for_each(|look| {
            look.seen.retain(|one| one.task != "t2");
        });
        assert!(history.check().is_ok(), "it never began");
    }

    #[test]
    fn lost_and_overtaking_statuses_are_found() {
        let mut history = sound();
        history.told.remove(0);
        breaks(&history, "lost or overtakes");
        let mut history = sound();
        history.told.swap(0, 2);
        breaks(&history, "lost or overtakes");
    }
}
