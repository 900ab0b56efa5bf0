//! One machine's plug: QEMU connects to a socket and sends frames, each behind its length in four bytes.
//!
//! Two threads while the machine is on: one hears and asks the network where a frame goes, one says what is due. The
//! queue between is bounded; what does not fit is lost, as on a wire.

use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// More than any frame: the largest that virtio offers is 64 KiB and a header.
const MAX_FRAME: usize = 1 << 17;
/// Frames on their way to one machine.
const MAX_WAITING: usize = 4096;
/// QEMU takes what it is given at once; one that does not for so long hangs, and so does its network.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Due first is greatest, for the heap; of those due at once the one that came first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting(std::cmp::Reverse<(Instant, u64)>, Vec<u8>);

#[derive(Debug, Default)]
struct Queue {
    waiting: BinaryHeap<Waiting>,
    n_pushed: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// The way to a machine. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Outlet(Arc<Shared>);

impl Outlet {
    /// Says `frame` to the machine after `delay`, unless too many wait.
    pub(super) fn push(&self, frame: Vec<u8>, delay: Duration) {
        let mut queue = self.0.lock();
        if queue.closed || queue.waiting.len() >= MAX_WAITING {
            return;
        }
        let due = std::cmp::Reverse((Instant::now() + delay, queue.n_pushed));
        queue.n_pushed += 1;
        queue.waiting.push(Waiting(due, frame));
        self.0.changed.notify_all();
    }

    /// Waits for the next frame that is due. `None` when the machine is unplugged.
    fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.0.lock();
        loop {
            if queue.closed {
                return None;
            }
            let now = Instant::now();
            let due = queue.waiting.peek().map(|first| first.0.0.0);
            match due {
                Some(due) if due <= now => return queue.waiting.pop().map(|first| first.1),
                Some(due) => {
                    let waited = self.0.changed.wait_timeout(queue, due - now);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    let waited = self.0.changed.wait(queue);
                    queue = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// A plugged machine; unplugged on drop.
#[derive(Debug)]
pub(super) struct Port {
    outlet: Outlet,
    stream: Arc<Mutex<Option<UnixStream>>>,
    listener: UnixListener,
    threads: Vec<JoinHandle<()>>,
}

impl Port {
    /// Takes the one connection that `listener` will get. `heard` gets every frame.
    pub(super) fn open(
        listener: UnixListener,
        heard: impl FnMut(Vec<u8>) + Send + 'static,
    ) -> Result<Self> {
        let outlet = Outlet::default();
        let stream = Arc::new(Mutex::new(None));
        let mut port = Self {
            outlet: outlet.clone(),
            stream: Arc::clone(&stream),
            listener: listener.try_clone().context("clone a socket")?,
            threads: Vec::new(),
        };
        let serve = move || {
            // An error is the end of the machine, or that we were told to end: nothing to tell anybody.
            let _unplugged = serve(&listener, &stream, &outlet, heard);
            outlet.0.close();
        };
        let thread = thread::Builder::new().name("guest-net".to_owned());
        port.threads
            .push(thread.spawn(serve).context("start a network thread")?);
        Ok(port)
    }

    /// The way to it.
    pub(super) fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.outlet.0.close();
        // Wakes the thread, whether it waits for a connection or for a frame.
        let _woken = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.listener),
            nix::sys::socket::Shutdown::Both,
        );
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = stream.as_ref() {
            let _already_closed = stream.shutdown(Shutdown::Both);
        }
        drop(stream);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn serve(
    listener: &UnixListener,
    place: &Mutex<Option<UnixStream>>,
    outlet: &Outlet,
    mut heard: impl FnMut(Vec<u8>),
) -> io::Result<()> {
    let (mut ear, _) = listener.accept()?;
    let mouth = ear.try_clone()?;
    mouth.set_write_timeout(Some(WRITE_LIMIT))?;
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(ear.try_clone()?);
    if outlet.0.lock().closed {
        return Ok(());
    }
    thread::scope(|scope| {
        scope.spawn(|| speak(mouth, outlet));
        let ended = loop {
            match read_frame(&mut ear) {
                Ok(frame) => heard(frame),
                Err(error) => break Err(error),
            }
        };
        outlet.0.close();
        ended
    })
}

fn speak(mut mouth: UnixStream, outlet: &Outlet) {
    while let Some(frame) = outlet.next() {
        let Ok(length) = u32::try_from(frame.len()) else {
            continue;
        };
        let whole = [&length.to_be_bytes()[..], &frame].concat();
        if mouth.write_all(&whole).is_err() {
            let _already_closed = mouth.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other("not a frame"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_when_they_are_due_and_in_order() {
        let outlet = Outlet::default();
        let start = Instant::now();
        outlet.push(b"late".to_vec(), Duration::from_millis(30));
        outlet.push(b"first".to_vec(), Duration::ZERO);
        outlet.push(b"second".to_vec(), Duration::ZERO);
        let heard = || String::from_utf8(outlet.next().expect("open")).expect("text");
        assert_eq!([heard(), heard(), heard()], ["first", "second", "late"]);
        assert!(start.elapsed() >= Duration::from_millis(30));
        outlet.0.close();
        assert_eq!(outlet.next(), None);
    }

    #[test]
    fn a_flood_is_cut_and_not_kept() {
        let outlet = Outlet::default();
        for _ in 0..=MAX_WAITING {
            outlet.push(Vec::new(), Duration::ZERO);
        }
        assert_eq!(outlet.0.lock().waiting.len(), MAX_WAITING);
    }

    #[test]
    fn a_port_passes_frames_both_ways_and_ends_when_dropped() {
        let dir = std::env::temp_dir().join(format!("mezzo-port-{}", std::process::id()));
        let listener = UnixListener::bind(&dir).expect("listen");
        let mut machine = UnixStream::connect(&dir).expect("connect");
        std::fs::remove_file(&dir).expect("remove");
        let (say, heard) = std::sync::mpsc::channel();
        let hear = move |frame| drop(say.send(frame));
        let port = Port::open(listener, hear).expect("open");
        machine.write_all(&[0, 0, 0, 2, b'h', b'i']).expect("write");
        let limit = Duration::from_secs(20);
        assert_eq!(heard.recv_timeout(limit).expect("a frame"), b"hi");
        port.outlet().push(b"ho".to_vec(), Duration::ZERO);
        assert_eq!(read_frame(&mut machine).expect("a frame"), b"ho");
        drop(port);
        assert!(read_frame(&mut machine).is_err());
    }

    #[test]
    fn a_port_that_nobody_connects_to_ends_too() {
        let path = std::env::temp_dir().join(format!("mezzo-port-{}-idle", std::process::id()));
        let listener = UnixListener::bind(&path).expect("listen");
        drop(Port::open(listener, drop).expect("open"));
        std::fs::remove_file(&path).expect("remove");
    }
}
