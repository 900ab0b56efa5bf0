//! Names of images (pure): `[registry[:port]/]repository[:tag][@digest]`, with Docker's defaults.
//!
//! `busybox` is `docker.io/library/busybox:latest`. A first part is a registry only when it holds a dot or a colon or
//! is `localhost`, as Docker decides it. Everything is checked here once: a `Reference` may go into URLs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};

/// The registry of a name that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;

/// A checked image name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("image name is empty")]
    Empty,
    /// Longer than any registry accepts.
    #[error("image name has {0} characters, more than the {MAX_NAME} allowed")]
    TooLong(usize),
    /// The registry part is no host name.
    #[error("registry {0:?} in the image name is not a host name with an optional port")]
    Registry(String),
    /// The repository part has a character or a form that is not allowed.
    #[error(
        "repository {0:?} in the image name must be lower-case letters, digits and single separators (. _ - /)"
    )]
    Repository(String),
    /// The tag has a character that is not allowed, or is too long.
    #[error(
        "tag {0:?} in the image name must be 1 to 128 letters, digits, '.', '_' or '-', not starting with '.' or '-'"
    )]
    Tag(String),
    /// The part after `@` is no digest.
    #[error("image name has a bad digest: {0}")]
    Digest(DigestError),
}

impl Reference {
    /// The registry as in the name, `docker.io` when none was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where requests for this registry go: Docker Hub's API lives on another host than its name.
    pub fn registry_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY {
            "index.docker.io"
        } else {
            &self.registry
        }
    }

    /// The repository, such as `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none when only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name pins one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What stands behind `manifests/` in a registry's URL: the digest if there is one, else the tag.
    pub(crate) fn manifest_selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_string(),
        }
    }

    /// The same name as oci-client wants it.
    pub(crate) fn to_oci(&self) -> oci_client::Reference {
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        match &self.digest {
            Some(digest) => {
                oci_client::Reference::with_digest(registry, repository, digest.to_string())
            }
            None => oci_client::Reference::with_tag(registry, repository, self.manifest_selector()),
        }
    }
}

/// True for a registry on this very machine, which is spoken to without TLS.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    host == "localhost"
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The host of `host[:port]`, brackets of an IPv6 address included.
fn host_of(registry: &str) -> &str {
    if let Some(end) = registry.find(']') {
        return &registry[..=end];
    }
    registry.split(':').next().unwrap_or(registry)
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > MAX_NAME + 128 + 72 + 2 {
            return Err(ReferenceError::TooLong(text.len()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(ReferenceError::Digest)?)),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if names_a_registry(first) => (first, rest),
            Some(_) | None => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        if !valid_registry(registry) {
            return Err(ReferenceError::Registry(registry.to_string()));
        }
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !repository.split('/').all(valid_component) {
            return Err(ReferenceError::Repository(repository.to_string()));
        }
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return Err(ReferenceError::Tag(tag.chars().take(140).collect()));
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_string()
        };
        let length = registry.len() + 1 + repository.len();
        if length > MAX_NAME {
            return Err(ReferenceError::TooLong(length));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_string()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_string()),
        };
        Ok(Self {
            registry: registry.to_string(),
            repository,
            tag,
            digest,
        })
    }
}

fn names_a_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.chars().any(|c| c.is_ascii_uppercase())
}

pub(crate) fn valid_registry(registry: &str) -> bool {
    let host = host_of(registry);
    let port_ok = match registry[host.len()..].strip_prefix(':') {
        Some(port) => {
            port.parse::<u16>().is_ok_and(|port| port > 0)
                && port.bytes().all(|b| b.is_ascii_digit())
        }
        None => registry.len() == host.len(),
    };
    let host_ok = match host.strip_prefix('[') {
        Some(address) => address
            .trim_end_matches(']')
            .parse::<std::net::Ipv6Addr>()
            .is_ok(),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
    };
    port_ok && host_ok
}

/// `[a-z0-9]+` joined by one of `.`, `_`, `__` or any number of `-`.
fn valid_component(component: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(component.chars().next())
        && edge(component.chars().next_back())
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(given: &str, canonical: &str) {
        let parsed: Reference = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
        assert_eq!(parsed.to_string(), canonical, "of {given}");
        assert_eq!(
            canonical.parse::<Reference>().unwrap(),
            parsed,
            "canonical form of {given} reads differently"
        );
    }

    #[test]
    fn names_get_dockers_defaults() {
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("grafana/grafana", "docker.io/grafana/grafana:latest");
        check(
            "index.docker.io/busybox",
            "docker.io/library/busybox:latest",
        );
        check("localhost/sleep", "localhost/sleep:latest");
        check("127.0.0.1:5000/sleep:2", "127.0.0.1:5000/sleep:2");
        check("[::1]:5000/sleep", "[::1]:5000/sleep:latest");
        check(
            "registry.example.com:443/a/b__c/d--e:v1.2_3",
            "registry.example.com:443/a/b__c/d--e:v1.2_3",
        );
        check(
            &format!("busybox@{HEX}"),
            &format!("docker.io/library/busybox@{HEX}"),
        );
        check(
            &format!("busybox:1@{HEX}"),
            &format!("docker.io/library/busybox:1@{HEX}"),
        );
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            ":tag",
            "a:",
            "a:-x",
            "Busybox",
            "a//b",
            "/a",
            "a/",
            "../../etc/passwd",
            "a.example.com/../b",
            "a b",
            "a___b",
            "-a",
            "host.example:99999/a",
            "host.example:+80/a",
            "host..example/a",
            "[::zz]:1/a",
            "a@sha256:12",
            "a:x y",
            "a?b",
            "a:b:c",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad} was accepted");
        }
        assert!("a".repeat(300).parse::<Reference>().is_err());
    }

    #[test]
    fn loopback_registries_are_known() {
        for yes in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.3.2.1",
            "[::1]:5000",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in [
            "docker.io",
            "10.0.0.1:5000",
            "localhost.example.com",
            "127.0.0.1.example.com",
        ] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
