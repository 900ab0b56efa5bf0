//! Reads a task's logs: from the oldest byte, a time, or the last lines, to the end or on and on. Bounded memory: one
//! chunk per stream, whoever reads how slowly.
//!
//! The keeper rotates a log by renaming it to `.1` (and `.1` to `.2`, ...) and beginning a new one; a reader that has one
//! open reads it to its end and goes on with the ones that came after it, so that nothing is lost as long as the files
//! are kept. What was rotated away unread is told as a gap.

use std::{
    io::SeekFrom,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use mezzo_api::proto;
use tokio::{
    fs::File,
    io::{self, AsyncReadExt as _, AsyncSeekExt as _},
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::Answers;
use crate::{
    actor::{Command, Handle},
    node::{ContainerId, Runtime, Stream},
};

const CHUNK: usize = 32 * 1024;
/// How often a follower looks for more.
const USUAL_PACE: Duration = Duration::from_millis(100);
/// How often where a person waits for the echo of what they type.
const TYPING_PACE: Duration = Duration::from_millis(15);
/// How long it waits at least between two questions whether the task has ended.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// More files than a log can have.
const MOST_FILES: u32 = 101;

type Chunks = mpsc::Sender<Result<proto::LogChunk, Status>>;

/// The chunks. Reading ends when the answer is dropped.
pub(super) fn read(
    handle: Handle,
    runtime: Arc<dyn Runtime>,
    container: ContainerId,
    request: proto::ReadLogRequest,
) -> Answers<proto::LogChunk> {
    let (sender, chunks) = mpsc::channel(4);
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let stdout = Reader::new(
            runtime.log_path(&container, Stream::Stdout),
            proto::LogStream::Stdout,
            &sender,
        );
        let stderr = Reader::new(
            runtime.log_path(&container, Stream::Stderr),
            proto::LogStream::Stderr,
            &sender,
        );
        let wanted = request.stream();
        let from = From {
            tail: request.tail_lines,
            since_ms: request.since_ms,
        };
        let follow = request.follow.then_some(&handle);
        let task_id = request.task_id.as_str();
        let result = match wanted {
            proto::LogStream::Stdout => stdout.run(from, follow, task_id).await,
            proto::LogStream::Stderr => stderr.run(from, follow, task_id).await,
            proto::LogStream::Unspecified if request.follow => tokio::try_join!(
                stdout.run(from, follow, task_id),
                stderr.run(from, follow, task_id)
            )
            .map(|_| ()),
            proto::LogStream::Unspecified => match stdout.run(from, follow, task_id).await {
                Ok(()) => stderr.run(from, follow, task_id).await,
                Err(error) => Err(error),
            },
        };
        finish(&sender, result).await;
    }));
    while_read(chunks, task)
}

/// What a program with a terminal writes from the moment at which `begun` is told: all of that is its standard output.
pub(super) fn read_terminal(
    handle: Handle,
    runtime: Arc<dyn Runtime>,
    container: ContainerId,
    task_id: String,
    begun: oneshot::Sender<()>,
) -> Answers<proto::LogChunk> {
    let (sender, chunks) = mpsc::channel(4);
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let path = runtime.log_path(&container, Stream::Stdout);
        let mut stdout = Reader::new(path, proto::LogStream::Stdout, &sender);
        stdout.pace = TYPING_PACE;
        let from = From {
            tail: Some(0),
            since_ms: None,
        };
        let result = match stdout.begin(from).await {
            Ok(current) => {
                let _ = begun.send(());
                stdout.follow(current, &handle, &task_id).await
            }
            Err(error) => Err(error),
        };
        finish(&sender, result).await;
    }));
    while_read(chunks, task)
}

async fn finish(sender: &Chunks, result: io::Result<()>) {
    if let Err(error) = result {
        let told = Status::internal(format!("cannot read the log: {error}"));
        let _ = sender.send(Err(told)).await;
    }
}

/// The reading ends with whoever reads the answers.
fn while_read(
    chunks: mpsc::Receiver<Result<proto::LogChunk, Status>>,
    reading: AbortOnDropHandle<()>,
) -> Answers<proto::LogChunk> {
    Box::pin(ReceiverStream::new(chunks).map(move |chunk| {
        let _reading = &reading;
        chunk
    }))
}

struct Reader<'a> {
    path: PathBuf,
    stream: proto::LogStream,
    sender: &'a Chunks,
    pace: Duration,
}

impl<'a> Reader<'a> {
    fn new(path: PathBuf, stream: proto::LogStream, sender: &'a Chunks) -> Self {
        Self {
            path,
            stream,
            sender,
            pace: USUAL_PACE,
        }
    }

    async fn run(&self, from: From, follow: Option<&Handle>, task_id: &str) -> io::Result<()> {
        let current = self.begin(from).await?;
        match follow {
            Some(handle) => self.follow(current, handle, task_id).await,
            None => Ok(()),
        }
    }

    /// Sends what is there, from where it is asked for; gives the file that is written to now.
    async fn begin(&self, from: From) -> io::Result<Option<File>> {
        let mut files = open_all(&self.path, from.since_ms).await?;
        if let Some(lines) = from.tail {
            let mut left = lines;
            for (file, begin) in files.iter_mut().rev() {
                left = seek_to_last_lines(file, *begin, left).await?;
            }
        } else {
            for (file, begin) in &mut files {
                file.seek(SeekFrom::Start(*begin)).await?;
            }
        }
        for (file, _) in &mut files {
            self.send_rest(file, false).await?;
        }
        Ok(files.pop().map(|(file, _)| file))
    }

    async fn follow(
        &self,
        mut current: Option<File>,
        handle: &Handle,
        task_id: &str,
    ) -> io::Result<()> {
        let mut ticks = tokio::time::interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = tokio::time::Instant::now();
        loop {
            ticks.tick().await;
            if self.sender.is_closed() {
                return Ok(());
            }
            // Asked before the last reading, so that nothing written before the end is missed.
            let over = asked.elapsed() >= ASK_EVERY && {
                asked = tokio::time::Instant::now();
                let id = task_id.to_owned();
                handle
                    .ask(|reply| Command::Find(id, reply))
                    .await
                    .ok()
                    .flatten()
                    .is_none_or(|found| found.ended)
            };
            self.catch_up(&mut current).await?;
            if over {
                return Ok(());
            }
        }
    }

    /// Sends what was written since, through all the files it went to.
    async fn catch_up(&self, current: &mut Option<File>) -> io::Result<()> {
        let mut gap = false;
        loop {
            let now = open(&self.path).await?;
            let same = inode(now.as_ref()).await? == inode(current.as_ref()).await?;
            if let Some(file) = current {
                // With one file kept, that one begins anew.
                if file.metadata().await?.len() < file.stream_position().await? {
                    file.seek(SeekFrom::Start(0)).await?;
                    gap = true;
                }
                // One that was put aside before this reading is complete.
                self.send_rest(file, gap).await?;
            }
            if same || now.is_none() {
                return Ok(());
            }
            let mut files = open_all(&self.path, None).await?;
            let mut known = None;
            for (n, (file, _)) in files.iter().enumerate() {
                if inode(Some(file)).await? == inode(current.as_ref()).await? {
                    known = Some(n);
                }
            }
            // Not among them any more: so may be others that came after it.
            gap = known.is_none() && current.is_some();
            let Some((last, _)) = files.pop() else {
                return Ok(());
            };
            for (file, _) in files.iter_mut().skip(known.map_or(0, |n| n + 1)) {
                self.send_rest(file, gap).await?;
                gap = false;
            }
            *current = Some(last);
        }
    }

    async fn send_rest(&self, file: &mut File, mut gap: bool) -> io::Result<()> {
        loop {
            let mut data = vec![0; CHUNK];
            let n = file.read(&mut data).await?;
            if n == 0 && !gap {
                return Ok(());
            }
            data.truncate(n);
            let chunk = proto::LogChunk {
                stream: self.stream.into(),
                data,
                gap,
            };
            gap = false;
            if self.sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, Default)]
struct From {
    /// The last lines of what is asked for else.
    tail: Option<u64>,
    /// Unix milliseconds.
    since_ms: Option<u64>,
}

async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All files of a log, the oldest first, each with the place where what was written since a time begins; also when they
/// are rotated right now.
async fn open_all(path: &Path, since_ms: Option<u64>) -> io::Result<Vec<(File, u64)>> {
    let mut files = Vec::new();
    for _ in 0..5 {
        files.clear();
        let current = open(path).await?;
        let before = inode(current.as_ref()).await?;
        if let Some(file) = current {
            files.push(begin(file, path, since_ms).await?);
        }
        // In the middle of a rotation one number is missing, never two.
        let mut missing = 0;
        for number in 1.. {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            let name = PathBuf::from(name);
            match open(&name).await? {
                Some(file) => {
                    missing = 0;
                    files.push(begin(file, &name, since_ms).await?);
                }
                None => missing += 1,
            }
            if missing == 2 || number >= MOST_FILES {
                break;
            }
        }
        files.reverse();
        let after = open(path).await?;
        if before.is_some() && inode(after.as_ref()).await? == before {
            return Ok(files);
        }
        if before.is_none() && files.is_empty() {
            return Ok(files);
        }
    }
    // Rotated faster than it can be listed: what was seen last, each file once.
    let mut seen = Vec::new();
    let mut once = Vec::new();
    for (file, begin) in files {
        let id = inode(Some(&file)).await?;
        if !seen.contains(&id) {
            seen.push(id);
            once.push((file, begin));
        }
    }
    Ok(once)
}

async fn begin(file: File, path: &Path, since_ms: Option<u64>) -> io::Result<(File, u64)> {
    let Some(since_ms) = since_ms else {
        return Ok((file, 0));
    };
    let (file, path) = (file.into_std().await, path.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let offset = mezzo_runtime::log_offset_since(&file, &path, since_ms)?;
        Ok::<_, io::Error>((File::from_std(file), offset))
    });
    found.await.map_err(io::Error::other)?
}

async fn inode(file: Option<&File>) -> io::Result<Option<(u64, u64)>> {
    match file {
        Some(file) => {
            let metadata = file.metadata().await?;
            Ok(Some((metadata.dev(), metadata.ino())))
        }
        None => Ok(None),
    }
}

/// Puts the position before the last lines behind a place; gives how many lines are missing.
async fn seek_to_last_lines(file: &mut File, begin: u64, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 || begin >= end {
        return Ok(lines);
    }
    let mut start = end;
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    while start > begin {
        let n = (start - begin).min(CHUNK as u64);
        start -= n;
        file.seek(SeekFrom::Start(start)).await?;
        let part = &mut chunk[..usize::try_from(n).expect("a chunk's length fits")];
        file.read_exact(part).await?;
        for (at, byte) in part.iter().enumerate().rev() {
            let position = start + at as u64;
            // The line end of the last line does not begin another one.
            if *byte == b'\n' && position + 1 < end {
                found += 1;
                if found == lines {
                    file.seek(SeekFrom::Start(position + 1)).await?;
                    return Ok(0);
                }
            }
        }
    }
    file.seek(SeekFrom::Start(begin)).await?;
    // The first line has no line end before it.
    Ok(lines.saturating_sub(found + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(path: &Path, tail: Option<u64>) -> String {
        let (sender, mut chunks) = mpsc::channel(64);
        let from = From {
            tail,
            since_ms: None,
        };
        Reader::new(path.into(), proto::LogStream::Stdout, &sender)
            .run(from, None, "t")
            .await
            .unwrap();
        drop(sender);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend(chunk.unwrap().data);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn the_last_lines_reach_into_the_rotated_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        assert_eq!(text(&path, None).await, "");
        std::fs::write(dir.path().join("stdout.1"), "a\nb\n").unwrap();
        std::fs::write(&path, "c\nd\nhalf").unwrap();
        assert_eq!(text(&path, None).await, "a\nb\nc\nd\nhalf");
        for (lines, expected) in [
            (0, ""),
            (1, "half"),
            (2, "d\nhalf"),
            (3, "c\nd\nhalf"),
            (4, "b\nc\nd\nhalf"),
            (5, "a\nb\nc\nd\nhalf"),
            (99, "a\nb\nc\nd\nhalf"),
        ] {
            assert_eq!(text(&path, Some(lines)).await, expected, "{lines} lines");
        }
    }

    #[tokio::test]
    async fn lines_are_counted_across_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, lines.concat()).unwrap();
        assert_eq!(text(&path, Some(10_000)).await, lines[10_000..].concat());
    }

    #[tokio::test]
    async fn the_last_lines_reach_through_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        for (name, lines) in [
            ("stdout.2", "a\n"),
            ("stdout.1", "b\nc\n"),
            ("stdout", "d\n"),
        ] {
            std::fs::write(dir.path().join(name), lines).unwrap();
        }
        assert_eq!(text(&path, None).await, "a\nb\nc\nd\n");
        assert_eq!(text(&path, Some(2)).await, "c\nd\n");
        assert_eq!(text(&path, Some(4)).await, "a\nb\nc\nd\n");
        // The middle of a rotation: `.1` has become `.2`, the current one is still where it was.
        std::fs::rename(dir.path().join("stdout.2"), dir.path().join("stdout.3")).unwrap();
        std::fs::rename(dir.path().join("stdout.1"), dir.path().join("stdout.2")).unwrap();
        assert_eq!(text(&path, None).await, "a\nb\nc\nd\n");
    }

    /// Several rotations between two looks: every file is read, in order, and what is gone for good is told as a gap.
    #[tokio::test]
    async fn a_follower_reads_through_rotations_and_tells_of_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let name = |n: u32| match n {
            0 => path.clone(),
            n => dir.path().join(format!("stdout.{n}")),
        };
        let rotate = |keep: u32| {
            for n in (1..keep).rev() {
                let _ = std::fs::rename(name(n - 1), name(n));
            }
        };
        let (sender, mut chunks) = mpsc::channel(64);
        let reader = Reader::new(path.clone(), proto::LogStream::Stdout, &sender);
        let mut told = move || {
            let (mut text, mut gap) = (Vec::new(), false);
            while let Ok(chunk) = chunks.try_recv() {
                let chunk = chunk.unwrap();
                gap |= chunk.gap;
                text.extend(chunk.data);
            }
            (String::from_utf8(text).unwrap(), gap)
        };
        std::fs::write(&path, "1\n").unwrap();
        let mut current = open(&path).await.unwrap();
        reader.catch_up(&mut current).await.unwrap();
        assert_eq!(told(), ("1\n".to_owned(), false));
        // It goes on in its old file, and three more follow before the next look.
        std::fs::write(&path, "1\n2\n").unwrap();
        for line in ["3\n", "4\n", "5\n"] {
            rotate(10);
            std::fs::write(&path, line).unwrap();
        }
        reader.catch_up(&mut current).await.unwrap();
        assert_eq!(told(), ("2\n3\n4\n5\n".to_owned(), false));
        // With two files kept, the same loses some: that is told.
        for line in ["6\n", "7\n", "8\n", "9\n"] {
            rotate(2);
            std::fs::write(&path, line).unwrap();
            for n in 2..10 {
                let _ = std::fs::remove_file(name(n));
            }
        }
        reader.catch_up(&mut current).await.unwrap();
        assert_eq!(told(), ("8\n9\n".to_owned(), true));
        // The only file begins anew.
        std::fs::write(&path, "").unwrap();
        std::fs::write(&path, "0\n").unwrap();
        reader.catch_up(&mut current).await.unwrap();
        assert_eq!(told().0, "", "as long as before: not to be told apart");
        std::fs::write(&path, "").unwrap();
        reader.catch_up(&mut current).await.unwrap();
        std::fs::write(&path, "x\n").unwrap();
        reader.catch_up(&mut current).await.unwrap();
        assert_eq!(told(), ("x\n".to_owned(), true));
    }
}
