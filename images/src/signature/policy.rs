//! The policy file: which keys may sign for which repositories.
//!
//! ```toml
//! default = "reject"                 # for what no [[policy]] names; "accept" lets it pass unsigned
//!
//! [[policy]]
//! repositories = ["registry.example/team/*", "docker.io/library/redis"]
//! keys = ["/etc/mezzo/keys/team.pub"]
//! ```
//!
//! A repository is named exactly, or with all beneath it by `/*`. Where several name one, the most exact counts, so
//! that the order in the file means nothing. One good signature by any of its keys is enough. All that is wrong with
//! a file is told at once, each with its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::key::PublicKey;
use crate::manifest::shorten;
use crate::reference::Reference;
use crate::store::content::read_bounded;

const MAX_FILE: u64 = 1 << 20;
const MAX_KEY_FILE: u64 = 64 << 10;

/// Problems that are told at once: a message goes into statuses of tasks.
const MOST_TOLD: usize = 8;

/// All that is wrong with a policy file, each with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem(Vec<String>);

impl std::fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = &self.0[..self.0.len().min(MOST_TOLD)];
        f.write_str(&told.join("; "))?;
        match self.0.len() - told.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// A checked policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The file, for messages.
    pub(crate) file: String,
    accept_others: bool,
    scopes: BTreeMap<Scope, Vec<PublicKey>>,
}

/// What a policy asks of one image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Requirement<'a> {
    /// Nothing.
    Nothing,
    /// A signature by one of these.
    SignedBy(&'a [PublicKey]),
    /// It may not run at all.
    Refused,
}

/// `registry/repository`, alone or with all beneath it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Scope {
    name: String,
    beneath: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    #[serde(default)]
    default: Others,
    #[serde(default)]
    policy: Vec<RawScope>,
}

/// What becomes of images that no policy names.
#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Others {
    Accept,
    /// Who forgets the line is on the safe side.
    #[default]
    Reject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScope {
    repositories: Vec<String>,
    keys: Vec<PathBuf>,
}

impl Policy {
    /// Reads a policy and its keys. Blocks.
    pub(crate) fn read(path: &Path) -> Result<Self, PolicyProblem> {
        let bytes = read_bounded(path, MAX_FILE).map_err(|e| PolicyProblem(vec![e.to_string()]))?;
        let text = String::from_utf8(bytes).map_err(|e| PolicyProblem(vec![e.to_string()]))?;
        Self::parse(&text, path, &|key| {
            read_bounded(key, MAX_KEY_FILE).map_err(|e| e.to_string())
        })
    }

    /// Checks a policy's text; `read_key` gives the keys' files.
    pub(crate) fn parse(
        text: &str,
        path: &Path,
        read_key: &dyn Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Self, PolicyProblem> {
        let raw: RawPolicy = toml::from_str(text).map_err(|error| {
            let line = error.span().and_then(|span| text.get(..span.start));
            let line = line.map_or(1, |before| before.matches('\n').count() + 1);
            PolicyProblem(vec![format!("line {line}: {}", shorten(error.message()))])
        })?;
        let mut problems = Vec::new();
        let mut scopes = BTreeMap::new();
        for (at, scope) in raw.policy.iter().enumerate() {
            let mut keys: Vec<PublicKey> = Vec::new();
            for (n, key) in scope.keys.iter().enumerate() {
                let read = if key.is_absolute() {
                    read_key(key).and_then(|pem| PublicKey::from_pem(&pem))
                } else {
                    Err("give an absolute path".into())
                };
                match read {
                    Ok(key) => keys.push(key),
                    Err(problem) => {
                        let key = shorten(&key.display().to_string());
                        problems.push(format!("policy[{at}].keys[{n}] = {key:?}: {problem}"));
                    }
                }
            }
            if scope.keys.is_empty() {
                problems.push(format!(
                    "policy[{at}].keys is empty, so that nothing could ever pass: name a key"
                ));
            }
            if scope.repositories.is_empty() {
                problems.push(format!("policy[{at}].repositories is empty: name one, such as \"registry.example/team/*\""));
            }
            for (n, name) in scope.repositories.iter().enumerate() {
                let place = format!("policy[{at}].repositories[{n}] = {:?}", shorten(name));
                match Scope::parse(name) {
                    Err(problem) => problems.push(format!("{place}: {problem}")),
                    Ok(scope) => {
                        if scopes.insert(scope, keys.clone()).is_some() {
                            problems.push(format!(
                                "{place} stands here twice: put all its keys into one [[policy]]"
                            ));
                        }
                    }
                }
            }
        }
        if problems.is_empty() {
            Ok(Self {
                file: path.display().to_string(),
                accept_others: raw.default == Others::Accept,
                scopes,
            })
        } else {
            Err(PolicyProblem(problems))
        }
    }

    /// What is asked of the images of a repository.
    pub(crate) fn requirement(&self, reference: &Reference) -> Requirement<'_> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let exact = Scope {
            name: name.clone(),
            beneath: false,
        };
        if let Some(keys) = self.scopes.get(&exact) {
            return Requirement::SignedBy(keys);
        }
        let above = name.rmatch_indices('/').map(|(at, _)| &name[..at]);
        for above in above {
            let scope = Scope {
                name: above.into(),
                beneath: true,
            };
            if let Some(keys) = self.scopes.get(&scope) {
                return Requirement::SignedBy(keys);
            }
        }
        if self.accept_others {
            Requirement::Nothing
        } else {
            Requirement::Refused
        }
    }
}

impl Scope {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, beneath) = match text.strip_suffix("/*") {
            Some(name) => (name, true),
            None => (text, false),
        };
        // With something beneath it, a registry alone is a repository's beginning as well.
        let probe = if beneath {
            format!("{name}/x")
        } else {
            name.to_string()
        };
        let parsed: Reference = probe.parse().map_err(|e| format!("{e}"))?;
        let full = format!("{}/{}", parsed.registry(), parsed.repository());
        if full != probe {
            return Err(format!(
                "write it in full, with its registry: {:?}",
                full_scope(&full, beneath)
            ));
        }
        Ok(Self {
            name: name.into(),
            beneath,
        })
    }
}

fn full_scope(full: &str, beneath: bool) -> String {
    match full.strip_suffix("/x") {
        Some(above) if beneath => format!("{above}/*"),
        Some(_) | None => full.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAQnY03HaO75tDraJoRi3cOqY8ZB6J03cfDh/kConIR/g=\n\
        -----END PUBLIC KEY-----\n";

    fn parse(text: &str) -> Result<Policy, String> {
        let read = |path: &Path| match path.to_str() {
            Some("/keys/good.pub" | "/keys/other.pub") => Ok(KEY.into()),
            Some("/keys/bad.pub") => Ok(b"nothing".to_vec()),
            Some(_) | None => Err("no such file".into()),
        };
        Policy::parse(text, Path::new("/p.toml"), &read).map_err(|problem| problem.to_string())
    }

    fn asked(policy: &Policy, image: &str) -> &'static str {
        match policy.requirement(&image.parse().unwrap()) {
            Requirement::Nothing => "nothing",
            Requirement::SignedBy(keys) if keys.len() == 2 => "one of two keys",
            Requirement::SignedBy(_) => "the key",
            Requirement::Refused => "refused",
        }
    }

    #[test]
    fn the_most_exact_scope_counts_whatever_the_order() {
        let policy = parse(
            "default = 'accept'\n[[policy]]\nrepositories = ['r.example/*', 'docker.io/library/redis']\nkeys = ['/keys/good.pub']\n\
             [[policy]]\nrepositories = ['r.example/team/*', 'r.example/a/b']\nkeys = ['/keys/good.pub', '/keys/other.pub']\n",
        )
        .unwrap();
        for (image, wanted) in [
            ("r.example/x:1", "the key"),
            ("r.example/team/app", "one of two keys"),
            ("r.example/team/deep/app:2", "one of two keys"),
            ("r.example/team", "the key"),
            ("r.example/teams/app", "the key"),
            ("r.example/a/b", "one of two keys"),
            ("r.example/a/b/c", "the key"),
            ("redis", "the key"),
            ("index.docker.io/library/redis:7", "the key"),
            ("busybox", "nothing"),
            ("r.example:5000/x", "nothing"),
            ("evil.r.example/x", "nothing"),
        ] {
            assert_eq!(asked(&policy, image), wanted, "{image}");
        }
    }

    #[test]
    fn what_nobody_named_is_refused_unless_the_file_says_otherwise() {
        assert_eq!(asked(&parse("").unwrap(), "busybox"), "refused");
        assert_eq!(
            asked(&parse("default = 'reject'").unwrap(), "busybox"),
            "refused"
        );
        assert_eq!(
            asked(&parse("default = 'accept'").unwrap(), "busybox"),
            "nothing"
        );
    }

    #[test]
    fn all_problems_are_told_each_with_its_place() {
        let told = parse(
            "[[policy]]\nrepositories = ['team/*', 'r.example/A', 'r.example/x']\nkeys = ['/keys/none.pub', '/keys/bad.pub', 'relative']\n\
             [[policy]]\nrepositories = []\nkeys = []\n[[policy]]\nrepositories = ['r.example/x']\nkeys = ['/keys/good.pub']\n",
        )
        .unwrap_err();
        for part in [
            "policy[0].repositories[0] = \"team/*\": write it in full, with its registry: \"docker.io/team/*\"",
            "policy[0].repositories[1] = \"r.example/A\"",
            "policy[0].keys[0] = \"/keys/none.pub\": no such file",
            "policy[0].keys[1] = \"/keys/bad.pub\": it holds no",
            "policy[0].keys[2] = \"relative\": give an absolute path",
            "policy[1].keys is empty",
            "policy[1].repositories is empty",
            "policy[2].repositories[0] = \"r.example/x\" stands here twice",
        ] {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_refused() {
        let told = parse("default = 'accept'\n[[policy]]\nrepos = ['r.example/x']\n").unwrap_err();
        assert!(told.starts_with("line 3: unknown field `repos`"), "{told}");
        for text in [
            "defualt = 'accept'",
            "default = 'maybe'",
            "[[policy]]\nkeys = ['/keys/good.pub']",
            "[[policies]]",
            "x",
        ] {
            assert!(parse(text).is_err(), "{text} was accepted");
        }
        for scope in [
            "*",
            "/*",
            "r.example/*/x",
            "r.example/x:1",
            "r.example/../x",
            "r.example/x@sha256:00",
            "r.example/**",
        ] {
            let text = format!("[[policy]]\nrepositories = ['{scope}']\nkeys = ['/keys/good.pub']");
            assert!(parse(&text).is_err(), "{scope} was accepted");
        }
    }
}
