//! How registries are reached: TLS or not, certificates, redirects, deadlines. Makes the conversations.
//!
//! Redirects from https to http are never followed; reqwest drops the credentials when scheme, host or port change. A
//! request for a token may carry a secret in its body, so it is not redirected to anybody else at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use reqwest::{Certificate, Url, redirect};
use tokio::sync::watch;

use super::credentials::{CredentialSource, PullSecret};
use super::exchange::chain;
use super::pause::Pauses;
use super::session::{Endpoint, Session};
use super::source::Source;
use super::{RegistriesConfig, RegistryError};
use crate::pull::PullProgress;
use crate::reference::{DEFAULT_REGISTRY, Reference, is_loopback};

/// How long a connection may take to be made.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// A file with certificates larger than this is something else.
const MAX_CA_FILE: u64 = 4 << 20;

/// How to reach registries.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    pub(crate) registries: RegistriesConfig,
    /// Files with credentials, in order.
    pub(crate) auth_files: Vec<PathBuf>,
    /// The longest silence of a registry.
    pub(crate) stall: Duration,
}

/// Makes sessions; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RegistryClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: RegistriesConfig,
    auth_files: Arc<[PathBuf]>,
    stall: Duration,
    common: Arc<Transport>,
    /// Of registries with certificates of their own.
    own: BTreeMap<String, Arc<Transport>>,
    pauses: Pauses,
    mirrors_down: Pauses,
}

/// The HTTP clients that trust the same certificates.
#[derive(Debug)]
pub(crate) struct Transport {
    stall: Duration,
    certificates: Vec<Certificate>,
    http: Clients,
    /// For tokens.
    tokens: Clients,
    /// What is trusted in addition to the system's, as PEM.
    pub(crate) own_certificates: Vec<u8>,
}

/// Made when they are first needed: reading the system's certificates takes longer than asking a registry nearby.
#[derive(Debug)]
struct Clients {
    proxied: Lazy,
    /// For this machine's own registries: without the proxy that the environment may name.
    direct: Lazy,
}

#[derive(Debug)]
struct Lazy {
    /// Trusts the registry's own certificates only; shows that they can be used at all.
    without_system: reqwest::Client,
    full: OnceLock<reqwest::Client>,
}

impl Lazy {
    fn get(
        &self,
        make: impl FnOnce() -> Result<reqwest::Client, reqwest::Error>,
    ) -> &reqwest::Client {
        self.full.get_or_init(|| {
            make().unwrap_or_else(|error| {
                tracing::warn!(%error, "no usable CA certificates on this machine: only registries over plain http or with a ca_file can be reached");
                self.without_system.clone()
            })
        })
    }
}

impl Transport {
    pub(crate) fn new(stall: Duration, pem: Vec<u8>) -> Result<Self, String> {
        let certificates = Certificate::from_pem_bundle(&pem)
            .map_err(|e| format!("it is no PEM ({})", chain(&e)))?;
        if certificates.is_empty() && !pem.is_empty() {
            return Err("it holds no certificate in PEM form".into());
        }
        let lazy = |policy: fn() -> redirect::Policy, direct| {
            let without_system = builder(stall, policy, direct)
                .tls_certs_only(certificates.iter().cloned())
                .build();
            without_system.map(|without_system| Lazy {
                without_system,
                full: OnceLock::new(),
            })
        };
        let clients = |policy: fn() -> redirect::Policy| {
            Ok::<_, reqwest::Error>(Clients {
                proxied: lazy(policy, false)?,
                direct: lazy(policy, true)?,
            })
        };
        let (http, tokens) = clients(no_downgrade)
            .and_then(|http| Ok((http, clients(same_origin)?)))
            .map_err(|e| chain(&e))?;
        Ok(Self {
            stall,
            certificates,
            http,
            tokens,
            own_certificates: pem,
        })
    }

    fn get<'c>(
        &self,
        clients: &'c Clients,
        policy: fn() -> redirect::Policy,
        url: &Url,
    ) -> &'c reqwest::Client {
        let here = url.scheme() == "http" && url.host_str().is_some_and(is_loopback);
        let lazy = if here {
            &clients.direct
        } else {
            &clients.proxied
        };
        lazy.get(|| {
            builder(self.stall, policy, here)
                .tls_certs_merge(self.certificates.iter().cloned())
                .build()
        })
    }

    /// The client that reaches `url`.
    pub(crate) fn http(&self, url: &Url) -> &reqwest::Client {
        self.get(&self.http, no_downgrade, url)
    }

    /// The client that asks for a token at `url`.
    pub(super) fn tokens(&self, url: &Url) -> &reqwest::Client {
        self.get(&self.tokens, same_origin, url)
    }
}

fn builder(
    stall: Duration,
    policy: fn() -> redirect::Policy,
    direct: bool,
) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(stall)
        .redirect(policy())
        .user_agent(concat!("mezzo/", env!("CARGO_PKG_VERSION")));
    if direct { builder.no_proxy() } else { builder }
}

fn no_downgrade() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let from = attempt.previous().last();
        let downgrade =
            from.is_some_and(|from| from.scheme() == "https") && attempt.url().scheme() != "https";
        if downgrade {
            attempt.error("it redirects from https to http")
        } else if attempt.previous().len() > 5 {
            attempt.error("it redirects too often")
        } else {
            attempt.follow()
        }
    })
}

fn same_origin() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let same = attempt
            .previous()
            .iter()
            .all(|from| from.origin() == attempt.url().origin());
        if !same {
            attempt.error("it redirects the request for a token to another host")
        } else if attempt.previous().len() > 5 {
            attempt.error("it redirects too often")
        } else {
            attempt.follow()
        }
    })
}

/// Installs rustls' provider once per process; another part of the program may have been first.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
        {
            tracing::debug!("a rustls provider is installed already");
        }
    });
}

impl RegistryClient {
    /// Reads the files with certificates that the configuration names.
    pub(crate) fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        install_crypto();
        let ClientOptions {
            registries: config,
            auth_files,
            stall,
        } = options;
        config.check()?;
        let common =
            Transport::new(stall, Vec::new()).map_err(|problem| RegistryError::Protocol {
                registry: "(none)".into(),
                problem,
            })?;
        let mut own = BTreeMap::new();
        for (registry, path) in config.ca_files() {
            let made = read_bounded(path).and_then(|pem| Transport::new(stall, pem));
            let transport = made.map_err(|problem| RegistryError::CaFile {
                registry: registry.to_owned(),
                path: path.clone(),
                problem,
            })?;
            own.insert(registry.to_owned(), Arc::new(transport));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                auth_files: auth_files.into(),
                stall,
                common: Arc::new(common),
                own,
                pauses: Pauses::default(),
                mirrors_down: Pauses::default(),
            }),
        })
    }

    /// The longest silence of a registry.
    pub(super) fn stall(&self) -> Duration {
        self.shared.stall
    }

    /// Registries that want to be left alone.
    pub(super) fn pauses(&self) -> &Pauses {
        &self.shared.pauses
    }

    /// Mirrors that could not be reached a moment ago.
    pub(super) fn mirrors_down(&self) -> &Pauses {
        &self.shared.mirrors_down
    }

    /// Begins a conversation with the registry of the name itself; `scope` is what a token shall allow: `pull` or
    /// `pull,push`.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        scope: &'static str,
    ) -> Result<Session, RegistryError> {
        let endpoint = self.endpoint(reference.registry(), None)?;
        let credentials = self.credentials(None);
        Ok(Session::new(
            self.clone(),
            reference.clone(),
            endpoint,
            scope,
            credentials,
            None,
        ))
    }

    /// Begins the conversations of one pull: with the mirrors, in order, and with the registry itself.
    pub(crate) fn source(
        &self,
        reference: &Reference,
        secret: Option<&PullSecret>,
        told: Option<&watch::Sender<PullProgress>>,
    ) -> Result<Source, RegistryError> {
        if let Some(secret) = secret {
            secret.check_for(reference)?;
        }
        let registry = reference.registry();
        let credentials = self.credentials(secret);
        let session = |endpoint| {
            Session::new(
                self.clone(),
                reference.clone(),
                endpoint,
                "pull",
                credentials.clone(),
                told.cloned(),
            )
        };
        let mirrors = self.shared.config.mirrors(registry).iter();
        let sessions = mirrors
            .map(|mirror| self.endpoint(mirror, Some(registry)).map(session))
            .collect::<Result<Vec<_>, _>>()?;
        let registry = session(self.endpoint(registry, None)?);
        Ok(Source::new(
            self.clone(),
            sessions,
            registry,
            secret.is_some(),
        ))
    }

    fn credentials(&self, secret: Option<&PullSecret>) -> CredentialSource {
        CredentialSource {
            files: Arc::clone(&self.shared.auth_files),
            secret: secret.cloned(),
        }
    }

    fn endpoint(&self, host: &str, mirror_of: Option<&str>) -> Result<Endpoint, RegistryError> {
        let scheme = if self.shared.config.is_plain_http(host) {
            "http"
        } else {
            "https"
        };
        // Docker Hub's API lives on another host than its name.
        let address = if host == DEFAULT_REGISTRY {
            "index.docker.io"
        } else {
            host
        };
        let base =
            Url::parse(&format!("{scheme}://{address}/")).map_err(|e| RegistryError::Protocol {
                registry: host.into(),
                problem: e.to_string(),
            })?;
        let transport = self.shared.own.get(host).unwrap_or(&self.shared.common);
        Ok(Endpoint {
            host: host.to_owned(),
            label: match mirror_of {
                Some(registry) => format!("{host} (mirror of {registry})"),
                None => host.to_owned(),
            },
            is_mirror: mirror_of.is_some(),
            base,
            transport: Arc::clone(transport),
        })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut text = Vec::new();
    file.take(MAX_CA_FILE + 1)
        .read_to_end(&mut text)
        .map_err(|e| e.to_string())?;
    match text.len() as u64 {
        0 => Err("it is empty".into()),
        length if length > MAX_CA_FILE => Err("it is larger than 4 MiB".into()),
        _ => Ok(text),
    }
}
