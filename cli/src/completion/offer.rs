//! What of all that servers named is offered for a word. Pure.

use std::collections::HashMap;

use super::kind::Kind;

/// What servers named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) names: Vec<String>,
    /// Other names of the same, which nobody types from the beginning.
    pub(super) ids: Vec<String>,
}

impl Found {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self {
            names: names.into_iter().collect(),
            ids: Vec::new(),
        }
    }

    /// Of pairs of an id and a name: a name that several have, or that cannot be offered, names none of them.
    pub(super) fn by_name(pairs: Vec<(String, String)>) -> Self {
        let mut n_of: HashMap<&str, usize> = HashMap::new();
        for (_, name) in &pairs {
            *n_of.entry(name).or_default() += 1;
        }
        let is_good = |name: &str| is_plain(name) && n_of.get(name) == Some(&1);
        let named = pairs.iter().map(|(id, name)| match is_good(name) {
            true => name.clone(),
            false => id.clone(),
        });
        Self {
            names: named.collect(),
            ids: pairs.iter().map(|(id, _)| id.clone()).collect(),
        }
    }
}

/// Those that `typed` is the beginning of, in order, as they are written on a line.
pub(super) fn fitting(kind: Kind, found: Found, typed: &str) -> Vec<String> {
    let Found { names, ids } = found;
    let mut all = names;
    if !typed.is_empty() {
        all.extend(ids);
    }
    let is_path = matches!(kind, Kind::App | Kind::AppOrFile | Kind::Pod | Kind::Group);
    let mut fitting: Vec<String> = all
        .iter()
        .filter(|one| is_plain(one))
        .map(|one| match one.strip_prefix('/') {
            // `shop/cart` is as good as `/shop/cart`.
            Some(rest) if is_path && !typed.is_empty() && !typed.starts_with('/') => rest,
            Some(_) | None => one,
        })
        .filter(|one| one.starts_with(typed) && !one.is_empty())
        .map(|one| match kind == Kind::TaskPath {
            true => format!("{one}:"),
            false => one.to_owned(),
        })
        .collect();
    fitting.sort_unstable();
    fitting.dedup();
    fitting
}

/// Whether every shell takes it as one word, as it is. Ids are chosen by others, and not every shell quotes what is
/// completed: `$(reboot)` would run with the line.
fn is_plain(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next();
    first.is_some_and(|c| c.is_alphanumeric() || matches!(c, '/' | '_' | '.'))
        && chars.all(|c| c.is_alphanumeric() || "/_.:@%+=-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, names: &[&str], typed: &str, expected: &[&str]) {
        let found = Found::new(names.iter().map(|&name| name.to_owned()));
        assert_eq!(fitting(kind, found, typed), expected, "{kind:?} {typed}");
    }

    #[test]
    fn a_path_is_offered_with_its_slash_or_without_as_it_was_begun() {
        let apps = ["/sleep", "/shop/cart", "/api"];
        check(Kind::App, &apps, "", &["/api", "/shop/cart", "/sleep"]);
        check(Kind::App, &apps, "/s", &["/shop/cart", "/sleep"]);
        check(Kind::App, &apps, "s", &["shop/cart", "sleep"]);
        check(Kind::App, &apps, "x", &[]);
        check(Kind::Group, &["/", "/shop"], "sh", &["shop"]);
        check(Kind::Group, &["/", "/shop"], "", &["/", "/shop"]);
    }

    #[test]
    fn what_a_shell_might_take_for_something_else_is_not_offered() {
        let hostile = [
            "",
            "a b",
            "a\tb",
            "a\nb",
            "\u{1b}[2Jx",
            "$(reboot)",
            "`x`",
            "a;b",
            "a|b",
            "a&b",
            "*",
            "-rf",
            "~root",
            "a'b",
            "a\"b",
            "a\\b",
            "{a,b}",
            "a>b",
            "!x",
            "#x",
            "a\u{202e}b",
            "a\u{a0}b",
            "(x)",
            "=x",
            "good",
        ];
        check(Kind::Role, &hostile, "", &["good"]);
    }

    #[test]
    fn a_task_in_a_path_ends_with_a_colon() {
        check(
            Kind::TaskPath,
            &["web.1", "web.2"],
            "web",
            &["web.1:", "web.2:"],
        );
        check(Kind::TaskPath, &["web.1"], "web.1:/et", &[]);
    }

    #[test]
    fn an_id_is_offered_where_it_is_begun_or_where_a_name_is_not_enough() {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            Found::by_name(
                pairs
                    .map(|&(id, name)| (id.to_owned(), name.to_owned()))
                    .collect(),
            )
        };
        let nodes = pairs(&[
            ("7be1", "n1"),
            ("8cf2", "n2"),
            ("9aa3", "n2"),
            ("5dd4", "n 3"),
        ]);
        assert_eq!(
            fitting(Kind::Node, nodes.clone(), ""),
            ["5dd4", "8cf2", "9aa3", "n1"]
        );
        assert_eq!(fitting(Kind::Node, nodes.clone(), "7"), ["7be1"]);
        assert_eq!(fitting(Kind::Node, nodes, "n"), ["n1"]);
    }
}
