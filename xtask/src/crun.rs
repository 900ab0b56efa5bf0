//! The peer of the demo and of `bench launch`: `crun` starts the same containers in a shell loop.
//!
//! Same program, same limits, same namespaces, but nothing pulled or unpacked, one shared read-only root and no
//! seccomp filter (ours have one): what is left out is to crun's advantage. crun refuses a host with hybrid cgroups, so
//! it runs in a mount namespace of its own that shows the v1 controllers alone; nothing of the host is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mezzo_integration::{leftovers, paths, process};
use serde_json::{Value, json};

/// In the names of its containers, and so of their cgroups.
pub(crate) const NAME: &str = "mezzo-peer";

/// Runs the script `$1` where the cgroup controllers are all v1.
const WITH_V1_VIEW: &str = r#"set -eu
mount -t tmpfs mezzo-view "$1"
for controller in /sys/fs/cgroup/*; do
  name=${controller##*/}
  [ "$name" = unified ] && continue
  mkdir "$1/$name"
  mount --bind "$controller" "$1/$name"
done
mount --rbind "$1" /sys/fs/cgroup
shift
exec "$@""#;

/// Prints how many nanoseconds the loop took. Containers inherit all three descriptors: none may be our pipe.
const START: &str = r#"set -eu
start=$(date +%s%N)
for n in $(seq "$4"); do
  "$1" --root "$2" run --detach --bundle "$3" "mezzo-peer-$n" </dev/null >/dev/null 2>"$2.err" || { cat "$2.err" >&2; exit 1; }
done
echo $(($(date +%s%N) - start))"#;

const REMOVE: &str = r#"for n in $(seq "$4"); do
  "$1" --root "$2" delete --force "mezzo-peer-$n" >/dev/null 2>&1 || true
done"#;

/// A bundle for crun and a place for its state.
#[derive(Debug)]
pub(crate) struct Crun {
    program: PathBuf,
    dir: PathBuf,
}

impl Crun {
    /// Prepares a bundle of the sleep program in `dir`; an error if crun is missing.
    pub(crate) fn prepare(dir: &Path, sleep: &Path) -> Result<Self> {
        let program = paths::on_path("crun").context("crun is missing")?;
        let crun = Self {
            program,
            dir: dir.join("crun"),
        };
        for folder in [
            "bundle/rootfs/proc",
            "bundle/rootfs/dev",
            "bundle/rootfs/sys",
            "state",
            "view",
        ] {
            let folder = crun.dir.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let inside = crun.dir.join("bundle/rootfs/sleep");
        fs::copy(sleep, &inside).with_context(|| format!("copy to {}", inside.display()))?;
        Ok(crun)
    }

    /// Starts `count` containers one after the other in a shell loop, and removes them again. The time is that of
    /// the loop alone: crun returns when the container's process runs.
    pub(crate) fn start(&self, count: u32) -> Result<Duration> {
        let config = self.dir.join("bundle/config.json");
        fs::write(&config, bundle_config().to_string())
            .with_context(|| format!("write {}", config.display()))?;
        let started = self.shell(START, count);
        self.shell(REMOVE, count)?;
        let nanos = started?.trim().parse().context("the shell told no time")?;
        Ok(Duration::from_nanos(nanos))
    }

    fn shell(&self, script: &str, count: u32) -> Result<String> {
        let mut command = if hybrid() {
            let mut command = Command::new("unshare");
            command.args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                WITH_V1_VIEW,
                "sh",
            ]);
            command
                .arg(self.dir.join("view"))
                .args(["sh", "-c", script, "sh"]);
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]);
            command
        };
        command
            .arg(&self.program)
            .arg(self.dir.join("state"))
            .arg(self.dir.join("bundle"))
            .arg(count.to_string());
        command.env(leftovers::MARKER, &self.dir);
        process::output(&mut command).context("crun in a shell loop")
    }
}

fn hybrid() -> bool {
    Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists()
}

/// What the tasks of the demo have: 0.05 of a processor, 16 MiB, and the namespaces of a host-network task.
fn bundle_config() -> Value {
    let namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/sleep"], "noNewPrivileges": true,
            "env": ["SLEEP_VERSION=1"],
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "sleep",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": { "memory": { "limit": 16 << 20 }, "cpu": { "shares": 51 }, "pids": { "limit": 1024 } },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mezzo_integration::images;
    use mezzo_integration::leftovers::Snapshot;

    #[test]
    fn crun_starts_containers_and_leaves_nothing_behind() {
        if !nix::unistd::geteuid().is_root() || paths::on_path("crun").is_none() {
            eprintln!("skipped: needs root and crun");
            return;
        }
        let dir = std::env::temp_dir().join(format!("mezzo-crun-{}", std::process::id()));
        let sleep = images::build_sleep().expect("the sleep program");
        let before = Snapshot::take();
        let result = Crun::prepare(&dir, &sleep).and_then(|crun| crun.start(3));
        let scope = leftovers::Scope {
            state: dir.clone(),
            cgroups: vec![NAME.to_owned()],
        };
        let left = leftovers::check(&before, &scope, Duration::from_secs(10));
        fs::remove_dir_all(&dir).expect("remove the bundle");
        let took = result.expect("three containers");
        left.expect("nothing is left");
        assert!(
            took > Duration::from_millis(1) && took < Duration::from_secs(60),
            "{took:?}"
        );
        println!("three containers in {took:?}");
    }
}
