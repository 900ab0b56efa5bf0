//! A relay between one master and etcd that can be cut: then nothing goes through, and nothing is closed, as on a
//! network that drops packets. What was under way comes when it heals.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

const POLL: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    cut: AtomicBool,
    over: AtomicBool,
}

/// Ends with its owner.
pub(crate) struct Relay {
    address: String,
    state: Arc<State>,
}

impl Relay {
    pub(crate) fn start(to: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        let (state, to) = (Arc::new(State::default()), to.to_owned());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            while !shared.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => relay(near, &to, &shared),
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(Self { address, state })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn cut(&self, yes: bool) {
        self.state.cut.store(yes, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
    }
}

fn relay(near: TcpStream, to: &str, state: &Arc<State>) {
    // etcd is away: so is the connection.
    let Ok(far) = TcpStream::connect(to) else {
        return;
    };
    for (from, into) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
        let (Ok(from), Ok(into)) = (from, into) else {
            return;
        };
        let state = Arc::clone(state);
        thread::spawn(move || copy(from, into, &state));
    }
}

fn copy(mut from: TcpStream, mut into: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    let _ = (
        from.set_nonblocking(false),
        from.set_read_timeout(Some(POLL)),
    );
    let _ = (into.set_nonblocking(false), into.set_nodelay(true));
    while !state.over.load(Ordering::Relaxed) {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        while state.cut.load(Ordering::Relaxed) && !state.over.load(Ordering::Relaxed) {
            thread::sleep(POLL);
        }
        if into.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(std::net::Shutdown::Both);
}
