//! Files into and out of a running container, by the runtime's `copy`: this file carries parts between its blocking walk
//! and the stream. Bounded: so many copies at once, a few parts under way in each, and a caller that neither takes nor
//! sends anything for a while is given up.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use mezzo_api::proto::{self, copy_from_part, copy_to_part};
use mezzo_runtime::copy::{Copied, CopyError, Entry, Kind, Part, TreeWriter, read_tree};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Answers;
use crate::node::{ContainerId, Runtime, RuntimeError};

const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// Silence of the caller after which it is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Parts under way.
const QUEUE: usize = 4;

/// The right to copy, if there is one left.
pub(super) fn place(copies: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(copies).try_acquire_owned().map_err(|_| {
        Status::resource_exhausted(
            "as many copies as this agent makes at once are under way; try again",
        )
    })
}

/// The container's root directory, and its root as the machine numbers users.
pub(super) fn root(
    runtime: &dyn Runtime,
    container: &ContainerId,
) -> Result<(OwnedFd, u32), Status> {
    runtime.root_dir(container).map_err(|error| match error {
        RuntimeError::NotFound(_) => Status::failed_precondition("the task has ended"),
        RuntimeError::Invalid(message) => Status::invalid_argument(message),
        RuntimeError::Other(message) => Status::failed_precondition(message),
    })
}

fn status(error: &CopyError) -> Status {
    match error {
        CopyError::NotFound(_) => Status::not_found(error.to_string()),
        CopyError::Nonsense(_) => Status::invalid_argument(error.to_string()),
        CopyError::Refused { .. } | CopyError::Io { .. } => {
            Status::failed_precondition(error.to_string())
        }
        CopyError::Gone => Status::cancelled(error.to_string()),
    }
}

fn copied(copied: &Copied) -> proto::Copied {
    proto::Copied {
        entries: copied.entries,
        bytes: copied.bytes,
        left_out: copied.left_out,
    }
}

/// The tree at a path, part by part; ends when the answer is dropped.
pub(super) fn read(
    root: OwnedFd,
    path: Vec<u8>,
    place: OwnedSemaphorePermit,
) -> Answers<proto::CopyFromPart> {
    let (sender, parts) = mpsc::channel(QUEUE);
    let here = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let send = |part| {
            let sent = here.block_on(tokio::time::timeout(SILENCE, sender.send(part)));
            matches!(sent, Ok(Ok(())))
        };
        let part = |part| Ok(proto::CopyFromPart { part: Some(part) });
        let mut told = |found: Part| {
            send(part(match found {
                Part::Entry(entry) => copy_from_part::Part::Entry(from_entry(entry)),
                Part::Data(bytes) => copy_from_part::Part::Data(bytes),
            }))
        };
        let last = match read_tree(&root, &path, &mut told) {
            Ok(done) => part(copy_from_part::Part::End(copied(&done))),
            Err(error) => Err(status(&error)),
        };
        send(last);
        drop(place);
    });
    Box::pin(ReceiverStream::new(parts))
}

/// The first message, which must be Start.
pub(super) async fn first(
    parts: &mut Streaming<proto::CopyToPart>,
) -> Result<copy_to_part::Start, Status> {
    let message = tokio::time::timeout(FIRST_MESSAGE, parts.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no first message"))??;
    match message.and_then(|message| message.part) {
        Some(copy_to_part::Part::Start(start)) => Ok(start),
        _ => Err(Status::invalid_argument(
            "the first message must be `start`",
        )),
    }
}

/// Makes the tree that the caller sends.
pub(super) async fn write(
    (root, owner): (OwnedFd, u32),
    path: Vec<u8>,
    mut parts: Streaming<proto::CopyToPart>,
) -> Result<proto::Copied, Status> {
    let (sender, mut queue) = mpsc::channel::<Part>(QUEUE);
    // Said only when everything has come: a caller that breaks off must not leave half a file.
    let (complete, is_complete) = oneshot::channel::<()>();
    let writing = tokio::task::spawn_blocking(move || {
        // Everything belongs to the container's root: so it does with any tool inside.
        let mut writer = TreeWriter::open(&root, &path, Some((owner, owner)))?;
        while let Some(part) = queue.blocking_recv() {
            writer.take(part)?;
        }
        match is_complete.blocking_recv() {
            Ok(()) => writer.finish(),
            Err(_) => Err(CopyError::Gone),
        }
    });
    let fed = feed(&mut parts, sender).await;
    if fed.is_ok() {
        let _ = complete.send(());
    } else {
        drop(complete);
    }
    let made = writing
        .await
        .map_err(|error| Status::internal(format!("the copy broke: {error}")))?;
    match (fed, made) {
        // The caller's own mistake says more than that it is gone.
        (Err(status), Err(CopyError::Gone)) => Err(status),
        (_, Err(error)) => Err(status(&error)),
        (Err(status), Ok(_)) => Err(status),
        (Ok(()), Ok(done)) => Ok(copied(&done)),
    }
}

async fn feed(
    parts: &mut Streaming<proto::CopyToPart>,
    sender: mpsc::Sender<Part>,
) -> Result<(), Status> {
    loop {
        let message = tokio::time::timeout(SILENCE, parts.message())
            .await
            .map_err(|_| Status::deadline_exceeded("nothing came for a minute"))??;
        let Some(message) = message else {
            return Ok(());
        };
        let part = match message.part {
            Some(copy_to_part::Part::Entry(entry)) => Part::Entry(to_entry(entry)?),
            Some(copy_to_part::Part::Data(bytes)) => Part::Data(bytes),
            Some(copy_to_part::Part::Start(_)) | None => {
                return Err(Status::invalid_argument("a part is an entry or data"));
            }
        };
        if sender.send(part).await.is_err() {
            // The writer tells why.
            return Ok(());
        }
    }
}

fn from_entry(entry: Entry) -> proto::CopyEntry {
    use proto::copy_entry::Kind as To;
    proto::CopyEntry {
        path: entry.path,
        mode: entry.mode,
        modified_secs: entry.modified_secs,
        kind: Some(match entry.kind {
            Kind::File(size) => To::FileSize(size),
            Kind::Directory => To::Directory(true),
            Kind::Link(target) => To::LinkTarget(target),
        }),
    }
}

fn to_entry(entry: proto::CopyEntry) -> Result<Entry, Status> {
    use proto::copy_entry::Kind as From;
    Ok(Entry {
        path: entry.path,
        mode: entry.mode,
        modified_secs: entry.modified_secs,
        kind: match entry.kind {
            Some(From::FileSize(size)) => Kind::File(size),
            Some(From::Directory(_)) => Kind::Directory,
            Some(From::LinkTarget(target)) => Kind::Link(target),
            None => return Err(Status::invalid_argument("entry.kind: is missing")),
        },
    })
}
