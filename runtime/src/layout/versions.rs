//! Before anything of a state directory is touched: was it written by a newer program? Its containers would be taken
//! for damaged ones, and run on unwatched.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::exit::UNSETTLED;
use super::{Layout, MAX_RECORD_BYTES, RECORD_VERSION, read_bounded};

/// A record that this program does not know how to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) path: PathBuf,
    pub(crate) version: u64,
}

/// The first newer record of a container or of its network. What does not parse is no newer record.
pub(crate) fn newer(layout: &Layout) -> io::Result<Option<Newer>> {
    let mut paths = Vec::new();
    for entry in listed(&layout.containers())? {
        for name in ["spec.json", "keeper.json", "exit.json", UNSETTLED] {
            paths.push(entry.join(name));
        }
    }
    paths.extend(listed(&layout.root().join("network/leases"))?);
    for path in paths {
        let Ok(Some(bytes)) = read_bounded(&path, MAX_RECORD_BYTES) else {
            continue;
        };
        let version = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|value| value.get("version")?.as_u64());
        if let Some(version) = version.filter(|version| *version > u64::from(RECORD_VERSION)) {
            return Ok(Some(Newer { path, version }));
        }
    }
    Ok(None)
}

fn listed(dir: &std::path::Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::exit::ExitFile;
    use crate::layout::{KeeperRecord, SpecRecord};
    use crate::model::Exit;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        (dir, layout)
    }

    #[test]
    fn a_newer_record_anywhere_is_found_and_nothing_else_is() {
        let (dir, layout) = layout();
        assert_eq!(newer(&layout).unwrap(), None, "nothing is there");
        for (path, text) in [
            ("containers/a/spec.json", r#"{"version":1}"#),
            ("containers/b/spec.json", "{"),
            ("network/leases/a.json", r#"{"version":1}"#),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(newer(&layout).unwrap(), None);
        for name in [
            "containers/b/exit.json",
            "containers/b/.exit.json.new",
            "network/leases/b.json",
        ] {
            let path = dir.path().join(name);
            fs::write(&path, r#"{"version":7,"new":[]}"#).unwrap();
            let version = 7;
            assert_eq!(
                newer(&layout).unwrap(),
                Some(Newer {
                    path: path.clone(),
                    version
                })
            );
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn every_earlier_shape_is_read() {
        let first: SpecRecord =
            serde_json::from_str(include_str!("records/spec-1-first.json")).unwrap();
        assert_eq!((first.id.as_str(), first.user_range), ("web-1", None));
        assert_eq!(first.spec.limits.memory_bytes, Some(33_554_432));
        let limits: SpecRecord =
            serde_json::from_str(include_str!("records/spec-1-limits.json")).unwrap();
        assert_eq!(limits.spec.limits.memory_high, Some(16_777_216));
        let users: SpecRecord =
            serde_json::from_str(include_str!("records/spec-1-users.json")).unwrap();
        assert!(users.user_range.is_some());
        let keeper: KeeperRecord =
            serde_json::from_str(include_str!("records/keeper-1-first.json")).unwrap();
        assert!(keeper.running.unwrap().start_cost.is_none());
        let keeper: KeeperRecord =
            serde_json::from_str(include_str!("records/keeper-1-cost.json")).unwrap();
        assert_eq!(keeper.running.unwrap().start_cost.unwrap().total_us, 4100);
        let exit: ExitFile =
            serde_json::from_str(include_str!("records/exit-1-first.json")).unwrap();
        assert_eq!(exit.record.exit, Exit::Signal(9));
        assert_eq!(exit.record.usage.cpu_total_us, 1500);
    }
}
