//! The loop of all fuzzers, and what becomes of a failure.
//!
//! By default an exact number of executions from a fixed seed: the same run each time. With `MEZZO_FUZZ_SECONDS` as
//! long as asked, from a new seed (or `MEZZO_FUZZ_SEED`), with a line of progress now and then. A watchdog ends the
//! program when one execution takes far too long or memory grows beyond all need; the input is saved before.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::digest::Digest;

/// Something that reads hostile bytes.
pub(super) trait Target {
    /// The longest input worth trying.
    const MAX_INPUT: usize;
    const NEEDS_ROOT: bool = false;

    fn new() -> Self;
    /// Inputs to begin with.
    fn seeds(&self) -> Vec<Vec<u8>>;
    /// Changes an input a little; `other` is another one of the corpus.
    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng);
    /// Runs one input: panics if what must hold does not, and tells how the input behaved.
    fn run(&mut self, input: &[u8]) -> u64;
}

/// Inputs kept because they behaved anew.
const MAX_CORPUS: usize = 4096;
/// Attempts at making a failing input smaller.
const MAX_SHRINKS: usize = 3_000;
/// No input takes a thousandth of it, on a slow machine with much else to do.
const HANG: Duration = Duration::from_secs(120);
/// Resident bytes of the whole process: parsers hold a few MiB.
const MAX_RESIDENT: u64 = 2 << 30;

/// How an input behaved, from words that tell it: numbers and quoted names are left out, for they differ each time.
pub(super) fn behaviour(words: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in words.chars() {
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        // Hexadecimal ones, for digests.
        if !quoted && !c.is_ascii_hexdigit() {
            c.hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The text of a refusal. It goes into logs, terminals and statuses of tasks: one line, and not without end.
pub(super) fn message(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    assert!(
        text.len() <= 8 << 10 && !text.contains(char::is_control),
        "a message of {} bytes: {text:.300?}",
        text.len()
    );
    text
}

struct Budget {
    executions: u64,
    time: Option<Duration>,
    seed: u64,
}

impl Budget {
    fn of(executions: u64) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(
                text.parse()
                    .unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
            )
        };
        let time = number("MEZZO_FUZZ_SECONDS").map(Duration::from_secs);
        let seed = number("MEZZO_FUZZ_SEED");
        Self {
            executions,
            time,
            seed: seed.unwrap_or_else(|| if time.is_some() { rand::random() } else { 1 }),
        }
    }
}

/// Replays past failures, then fuzzes. Panics with all that is needed to find and repeat a failure.
pub(super) fn fuzz<T: Target>(name: &str, executions: u64) {
    let name = name.trim_start_matches("target_");
    let budget = Budget::of(executions);
    let mut target = T::new();
    let watch = Watchdog::start(name);
    for (path, input) in past_failures(name) {
        watch.begin(&input);
        if let Err(problem) = attempt(&mut target, &input) {
            panic!(
                "{name}: the past failure {} is back: {problem}",
                path.display()
            );
        }
    }
    let mut rng = StdRng::seed_from_u64(budget.seed);
    let mut corpus = target.seeds();
    let mut seen = HashSet::new();
    for input in &corpus {
        watch.begin(input);
        match attempt(&mut target, input) {
            Ok(behaviour) => drop(seen.insert(behaviour)),
            Err(problem) => fail(name, &mut target, &watch, input.clone(), &budget, &problem),
        }
    }
    let start = Instant::now();
    let mut told = start;
    let mut done = 0u64;
    loop {
        let over = match budget.time {
            Some(time) => start.elapsed() >= time,
            None => done >= budget.executions,
        };
        if over {
            break;
        }
        let mut input = corpus[rng.random_range(0..corpus.len())].clone();
        let other = &corpus[rng.random_range(0..corpus.len())];
        for _ in 0..1 + rng.random_range(0..4u32) * rng.random_range(0..3u32) {
            target.mutate(&mut input, other, &mut rng);
        }
        input.truncate(T::MAX_INPUT);
        watch.begin(&input);
        match attempt(&mut target, &input) {
            Ok(behaviour) => {
                if seen.insert(behaviour) && corpus.len() < MAX_CORPUS {
                    corpus.push(input);
                }
            }
            Err(problem) => fail(name, &mut target, &watch, input, &budget, &problem),
        }
        done += 1;
        if budget.time.is_some() && told.elapsed() >= Duration::from_secs(30) {
            told = Instant::now();
            report(name, done, start.elapsed(), &budget, seen.len());
        }
    }
    report(name, done, start.elapsed(), &budget, seen.len());
}

fn report(name: &str, done: u64, took: Duration, budget: &Budget, behaviours: usize) {
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    println!(
        "fuzz {name}: {done} executions in {:.1} s, {rate:.0}/s, {behaviours} behaviours, seed {}, peak memory {} MiB",
        took.as_secs_f64(),
        budget.seed,
        status("VmHWM:") >> 20,
    );
}

thread_local! {
    /// Panics of this thread are expected: thousands of messages would hide the one that counts.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// The last of them, with its place.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

fn attempt<T: Target>(target: &mut T, input: &[u8]) -> Result<u64, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                LAST.set(info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let ran = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    QUIET.set(false);
    ran.map_err(|_| LAST.take())
}

fn fail<T: Target>(
    name: &str,
    target: &mut T,
    watch: &Watchdog,
    input: Vec<u8>,
    budget: &Budget,
    problem: &str,
) -> ! {
    let small = shrink(target, watch, input);
    let path = save(name, &small);
    panic!(
        "{name} fails with seed {}: {problem}\nthe input, minimised to {} bytes, is {}; when the cause is mended, put it \
         into images/tests/past-failures/{name}/",
        budget.seed,
        small.len(),
        path.display()
    );
}

/// Takes away pieces, large ones first, as long as it still fails.
fn shrink<T: Target>(target: &mut T, watch: &Watchdog, mut input: Vec<u8>) -> Vec<u8> {
    let mut attempts = 0;
    let mut piece = input.len().next_power_of_two() / 2;
    while piece > 0 && attempts < MAX_SHRINKS {
        let mut at = 0;
        while at < input.len() && attempts < MAX_SHRINKS {
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            attempts += 1;
            watch.begin(&shorter);
            if attempt(target, &shorter).is_err() {
                input = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    input
}

fn save(name: &str, input: &[u8]) -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-results");
    let folder = std::env::var_os("MEZZO_FUZZ_OUT").map_or(ours, PathBuf::from);
    let path = folder.join(name).join(&Digest::of(input).hex()[..16]);
    let written =
        std::fs::create_dir_all(folder.join(name)).and_then(|()| std::fs::write(&path, input));
    written.unwrap_or_else(|e| {
        panic!(
            "{} cannot be written ({e}); the input: {input:?}",
            path.display()
        )
    });
    path
}

fn past_failures(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/past-failures")
        .join(name);
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths: BTreeSet<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// Bytes from a line of `/proc/self/status`.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Looks after the one who runs inputs.
struct Watchdog {
    current: Arc<Mutex<(Instant, Vec<u8>)>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchdog {
    fn start(name: &str) -> Self {
        let current = Arc::new(Mutex::new((Instant::now(), Vec::new())));
        let over = Arc::new(AtomicBool::new(false));
        let (watched, ended, name) = (Arc::clone(&current), Arc::clone(&over), name.to_string());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(200));
                let (since, input) = {
                    let current = watched.lock().unwrap_or_else(PoisonError::into_inner);
                    (current.0, current.1.clone())
                };
                let problem = if since.elapsed() > HANG {
                    format!("one execution took more than {} s", HANG.as_secs())
                } else if status("VmRSS:") > MAX_RESIDENT {
                    format!("more than {} MiB of memory are in use", MAX_RESIDENT >> 20)
                } else {
                    continue;
                };
                let path = save(&name, &input);
                eprintln!("{name}: {problem}; the input is {}", path.display());
                // The one who hangs cannot be told in another way.
                std::process::abort();
            }
        });
        Self {
            current,
            over,
            thread: Some(thread),
        }
    }

    fn begin(&self, input: &[u8]) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.0 = Instant::now();
        current.1.clear();
        current.1.extend_from_slice(input);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Finds what it is meant to find: without this, silence would say nothing.
#[test]
fn a_planted_fault_is_found_and_made_small() {
    struct Planted;
    impl Target for Planted {
        const MAX_INPUT: usize = 64;
        fn new() -> Self {
            Self
        }
        fn seeds(&self) -> Vec<Vec<u8>> {
            vec![b"some harmless words".to_vec()]
        }
        fn mutate(&self, input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
            super::mutate::text(input, other, &["evil", "less evil"], rng);
        }
        fn run(&mut self, input: &[u8]) -> u64 {
            let text = String::from_utf8_lossy(input);
            assert!(!text.contains("evil"), "there is evil in it");
            behaviour(&text)
        }
    }
    let mut target = Planted;
    let mut rng = StdRng::seed_from_u64(7);
    let watch = Watchdog::start("planted");
    let found = (0..10_000).find_map(|_| {
        let mut input = target.seeds().remove(0);
        target.mutate(&mut input, b"", &mut rng);
        attempt(&mut target, &input)
            .err()
            .map(|problem| (input, problem))
    });
    let (input, problem) = found.expect("a word of the dictionary is tried");
    assert!(problem.contains("there is evil in it"), "{problem}");
    assert_eq!(shrink(&mut target, &watch, input), b"evil");
}
