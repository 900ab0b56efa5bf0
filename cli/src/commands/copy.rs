//! `mezzo task cp`: files between this machine and a task's container.
//!
//! Both sides use the runtime's `copy`: what a container sends is placed beneath the folder named here and nowhere
//! else, and what lies here is told without following links.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
};

use mezzo_api::proto::{self, copy_from_part, copy_to_part};
use mezzo_runtime::copy::{Copied, CopyError, Entry, Kind, Part, TreeWriter, read_tree};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Context, task};
use crate::{args::task::CopyArgs, client::master::Master, failure::Failure, output::say, render};

/// Parts that may wait for the network.
const QUEUE: usize = 8;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Here(String),
    Task { task: String, path: String },
}

/// `TASK:PATH`, or a path of this machine. A path with a colon in its first name is written `./a:b`. Pure.
fn end(text: &str) -> End {
    match text.split_once(':') {
        Some((task, path)) if !task.is_empty() && !task.contains('/') && !task.starts_with('.') => {
            End::Task {
                task: task.to_owned(),
                path: path.to_owned(),
            }
        }
        Some(_) | None => End::Here(text.to_owned()),
    }
}

/// Carries it out.
pub(crate) async fn run(
    context: &Context,
    master: &mut Master,
    args: &CopyArgs,
) -> Result<(), Failure> {
    let (copied, sentence) = match (end(&args.from), end(&args.to)) {
        (End::Task { task, path }, End::Here(to)) => {
            let copied = from_task(master, &task, &path, &to).await?;
            (copied, format!("to {}", render::clean(&to)))
        }
        (End::Here(from), End::Task { task, path }) => {
            let copied = to_task(master, &from, &task, &path).await?;
            (copied, format!("to {}", render::clean(&args.to)))
        }
        (End::Here(_), End::Here(_)) => {
            return Err(Failure::usage(
                "neither side is in a task; give one as TASK:PATH, like web.instance-1a:/etc/hosts",
            ));
        }
        (End::Task { .. }, End::Task { .. }) => {
            return Err(Failure::usage(
                "both sides are in tasks; copy to this machine first",
            ));
        }
    };
    if copied.left_out > 0 {
        say(&format!(
            "left out: {} (devices, sockets, pipes, other file systems)",
            entries(copied.left_out)
        ));
    }
    let value = json!({
        "entries": copied.entries,
        "bytes": copied.bytes,
        "left_out": copied.left_out,
    });
    context.output.done(
        &value,
        &format!(
            "copied {}, {}, {sentence}",
            entries(copied.entries),
            render::bytes(copied.bytes)
        ),
    )
}

fn entries(n: u64) -> String {
    if n == 1 {
        "1 entry".to_owned()
    } else {
        format!("{n} entries")
    }
}

/// The whole machine, in which paths of a person's command line are resolved.
fn root() -> Result<OwnedFd, Failure> {
    File::open("/")
        .map(OwnedFd::from)
        .map_err(|error| Failure::failed(format!("cannot open /: {error}")))
}

/// A path from the root on, its end as it was typed: `DIR/.` means what is in it.
fn absolute(path: &str) -> Result<Vec<u8>, Failure> {
    if path.is_empty() {
        return Err(Failure::usage("a path is empty"));
    }
    if path.starts_with('/') {
        return Ok(path.as_bytes().to_vec());
    }
    let mut whole = std::env::current_dir()
        .map_err(|error| Failure::failed(format!("no current directory: {error}")))?
        .into_os_string()
        .into_vec();
    whole.push(b'/');
    whole.extend_from_slice(path.as_bytes());
    Ok(whole)
}

fn local(error: &CopyError) -> Failure {
    match error {
        CopyError::NotFound(_) => Failure::NotFound(error.to_string()),
        CopyError::Refused { .. }
        | CopyError::Nonsense(_)
        | CopyError::Io { .. }
        | CopyError::Gone => Failure::failed(error.to_string()),
    }
}

async fn from_task(
    master: &mut Master,
    task: &str,
    path: &str,
    to: &str,
) -> Result<proto::Copied, Failure> {
    let target = absolute(to)?;
    let (task, mut node) = task::find_node(master, task).await?;
    let request = proto::CopyFromRequest {
        task_id: task.id,
        path: path.as_bytes().to_vec(),
    };
    let mut parts = node.copy_from(request).await?;
    let mut writer = TreeWriter::open(&root()?, &target, None).map_err(|error| local(&error))?;
    loop {
        let message = parts
            .message()
            .await
            .map_err(|status| node.refused(&status))?;
        let part = match message.and_then(|message| message.part) {
            Some(copy_from_part::Part::Entry(entry)) => Part::Entry(to_entry(entry)?),
            Some(copy_from_part::Part::Data(bytes)) => Part::Data(bytes),
            Some(copy_from_part::Part::End(told)) => {
                let made = writer.finish().map_err(|error| local(&error))?;
                return Ok(proto::Copied {
                    entries: made.entries,
                    bytes: made.bytes,
                    left_out: told.left_out,
                });
            }
            None => return Err(Failure::failed("the agent broke off in the middle")),
        };
        writer.take(part).map_err(|error| local(&error))?;
    }
}

async fn to_task(
    master: &mut Master,
    from: &str,
    task: &str,
    path: &str,
) -> Result<proto::Copied, Failure> {
    let source = absolute(from)?;
    let (task, mut node) = task::find_node(master, task).await?;
    let (sender, parts) = mpsc::channel(QUEUE);
    let start = copy_to_part::Part::Start(copy_to_part::Start {
        task_id: task.id,
        path: path.as_bytes().to_vec(),
    });
    sender
        .try_send(message(start))
        .expect("the queue is empty and its receiver is here");
    let root = root()?;
    let walk = tokio::task::spawn_blocking(move || {
        read_tree(&root, &source, &mut |part| {
            let part = match part {
                Part::Entry(entry) => copy_to_part::Part::Entry(from_entry(entry)),
                Part::Data(bytes) => copy_to_part::Part::Data(bytes),
            };
            sender.blocking_send(message(part)).is_ok()
        })
    });
    let sent = node.copy_to(parts).await;
    let walked: Result<Copied, CopyError> = walk
        .await
        .map_err(|error| Failure::failed(format!("reading {from} broke: {error}")))?;
    match (walked, sent) {
        // The other side ended first, and says why.
        (Err(CopyError::Gone), Err(failure)) => Err(failure),
        (Err(error), _) => Err(local(&error)),
        (Ok(_), Err(failure)) => Err(failure),
        (Ok(walked), Ok(made)) => Ok(proto::Copied {
            left_out: walked.left_out,
            ..made
        }),
    }
}

fn message(part: copy_to_part::Part) -> proto::CopyToPart {
    proto::CopyToPart { part: Some(part) }
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

fn to_entry(entry: proto::CopyEntry) -> Result<Entry, Failure> {
    use proto::copy_entry::Kind as From;
    Ok(Entry {
        path: entry.path,
        mode: entry.mode,
        modified_secs: entry.modified_secs,
        kind: match entry.kind {
            Some(From::FileSize(size)) => Kind::File(size),
            Some(From::Directory(_)) => Kind::Directory,
            Some(From::LinkTarget(target)) => Kind::Link(target),
            None => return Err(Failure::failed("the agent sent an entry of no kind")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_stands_before_a_colon_and_paths_may_have_one() {
        let task = |task: &str, path: &str| End::Task {
            task: task.into(),
            path: path.into(),
        };
        assert_eq!(end("web.1:/etc"), task("web.1", "/etc"));
        assert_eq!(end("web.1:a:b"), task("web.1", "a:b"));
        for path in ["file", "./a:b", "/a:b", "dir/a:b", ":x", "."] {
            assert_eq!(end(path), End::Here(path.into()), "{path}");
        }
    }

    #[test]
    fn the_end_of_a_path_stays_as_typed() {
        assert_eq!(absolute("/a/.").unwrap(), b"/a/.");
        assert!(absolute("a/.").unwrap().ends_with(b"/a/."));
        assert!(absolute("").is_err());
    }
}
