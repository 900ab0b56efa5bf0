//! A container's end on disk, in two steps, so that other things can be done while the disk is waited for:
//!
//! ```text
//! put      .exit.json.new, complete     outlives every process
//! settle   synced, then exit.json       outlives a power failure
//! ```
//!
//! Only a settled record is told. One that was put and whose keeper died is settled by whoever finds it.
//!
//! The directory is not synced: where a file is synced that has just been made, its name is made durable with it (ext4
//! with and without a journal, xfs, btrfs). Which of the two names a power failure leaves makes no difference: the first is
//! looked for where the second is not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ContainerDir, RECORD_VERSION, read_record};
use crate::model::ExitRecord;

const SETTLED: &str = "exit.json";
/// Also what programs before this one called it until it was complete.
pub(super) const UNSETTLED: &str = ".exit.json.new";

/// The exit record as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitFile {
    pub(crate) version: u32,
    pub(crate) record: ExitRecord,
}

/// A record that was put, to be settled.
#[derive(Debug)]
pub(crate) struct UnsettledExit {
    file: File,
    from: PathBuf,
    to: PathBuf,
}

impl UnsettledExit {
    /// Waits for the disk.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let context = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.to.display()))
        };
        self.file.sync_all().map_err(context)?;
        fs::rename(&self.from, &self.to).map_err(context)
    }
}

impl ContainerDir {
    /// The first step: from now on the end is known, whoever dies.
    pub(crate) fn put_exit(&self, record: &ExitRecord) -> io::Result<UnsettledExit> {
        let (from, to) = (self.path.join(UNSETTLED), self.path.join(SETTLED));
        let context =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
        let file = ExitFile {
            version: RECORD_VERSION,
            record: record.clone(),
        };
        let bytes = serde_json::to_vec(&file).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = match options.open(&from) {
            // Of an attempt before. A new one, for the sake of its name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&from).map_err(context)?;
                options.open(&from)
            }
            opened => opened,
        }
        .map_err(context)?;
        file.write_all(&bytes).map_err(context)?;
        Ok(UnsettledExit { file, from, to })
    }

    /// Both steps at once.
    pub(crate) fn write_exit(&self, record: &ExitRecord) -> io::Result<()> {
        self.put_exit(record)?.settle()
    }

    /// The end that may be told.
    pub(crate) fn read_exit(&self) -> io::Result<Option<ExitRecord>> {
        Ok(read_record::<ExitFile>(&self.path.join(SETTLED))?.map(|file| file.record))
    }

    /// A record that was put and not settled; to be asked for when there is no settled one and its keeper is gone. One
    /// that is not complete was never put: whatever else a power failure has left there is none.
    pub(crate) fn read_unsettled_exit(&self) -> Option<ExitRecord> {
        let record = read_record::<ExitFile>(&self.path.join(UNSETTLED)).ok()??;
        let own = self
            .path
            .file_name()
            .is_some_and(|name| name == record.record.id.as_str());
        own.then_some(record.record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Exit, Usage};

    fn container() -> (tempfile::TempDir, ContainerDir) {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("c");
        fs::create_dir(&path).unwrap();
        (above, ContainerDir { path })
    }

    fn record(id: &str, code: i32) -> ExitRecord {
        ExitRecord {
            id: id.parse().unwrap(),
            exit: Exit::Code(code),
            oom_killed: false,
            memory_limit_bytes: None,
            started_at_ms: 1,
            finished_at_ms: 2,
            usage: Usage::default(),
        }
    }

    #[test]
    fn a_record_is_known_when_it_was_put_and_told_when_it_is_settled() {
        let (_above, dir) = container();
        assert_eq!(
            (dir.read_exit().unwrap(), dir.read_unsettled_exit()),
            (None, None)
        );
        let unsettled = dir.put_exit(&record("c", 3)).unwrap();
        assert_eq!(dir.read_exit().unwrap(), None);
        assert_eq!(dir.read_unsettled_exit(), Some(record("c", 3)));
        unsettled.settle().unwrap();
        assert_eq!(dir.read_exit().unwrap(), Some(record("c", 3)));
        assert_eq!(dir.read_unsettled_exit(), None);
    }

    #[test]
    fn an_attempt_that_was_cut_short_is_none_and_hinders_nothing() {
        let (_above, dir) = container();
        let whole = {
            dir.put_exit(&record("c", 3)).unwrap();
            fs::read(dir.path.join(UNSETTLED)).unwrap()
        };
        // As a crash leaves it: a part, or zeros in place of all of it, or of the end.
        let zeros = vec![0; whole.len()];
        let half = [&whole[..40], &zeros[40..]].concat();
        for left in [&whole[..0], &whole[..40], &zeros, &half] {
            fs::write(dir.path.join(UNSETTLED), left).unwrap();
            assert_eq!(dir.read_unsettled_exit(), None, "{left:?}");
        }
        dir.write_exit(&record("c", 4)).unwrap();
        assert_eq!(dir.read_exit().unwrap(), Some(record("c", 4)));
        assert!(!dir.path.join(UNSETTLED).exists());
    }

    #[test]
    fn what_belonged_to_another_container_is_no_record() {
        let (_above, dir) = container();
        dir.put_exit(&record("other", 3)).unwrap();
        assert_eq!(dir.read_unsettled_exit(), None);
    }
}
