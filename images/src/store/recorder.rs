//! Lists the files of young layers, on a thread of its own and out of the way: what `verify` needs later, and what a layer
//! takes on the disk.
//!
//! A pull must not feel it. So it begins when no layer has been fetched for a moment, works half of the time, and waits
//! while a pull is under way. The list is made of what is in the page cache anyway. Ends with the store, at once.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use tokio::sync::Semaphore;

use super::content::Layout;
use crate::digest::Digest;
use crate::tree::record::{self, Recorded, TreeError};
use crate::unpack::layer::open_for_sync;

/// Without a pull for so long, work begins.
const QUIET: Duration = Duration::from_millis(500);
/// Pulls are let go first, but not for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Work and rest, in turns.
const TURN: Duration = Duration::from_millis(20);

/// The thread and its list of work.
#[derive(Debug)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread, the store and the write-back share.
#[derive(Debug)]
pub(crate) struct Shared {
    layout: Layout,
    /// All of them are free when no layer is being fetched.
    permits: Arc<Semaphore>,
    n_permits: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
    known: Mutex<BTreeMap<Digest, Recorded>>,
    /// True once the store is closed; held by those who must be done before.
    closed: Mutex<bool>,
    /// Held while one layer is listed.
    working: Mutex<()>,
    /// Somebody wants `working` and shall not wait.
    wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Digest>,
    closed: bool,
}

impl Recorder {
    pub(crate) fn start(
        layout: Layout,
        permits: Arc<Semaphore>,
        known: BTreeMap<Digest, Recorded>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            layout,
            n_permits: permits.available_permits(),
            permits,
            queue: Mutex::default(),
            wake: Condvar::new(),
            known: Mutex::new(known),
            closed: Mutex::default(),
            working: Mutex::default(),
            wanted: AtomicBool::new(false),
        });
        let work = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("image-record".into())
            .spawn(move || work.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
        let closed = self.shared.closed.lock();
        *closed.unwrap_or_else(PoisonError::into_inner) = true;
        // Not longer than reading one piece of a file takes; afterwards nobody writes into the store any more.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that lists the files of layers broke");
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a layer listed some time.
    pub(crate) fn submit(&self, chain: Digest) {
        self.queue().jobs.push_back(chain);
        self.wake.notify_all();
    }

    /// What is known of a layer's files.
    pub(crate) fn known(&self, chain: &Digest) -> Option<Recorded> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(chain).copied()
    }

    pub(crate) fn forget(&self, chain: &Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(chain);
    }

    /// Keeps the store from being closed while the guard lives; none if it is closed.
    pub(crate) fn while_open(&self) -> Option<MutexGuard<'_, bool>> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        (!*closed).then_some(closed)
    }

    /// Keeps the thread from working while the guard lives.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        self.wanted.store(true, Ordering::SeqCst);
        let guard = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(false, Ordering::SeqCst);
        guard
    }

    fn run(&self) {
        while let Some(chain) = self.next() {
            if !self.wait_for_quiet() {
                return;
            }
            if self.known(&chain).is_some() {
                continue;
            }
            let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pace = Pace {
                shared: self,
                began: Instant::now(),
            };
            let listed = self.list(&chain, &mut || pace.go_on());
            drop(working);
            match listed {
                Ok(_) => {}
                Err(TreeError::Stopped) => {
                    // Closed, or somebody wanted the way free: then it is done later.
                    self.queue().jobs.push_back(chain);
                    self.rest(TURN);
                }
                // Collected meanwhile.
                Err(_) if !self.layout.layer(&chain).exists() => {}
                Err(error) => {
                    tracing::warn!(layer = %chain, ?error, "the files of a layer could not be listed");
                }
            }
        }
    }

    /// The next layer; none when the store is closed.
    fn next(&self) -> Option<Digest> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(chain) = queue.jobs.pop_front() {
                return Some(chain);
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits that long; false when the store was closed.
    fn rest(&self, time: Duration) -> bool {
        let queue = self.queue();
        let (queue, _) = self
            .wake
            .wait_timeout_while(queue, time, |queue| !queue.closed)
            .unwrap_or_else(PoisonError::into_inner);
        !queue.closed
    }

    /// No layer is being fetched.
    pub(super) fn is_quiet(&self) -> bool {
        self.permits.available_permits() >= self.n_permits
    }

    fn wait_for_quiet(&self) -> bool {
        let began = Instant::now();
        while began.elapsed() < LONGEST_WAIT {
            if !self.rest(QUIET) {
                return false;
            }
            if self.is_quiet() {
                return true;
            }
        }
        true
    }

    /// Lists the files of a layer now. `go_on` may end it.
    pub(crate) fn list(
        &self,
        chain: &Digest,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Recorded, TreeError> {
        // By descriptor: one that is collected and fetched again meanwhile is another layer of the same name.
        let io = |errno: Errno| io::Error::from(errno);
        let layer = open_for_sync(&self.layout.layer(chain)).map_err(io)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = openat(&layer, "fs", flags, Mode::empty()).map_err(io)?;
        let temporary = self.layout.fresh("tree");
        let written = (|| {
            let mut file = File::create_new(&temporary)?;
            let recorded = record::write(root, &mut file, go_on)?;
            file.sync_all()?;
            renameat(AT_FDCWD, temporary.as_path(), &layer, Path::new(NAME)).map_err(io)?;
            nix::unistd::fsync(&layer).map_err(io)?;
            Ok(recorded)
        })();
        match &written {
            Ok(recorded) => {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(*chain, *recorded);
            }
            Err(_) => drop(std::fs::remove_file(&temporary)),
        }
        written
    }
}

/// The list's name in a layer's folder.
pub(crate) const NAME: &str = "tree";

/// Half of the time, and never beside a pull.
struct Pace<'s> {
    shared: &'s Shared,
    began: Instant,
}

impl Pace<'_> {
    fn go_on(&mut self) -> bool {
        if self.shared.wanted.load(Ordering::SeqCst) {
            return false;
        }
        if self.began.elapsed() < TURN && self.shared.is_quiet() {
            return true;
        }
        let open = if self.shared.is_quiet() {
            self.shared.rest(TURN)
        } else {
            self.shared.wait_for_quiet()
        };
        self.began = Instant::now();
        open
    }
}
