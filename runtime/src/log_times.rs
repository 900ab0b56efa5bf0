//! When what was written: beside each log file a small index of (time, offset), so that a reader finds where the last
//! ten minutes begin without a time in what the program wrote.
//!
//! A record says: the bytes from `offset` on, up to the next record's, were written within `span_ms` after `at_ms`.
//! There are at most 2,048 of them, 48 KiB; then neighbours that are close in time become one. The index is a help, not
//! a record: it names the inode of its log, so that one that a crash left beside another file is not believed, and
//! without it a reader gets more than it asked for, never less.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: u64 = u64::from_le_bytes(*b"mezzolt1");
const HEADER: usize = 16;
const RECORD: usize = 24;
const MAX_RECORDS: usize = 2048;
/// Time that one record covers when it is made.
const SPAN_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    at_ms: u64,
    span_ms: u64,
    offset: u64,
}

impl Record {
    fn end_ms(self) -> u64 {
        self.at_ms.saturating_add(self.span_ms)
    }

    fn to_bytes(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.at_ms.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.span_ms.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }
}

/// The writer's side, for one log.
#[derive(Debug)]
pub(crate) struct LogTimes {
    path: PathBuf,
    /// Made with the first record: most logs stay empty.
    file: Option<File>,
    /// The disk refused it: nothing more until the log is a new one.
    broken: bool,
    records: usize,
    last: Option<Record>,
}

impl LogTimes {
    /// Beside a log that begins now or goes on.
    pub(crate) fn open(log: &Path, inode: u64) -> Self {
        let path = times_path(log);
        let mut times = Self {
            path,
            file: None,
            broken: false,
            records: 0,
            last: None,
        };
        if let Some(records) = read(&times.path, inode) {
            times.records = records.len();
            times.last = records.last().copied();
            times.file = append(&times.path).ok();
            times.broken = times.file.is_none();
        }
        times
    }

    /// The log begins anew, in another file or in the same.
    pub(crate) fn begin(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.path);
        }
        self.broken = false;
        self.records = 0;
        self.last = None;
    }

    /// Bytes are about to be written at this offset.
    pub(crate) fn note(&mut self, inode: u64, offset: u64, now_ms: u64) {
        let covered = |last: Record| (last.at_ms..last.end_ms()).contains(&now_ms);
        if self.last.is_some_and(covered) {
            return;
        }
        if self.broken {
            return;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => match write_new(&self.path, inode, &[]) {
                Ok(file) => self.file.insert(file),
                Err(_) => {
                    self.broken = true;
                    return;
                }
            },
        };
        let record = Record {
            at_ms: now_ms,
            span_ms: SPAN_MS,
            offset,
        };
        if file.write_all(&record.to_bytes()).is_err() {
            // Half a record would shift all that follow. Without an index readers get everything.
            self.begin();
            self.broken = true;
            return;
        }
        self.last = Some(record);
        self.records += 1;
        if self.records >= MAX_RECORDS {
            self.thin(inode);
        }
    }

    fn thin(&mut self, inode: u64) {
        let Some(records) = read(&self.path, inode) else {
            self.broken = true;
            return;
        };
        let records = merged(&records);
        self.records = records.len();
        self.last = records.last().copied();
        self.file = write_new(&self.path, inode, &records).ok();
        self.broken = self.file.is_none();
    }

    /// Follows its log to another name.
    pub(crate) fn rename(from: &Path, to: &Path) {
        let _ = fs::rename(times_path(from), times_path(to));
    }
}

/// Half as many records: of pairs that follow each other, those that are closer in time than most become one. Pure.
fn merged(records: &[Record]) -> Vec<Record> {
    let mut gaps: Vec<u64> = records
        .windows(2)
        .map(|pair| pair[1].at_ms.saturating_sub(pair[0].at_ms))
        .collect();
    gaps.sort_unstable();
    let bound = gaps.get(gaps.len() * 3 / 4).copied().unwrap_or(0);
    let mut out: Vec<Record> = Vec::with_capacity(records.len());
    // A record that was merged into stays closed for the next: pairs, not chains.
    let mut open = false;
    for record in records {
        match out.last_mut() {
            Some(last) if open && record.at_ms.saturating_sub(last.at_ms) <= bound => {
                // A clock that was set back: what either covers is covered.
                let end = last.end_ms().max(record.end_ms());
                last.at_ms = last.at_ms.min(record.at_ms);
                last.span_ms = end - last.at_ms;
                open = false;
            }
            _ => {
                out.push(*record);
                open = true;
            }
        }
    }
    out
}

fn times_path(log: &Path) -> PathBuf {
    // `stdout` → `stdout.times`, `stdout.1` → `stdout.1.times`.
    let mut name = log.as_os_str().to_owned();
    name.push(".times");
    PathBuf::from(name)
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn write_new(path: &Path, inode: u64, records: &[Record]) -> io::Result<File> {
    let mut bytes = Vec::with_capacity(HEADER + records.len() * RECORD);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&inode.to_le_bytes());
    for record in records {
        bytes.extend_from_slice(&record.to_bytes());
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&temporary)?;
    file.write_all(&bytes)?;
    fs::rename(&temporary, path)?;
    append(path)
}

/// The records of an index that is of this log; half a record at the end is left out.
fn read(path: &Path, inode: u64) -> Option<Vec<Record>> {
    let mut bytes = Vec::new();
    let longest = (HEADER + (MAX_RECORDS + 1) * RECORD) as u64;
    File::open(path)
        .ok()?
        .take(longest)
        .read_to_end(&mut bytes)
        .ok()?;
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    if number(0)? != MAGIC || number(8)? != inode {
        return None;
    }
    let mut records = Vec::new();
    let mut at = HEADER;
    while let (Some(at_ms), Some(span_ms), Some(offset)) =
        (number(at), number(at + 8), number(at + 16))
    {
        records.push(Record {
            at_ms,
            span_ms,
            offset,
        });
        at += RECORD;
    }
    Some(records)
}

/// Where in an open log that lies at `path` (or did, a moment ago) the bytes begin that were written at a time or after
/// it, in milliseconds since 1970. With them may come what was written up to a second before. Where there is no index:
/// the beginning, unless nothing was written since.
pub fn log_offset_since(log: &File, path: &Path, since_ms: u64) -> io::Result<u64> {
    let metadata = log.metadata()?;
    match read(&times_path(path), metadata.ino()) {
        Some(records) => {
            let first = records.iter().find(|record| record.end_ms() > since_ms);
            Ok(first.map_or(metadata.len(), |record| record.offset.min(metadata.len())))
        }
        None => {
            let modified_ms = metadata.mtime().max(0).unsigned_abs().saturating_mul(1000) + 999;
            Ok(if modified_ms < since_ms {
                metadata.len()
            } else {
                0
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log {
        dir: tempfile::TempDir,
        file: File,
        times: LogTimes,
    }

    impl Log {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = File::create_new(dir.path().join("out")).unwrap();
            let times = LogTimes::open(&dir.path().join("out"), file.metadata().unwrap().ino());
            Self { dir, file, times }
        }

        fn write(&mut self, bytes: usize, now_ms: u64) {
            let (offset, inode) = {
                let metadata = self.file.metadata().unwrap();
                (metadata.len(), metadata.ino())
            };
            self.times.note(inode, offset, now_ms);
            self.file.write_all(&vec![b'x'; bytes]).unwrap();
        }

        fn since(&self, since_ms: u64) -> u64 {
            let path = self.dir.path().join("out");
            log_offset_since(&File::open(&path).unwrap(), &path, since_ms).unwrap()
        }
    }

    #[test]
    fn a_time_is_found_with_at_most_a_second_before_it() {
        let mut log = Log::new();
        log.write(10, 100_000);
        log.write(10, 100_500);
        log.write(10, 200_000);
        log.write(10, 201_500);
        assert_eq!(log.since(0), 0);
        assert_eq!(log.since(100_700), 0);
        // Between two bursts: the older one is left out whole.
        assert_eq!(log.since(101_000), 20);
        assert_eq!(log.since(150_000), 20);
        assert_eq!(log.since(201_000), 30);
        assert_eq!(log.since(300_000), 40);
    }

    #[test]
    fn however_long_a_program_writes_the_index_is_bounded_and_nothing_is_missed() {
        let mut log = Log::new();
        let times: Vec<u64> = (0..9000).map(|n| 1_000_000 + n * 1500).collect();
        for time in &times {
            log.write(1, *time);
        }
        let length = fs::metadata(log.dir.path().join("out.times"))
            .unwrap()
            .len() as usize;
        assert!(length <= HEADER + MAX_RECORDS * RECORD, "{length}");
        for (n, time) in times.iter().enumerate().step_by(97) {
            let from = usize::try_from(log.since(*time)).unwrap();
            assert!(
                from <= n,
                "byte {n} was written at {time}, told from {from} on"
            );
            assert!(n - from < 200, "{n} {from}");
        }
        // The end is not blurred more than the rest.
        assert!(log.since(times[8999]) > 8900);
    }

    #[test]
    fn an_index_of_another_file_is_not_believed_and_one_of_this_goes_on() {
        let mut log = Log::new();
        log.write(10, 5_000_000_000_000);
        let path = log.dir.path().join("out");
        let inode = log.file.metadata().unwrap().ino();
        log.times = LogTimes::open(&path, inode);
        log.write(10, 5_000_000_100_000);
        assert_eq!(log.since(5_000_000_050_000), 10);
        fs::remove_file(&path).unwrap();
        fs::write(log.dir.path().join("other"), "yyyyy").unwrap();
        fs::rename(log.dir.path().join("other"), &path).unwrap();
        // Without an index: everything, unless nothing was written since.
        assert_eq!(log.since(1), 0);
        assert_eq!(log.since(5_000_000_050_000), 5);
        // Half a record, and nonsense.
        fs::write(log.dir.path().join("out.times"), "mezzolt1 nonsense").unwrap();
        assert_eq!(log.since(1), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_hides_nothing() {
        let mut log = Log::new();
        log.write(10, 900_000);
        log.write(10, 500_000);
        log.write(10, 502_000);
        assert_eq!(log.since(501_500), 0);
        assert_eq!(log.since(950_000), 30);
        let records = [
            Record {
                at_ms: 900,
                span_ms: 10,
                offset: 0,
            },
            Record {
                at_ms: 500,
                span_ms: 10,
                offset: 9,
            },
        ];
        let one = merged(&records);
        assert_eq!(
            one,
            [Record {
                at_ms: 500,
                span_ms: 410,
                offset: 0
            }]
        );
    }
}
