//! Who asks, whether they may, and how often: decided here, for every request and nowhere else.
//!
//! ```text
//! request ──► layer: who is it? ──► may they call this at all? ──► not too often? ──► handler: may they, with this object?
//!              (credentials)         (Guard::authorize)             (buckets)          (Guard::authorize again)
//! ```
//!
//! A principal is known by `authorization: Bearer NAME:SECRET`. Without a credentials file whoever comes from this machine may do
//! all and nobody else anything, unless the operator says `allow_anonymous`. With one, each principal may do what its rules
//! say; a method that has no row in the table of actions is refused, so that a new one is never open by oversight.
//! The file can be read again while the master runs ([`Guard::reload`]); one that is not good changes nothing.
//! `policy` (pure) reads the file and decides, `bucket` (pure) counts calls, `action` names what can be allowed, `layer` is the edge.

mod action;
mod bucket;
mod layer;
mod policy;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use thiserror::Error;
use tokio::sync::Notify;
use tonic::{Request, Status};

pub(crate) use self::{action::Action, layer::check};
use self::{
    bucket::{Bucket, Rate},
    policy::Policy,
};
use crate::{config::Config, metrics::Metrics};

pub use self::policy::{InvalidCredentials, new_credential};

/// Who asks. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Principal {
    /// Gave no credential.
    Anonymous,
    /// Gave a good one.
    Named(Arc<str>),
}

impl Principal {
    /// For messages and for `FrameworkInfo.principal`.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Named(name) => name,
        }
    }
}

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Denied {
    /// From another machine, where only this one is let in.
    #[error(
        "this master takes calls from its own machine only; give it --credentials, or set `allow_anonymous` on a network that you trust"
    )]
    NotLocal,
    /// No credential, and nothing is allowed without one.
    #[error("a credential is needed for that: send `authorization: Bearer NAME:SECRET`")]
    Needed,
    /// It is none.
    #[error("`authorization` is not `Bearer NAME:SECRET`")]
    Malformed,
    /// Wrong name or wrong secret; which of them is nobody's business.
    #[error("the credential is not good: no such principal, or another secret")]
    Wrong,
    /// A good one, with too few rights.
    #[error("{principal} may not {action}{object}")]
    NotAllowed {
        /// Who.
        principal: String,
        /// What.
        action: &'static str,
        /// With what; empty or beginning with a blank.
        object: String,
    },
    /// More calls than its rate.
    #[error("{principal} calls more often than {per_sec} times in a second; again in {} ms", retry.as_millis())]
    TooOften {
        /// Who.
        principal: String,
        /// The rate.
        per_sec: u32,
        /// When a call would be taken.
        retry: Duration,
    },
}

/// gRPC's own name for "not before".
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let text = denied.to_string();
        match denied {
            Denied::NotLocal | Denied::NotAllowed { .. } => Self::permission_denied(text),
            Denied::Needed | Denied::Malformed | Denied::Wrong => Self::unauthenticated(text),
            Denied::TooOften { retry, .. } => {
                let mut status = Self::resource_exhausted(text);
                if let Ok(millis) = retry.as_millis().to_string().parse() {
                    status.metadata_mut().insert(PUSHBACK, millis);
                }
                status
            }
        }
    }
}

/// The one who decides. Shared by all connections.
#[derive(Debug)]
pub(crate) struct Guard {
    mode: Mode,
    rate: Option<Rate>,
    buckets: Mutex<HashMap<Principal, Bucket>>,
}

#[derive(Debug)]
enum Mode {
    /// No credentials: who comes from this machine, or everybody.
    Open { everywhere: bool },
    /// As the file says, or said when it was last read and good.
    Listed {
        path: PathBuf,
        policy: RwLock<Arc<Policy>>,
    },
}

/// The credentials cannot be used.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// It is not there.
    #[error("cannot read the credentials {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others could read it.
    #[error("the credentials {path} can be read by everybody (mode {mode:o}): chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What it says.
    #[error("the credentials {path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: InvalidCredentials,
    },
}

impl Guard {
    /// Reads the credentials, if there are any.
    pub(crate) fn open(config: &Config) -> Result<Self, CredentialsError> {
        let mode = match &config.credentials {
            Some(path) => Mode::Listed {
                path: path.clone(),
                policy: RwLock::new(Arc::new(read(path)?)),
            },
            None => Mode::Open {
                everywhere: config.allow_anonymous,
            },
        };
        Ok(Self {
            mode,
            rate: Rate::new(config.calls_per_sec, config.calls_burst),
            buckets: Mutex::default(),
        })
    }

    fn policy(&self) -> Option<Arc<Policy>> {
        match &self.mode {
            Mode::Open { .. } => None,
            Mode::Listed { policy, .. } => {
                let policy = policy.read().unwrap_or_else(PoisonError::into_inner);
                Some(Arc::clone(&policy))
            }
        }
    }

    /// Reads the credentials again: from the next call on they count, all of them at once. `false`: there is no such file.
    ///
    /// # Errors
    ///
    /// When they cannot be used; then the former ones go on.
    pub(crate) fn reload(&self) -> Result<bool, CredentialsError> {
        let Mode::Listed { path, policy } = &self.mode else {
            return Ok(false);
        };
        let fresh = Arc::new(read(path)?);
        *policy.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        // Of principals that are gone nothing stays, and a new rate counts at once.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.clear();
        Ok(true)
    }

    /// Reads the credentials again each time somebody says so. Never ends; can be dropped at any moment.
    pub(crate) async fn keep_current(self: &Arc<Self>, again: &Notify, metrics: &Metrics) {
        loop {
            again.notified().await;
            let guard = Arc::clone(self);
            let result = tokio::task::spawn_blocking(move || guard.reload()).await;
            match result {
                Ok(Ok(true)) => {
                    metrics.credentials_read(true);
                    tracing::info!("the credentials were read again");
                }
                Ok(Ok(false)) => tracing::info!("this master has no credentials to read again"),
                Ok(Err(error)) => {
                    metrics.credentials_read(false);
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "the former credentials go on");
                }
                Err(error) => tracing::error!(%error, "the former credentials go on"),
            }
        }
    }

    /// Who it is.
    pub(crate) fn authenticate(
        &self,
        authorization: Option<&str>,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Denied> {
        match &self.mode {
            Mode::Open { everywhere } => {
                let local = peer.is_some_and(|peer| peer.to_canonical().is_loopback());
                if *everywhere || local {
                    Ok(Principal::Anonymous)
                } else {
                    Err(Denied::NotLocal)
                }
            }
            Mode::Listed { policy, .. } => {
                let policy = policy.read().unwrap_or_else(PoisonError::into_inner);
                policy.authenticate(authorization)
            }
        }
    }

    /// Whether they may do that. `object` is what it is done to, in the words of the table of actions; `None` asks whether it
    /// may be done to anything at all.
    pub(crate) fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        object: Option<&str>,
    ) -> Result<(), Denied> {
        let Some(policy) = self.policy() else {
            return Ok(());
        };
        if policy.allows(principal, action, object) {
            return Ok(());
        }
        Err(match principal {
            Principal::Anonymous => Denied::Needed,
            Principal::Named(name) => Denied::NotAllowed {
                principal: name.to_string(),
                action: action.name(),
                object: object.map_or_else(String::new, |object| format!(" {object}")),
            },
        })
    }

    /// The same, of a request that passed the layer.
    pub(crate) fn allow<T>(
        &self,
        request: &Request<T>,
        action: Action,
        object: &str,
    ) -> Result<(), Status> {
        let principal = who(request)?;
        Ok(self.authorize(&principal, action, Some(object))?)
    }

    /// Counts a call.
    pub(crate) fn admit(&self, principal: &Principal, now_ms: u64) -> Result<(), Denied> {
        let own = self.policy().and_then(|policy| policy.rate_of(principal));
        let Some(rate) = own.or(self.rate) else {
            return Ok(());
        };
        // Principals come from the file, so that nobody can make this grow.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets
            .entry(principal.clone())
            .or_insert_with(|| Bucket::full(rate, now_ms));
        bucket
            .take(rate, now_ms)
            .map_err(|millis| Denied::TooOften {
                principal: principal.name().to_owned(),
                per_sec: rate.per_sec(),
                retry: Duration::from_millis(millis),
            })
    }

    /// Whether names are proven: then a framework is its principal's.
    pub(crate) fn proves_names(&self) -> bool {
        match self.mode {
            Mode::Open { .. } => false,
            Mode::Listed { .. } => true,
        }
    }
}

/// Whom the layer found.
pub(crate) fn who<T>(request: &Request<T>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    principal.ok_or_else(|| Status::internal("the request came past the guard"))
}

fn read(path: &Path) -> Result<Policy, CredentialsError> {
    use std::os::unix::fs::PermissionsExt as _;

    let read_error = |source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(read_error)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(CredentialsError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    Policy::parse(&text).map_err(|source| CredentialsError::Invalid {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(everywhere: bool) -> Guard {
        let config = Config {
            allow_anonymous: everywhere,
            calls_per_sec: 2,
            ..Config::default()
        };
        Guard::open(&config).unwrap()
    }

    #[test]
    fn without_credentials_only_this_machine_is_let_in() {
        let guard = open(false);
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            let peer = Some(local.parse().unwrap());
            assert_eq!(guard.authenticate(None, peer), Ok(Principal::Anonymous));
        }
        for far in [Some("10.0.0.1".parse().unwrap()), None] {
            assert_eq!(guard.authenticate(None, far), Err(Denied::NotLocal));
            assert_eq!(open(true).authenticate(None, far), Ok(Principal::Anonymous));
        }
    }

    #[test]
    fn who_calls_too_often_is_told_when_to_come_back() {
        let guard = open(false);
        let me = Principal::Anonymous;
        assert!(guard.admit(&me, 1000).is_ok());
        assert!(guard.admit(&me, 1000).is_ok());
        let status = Status::from(guard.admit(&me, 1000).unwrap_err());
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "500");
        assert!(guard.admit(&me, 1500).is_ok());
    }

    #[test]
    fn a_file_that_everybody_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.toml");
        std::fs::write(&path, "[anonymous]\nallow = ['read']\n").unwrap();
        let config = Config {
            credentials: Some(path.clone()),
            ..Config::default()
        };
        for (mode, good) in [(0o644, false), (0o604, false), (0o640, true), (0o600, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match Guard::open(&config) {
                Ok(_) => assert!(good, "{mode:o}"),
                Err(error) => {
                    assert!(!good, "{mode:o}: {error}");
                    assert!(error.to_string().contains("chmod 600"), "{error}");
                }
            }
        }
    }

    #[test]
    fn credentials_are_read_again_whole_or_not_at_all() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.toml");
        let made = |name: &str| {
            let (line, entry) = new_credential(name).unwrap();
            (
                format!("Bearer {line}"),
                entry.replace("allow = []", "allow = ['read']"),
            )
        };
        let ((first, first_entry), (second, second_entry)) = (made("first"), made("second"));
        let put = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        put(&first_entry);
        let config = Config {
            credentials: Some(path.clone()),
            ..Config::default()
        };
        let guard = Guard::open(&config).unwrap();
        let known = |line: &str| guard.authenticate(Some(line), None).is_ok();
        assert!(known(&first) && !known(&second));
        put(&format!("{first_entry}\n{second_entry}"));
        // Not before it is said.
        assert!(!known(&second));
        assert!(guard.reload().unwrap());
        assert!(known(&first) && known(&second));
        put(&format!("{second_entry}\n[[principal]]\nname = 'half'"));
        guard.reload().unwrap_err();
        assert!(known(&first) && known(&second), "the former ones go on");
        put(&second_entry);
        assert!(guard.reload().unwrap());
        assert!(!known(&first) && known(&second));
        assert!(!open(false).reload().unwrap());
    }
}
