//! Which job waits for which: cycles are found before they are made, and the whole is drawn.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::name::JobName;
use super::state::{Jobs, Phase};

/// The cycle that there would be if `name` had these parents, from it and back to it; `None` if there is none.
#[must_use]
pub fn cycle(jobs: &Jobs, name: &JobName, parents: &BTreeSet<JobName>) -> Option<Vec<JobName>> {
    // From the parents up; where one was reached from, to tell the way.
    let mut reached: BTreeMap<&JobName, &JobName> = BTreeMap::new();
    let mut open: Vec<(&JobName, &JobName)> = parents.iter().map(|parent| (parent, name)).collect();
    while let Some((job, from)) = open.pop() {
        if job == name {
            let mut way = vec![name.clone()];
            let mut at = from;
            while at != name {
                way.push(at.clone());
                at = reached.get(at).copied()?;
            }
            way.push(name.clone());
            return Some(way);
        }
        if reached.contains_key(job) {
            continue;
        }
        reached.insert(job, from);
        let above = jobs.get(job).and_then(|state| state.job.parents());
        open.extend(above.into_iter().flatten().map(|parent| (parent, job)));
    }
    None
}

/// The jobs that wait for each.
#[must_use]
pub fn children(jobs: &Jobs) -> BTreeMap<JobName, BTreeSet<JobName>> {
    let mut children: BTreeMap<JobName, BTreeSet<JobName>> = BTreeMap::new();
    for (name, state) in jobs {
        for parent in state.job.parents().into_iter().flatten() {
            children
                .entry(parent.clone())
                .or_default()
                .insert(name.clone());
        }
    }
    children
}

/// How the latest run that began ended: Chronos' words.
#[must_use]
pub fn status(state: &super::state::JobState) -> &'static str {
    match (state.tally.last_success, state.tally.last_failure) {
        (None, None) => "fresh",
        (Some(success), failure) if failure.is_none_or(|failure| success >= failure) => "success",
        (Some(_) | None, _) => "failure",
    }
}

/// What it does now: Chronos' words.
#[must_use]
pub fn activity(state: &super::state::JobState) -> String {
    let running = state
        .under_way()
        .filter(|run| run.launch().is_some())
        .count();
    if running > 0 {
        return format!("{running} running");
    }
    let queued = state
        .under_way()
        .any(|run| matches!(run.phase, Phase::Waiting { .. } | Phase::Delayed { .. }));
    if queued {
        "queued".to_owned()
    } else {
        "idle".to_owned()
    }
}

/// For Graphviz.
#[must_use]
pub fn dot(jobs: &Jobs) -> String {
    let mut text = String::from("digraph {\n");
    for (name, state) in jobs {
        let _ = writeln!(text, "  \"{name}\"");
        for parent in state.job.parents().into_iter().flatten() {
            let _ = writeln!(text, "  \"{parent}\" -> \"{name}\"");
        }
    }
    text.push_str("}\n");
    text
}

/// As Chronos writes it: `node,NAME,LAST,NOW` and `link,PARENT,CHILD`.
#[must_use]
pub fn csv(jobs: &Jobs) -> String {
    let mut text = String::new();
    for (name, state) in jobs {
        let _ = writeln!(text, "node,{name},{},{}", status(state), activity(state));
    }
    for (name, state) in jobs {
        for parent in state.job.parents().into_iter().flatten() {
            let _ = writeln!(text, "link,{parent},{name}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::parse::{Kind, parse_job};
    use crate::jobs::state::JobState;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn jobs(edges: &[(&str, &[&str])]) -> Jobs {
        edges
            .iter()
            .map(|(name, parents)| {
                let body = json!({"name": name, "parents": parents, "container": {"image": "x"}});
                let job = parse_job(&body, None, Kind::Any, 0).0.expect("valid");
                (job.name.clone(), Arc::new(JobState::new(Arc::new(job))))
            })
            .collect()
    }

    fn names(names: &[&str]) -> BTreeSet<JobName> {
        names
            .iter()
            .map(|name| name.parse().expect("valid"))
            .collect()
    }

    #[test]
    fn a_cycle_is_named_from_end_to_end() {
        let jobs = jobs(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &["b"])]);
        let a: JobName = "a".parse().expect("valid");
        let way = cycle(&jobs, &a, &names(&["c"])).expect("a cycle");
        let way: Vec<&str> = way.iter().map(JobName::as_str).collect();
        assert_eq!(way, ["a", "b", "c", "a"]);
        let d: JobName = "d".parse().expect("valid");
        assert_eq!(cycle(&jobs, &d, &names(&["a", "c"])), None);
    }

    #[test]
    fn the_graph_is_written_as_chronos_does() {
        let jobs = jobs(&[("a", &[]), ("b", &["a"])]);
        assert_eq!(
            dot(&jobs),
            "digraph {\n  \"a\"\n  \"b\"\n  \"a\" -> \"b\"\n}\n"
        );
        assert_eq!(
            csv(&jobs),
            "node,a,fresh,idle\nnode,b,fresh,idle\nlink,a,b\n"
        );
    }

    proptest! {
        #[test]
        fn edges_that_are_let_in_never_make_a_cycle(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..40)) {
            let mut parents: BTreeMap<String, Vec<String>> = (0..8).map(|i| (format!("j{i}"), vec![])).collect();
            for (child, parent) in edges {
                let (child, parent) = (format!("j{child}"), format!("j{parent}"));
                let shape: Vec<(&str, Vec<&str>)> =
                    parents.iter().map(|(name, of)| (name.as_str(), of.iter().map(String::as_str).collect())).collect();
                let shape: Vec<(&str, &[&str])> = shape.iter().map(|(name, of)| (*name, of.as_slice())).collect();
                let name: JobName = child.parse().expect("valid");
                if cycle(&jobs(&shape), &name, &names(&[&parent])).is_none() {
                    parents.get_mut(&child).expect("there").push(parent);
                }
            }
            // Taking away whatever has no parents left must take away all.
            while !parents.is_empty() {
                let free: Vec<String> =
                    parents.iter().filter(|(_, of)| of.is_empty()).map(|(name, _)| name.clone()).collect();
                prop_assert!(!free.is_empty(), "{parents:?}");
                parents.retain(|name, _| !free.contains(name));
                for of in parents.values_mut() {
                    of.retain(|parent| !free.contains(parent));
                }
            }
        }
    }
}
