//! A containerd of our own, as a peer: all of it in one folder, ended when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mezzo_integration::{process, wait};
use serde_json::json;

/// A running one.
#[derive(Debug)]
pub(super) struct Containerd {
    socket: PathBuf,
    server: process::Managed,
}

impl Containerd {
    /// Starts one in `place`, whose path must be short: its socket is in it. Returns when it answers.
    pub(super) fn start(place: &Path) -> Result<Self> {
        let (root, state) = (place.join("root"), place.join("state"));
        let socket = state.join("sock");
        let quoted = |path: &Path| json!(path.display().to_string()).to_string();
        // What needs other kernels or tools, and the front for Kubernetes.
        let disabled: Vec<String> = [
            "grpc.v1.cri",
            "internal.v1.opt",
            "snapshotter.v1.aufs",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.devmapper",
            "snapshotter.v1.zfs",
        ]
        .iter()
        .map(|name| format!("io.containerd.{name}"))
        .collect();
        let config = format!(
            "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = {}\n[grpc]\naddress = {}\n",
            quoted(&root),
            quoted(&state),
            json!(disabled),
            quoted(&socket)
        );
        fs::create_dir_all(&state).context("make containerd's folder")?;
        let file = place.join("config.toml");
        fs::write(&file, config).context("write containerd's settings")?;
        let mut command = Command::new("containerd");
        command.arg("--log-level").arg("error").arg("-c").arg(&file);
        let log = place.join("containerd.log");
        let server = process::Managed::spawn("containerd", &mut command, &log)?;
        let mut containerd = Self { socket, server };
        wait::until("containerd to answer", Duration::from_secs(30), || {
            containerd.server.check_running()?;
            process::output(containerd.ctr().arg("version"))
        })?;
        Ok(containerd)
    }

    /// Its client, without a verb.
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(&self.socket);
        command
    }

    /// Its process.
    pub(super) fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// Ends it in order.
    pub(super) fn stop(mut self) -> Result<()> {
        self.server.stop(process::GRACE).map(drop)
    }
}
