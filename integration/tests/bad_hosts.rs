//! `mezzo dev` where it cannot run: ports in use, a state folder in use or damaged, no root, no cgroups. One clear error
//! each, soon, and nothing left behind.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use common::{check_contains, on_stage};
use mezzo_integration::cluster::PATIENCE;
use mezzo_integration::ports;
use mezzo_integration::process::{self, Managed, tail, tell};

/// Starts a command that must end by itself with an error; returns what it said.
fn fails(command: &mut Command, log: &Path) -> Result<String> {
    let mut process = Managed::spawn("mezzo dev", command, log)?;
    let status = process.wait(PATIENCE)?;
    let told = tail(log, 20);
    println!("{told}");
    if status.success() || status.code().is_none() {
        bail!("it ended with {}:\n{told}", tell(status));
    }
    ensure!(!told.contains("panicked"), "it panicked:\n{told}");
    Ok(told)
}

fn dev(mezzo: &Path, state: &Path) -> Command {
    let mut command = Command::new(mezzo);
    command.arg("dev").arg("--state-dir").arg(state);
    command.args([
        "--master-port",
        "0",
        "--agent-port",
        "0",
        "--scheduler-port",
        "0",
    ]);
    command
}

#[test]
fn ports_and_state_folders_in_use_are_named() {
    on_stage("in-use", |stage| {
        let taken = TcpListener::bind(("127.0.0.1", 0)).context("take a port")?;
        let port = taken.local_addr().context("its number")?.port().to_string();
        for server in ["master", "agent", "scheduler"] {
            let state = stage.dir.join(format!("port-{server}"));
            let mut command = Command::new(&stage.mezzo);
            command.arg("dev").arg("--state-dir").arg(&state);
            for other in ["master", "agent", "scheduler"] {
                let number = if other == server {
                    port.clone()
                } else {
                    ports::free()?.to_string()
                };
                command.arg(format!("--{other}-port")).arg(number);
            }
            let told = fails(&mut command, &stage.dir.join(format!("port-{server}.log")))?;
            check_contains(&told, &port)?;
        }
        let second = fails(
            &mut dev(&stage.mezzo, stage.cluster.dir()),
            &stage.dir.join("second.log"),
        )?;
        check_contains(&second, &stage.cluster.dir().display().to_string())?;
        // The first one has not noticed.
        stage.cluster.deploy(&stage.app("sleep", 1))?;
        stage.cluster.wait_running("sleep", 1)?;
        stage.cluster.remove("sleep")
    });
}

#[test]
fn damaged_state_is_named_and_left_alone() {
    on_stage("damaged", |stage| {
        stage.cluster.deploy(&stage.app("sleep", 1))?;
        stage.cluster.wait_running("sleep", 1)?;
        stage.cluster.remove("sleep")?;
        stage.cluster.stop()?;
        let files = state_files(stage.cluster.dir());
        ensure!(
            files.len() >= 2,
            "no state files in {}",
            stage.cluster.dir().display()
        );
        for file in files {
            let whole = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            let damages = [
                ("half", whole[..whole.len() / 2].to_vec()),
                ("noise", vec![0xA5; whole.len().max(64)]),
            ];
            for (what, damaged) in damages {
                fs::write(&file, &damaged).with_context(|| format!("damage {}", file.display()))?;
                println!("    {what}: {}", file.display());
                check_damaged(stage, &file, &damaged)
                    .with_context(|| format!("{what}: {}", file.display()))?;
                fs::write(&file, &whole).with_context(|| format!("mend {}", file.display()))?;
            }
        }
        stage.cluster.run()?;
        stage.cluster.deploy(&stage.app("sleep", 1))?;
        stage.cluster.wait_running("sleep", 1).map(drop)
    });
}

/// The durable files of the three servers: databases first of all.
fn state_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for server in ["master", "agent", "scheduler"] {
        let entries = fs::read_dir(dir.join(server))
            .into_iter()
            .flatten()
            .flatten();
        let files = entries.map(|entry| entry.path()).filter(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            path.is_file() && (name.ends_with(".redb") || name.ends_with(".json"))
        });
        found.extend(files);
    }
    found.sort();
    found
}

/// Refused with the file's name and unchanged: whoever finds it may still save something from it.
fn check_damaged(stage: &common::Stage, file: &Path, damaged: &[u8]) -> Result<()> {
    let log = stage.dir.join("damaged.log");
    let _first = fs::remove_file(&log);
    let told = fails(&mut dev(&stage.mezzo, stage.cluster.dir()), &log)?;
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    check_contains(&told, &name)?;
    let now = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    ensure!(now == damaged, "the damaged file was changed");
    Ok(())
}

#[test]
fn without_root_or_cgroups_it_says_what_is_missing() {
    on_stage("no-root", |stage| {
        // Where everybody may read it.
        let public = std::env::temp_dir().join(format!("mezzo-public-{}", std::process::id()));
        fs::create_dir_all(&public).context("make a folder")?;
        let result = no_root(&stage.mezzo, &public, &stage.dir);
        fs::remove_dir_all(&public).context("remove the folder")?;
        result?;

        // Unmounted, or there and yet out of sight.
        let ways = [
            ("gone", "umount --recursive --lazy /sys/fs/cgroup"),
            ("hidden", "mount -t tmpfs mezzo-hides /sys/fs/cgroup"),
        ];
        for (name, way) in ways {
            let mut without = Command::new("unshare");
            without.args(["--mount", "--propagation", "private", "sh", "-c"]);
            without.arg(format!("{way} && exec \"$@\"")).arg("sh");
            let plain = dev(&stage.mezzo, &stage.dir.join(format!("cgroups-{name}")));
            without.arg(plain.get_program()).args(plain.get_args());
            let log = stage.dir.join(format!("cgroups-{name}.log"));
            let told = fails(&mut without, &log).context(name)?;
            check_contains(&told.to_lowercase(), "control groups")?;
        }
        Ok(())
    });
}

fn no_root(mezzo: &Path, public: &Path, dir: &Path) -> Result<()> {
    let copy = public.join("mezzo");
    // By a process of its own: one that another test forks meanwhile would hold the copy open for writing, and the kernel
    // executes no such file.
    process::output(Command::new("cp").args([mezzo, &copy]))?;
    for path in [public, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .context("let everybody read it")?;
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "--",
    ]);
    let plain = dev(&copy, &public.join("state"));
    command.arg(plain.get_program()).args(plain.get_args());
    let told = fails(&mut command, &dir.join("no-root.log"))?;
    check_contains(&told, "root")
}
