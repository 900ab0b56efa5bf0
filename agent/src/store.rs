//! The task folders on disk: `<state>/tasks/<container id>/{task.json,log.jsonl,sandbox/,etc/}`, and what groups share
//! there: `<state>/groups/<holder>/<volume>/`. Persistent volumes: `<state>/reservations.json` says which there are,
//! `<state>/volumes/<folder>/` has what is in them. Blocking I/O, called from the blocking pool by `actor`.
//!
//! A folder appears whole: it is made under another name, synced and renamed. One that does not read is moved to
//! `<state>/quarantine/` and never stops the agent from starting.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    node::ContainerId,
    recovery::{
        checkpoint::{Checkpoint, Log, LogRecord, VERSION},
        plan::Recovered,
    },
    resources::book::Saved,
};

const MAX_CHECKPOINT: u64 = 4 << 20;
const MAX_LOG: u64 = 64 << 20;

/// What this agent reads for reservations and volumes. It writes the oldest that says all:
///
/// | version | has for the first time |
/// |---|---|
/// | 1 | reservations, volumes, ends of changes |
/// | 2 | volumes that are shared, which an older agent would give to one task alone, and then forget that they are |
const BOOK_VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;

fn book_version(saved: &Saved) -> u32 {
    let mut volumes = saved.volumes.iter();
    if volumes.any(|kept| kept.volume.shared) {
        2
    } else {
        1
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    version: u32,
    #[serde(flatten)]
    saved: Saved,
}

/// The folders.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    tasks: PathBuf,
    quarantine: PathBuf,
    groups: PathBuf,
    volumes: PathBuf,
    book: PathBuf,
}

/// One thing to write for a task.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    /// Its folder.
    Create(Box<Checkpoint>),
    /// A changed `task.json` in place of the one before.
    Rewrite(Box<Checkpoint>),
    /// A line of its log.
    Append(LogRecord),
}

impl Store {
    /// Makes the folders, for the owner alone.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        let store = Self {
            tasks: state_dir.join("tasks"),
            quarantine: state_dir.join("quarantine"),
            groups: state_dir.join("groups"),
            volumes: state_dir.join("volumes"),
            book: state_dir.join("reservations.json"),
        };
        for dir in [
            &store.tasks,
            &store.quarantine,
            &store.groups,
            &store.volumes,
        ] {
            private_dir(dir).map_err(|source| Error::State {
                operation: "make the folder",
                path: dir.clone(),
                source,
            })?;
        }
        Ok(store)
    }

    /// A task's folder.
    pub(crate) fn folder(&self, id: &ContainerId) -> PathBuf {
        self.tasks.join(id.as_str())
    }

    /// What a task sees as its sandbox.
    pub(crate) fn sandbox(&self, id: &ContainerId) -> PathBuf {
        self.folder(id).join("sandbox")
    }

    /// The folder of what a group has on the disk.
    pub(crate) fn group(&self, holder: &ContainerId) -> PathBuf {
        self.groups.join(holder.as_str())
    }

    /// Where a volume of a group is, on the machine.
    pub(crate) fn group_volume(&self, holder: &ContainerId, name: &str) -> PathBuf {
        self.group(holder).join(name)
    }

    /// Where a persistent volume is, by the name of its folder.
    pub(crate) fn volume(&self, folder: &str) -> PathBuf {
        self.volumes.join(folder)
    }

    /// What is reserved here, as it was last written; nothing when it never was.
    ///
    /// # Errors
    ///
    /// When it does not read: the agent must not start then, for it would offer what is somebody's.
    pub(crate) fn load_book(&self) -> Result<Saved, Error> {
        let failed = |problem: String| Error::Reservations {
            path: self.book.clone(),
            problem,
        };
        match fs::symlink_metadata(&self.book) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Ok(_) | Err(_) => {}
        }
        let text = read_bounded(&self.book, MAX_CHECKPOINT * 4).map_err(failed)?;
        let parsed: Versioned = serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
        if !BOOK_VERSIONS.contains(&parsed.version) {
            return Err(failed(format!(
                "it has version {}, this agent reads {} to {}",
                parsed.version,
                BOOK_VERSIONS.start(),
                BOOK_VERSIONS.end()
            )));
        }
        let names = parsed.saved.volumes.iter().map(|kept| &kept.folder);
        for name in names.chain(&parsed.saved.destroyed) {
            let is_ours = name.strip_prefix("v-").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            if !is_ours {
                return Err(failed(format!("{name:?} is no name of a volume's folder")));
            }
        }
        Ok(parsed.saved)
    }

    /// Writes it, after the folder of a new volume was made: such a folder without a volume is empty, and in nobody's way.
    pub(crate) fn write_book(&self, saved: &Saved, make: Option<&str>) -> io::Result<()> {
        if let Some(folder) = make {
            let volume = self.volume(folder);
            DirBuilder::new().mode(0o700).create(&volume)?;
            // As a sandbox: whoever the container runs as may write here, and nobody else gets here.
            fs::set_permissions(&volume, Permissions::from_mode(0o1777))?;
            File::open(&self.volumes)?.sync_all()?;
        }
        let text = serde_json::to_vec(&Versioned {
            version: book_version(saved),
            saved: saved.clone(),
        })
        .map_err(io::Error::other)?;
        write_atomically(&self.book, &text)
    }

    /// Removes the content of a destroyed volume; fine when it is gone already.
    pub(crate) fn purge_volume(&self, folder: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.volume(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Makes the folders that the members of a group share.
    pub(crate) fn create_group(&self, holder: &ContainerId, names: &[String]) -> io::Result<()> {
        for name in names {
            let volume = self.group_volume(holder, name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&volume)?;
            // As a sandbox: whoever a member runs as may write here, and nobody else gets here.
            fs::set_permissions(&volume, Permissions::from_mode(0o1777))?;
        }
        Ok(())
    }

    /// Removes them; fine when they are gone already.
    pub(crate) fn remove_group(&self, holder: &ContainerId) -> io::Result<()> {
        match fs::remove_dir_all(self.groups.join(holder.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes the folders of groups that are no more.
    pub(crate) fn sweep_groups(&self, known: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.groups).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !known(name))
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a group's left-over folder");
            }
        }
    }

    /// Writes and syncs, all or nothing of each.
    pub(crate) fn write(&self, id: &ContainerId, write: &Write) -> io::Result<()> {
        match write {
            Write::Create(checkpoint) => self.create(checkpoint),
            Write::Rewrite(checkpoint) => write_atomically(
                &self.folder(id).join("task.json"),
                checkpoint.to_json().as_bytes(),
            ),
            Write::Append(record) => self.append(id, record),
        }
    }

    fn create(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        let fresh = self.tasks.join(format!(".new-{}", checkpoint.container));
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        DirBuilder::new().mode(0o700).create(&fresh)?;
        // Whoever the container runs as may write here; the folder above keeps everybody else out.
        let sandbox = fresh.join("sandbox");
        DirBuilder::new().create(&sandbox)?;
        fs::set_permissions(&sandbox, Permissions::from_mode(0o1777))?;
        let mut file = File::create_new(fresh.join("task.json"))?;
        file.write_all(checkpoint.to_json().as_bytes())?;
        file.sync_all()?;
        File::create_new(fresh.join("log.jsonl"))?;
        File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, self.folder(&checkpoint.container))?;
        File::open(&self.tasks)?.sync_all()
    }

    fn append(&self, id: &ContainerId, record: &LogRecord) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.folder(id).join("log.jsonl"))?;
        let before = file.seek(io::SeekFrom::End(0))?;
        let written = file
            .write_all(record.to_line().as_bytes())
            .and_then(|()| match record {
                LogRecord::Update(_) => file.sync_data(),
                // Lost in a power cut, the status is sent once more.
                LogRecord::Acknowledged(_) | LogRecord::Forgotten => Ok(()),
            });
        if written.is_err() {
            // Half a line must not precede the next attempt.
            let _ = file.set_len(before);
        }
        written
    }

    /// Removes a task's folder; fine when it is gone already.
    pub(crate) fn remove(&self, id: &ContainerId) -> io::Result<()> {
        let trash = self.tasks.join(format!(".trash-{id}"));
        match fs::rename(self.folder(id), &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match fs::remove_dir_all(&trash) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads all folders; what does not read is set aside.
    pub(crate) fn load(&self) -> io::Result<Vec<Recovered>> {
        let mut recovered: Vec<Recovered> = Vec::new();
        for entry in fs::read_dir(&self.tasks)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name.starts_with(".new-") || name.starts_with(".trash-") {
                if let Err(error) = fs::remove_dir_all(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a left-over folder");
                }
                continue;
            }
            match read_folder(&path, &name) {
                Ok(folder) => recovered.push(folder),
                Err(problem) => self.set_aside(&path, &name, &problem),
            }
        }
        recovered.sort_by_key(|folder| folder.checkpoint.created_at_ms);
        Ok(recovered)
    }

    /// Moves a folder out of the way, with one line for the operator.
    pub(crate) fn set_aside(&self, path: &Path, name: &str, problem: &str) {
        let mut to = self.quarantine.join(name);
        let mut n = 1;
        while to.exists() {
            to = self.quarantine.join(format!("{name}.{n}"));
            n += 1;
        }
        match fs::rename(path, &to) {
            Ok(()) => tracing::error!(
                folder = name, moved_to = %to.display(), problem,
                "a task's folder is unusable: it is set aside and its container, if any, is killed"
            ),
            Err(error) => {
                tracing::error!(folder = name, problem, %error, "a task's folder is unusable and cannot be set aside");
            }
        }
    }
}

fn read_folder(path: &Path, name: &str) -> Result<Recovered, String> {
    let id: ContainerId = name
        .parse()
        .map_err(|_| "its name is no container id".to_owned())?;
    let text = read_bounded(&path.join("task.json"), MAX_CHECKPOINT)?;
    let (checkpoint, version) = Checkpoint::from_json(&text).map_err(|error| error.to_string())?;
    if checkpoint.container != id {
        return Err(format!(
            "task.json is of container {}",
            checkpoint.container
        ));
    }
    let log_path = path.join("log.jsonl");
    let text = read_bounded(&log_path, MAX_LOG)?;
    let (log, valid) = Log::parse(&text).map_err(|error| error.to_string())?;
    if valid < text.len() {
        tracing::warn!(container = %id, bytes = text.len() - valid, "the last line of log.jsonl was cut short: dropped");
        OpenOptions::new()
            .write(true)
            .open(&log_path)
            .and_then(|file| file.set_len(valid as u64))
            .map_err(|error| format!("cannot cut log.jsonl: {error}"))?;
    }
    if version < VERSION {
        // Now, and not with the next change: statuses of this version are added to the log from here on.
        let written = write_atomically(&path.join("task.json"), checkpoint.to_json().as_bytes());
        match written {
            Ok(()) => tracing::info!(container = %id, version, to = VERSION, "checkpoint migrated"),
            Err(error) => {
                tracing::warn!(container = %id, version, %error, "checkpoint not migrated; the next start tries again")
            }
        }
    }
    Ok(Recovered { checkpoint, log })
}

fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let file = File::open(path).map_err(|error| format!("cannot open {name}: {error}"))?;
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read {name}: {error}"))?;
    if bytes.len() as u64 > max {
        return Err(format!("{name} is larger than {max} bytes"));
    }
    Ok(bytes)
}

/// Makes a folder that only its owner can enter, also when it was there before.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Writes a small file so that a reader sees the old or the new content, never half.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::RoleName;

    use super::*;
    use crate::task::{status::tests::a_status, tests::a_task};

    fn checkpoint(n: u64) -> Checkpoint {
        Checkpoint {
            container: ContainerId::derive("t", n),
            framework: "f".parse().unwrap(),
            role: RoleName::any(),
            boot_id: "b".into(),
            created_at_ms: n,
            info: a_task("t"),
            holder: None,
            grant: crate::resources::grant::Grant::default(),
        }
    }

    fn update() -> Write {
        Write::Append(LogRecord::Update(Box::new(a_status())))
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = checkpoint(1).container;
        store
            .write(&id, &Write::Create(Box::new(checkpoint(1))))
            .unwrap();
        store.write(&id, &update()).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].checkpoint, checkpoint(1));
        assert_eq!(loaded[0].log.updates, [a_status()]);
        store.remove(&id).unwrap();
        store.remove(&id).unwrap();
        assert!(store.load().unwrap().is_empty());
    }

    #[test]
    fn what_is_reserved_is_read_again_and_a_broken_file_stops_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load_book().unwrap(), Saved::default());
        let saved = Saved {
            destroyed: vec!["v-0a".to_owned()],
            ..Saved::default()
        };
        store.write_book(&saved, Some("v-0a")).unwrap();
        fs::write(store.volume("v-0a").join("data"), "x").unwrap();
        assert_eq!(store.load_book().unwrap(), saved);
        store.purge_volume("v-0a").unwrap();
        store.purge_volume("v-0a").unwrap();
        assert!(!store.volume("v-0a").exists());
        let book = dir.path().join("reservations.json");
        for (bad, part) in [
            (
                "{\"version\":1,\"destroyed\":[\"../tasks\"]}",
                "no name of a volume's folder",
            ),
            (
                "{\"version\":1,\"destroyed\":[\"v-..\"]}",
                "no name of a volume's folder",
            ),
            ("{\"version\":3}", "version 3"),
            ("{\"version\":1,\"res", "EOF"),
        ] {
            fs::write(&book, bad).unwrap();
            let told = store.load_book().unwrap_err().to_string();
            assert!(told.contains(part), "{bad}: {told}");
        }
    }

    #[test]
    fn a_checkpoint_is_replaced_whole_and_half_a_new_one_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut changed = checkpoint(1);
        let id = changed.container.clone();
        store
            .write(&id, &Write::Create(Box::new(checkpoint(1))))
            .unwrap();
        store.write(&id, &update()).unwrap();
        changed.info.limits.memory_high_mb = Some(5);
        store
            .write(&id, &Write::Rewrite(Box::new(changed.clone())))
            .unwrap();
        // As an agent leaves it that dies in the middle of the next change.
        fs::write(store.folder(&id).join("task.new"), "{").unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded[0].checkpoint, changed);
        assert_eq!(loaded[0].log.updates.len(), 1);
    }

    #[test]
    fn a_bad_folder_is_set_aside_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for n in 1..=4 {
            store
                .write(
                    &checkpoint(n).container,
                    &Write::Create(Box::new(checkpoint(n))),
                )
                .unwrap();
        }
        fs::write(
            store.folder(&checkpoint(1).container).join("task.json"),
            "{\"version\":1,",
        )
        .unwrap();
        fs::remove_file(store.folder(&checkpoint(2).container).join("task.json")).unwrap();
        fs::write(
            store.folder(&checkpoint(3).container).join("log.jsonl"),
            "garbage\n",
        )
        .unwrap();
        fs::create_dir(dir.path().join("tasks/not a container")).unwrap();
        fs::create_dir(dir.path().join("tasks/.new-half")).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(
            fs::read_dir(dir.path().join("quarantine")).unwrap().count(),
            4
        );
        assert_eq!(fs::read_dir(dir.path().join("tasks")).unwrap().count(), 1);
    }

    #[test]
    fn what_is_reserved_says_which_agents_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("reservations.json");
        let saved = |shared: bool| -> Saved {
            serde_json::from_value(serde_json::json!({"volumes": [{
                "volume": {
                    "id": "data",
                    "stack": [{"role": "eng", "kind": "dynamic"}],
                    "size_mb": 1,
                    "shared": shared,
                },
                "folder": "v-0a",
            }]}))
            .unwrap()
        };
        for (shared, version) in [(false, 1), (true, 2)] {
            store.write_book(&saved(shared), None).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(&format!("\"version\":{version}")), "{text}");
            assert_eq!(store.load_book().unwrap(), saved(shared));
        }
        let newer = fs::read_to_string(&path).unwrap();
        fs::write(&path, newer.replace("\"version\":2", "\"version\":3")).unwrap();
        let told = store.load_book().unwrap_err().to_string();
        assert!(
            told.contains("it has version 3, this agent reads 1 to 2"),
            "{told}"
        );
    }

    #[test]
    fn half_a_last_line_is_cut_off_so_that_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = checkpoint(1).container;
        store
            .write(&id, &Write::Create(Box::new(checkpoint(1))))
            .unwrap();
        store.write(&id, &update()).unwrap();
        let log = store.folder(&id).join("log.jsonl");
        OpenOptions::new()
            .append(true)
            .open(&log)
            .unwrap()
            .write_all(b"{\"update\":{")
            .unwrap();
        assert_eq!(store.load().unwrap()[0].log.updates.len(), 1);
        store.write(&id, &update()).unwrap();
        assert_eq!(store.load().unwrap()[0].log.updates.len(), 2);
    }
}
