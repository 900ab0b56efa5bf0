//! A container's output in files of bounded size. At the limit a file is put aside as `.1` (and `.1` as `.2`, up
//! to the number of files kept). Writing never holds the container up: what the disk refuses is dropped and
//! counted, and the count is written when the disk takes data again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::LogLimits;

/// One stream's files.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    length: u64,
    dropped: u64,
}

impl BoundedLog {
    /// Opens the file for appending.
    pub(crate) fn open(path: PathBuf, limits: LogLimits) -> io::Result<Self> {
        let file = open_for_append(&path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            path,
            limits,
            file,
            length,
            dropped: 0,
        })
    }

    /// Appends, starting new files as needed.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        if self.dropped > 0 {
            let note = format!(
                "\n[mezzo: {} bytes of output dropped: the disk refused them]\n",
                self.dropped
            );
            if self.append(note.as_bytes()).is_err() {
                self.dropped += bytes.len() as u64;
                return;
            }
            self.dropped = 0;
        }
        while !bytes.is_empty() {
            if self.length >= self.limits.max_bytes && self.rotate().is_err() {
                // Without a new file the bound can only be kept by dropping.
                self.dropped += bytes.len() as u64;
                return;
            }
            let room = usize::try_from(self.limits.max_bytes - self.length).unwrap_or(usize::MAX);
            let (now, later) = split_for(bytes, room, self.length > 0);
            if self.append(now).is_err() {
                self.dropped += bytes.len() as u64;
                return;
            }
            if !later.is_empty() {
                self.length = self.limits.max_bytes;
            }
            bytes = later;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.limits.files).rev() {
            let from = if number == 1 {
                self.path.clone()
            } else {
                numbered(&self.path, number - 1)
            };
            match fs::rename(from, numbered(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if self.limits.files == 1 {
            self.file.set_len(0)?;
        } else {
            self.file = open_for_append(&self.path)?;
        }
        self.length = 0;
        Ok(())
    }
}

/// What still goes into the current file and what into the next: cut after the last line that fits, if any line
/// ends there and the file has something in it already. Pure.
fn split_for(bytes: &[u8], room: usize, may_leave_room: bool) -> (&[u8], &[u8]) {
    if bytes.len() <= room {
        return (bytes, &[]);
    }
    match bytes[..room].iter().rposition(|byte| *byte == b'\n') {
        Some(end) => bytes.split_at(end + 1),
        None if may_leave_room => (&[], bytes),
        None => bytes.split_at(room),
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<(String, u64)> {
        let mut all: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    entry.metadata().unwrap().len(),
                )
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn the_newest_output_is_kept_within_the_bound_and_lines_stay_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BoundedLog::open(
            dir.path().join("out"),
            LogLimits {
                max_bytes: 100,
                files: 3,
            },
        )
        .unwrap();
        for number in 0..50 {
            log.write(format!("line {number:>3}\n").as_bytes());
        }
        let found = files(dir.path());
        assert_eq!(
            found
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["out", "out.1", "out.2"]
        );
        assert!(found.iter().all(|(_, length)| *length <= 100), "{found:?}");
        let newest = fs::read_to_string(dir.path().join("out")).unwrap();
        assert!(newest.ends_with("line  49\n"));
        for name in ["out", "out.1", "out.2"] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.lines().all(|line| line.len() == 8), "{text:?}");
        }
    }

    #[test]
    fn one_file_starts_over_and_a_long_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BoundedLog::open(
            dir.path().join("out"),
            LogLimits {
                max_bytes: 10,
                files: 1,
            },
        )
        .unwrap();
        log.write(b"0123456789abcdefghijKLM");
        assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "KLM");
        assert_eq!(files(dir.path()).len(), 1);
    }

    #[test]
    fn an_existing_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits {
            max_bytes: 100,
            files: 2,
        };
        BoundedLog::open(dir.path().join("out"), limits)
            .unwrap()
            .write(b"a");
        BoundedLog::open(dir.path().join("out"), limits)
            .unwrap()
            .write(b"b");
        assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "ab");
    }
}
