//! The sleep image: builds the static program, packs it, pushes it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::registry::Registry;
use crate::{paths, process};

/// The image is to hold nothing but a small program: 3 MB in the registry at most.
pub const MAX_SIZE: u64 = 3_000_000;

/// Compiles `sleep` without any dependency on a file of the machine, and returns its path.
pub fn build_sleep() -> Result<PathBuf> {
    let host = host_triple()?;
    // With a target named, the flag goes to the program alone and not to build scripts and macros.
    let mut command = cargo();
    command.args([
        "build",
        "--quiet",
        "--package",
        "sleep",
        "--profile",
        "tiny",
        "--target",
        &host,
    ]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    process::output(&mut command).context("build the sleep program")?;
    let path = paths::target()?.join(&host).join("tiny/sleep");
    if !path.is_file() {
        bail!("cargo built no {}", path.display());
    }
    Ok(path)
}

/// `mezzo image pack … --push` of the sleep program as `sleep:VERSION`; returns its size in the registry.
pub fn pack_and_push(
    mezzo: &Path,
    sleep: &Path,
    registry: &Registry,
    version: &str,
) -> Result<u64> {
    let mut command = pack_command(mezzo, sleep, registry, version);
    process::output(&mut command)?;
    let size = registry.image_size("sleep", version)?;
    if size > MAX_SIZE {
        bail!("sleep:{version} has {size} bytes in the registry, more than {MAX_SIZE}");
    }
    Ok(size)
}

/// The command that does it.
pub fn pack_command(mezzo: &Path, sleep: &Path, registry: &Registry, version: &str) -> Command {
    let mut command = Command::new(mezzo);
    command.args(["image", "pack"]).arg(sleep);
    command.args(["-t", &registry.reference(&format!("sleep:{version}"))]);
    command.args(["--env", &format!("SLEEP_VERSION={version}")]);
    command.args(["--push", "--insecure-registry", registry.address()]);
    command
}

/// `sha256:HEX` of a file.
pub fn digest_of(file: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    File::open(file)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .with_context(|| format!("hash {}", file.display()))?;
    Ok(told(hasher))
}

/// The same of what is in memory.
pub fn digest_of_bytes(bytes: &[u8]) -> String {
    told(Sha256::new_with_prefix(bytes))
}

fn told(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The cargo that runs us, or the one on the PATH.
pub fn cargo() -> Command {
    let mut command =
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(paths::workspace());
    // Set by an outer `cargo run` for this program alone. Build scripts look at some of them (ring's does), and whatever
    // depends on those would be compiled anew each time that somebody calls cargo in another way.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.env_remove("RUSTFLAGS");
    command
}

fn host_triple() -> Result<String> {
    let told = process::output(
        Command::new("rustc")
            .arg("-vV")
            .current_dir(paths::workspace()),
    )?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV tells no host")?.to_owned())
}
