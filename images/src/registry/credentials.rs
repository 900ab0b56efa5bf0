//! Where credentials are looked for: files in the order of Docker and podman, or one secret that an app brought.
//!
//! What is found goes to the registry it was found for, and nowhere else: `session` asks for its own host only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::docker_config::{Credentials, DockerConfig, Place};
use super::{RegistryError, helper};
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// Files and secrets larger than this are refused.
pub const MAX_CREDENTIALS_FILE: u64 = 1 << 20;

/// Credentials that come with one pull, such as those an app names; a text like Docker's `config.json`.
#[derive(Clone)]
pub struct PullSecret {
    name: String,
    config: DockerConfig,
    /// Of the text: two pulls with the same credentials are one.
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullSecret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl PullSecret {
    /// Reads a secret; `name` is for messages.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, RegistryError> {
        let bad = |problem: String| RegistryError::PullSecret {
            name: name.to_owned(),
            problem,
        };
        if text.len() as u64 > MAX_CREDENTIALS_FILE {
            return Err(bad("it is larger than 1 MiB".into()));
        }
        let config = DockerConfig::parse(text).map_err(bad)?;
        if config.has_helpers() {
            return Err(bad(
                "it has \"credsStore\" or \"credHelpers\", but no program is run for a pull secret; put the credentials into \"auths\"".into(),
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            config,
            fingerprint: Sha256::digest(text).into(),
        })
    }

    /// What tells one secret from another.
    pub(crate) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// A secret that says nothing about the image's registry is a mistake, told before anything is asked.
    pub(crate) fn check_for(&self, reference: &Reference) -> Result<(), RegistryError> {
        match self.find(reference.registry(), reference.repository())? {
            Some(_) => Ok(()),
            None => Err(RegistryError::PullSecret {
                name: self.name.clone(),
                problem: format!("it has no \"auths\" entry for {}", reference.registry()),
            }),
        }
    }

    fn find(&self, registry: &str, repository: &str) -> Result<Option<Credentials>, RegistryError> {
        let places = self.config.places(registry, repository);
        let places = places.map_err(|problem| RegistryError::PullSecret {
            name: self.name.clone(),
            problem,
        })?;
        Ok(places.into_iter().find_map(|place| match place {
            Place::Here(credentials) => Some(credentials),
            Place::Helper(_) => None,
        }))
    }
}

/// Where one conversation looks for credentials.
#[derive(Debug, Clone)]
pub(crate) struct CredentialSource {
    pub(crate) files: Arc<[PathBuf]>,
    /// With it, the files count for mirrors only.
    pub(crate) secret: Option<PullSecret>,
}

impl CredentialSource {
    /// What to prove who we are with at `registry`, a mirror or the registry of the image's name.
    pub(crate) async fn find(
        &self,
        registry: &str,
        repository: &str,
        is_mirror: bool,
    ) -> Result<Option<Credentials>, RegistryError> {
        if let Some(secret) = &self.secret {
            let found = secret.find(registry, repository)?;
            if found.is_some() || !is_mirror {
                return Ok(found);
            }
        }
        for path in self.files.iter() {
            let bad = |problem| RegistryError::Credentials {
                path: path.clone(),
                problem,
            };
            let Some(config) = load(path.clone()).await.map_err(bad)? else {
                continue;
            };
            for place in config.places(registry, repository).map_err(bad)? {
                let found = match place {
                    Place::Here(credentials) => Some(credentials),
                    Place::Helper(name) => {
                        helper::ask(&name, &server_url(registry), helper::DEADLINE)
                            .await
                            .map_err(bad)?
                    }
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// What a person does about a refusal.
    pub(crate) fn hint(&self) -> String {
        if let Some(secret) = &self.secret {
            return format!(
                "check the name, or the credentials for it in the pull secret {:?}",
                secret.name
            );
        }
        match &*self.files {
            [] => "check the name, or configure credentials for it".into(),
            files => {
                let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
                format!(
                    "check the name, or the credentials for it in {}",
                    files.join(" or ")
                )
            }
        }
    }
}

/// The files in which credentials may be, in the order in which they count:
/// `$DOCKER_CONFIG/config.json`, `$REGISTRY_AUTH_FILE`, podman's `auth.json` of this user, `~/.docker/config.json`
/// (unless `DOCKER_CONFIG` names another place).
#[must_use]
pub fn credential_files() -> Vec<PathBuf> {
    let user = nix::unistd::geteuid().as_raw();
    files_from(|name| std::env::var_os(name).map(PathBuf::from), user)
}

fn files_from(variable: impl Fn(&str) -> Option<PathBuf>, user: u32) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    let docker = variable("DOCKER_CONFIG");
    let mut files = Vec::new();
    files.extend(docker.as_ref().map(|folder| folder.join("config.json")));
    files.extend(variable("REGISTRY_AUTH_FILE"));
    // Where podman looks when there is no session, as for root's services.
    let runtime = variable("XDG_RUNTIME_DIR")
        .map(|folder| folder.join("containers/auth.json"))
        .unwrap_or_else(|| Path::new("/run/containers").join(format!("{user}/auth.json")));
    files.push(runtime);
    if docker.is_none() {
        files.extend(variable("HOME").map(|home| home.join(".docker/config.json")));
    }
    files
}

/// Reads a file off the async threads; none if there is none.
async fn load(path: PathBuf) -> Result<Option<DockerConfig>, String> {
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    match read.map_err(|e| format!("reading it was interrupted: {e}"))?? {
        Some(text) => DockerConfig::parse(&text).map(Some),
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // A pipe in the file's place would have us wait for its writer.
    let opened = std::fs::File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut text = Vec::new();
    file.take(MAX_CREDENTIALS_FILE + 1)
        .read_to_end(&mut text)
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_CREDENTIALS_FILE {
        return Err("the file is larger than 1 MiB".into());
    }
    Ok(Some(text))
}

/// A registry as helpers know it: Docker Hub goes by the URL that Docker has always used.
fn server_url(registry: &str) -> String {
    if registry == DEFAULT_REGISTRY {
        "https://index.docker.io/v1/".into()
    } else {
        registry.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_for_in_the_order_of_docker_and_podman() {
        let files = |set: &[(&str, &str)]| {
            let set: Vec<(String, PathBuf)> = set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), PathBuf::from(value)))
                .collect();
            let found = files_from(
                |name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()),
                7,
            );
            found
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            files(&[("HOME", "/h")]),
            ["/run/containers/7/auth.json", "/h/.docker/config.json"]
        );
        assert_eq!(
            files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/x")]),
            ["/x/containers/auth.json", "/h/.docker/config.json"]
        );
        assert_eq!(
            files(&[
                ("HOME", "/h"),
                ("XDG_RUNTIME_DIR", "/x"),
                ("REGISTRY_AUTH_FILE", "/r.json"),
                ("DOCKER_CONFIG", "/d")
            ]),
            ["/d/config.json", "/r.json", "/x/containers/auth.json"]
        );
        assert_eq!(
            files(&[("DOCKER_CONFIG", "")]),
            ["/run/containers/7/auth.json"]
        );
    }

    #[test]
    fn a_pull_secret_that_is_no_use_is_refused_with_its_name() {
        let refuse = |text: &str| match PullSecret::parse("team/registry", text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{text} was accepted"),
        };
        for text in [
            "{",
            r#"{"credsStore": "x"}"#,
            r#"{"credHelpers": {"a": "x"}}"#,
        ] {
            let error = refuse(text);
            assert!(error.contains("team/registry"), "{error}");
        }
        let secret = PullSecret::parse("s", br#"{"auths": {"r.example": {"auth": "bWU6eA=="}}}"#);
        let secret = secret.unwrap();
        secret.check_for(&"r.example/a".parse().unwrap()).unwrap();
        let error = secret.check_for(&"busybox".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("docker.io"), "{error}");
    }

    #[tokio::test]
    async fn the_first_file_that_knows_the_registry_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            folder.path().join("not-there"),
            file("one", r#"{"auths": {"a.example": {"auth": "b25lOng="}}}"#),
            file(
                "two",
                r#"{"auths": {"a.example": {"auth": "dHdvOng="}, "b.example": {"auth": "dHdvOng="}}}"#,
            ),
        ];
        let source = CredentialSource {
            files: files.to_vec().into(),
            secret: None,
        };
        let user = async |registry: &str| match source.find(registry, "x", false).await.unwrap() {
            Some(Credentials::Password { user, .. }) => Some(user),
            Some(Credentials::IdentityToken(_)) | None => None,
        };
        assert_eq!(user("a.example").await.as_deref(), Some("one"));
        assert_eq!(user("b.example").await.as_deref(), Some("two"));
        assert_eq!(user("c.example").await, None);
        // A folder or a pipe where a file should be is an error, not an endless wait.
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for odd in [folder.path().to_path_buf(), pipe] {
            let source = CredentialSource {
                files: vec![odd].into(),
                secret: None,
            };
            let error = source.find("a.example", "x", false).await.unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }

    #[tokio::test]
    async fn with_a_secret_the_machines_own_credentials_serve_mirrors_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let both =
            r#"{"auths": {"r.example": {"auth": "bWU6eA=="}, "m.example": {"auth": "bWU6eA=="}}}"#;
        std::fs::write(&path, both).unwrap();
        let secret = br#"{"auths": {"other.example": {"auth": "bWU6eA=="}}}"#;
        let source = CredentialSource {
            files: vec![path].into(),
            secret: Some(PullSecret::parse("s", secret).unwrap()),
        };
        assert_eq!(source.find("r.example", "x", false).await.unwrap(), None);
        assert!(source.find("m.example", "x", true).await.unwrap().is_some());
    }
}
