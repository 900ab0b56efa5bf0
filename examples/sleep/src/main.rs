//! `sleep`: the only file of the sleep image, and the program behind every demo and end-to-end test.
//!
//! It sleeps for ever, or for the seconds it is given, and stops at once when it is told to. As the first process of
//! a container it cannot rely on a signal's default action (the kernel drops those for PID 1), so it blocks the
//! signals and reads them from a descriptor. On the way it can use memory or processor time, and end with any exit
//! code, count its starts in a file, or answer HTTP requests with its version: enough to show limits, usage, restarts,
//! volumes and updates. `args` turns the command line into `Plan`; `main` carries it out.

#![forbid(unsafe_code)]

mod args;
mod serve;

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeValLike;

use args::{Length, Plan};

/// What a shell reports for a process that SIGTERM ended.
const TERMINATED: u8 = 128 + 15;

fn main() -> ExitCode {
    let plan = match args::parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("sleep: {problem}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&plan) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("sleep: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> Result<u8, Errno> {
    let signals = block_stop_signals()?;
    let version = std::env::var("SLEEP_VERSION").unwrap_or_else(|_| "unknown".to_owned());
    say(&format!(
        "sleep {version} starts, pid {}",
        std::process::id()
    ));

    for file in &plan.count {
        count(file)?;
    }
    if plan.serve {
        let port = serve::start(&version)?;
        say(&format!("answers on port {port}"));
    }
    let memory = touch(plan.memory_mb);
    if plan.memory_mb > 0 {
        say(&format!("holds {} MiB", plan.memory_mb));
    }
    if burn(plan, &signals)? == Outcome::Stopped {
        return Ok(TERMINATED);
    }
    let outcome = sleep(plan, &signals)?;
    if outcome == Outcome::Stopped {
        std::thread::sleep(Duration::from_millis(plan.linger_ms.into()));
    }
    // Only now: what was touched stays in use for as long as the program sleeps.
    drop(black_box(memory));
    Ok(match outcome {
        Outcome::Stopped => TERMINATED,
        Outcome::Elapsed => plan.exit_code,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Stopped,
    Elapsed,
}

fn block_stop_signals() -> Result<SignalFd, Errno> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Adds a line to the file, and says which one that was.
fn count(file: &str) -> Result<(), Errno> {
    let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let mut open = OpenOptions::new();
    let mut open = open
        .read(true)
        .append(true)
        .create(true)
        .open(file)
        .map_err(errno)?;
    let mut starts = String::new();
    open.read_to_string(&mut starts).map_err(errno)?;
    writeln!(open, "start").map_err(errno)?;
    open.sync_all().map_err(errno)?;
    say(&format!("start {} in {file}", starts.lines().count() + 1));
    Ok(())
}

/// Writes to each page: memory that is only reserved is not charged to the cgroup.
fn touch(megabytes: usize) -> Vec<Vec<u8>> {
    (0..megabytes)
        .map(|n| vec![(n % 251) as u8 + 1; 1 << 20])
        .collect()
}

/// Uses processor time until the kernel's own count of this process says that it was enough, and reports that count.
fn burn(plan: &Plan, signals: &SignalFd) -> Result<Outcome, Errno> {
    if plan.cpu_ms == 0 {
        return Ok(Outcome::Elapsed);
    }
    loop {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let used_us = (usage.user_time() + usage.system_time()).num_microseconds();
        if used_us >= i64::from(plan.cpu_ms) * 1000 {
            say(&format!("used {used_us} us of processor time"));
            return Ok(Outcome::Elapsed);
        }
        if told_to_stop(plan, signals)? {
            return Ok(Outcome::Stopped);
        }
        black_box((0..200_000_u64).fold(1_u64, |sum, n| {
            sum.wrapping_mul(31).wrapping_add(black_box(n))
        }));
    }
}

fn sleep(plan: &Plan, signals: &SignalFd) -> Result<Outcome, Errno> {
    let end = match plan.length {
        Length::Forever => None,
        Length::For(length) => Some(Instant::now() + length),
    };
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(Outcome::Elapsed);
        }
        let timeout = match left {
            None => PollTimeout::NONE,
            // A millisecond more, or the last one would be a busy loop; capped to what poll can count.
            Some(left) => PollTimeout::from((left.as_millis() + 1).min(60_000) as u16),
        };
        match poll(
            &mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        if told_to_stop(plan, signals)? {
            return Ok(Outcome::Stopped);
        }
    }
}

fn told_to_stop(plan: &Plan, signals: &SignalFd) -> Result<bool, Errno> {
    let Some(info) = signals.read_signal()? else {
        return Ok(false);
    };
    if plan.ignore_term {
        say(&format!("ignores signal {}", info.ssi_signo));
        return Ok(false);
    }
    say(&format!("stops on signal {}", info.ssi_signo));
    Ok(true)
}

/// A line on stdout. A reader that went away is no reason to stop sleeping.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _gone = writeln!(out, "{line}").and_then(|()| out.flush());
}
