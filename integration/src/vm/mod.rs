//! Small virtual machines for tests: a real kernel with true cgroup v2, whatever the machine beneath has.
//!
//! ```text
//! Bench::prepare            kernel package, initramfs, KVM or emulation, Debian: once, kept below target/vm
//!   └─ Guest::boot(spec)    QEMU ──virtio-serial── mezzo-guest (in the machine): commands, files, signals
//! ```
//!
//! The *micro* guest is a kernel of Debian's, busybox, the modules that containers need, and the files that a test
//! names, all in memory. The *debian* guest ([`GuestSpec::debian`]) has systemd and a disk as a real node has them, and
//! boots in tens of seconds. The network of both is loopback and, where a test gives them an interface, a switch in the
//! test's own process ([`Network`]). A guest ends with its [`Guest`]; if the test itself is killed, the guest sees its
//! line go dead and powers off. Time limits are stretched by what [`Bench`] measured, so that software emulation gives
//! the same results, only later.

mod accel;
mod archive;
mod bench;
pub mod cluster;
mod debian;
mod elf;
mod emulator;
mod guest;
mod initramfs;
mod line;
mod modules;
mod net;
mod package;
pub mod protocol;
mod qmp;
mod spec;

pub use accel::{Accel, Speed};
pub use bench::Bench;
pub use cluster::Cluster;
pub use elf::with_libraries;
pub use guest::{Guest, Job};
pub use net::{Network, Nic, Weather, address};
pub use protocol::Exit;
pub use spec::{DataDisk, Ended, GuestFile, GuestSpec, Run, System};
