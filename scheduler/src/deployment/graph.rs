//! The order in which a deployment takes apps that depend on each other.
//!
//! Pure. Only the apps that change take time; what lies between two of them still orders them.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::AppId;

/// Which apps each app depends on, directly.
pub type Edges = BTreeMap<AppId, BTreeSet<AppId>>;

/// Apps that depend on each other in a circle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Dependency graph has cyclic dependencies: {}", show(.0))]
pub struct Cycle(pub Vec<AppId>);

fn show(path: &[AppId]) -> String {
    let names: Vec<&str> = path.iter().map(AppId::as_str).collect();
    names.join(" -> ")
}

/// For each of `changed` how many steps with changes must come before it.
///
/// # Errors
///
/// When an app depends on itself through others.
pub fn levels(changed: &BTreeSet<AppId>, edges: &Edges) -> Result<BTreeMap<AppId, usize>, Cycle> {
    let mut known: BTreeMap<&AppId, usize> = BTreeMap::new();
    for start in changed {
        visit(start, changed, edges, &mut known)?;
    }
    Ok(changed
        .iter()
        .map(|app| (app.clone(), known.get(app).copied().unwrap_or(0)))
        .collect())
}

/// Depth first with a stack of its own: chains may be long.
fn visit<'a>(
    start: &'a AppId,
    changed: &BTreeSet<AppId>,
    edges: &'a Edges,
    known: &mut BTreeMap<&'a AppId, usize>,
) -> Result<(), Cycle> {
    if known.contains_key(start) {
        return Ok(());
    }
    let next_of = |app: &AppId| edges.get(app).into_iter().flatten();
    let mut stack = vec![(start, next_of(start), 0)];
    let mut open: BTreeSet<&AppId> = BTreeSet::from([start]);
    while let Some((app, rest, level)) = stack.last_mut() {
        let Some(next) = rest.next() else {
            let (app, level) = (*app, *level);
            known.insert(app, level);
            open.remove(app);
            stack.pop();
            if let Some((.., above)) = stack.last_mut() {
                *above = (*above).max(level + usize::from(changed.contains(app)));
            }
            continue;
        };
        if let Some(found) = known.get(next) {
            *level = (*level).max(found + usize::from(changed.contains(next)));
        } else if open.contains(next) {
            let begin = stack.iter().position(|(app, ..)| *app == next);
            let circle = stack.iter().skip(begin.unwrap_or(0));
            let mut circle: Vec<AppId> = circle.map(|(app, ..)| (*app).clone()).collect();
            circle.push(next.clone());
            return Err(Cycle(circle));
        } else {
            open.insert(next);
            stack.push((next, next_of(next), 0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(i: usize) -> AppId {
        format!("/a{i}").parse().expect("valid")
    }

    fn edges(list: &[(usize, usize)]) -> Edges {
        let mut edges = Edges::new();
        for (from, to) in list {
            edges.entry(id(*from)).or_default().insert(id(*to));
        }
        edges
    }

    #[test]
    fn what_is_depended_on_comes_first_also_through_what_stays() {
        let graph = edges(&[(3, 2), (2, 1), (3, 0)]);
        let all: BTreeSet<AppId> = (0..4).map(id).collect();
        let got = levels(&all, &graph).expect("no circle");
        assert_eq!(
            [got[&id(0)], got[&id(1)], got[&id(2)], got[&id(3)]],
            [0, 0, 1, 2]
        );
        let some = BTreeSet::from([id(1), id(3)]);
        let got = levels(&some, &graph).expect("no circle");
        assert_eq!([got[&id(1)], got[&id(3)]], [0, 1]);
    }

    #[test]
    fn a_circle_is_told_whole() {
        let graph = edges(&[(0, 1), (1, 2), (2, 1)]);
        let error = levels(&BTreeSet::from([id(0)]), &graph).expect_err("a circle");
        assert_eq!(
            error.to_string(),
            "Dependency graph has cyclic dependencies: /a1 -> /a2 -> /a1"
        );
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let list: Vec<(usize, usize)> = (0..20_000).map(|i| (i + 1, i)).collect();
        let last = BTreeSet::from([id(20_000)]);
        assert_eq!(
            levels(&last, &edges(&list)).expect("no circle")[&id(20_000)],
            0
        );
    }

    proptest! {
        #[test]
        fn every_dependency_is_on_an_earlier_level(list in proptest::collection::vec((0usize..12, 0usize..12), 0..30)) {
            // Only downwards: no circles.
            let list: Vec<(usize, usize)> = list.into_iter().filter(|(from, to)| from > to).collect();
            let graph = edges(&list);
            let all: BTreeSet<AppId> = (0..12).map(id).collect();
            let got = levels(&all, &graph).expect("no circle");
            for (from, to) in list {
                prop_assert!(got[&id(from)] > got[&id(to)]);
            }
        }
    }
}
