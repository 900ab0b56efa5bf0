//! Master and scheduler as processes of their own, what the kernel says of them, and their end.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::Result;

/// Until a server says where it listens.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server in a process of its own; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// What a process has used so far, as the kernel counts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) cpu_s: f64,
    pub(crate) rss_mb: f64,
}

impl Process {
    /// Starts this program again as `words` say, and waits for `<dir>/address`.
    pub(crate) fn start(words: &[&str], dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let file = dir.join("address");
        if file.exists() {
            fs::remove_file(&file)?;
        }
        let mut child = Command::new(std::env::current_exe()?).args(words).spawn()?;
        let begin = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(&file)
                && let Ok(address) = text.trim().parse()
            {
                return Ok(Self { child, address });
            }
            if let Some(status) = child.try_wait()? {
                return Err(format!("{words:?} ended at once: {status}").into());
            }
            if begin.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                return Err(format!("{words:?} does not say where it listens").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn used(&self) -> Result<Used> {
        let pid = self.child.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
            .ok_or("no VmRSS")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything: state, then 10 fields, then user and system time in hundredths.
        let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok());
        let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
        Ok(Used {
            cpu_s: ticks.ok_or("no times in stat")? / 100.0,
            rss_mb: kib / 1024.0,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // As `kill -9`: what it has not made durable is gone. One that has ended already is no failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a master until it is killed.
pub(crate) fn master(dir: &Path) -> Result<()> {
    mezzo_heap::choose_for_server();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let config = mezzo_master::Config {
            listen: "127.0.0.1:0".parse()?,
            state_dir: dir.to_owned(),
            agent_ping_timeout: Duration::from_secs(120),
            ..mezzo_master::Config::default()
        };
        let (ready, address) = oneshot::channel();
        let running = mezzo_master::run_and_tell(config, CancellationToken::new(), Some(ready));
        let tell = async {
            if let Ok(address) = address.await {
                let new = dir.join("address.new");
                fs::write(&new, format!("{address}\n"))?;
                fs::rename(&new, dir.join("address"))?;
            }
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            ended = running => Ok(ended?),
            told = tell => told,
        }
    })
}

/// Runs a scheduler until it is killed.
pub(crate) fn scheduler(dir: &Path, master: &str) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let config = mezzo_scheduler::Config {
        listen: "127.0.0.1:0".parse()?,
        master: master.to_owned(),
        state_dir: dir.to_owned(),
        max_running_deployments: 100_000,
        ..mezzo_scheduler::Config::default()
    };
    Ok(runtime.block_on(mezzo_scheduler::run(config, CancellationToken::new()))?)
}
