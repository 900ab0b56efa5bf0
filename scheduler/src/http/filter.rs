//! What a query string asks for: flags, `embed`, the filters of `/v2/apps`.
//!
//! Pure.

use std::collections::BTreeMap;

use crate::app::{Unknown, nearest};
use crate::core::state::AppState;

/// What `embed` may name of apps, behind `apps.`, `app.` or `group.apps.`. `counts` and `deployments` are always there.
const OF_APPS: &[&str] = &[
    "tasks",
    "counts",
    "deployments",
    "readiness",
    "lastTaskFailure",
    "failures",
    "taskStats",
];

/// What it may name of groups, behind `group.` or nothing.
const OF_GROUPS: &[&str] = &["groups", "apps", "pods"];

/// The pairs of a query string, repeated names allowed.
#[derive(Debug, Clone, Default)]
pub(super) struct Params(pub(super) Vec<(String, String)>);

impl Params {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// A flag, `default` if it is not there; there without a value it is set.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name)
            .map_or(default, |value| matches!(value, "" | "true" | "1"))
    }
}

/// Which parts of an app's answer that take room are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Embed {
    pub(crate) tasks: bool,
    pub(crate) last_task_failure: bool,
    pub(crate) readiness: bool,
    pub(crate) task_stats: bool,
}

impl Embed {
    /// All that a single app always has.
    pub(crate) const ALL: Self = Self {
        tasks: true,
        last_task_failure: true,
        readiness: true,
        task_stats: false,
    };

    /// Of a single app: that, and what is asked for beside it.
    pub(super) fn of_one(params: &Params) -> Self {
        Self {
            task_stats: Self::of(params).task_stats,
            ..Self::ALL
        }
    }

    /// `apps.tasks`, `app.tasks`, `group.apps.tasks`, ...
    pub(super) fn of(params: &Params) -> Self {
        let has = |wanted: &[&str]| {
            params.all("embed").any(|embed| {
                embed
                    .rsplit('.')
                    .next()
                    .is_some_and(|last| wanted.contains(&last))
            })
        };
        Self {
            tasks: has(&["tasks", "failures"]),
            last_task_failure: has(&["lastTaskFailure", "failures"]),
            readiness: has(&["tasks", "failures", "readiness"]),
            task_stats: has(&["taskStats"]),
        }
    }
}

/// The `embed`s that name nothing of apps, which have no effect.
pub(super) fn unknown_of_apps(params: &Params) -> Vec<Unknown> {
    unknown(params, is_of_apps, &of_apps("apps."))
}

/// The same of groups and what lies in them.
pub(super) fn unknown_of_groups(params: &Params) -> Vec<Unknown> {
    let is_known =
        |name: &str| OF_GROUPS.contains(&name.trim_start_matches("group.")) || is_of_apps(name);
    let mut known = of_apps("group.apps.");
    known.extend(OF_GROUPS.iter().map(|part| format!("group.{part}")));
    unknown(params, is_known, &known)
}

/// The same of the launch queue.
pub(super) fn unknown_of_queue(params: &Params) -> Vec<Unknown> {
    let known = "lastUnusedOffers";
    unknown(params, |name| name == known, &[known.to_owned()])
}

fn is_of_apps(name: &str) -> bool {
    let name = name.strip_prefix("group.").unwrap_or(name);
    let part = name
        .strip_prefix("apps.")
        .or_else(|| name.strip_prefix("app."));
    OF_APPS.contains(&part.unwrap_or(name))
}

fn of_apps(prefix: &str) -> Vec<String> {
    let full = OF_APPS.iter().map(|part| format!("{prefix}{part}"));
    full.collect()
}

fn unknown(params: &Params, is_known: impl Fn(&str) -> bool, known: &[String]) -> Vec<Unknown> {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let strange = params.all("embed").filter(|name| !is_known(name));
    strange
        .map(|name| Unknown {
            path: format!("embed={name}"),
            nearest: nearest(name, &known).map(|name| format!("embed={name}")),
        })
        .collect()
}

/// Whether `/v2/apps` with these filters shows the app.
pub(super) fn is_wanted(params: &Params, app: &AppState) -> bool {
    let spec = &app.current.app;
    let cmd = match &spec.run {
        crate::app::spec::Run::Shell(line) => line.as_str(),
        crate::app::spec::Run::Image | crate::app::spec::Run::Args(_) => "",
    };
    params
        .get("id")
        .is_none_or(|part| spec.id.as_str().contains(part))
        && params.get("cmd").is_none_or(|part| cmd.contains(part))
        && params
            .get("label")
            .is_none_or(|selector| matches_labels(selector, &spec.labels))
}

/// `a`, `a==b`, `a!=b`, `a in (b, c)`, `a notin (b, c)`, joined by commas.
fn matches_labels(selector: &str, labels: &BTreeMap<String, String>) -> bool {
    split_terms(selector).into_iter().all(|term| {
        if let Some((name, value)) = term.split_once("!=") {
            return labels
                .get(name.trim())
                .is_none_or(|have| have != value.trim());
        }
        if let Some((name, value)) = term.split_once("==") {
            return labels
                .get(name.trim())
                .is_some_and(|have| have == value.trim());
        }
        if let Some((head, set)) = term.split_once('(') {
            let set: Vec<&str> = set
                .trim_end()
                .trim_end_matches(')')
                .split(',')
                .map(str::trim)
                .collect();
            let head = head.trim();
            if let Some(name) = head.strip_suffix(" notin") {
                return labels
                    .get(name.trim())
                    .is_none_or(|have| !set.contains(&have.as_str()));
            }
            if let Some(name) = head.strip_suffix(" in") {
                return labels
                    .get(name.trim())
                    .is_some_and(|have| set.contains(&have.as_str()));
            }
        }
        labels.contains_key(term.trim())
    })
}

/// At commas outside parentheses.
fn split_terms(selector: &str) -> Vec<&str> {
    let (mut terms, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in selector.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embed_that_names_nothing_is_told_with_what_it_may_mean() {
        let asked = |names: &[&str]| {
            let pairs = names
                .iter()
                .map(|name| ("embed".to_owned(), (*name).to_owned()));
            Params(pairs.collect())
        };
        let good = asked(&[
            "apps.tasks",
            "app.counts",
            "group.apps.taskStats",
            "failures",
        ]);
        assert!(unknown_of_apps(&good).is_empty());
        assert!(Embed::of(&good).task_stats);
        let wrong = |path: &str, nearest: Option<&str>| Unknown {
            path: path.to_owned(),
            nearest: nearest.map(str::to_owned),
        };
        assert_eq!(
            unknown_of_apps(&asked(&["apps.taskStat", "group.groups"])),
            [
                wrong("embed=apps.taskStat", Some("embed=apps.taskStats")),
                wrong("embed=group.groups", None),
            ]
        );
        assert!(
            unknown_of_groups(&asked(&["group.groups", "group.pods", "group.apps.tasks"]))
                .is_empty()
        );
        assert_eq!(unknown_of_groups(&asked(&["group.zebra"])).len(), 1);
        assert!(unknown_of_queue(&asked(&["lastUnusedOffers"])).is_empty());
        assert_eq!(unknown_of_queue(&asked(&["apps.tasks"])).len(), 1);
    }

    #[test]
    fn label_selectors_are_those_of_marathon() {
        let labels = BTreeMap::from([
            ("env".to_owned(), "prod".to_owned()),
            ("tier".to_owned(), "web".to_owned()),
        ]);
        for (selector, want) in [
            ("env", true),
            ("zone", false),
            ("env==prod", true),
            ("env==test", false),
            ("env!=test", true),
            ("env in (test, prod)", true),
            ("env notin (test, prod)", false),
            ("env==prod,tier in (web,db)", true),
            ("env==prod,tier==db", false),
        ] {
            assert_eq!(matches_labels(selector, &labels), want, "{selector}");
        }
    }
}
