//! `vagrant/provision.sh` in a guest: what `vagrant up` and `vagrant provision` do, without vagrant.

use std::fs;

use anyhow::{Context, Result, ensure};
use mezzo_integration::paths;
use mezzo_integration::vm::{Guest, GuestSpec};
use serde_json::json;

use super::Scratch;
use super::package::{OLD, patient};
use crate::steps::Steps;

const SCRIPT: &str = "/root/provision.sh";
const APP: &str = "/root/sample.json";
/// The image that the script makes on every agent, so that a cluster without a registry can show something.
const IMAGE: &str = "localhost/sleep:1";

/// What the guest gets.
pub(super) fn fill(spec: &mut GuestSpec, scratch: &Scratch) -> Result<()> {
    let app = json!({
        "id": "sample", "cpus": 0.05, "mem": 16, "instances": 3,
        "container": { "type": "MESOS", "docker": { "image": IMAGE } },
    });
    let file = scratch.0.join("sample.json");
    fs::write(&file, app.to_string()).with_context(|| format!("write {}", file.display()))?;
    spec.with(&file, APP);
    spec.with(&paths::workspace().join("vagrant/provision.sh"), SCRIPT);
    Ok(())
}

/// A machine with all roles, from nothing; then once more, which must change nothing.
pub(super) fn play(steps: &mut Steps, guest: &Guest) -> Result<()> {
    steps.run("provision it as vagrant does", || {
        provision(guest)?;
        patient(guest, &format!("mezzo app add {APP} --wait"))?;
        Ok("three roles healthy, an app of 3 runs".to_owned())
    })?;
    steps.run("provision it again: nothing changes", || {
        let before = tasks(guest)?;
        let told = provision(guest)?;
        let n_left_alone = told.matches("runs as it should").count();
        ensure!(n_left_alone == 3, "it says: {told}");
        ensure!(tasks(guest)? == before, "the tasks are other processes");
        Ok("no server restarted, the same processes".to_owned())
    })
}

fn provision(guest: &Guest) -> Result<String> {
    let line = format!(
        "MEZZO_DEADLINE=300 bash {SCRIPT} --package {OLD} --role master --role scheduler --role agent \
        --name debian --ip 127.0.0.1 --master 127.0.0.1 --host 127.0.0.1=debian"
    );
    patient(guest, &line)
}

fn tasks(guest: &Guest) -> Result<String> {
    let told = guest.sh(
        "grep -lz '^MARATHON_APP_ID=/sample$' /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 | sort",
    )?;
    ensure!(told.lines().count() == 3, "these run: {told}");
    Ok(told)
}
