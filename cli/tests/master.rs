//! The real `mezzo master`: backups while it runs, `kill -9`, restores, and credentials from end to end.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is the test's failure"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);
const MEZZO: &str = env!("CARGO_BIN_EXE_mezzo");

/// A master of this binary; killed with `kill -9` when dropped.
struct Master {
    process: Child,
    address: String,
}

impl Master {
    fn start(state_dir: &Path, more: &[&str]) -> Self {
        let file = state_dir.join("address");
        let _ = fs::remove_file(&file);
        let mut process = Command::new(MEZZO)
            .args([
                "master",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "warn",
                "--state-dir",
            ])
            .arg(state_dir)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let address = loop {
            if let Ok(text) = fs::read_to_string(&file) {
                break text.trim().to_owned();
            }
            assert!(process.try_wait().unwrap().is_none(), "the master ended");
            assert!(begin.elapsed() < DEADLINE, "the master does not listen");
            sleep(Duration::from_millis(20));
        };
        Self { process, address }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn mezzo(&self, words: &[&str]) -> Output {
        run(Command::new(MEZZO)
            .args(words)
            .env("MEZZO_MASTER", &self.address))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(command: &mut Command) -> Output {
    command
        .env_remove("MEZZO_CREDENTIAL")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn good(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn weights(master: &Master) -> Vec<(String, u64)> {
    let text = good(&master.mezzo(&["role", "list", "-o", "json"]));
    let roles: Vec<Value> = serde_json::from_str(&text).unwrap();
    let weight = |role: &Value| {
        let name = role["name"].as_str().unwrap().to_owned();
        // Told as a number with at most three decimals.
        let weight = role["weight"].as_f64().unwrap();
        (name, (weight * 1000.0).round() as u64)
    };
    roles.iter().map(weight).collect()
}

fn restore(state_dir: &Path, file: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(MEZZO);
    command
        .args(["master", "restore"])
        .arg(file)
        .arg("--state-dir")
        .arg(state_dir)
        .args(more);
    command
}

#[test]
fn a_backup_survives_what_the_master_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let file = dir.path().join("backup");
    let path = file.to_str().unwrap();
    let master = Master::start(&state_dir, &[]);
    for n in 0..5 {
        good(&master.mezzo(&["role", "weight", &format!("role-{n}"), "2"]));
    }
    good(&master.mezzo(&["master", "backup", path]));
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What comes after the backup is not in it.
    good(&master.mezzo(&["role", "weight", "late", "3"]));
    let told = refused(&run(&mut restore(&state_dir, &file, &["--replace"])));
    assert!(told.contains("in use by another master"), "{told}");
    master.kill();
    // Of a master that is gone there is no backup, and no half of one.
    let gone = run(Command::new(MEZZO)
        .args(["--master", "127.0.0.1:1", "master", "backup"])
        .arg(dir.path().join("none")));
    refused(&gone);
    assert!(!dir.path().join("none").exists());

    let told = refused(&run(&mut restore(&state_dir, &file, &[])));
    assert!(told.contains("--replace"), "{told}");
    let fresh = dir.path().join("fresh");
    good(&run(&mut restore(&fresh, &file, &[])));
    let master = Master::start(&fresh, &[]);
    let expected: Vec<_> = (0..5).map(|n| (format!("role-{n}"), 2000)).collect();
    assert_eq!(weights(&master), expected);
    drop(master);

    // Cut off, changed, or something else: refused before the store is touched.
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    let last = changed.len() - 10;
    changed[last] ^= 1;
    for (bytes, part) in [
        (&whole[..whole.len() - 1], "not whole"),
        (&changed[..], "damaged"),
        (&b"something else\n"[..], "no backup"),
    ] {
        let bad = dir.path().join("bad");
        fs::write(&bad, bytes).unwrap();
        let untouched = dir.path().join("untouched");
        let told = refused(&run(&mut restore(&untouched, &bad, &[])));
        assert!(told.contains(part), "{told}");
        assert!(!untouched.exists());
    }
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_state_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (state_dir, file) = (dir.path().join("state"), dir.path().join("backup"));
    let master = Master::start(&state_dir, &[]);
    good(&master.mezzo(&["role", "weight", "new", "2"]));
    good(&master.mezzo(&["role", "weight", "both", "5"]));
    good(&master.mezzo(&["master", "backup", file.to_str().unwrap()]));
    master.kill();
    let mut seen = Vec::new();
    for round in 0..6_u32 {
        let old = dir.path().join(format!("old-{round}"));
        let master = Master::start(&old, &[]);
        good(&master.mezzo(&["role", "weight", "both", "7"]));
        master.kill();
        let mut child = restore(&old, &file, &["--replace"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // At another moment each time; the last ones run to their end.
        let begin = Instant::now();
        while round < 5 && begin.elapsed() < Duration::from_millis(u64::from(round) * 8) {
            std::hint::spin_loop();
        }
        if round < 5 {
            child.kill().unwrap();
        }
        child.wait().unwrap();
        let master = Master::start(&old, &[]);
        let found = weights(&master);
        let before = vec![("both".to_owned(), 7000)];
        let after = vec![("both".to_owned(), 5000), ("new".to_owned(), 2000)];
        assert!(
            found == before || found == after,
            "round {round}: {found:?}"
        );
        seen.push(found == after);
    }
    assert_eq!(seen.last(), Some(&true));
}

#[test]
fn credentials_are_made_shown_and_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let made = good(&run(Command::new(MEZZO).args([
        "master",
        "credential",
        "ops",
        "-o",
        "json",
    ])));
    let made: Value = serde_json::from_str(&made).unwrap();
    let entry = made["entry"]
        .as_str()
        .unwrap()
        .replace("allow = []", "allow = [\"operate\"]");
    let (rules, secret) = (dir.path().join("credentials.toml"), dir.path().join("ops"));
    for (path, text) in [
        (&rules, entry.as_str()),
        (&secret, made["credential"].as_str().unwrap()),
    ] {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (rules, secret) = (rules.to_str().unwrap(), secret.to_str().unwrap());
    let state_dir = dir.path().join("state");
    let master = Master::start(&state_dir, &["--credentials", rules]);
    let told = refused(&master.mezzo(&["role", "list"]));
    assert!(told.contains("a credential is needed"), "{told}");
    good(&master.mezzo(&["--credential", secret, "role", "weight", "eng", "2"]));
    good(&run(Command::new(MEZZO)
        .args(["role", "list"])
        .env("MEZZO_MASTER", &master.address)
        // `run` takes it out of the environment; a flag stands in for it.
        .args(["--credential", secret])));
    fs::set_permissions(secret, fs::Permissions::from_mode(0o644)).unwrap();
    let told = refused(&master.mezzo(&["--credential", secret, "role", "list"]));
    assert!(told.contains("chmod 600"), "{told}");
    drop(master);
    fs::set_permissions(rules, fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(Command::new(MEZZO)
        .args([
            "master",
            "--listen",
            "127.0.0.1:0",
            "--credentials",
            rules,
            "--state-dir",
        ])
        .arg(&state_dir));
    let told = refused(&output);
    assert!(told.contains("chmod 600"), "{told}");
}

#[test]
fn sighup_reads_the_credentials_again_and_a_watcher_hears_on() {
    let dir = tempfile::tempdir().unwrap();
    let (rules, state_dir) = (
        dir.path().join("credentials.toml"),
        dir.path().join("state"),
    );
    let private = |path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let made = |name: &str| {
        let (line, entry) = mezzo_master::new_credential(name).unwrap();
        let file = dir.path().join(name);
        private(&file, &line);
        let entry = entry.replace("allow = []", "allow = [\"operate\"]");
        (file.to_str().unwrap().to_owned(), entry)
    };
    let ((first, first_entry), (second, second_entry)) = (made("first"), made("second"));
    private(&rules, &first_entry);
    let master = Master::start(&state_dir, &["--credentials", rules.to_str().unwrap()]);
    let mut watcher = Command::new(MEZZO)
        .args(["--credential", &first, "-o", "json", "master", "events"])
        .args(["--kind", "role"])
        .env("MEZZO_MASTER", &master.address)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    let lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).unwrap();
            // The test may have ended.
            let _ = told.send(event["event"]["role"].as_str().unwrap().to_owned());
        }
    });
    // Until the watcher is there: each change of a weight is told to who watches by then.
    let begin = Instant::now();
    let mut n = 0;
    while heard.try_recv().is_err() {
        assert!(begin.elapsed() < DEADLINE, "the watcher hears nothing");
        n += 1;
        good(&master.mezzo(&[
            "--credential",
            &first,
            "role",
            "weight",
            &format!("before-{n}"),
            "2",
        ]));
    }
    refused(&master.mezzo(&["--credential", &second, "role", "list"]));

    private(&rules, &format!("{first_entry}\n{second_entry}"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(master.process.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    let begin = Instant::now();
    let after = ["--credential", &second, "role", "weight", "after", "3"];
    while !master.mezzo(&after).status.success() {
        assert!(
            begin.elapsed() < DEADLINE,
            "the new principal is not let in"
        );
        sleep(Duration::from_millis(50));
    }
    while heard.recv_timeout(DEADLINE).expect("the watcher hears on") != "after" {}
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    reader.join().unwrap();
}

/// A scheduler of this binary; killed with `kill -9` when dropped.
struct Scheduler(Child);

impl Drop for Scheduler {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_scheduler_shows_what_its_credential_file_says_when_it_is_told_to_read_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let private = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (line, entry) = mezzo_master::new_credential("apps").unwrap();
    let rules = private("rules", &entry.replace("allow = []", "allow = [\"*\"]"));
    let good_one = private("good", &line);
    let state_dir = dir.path().join("master");
    fs::create_dir(&state_dir).unwrap();
    let master = Master::start(&state_dir, &["--credentials", &rules]);
    let shown = private("shown", "apps:an-older-secret\n");
    let settings = private("scheduler.toml", &format!("credential = \"{shown}\"\n"));
    let mut process = Command::new(MEZZO)
        .args([
            "scheduler",
            "--listen",
            "127.0.0.1:0",
            "--config",
            &settings,
        ])
        .arg("--state-dir")
        .arg(dir.path().join("scheduler"))
        .env("MEZZO_MASTER", &master.address)
        .env("NO_COLOR", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let scheduler = Scheduler(process);
    let (told, heard) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // The test may have ended.
            let _ = told.send(line);
        }
    });
    let says = |what: &str| {
        loop {
            let line = heard.recv_timeout(DEADLINE).expect(what);
            if line.contains(what) {
                return line;
            }
        }
    };
    let again = || {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(scheduler.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    };
    says("no subscription to the master");
    // A bad file is named, and the former one goes on: there is still something to be refused.
    private("shown", "half a line");
    again();
    let line_of_log = says("the former credential goes on");
    assert!(line_of_log.contains("is not one line"), "{line_of_log}");
    private("shown", &line);
    again();
    says("the credential was read again");
    says("subscribed");
    let list = ["--credential", &good_one, "framework", "list", "-o", "json"];
    // Readers see it a moment after the call.
    let begin = Instant::now();
    let n_frameworks = || -> usize {
        let told: Vec<Value> = serde_json::from_str(&good(&master.mezzo(&list))).unwrap();
        told.len()
    };
    while n_frameworks() != 1 {
        assert!(begin.elapsed() < DEADLINE, "it is not listed");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(scheduler);
    reader.join().unwrap();
}
