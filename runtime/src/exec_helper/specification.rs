//! What is to be executed: the container's own process, with what the request changes.

use std::path::Path;

use oci_spec::runtime::{Process, Spec, UserBuilder};

use crate::beneath::Root;
use crate::container::hard_limit;
use crate::error::StartFailure;
use crate::layout::SpecRecord;
use crate::protocol::ExecRequest;
use crate::spec::validate::BadSpec;
use crate::spec::{self, Context, HostFacts};
use crate::terminal::USUAL_KIND;
use crate::user::MAX_FILE_BYTES;

/// The container's record, and the OCI specification of the program. The container may have been started by a program
/// before this one, which kept an OCI specification.
pub(super) fn of(
    request: &ExecRequest,
    host: HostFacts,
) -> Result<(SpecRecord, Spec), StartFailure> {
    let (record, mut spec) = container(request, host).ok_or(StartFailure::NotRunning)?;
    spec.set_process(Some(process(request, &spec)?));
    Ok((record, spec))
}

fn container(request: &ExecRequest, host: HostFacts) -> Option<(SpecRecord, Spec)> {
    let record = request.dir.read_spec().ok()??;
    let running = request.dir.read_keeper().ok()??.running?;
    let Some(user) = running.user else {
        let mut earlier = request.dir.earlier_specs().into_iter();
        let spec = earlier.find_map(|path| Spec::load(path).ok())?;
        return Some((record, spec));
    };
    let context = Context {
        id: request.id.as_str(),
        // Mounts and devices are made.
        rootfs: Path::new("/"),
        devices: &[],
        staged: None,
        shared: None,
        cgroup: &record.cgroup,
        user: &user,
        host,
        own_users: record.user_range.is_some(),
    };
    let spec = spec::build(&record.spec, &context, &hard_limit).ok()?;
    Some((record, spec))
}

/// Capabilities, limits and `no_new_privileges` stay the container's.
fn process(request: &ExecRequest, spec: &Spec) -> Result<Process, StartFailure> {
    let mut process = spec
        .process()
        .clone()
        .ok_or_else(|| StartFailure::internal("the container's specification has no process"))?;
    let wanted = &request.spec;
    process
        .set_args(Some(wanted.args.clone()))
        .set_terminal(Some(wanted.terminal.is_some()));
    if let Some(cwd) = &wanted.cwd {
        process.set_cwd(cwd.into());
    }
    let mut env: Vec<String> = process.env().clone().unwrap_or_default();
    let mut replace = |name: &str, value: &str| {
        env.retain(|entry| entry.split_once('=').is_none_or(|(known, _)| known != name));
        env.push(format!("{name}={value}"));
    };
    if wanted.terminal.is_some() {
        replace("TERM", USUAL_KIND);
    }
    if let Some(user) = &wanted.user {
        let root = format!("/proc/{}/root", request.process.pid);
        let root = Root::open(Path::new(&root)).map_err(StartFailure::internal)?;
        let passwd = root.read("etc/passwd", MAX_FILE_BYTES);
        let group = root.read("etc/group", MAX_FILE_BYTES);
        let user = user.resolve(&passwd, &group).map_err(|error| {
            StartFailure::BadSpec(BadSpec {
                field: "user".to_owned(),
                problem: error.to_string(),
            })
        })?;
        let mut builder = UserBuilder::default().uid(user.uid).gid(user.gid);
        if !user.additional_gids.is_empty() {
            builder = builder.additional_gids(user.additional_gids);
        }
        process.set_user(builder.build().map_err(StartFailure::internal)?);
        replace("HOME", &user.home);
    }
    for (name, value) in &wanted.env {
        replace(name, value);
    }
    process.set_env(Some(env));
    Ok(process)
}
