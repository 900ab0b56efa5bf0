//! A backup is put from a file into a real etcd and back, with the real programs. It is refused where a master leads or
//! something is; and killed at every stage of its write (parts of a journal, the journal, what it says) it leaves the old
//! state or the new one, never a mixture.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use mezzo_api::proto::UpdateWeightsRequest;
use mezzo_api::proto::operator_service_client::OperatorServiceClient;
use mezzo_api::proto::update_weights_request::Weight;
use mezzo_etcd::proto::RangeRequest;
use mezzo_etcd::{Address, Client};
use mezzo_integration::etcd::Etcd;
use mezzo_integration::http::Rest;
use mezzo_integration::process::{self, Managed};
use mezzo_integration::{leftovers, paths, ports, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{ALONE, PATIENCE};

/// More than one transaction of etcd takes (120), so that a restore is several parts, a journal, and several parts.
const ROLES: usize = 400;
/// Writes of such a restore after it has begun: four parts, the journal, four parts carried out, and the journal's end.
const WRITES: u64 = 10;
/// From this write on the journal counts.
const COUNTS: u64 = 5;

struct Master {
    address: String,
    process: Managed,
}

impl Master {
    fn start(dir: &Path, store: &[&str]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", ports::free()?);
        let mut command = Command::new(paths::program("mezzo")?);
        command.args(["master", "--listen", &address, "--log", "warn"]);
        command.arg("--state-dir").arg(dir.join("state"));
        command.args(store).env(leftovers::MARKER, "master");
        let process = Managed::spawn("a master", &mut command, &dir.join("master.log"))?;
        let mut master = Self { address, process };
        wait::until("the master to lead", PATIENCE, || {
            master.process.check_running()?;
            let health = Rest::new(&master.address).get("/healthz")?;
            ensure!(health.text.starts_with("ok"), "{}", health.text);
            Ok(())
        })?;
        Ok(master)
    }

    fn weigh(&self, n_roles: usize, weight_millis: u64) -> Result<()> {
        let weight = |n| Weight {
            role: format!("role-{n}"),
            weight_millis,
        };
        let weights = (0..n_roles).map(weight).collect();
        event_loop()?.block_on(async {
            let address = format!("http://{}", self.address);
            let mut operator = OperatorServiceClient::connect(address).await?;
            let request = UpdateWeightsRequest { weights };
            tokio::time::timeout(PATIENCE, operator.update_weights(request)).await??;
            Ok(())
        })
    }

    /// Into that file; what is in it is returned.
    fn backup(&self, file: &Path) -> Result<Value> {
        // A backup does not replace one.
        if file.exists() {
            fs::remove_file(file)?;
        }
        let mut command = Command::new(paths::program("mezzo")?);
        command.args(["--master", &self.address, "master", "backup"]);
        process::output(command.arg(file))?;
        let text = fs::read_to_string(file)?;
        let records = text.lines().nth(1).context("no records")?;
        Ok(serde_json::from_str(records)?)
    }

    fn stop(mut self) -> Result<()> {
        self.process.stop(process::GRACE).map(drop)
    }
}

fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("an event loop")
}

fn restore(file: &Path, more: &[&str]) -> Result<Command> {
    let mut command = Command::new(paths::program("mezzo")?);
    command.args(["master", "restore"]).arg(file).args(more);
    Ok(command)
}

fn refused(command: &mut Command) -> Result<String> {
    match process::output(command) {
        Ok(told) => bail!("it was not refused: {told}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// A state and its backup, made with a master on the embedded store.
fn state(dir: &Path, n_roles: usize, weight_millis: u64) -> Result<(PathBuf, Value)> {
    fs::create_dir_all(dir)?;
    let file = dir.join("backup");
    let master = Master::start(dir, &[])?;
    master.weigh(n_roles, weight_millis)?;
    let saved = master.backup(&file)?;
    master.stop()?;
    Ok((file, saved))
}

#[test]
fn a_backup_goes_from_a_file_into_etcd_and_back() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir()?;
    let etcd = Etcd::start(&dir.path().join("etcd"))?;
    let store = format!("etcd://{}/restored", etcd.address());
    let store = ["--store", store.as_str()];
    let (file, saved) = state(&dir.path().join("embedded"), ROLES, 2000)?;

    process::output(&mut restore(&file, &store)?)?;
    let above = dir.path().join("above");
    fs::create_dir_all(&above)?;
    let master = Master::start(&above, &store)?;
    let second = above.join("backup");
    ensure!(master.backup(&second)? == saved, "etcd holds another state");
    let told = refused(&mut restore(&file, &[&store[..], &["--replace"]].concat())?)?;
    ensure!(told.contains("a master leads"), "{told}");
    ensure!(told.contains(&master.address), "{told}");
    master.stop()?;
    let told = refused(&mut restore(&file, &store)?)?;
    ensure!(
        told.contains("there is a state already") && told.contains("--replace"),
        "{told}"
    );

    let back = dir.path().join("back");
    fs::create_dir_all(&back)?;
    let folder = back.join("state");
    let folder = folder.to_str().context("a path that is no text")?;
    process::output(&mut restore(&second, &["--state-dir", folder])?)?;
    let master = Master::start(&back, &[])?;
    let third = master.backup(&back.join("backup"))?;
    ensure!(third == saved, "the file holds another state");
    master.stop()
}

/// Term and number of the last write.
fn head(
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    address: &Address,
) -> Result<(u64, u64)> {
    let request = RangeRequest {
        key: address.key("head").into(),
        ..RangeRequest::default()
    };
    let answer = runtime.block_on(client.range(request, PATIENCE))?;
    let value = &answer.kvs.first().context("no head")?.value;
    let text = String::from_utf8_lossy(value);
    let (term, number) = text.split_once('-').context("no term")?;
    Ok((term.parse()?, number.parse()?))
}

#[test]
fn a_restore_into_etcd_that_is_killed_leaves_the_old_state_or_the_new_one() -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir()?;
    let etcd = Etcd::start(&dir.path().join("etcd"))?;
    let place = format!("etcd://{}/killed", etcd.address());
    let replace = ["--store", place.as_str(), "--replace"];
    let store = &replace[..2];
    let (old_file, old) = state(&dir.path().join("old"), ROLES, 3000)?;
    let (new_file, new) = state(&dir.path().join("new"), ROLES, 2000)?;
    let address: Address = place.parse()?;
    let runtime = event_loop()?;
    let client = runtime.block_on(async { Client::new(&address) })?;
    let above = dir.path().join("above");
    fs::create_dir_all(&above)?;
    let file = above.join("backup");
    let mut outcomes = BTreeSet::new();
    // The last one is not killed.
    for kill_at in [0, 1, 3, 4, 5, 7, 9, WRITES + 1] {
        process::output(&mut restore(&old_file, &replace)?)?;
        let (former, _) = head(&runtime, &client, &address)?;
        let mut command = restore(&new_file, &replace)?;
        command.env(leftovers::MARKER, "restore");
        let log = above.join("restore.log");
        let mut child = Managed::spawn("a restore", &mut command, &log)?;
        let begun = Instant::now();
        let mut seen = None;
        while child.ended()?.is_none() {
            ensure!(begun.elapsed() < PATIENCE, "the restore hangs: {seen:?}");
            let (term, number) = head(&runtime, &client, &address)?;
            if term > former {
                seen = Some(number);
                if number >= kill_at {
                    child.signal(Signal::SIGKILL)?;
                    break;
                }
            }
        }
        let status = child.wait(PATIENCE)?;
        let (_, last) = head(&runtime, &client, &address)?;
        // The next leader finishes or forgets what was begun.
        let master = Master::start(&above, store)?;
        let found = master.backup(&file)?;
        master.stop()?;
        let done = found == new;
        println!("killed after write {seen:?} of {WRITES}, {last} came: done {done}");
        ensure!(
            done || found == old,
            "after write {last}: a mixture: {found}"
        );
        ensure!(
            done || last < COUNTS,
            "write {last} made it count, and it was not done"
        );
        ensure!(done || !status.success(), "it said that it was done");
        outcomes.insert(done);
    }
    ensure!(outcomes.contains(&true), "no restore was ever done");
    Ok(())
}
