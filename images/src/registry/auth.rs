//! Credentials: what Docker's config file holds, and where they may be sent.
//!
//! A registry names the realm that hands out tokens. Credentials go there only over TLS, or without when the realm is
//! on the very host of a registry that is itself spoken to without (CVE-2020-15157 and its kin): a hostile answer must
//! not carry them off in the clear.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use http_auth::ChallengeParser;
use reqwest::Url;
use serde::Deserialize;

use super::RegistryError;

const MAX_FILE: u64 = 1 << 20;

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    auth: Option<String>,
}

/// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub(crate) fn default_file() -> Option<PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

/// The credentials for a registry in Docker's config file; none if there is no file or no line for it.
pub(crate) fn from_file(path: &Path, registry: &str) -> Result<Option<Credentials>, RegistryError> {
    let bad = |problem: String| RegistryError::Credentials {
        path: path.to_path_buf(),
        problem,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE => {
            return Err(bad("the file is larger than 1 MiB".into()));
        }
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(e.to_string())),
    }
    let text = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    find(&text, registry).map_err(bad)
}

fn find(text: &[u8], registry: &str) -> Result<Option<Credentials>, String> {
    let config: DockerConfig =
        serde_json::from_slice(text).map_err(|e| format!("it is not Docker's config.json: {e}"))?;
    let wanted = |key: &str| {
        let host = key
            .trim_start_matches("https://")
            .trim_start_matches("http://");
        let host = host.split('/').next().unwrap_or(host);
        host == registry
            || (registry == "docker.io"
                && (host == "index.docker.io" || host == "registry-1.docker.io"))
    };
    let found = config
        .auths
        .iter()
        .find(|(key, value)| wanted(key) && value.auth.as_deref().is_some_and(|a| !a.is_empty()));
    let Some(encoded) = found.and_then(|(_, value)| value.auth.as_deref()) else {
        return Ok(None);
    };
    let unreadable = || format!("the \"auth\" of {registry} is not base64 of user:password");
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .map_err(|_| unreadable())?;
    let decoded = String::from_utf8(decoded).map_err(|_| unreadable())?;
    let (user, password) = decoded.split_once(':').ok_or_else(unreadable)?;
    Ok(Some(Credentials {
        user: user.into(),
        password: password.into(),
    }))
}

/// The challenge in a `WWW-Authenticate` header, bearer preferred.
pub(crate) fn parse_challenge(header: &str) -> Option<Challenge> {
    let mut basic = None;
    for challenge in ChallengeParser::new(header) {
        let Ok(challenge) = challenge else { break };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let value = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            return Some(Challenge::Bearer {
                realm: value("realm")?,
                service: value("service"),
                scope: value("scope"),
            });
        }
    }
    basic
}

/// Whether a token may be asked for at `realm` on behalf of a registry, and whether with credentials.
///
/// Without TLS only on the host of the registry itself, and only if that is spoken to without TLS as well.
pub(crate) fn realm_url(realm: &str, registry: &Url) -> Result<Url, String> {
    let url =
        Url::parse(realm).map_err(|e| format!("its token realm {realm:?} is not a URL ({e})"))?;
    let same_host = url.host_str() == registry.host_str();
    match url.scheme() {
        "https" => Ok(url),
        "http" if registry.scheme() == "http" && same_host => Ok(url),
        _ => Err(format!(
            "its token realm {realm:?} is neither https nor on the registry's own host: credentials stay here"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_host() {
        let text = br#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjOnJldA=="}, "r.example:5000": {}},
            "credsStore": "x"}"#;
        let expected = Credentials {
            user: "me".into(),
            password: "sec:ret".into(),
        };
        assert_eq!(find(text, "docker.io").unwrap(), Some(expected));
        assert_eq!(find(text, "r.example:5000").unwrap(), None);
        assert_eq!(find(text, "evil.example").unwrap(), None);
        assert!(find(br#"{"auths": {"a.example": {"auth": "!!"}}}"#, "a.example").is_err());
        assert!(find(b"{", "a.example").is_err());
    }

    #[test]
    fn challenges_are_read() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull""#;
        assert_eq!(
            parse_challenge(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("reg".into()),
                scope: Some("repository:a:pull".into()),
            })
        );
        assert_eq!(
            parse_challenge(r#"Basic realm="x""#),
            Some(Challenge::Basic)
        );
        assert_eq!(parse_challenge("Negotiate"), None);
        assert_eq!(parse_challenge("Bearer service=\"x\""), None);
    }

    #[test]
    fn credentials_never_leave_in_the_clear_for_another_host() {
        let plain = Url::parse("http://127.0.0.1:5000").unwrap();
        let tls = Url::parse("https://r.example").unwrap();
        assert!(realm_url("https://auth.example/token", &tls).is_ok());
        assert!(realm_url("http://127.0.0.1:5001/token", &plain).is_ok());
        assert!(realm_url("http://auth.example/token", &tls).is_err());
        assert!(realm_url("http://r.example/token", &tls).is_err());
        assert!(realm_url("http://other.example/token", &plain).is_err());
        assert!(realm_url("file:///etc/passwd", &plain).is_err());
        assert!(realm_url("nonsense", &plain).is_err());
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let credentials = Credentials {
            user: "me".into(),
            password: "secret".into(),
        };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
