//! A real registry: Debian's `docker-registry` on a free port of loopback, all of its state in one folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::http::{Answer, Rest};
use crate::{images, leftovers, paths, ports, process, wait};
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long it may take to come up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one layer may take on its way to the registry.
const UPLOAD: Duration = Duration::from_secs(300);
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layer in a file, to be pushed.
#[derive(Debug)]
pub struct Layer {
    /// As it goes to the registry.
    pub file: PathBuf,
    /// How it is packed.
    pub media_type: &'static str,
    /// The digest of what it unpacks to.
    pub diff_id: String,
}

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
        wait::until("the registry to answer", PATIENCE, || {
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

    /// Puts an image of this machine's kind into the registry; `run` is the `config` of its configuration.
    pub fn push(&self, repository: &str, tag: &str, run: &Value, layers: &[Layer]) -> Result<()> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = serde_json::json!({
            "os": "linux", "architecture": architecture, "config": run,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let mut pushed = Vec::new();
        for layer in layers {
            let digest = images::digest_of(&layer.file)?;
            let file = File::open(&layer.file)
                .with_context(|| format!("open {}", layer.file.display()))?;
            let size = file.metadata().context("look at a layer")?.len();
            self.upload(repository, &digest, file)?;
            pushed.push(serde_json::json!({ "mediaType": layer.media_type, "digest": digest, "size": size }));
        }
        let digest = images::digest_of_bytes(config.as_bytes());
        self.upload(repository, &digest, config.as_str())?;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": pushed,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len(),
            },
        });
        Rest::new(&self.address)
            .put_as(
                &format!("/v2/{repository}/manifests/{tag}"),
                MANIFEST,
                manifest.to_string(),
            )?
            .ok()
            .map(drop)
    }

    fn upload(&self, repository: &str, digest: &str, body: impl ureq::AsSendBody) -> Result<()> {
        let began = Rest::new(&self.address)
            .post(&format!("/v2/{repository}/blobs/uploads/"), "")?
            .ok()?;
        let location = began.headers.get("location");
        let location = location.context("the registry names no place to upload to")?;
        let join = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{join}digest={digest}");
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(UPLOAD));
        ureq::Agent::from(config.build())
            .put(&url)
            .header("content-type", "application/octet-stream")
            .send(body)
            .with_context(|| format!("upload {digest}"))
            .map(drop)
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
