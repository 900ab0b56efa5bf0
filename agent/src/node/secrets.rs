//! Secrets: files in folders of this machine, named by apps. Pull secrets are read when an image is pulled, those of tasks
//! when their container starts.
//!
//! What an app names is a relative path that has been checked, and the kernel sees to it once more that it leads to
//! nothing outside the folder: no link is followed, not even within it. The contents go to the image store or into the
//! container's memory and nowhere else, never into a log or a status.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mezzo_api::model::{SecretSource, TaskInfo, VolumeSource};
use mezzo_images::{MAX_CREDENTIALS_FILE, PullSecret};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

use super::{Secrets, runtime::chain};

/// Longest secret of a task.
const MAX_TASK_SECRET: u64 = 1 << 20;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct PullSecrets(Arc<Path>);

impl PullSecrets {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder.into())
    }

    /// Reads a secret; the error is for the task's status.
    pub(super) fn read(&self, source: &SecretSource) -> Result<PullSecret, String> {
        let named = |problem: String| format!("pull secret \"{source}\": {problem}");
        let text = self.text(source).map_err(named)?;
        PullSecret::parse(source.as_str(), &text).map_err(|error| chain(&error))
    }

    fn text(&self, source: &SecretSource) -> Result<Vec<u8>, String> {
        read_beneath(&self.0, source, MAX_CREDENTIALS_FILE)
    }
}

/// The folder of what tasks may be told.
#[derive(Debug, Clone)]
pub(crate) struct TaskSecrets(Option<Arc<Path>>);

impl TaskSecrets {
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self(folder.map(Into::into))
    }

    /// Whether a task asks for any.
    pub(crate) fn are_wanted_by(info: &TaskInfo) -> bool {
        let is_secret = |source: &VolumeSource| matches!(source, VolumeSource::Secret(_));
        let mut sources = info.container.volumes.iter().map(|volume| &volume.source);
        sources.any(is_secret) || !info.container.secret_env.is_empty()
    }

    /// Everything that a task asks for; the error is for its status and names the secret.
    pub(crate) fn of(&self, info: &TaskInfo) -> Result<Secrets, String> {
        let mut secrets = Secrets::default();
        for volume in &info.container.volumes {
            if let VolumeSource::Secret(source) = &volume.source {
                let content = self.read(source)?;
                secrets.files.push(mezzo_runtime::SecretFile {
                    target: volume.container_path.clone().into(),
                    content: mezzo_runtime::SecretBytes::new(content),
                });
            }
        }
        for variable in &info.container.secret_env {
            let mut content = self.read(&variable.secret)?;
            // An editor ends every file with a line end; nobody wants it in a variable.
            if content.ends_with(b"\n") {
                content.pop();
            }
            let content = mezzo_runtime::SecretBytes::new(content);
            secrets.env.push((variable.name.clone(), content));
        }
        Ok(secrets)
    }

    fn read(&self, source: &SecretSource) -> Result<Vec<u8>, String> {
        let named = |problem: String| format!("secret \"{source}\": {problem}");
        let Some(folder) = &self.0 else {
            return Err(named(
                "this agent has no folder with such secrets (secrets_dir)".to_owned(),
            ));
        };
        let content = read_beneath(folder, source, MAX_TASK_SECRET).map_err(named)?;
        if content.len() as u64 > MAX_TASK_SECRET {
            return Err(named(format!("it is longer than {MAX_TASK_SECRET} bytes")));
        }
        Ok(content)
    }
}

/// What a file of a folder holds, or one byte more than `max`.
fn read_beneath(at: &Path, source: &SecretSource, max: u64) -> Result<Vec<u8>, String> {
    let folder = File::open(at)
        .map_err(|error| format!("cannot open the folder {}: {error}", at.display()))?;
    // A pipe in the file's place would have us wait for its writer.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .mode(Mode::empty())
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
    let file = match openat2(&folder, source.as_str(), how) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR) => {
            return Err(format!("there is no such file in {}", at.display()));
        }
        Err(Errno::ELOOP) => {
            return Err("it is, or lies behind, a symbolic link, which is not followed".into());
        }
        Err(errno) => return Err(format!("cannot open it: {}", errno.desc())),
    };
    let unreadable = |error: io::Error| format!("cannot read it: {error}");
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err("it is not a regular file".into());
    }
    if found.mode() & 0o007 != 0 {
        tracing::warn!(%source, mode = format!("{:o}", found.mode() & 0o777), "a secret is open to all users of this machine: chmod o= it");
    }
    let mut text = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const GOOD: &str = r#"{"auths": {"r.example": {"username": "me", "password": "hush"}}}"#;

    struct Folder {
        dir: tempfile::TempDir,
        secrets: PullSecrets,
    }

    impl Folder {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("secrets/team")).unwrap();
            let secrets = PullSecrets::new(dir.path().join("secrets"));
            Self { dir, secrets }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).unwrap();
        }

        fn refuse(&self, source: &str) -> String {
            let error = self.secrets.read(&source.parse().unwrap()).unwrap_err();
            assert!(error.contains(source), "{error} does not name {source}");
            assert!(!error.contains("hush"), "{error} shows the secret");
            error
        }
    }

    #[test]
    fn a_secret_is_found_by_its_path() {
        let folder = Folder::new();
        folder.write("secrets/team/registry", GOOD);
        let source = "team/registry".parse().unwrap();
        folder.secrets.read(&source).unwrap();
    }

    #[test]
    fn nothing_outside_the_folder_is_read_whatever_lies_in_it() {
        let folder = Folder::new();
        folder.write("outside", GOOD);
        folder.write("secrets/team/real", GOOD);
        let at = |name: &str| folder.dir.path().join("secrets").join(name);
        symlink(folder.dir.path().join("outside"), at("absolute")).unwrap();
        symlink("../outside", at("relative")).unwrap();
        symlink("team/real", at("within")).unwrap();
        symlink(folder.dir.path(), at("folder")).unwrap();
        for source in ["absolute", "relative", "within", "folder/outside"] {
            assert!(folder.refuse(source).contains("symbolic link"), "{source}");
        }
    }

    #[test]
    fn a_tasks_secrets_are_read_whole_and_named_when_they_cannot() {
        let folder = Folder::new();
        folder.write("secrets/team/key", "hush\n");
        folder.write("secrets/large", &" ".repeat((1 << 20) + 1));
        let secrets = TaskSecrets::new(Some(folder.dir.path().join("secrets")));
        let mut task = crate::task::tests::a_task("t");
        let asks = |task: &mut TaskInfo, source: &str| {
            let secret: SecretSource = source.parse().unwrap();
            task.container.volumes = vec![mezzo_api::model::Volume {
                container_path: "/key".into(),
                read_only: true,
                source: VolumeSource::Secret(secret.clone()),
            }];
            task.container.secret_env = vec![mezzo_api::model::SecretEnv {
                name: "KEY".into(),
                secret,
            }];
        };
        asks(&mut task, "team/key");
        let told = secrets.of(&task).unwrap();
        assert_eq!(told.files[0].content.expose(), b"hush\n");
        assert_eq!(told.env[0].1.expose(), b"hush", "without its line end");
        for (source, word) in [("missing", "no such file"), ("large", "longer than")] {
            asks(&mut task, source);
            let error = secrets.of(&task).unwrap_err();
            assert!(error.contains(source) && error.contains(word), "{error}");
        }
        let error = TaskSecrets::new(None).of(&task).unwrap_err();
        assert!(error.contains("secrets_dir"), "{error}");
    }

    #[test]
    fn what_is_no_secret_is_one_clear_error() {
        let folder = Folder::new();
        folder.write("secrets/broken", "{\"auths\": \"hush\"");
        folder.write("secrets/large", &" ".repeat(2 << 20));
        let pipe = folder.dir.path().join("secrets/pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(folder.refuse("missing").contains("no such file"));
        assert!(folder.refuse("broken/deeper").contains("no such file"));
        assert!(folder.refuse("team").contains("not a regular file"));
        assert!(folder.refuse("pipe").contains("not a regular file"));
        assert!(folder.refuse("broken").contains("config.json"));
        assert!(folder.refuse("large").contains("1 MiB"));
        let nowhere = PullSecrets::new(folder.dir.path().join("nowhere"));
        let error = nowhere.read(&"a".parse().unwrap()).unwrap_err();
        assert!(error.contains("nowhere"), "{error}");
    }
}
