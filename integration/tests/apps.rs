//! What an app's developer does all day, on real containers: follow its instances' words, change it in an editor, give it
//! files, wipe what it kept. And what must not happen to it meanwhile.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use common::{Stage, check_contains, on_stage};
use mezzo_integration::cluster::PATIENCE;
use mezzo_integration::process::{self, Managed};
use mezzo_integration::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const STARTS: &str = "/mnt/mezzo/sandbox/starts";

/// An app whose instances say a line when they start.
fn talker(stage: &Stage, instances: u32) -> Value {
    let mut app = stage.app("talk", instances);
    app["args"] = json!(["--count", STARTS]);
    app
}

/// Which instances have said that they start, each once. What the follower itself has to say is an error: its words are not
/// behind the eight characters of an instance, or go on with its host.
fn heard(log: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut names = BTreeSet::new();
    for line in text.lines() {
        let (name, words) = line.split_once(' ').unwrap_or((line, ""));
        let is_instance = name.len() == 8 && name.chars().all(|c| c.is_ascii_hexdigit());
        ensure!(
            is_instance && !words.starts_with("on "),
            "the follower said: {line}"
        );
        if words == format!("start 1 in {STARTS}") {
            ensure!(names.insert(name.to_owned()), "{line} is there twice");
        }
    }
    Ok(names)
}

fn wait_heard(log: &Path, count: usize) -> Result<BTreeSet<String>> {
    wait::until("the words of all instances", PATIENCE, || {
        let names = heard(log)?;
        ensure!(names.len() == count, "{names:?}");
        Ok(names)
    })
}

#[test]
fn what_instances_write_is_followed_through_scaling_and_an_update() {
    on_stage("app-logs", |stage| {
        let log = stage.dir.join("followed.log");
        stage.cluster.deploy(&talker(stage, 1))?;
        // At once: the instance is not made yet, and that is worth no word.
        let mut command = stage.cluster.mezzo(&["app", "logs", "talk", "--follow"]);
        let mut follower = Managed::spawn("the follower", &mut command, &log)?;
        wait_heard(&log, 1)?;
        stage.cluster.update("talk", &json!({"instances": 3}))?;
        let first = wait_heard(&log, 3)?;
        stage
            .cluster
            .update("talk", &json!({"env": {"ROUND": "2"}}))?;
        let both = wait_heard(&log, 6)?;
        stage.cluster.wait_running("talk", 3)?;
        follower.check_running()?;
        follower.signal(Signal::SIGINT)?;
        follower.wait(PATIENCE)?;
        // Without following: what runs now.
        let words = ["app", "logs", "talk", "-n", "1"];
        let text = process::output(&mut stage.cluster.mezzo(&words))?;
        let now: BTreeSet<String> = text
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
            .collect();
        let second: BTreeSet<String> = both.difference(&first).cloned().collect();
        ensure!(now == second, "{now:?} is not {second:?}");
        stage.cluster.remove("talk")
    });
}

/// `mezzo app edit draft` with an editor that does this; its drafts are in the test's folder.
fn edit(stage: &Stage, editor: &str) -> Result<String> {
    let mut command = stage.cluster.mezzo(&["app", "edit", "draft", "--wait"]);
    process::output(
        command
            .env("EDITOR", editor)
            .env_remove("VISUAL")
            .env("TMPDIR", &stage.dir),
    )
}

fn drafts(stage: &Stage) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(&stage.dir)? {
        let name = entry?.file_name();
        count += usize::from(name.to_string_lossy().starts_with("mezzo-edit-"));
    }
    Ok(count)
}

#[test]
fn an_app_is_edited_and_what_is_refused_is_kept_for_another_try() {
    on_stage("app-edit", |stage| {
        let mut app = stage.app("draft", 1);
        app["env"] = json!({"LEVEL": "debug"});
        stage.cluster.deploy(&app)?;
        stage.cluster.wait_running("draft", 1)?;
        let version = stage.cluster.app("draft")?["version"].clone();

        let told = edit(stage, "true")?;
        check_contains(&told, "nothing changed")?;
        ensure!(stage.cluster.app("draft")?["version"] == version);

        // A field that is taken out of the file is gone, also one below another.
        let two = r#"sed -i -e '/"LEVEL"/d' -e 's/"instances": 1/"instances": 2/'"#;
        check_contains(&edit(stage, two)?, "2 of 2 running")?;
        stage.cluster.wait_running("draft", 2)?;
        let edited = stage.cluster.app("draft")?;
        ensure!(edited["env"] == json!({}), "{}", edited["env"]);
        ensure!(drafts(stage)? == 0, "a draft is left");

        let wrong = r#"sed -i 's/"instances": 2/"instances": "many"/'"#;
        let refused = edit(stage, wrong).err().context("it was taken")?;
        let refused = refused.to_string();
        check_contains(&refused, "/instances")?;
        check_contains(&refused, "mezzo-edit-")?;
        ensure!(drafts(stage)? == 1, "the draft is gone");

        let other = r#"sed -i 's,"id": "/draft","id": "/other",'"#;
        let refused = edit(stage, other).err().context("it was taken")?;
        check_contains(&refused.to_string(), "must stay /draft")?;
        stage.cluster.wait_running("draft", 2)?;
        stage.cluster.remove("draft")
    });
}

/// Serves these files over HTTP for as long as the test runs. Gives the address.
fn serve(files: BTreeMap<String, Vec<u8>>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    thread::spawn(move || {
        for line in listener.incoming() {
            let Ok(mut line) = line else { return };
            let mut request = [0; 4096];
            let length = line.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match files.get(path) {
                Some(body) => ("200 OK", body.as_slice()),
                None => ("404 Not Found", &b""[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = line.write_all(head.as_bytes());
            let _ = line.write_all(body);
        }
    });
    Ok(address)
}

#[test]
fn an_app_finds_what_it_fetches_in_its_sandbox_and_says_what_did_not_come() {
    on_stage("app-fetch", |stage| {
        let packed = stage.dir.join("kept.tar.gz");
        let source = stage.dir.join("packed/kept");
        fs::create_dir_all(&source)?;
        fs::write(source.join("starts"), "one\ntwo\n")?;
        let mut tar = Command::new("tar");
        tar.arg("czf").arg(&packed).args(["-C"]);
        process::output(tar.arg(stage.dir.join("packed")).arg("kept"))?;
        let files = [("/kept.tar.gz".to_owned(), fs::read(&packed)?)];
        let address = serve(files.into())?;

        // As a user of Marathon has it in a file, at the place where Mesos had the sandbox.
        let file = "/mnt/mesos/sandbox/kept/starts";
        let mut app = stage.app("fetches", 2);
        app["args"] = json!(["--count", file]);
        app["fetch"] = json!([{"uri": format!("{address}/kept.tar.gz"), "cache": true}]);
        let path = stage.dir.join("fetches.json");
        fs::write(&path, app.to_string())?;
        let path = path.to_str().context("the folder's name is text")?;
        process::output(&mut stage.cluster.mezzo(&["app", "add", path, "--wait"]))?;
        stage.cluster.wait_running("fetches", 2)?;
        wait::until("what both found", PATIENCE, || {
            let words = ["app", "logs", "fetches"];
            let log = process::output(&mut stage.cluster.mezzo(&words))?;
            let found = log.matches(&format!("start 3 in {file}")).count();
            ensure!(found == 2, "{log}");
            Ok(())
        })?;

        app["fetch"] = json!([{"uri": format!("{address}/gone?key=secret")}]);
        app["id"] = json!("fails");
        stage.cluster.deploy(&app)?;
        wait::until("the reason", PATIENCE, || {
            let app = stage.cluster.app("fails")?;
            let failure = &app["lastTaskFailure"];
            let told = failure["message"].as_str().unwrap_or_default();
            let wanted = format!("fetch failed: {address}/gone?…: the server answered 404");
            check_contains(told, &wanted)?;
            ensure!(failure["state"] == "TASK_FAILED", "{failure}");
            Ok(())
        })?;
        stage.cluster.remove("fails")?;
        stage.cluster.remove("fetches")
    });
}

#[test]
fn what_an_app_kept_is_wiped_by_a_word_and_by_no_less() {
    on_stage("app-wipe", |stage| {
        let mut app = stage.app("keeper", 1);
        app["args"] = json!(["--count", "/data/starts"]);
        app["container"]["volumes"] =
            json!([{"containerPath": "/data", "mode": "RW", "persistent": {"size": 50}}]);
        stage.cluster.deploy(&app)?;
        stage.cluster.wait_running("keeper", 1)?;
        let volumes = stage.cluster.app("keeper")?["tasks"][0]["localVolumes"].clone();

        let mut asked = stage.cluster.mezzo(&["app", "wipe", "keeper"]);
        let refused = process::output(&mut asked).err().context("it was done")?;
        check_contains(&refused.to_string(), "--yes")?;
        let task = stage.cluster.app("keeper")?["tasks"][0].clone();
        ensure!(task["localVolumes"] == volumes, "{task}");

        let words = ["app", "wipe", "keeper", "--yes"];
        let told = process::output(&mut stage.cluster.mezzo(&words))?;
        check_contains(&told, "1 instance told to end")?;
        wait::until("an instance with empty volumes", PATIENCE, || {
            stage.cluster.wait_running("keeper", 1)?;
            let task = stage.cluster.app("keeper")?["tasks"][0].clone();
            ensure!(task["localVolumes"] != volumes, "still {task}");
            let id = task["id"].as_str().context("a task without id")?;
            let log = process::output(&mut stage.cluster.mezzo(&["task", "log", id]))?;
            check_contains(&log, "start 1 in /data/starts")
        })?;
        stage.cluster.remove("keeper")?;

        stage.cluster.deploy(&stage.app("plain", 1))?;
        let words = ["app", "wipe", "plain", "--yes"];
        let refused = process::output(&mut stage.cluster.mezzo(&words));
        let refused = refused.err().context("it was done")?.to_string();
        check_contains(&refused, "no persistent volumes")?;
        stage.cluster.remove("plain")
    });
}

/// A process that runs, and that nobody has told to end.
fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

/// The instances that run, and those of them that pass their check.
fn running_and_healthy(stage: &Stage) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let app = stage.cluster.app("web")?;
    let (mut running, mut healthy) = (BTreeSet::new(), BTreeSet::new());
    for task in app["tasks"].as_array().context("no tasks")? {
        let id = task["id"].as_str().context("a task without id")?;
        if task["state"] != "TASK_RUNNING" {
            continue;
        }
        running.insert(id.to_owned());
        let checks = task["healthCheckResults"].as_array();
        let passes = |all: &Vec<Value>| !all.is_empty() && all.iter().all(|c| c["alive"] == true);
        if checks.is_some_and(passes) {
            healthy.insert(id.to_owned());
        }
    }
    Ok((running, healthy))
}

/// The complaint: Marathon killed everything sick at once, and began to replace it only then.
#[test]
fn pain_07_on_real_containers_the_sick_one_ends_only_after_its_replacement_is_healthy() {
    const INSTANCES: usize = 5;
    on_stage("pain-07", |stage| {
        let mut app = stage.app("web", INSTANCES as u32);
        app["args"] = json!(["--serve"]);
        app["portDefinitions"] = json!([{"port": 0, "name": "http"}]);
        app["healthChecks"] = json!([{
            "protocol": "MESOS_HTTP", "path": "/", "portIndex": 0,
            "gracePeriodSeconds": 60, "delaySeconds": 0, "intervalSeconds": 1, "timeoutSeconds": 10, "maxConsecutiveFailures": 2,
        }]);
        stage.cluster.deploy(&app)?;
        wait::until("all to be healthy", PATIENCE, || {
            let (_, healthy) = running_and_healthy(stage)?;
            ensure!(healthy.len() == INSTANCES, "{healthy:?}");
            Ok(())
        })?;
        let before = stage.cluster.wait_running("web", INSTANCES)?;
        let known: BTreeSet<String> = before.iter().map(|one| one.task_id.clone()).collect();
        // Two of five stop answering at once: they are there, and sick.
        let sick: Vec<_> = before.iter().take(2).collect();
        for one in &sick {
            kill(Pid::from_raw(one.pid), Signal::SIGSTOP).context("stop an instance")?;
        }
        let replaced = wait::until("both to be replaced", PATIENCE * 2, || {
            // The kernel first: what is gone here must have had its replacement before.
            let gone = sick.iter().filter(|one| !is_alive(one.pid)).count();
            let (running, healthy) = running_and_healthy(stage)?;
            let fresh = healthy.difference(&known).count();
            if fresh < gone {
                return Ok(Err(format!("{gone} ended, {fresh} replaced: {healthy:?}")));
            }
            // A fifth of five is one: never more than one beside the five.
            if running.len() > INSTANCES + 1 {
                return Ok(Err(format!("more at once than a fifth: {running:?}")));
            }
            if gone == sick.len() && healthy.len() == INSTANCES {
                return Ok(Ok(()));
            }
            bail!("{gone} ended, {fresh} replaced")
        })?;
        if let Err(problem) = replaced {
            bail!(problem);
        }
        // The three that were well are the same.
        let after: BTreeSet<String> = running_and_healthy(stage)?.1;
        ensure!(after.intersection(&known).count() == 3, "{after:?}");
        stage.cluster.remove("web")
    });
}
