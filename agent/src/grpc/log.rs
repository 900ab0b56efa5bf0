//! Reads a task's logs: from the oldest byte or the last lines, to the end or on and on. Bounded memory: one chunk per
//! stream, whoever reads how slowly.
//!
//! The keeper rotates a log by renaming it to `.1` and beginning a new one; a reader that has the old one open reads
//! it to its end first.

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
    sync::mpsc,
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
const POLL: Duration = Duration::from_millis(100);
/// Rounds of polling between two questions whether the task has ended.
const ASK_EVERY: u32 = 3;

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
        let (tail, follow) = (request.tail_lines, request.follow.then_some(&handle));
        let task_id = request.task_id.as_str();
        let result = match wanted {
            proto::LogStream::Stdout => stdout.run(tail, follow, task_id).await,
            proto::LogStream::Stderr => stderr.run(tail, follow, task_id).await,
            proto::LogStream::Unspecified if request.follow => tokio::try_join!(
                stdout.run(tail, follow, task_id),
                stderr.run(tail, follow, task_id)
            )
            .map(|_| ()),
            proto::LogStream::Unspecified => match stdout.run(tail, follow, task_id).await {
                Ok(()) => stderr.run(tail, follow, task_id).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            let _ = sender
                .send(Err(Status::internal(format!(
                    "cannot read the log: {error}"
                ))))
                .await;
        }
    }));
    Box::pin(ReceiverStream::new(chunks).map(move |chunk| {
        let _reading = &task;
        chunk
    }))
}

struct Reader<'a> {
    path: PathBuf,
    stream: proto::LogStream,
    sender: &'a Chunks,
}

impl<'a> Reader<'a> {
    fn new(path: PathBuf, stream: proto::LogStream, sender: &'a Chunks) -> Self {
        Self {
            path,
            stream,
            sender,
        }
    }

    async fn run(
        &self,
        tail: Option<u64>,
        follow: Option<&Handle>,
        task_id: &str,
    ) -> io::Result<()> {
        let (older, mut current) = open_both(&self.path).await?;
        if let Some(lines) = tail {
            let mut left = lines;
            if let Some(current) = &mut current {
                left = seek_to_last_lines(current, left).await?;
            }
            if let Some(mut older) = older
                && left > 0
            {
                seek_to_last_lines(&mut older, left).await?;
                self.send_rest(&mut older).await?;
            }
        } else if let Some(mut older) = older {
            self.send_rest(&mut older).await?;
        }
        if let Some(current) = &mut current {
            self.send_rest(current).await?;
        }
        match follow {
            Some(handle) => self.follow(current, handle, task_id).await,
            None => Ok(()),
        }
    }

    async fn follow(
        &self,
        mut current: Option<File>,
        handle: &Handle,
        task_id: &str,
    ) -> io::Result<()> {
        let mut ticks = tokio::time::interval(POLL);
        let mut round = 0_u32;
        loop {
            ticks.tick().await;
            if self.sender.is_closed() {
                return Ok(());
            }
            round = round.wrapping_add(1);
            // Asked before the last reading, so that nothing written before the end is missed.
            let over = round.is_multiple_of(ASK_EVERY) && {
                let id = task_id.to_owned();
                handle
                    .ask(|reply| Command::Find(id, reply))
                    .await
                    .ok()
                    .flatten()
                    .is_none_or(|found| found.ended)
            };
            if let Some(file) = &mut current {
                self.send_rest(file).await?;
            }
            if let Some(newer) = replaced(&self.path, current.as_ref()).await? {
                if let Some(file) = &mut current {
                    self.send_rest(file).await?;
                }
                let newer = current.insert(newer);
                self.send_rest(newer).await?;
            }
            if over {
                return Ok(());
            }
        }
    }

    async fn send_rest(&self, file: &mut File) -> io::Result<()> {
        loop {
            let mut data = vec![0; CHUNK];
            let n = file.read(&mut data).await?;
            if n == 0 {
                return Ok(());
            }
            data.truncate(n);
            let chunk = proto::LogChunk {
                stream: self.stream.into(),
                data,
            };
            if self.sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The rotated part and the current one, also when it is rotated right now.
async fn open_both(path: &Path) -> io::Result<(Option<File>, Option<File>)> {
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(".1");
    let rotated = PathBuf::from(rotated);
    for _ in 0..5 {
        let current = open(path).await?;
        let older = open(&rotated).await?;
        if inode(current.as_ref()).await? != inode(older.as_ref()).await? || current.is_none() {
            return Ok((older, current));
        }
    }
    Ok((None, open(path).await?))
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

/// The file that has taken the open one's name, if it has.
async fn replaced(path: &Path, current: Option<&File>) -> io::Result<Option<File>> {
    let Some(now) = open(path).await? else {
        return Ok(None);
    };
    let same = inode(Some(&now)).await? == inode(current).await?;
    Ok((!same).then_some(now))
}

/// Puts the position before the last lines; gives how many lines are missing.
async fn seek_to_last_lines(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(0);
    }
    let mut start = end;
    let mut found = 0;
    let mut chunk = vec![0; CHUNK];
    while start > 0 {
        let n = start.min(CHUNK as u64);
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
    file.seek(SeekFrom::Start(0)).await?;
    // The first line has no line end before it.
    Ok(lines.saturating_sub(found + u64::from(end > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(path: &Path, tail: Option<u64>) -> String {
        let (sender, mut chunks) = mpsc::channel(64);
        Reader::new(path.into(), proto::LogStream::Stdout, &sender)
            .run(tail, None, "t")
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
}
