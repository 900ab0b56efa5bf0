//! What a person sees of a running task on a real cluster, by the command line alone: what it uses, what it wrote, its
//! files, its end.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::on_stage;
use mezzo_integration::{process, wait};
use serde_json::Value;

/// For something that needs a round or two of samples.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_task_is_watched_copied_from_and_attached_to() {
    on_stage("inside", |stage| {
        let cluster = &stage.cluster;
        cluster.deploy(&stage.app("sleep", 2))?;
        cluster.wait_running("sleep", 2)?;
        // Rates need two samples of each task.
        let stats = wait::until("rates of both tasks", SOON, || {
            let stats = stage.ask(&["task", "stats"])?;
            let told = stats.as_array().context("no list")?;
            ensure!(
                told.len() == 2 && told.iter().all(|task| task["cpus"].is_number()),
                "{stats}"
            );
            Ok(stats)
        })?;
        let one = stats[0].clone();
        ensure!(
            one["usage"]["pids"] == 1 && one["name"] == stats[1]["name"],
            "{stats}"
        );
        ensure!(one["usage"]["memory_working_set_bytes"].is_u64(), "{one}");
        let id = one["id"].as_str().context("no id")?.to_owned();
        let top = stage.ask(&["top", "--once"])?;
        ensure!(
            top["tasks"]
                .as_array()
                .is_some_and(|tasks| tasks.len() == 2),
            "{top}"
        );
        ensure!(
            top["nodes"][0]["used"]["memory_total_bytes"].is_u64(),
            "{top}"
        );
        let table = process::output(&mut cluster.mezzo(&["top", "--once"]))?;
        ensure!(table.contains("CPUS*") && table.contains(&id), "{table}");
        let node = top["nodes"][0]["id"].as_str().context("no node")?;
        let node = stage.ask(&["node", "show", node])?;
        ensure!(node["capacity"]["mem_mb"].is_u64(), "{node}");
        // The stage names the resources, so nothing is kept back.
        ensure!(node["capacity"]["reserved_mem_mb"] == Value::Null, "{node}");

        // Files in, and out again as they were; the image has nothing but its program.
        let here = stage.dir.join("files");
        fs::create_dir(&here)?;
        fs::write(here.join("in"), vec![7; 100_000])?;
        std::os::unix::fs::symlink("/etc/passwd", here.join("out"))?;
        let (from, to) = (format!("{}/.", here.display()), format!("{id}:/made"));
        let copied = stage.ask(&["task", "cp", &from, &to])?;
        ensure!(
            copied["entries"] == 3 && copied["bytes"] == 100_000,
            "{copied}"
        );
        let back = stage.dir.join("back");
        stage.ask(&[
            "task",
            "cp",
            &format!("{id}:/made"),
            &back.display().to_string(),
        ])?;
        ensure!(
            fs::read(back.join("in"))? == vec![7; 100_000],
            "other bytes came back"
        );
        ensure!(
            fs::read_link(back.join("out"))?.ends_with("passwd"),
            "no link came back"
        );
        let through = cluster
            .mezzo(&["task", "cp", &format!("{id}:/made/out/."), "/dev/null"])
            .output()?;
        ensure!(
            through.status.code() == Some(3),
            "a link led out: {through:?}"
        );

        // It ends while somebody is attached: its end is theirs.
        let mut attached = cluster.mezzo(&["task", "attach", &id]);
        let attached = attached
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // One connection to the master, then one to the node: from there on it waits for the end.
        wait::until("two connections", SOON, || {
            let links = fs::read_dir(format!("/proc/{}/fd", attached.id()))?.flatten();
            let sockets = links
                .filter_map(|link| fs::read_link(link.path()).ok())
                .filter(|target| target.to_string_lossy().starts_with("socket:"));
            ensure!(sockets.count() >= 2, "not attached yet");
            Ok(())
        })?;
        process::output(&mut cluster.mezzo(&["task", "kill", "--grace", "0s", &id]))?;
        let ended = attached.wait_with_output()?;
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(
            ended.status.code().is_some_and(|code| code > 128),
            "{ended:?}"
        );
        ensure!(words.contains(&format!("task {id} ended: ")), "{words}");
        let log = process::output(&mut cluster.mezzo(&["task", "log", &id, "--since", "1h"]))?;
        let all = process::output(&mut cluster.mezzo(&["task", "log", &id]))?;
        ensure!(log == all, "{log:?} {all:?}");
        let gone = cluster.mezzo(&["task", "stats", &id]).output()?;
        ensure!(gone.status.code() == Some(1), "{gone:?}");
        cluster.remove("sleep")
    });
}
