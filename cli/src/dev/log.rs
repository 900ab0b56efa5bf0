//! A server's log under `mezzo dev`: bytes into a file of bounded size, the last lines kept for messages.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::render::clean;

/// One file may grow to this; one older file is kept.
const LARGEST: u64 = 8 << 20;
const LAST_LINES: usize = 6;
const LONGEST_LINE: usize = 4 << 10;

/// Where a server's output goes.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    largest: u64,
    line: Vec<u8>,
    last: VecDeque<String>,
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::with_bound(path, LARGEST)
    }

    fn with_bound(path: &Path, largest: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            largest,
            line: Vec::new(),
            last: VecDeque::new(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds output; returns the lines that are complete now.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.line.len() < LONGEST_LINE {
                    self.line.push(byte);
                }
                continue;
            }
            let line = clean(&String::from_utf8_lossy(&self.line));
            self.line.clear();
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line.clone());
            lines.push(line);
        }
        if self.size > 0 && self.size + bytes.len() as u64 > self.largest {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            self.file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(lines)
    }

    /// A new life of the server: what the last one said is not to be taken for its words.
    pub(crate) fn begin(&mut self) {
        self.line.clear();
        self.last.clear();
    }

    pub(crate) fn last_lines(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_within_its_bound_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = Log::with_bound(&path, 100).unwrap();
        for n in 0..100 {
            log.write(format!("line {n}\n").as_bytes()).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap();
        assert!(kept.len() <= 100 && kept.ends_with("line 99\n"), "{kept}");
        assert!(fs::metadata(dir.path().join("x.log.1")).unwrap().len() <= 100);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(log.last_lines().last(), Some("line 99"));
    }

    #[test]
    fn lines_come_whole_and_clean_however_they_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("x.log")).unwrap();
        assert_eq!(log.write(b"a\x1b[1mb").unwrap(), Vec::<String>::new());
        assert_eq!(log.write(b"c\nd\ne").unwrap(), ["a?[1mbc", "d"]);
    }

    #[test]
    fn an_old_log_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        Log::open(&path).unwrap().write(b"one\n").unwrap();
        Log::open(&path).unwrap().write(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
