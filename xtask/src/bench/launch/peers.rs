//! Who starts containers beside us: crun and runc on bundles, podman and containerd on an image, and the floor, which is
//! `unshare` with the same namespaces and nothing else. All are run by the thread that has the view of `view.rs`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mezzo_integration::{images, leftovers, paths, process};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::json;

use super::bundle;
use super::group::Group;
use crate::bench::containerd::Containerd;

/// The name of the image for podman and containerd.
const IMAGE: &str = "localhost/mezzo-bench:1";

/// How many commands of a peer run at once.
const PARALLEL: &str = "4";

/// One of them.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    place: Place,
    how: How,
}

#[derive(Debug)]
enum How {
    Floor,
    /// `run`: one command.
    Run(PathBuf),
    /// `create`, `start`, a wait for the end, `delete`.
    Steps(PathBuf),
    Podman,
    Ctr(Containerd),
}

/// What they work on.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Of everything below; short, for the sake of sockets.
    pub(super) dir: PathBuf,
    /// The static program.
    pub(super) program: PathBuf,
    /// The same in a root file system.
    pub(super) rootfs: PathBuf,
    /// From the root of each hierarchy.
    pub(super) cgroup: String,
}

impl Place {
    /// Makes it in `dir`, which is seen as `short` where the peers run.
    pub(super) fn make(dir: &Path, short: &Path, program: &Path, group: &Group) -> Result<Self> {
        let rootfs = dir.join("peers/rootfs");
        for folder in ["proc", "dev", "sys"] {
            let folder = rootfs.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::copy(program, rootfs.join("program")).context("copy the program")?;
        archive(&dir.join("peers/archive"), &rootfs)?;
        let seen = short.join("peers");
        Ok(Self {
            program: seen.join("rootfs/program"),
            rootfs: seen.join("rootfs"),
            dir: seen,
            cgroup: group.path("peers"),
        })
    }

    fn log(&self) -> PathBuf {
        self.dir.join("errors.log")
    }

    /// Their errors go into a file: a container inherits all that it is given.
    fn quiet(&self, command: &mut Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.context("open the log of errors")?)
            .env(leftovers::MARKER, &self.dir);
        Ok(())
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        self.quiet(command)?;
        self.run_as_it_is(command)
    }

    fn run_as_it_is(&self, command: &mut Command) -> Result<()> {
        let status = command
            .status()
            .with_context(|| format!("run {command:?}"))?;
        if !status.success() {
            bail!(
                "`{}` failed with {}:\n{}",
                process::command_line(command),
                process::tell(status),
                process::tail(&self.log(), 10)
            );
        }
        Ok(())
    }

    fn run_for_output(&self, command: &mut Command) -> Result<String> {
        self.quiet(command)?;
        let done = command
            .stdout(Stdio::piped())
            .output()
            .with_context(|| format!("run {command:?}"))?;
        ensure!(
            done.status.success(),
            "`{}` failed with {}:\n{}",
            process::command_line(command),
            process::tell(done.status),
            process::tail(&self.log(), 10)
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// Those that are here, and the names of those that are not. `few` leaves out the variants.
pub(super) fn all(place: &Place) -> Result<(Vec<Peer>, Vec<&'static str>)> {
    let (mut here, mut missing) = (Vec::new(), Vec::new());
    let mut add = |name: &str, how: How| {
        here.push(Peer {
            name: name.to_owned(),
            place: place.clone(),
            how,
        });
    };
    match paths::on_path("unshare") {
        Some(_) => add(FLOOR, How::Floor),
        None => missing.push("unshare (package util-linux)"),
    }
    for (name, note) in [
        ("crun", "crun (package crun)"),
        ("runc", "runc (package runc)"),
    ] {
        match on_root_path(name) {
            Some(path) => {
                let seccomp = bundle::seccomp()?;
                for word in ["true", "stamp"] {
                    let folder = place.dir.join("bundles").join(word);
                    let cgroup = format!("{}/one", place.cgroup);
                    bundle::write(&folder, &place.rootfs, word, &cgroup, &seccomp)?;
                }
                add(&format!("{name} run"), How::Run(path.clone()));
                add(&format!("{name} create, start, delete"), How::Steps(path));
            }
            None => missing.push(note),
        }
    }
    if paths::on_path("podman").is_some() {
        add("podman run", How::Podman);
    } else {
        missing.push("podman (package podman)");
    }
    if paths::on_path("containerd").is_some() && paths::on_path("ctr").is_some() {
        let folder = place.dir.join("containerd");
        add("ctr run", How::Ctr(Containerd::start(&folder)?));
    } else {
        missing.push("containerd (package containerd)");
    }
    for peer in &here {
        peer.bring_image()?;
    }
    Ok((here, missing))
}

/// What the kernel alone costs.
pub(super) const FLOOR: &str = "unshare";

/// Programs of administrators are not on everybody's PATH.
fn on_root_path(name: &str) -> Option<PathBuf> {
    let beside = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(name));
    paths::on_path(name).or_else(|| beside.into_iter().find(|path| path.is_file()))
}

fn next_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("mezzo-bench-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn monotonic() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)
        .context("read the clock")?
        .into())
}

/// What a program that runs `stamp` printed.
fn since(begun: Duration, printed: &str) -> Result<Duration> {
    let nanos = printed.trim().parse();
    let stamp = Duration::from_nanos(nanos.with_context(|| format!("no time: {printed:?}"))?);
    stamp
        .checked_sub(begun)
        .context("the program ran before its start")
}

impl Peer {
    pub(super) fn is_floor(&self) -> bool {
        matches!(self.how, How::Floor)
    }

    /// Whether it is more than a runtime: images, networks, logs, maybe a daemon.
    pub(super) fn is_engine(&self) -> bool {
        matches!(self.how, How::Podman | How::Ctr(_))
    }

    /// Whether it takes part where many are started: one of each tool, and the slow ones only with a few.
    pub(super) fn starts_many(&self, count: u32) -> bool {
        match self.how {
            How::Floor | How::Steps(_) => false,
            How::Run(_) => true,
            How::Podman | How::Ctr(_) => count <= 100,
        }
    }

    fn bring_image(&self) -> Result<()> {
        let archive = self.place.dir.join("archive/image.tar");
        match &self.how {
            How::Floor | How::Run(_) | How::Steps(_) => Ok(()),
            How::Podman => self
                .place
                .run(self.podman().args(["load", "-q", "-i"]).arg(archive)),
            How::Ctr(server) => self
                .place
                .run(server.ctr().args(["images", "import"]).arg(archive)),
        }
    }

    /// One command that runs a container to its end.
    fn whole(&self, word: &str) -> Command {
        match &self.how {
            How::Floor => {
                let mut command = Command::new("unshare");
                command.args([
                    "--fork", "--pid", "--mount", "--ipc", "--uts", "--cgroup", "--net",
                ]);
                command.arg(&self.place.program).arg(word);
                command
            }
            How::Run(tool) | How::Steps(tool) => {
                let mut command = self.oci(tool);
                command.arg("run").arg("--bundle");
                command.arg(self.place.dir.join("bundles").join(word));
                command.arg(next_id());
                command
            }
            How::Podman => {
                let mut command = self.podman();
                command.args(["run", "--rm"]);
                self.podman_options(&mut command);
                command.args([IMAGE, word]);
                command
            }
            How::Ctr(server) => {
                let mut command = server.ctr();
                command.args(["run", "--rm"]);
                let id = next_id();
                self.ctr_options(&mut command, &id);
                command.args([IMAGE, &id, "/program", word]);
                command
            }
        }
    }

    /// A container of `true`, from nothing to nothing.
    pub(super) fn life(&self) -> Result<Duration> {
        let begun = Instant::now();
        match &self.how {
            How::Steps(tool) => {
                let (id, pid) = self.create(tool, "true", Stdio::null())?;
                self.place.run(self.oci(tool).args(["start", &id]))?;
                waitpid(pid, None).context("wait for the container")?;
                self.place.run(self.oci(tool).args(["delete", &id]))?;
            }
            How::Floor | How::Run(_) | How::Podman | How::Ctr(_) => {
                self.place.run(&mut self.whole("true"))?;
            }
        }
        Ok(begun.elapsed())
    }

    /// Until the first instruction of the container has read the clock.
    pub(super) fn start(&self) -> Result<Duration> {
        let begun = monotonic()?;
        let printed = match &self.how {
            How::Steps(tool) => {
                let (mut reader, writer) = std::io::pipe().context("make a pipe")?;
                let (id, pid) = self.create(tool, "stamp", Stdio::from(writer))?;
                self.place.run(self.oci(tool).args(["start", &id]))?;
                let mut printed = String::new();
                reader
                    .read_to_string(&mut printed)
                    .context("read what the container prints")?;
                waitpid(pid, None).context("wait for the container")?;
                self.place.run(self.oci(tool).args(["delete", &id]))?;
                printed
            }
            How::Floor | How::Run(_) | How::Podman | How::Ctr(_) => {
                self.place.run_for_output(&mut self.whole("stamp"))?
            }
        };
        since(begun, &printed)
    }

    /// The container's process becomes ours when `create` ends: this process is a subreaper.
    fn create(&self, tool: &Path, word: &str, output: Stdio) -> Result<(String, Pid)> {
        let id = next_id();
        let file = self.place.dir.join("pid");
        let mut command = self.oci(tool);
        command.args(["create", "--pid-file"]).arg(&file);
        command.arg("--bundle");
        command.arg(self.place.dir.join("bundles").join(word));
        command.arg(&id);
        self.place.quiet(&mut command)?;
        command.stdout(output);
        self.place.run_as_it_is(&mut command)?;
        let pid = fs::read_to_string(&file).context("read the container's process id")?;
        let pid = pid.trim().parse().context("the container's process id")?;
        Ok((id, Pid::from_raw(pid)))
    }

    /// Prepares `count` containers, outside of any measured time.
    pub(super) fn prepare(&self, count: u32) -> Result<Vec<String>> {
        let ids: Vec<String> = (0..count).map(|_| next_id()).collect();
        if let How::Run(_) = self.how {
            let seccomp = bundle::seccomp()?;
            for id in &ids {
                let folder = self.place.dir.join("bundles").join(id);
                let cgroup = format!("{}/{id}", self.place.cgroup);
                bundle::write(&folder, &self.place.rootfs, "sleep", &cgroup, &seccomp)?;
            }
        }
        let list = self.place.dir.join("ids");
        fs::write(&list, ids.join("\n") + "\n").context("write the list of containers")?;
        Ok(ids)
    }

    /// Starts what was prepared.
    pub(super) fn up(&self) -> Result<Duration> {
        let command = match &self.how {
            How::Floor | How::Steps(_) => bail!("{} starts no many", self.name),
            How::Run(tool) => {
                let mut command = self.oci(tool);
                command.args(["run", "--detach", "--bundle"]);
                command.arg(self.place.dir.join("bundles/{}")).arg("{}");
                command
            }
            How::Podman => {
                let mut command = self.podman();
                command.args(["run", "-d", "--name", "{}"]);
                self.podman_options(&mut command);
                command.args([IMAGE, "sleep"]);
                command
            }
            How::Ctr(server) => {
                let mut command = server.ctr();
                command.args(["run", "-d"]);
                self.ctr_options(&mut command, "{}");
                command.args([IMAGE, "{}", "/program", "sleep"]);
                command
            }
        };
        self.for_each(&command)
    }

    /// Kills and removes them.
    pub(super) fn down(&self) -> Result<Duration> {
        let begun = Instant::now();
        match &self.how {
            How::Floor | How::Steps(_) => {}
            How::Run(tool) => {
                self.for_each(self.oci(tool).args(["delete", "--force", "{}"]))?;
            }
            How::Podman => {
                self.for_each(self.podman().args(["rm", "-f", "-t", "0", "{}"]))?;
            }
            How::Ctr(server) => {
                self.for_each(server.ctr().args(["tasks", "rm", "-f", "{}"]))?;
                self.for_each(server.ctr().args(["containers", "rm", "{}"]))?;
            }
        }
        Ok(begun.elapsed())
    }

    /// The processes that look after containers, and daemons: none where a tool leaves none behind.
    pub(super) fn supervisors(&self) -> Vec<i32> {
        match &self.how {
            How::Floor | How::Run(_) | How::Steps(_) => Vec::new(),
            How::Podman => named("conmon"),
            How::Ctr(server) => {
                let mut found = named("containerd-shim");
                found.push(server.pid());
                found
            }
        }
    }

    /// `xargs` over the list, four at once.
    fn for_each(&self, each: &Command) -> Result<Duration> {
        let mut command = Command::new("xargs");
        command.args(["-P", PARALLEL, "-I{}"]);
        command.arg(each.get_program()).args(each.get_args());
        self.place.quiet(&mut command)?;
        let list = File::open(self.place.dir.join("ids")).context("open the list of containers")?;
        command.stdin(list);
        let begun = Instant::now();
        self.place.run_as_it_is(&mut command)?;
        Ok(begun.elapsed())
    }

    fn oci(&self, tool: &Path) -> Command {
        let mut command = Command::new(tool);
        let name = tool.file_name().unwrap_or_default();
        command
            .arg("--root")
            .arg(self.place.dir.join("state").join(name));
        command
    }

    fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        for (flag, folder) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command
                .arg(flag)
                .arg(self.place.dir.join("podman").join(folder));
        }
        command.args([
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
        ]);
        command
    }

    fn podman_options(&self, command: &mut Command) {
        command.args(["--network", "none", "--log-driver", "k8s-file"]);
        command.args(["--memory", "64m", "--cpus", "0.5", "--pids-limit", "256"]);
        // Without CAP_SYS_RESOURCE it may not raise them, which it does by default.
        command.args([
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ]);
        command.args(["--cgroup-parent", &self.place.cgroup]);
    }

    fn ctr_options(&self, command: &mut Command, id: &str) {
        command.args(["--snapshotter", "overlayfs", "--seccomp"]);
        command.args(["--memory-limit", "67108864", "--cpus", "0.5"]);
        command.args(["--cgroup", &format!("{}/{id}", self.place.cgroup)]);
    }
}

/// Processes of that name, which the kernel cuts to 15 bytes.
fn named(name: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let told = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        told.trim_end() == &name[..name.len().min(15)]
    })
    .collect()
}

/// An image with the root file system as its only layer, in the form that podman and containerd both read.
fn archive(dir: &Path, rootfs: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let layer = dir.join("layer.tar");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--file"]);
    process::output(tar.arg(&layer).arg("-C").arg(rootfs).arg("."))?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Entrypoint": ["/program"], "Env": ["PATH=/"] },
        "rootfs": { "type": "layers", "diff_ids": [images::digest_of(&layer)?] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(dir.join("config.json"), config.to_string()).context("write the image's config")?;
    fs::write(dir.join("manifest.json"), manifest.to_string()).context("write the manifest")?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--file"]).arg(dir.join("image.tar"));
    tar.arg("-C").arg(dir);
    process::output(tar.args(["manifest.json", "config.json", "layer.tar"]))?;
    Ok(())
}
