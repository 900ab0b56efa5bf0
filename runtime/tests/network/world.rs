//! A machine with an uplink and a world outside of it, in network namespaces that go with the test.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common;

/// In the test's own network: the file that it writes when it has run to its end.
const INSIDE: &str = "MEZZO_TEST_NETWORK";
/// The machine's own address on its uplink, and that of the world outside.
pub(crate) const MACHINE: &str = "10.99.0.1";
pub(crate) const WORLD: &str = "10.99.0.2";
pub(crate) const MACHINE6: &str = "fd99::1";
pub(crate) const WORLD6: &str = "fd99::2";
pub(crate) const UPLINK_MTU: &str = "1400";
/// How long something that must not happen is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(500);

/// Runs a test in a network namespace of its own. `test` is its name with its module, by which the test program finds it.
pub(crate) fn isolated(test: &str, body: impl Future<Output = ()>) {
    if let Some(done) = std::env::var_os(INSIDE) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(body);
        fs::write(done, "").unwrap();
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    // What a small machine's own `ip` cannot do.
    let version = Command::new("ip").arg("-V").output();
    if !version.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("iproute2")) {
        eprintln!("skipped: needs iproute2");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let done = dir.path().join("done");
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, &done)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its own network");
    assert!(done.exists(), "no test has the name {test}");
}

/// The world outside: a namespace held by a process that ends with the test.
pub(crate) struct World(Child);

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl World {
    pub(crate) fn new() -> Self {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let child = Command::new("unshare")
            .args(["--net", "--", "sleep", "1000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let world = Self(child);
        let deadline = Instant::now() + common::TIMEOUT;
        while fs::read_link(format!("/proc/{}/ns/net", world.pid())).unwrap() == own {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        ip("link set lo up");
        ip("link add uplink type veth peer name far");
        ip(&format!("link set far netns {}", world.pid()));
        ip(&format!("link set uplink mtu {UPLINK_MTU} up"));
        ip(&format!("addr add {MACHINE}/24 dev uplink"));
        ip(&format!("addr add {MACHINE6}/64 dev uplink nodad"));
        world.ip("link set lo up");
        world.ip(&format!("link set far mtu {UPLINK_MTU} up"));
        world.ip(&format!("addr add {WORLD}/24 dev far"));
        world.ip(&format!("addr add {WORLD6}/64 dev far nodad"));
        ip(&format!("route add default via {WORLD}"));
        world
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &str) {
        in_namespace_of(self.pid(), arguments);
    }
}

pub(crate) fn in_namespace_of(pid: i32, arguments: &str) {
    let output = Command::new("nsenter")
        .args(["--net", "--target", &pid.to_string(), "ip"])
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Does something in another process's network namespace.
pub(crate) fn within_network<T: Send + 'static>(
    pid: i32,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    std::thread::spawn(move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// What the server at that address says: who it thinks asks.
pub(crate) fn ask(to: &str, port: u16) -> Result<String, std::io::Error> {
    let address = SocketAddr::new(to.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) fn ask_from(pid: i32, to: &'static str, port: u16) -> String {
    within_network(pid, move || ask(to, port))
        .unwrap_or_else(|error| panic!("from {pid} to {to}:{port}: {error}"))
}

/// Whether nothing answers at that address.
pub(crate) fn is_silent(pid: i32, to: &'static str, port: u16) -> bool {
    within_network(pid, move || {
        let address = SocketAddr::new(to.parse().unwrap(), port);
        TcpStream::connect_timeout(&address, SILENCE).is_err()
    })
}

pub(crate) fn links() -> Vec<String> {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "type", "veth"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .filter(|name| name.starts_with("mz"))
        .map(str::to_owned)
        .collect()
}

pub(crate) fn bridge_is_there() -> bool {
    Command::new("ip")
        .args(["link", "show", "mezzo0"])
        .output()
        .unwrap()
        .status
        .success()
}
