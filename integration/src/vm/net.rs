//! The network of a cluster of guests: an Ethernet switch in this process, whose links a test can cut, thin and slow.
//!
//! ```text
//! guest 1 ──socket──► port 1 ─┐                ┌─► port 2 ──socket──► guest 2
//!                             └─► rules ───────┤
//!                                              └─► port 3 ──socket──► guest 3
//! ```
//!
//! No bridge, no tap, no address of this machine: nothing to clean up, and nothing that a guest could reach but the
//! other guests of its network. Machine *n* is 10.77.0.*n*.

mod port;
mod rules;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

pub use rules::Weather;

use port::{Outlet, Port};
use rules::{Number, Rules};

/// The name of a port's socket in its guest's folder.
pub(super) const SOCKET: &str = "nic.sock";

#[derive(Debug)]
struct State {
    rules: Rules,
    outlets: BTreeMap<Number, Outlet>,
    /// The seed of loss: the same frames in the same order meet the same fate.
    random: u64,
}

/// A network. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Network(Arc<Mutex<State>>);

impl Default for Network {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            rules: Rules::default(),
            outlets: BTreeMap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        })))
    }
}

impl Network {
    /// The interface of machine `number`, 1 to 250.
    pub fn nic(&self, number: u8) -> Nic {
        Nic {
            network: self.clone(),
            number,
        }
    }

    /// Sets what happens to frames from one machine to another; the way back stays as it is.
    pub fn set(&self, from: u8, to: u8, weather: Weather) {
        self.lock().rules.set(from, to, weather);
    }

    /// Nothing passes between the two any more, in both directions.
    pub fn cut(&self, one: u8, other: u8) {
        let cut = Weather {
            cut: true,
            ..Weather::default()
        };
        self.set(one, other, cut);
        self.set(other, one, cut);
    }

    /// All links are as at first.
    pub fn heal(&self) {
        self.lock().rules.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, from: Number, frame: &[u8]) {
        let mut state = self.lock();
        let State {
            rules,
            outlets,
            random,
        } = &mut *state;
        let machines = outlets.keys().copied();
        let found = rules.deliveries(frame, from, machines, || next_random(random));
        for delivery in found {
            if let Some(outlet) = outlets.get(&delivery.to) {
                outlet.push(frame.to_vec(), delivery.delay);
            }
        }
    }
}

/// Xorshift: chance that can be repeated is all that is asked of it.
fn next_random(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as f64 / (1_u64 << 53) as f64
}

/// One machine's interface to a network.
#[derive(Debug, Clone)]
pub struct Nic {
    network: Network,
    number: Number,
}

impl Nic {
    /// Its IPv4 address.
    pub fn address(&self) -> String {
        address(self.number)
    }

    /// As `ip link` writes it.
    pub fn mac(&self) -> String {
        rules::mac(self.number)
            .map(|byte| format!("{byte:02x}"))
            .join(":")
    }

    /// The words for QEMU, which is started in the folder that [`Nic::plug`] was given.
    pub(super) fn args(&self) -> [String; 4] {
        [
            "-netdev".to_owned(),
            format!("stream,id=net,server=off,addr.type=unix,addr.path={SOCKET}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=net,mac={},romfile=", self.mac()),
        ]
    }

    /// Makes the socket that QEMU connects to. The machine is on the network for as long as the plug is kept.
    pub(super) fn plug(&self, dir: &Path) -> Result<Plug> {
        let path = dir.join(SOCKET);
        let context = || format!("listen on {}", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(context);
            }
            Ok(()) | Err(_) => {}
        }
        // The path of a socket may have 107 bytes, checkouts lie deep: the way through a descriptor is short.
        let folder = File::open(dir).with_context(context)?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        let listener = UnixListener::bind(short).with_context(context)?;
        let (network, number) = (self.network.clone(), self.number);
        let port = Port::open(listener, move |frame| network.pass(number, &frame))?;
        self.network
            .lock()
            .outlets
            .insert(self.number, port.outlet());
        Ok(Plug {
            nic: self.clone(),
            _port: port,
        })
    }
}

/// The IPv4 address of a machine.
pub fn address(number: u8) -> String {
    format!("10.77.0.{number}")
}

/// A machine that is on the network until this is dropped.
#[derive(Debug)]
pub(super) struct Plug {
    nic: Nic,
    _port: Port,
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.nic.network.lock().outlets.remove(&self.nic.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_even_and_can_be_repeated() {
        let mut seed = 1;
        let drawn: Vec<f64> = (0..10_000).map(|_| next_random(&mut seed)).collect();
        let mean = drawn.iter().sum::<f64>() / 10_000.0;
        assert!((0.48..0.52).contains(&mean), "{mean}");
        let mut again = 1;
        assert!(drawn.iter().all(|one| *one == next_random(&mut again)));
    }

    #[test]
    fn addresses_follow_from_the_number() {
        let nic = Network::default().nic(3);
        assert_eq!(nic.address(), "10.77.0.3");
        assert_eq!(nic.mac(), "52:54:00:6d:7a:03");
    }
}
