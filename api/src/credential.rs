//! What a client shows to the master: `authorization: Bearer NAME:SECRET` with every call.
//!
//! Kept in a file of one line, `NAME:SECRET`, which others must not be able to read. Without one, nothing is sent. A server
//! reads it again when it is told to ([`Credential::keep_current`]), and all that was made of it shows the new one.

use std::{
    fmt,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use thiserror::Error;
use tokio::sync::Notify;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// A connection that shows a credential.
pub type Authorized = InterceptedService<Channel, Credential>;

/// Sent with each call; cheap to clone. Copies stay one: what is read again counts for all of them.
#[derive(Clone, Default)]
pub struct Credential {
    shown: Arc<RwLock<Option<MetadataValue<Ascii>>>>,
    path: Option<Arc<Path>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.shown().is_some() {
            "Credential(…)"
        } else {
            "Credential(none)"
        })
    }
}

/// Why a file holds no credential.
#[derive(Debug, Error)]
pub enum InvalidCredential {
    /// It is not there.
    #[error("cannot read the credential {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no secret.
    #[error("the credential {path} can be read by everybody (mode {mode:o}): chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something else.
    #[error(
        "the credential {path} is not one line `NAME:SECRET`; `mezzo master credential NAME` makes one"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Credential {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    ///
    /// When it cannot be used.
    pub fn read(path: Option<&Path>) -> Result<Self, InvalidCredential> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        Ok(Self {
            shown: Arc::new(RwLock::new(Some(read(path)?))),
            path: Some(path.into()),
        })
    }

    /// Reads the file again: from the next call on it counts, on connections that are open, too. `false`: there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be used; then the former one goes on.
    pub fn reload(&self) -> Result<bool, InvalidCredential> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let fresh = read(path)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        Ok(true)
    }

    /// Reads the file again each time somebody says so. Never ends; can be dropped at any moment.
    pub async fn keep_current(&self, again: &Notify) {
        loop {
            again.notified().await;
            // One line of a file on this machine: not worth a thread.
            match self.reload() {
                Ok(true) => tracing::info!("the credential was read again"),
                Ok(false) => tracing::info!("there is no credential to read again"),
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "the former credential goes on");
                }
            }
        }
    }

    fn shown(&self) -> Option<MetadataValue<Ascii>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        shown.clone()
    }

    /// Reads `NAME:SECRET`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self {
            shown: Arc::new(RwLock::new(Some(parse(text)?))),
            path: None,
        })
    }
}

fn read(path: &Path) -> Result<MetadataValue<Ascii>, InvalidCredential> {
    let read_error = |source| InvalidCredential::Read {
        path: path.to_owned(),
        source,
    };
    let mode = std::fs::metadata(path)
        .map_err(read_error)?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o007 != 0 {
        return Err(InvalidCredential::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    parse(&text).ok_or_else(|| InvalidCredential::Malformed {
        path: path.to_owned(),
    })
}

fn parse(text: &str) -> Option<MetadataValue<Ascii>> {
    let line = text.trim();
    let (name, secret) = line.split_once(':')?;
    if name.is_empty() || secret.is_empty() || line.contains(char::is_whitespace) {
        return None;
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {line}").parse().ok()?;
    // Not to be written into logs.
    value.set_sensitive(true);
    Some(value)
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.shown() {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_name_and_secret_is_sent() {
        let mut credential = Credential::parse("ops:abc\n").unwrap();
        let request = credential.call(Request::new(())).unwrap();
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            "Bearer ops:abc"
        );
        assert!(!format!("{credential:?}").contains("abc"));
        let request = Credential::default().call(Request::new(())).unwrap();
        assert!(request.metadata().is_empty());
        for bad in ["", "ops", ":x", "ops:", "a:b\nc:d", "ops: x"] {
            assert!(Credential::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_read_is_refused() {
        let path = std::env::temp_dir().join(format!("mezzo-credential-{}", std::process::id()));
        std::fs::write(&path, "a:b\n").unwrap();
        let mut told = Vec::new();
        for mode in [0o644, 0o600] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            told.push(Credential::read(Some(&path)).is_ok());
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(told, [false, true]);
        assert!(Credential::read(Some(&path)).is_err());
        assert!(Credential::read(None).is_ok());
    }

    #[test]
    fn what_is_read_again_counts_for_every_copy_and_a_bad_file_changes_nothing() {
        let name = format!("mezzo-credential-again-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("a:old\n");
        let credential = Credential::read(Some(&path)).unwrap();
        let mut copy = credential.clone();
        let mut shown = || {
            let request = copy.call(Request::new(())).unwrap();
            let value = request.metadata().get("authorization").unwrap();
            value.to_str().unwrap().to_owned()
        };
        write("half a line");
        let told = credential.reload().unwrap_err().to_string();
        assert!(told.contains("is not one line"), "{told}");
        assert_eq!(shown(), "Bearer a:old");
        write("a:new\n");
        assert!(credential.reload().unwrap());
        assert_eq!(shown(), "Bearer a:new");
        std::fs::remove_file(&path).unwrap();
        credential.reload().unwrap_err();
        assert_eq!(shown(), "Bearer a:new");
        assert!(!Credential::default().reload().unwrap());
    }
}
