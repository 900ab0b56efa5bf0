//! `mezzo app logs`: what all instances of an app write, line by line, each behind its instance's short name.
//!
//! One task per instance reads from its node and sends whole lines through a bounded channel; this side prints them. With
//! `--follow` instances that come later are found by looking again. One that is listed and not made yet is waited for, and so
//! is its log: neither is worth a word.

use std::{collections::BTreeMap, time::Duration};

use mezzo_api::proto;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::super::{Context, task};
use super::no_app;
use crate::{
    args::app::LogsArgs,
    client::{master::Master, node::Node, scheduler::Scheduler},
    failure::Failure,
    output::{print, say},
    render::clean,
    request,
    view::app,
};

/// Between two looks for instances that are new.
const LOOK: Duration = Duration::from_secs(1);
/// Lines that wait to be printed.
const LINES: usize = 1024;
/// A longer line is cut into such pieces.
const LONGEST_LINE: usize = 64 << 10;
/// Colours of the prefixes, that of failures left out.
const COLOURS: [u8; 6] = [36, 32, 33, 35, 34, 96];

/// The log of an instance that runs is there within this; a node that is away is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// An instance that was seen.
struct Instance {
    /// In the order of their coming, for the colour.
    place: usize,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Not yet.
    Wanted,
    /// Tried since then, without a line so far.
    Tried(Instant),
    /// A reader has it, and tried since then.
    Silent(Instant),
    /// Lines have come, or nothing will.
    Settled,
}

impl Reading {
    /// After a failure: `None` when it is tried again without a word.
    fn failed(self, follow: bool, now: Instant) -> Option<Self> {
        match self {
            Self::Tried(since) | Self::Silent(since)
                if follow && now.saturating_duration_since(since) < PATIENCE =>
            {
                Some(Self::Tried(since))
            }
            Self::Wanted | Self::Tried(_) | Self::Silent(_) | Self::Settled => None,
        }
    }
}

/// From one of the readers.
enum News {
    Line(String, Vec<u8>),
    /// It cannot be read, or not any more.
    Lost(String, Failure),
}

pub(super) async fn run(
    context: &Context,
    scheduler: &Scheduler,
    args: &LogsArgs,
) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    let mut master = context.master().await?;
    let (to_lines, mut lines) = mpsc::channel(LINES);
    let mut readers = JoinSet::new();
    let mut known: BTreeMap<String, Instance> = BTreeMap::new();
    let mut is_first = true;
    let mut look_at = Instant::now();
    loop {
        if look_at <= Instant::now() && (is_first || args.follow) {
            for seen in instances(scheduler, &id).await? {
                let place = known.len();
                let instance = known.entry(seen.task.clone()).or_insert(Instance {
                    place,
                    reading: Reading::Wanted,
                });
                let now = Instant::now();
                let since = match instance.reading {
                    // Its log begins when it runs.
                    Reading::Wanted if args.follow && !seen.is_made => continue,
                    Reading::Wanted => now,
                    Reading::Tried(since) => since,
                    Reading::Silent(_) | Reading::Settled => continue,
                };
                let tail = if is_first { args.tail } else { None };
                match open(&mut master, &seen.task, tail, args.follow).await {
                    Ok((node, request)) => {
                        instance.reading = Reading::Silent(since);
                        readers.spawn(read(node, request, seen.task, to_lines.clone()));
                    }
                    Err(failure) => {
                        let again = Reading::Tried(since).failed(args.follow, now);
                        instance.reading = again.unwrap_or(Reading::Settled);
                        if again.is_none() {
                            let (name, host) = (short(&seen.task), clean(&seen.host));
                            say(&format!("{name} on {host}: {failure}"));
                        }
                    }
                }
            }
            if is_first && known.is_empty() && !args.follow {
                say(&format!("{id}: no instance"));
            }
            is_first = false;
            look_at = Instant::now() + LOOK;
        }
        tokio::select! {
            biased;
            Some(news) = lines.recv() => show(context, &mut known, args.follow, news)?,
            ended = readers.join_next(), if !readers.is_empty() => {
                // A reader does not panic and nobody aborts it.
                let _ = ended;
            }
            () = tokio::time::sleep_until(look_at), if args.follow => {}
            else => return Ok(()),
        }
        if !args.follow && readers.is_empty() {
            while let Ok(news) = lines.try_recv() {
                show(context, &mut known, args.follow, news)?;
            }
            return Ok(());
        }
    }
}

/// One of the app's tasks.
struct Seen {
    task: String,
    host: String,
    /// Its node has made it, or has begun to end it.
    is_made: bool,
}

async fn instances(scheduler: &Scheduler, id: &str) -> Result<Vec<Seen>, Failure> {
    let answer = scheduler
        .get(&format!("/v2/apps{id}/tasks"))
        .await
        .map_err(|failure| no_app(failure, id))?;
    let text =
        |task: &Value, field: &str| task.get(field).and_then(Value::as_str).map(str::to_owned);
    let seen = |task: &Value| {
        let state = text(task, "state").unwrap_or_default();
        Some(Seen {
            task: text(task, "id")?,
            host: text(task, "host").unwrap_or_default(),
            is_made: !matches!(&*state, "TASK_STAGING" | "TASK_STARTING"),
        })
    };
    let tasks = app::raw_list(&answer, "tasks");
    Ok(tasks.iter().filter_map(seen).collect())
}

async fn open(
    master: &mut Master,
    name: &str,
    tail: Option<u64>,
    follow: bool,
) -> Result<(Node, proto::ReadLogRequest), Failure> {
    let (found, node) = task::find_node(master, name).await?;
    let request = proto::ReadLogRequest {
        task_id: found.id,
        stream: proto::LogStream::Unspecified.into(),
        tail_lines: tail,
        follow,
        since_ms: None,
    };
    Ok((node, request))
}

/// Sends whole lines until the log ends, or nobody wants them.
async fn read(
    mut node: Node,
    request: proto::ReadLogRequest,
    name: String,
    lines: mpsc::Sender<News>,
) {
    let mut chunks = match node.log(request).await {
        Ok(chunks) => chunks,
        Err(failure) => {
            let _ = lines.send(News::Lost(name, failure)).await;
            return;
        }
    };
    // Standard output and standard error come in pieces of their own.
    let mut open: [Vec<u8>; 2] = Default::default();
    loop {
        match chunks.message().await {
            Ok(Some(chunk)) => {
                let rest = &mut open[usize::from(chunk.stream() == proto::LogStream::Stderr)];
                rest.extend_from_slice(&chunk.data);
                for line in whole_lines(rest) {
                    if lines.send(News::Line(name.clone(), line)).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => break,
            Err(status) => {
                let failure = node.refused(&status);
                let _ = lines.send(News::Lost(name.clone(), failure)).await;
                break;
            }
        }
    }
    for rest in open.into_iter().filter(|rest| !rest.is_empty()) {
        let _ = lines.send(News::Line(name.clone(), rest)).await;
    }
}

/// Takes the lines that are complete, or too long to wait for their end.
fn whole_lines(bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut begin = 0;
    while let Some(length) = bytes[begin..].iter().position(|byte| *byte == b'\n') {
        lines.push(bytes[begin..begin + length].to_vec());
        begin += length + 1;
    }
    bytes.drain(..begin);
    while bytes.len() >= LONGEST_LINE {
        lines.push(bytes.drain(..LONGEST_LINE).collect());
    }
    lines
}

/// `5c3f0a12` of `shop_cart.instance-5c3f0a12-…._app.1`.
fn short(task: &str) -> String {
    let unique = task.split_once(".instance-").map_or(task, |(_, rest)| rest);
    clean(unique).chars().take(8).collect()
}

fn show(
    context: &Context,
    known: &mut BTreeMap<String, Instance>,
    follow: bool,
    news: News,
) -> Result<(), Failure> {
    match news {
        News::Line(name, line_of) => {
            let mut place = 0;
            if let Some(instance) = known.get_mut(&name) {
                instance.reading = Reading::Settled;
                place = instance.place;
            }
            let text = String::from_utf8_lossy(&line_of);
            let colour = context.output.style.colour;
            print(&line(&short(&name), place, &text, colour))
        }
        News::Lost(name, failure) => {
            let again = known.get_mut(&name).and_then(|instance| {
                let again = instance.reading.failed(follow, Instant::now());
                instance.reading = again.unwrap_or(Reading::Settled);
                again
            });
            if again.is_none() {
                say(&format!("{}: {failure}", short(&name)));
            }
            Ok(())
        }
    }
}

fn line(prefix: &str, place: usize, text: &str, colour: bool) -> String {
    if colour {
        let code = COLOURS[place % COLOURS.len()];
        format!("\x1b[{code}m{prefix}\x1b[0m {text}\n")
    } else {
        format!("{prefix} {text}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_whatever_pieces_they_come_in() {
        let mut bytes = b"one\ntw".to_vec();
        assert_eq!(whole_lines(&mut bytes), [b"one".to_vec()]);
        bytes.extend_from_slice(b"o\n\nthree");
        assert_eq!(whole_lines(&mut bytes), [b"two".to_vec(), b"".to_vec()]);
        assert_eq!(bytes, b"three");
        let mut long = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(whole_lines(&mut long).len(), 1);
        assert_eq!(long.len(), 1);
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_tried_again_for_a_while_and_only_when_followed() {
        let now = Instant::now();
        let later = now + PATIENCE;
        let tried = Reading::Tried(now);
        assert_eq!(Reading::Silent(now).failed(true, now), Some(tried));
        assert_eq!(tried.failed(true, now), Some(tried));
        assert_eq!(tried.failed(true, later), None);
        assert_eq!(tried.failed(false, now), None);
        assert_eq!(Reading::Settled.failed(true, now), None);
    }

    #[test]
    fn each_line_is_behind_its_instance() {
        let task = "shop_cart.instance-5c3f0a12-0000-0000-0000-000000000000._app.1";
        assert_eq!(short(task), "5c3f0a12");
        assert_eq!(line("5c3f0a12", 0, "hello", false), "5c3f0a12 hello\n");
        assert_eq!(line("a", 7, "hello", true), "\x1b[32ma\x1b[0m hello\n");
    }
}
