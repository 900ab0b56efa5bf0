//! A real etcd: Debian's `etcd-server`, one member on free ports of loopback, all of its state in one folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http::Rest;
use crate::{leftovers, paths, ports, process, wait};

/// One that stops on drop; its folder stays until its owner removes it.
#[derive(Debug)]
pub struct Etcd {
    client: String,
    peer: String,
    dir: PathBuf,
    process: Option<process::Managed>,
}

impl Etcd {
    /// Starts one in `dir` and waits until it answers.
    pub fn start(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut etcd = Self {
            client: format!("127.0.0.1:{}", ports::free()?),
            peer: format!("127.0.0.1:{}", ports::free()?),
            dir: dir.to_owned(),
            process: None,
        };
        etcd.run()?;
        Ok(etcd)
    }

    /// host:port for clients.
    pub fn address(&self) -> &str {
        &self.client
    }

    /// Starts it again, on the same ports and with the same state.
    pub fn run(&mut self) -> Result<()> {
        let (client, peer) = (
            format!("http://{}", self.client),
            format!("http://{}", self.peer),
        );
        let mut command = Command::new(find_binary()?);
        command.arg("--data-dir").arg(self.dir.join("data"));
        command.args(["--name", "one", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client]);
        command.args(["--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        command.env(leftovers::MARKER, "etcd");
        let log = self.dir.join("log");
        let mut process = process::Managed::spawn("etcd", &mut command, &log)?;
        let rest = Rest::new(&self.client);
        wait::until("etcd to answer", Duration::from_secs(60), || {
            process.check_running()?;
            rest.get("/health")?.ok()
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it as an operator would.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(process::GRACE).map(drop),
            None => Ok(()),
        }
    }

    /// Forgets all revisions up to the newest.
    pub fn compact(&self) -> Result<()> {
        let rest = Rest::new(&self.client);
        let range = rest.post("/v3/kv/range", r#"{"key":"AA=="}"#)?.ok()?;
        let revision = range.json["header"]["revision"].as_str();
        let revision = revision.context("etcd tells no revision")?.to_owned();
        rest.post(
            "/v3/kv/compaction",
            serde_json::json!({ "revision": revision }).to_string(),
        )?
        .ok()
        .map(drop)
    }
}

/// From the PATH, or where xtask unpacked Debian's package.
pub fn find_binary() -> Result<PathBuf> {
    let unpacked = paths::target()?.join("tools/etcd-server/usr/bin/etcd");
    match paths::on_path("etcd").or_else(|| Some(unpacked).filter(|path| path.is_file())) {
        Some(found) => Ok(found),
        None => bail!("etcd is missing: `cargo xtask test` fetches it"),
    }
}
