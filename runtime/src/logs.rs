//! A container's output in files of bounded size and age. At the limit a file is put aside as `.1` (and `.1` as `.2`,
//! up to the number of files kept); age is looked at when something is written, so that a silent program keeps its
//! last words. Writing never holds the container up: what the disk refuses is dropped and counted, and the count is
//! written when the disk takes data again. What was written when stands beside the files (`log_times`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::log_times::LogTimes;
use crate::model::LogLimits;
use crate::process;

/// One stream's files.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    path: PathBuf,
    limits: LogLimits,
    /// Made with the first byte: many a program says nothing.
    file: Option<File>,
    inode: u64,
    length: u64,
    /// When the file got its first byte; 0 when that is not known.
    born_ms: u64,
    times: LogTimes,
    dropped: u64,
}

impl BoundedLog {
    /// Goes on with the file if it is there.
    pub(crate) fn open(path: PathBuf, limits: LogLimits) -> Self {
        let metadata = fs::metadata(&path).ok();
        let inode = metadata.as_ref().map_or(0, MetadataExt::ino);
        let times = LogTimes::open(&path, inode);
        Self {
            path,
            limits,
            file: None,
            inode,
            length: metadata.map_or(0, |metadata| metadata.len()),
            born_ms: 0,
            times,
            dropped: 0,
        }
    }

    /// Appends, starting new files as needed.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.write_at(bytes, process::now_ms());
    }

    fn write_at(&mut self, mut bytes: &[u8], now_ms: u64) {
        if self.is_old(now_ms) {
            // Refused, it is tried again with the next piece; the bound of size holds anyway.
            let _ = self.rotate();
        }
        if self.dropped > 0 {
            let note = format!(
                "\n[mezzo: {} bytes of output dropped: the disk refused them]\n",
                self.dropped
            );
            if self.append(note.as_bytes(), now_ms) < note.len() {
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
            let taken = self.append(now, now_ms);
            if taken < now.len() {
                self.dropped += (bytes.len() - taken) as u64;
                return;
            }
            if !later.is_empty() {
                self.length = self.limits.max_bytes;
            }
            bytes = later;
        }
    }

    fn is_old(&self, now_ms: u64) -> bool {
        let Some(most) = self.limits.max_age_secs else {
            return false;
        };
        let age_ms = now_ms.saturating_sub(self.born_ms);
        self.born_ms > 0 && self.length > 0 && age_ms >= most.saturating_mul(1000)
    }

    /// How much of it the disk took: a disk that fills up takes a part.
    fn append(&mut self, bytes: &[u8], now_ms: u64) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        if self.born_ms == 0 {
            self.born_ms = now_ms;
        }
        let Ok(mut file) = self.file.take().map_or_else(|| self.begin(), Ok) else {
            return 0;
        };
        self.times.note(self.inode, self.length, now_ms);
        let mut taken = 0;
        while taken < bytes.len() {
            match file.write(&bytes[taken..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(length) => taken += length,
            }
        }
        self.file = Some(file);
        self.length += taken as u64;
        taken
    }

    fn begin(&mut self) -> io::Result<File> {
        let file = open_for_append(&self.path)?;
        self.inode = file.metadata()?.ino();
        Ok(file)
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.limits.files).rev() {
            let from = if number == 1 {
                self.path.clone()
            } else {
                numbered(&self.path, number - 1)
            };
            let to = numbered(&self.path, number);
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => LogTimes::rename(&from, &to),
            }
        }
        if self.limits.files > 1 {
            self.file = None;
        } else if let Some(file) = &self.file {
            file.set_len(0)?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.length = 0;
        self.born_ms = 0;
        self.times.begin();
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
            .filter(|entry| entry.path().extension().is_none_or(|end| end != "times"))
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
                max_age_secs: None,
            },
        );
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

    /// In a mount namespace of a thread of its own, which goes with the thread.
    fn with_a_small_disk(test: impl FnOnce(&Path) + Send + 'static) {
        use nix::mount::{MsFlags, mount};
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let thread = std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            let (kind, size) = (Some("tmpfs"), Some("size=64k"));
            mount(kind, dir.path(), kind, MsFlags::empty(), size).unwrap();
            test(dir.path());
            nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        });
        thread.join().unwrap();
    }

    #[test]
    fn what_a_full_disk_refuses_is_dropped_and_counted_to_the_byte() {
        with_a_small_disk(|dir| {
            let path = dir.join("out");
            let limits = LogLimits {
                max_bytes: 1 << 20,
                files: 2,
                max_age_secs: None,
            };
            let mut log = BoundedLog::open(path.clone(), limits);
            log.write(b"first\n");
            // All but a page or two is somebody else's.
            fs::write(dir.join("ballast"), vec![0; 40 << 10]).unwrap();
            let line = [b"x".repeat(99), b"\n".to_vec()].concat();
            let mut said = b"first\n".len() as u64;
            while log.dropped < 5_000 {
                log.write(&line);
                said += line.len() as u64;
                assert!(said < 1 << 20, "the disk does not fill up");
            }
            let kept = fs::read_to_string(&path).unwrap();
            assert_eq!(log.length, kept.len() as u64, "parts are counted");
            let dropped = said - kept.len() as u64;
            assert_eq!(log.dropped, dropped);
            // Told as soon as there is room again, before what comes then.
            fs::remove_file(dir.join("ballast")).unwrap();
            log.write(b"last\n");
            let note =
                format!("\n[mezzo: {dropped} bytes of output dropped: the disk refused them]\n");
            assert_eq!(
                fs::read_to_string(&path).unwrap(),
                format!("{kept}{note}last\n")
            );
            assert_eq!(log.dropped, 0);
        });
    }

    #[test]
    fn one_file_starts_over_and_a_long_line_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BoundedLog::open(
            dir.path().join("out"),
            LogLimits {
                max_bytes: 10,
                files: 1,
                max_age_secs: None,
            },
        );
        log.write(b"0123456789abcdefghijKLM");
        assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "KLM");
        assert_eq!(files(dir.path()).len(), 1);
    }

    #[test]
    fn a_file_that_is_old_is_put_aside_with_the_next_output_and_times_go_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let limits = LogLimits {
            max_bytes: 1000,
            files: 2,
            max_age_secs: Some(60),
        };
        let mut log = BoundedLog::open(path.clone(), limits);
        log.write_at(b"first\n", 1_000_000);
        log.write_at(b"second\n", 1_059_999);
        assert_eq!(files(dir.path()).len(), 1);
        log.write_at(b"third\n", 1_060_000);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("out.1").as_str(), read("out").as_str()),
            ("first\nsecond\n", "third\n")
        );
        let since = |name: &str, time| {
            let path = dir.path().join(name);
            crate::log_times::log_offset_since(&File::open(&path).unwrap(), &path, time).unwrap()
        };
        assert_eq!((since("out.1", 1_050_000), since("out", 1_050_000)), (6, 0));
    }

    #[test]
    fn times_of_the_only_file_begin_anew_with_it_and_an_empty_log_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let limits = LogLimits {
            max_bytes: 10,
            files: 1,
            max_age_secs: None,
        };
        let mut log = BoundedLog::open(path.clone(), limits);
        assert!(!dir.path().join("out.times").exists());
        log.write_at(b"123456789\n", 1_000_000);
        log.write_at(b"b\n", 2_000_000);
        let since = |time| {
            crate::log_times::log_offset_since(&File::open(&path).unwrap(), &path, time).unwrap()
        };
        assert_eq!((since(1_500_000), since(2_500_000)), (0, 2));
    }

    #[test]
    fn an_existing_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits {
            max_bytes: 100,
            files: 2,
            max_age_secs: None,
        };
        BoundedLog::open(dir.path().join("out"), limits).write(b"a");
        BoundedLog::open(dir.path().join("out"), limits).write(b"b");
        assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "ab");
    }
}
