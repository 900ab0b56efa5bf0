//! One running guest: QEMU as a child, its serial console in a file, and a line to `mezzo-guest` inside.
//!
//! Everything ends with the [`Guest`]: QEMU, its folder, its disks. If that happens in a panic, or was asked for with
//! [`Guest::keep_console`], the serial console (and systemd's journal) stay below `target/vm/logs`, and one line tells
//! the likely cause.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::bench::Bench;
use super::debian;
use super::emulator::{self, EMULATOR, LOG, Power};
use super::line::{Answer, End, Line};
use super::protocol::{self, CHUNK, Kind};
use super::qmp;
use super::spec::{Ended, GuestSpec, Run, System};
use crate::interrupt;
use crate::process;

/// At full speed; stretched.
const FILE_LIMIT: Duration = Duration::from_secs(20);
const CALL_LIMIT: Duration = Duration::from_secs(10);
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);

/// A command that runs on while the test does other things.
#[derive(Debug)]
pub struct Job<'guest> {
    guest: &'guest Guest,
    request: u32,
    line: String,
}

impl Job<'_> {
    /// Waits for its end.
    pub fn wait(self, within: Duration) -> Result<Ended> {
        self.follow(within, |_| {})
    }

    /// Waits for its end; `heard` gets what it writes to stdout as it comes, in whole lines.
    pub fn follow(self, within: Duration, mut heard: impl FnMut(&str)) -> Result<Ended> {
        let line = self.guest.line()?;
        let mut told = 0;
        let limit = self.guest.limit(within);
        let ended = line.wait(self.request, &self.line, limit, |answer| {
            let new = &answer.stdout[told..];
            let whole = match answer.end {
                Some(_) => new.len(),
                None => new
                    .iter()
                    .rposition(|&byte| byte == b'\n')
                    .map_or(0, |at| at + 1),
            };
            if whole > 0 {
                heard(&String::from_utf8_lossy(&new[..whole]));
                told += whole;
            }
            answer.end.clone()
        });
        let end = ended.inspect_err(|_| {
            let _best_effort = self.signal(nix::libc::SIGKILL);
        })?;
        let answer = line.forget(self.request).unwrap_or_default();
        self.ended(answer, end)
    }

    fn ended(self, answer: Answer, end: End) -> Result<Ended> {
        let guest = self.guest;
        let exit = match end {
            End::Exited(exit) => exit,
            End::Failed(told) => bail!("{} in the guest: {told}", self.line),
            End::Complete => bail!("{} in the guest: answered like a file", self.line),
            End::Gone => bail!("{}: {}", self.line, guest.why_gone()),
        };
        let mut stdout = String::from_utf8_lossy(&answer.stdout).into_owned();
        if answer.cut {
            stdout.push_str("\n(more than is kept)\n");
        }
        Ok(Ended {
            line: self.line,
            exit,
            stdout,
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// Sends a signal to it and its children.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let number = u8::try_from(signal).context("the number of a signal")?;
        self.guest
            .line()?
            .tell(self.request, Kind::Signal, &[number])
    }

    /// What it wrote to stdout and stderr so far.
    pub fn output(&self) -> Result<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let line = self.guest.line()?;
        line.wait(self.request, &self.line, Duration::ZERO, |answer| {
            Some((text(&answer.stdout), text(&answer.stderr)))
        })
    }
}

/// A guest: under power, unless that was cut.
#[derive(Debug)]
pub struct Guest {
    spec: GuestSpec,
    bench: Bench,
    dir: PathBuf,
    kernel: String,
    keep_console: bool,
    /// By name: what commands have said, before and after power cuts.
    heard: BTreeMap<String, Heard>,
    power: Option<Power>,
}

/// The output of a command that may be started anew.
#[derive(Debug, Default)]
struct Heard {
    before: String,
    request: Option<u32>,
}

impl Guest {
    /// Starts QEMU and waits until the guest answers.
    pub fn boot(bench: &Bench, spec: GuestSpec) -> Result<Self> {
        Self::boot_within(bench, spec, boot_limit(bench))
    }

    /// The same for those who know how long it may take.
    pub(super) fn boot_within(bench: &Bench, spec: GuestSpec, limit: Duration) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{number}-{}", std::process::id(), spec.name);
        let dir = bench.dir.join("run").join(unique);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let mut guest = Self {
            spec,
            bench: bench.clone(),
            dir,
            kernel: String::new(),
            keep_console: false,
            heard: BTreeMap::new(),
            power: None,
        };
        emulator::make_disks(bench, &guest.spec, &guest.dir)?;
        guest.start_within(limit)?;
        Ok(guest)
    }

    /// Starts it (again): what was in memory is gone, what had reached its disk is there.
    pub fn power_on(&mut self) -> Result<()> {
        self.start_within(boot_limit(&self.bench))
    }

    fn start_within(&mut self, limit: Duration) -> Result<()> {
        if self.power.is_some() {
            bail!("{} is on already", self.spec.name);
        }
        self.power = Some(emulator::start(&self.bench, &self.spec, &self.dir)?);
        let up = self.wait_until_up(limit);
        up.inspect_err(|_| self.keep_console = true)
    }

    fn wait_until_up(&mut self, limit: Duration) -> Result<()> {
        self.kernel.clear();
        self.kernel = self.wait_for_hello(limit)?;
        self.configure_network()?;
        match self.spec.system {
            System::Micro => Ok(()),
            System::Debian => debian::wait_for_services(self),
        }
    }

    /// Its interface is found by its address, because kinds of guests name interfaces differently.
    fn configure_network(&self) -> Result<()> {
        let Some(nic) = &self.spec.nic else {
            return Ok(());
        };
        let (mac, address, name) = (nic.mac(), nic.address(), &self.spec.name);
        self.sh(&format!(
            "dev=$(basename $(dirname $(grep -l {mac} /sys/class/net/*/address)))
            hostname {name}
            ip addr add {address}/24 dev $dev
            ip link set $dev up"
        ))
        .map(drop)
    }

    fn wait_for_hello(&mut self, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            let heard = self.line()?.hello().with_context(|| self.why_gone());
            if let Some(kernel) = heard? {
                return Ok(kernel);
            }
            let name = &self.spec.name;
            if interrupt::requested() {
                bail!("interrupted while {name} boots");
            }
            if start.elapsed() > limit {
                let secs = limit.as_secs();
                bail!("{name} is not up after {secs} s: {}", self.cause());
            }
            if let Some(power) = &mut self.power {
                power.emulator.check_running()?;
            }
        }
    }

    fn line(&self) -> Result<&Line> {
        let power = self.power.as_ref();
        let power = power.with_context(|| format!("{} is without power", self.spec.name))?;
        Ok(&power.line)
    }

    /// As its spec says.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether it is under power.
    pub fn is_on(&self) -> bool {
        self.power.is_some()
    }

    /// The release of its kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// A time limit, stretched by how slow guests are here.
    pub fn limit(&self, limit: Duration) -> Duration {
        self.bench.speed.stretch(limit)
    }

    /// Starts a command.
    pub fn start(&self, run: &Run) -> Result<Job<'_>> {
        Ok(Job {
            guest: self,
            request: self.line()?.ask(Kind::Run, &run.order.encode())?,
            line: run.line(),
        })
    }

    /// Starts a command that runs on, and keeps what it writes to stdout, under a name, also over power cuts.
    pub fn listen(&mut self, name: &str, run: &Run) -> Result<()> {
        let request = self.line()?.ask(Kind::Run, &run.order.encode())?;
        let heard = self.heard.entry(name.to_owned()).or_default();
        heard.request = Some(request);
        Ok(())
    }

    /// What a command that is listened to has written so far.
    pub fn heard(&self, name: &str) -> String {
        let Some(heard) = self.heard.get(name) else {
            return String::new();
        };
        let now = heard.request.zip(self.power.as_ref());
        let now = now.and_then(|(request, power)| power.line.peek(request));
        format!("{}{}", heard.before, now.unwrap_or_default())
    }

    /// All that is listened to, by name.
    pub fn all_heard(&self) -> Vec<(String, String)> {
        let names = self.heard.keys();
        names.map(|name| (name.clone(), self.heard(name))).collect()
    }

    /// Before the line is dropped.
    fn keep_heard(&mut self) {
        for (name, text) in self.all_heard() {
            let before = Heard {
                before: text,
                request: None,
            };
            self.heard.insert(name, before);
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, run: &Run) -> Result<Ended> {
        self.start(run)?.wait(run.within)
    }

    /// Runs a script of the shell, and returns its stdout; fails as the script does.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(&Run::new(&["/bin/sh", "-ec", script]))?.ok()
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.get(path)?).into_owned())
    }

    /// The content of a file.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let line = self.line()?;
        let request = line.ask(Kind::Get, path.as_bytes())?;
        let what = format!("read {path} of {}", self.spec.name);
        let limit = self.limit(FILE_LIMIT);
        let (answer, end) = line.finish(request, &what, limit)?;
        self.complete(&what, &end)?;
        if answer.cut {
            bail!("{what}: it is larger than a test may ask for");
        }
        Ok(answer.stdout)
    }

    /// Makes a file; the parents are made as needed.
    pub fn put(&self, path: &str, mode: u32, mut content: impl Read) -> Result<()> {
        let what = format!("write {path} of {}", self.spec.name);
        let line = self.line()?;
        let request = line.ask(Kind::Put, &protocol::encode_put(path, mode))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let n_read = content.read(&mut chunk).with_context(|| what.clone())?;
            if n_read == 0 {
                break;
            }
            line.tell(request, Kind::Data, &chunk[..n_read])?;
        }
        line.tell(request, Kind::End, &[])?;
        let limit = self.limit(FILE_LIMIT);
        let (_, end) = line.finish(request, &what, limit)?;
        self.complete(&what, &end)
    }

    /// Says `request` to a server in the guest (host:port, as the guest sees it) and returns all that it answers
    /// until it hangs up. The way in for HTTP: this machine and the guests share no network.
    pub fn call(&self, to: &str, request: &[u8]) -> Result<Vec<u8>> {
        let what = format!("call {to} from {}", self.spec.name);
        let line = self.line()?;
        let number = line.ask(Kind::Call, to.as_bytes())?;
        for chunk in request.chunks(CHUNK) {
            line.tell(number, Kind::Data, chunk)?;
        }
        line.tell(number, Kind::End, &[])?;
        let (answer, end) = line.finish(number, &what, self.limit(CALL_LIMIT))?;
        self.complete(&what, &end)?;
        Ok(answer.stdout)
    }

    /// Copies a file of this machine to it.
    pub fn copy_in(&self, host: &Path, guest: &str, mode: u32) -> Result<()> {
        let file = File::open(host).with_context(|| format!("open {}", host.display()))?;
        self.put(guest, mode, file)
    }

    /// Copies a file of it to this machine.
    pub fn copy_out(&self, guest: &str, host: &Path) -> Result<()> {
        fs::write(host, self.get(guest)?).with_context(|| format!("write {}", host.display()))
    }

    /// Shuts it down in order.
    pub fn power_off(&mut self) -> Result<()> {
        // The line dies under it, so there is no answer to wait for.
        let run = Run::new(&["/bin/sh", "-c", self.spec.system.power_off()]);
        let _job = self.start(&run)?;
        let limit = self.limit(POWER_OFF_LIMIT);
        let Some(mut power) = self.power.take() else {
            return Ok(());
        };
        let status = power.emulator.wait(limit)?;
        if !status.success() {
            bail!("{EMULATOR} ended with {}", process::tell(status));
        }
        Ok(())
    }

    /// Pulls the power cord. [`Guest::power_on`] starts it again.
    pub fn pull_power(&mut self) -> Result<()> {
        let Some(power) = &mut self.power else {
            bail!("{} is off already", self.spec.name);
        };
        power.emulator.signal(nix::sys::signal::Signal::SIGKILL)?;
        power.emulator.wait(POWER_OFF_LIMIT)?;
        // What it said to the last has come by now.
        power.line.wait_dead(POWER_OFF_LIMIT);
        self.keep_heard();
        self.power = None;
        Ok(())
    }

    /// Stops the whole machine, clock and all, as a host does that is overloaded or moves it elsewhere.
    pub fn freeze(&self) -> Result<()> {
        qmp::command(&self.dir, "stop", &json!({}))
    }

    /// Lets it go on where it was, with a clock that knows nothing of the pause.
    pub fn thaw(&self) -> Result<()> {
        qmp::command(&self.dir, "cont", &json!({}))
    }

    /// Lets the disk of its data do no more than so many writes a second until the power goes: what a test disk does at
    /// once takes its time on a real one, and that is when power cuts hurt.
    pub fn slow_disk(&self, writes_per_second: u32) -> Result<()> {
        let limits = json!({
            "device": emulator::DATA_DRIVE, "bps": 0, "bps_rd": 0, "bps_wr": 0,
            "iops": 0, "iops_rd": 0, "iops_wr": writes_per_second,
        });
        qmp::command(&self.dir, "block_set_io_throttle", &limits)
    }

    /// Keeps the serial console at the end although nothing has panicked.
    pub fn keep_console(&mut self) {
        self.keep_console = true;
    }

    /// What the guest's kernel and its scripts wrote so far.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.dir.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn complete(&self, what: &str, end: &End) -> Result<()> {
        match end {
            End::Complete => Ok(()),
            End::Failed(told) => bail!("{what}: {told}"),
            End::Exited(exit) => bail!("{what}: answered like a command, with {exit}"),
            End::Gone => bail!("{what}: {}", self.why_gone()),
        }
    }

    fn why_gone(&self) -> String {
        format!("{} is gone: {}", self.spec.name, self.cause())
    }

    fn cause(&self) -> String {
        let emulator = || cause(&process::tail(&self.dir.join(LOG), 5));
        let told = cause(&self.console()).or_else(emulator);
        told.unwrap_or_else(|| "its serial console is silent".to_owned())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let failed = thread::panicking() || self.keep_console;
        if failed {
            let (name, logs) = (&self.spec.name, self.bench.dir.join("logs"));
            let kept = logs.join(format!("{name}.console.log"));
            let copied = fs::create_dir_all(&logs)
                .and_then(|()| fs::copy(self.dir.join("console.log"), &kept));
            if copied.is_ok() {
                eprintln!("{name}: {}; all of it: {}", self.cause(), kept.display());
            }
            // Not of one that has not spoken since it was switched on.
            let speaks = self.is_on() && !self.kernel.is_empty();
            if self.spec.system == System::Debian && speaks {
                let told = debian::journal(self).unwrap_or_else(|error| format!("{error:#}"));
                let _console_is_kept = fs::write(logs.join(format!("{name}.journal.log")), told);
            }
        }
        // Nothing in it is worth an orderly end.
        if self.is_on() {
            let _ended_already = self.pull_power();
        }
        let _left_for_the_next_run = fs::remove_dir_all(&self.dir);
    }
}

/// The probe was alone on the machine; a guest may boot beside others, and beside whatever else runs by now.
fn boot_limit(bench: &Bench) -> Duration {
    (bench.speed.boot * 20).clamp(Duration::from_secs(120), Duration::from_secs(300))
}

/// The line of a serial console that tells most.
fn cause(console: &str) -> Option<String> {
    const SIGNS: [&str; 6] = [
        "Kernel panic",
        "BUG:",
        "Out of memory:",
        "Initramfs unpacking failed",
        "mezzo-guest ended",
        "init: ",
    ];
    let lines = || {
        console
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.ends_with(" blocks"))
    };
    let telling = SIGNS
        .iter()
        .find_map(|sign| lines().find(|line| line.contains(sign)));
    telling.or_else(|| lines().next_back()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_line_that_tells_most() {
        let console = "[1] Linux version 6\n[2] init: no module x\n[3] Kernel panic - not syncing\n\n[4] end\n";
        assert_eq!(
            cause(console).as_deref(),
            Some("[3] Kernel panic - not syncing")
        );
        assert_eq!(cause("one\ntwo\n\n").as_deref(), Some("two"));
        assert_eq!(cause("\n"), None);
    }
}
