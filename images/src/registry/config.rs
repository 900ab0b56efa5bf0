//! What an operator says about registries: mirrors, plain HTTP, a CA of one's own (pure).
//!
//! ```toml
//! [registries."docker.io"]
//! mirrors = ["mirror.example:5000"]
//! [registries."mirror.example:5000"]
//! ca_file = "/etc/mezzo/mirror-ca.pem"
//! ```
//!
//! The key is the registry as image names have it. A mirror is reached as its own section says, if it has one; mirrors
//! of mirrors are not asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::reference::{DEFAULT_REGISTRY, is_loopback, valid_registry};

/// More would only make a failing pull slower.
const MOST_MIRRORS: usize = 16;

/// How registries are reached; those without a section over TLS, with the system's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegistriesConfig {
    registries: BTreeMap<String, RegistryConfig>,
}

/// How one registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Asked in this order before the registry itself, `host[:port]`.
    pub mirrors: Vec<String>,
    /// Spoken to over plain HTTP.
    pub insecure: bool,
    /// Certificates (PEM) that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// Everything that is wrong with a configuration, with the keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct RegistriesConfigError(
    /// One sentence per problem.
    pub Vec<String>,
);

impl RegistriesConfig {
    /// The same, with these registries spoken to over plain HTTP.
    #[must_use]
    pub fn with_insecure<'a>(mut self, names: impl IntoIterator<Item = &'a String>) -> Self {
        for name in names {
            self.registries.entry(name.clone()).or_default().insecure = true;
        }
        self
    }

    /// The same, with another section for a registry.
    #[must_use]
    pub fn with(mut self, name: &str, config: RegistryConfig) -> Self {
        self.registries.insert(name.to_owned(), config);
        self
    }

    /// Finds all that cannot be right. Files are not looked at.
    pub fn check(&self) -> Result<(), RegistriesConfigError> {
        let mut problems = Vec::new();
        for (name, config) in &self.registries {
            let key = format!("registries.{name:?}");
            if name == "index.docker.io" || name == "registry-1.docker.io" {
                problems.push(format!("{key}: Docker Hub's name is {DEFAULT_REGISTRY:?}"));
            } else if !valid_registry(name) {
                problems.push(format!(
                    "{key}: is no registry; give host or host:port as image names have it"
                ));
            }
            if config.mirrors.len() > MOST_MIRRORS {
                let found = config.mirrors.len();
                problems.push(format!(
                    "{key}.mirrors: has {found} entries, more than the {MOST_MIRRORS} allowed"
                ));
            }
            for (at, mirror) in config.mirrors.iter().enumerate() {
                let wrong = |problem: &str| format!("{key}.mirrors[{at}]: {mirror:?} {problem}");
                if !valid_registry(mirror) {
                    problems.push(wrong(
                        "is no registry; give host or host:port, without https:// and without a path",
                    ));
                } else if mirror == name {
                    problems.push(wrong("is the registry itself"));
                } else if config.mirrors[..at].contains(mirror) {
                    problems.push(wrong("stands there twice"));
                }
            }
            if let Some(file) = &config.ca_file {
                if !file.is_absolute() {
                    problems.push(format!(
                        "{key}.ca_file: {} is not an absolute path",
                        file.display()
                    ));
                }
                if config.insecure {
                    problems.push(format!(
                        "{key}.ca_file: has no meaning with insecure = true; drop one of the two"
                    ));
                }
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(RegistriesConfigError(problems))
        }
    }

    /// The mirrors of a registry, in order.
    pub(crate) fn mirrors(&self, registry: &str) -> &[String] {
        self.registries
            .get(registry)
            .map_or(&[], |config| config.mirrors.as_slice())
    }

    /// Whether a registry is spoken to without TLS: because that was said, or because it is on this very machine and
    /// nothing was said about certificates.
    pub(crate) fn is_plain_http(&self, registry: &str) -> bool {
        match self.registries.get(registry) {
            Some(config) if config.ca_file.is_some() => false,
            Some(config) => config.insecure || is_loopback(registry),
            None => is_loopback(registry),
        }
    }

    /// Registries with certificates of their own, and the file that has them.
    pub(crate) fn ca_files(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.registries
            .iter()
            .filter_map(|(name, config)| Some((name.as_str(), config.ca_file.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RegistriesConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_configuration_is_read_and_what_is_not_said_has_a_default() {
        let config = read(
            r#"
            ["docker.io"]
            mirrors = ["m.example:5000", "n.example"]
            ["m.example:5000"]
            insecure = true
            ["127.0.0.1:5001"]
            ca_file = "/ca.pem"
            "#,
        );
        config.check().unwrap();
        assert_eq!(config.mirrors("docker.io"), ["m.example:5000", "n.example"]);
        assert!(config.mirrors("m.example:5000").is_empty());
        assert!(config.mirrors("unknown.example").is_empty());
        assert!(config.is_plain_http("m.example:5000"));
        assert!(config.is_plain_http("127.0.0.1:5000"));
        assert!(!config.is_plain_http("127.0.0.1:5001"));
        assert!(!config.is_plain_http("n.example"));
        let more = ["n.example".to_owned()];
        assert!(config.with_insecure(&more).is_plain_http("n.example"));
    }

    #[test]
    fn every_problem_is_told_with_its_key() {
        let config = read(
            r#"
            ["https://docker.io"]
            ["index.docker.io"]
            ["r.example"]
            mirrors = ["http://m.example", "r.example", "m.example/path", "m.example", "m.example"]
            insecure = true
            ca_file = "ca.pem"
            "#,
        );
        let RegistriesConfigError(problems) = config.check().unwrap_err();
        for expected in [
            r#"registries."https://docker.io": is no registry"#,
            r#"registries."index.docker.io": Docker Hub's name is "docker.io""#,
            r#"registries."r.example".mirrors[0]: "http://m.example" is no registry"#,
            r#"registries."r.example".mirrors[1]: "r.example" is the registry itself"#,
            r#"registries."r.example".mirrors[2]: "m.example/path" is no registry"#,
            r#"registries."r.example".mirrors[4]: "m.example" stands there twice"#,
            r#"registries."r.example".ca_file: ca.pem is not an absolute path"#,
            r#"registries."r.example".ca_file: has no meaning with insecure"#,
        ] {
            let told = problems.iter().any(|problem| problem.starts_with(expected));
            assert!(told, "{expected} is not in {problems:#?}");
        }
        assert_eq!(problems.len(), 8);
    }

    #[test]
    fn a_key_that_does_not_exist_is_an_error() {
        let read = toml::from_str::<RegistriesConfig>("[\"r.example\"]\nmirror = []\n");
        assert!(read.unwrap_err().to_string().contains("mirror"));
    }
}
