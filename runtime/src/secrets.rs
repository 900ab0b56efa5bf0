//! Secrets of a container: files and variables that are in no record, on no disk and in no argument list.
//!
//! ```text
//! runtime ──memory file──► launcher ──► keeper ──► creator: a memory file system of the container's own,
//!                                                  charged to its cgroup; variables into the specification in memory
//! ```
//!
//! The files belong to the container's user, mode 0400, and are mounted read-only one by one where they are wanted. They
//! live as long as the container, whatever becomes of the runtime. Variables are the first program's alone: who runs
//! another program in the container beside it gives it none of them.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{MountBuilder, Spec};
use serde::{Deserialize, Serialize};

use crate::error::StartFailure;
use crate::mount::{NODEV, NOEXEC, NOSUID};
use crate::sys::mounts::{self, FsOption};

/// Most bytes of all secrets of one container.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Most of them.
pub(crate) const MAX_COUNT: usize = 256;

/// What a container is told in confidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Files that appear inside.
    pub files: Vec<SecretFile>,
    /// Variables of the program, by name; they win over others.
    pub env: Vec<(String, SecretBytes)>,
}

/// A file that appears in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// Absolute path inside; made if missing.
    pub target: PathBuf,
    /// What is in it.
    pub content: SecretBytes,
}

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes them.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Gives them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes that are not shown", self.0.len())
    }
}

/// What comes before the bytes, in their order; each with its length.
#[derive(Serialize, Deserialize)]
struct Head {
    files: Vec<(PathBuf, usize)>,
    env: Vec<(String, usize)>,
}

impl Secrets {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.env.is_empty()
    }

    /// All of them in a memory file, for a process that is given its descriptor.
    pub(crate) fn pack(&self) -> io::Result<OwnedFd> {
        let head = Head {
            files: self
                .files
                .iter()
                .map(|file| (file.target.clone(), file.content.0.len()))
                .collect(),
            env: self
                .env
                .iter()
                .map(|(name, value)| (name.clone(), value.0.len()))
                .collect(),
        };
        let mut file = File::from(memfd_create("mezzo-secrets", MFdFlags::MFD_CLOEXEC)?);
        let mut text = serde_json::to_vec(&head).map_err(io::Error::other)?;
        text.push(b'\n');
        file.write_all(&text)?;
        let values = self.env.iter().map(|(_, value)| value);
        for content in self.files.iter().map(|file| &file.content).chain(values) {
            file.write_all(&content.0)?;
        }
        Ok(file.into())
    }

    /// From such a file. Its offset is nobody's business: several processes share it.
    pub(crate) fn unpack(packed: OwnedFd) -> io::Result<Self> {
        let file = File::from(packed);
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or_else(short)?;
        let head: Head = serde_json::from_slice(&bytes[..end])?;
        let mut rest = &bytes[end + 1..];
        let mut take = |length: usize| -> io::Result<SecretBytes> {
            let mut content = vec![0; length];
            rest.read_exact(&mut content)?;
            Ok(SecretBytes(content))
        };
        let mut secrets = Self::default();
        for (target, length) in head.files {
            let content = take(length)?;
            secrets.files.push(SecretFile { target, content });
        }
        for (name, length) in head.env {
            secrets.env.push((name, take(length)?));
        }
        Ok(secrets)
    }

    /// Puts them into a container that is being made: files into a memory file system below `stage`, owned by these
    /// numbers of the host, and both into its specification, which stays in memory.
    pub(crate) fn put(
        &self,
        stage: &Path,
        owner: (u32, u32),
        oci: &mut Spec,
    ) -> Result<(), StartFailure> {
        let failed = |error: io::Error| StartFailure::Mount {
            reason: format!("a memory file system for secrets: {error}"),
        };
        if !self.files.is_empty() {
            let sources = self.make(stage, owner).map_err(failed)?;
            let mut mounts = oci.mounts().clone().unwrap_or_default();
            for (file, source) in self.files.iter().zip(sources) {
                let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec", "ro"];
                let mount = MountBuilder::default()
                    .destination(&file.target)
                    .typ("bind")
                    .source(source)
                    .options(options.map(str::to_owned).to_vec())
                    .build()
                    .map_err(StartFailure::internal)?;
                mounts.push(mount);
            }
            oci.set_mounts(Some(mounts));
        }
        if let Some(process) = oci.process_mut()
            && !self.env.is_empty()
        {
            let mut env = process.env().clone().unwrap_or_default();
            for (name, value) in &self.env {
                let value = std::str::from_utf8(&value.0).map_err(StartFailure::internal)?;
                env.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
                env.push(format!("{name}={value}"));
            }
            process.set_env(Some(env));
        }
        Ok(())
    }

    /// Where each file is now.
    fn make(&self, stage: &Path, (uid, gid): (u32, u32)) -> io::Result<Vec<PathBuf>> {
        let place = stage.join("secrets");
        fs::create_dir(&place)?;
        let options = [
            FsOption::Text("mode", b"0711"),
            FsOption::Text("size", b"8m"),
        ];
        let mounted = mounts::fs_mount(c"tmpfs", &options, NOSUID | NODEV | NOEXEC)?;
        mounts::attach_mount(mounted.as_fd(), File::open(&place)?.as_fd())?;
        let mut sources = Vec::new();
        for (n, secret) in self.files.iter().enumerate() {
            let path = place.join(n.to_string());
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o400)
                .open(&path)?;
            file.write_all(&secret.content.0)?;
            fchown(&file, Some(uid), Some(gid))?;
            sources.push(path);
        }
        Ok(sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Secrets {
        let bytes = |text: &str| SecretBytes::new(text.into());
        Secrets {
            files: vec![
                SecretFile {
                    target: "/run/key".into(),
                    content: SecretBytes::new(vec![0, b'\n', 255]),
                },
                SecretFile {
                    target: "/empty".into(),
                    content: bytes(""),
                },
            ],
            env: vec![("TOKEN".into(), bytes("hush"))],
        }
    }

    #[test]
    fn what_is_packed_is_unpacked_however_often() {
        let packed = some().pack().unwrap();
        for _ in 0..2 {
            assert_eq!(
                Secrets::unpack(packed.try_clone().unwrap()).unwrap(),
                some()
            );
        }
    }

    #[test]
    fn they_are_not_shown() {
        let shown = format!("{:?}", some());
        assert!(
            !shown.contains("hush") && shown.contains("/run/key"),
            "{shown}"
        );
    }
}
