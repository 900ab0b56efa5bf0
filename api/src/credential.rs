//! What a client shows to the master: `authorization: Bearer NAME:SECRET` with every call.
//!
//! Kept in a file of one line, `NAME:SECRET`, which others must not be able to read. Without one, nothing is sent.

use std::{
    fmt,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// A connection that shows a credential.
pub type Authorized = InterceptedService<Channel, Credential>;

/// Sent with each call; cheap to clone.
#[derive(Clone, Default)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
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
        Self::parse(&text).ok_or_else(|| InvalidCredential::Malformed {
            path: path.to_owned(),
        })
    }

    /// Reads `NAME:SECRET`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.trim();
        let (name, secret) = line.split_once(':')?;
        if name.is_empty() || secret.is_empty() || line.contains(char::is_whitespace) {
            return None;
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {line}").parse().ok()?;
        // Not to be written into logs.
        value.set_sensitive(true);
        Some(Self(Some(value)))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
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
}
