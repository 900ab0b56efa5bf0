//! The credentials file: principals, hashes of their secrets, and what each may do. Pure.
//!
//! ```toml
//! [[principal]]
//! name = "ops"
//! secret_sha256 = "…64 hexadecimal digits…"
//! allow = ["operate"]
//!
//! [[principal]]
//! name = "team-a"
//! secret_sha256 = "…"
//! allow = ["subscribe a", "subscribe a/*", "read"]
//! calls_per_sec = 200
//!
//! [anonymous]
//! allow = ["read"]
//! ```
//!
//! A rule is an action, or an action and what it may be done to: the same text, or a beginning with `*` behind it. `operate` is all
//! that operators do, `*` is everything. What no rule allows is refused; the order of rules does not count. Secrets are made by
//! mezzo with 256 bits of chance ([`new_credential`]), so that a plain hash of them tells nothing; one that a person thought of
//! would need another kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{Denied, Principal, action::Action, bucket::Rate};

/// What is wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidCredentials {
    /// Not TOML, or unknown keys.
    #[error("{0}")]
    Syntax(String),
    /// Everything that is wrong, with the principal.
    #[error("{}", .0.join("; "))]
    Content(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    principal: Vec<RawPrincipal>,
    #[serde(default)]
    anonymous: RawAnonymous,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrincipal {
    name: String,
    secret_sha256: String,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    calls_per_sec: u32,
    #[serde(default)]
    calls_burst: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnonymous {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    calls_per_sec: u32,
    #[serde(default)]
    calls_burst: u32,
}

/// The file, checked.
#[derive(Debug)]
pub(super) struct Policy {
    named: BTreeMap<Arc<str>, Rights>,
    anonymous: Rights,
}

#[derive(Debug)]
struct Rights {
    /// SHA-256 of the secret; of nobody for the anonymous.
    hash: [u8; 32],
    rules: Vec<Rule>,
    rate: Option<Rate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    actions: BTreeSet<Action>,
    object: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    Exactly(String),
    Begins(String),
}

impl Pattern {
    fn fits(&self, object: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(text) => text == object,
            Self::Begins(text) => object.starts_with(text.as_str()),
        }
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (Some(action), object, None) = (words.next(), words.next(), words.next()) else {
            return Err(format!("rule {text:?} is not `ACTION` or `ACTION OBJECT`"));
        };
        let named = Action::NAMED.into_iter();
        let actions: BTreeSet<Action> = match action {
            "*" => named.chain([Action::Unlisted]).collect(),
            "operate" => named.filter(|action| action.is_operators()).collect(),
            one => named.filter(|action| action.name() == one).collect(),
        };
        if actions.is_empty() {
            let known = Action::NAMED.map(Action::name).join(", ");
            return Err(format!(
                "rule {text:?} names no action; known are {known}, operate and *"
            ));
        }
        let object = match object {
            None | Some("*") => Pattern::Any,
            Some(text) => match text.strip_suffix('*') {
                Some(begin) => Pattern::Begins(begin.to_owned()),
                None => Pattern::Exactly(text.to_owned()),
            },
        };
        Ok(Self { actions, object })
    }
}

fn rules(whose: &str, allow: &[String], problems: &mut Vec<String>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for text in allow {
        match Rule::parse(text) {
            Ok(rule) => rules.push(rule),
            Err(problem) => problems.push(format!("{whose}: {problem}")),
        }
    }
    rules
}

fn check_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 255 && name.chars().all(plain) && name != "anonymous"
}

fn read_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// In a time that does not tell where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

impl Policy {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidCredentials> {
        let raw: RawFile = toml::from_str(text)
            .map_err(|error| InvalidCredentials::Syntax(error.to_string().trim().to_owned()))?;
        let mut problems = Vec::new();
        let mut named = BTreeMap::new();
        for (i, principal) in raw.principal.into_iter().enumerate() {
            let name = principal.name;
            let whose = format!("principal[{i}] ({name})");
            if !check_name(&name) {
                problems.push(format!(
                    "{whose}: `name` must be of letters, digits, `.`, `_`, `-`, and not `anonymous`"
                ));
            }
            let hash = read_hash(&principal.secret_sha256).unwrap_or_else(|| {
                problems.push(format!(
                    "{whose}: `secret_sha256` must be 64 hexadecimal digits; `mezzo master credential {name}` makes one"
                ));
                [0; 32]
            });
            let rights = Rights {
                hash,
                rules: rules(&whose, &principal.allow, &mut problems),
                rate: Rate::new(principal.calls_per_sec, principal.calls_burst),
            };
            if named.insert(Arc::from(name.as_str()), rights).is_some() {
                problems.push(format!("{whose}: stands twice"));
            }
        }
        let anonymous = Rights {
            hash: [0; 32],
            rules: rules("anonymous", &raw.anonymous.allow, &mut problems),
            rate: Rate::new(raw.anonymous.calls_per_sec, raw.anonymous.calls_burst),
        };
        if problems.is_empty() && named.is_empty() && anonymous.rules.is_empty() {
            problems.push(
                "it has no [[principal]], and [anonymous] allows nothing: nobody could do anything; `mezzo master credential NAME` makes a principal"
                    .to_owned(),
            );
        }
        if problems.is_empty() {
            Ok(Self { named, anonymous })
        } else {
            Err(InvalidCredentials::Content(problems))
        }
    }

    pub(super) fn authenticate(&self, authorization: Option<&str>) -> Result<Principal, Denied> {
        let Some(text) = authorization else {
            return Ok(Principal::Anonymous);
        };
        let (scheme, rest) = text.split_once(' ').ok_or(Denied::Malformed)?;
        let (name, secret) = rest.trim().split_once(':').ok_or(Denied::Malformed)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Malformed);
        }
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        match self.named.get_key_value(name) {
            Some((name, rights)) if same(&hash, &rights.hash) => {
                Ok(Principal::Named(Arc::clone(name)))
            }
            Some(_) | None => Err(Denied::Wrong),
        }
    }

    fn rights(&self, principal: &Principal) -> Option<&Rights> {
        match principal {
            Principal::Anonymous => Some(&self.anonymous),
            Principal::Named(name) => self.named.get(name),
        }
    }

    pub(super) fn allows(
        &self,
        principal: &Principal,
        action: Action,
        object: Option<&str>,
    ) -> bool {
        let rules = self.rights(principal).map(|rights| rights.rules.as_slice());
        rules.unwrap_or_default().iter().any(|rule| {
            rule.actions.contains(&action) && object.is_none_or(|object| rule.object.fits(object))
        })
    }

    pub(super) fn rate_of(&self, principal: &Principal) -> Option<Rate> {
        self.rights(principal)?.rate
    }
}

/// A new secret: what the client's file holds (`NAME:SECRET`), and what the master's file says of it.
///
/// # Errors
///
/// When no principal can have that name.
pub fn new_credential(name: &str) -> Result<(String, String), InvalidCredentials> {
    if !check_name(name) {
        return Err(InvalidCredentials::Content(vec![format!(
            "`{name}` is no name: letters, digits, `.`, `_` and `-` only, and not `anonymous`"
        )]));
    }
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let secret = hex(&rand::random::<[u8; 32]>());
    let hash = hex(&Sha256::digest(secret.as_bytes()));
    let entry =
        format!("[[principal]]\nname = \"{name}\"\nsecret_sha256 = \"{hash}\"\nallow = []\n");
    Ok((format!("{name}:{secret}"), entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one principal `me` that may do this, and its `authorization`.
    fn policy(allow: &str) -> (Policy, String) {
        let (line, entry) = new_credential("me").unwrap();
        let text = entry.replace("allow = []", &format!("allow = {allow}"));
        (Policy::parse(&text).unwrap(), format!("Bearer {line}"))
    }

    #[test]
    fn a_made_credential_is_good_and_any_other_is_not() {
        let (policy, authorization) = policy("[]");
        let me = policy.authenticate(Some(&authorization)).unwrap();
        assert_eq!(me.name(), "me");
        assert_eq!(policy.authenticate(None), Ok(Principal::Anonymous));
        let mut other = authorization.clone();
        let last = if other.pop() == Some('0') { '1' } else { '0' };
        other.push(last);
        for (text, denied) in [
            (other.as_str(), Denied::Wrong),
            ("Bearer you:x", Denied::Wrong),
            ("Bearer me:", Denied::Wrong),
            ("Bearer me", Denied::Malformed),
            ("Basic me:x", Denied::Malformed),
            ("me:x", Denied::Malformed),
        ] {
            assert_eq!(policy.authenticate(Some(text)), Err(denied), "{text}");
        }
    }

    #[test]
    fn only_what_a_rule_says_is_allowed() {
        let me = Principal::Named("me".into());
        for (allow, action, object, allowed) in [
            ("[]", Action::Read, None, false),
            ("['read']", Action::Read, None, true),
            ("['read']", Action::KillTask, None, false),
            ("['subscribe a']", Action::Subscribe, None, true),
            ("['subscribe a']", Action::Subscribe, Some("a"), true),
            ("['subscribe a']", Action::Subscribe, Some("a/b"), false),
            ("['subscribe a/*']", Action::Subscribe, Some("a/b"), true),
            ("['subscribe a/*']", Action::Subscribe, Some("ab"), false),
            (
                "['subscribe a', 'read']",
                Action::Subscribe,
                Some("b"),
                false,
            ),
            ("['operate']", Action::Backup, None, true),
            ("['operate']", Action::DrainAgent, Some("x"), true),
            ("['operate']", Action::Subscribe, Some("a"), false),
            ("['operate']", Action::AttachAgent, Some("h"), false),
            ("['operate']", Action::Unlisted, None, false),
            ("['*']", Action::Unlisted, None, true),
            ("['*']", Action::AttachAgent, Some("h"), true),
        ] {
            let (policy, _) = policy(allow);
            assert_eq!(
                policy.allows(&me, action, object),
                allowed,
                "{allow} {action:?} {object:?}"
            );
            let you = Principal::Named("you".into());
            assert!(!policy.allows(&you, action, object), "{allow}");
            assert!(
                !policy.allows(&Principal::Anonymous, action, object),
                "{allow}"
            );
        }
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = "[[principal]]\nname = 'a b'\nsecret_sha256 = 'xyz'\nallow = ['fly', 'read a b']\n\
                    [anonymous]\nallow = ['']\n";
        let told = Policy::parse(text).unwrap_err().to_string();
        for part in [
            "principal[0] (a b): `name`",
            "`secret_sha256`",
            "\"fly\"",
            "\"read a b\"",
            "anonymous: rule",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        // As an editor leaves it for a moment.
        let nobody = Policy::parse("").unwrap_err().to_string();
        assert!(nobody.contains("nobody could do anything"), "{nobody}");
        assert!(Policy::parse("[anonymous]\nallow = ['read']\n").is_ok());
        let unknown = Policy::parse("[[principal]]\nnam = 1\n").unwrap_err();
        assert!(
            matches!(unknown, InvalidCredentials::Syntax(_)),
            "{unknown}"
        );
    }
}
