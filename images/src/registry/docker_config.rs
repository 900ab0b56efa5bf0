//! Docker's `config.json` and podman's `auth.json`, which are one format (pure): who we are at which registry.
//!
//! Keys of `auths` are registries, in Docker's way (`https://index.docker.io/v1/`) or podman's (`r.example/team`); the
//! longest key that is a prefix of the repository wins. What is asked first: a helper for just this registry, then what
//! stands in the file, then the helper for all registries.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::Deserialize;

use crate::reference::DEFAULT_REGISTRY;

/// Who we are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// A user's name and password.
    Password { user: String, password: String },
    /// What a token server takes in exchange for a token.
    IdentityToken(String),
}

impl Credentials {
    /// None for a user with a colon: with it the password would begin too early (RFC 7617, 2).
    pub(crate) fn password(user: String, password: String) -> Option<Self> {
        (!user.contains(':')).then_some(Self::Password { user, password })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => f
                .debug_struct("Password")
                .field("user", user)
                .finish_non_exhaustive(),
            Self::IdentityToken(_) => f.debug_struct("IdentityToken").finish_non_exhaustive(),
        }
    }
}

/// Where a file says that credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the file itself.
    Here(Credentials),
    /// At the program `docker-credential-NAME`.
    Helper(String),
}

/// A file with credentials.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads a file.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        // serde_json's own message may quote what it read, and that may be a password.
        serde_json::from_slice(text).map_err(|e| {
            format!(
                "it is not the JSON of Docker's config.json (line {}, column {})",
                e.line(),
                e.column()
            )
        })
    }

    /// Whether it names programs to ask.
    pub(crate) fn has_helpers(&self) -> bool {
        !self.cred_helpers.is_empty() || self.creds_store.as_ref().is_some_and(|s| !s.is_empty())
    }

    /// Where credentials for a repository may be, in the order in which to look.
    pub(crate) fn places(&self, registry: &str, repository: &str) -> Result<Vec<Place>, String> {
        let mut places = Vec::new();
        if let Some((_, helper)) = longest(self.cred_helpers.iter(), registry, repository) {
            places.push(Place::Helper(helper.clone()));
        }
        let filled = self.auths.iter().filter(|(_, entry)| !entry.is_empty());
        if let Some((key, entry)) = longest(filled, registry, repository) {
            places.push(Place::Here(entry.credentials(key)?));
        }
        if let Some(helper) = self.creds_store.as_ref().filter(|name| !name.is_empty()) {
            places.push(Place::Helper(helper.clone()));
        }
        Ok(places)
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken]
            .into_iter()
            .all(|field| field.as_deref().is_none_or(str::is_empty))
    }

    fn credentials(&self, key: &str) -> Result<Credentials, String> {
        let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Credentials::IdentityToken(token));
        }
        if let Some(encoded) = filled(&self.auth) {
            let unreadable = || format!("the \"auth\" of {key:?} is not base64 of user:password");
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(encoded.trim())
                .map_err(|_| unreadable())?;
            let decoded = String::from_utf8(decoded).map_err(|_| unreadable())?;
            let (user, password) = decoded.split_once(':').ok_or_else(unreadable)?;
            return Ok(Credentials::Password {
                user: user.into(),
                password: password.trim_end_matches('\0').into(),
            });
        }
        match (filled(&self.username), filled(&self.password)) {
            (Some(user), Some(password)) => {
                Credentials::password(user, password).ok_or_else(|| {
                    format!("the \"username\" of {key:?} has a ':', which no registry could tell from the password's")
                })
            }
            (Some(_) | None, _) => Err(format!("{key:?} has a \"username\" without \"password\"")),
        }
    }
}

/// The entry whose key is the longest prefix of the repository.
fn longest<'a, T>(
    entries: impl Iterator<Item = (&'a String, &'a T)>,
    registry: &str,
    repository: &str,
) -> Option<(&'a str, &'a T)> {
    entries
        .filter_map(|(key, value)| {
            let (host, path) = split(key);
            let covers = path.is_empty()
                || repository
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (host == registry && covers).then_some((path.len(), key.as_str(), value))
        })
        .max_by_key(|(length, ..)| *length)
        .map(|(_, key, value)| (key, value))
}

/// Registry and path of a key. Docker's keys may be URLs of a registry's API; their path is no repository's.
fn split(key: &str) -> (&str, &str) {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare
        .unwrap_or(key)
        .split_once('/')
        .unwrap_or((bare.unwrap_or(key), ""));
    let path = path.trim_end_matches('/');
    let path = if bare.is_some() || matches!(path, "v1" | "v2") {
        ""
    } else {
        path
    };
    match host {
        "index.docker.io" | "registry-1.docker.io" => (DEFAULT_REGISTRY, path),
        _ => (host, path),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn places(config: &Value, registry: &str, repository: &str) -> Result<Vec<Place>, String> {
        DockerConfig::parse(config.to_string().as_bytes())?.places(registry, repository)
    }

    fn password(user: &str, password: &str) -> Place {
        Place::Here(Credentials::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    fn auth(pair: &str) -> Value {
        json!({"auth": base64::engine::general_purpose::STANDARD.encode(pair)})
    }

    #[test]
    fn dockers_keys_are_found_by_host() {
        let config = json!({"auths": {"https://index.docker.io/v1/": auth("me:sec:ret"), "r.example:5000": {},
            "https://other.example/v2/": {"username": "you", "password": "x"}}});
        let expected = password("me", "sec:ret");
        assert_eq!(
            places(&config, "docker.io", "library/a").unwrap(),
            [expected]
        );
        let expected = password("you", "x");
        assert_eq!(places(&config, "other.example", "a").unwrap(), [expected]);
        for none in [
            "r.example:5000",
            "evil.example",
            "index.docker.io.evil.example",
        ] {
            assert_eq!(places(&config, none, "a").unwrap(), [], "{none}");
        }
    }

    #[test]
    fn podmans_longest_key_wins() {
        let config = json!({"auths": {"r.example": auth("all:1"), "r.example/team": auth("team:2"),
            "r.example/team/app": auth("app:3")}});
        for (repository, user, word) in [
            ("team/app", "app", "3"),
            ("team/app/part", "app", "3"),
            ("team/apple", "team", "2"),
            ("teams", "all", "1"),
        ] {
            let found = places(&config, "r.example", repository).unwrap();
            assert_eq!(found, [password(user, word)], "{repository}");
        }
        assert_eq!(places(&config, "r.example:5000", "team/app").unwrap(), []);
    }

    #[test]
    fn a_registrys_own_helper_comes_first_and_the_general_one_last() {
        let config = json!({"auths": {"r.example": auth("me:1")}, "credHelpers": {"r.example": "own"},
            "credsStore": "general"});
        let helper = |name: &str| Place::Helper(name.into());
        assert_eq!(
            places(&config, "r.example", "a").unwrap(),
            [helper("own"), password("me", "1"), helper("general")]
        );
        assert_eq!(
            places(&config, "other.example", "a").unwrap(),
            [helper("general")]
        );
    }

    #[test]
    fn an_identity_token_goes_before_the_password_it_replaces() {
        let mut entry = auth("<token>:");
        entry["identitytoken"] = json!("abc");
        let config = json!({"auths": {"r.example": entry}});
        assert_eq!(
            places(&config, "r.example", "a").unwrap(),
            [Place::Here(Credentials::IdentityToken("abc".into()))]
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_without_showing_secrets() {
        for (entry, expected) in [
            (json!({"auth": "!!"}), "base64"),
            (auth("no-colon-hush"), "base64 of user:password"),
            (json!({"username": "me"}), "without \"password\""),
        ] {
            let config = json!({"auths": {"r.example": entry}});
            let error = places(&config, "r.example", "a").unwrap_err();
            assert!(
                error.contains(expected) && error.contains("r.example"),
                "{error}"
            );
            assert!(!error.contains("hush"), "{error}");
            // One damaged entry does no harm to another registry.
            assert_eq!(places(&config, "other.example", "a").unwrap(), []);
        }
        let error = DockerConfig::parse(br#"{"auths": "hush"}"#).unwrap_err();
        assert!(
            error.contains("line 1") && !error.contains("hush"),
            "{error}"
        );
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let config = json!({"auths": {"r.example": {"username": "me", "password": "hush"}}});
        let config = DockerConfig::parse(config.to_string().as_bytes()).unwrap();
        let found = config.places("r.example", "a").unwrap();
        let token = Credentials::IdentityToken("hush".into());
        assert!(!format!("{config:?} {found:?} {token:?}").contains("hush"));
    }
}
