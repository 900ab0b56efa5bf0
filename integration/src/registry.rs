//! A real registry: Debian's `docker-registry` on a free port of loopback, all of its state in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::http::{Answer, Rest};
use crate::{leftovers, paths, ports, process, wait};
use anyhow::{Context, Result, bail};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry that stops on drop; its folder stays until its owner removes it.
#[derive(Debug)]
pub struct Registry {
    address: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<process::Managed>,
}

impl Registry {
    /// Starts one in `dir` and waits until it answers.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let address = format!("127.0.0.1:{}", ports::free()?);
        let config = dir.join("config.yml");
        let data = dir.join("data");
        // JSON is YAML: no quoting of our own.
        let text = serde_json::json!({
            "version": 0.1,
            "log": { "level": "warn", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": data }, "delete": { "enabled": true } },
            "http": { "addr": address },
        });
        fs::write(&config, text.to_string())
            .with_context(|| format!("write {}", config.display()))?;
        let mut registry = Self {
            address,
            config,
            log: dir.join("log"),
            process: None,
        };
        registry.run()?;
        Ok(registry)
    }

    /// host:port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The reference of an image in this registry.
    pub fn reference(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Starts it, or starts it again after [`Registry::stop`], on the same port and with the same images.
    pub fn run(&mut self) -> Result<()> {
        let binary = find_binary()?;
        let mut command = Command::new(binary);
        command
            .arg("serve")
            .arg(&self.config)
            .env(leftovers::MARKER, "registry");
        // Its telemetry would look for a collector.
        command.env("OTEL_TRACES_EXPORTER", "none");
        let mut process = process::Managed::spawn("the registry", &mut command, &self.log)?;
        let rest = Rest::new(&self.address);
        wait::until("the registry to answer", Duration::from_secs(20), || {
            process.check_running()?;
            rest.get("/v2/")?.ok()
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it: pulls fail until [`Registry::run`].
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(process::GRACE).map(drop),
            None => Ok(()),
        }
    }

    /// Compressed size of an image: manifest, configuration and layers.
    pub fn image_size(&self, repository: &str, tag: &str) -> Result<u64> {
        let manifest = self.manifest(repository, tag)?;
        let layers = manifest.json["layers"]
            .as_array()
            .context("the manifest has no layers")?;
        let parts = layers.iter().chain([&manifest.json["config"]]);
        let sizes: Option<Vec<u64>> = parts.map(|part| part["size"].as_u64()).collect();
        Ok(sizes
            .context("the manifest has no sizes")?
            .iter()
            .sum::<u64>()
            + manifest.text.len() as u64)
    }

    /// The manifest of an image, as the registry keeps it.
    pub fn manifest(&self, repository: &str, tag: &str) -> Result<Answer> {
        Rest::new(&self.address)
            .get_as(&format!("/v2/{repository}/manifests/{tag}"), MANIFEST)?
            .ok()
    }
}

/// From the PATH, or where xtask unpacked Debian's package.
pub fn find_binary() -> Result<PathBuf> {
    let unpacked = paths::target()?.join("tools/docker-registry/usr/bin/docker-registry");
    match paths::on_path("docker-registry").or_else(|| Some(unpacked).filter(|path| path.is_file()))
    {
        Some(found) => Ok(found),
        None => {
            bail!("docker-registry is missing: `cargo xtask test` and `cargo xtask demo` fetch it")
        }
    }
}
