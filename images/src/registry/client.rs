//! How registries are reached: TLS or not, redirects, deadlines. Makes a `Session` for one image at a time.
//!
//! Redirects from https to http are never followed; reqwest drops the credentials when the host changes.

use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::{Url, redirect};

use super::RegistryError;
use super::session::{Session, chain};
use crate::reference::{Reference, is_loopback};

/// How long a connection may take to be made.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// How to reach registries.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    pub(crate) insecure: Vec<String>,
    pub(crate) auth_file: Option<PathBuf>,
    /// The longest silence of a registry.
    pub(crate) stall: Duration,
}

/// Makes sessions; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RegistryClient {
    http: reqwest::Client,
    /// For this machine's own registries: without the proxy that the environment may name.
    direct: reqwest::Client,
    pub(super) options: Arc<ClientOptions>,
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

/// Whether a registry is spoken to without TLS.
pub(crate) fn is_plain_http(registry: &str, insecure: &[String]) -> bool {
    is_loopback(registry) || insecure.iter().any(|name| name == registry)
}

impl RegistryClient {
    pub(crate) fn new(options: ClientOptions) -> Result<Self, RegistryError> {
        install_crypto();
        let builder = || {
            let policy = redirect::Policy::custom(|attempt| {
                let downgrade = attempt
                    .previous()
                    .last()
                    .is_some_and(|from| from.scheme() == "https")
                    && attempt.url().scheme() != "https";
                if downgrade {
                    attempt.error("it redirects from https to http")
                } else if attempt.previous().len() > 5 {
                    attempt.error("it redirects too often")
                } else {
                    attempt.follow()
                }
            });
            reqwest::Client::builder()
                .connect_timeout(CONNECT)
                .read_timeout(options.stall)
                .redirect(policy)
                .user_agent(concat!("mezzo/", env!("CARGO_PKG_VERSION")))
        };
        let build = |direct: bool| {
            let with = || {
                if direct {
                    builder().no_proxy()
                } else {
                    builder()
                }
            };
            let built = with().build().or_else(|error| {
                tracing::warn!(%error, "no usable CA certificates on this machine: only plain http registries can be reached");
                with().tls_certs_only([]).build()
            });
            built.map_err(|e| RegistryError::Protocol {
                registry: "(none)".into(),
                problem: chain(&e),
            })
        };
        let (http, direct) = (build(false)?, build(true)?);
        Ok(Self {
            http,
            direct,
            options: Arc::new(options),
        })
    }

    /// The client that reaches `url`.
    pub(super) fn http(&self, url: &Url) -> &reqwest::Client {
        let here = url.scheme() == "http" && url.host_str().is_some_and(is_loopback);
        if here { &self.direct } else { &self.http }
    }

    /// Begins a conversation; `scope` is what a token shall allow: `pull` or `pull,push`.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        scope: &'static str,
    ) -> Result<Session, RegistryError> {
        let registry = reference.registry();
        let scheme = if is_plain_http(registry, &self.options.insecure) {
            "http"
        } else {
            "https"
        };
        let base =
            Url::parse(&format!("{scheme}://{}/", reference.registry_host())).map_err(|e| {
                RegistryError::Protocol {
                    registry: registry.into(),
                    problem: e.to_string(),
                }
            })?;
        Ok(Session::new(self.clone(), reference.clone(), base, scope))
    }
}
