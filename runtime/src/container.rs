//! Making a container, in two short-lived steps in two processes, both children of the keeper:
//!
//! ```text
//! creator   is in the container's cgroup, mounts the root file system on a stage, forks ─► ends
//! first process of the container, a child of the keeper: makes what the container sees (`inside`), then itself the
//!           program (`program`) ─► says "ready", waits for "go" ─► seccomp filter, execve
//! ```
//!
//! Where users are the host's and nothing is shared, the creator is the first process: one fork less, and an end.
//!
//! Both change the working directory, the dumpable flag and `oom_score_adj` of their process and leave a few hundred KiB
//! of memory touched: so never the keeper itself. libcontainer's builder, which would do all of it, is not used: its own
//! two processes, its cgroup manager and its files of state cost more than half of a start (docs/benchmarks.md).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::beneath::Root;
use crate::cgroup::device::{self, DeviceNumber};
use crate::cgroup::settings::{self, FirstWrite};
use crate::cgroup::{CgroupMode, Hierarchies, devices, hugetlb};
use crate::error::StartFailure;
use crate::executor::ContainerExecutor;
use crate::group::{Holder, Shared, cgroup_above};
use crate::hand_over;
use crate::inside::{Inside, Opened};
use crate::layout::SpecRecord;
use crate::model::{GroupPart, IoLimit, Limits, Network};
use crate::mount;
use crate::program::{self, Program, WordToGo};
use crate::protocol::{GroupRequest, HostContext, StartRequest};
use crate::secrets::Secrets;
use crate::spec::devices::HostDevice;
use crate::spec::validate::{BadSpec, HostLimits};
use crate::spec::{self, Context, HostFacts};
use crate::stage::{OwnUsers, Stage, Staged};
use crate::sys::{self, Forked};
use crate::user::{MAX_FILE_BYTES, ResolvedUser};
use crate::users::{RANGE_SIZE, UserRange};

/// What the creating process needs beside the request.
pub(crate) struct Creation<'a> {
    pub(crate) host: &'a HostContext,
    pub(crate) seccomp: Option<Rc<Vec<u8>>>,
    /// The container's network namespace, if it is there already.
    pub(crate) network: Option<OwnedFd>,
    /// Its secrets, if it has any.
    pub(crate) secrets: Option<OwnedFd>,
    pub(crate) output: Output,
    pub(crate) gate: Gate,
    /// Where the creator's answer goes: its end says that the creator is gone, so nobody else may hold it.
    pub(crate) answer: RawFd,
}

/// Where the program's output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// Into these.
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
    /// To a terminal, made inside and sent through this socket before the first process is ready.
    Terminal(OwnedFd),
}

/// Where the container's first process meets its keeper, before it executes its program.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Takes [`READY`], or a [`StartFailure`]; closes without another word when the program has been executed.
    pub(crate) status: OwnedFd,
    /// Gives one byte, the word to go. Its other end is the keeper's alone: the end of it is the keeper's death.
    pub(crate) go: OwnedFd,
}

/// What the container's first process says when all is made but the program not executed.
pub(crate) const READY: u8 = b'R';

/// A container whose first process makes itself ready.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Created {
    /// The first process, a child of the keeper; `None` if it is the one that tells this.
    pub(crate) pid: Option<i32>,
    /// Who its program runs as.
    pub(crate) user: ResolvedUser,
    /// The limits, to be set when it is ready: what they slow down is to be the program, not its start.
    pub(crate) limits: Vec<FirstWrite>,
}

/// The creator's life, which goes on as that of the first process where there is no other.
pub(crate) fn create(request: &StartRequest, creation: Creation<'_>) -> ! {
    let answer = creation.answer;
    let created = make(request, creation);
    tell(answer, &created);
    sys::exit_now(i32::from(created.is_err()))
}

fn tell(answer: RawFd, created: &Result<Created, StartFailure>) {
    if let Ok(bytes) = serde_json::to_vec(created) {
        sys::write_raw(answer, &bytes);
    }
}

/// Makes what must be made from outside, and the container's first process.
fn make(request: &StartRequest, mut creation: Creation<'_>) -> Result<Created, StartFailure> {
    let _ = nix::sys::prctl::set_name(c"mezzo-creator");
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    // It may have died before.
    if sys::is_hung_up(creation.gate.go.as_raw_fd()) {
        return Err(StartFailure::internal("the keeper is gone"));
    }
    let cgroup = |error: io::Error| StartFailure::Cgroup {
        reason: error.to_string(),
    };
    let hierarchies = &creation.host.hierarchies;
    let record = request
        .dir
        .read_spec()
        .map_err(|error| StartFailure::internal(format!("reading the specification: {error}")))?
        .ok_or_else(|| StartFailure::internal("the specification is not there"))?;
    let spec = &record.spec;
    let limited = io_devices(&spec.limits.io_max).map_err(StartFailure::BadSpec)?;
    let limits = settings::wanted(&spec.limits, hierarchies.mode, &limited);
    let given = spec::devices::look_up(&spec.devices).map_err(StartFailure::BadSpec)?;
    if !spec.privileged {
        devices::restrict(hierarchies, &request.cgroup, &given).map_err(cgroup)?;
    }
    // What is in a group has processors that are chosen for the group, or may be later.
    if spec.limits.cpuset.is_some() || request.group.is_some() {
        hierarchies.create_cpuset(&request.cgroup).map_err(cgroup)?;
    }
    hierarchies.enter_v1(&request.cgroup).map_err(cgroup)?;

    let holder = match (&spec.group, request.group) {
        (
            Some(GroupPart::Member { .. }),
            Some(GroupRequest {
                holder: Some(holder),
            }),
        ) => Some(Holder::open(holder)?),
        (Some(GroupPart::Member { .. }), _) => {
            return Err(StartFailure::internal("a member without a holder"));
        }
        (Some(GroupPart::Holder) | None, _) => None,
    };
    let users = match (&holder, record.user_range) {
        (_, None) => None,
        (None, Some(range)) => Some(OwnUsers::make(range)?),
        (Some(holder), Some(_)) => Some(holder.users()?),
    };
    let stage = Stage::raise()?;
    let owner = record.user_range.map(UserRange::root);
    match &users {
        None => mount::mount_rootfs(&spec.rootfs, &stage.rootfs(), owner)?,
        Some(users) => {
            let shifted = stage.shifted(&spec.rootfs, users)?;
            mount::mount_rootfs(&shifted, &stage.rootfs(), owner)?;
        }
    }
    match spec.network {
        _ if holder.is_some() => {}
        Network::Host => {}
        Network::None if creation.network.is_none() => {
            sys::new_network_namespace().map_err(StartFailure::internal)?;
        }
        Network::None | Network::Prepared => {
            enter_network_namespace(creation.network.as_ref())?;
        }
    }
    let shared = match &holder {
        None => None,
        Some(holder) => {
            holder.enter()?;
            Some(holder.share(&stage, &spec.mounts)?)
        }
    };
    let staged = users
        .as_ref()
        .map(|users| stage.staged(&spec.mounts, users))
        .transpose()?;
    let (mut oci, user) = specification(
        request,
        &record,
        &given,
        &stage,
        (staged.as_ref(), shared.as_ref()),
        creation.host.facts,
    )?;
    // A program opens its own `/dev/stdout` anew, and may do so if the pipe is its user's.
    let on_host = |id| {
        record
            .user_range
            .map_or(Some(id), |range| range.on_host(id))
    };
    if let Output::Pipes { stdout, stderr } = &creation.output {
        for stream in [stdout, stderr] {
            let (uid, gid) = (on_host(user.uid), on_host(user.gid));
            nix::unistd::fchown(stream, uid.map(Into::into), gid.map(Into::into))
                .map_err(StartFailure::internal)?;
        }
    }
    for dir in &spec.handed_over {
        // On disk the numbers are those inside: who has users of its own sees volumes shifted.
        hand_over::hand_over(dir, user.uid, user.gid).map_err(|error| {
            let dir = dir.display();
            StartFailure::internal(format!("giving what is in {dir} to the user: {error}"))
        })?;
    }
    if let Some(packed) = creation.secrets.take() {
        let secrets = Secrets::unpack(packed).map_err(StartFailure::internal)?;
        let owner = on_host(user.uid).zip(on_host(user.gid));
        let owner = owner.ok_or_else(|| StartFailure::internal("a user without a number"))?;
        secrets.put(stage.dir(), owner, &mut oci)?;
    }
    let word = WordToGo::give(stage.dir())?;
    program::prepare(&oci)?;
    if let Some(users) = &users {
        nix::sched::setns(&users.namespace, nix::sched::CloneFlags::CLONE_NEWUSER)
            .map_err(|error| StartFailure::internal(format!("entering the users: {error}")))?;
    }
    // A holder's limits are the group's, and itself it takes next to nothing.
    let limited = match &spec.group {
        Some(GroupPart::Holder) => cgroup_above(&request.cgroup),
        Some(GroupPart::Member { .. }) | None => &request.cgroup,
    };
    let dir = |controller: &str| hierarchies.controller_dir(controller, limited);
    let created = |pid, user| Created {
        pid,
        user,
        limits: settings::first_writes(&dir, hierarchies.mode, limits),
    };
    let kind = Kind {
        own_users: users.is_some(),
        in_group: holder.is_some(),
        holds: spec.group == Some(GroupPart::Holder),
    };
    if request.is_made_by_itself() {
        tell(creation.answer, &Ok(created(None, user)));
        first_process(oci, &given, &stage, word, kind, creation);
    }
    match sys::fork_sibling(libc::CLONE_NEWPID).map_err(StartFailure::internal)? {
        Forked::Parent(pid) => Ok(created(Some(pid), user)),
        Forked::Child => first_process(oci, &given, &stage, word, kind, creation),
    }
}

/// What the first process must know of itself.
#[derive(Clone, Copy, Debug)]
struct Kind {
    own_users: bool,
    in_group: bool,
    /// It executes nothing.
    holds: bool,
}

/// The container's first process, up to its program.
fn first_process(
    oci: Spec,
    devices: &[HostDevice],
    stage: &Stage,
    word: WordToGo,
    kind: Kind,
    creation: Creation<'_>,
) -> ! {
    sys::close_raw(creation.answer);
    let _ = nix::sys::prctl::set_name(c"mezzo-init");
    let status = creation.gate.status.as_raw_fd();
    let executor = GatedExecutor {
        inner: ContainerExecutor {
            failure: status,
            lifeline: creation.gate.go.as_raw_fd(),
            seccomp: creation.seccomp,
            holds: kind.holds,
            terminal: matches!(creation.output, Output::Terminal(_)),
        },
    };
    let enter = || -> Result<[OwnedFd; 3], StartFailure> {
        if kind.own_users {
            program::be_root_of_own_users()?;
        }
        let inside = Inside {
            spec: &oci,
            rootfs: &stage.rootfs(),
            devices,
            own_users: kind.own_users,
            in_group: kind.in_group,
            terminal: matches!(creation.output, Output::Terminal(_)),
        };
        streams(inside.enter()?, creation.output)
    };
    let streams = match enter() {
        Ok(streams) => streams,
        Err(failure) => program::give_up(status, &failure),
    };
    let program = Program {
        spec: oci,
        streams,
        word,
        executor: Box::new(executor),
    };
    // What the executor reported itself comes first, and is all that is read.
    program::give_up(status, &program.become_it())
}

/// The program's standard streams; a terminal's other side goes to the keeper.
fn streams(opened: Opened, output: Output) -> Result<[OwnedFd; 3], StartFailure> {
    match (output, opened.terminal) {
        (Output::Pipes { stdout, stderr }, _) => Ok([opened.null.into(), stdout, stderr]),
        (Output::Terminal(socket), Some(terminal)) => {
            let sent = terminal.send(socket.as_fd());
            sent.and_then(|()| terminal.into_streams())
                .map_err(|error| {
                    StartFailure::internal(format!("handing over the terminal: {error}"))
                })
        }
        (Output::Terminal(_), None) => Err(StartFailure::internal("no terminal was made")),
    }
}

/// Waits for the keeper's word before the program may be executed.
#[derive(Clone)]
struct GatedExecutor {
    inner: ContainerExecutor,
}

impl Executor for GatedExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.inner.validate(spec)?;
        sys::write_raw(self.inner.failure, &[READY]);
        if sys::read_byte(self.inner.lifeline) {
            Ok(())
        } else {
            Err(ExecutorValidationError::ArgValidationError(
                "the keeper is gone".to_owned(),
            ))
        }
    }

    fn setup_envs(
        &self,
        envs: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        self.inner.setup_envs(envs)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        self.inner.exec(spec)
    }
}

/// The container's OCI specification, and its user as the image's own files say who that is.
fn specification(
    request: &StartRequest,
    record: &SpecRecord,
    given: &[HostDevice],
    stage: &Stage,
    (staged, shared): (Option<&Staged>, Option<&Shared>),
    host: HostFacts,
) -> Result<(Spec, ResolvedUser), StartFailure> {
    let bad = |field: &str, problem: String| {
        StartFailure::BadSpec(BadSpec {
            field: field.to_owned(),
            problem,
        })
    };
    let (spec, rootfs) = (&record.spec, stage.rootfs());
    let root = Root::open(&rootfs).map_err(StartFailure::internal)?;
    let passwd = root.read("etc/passwd", MAX_FILE_BYTES);
    let group = root.read("etc/group", MAX_FILE_BYTES);
    let user = spec
        .user
        .resolve(&passwd, &group)
        .map_err(|error| bad("user", error.to_string()))?;
    if record.user_range.is_some() {
        let mut numbers = [user.uid, user.gid]
            .into_iter()
            .chain(user.additional_gids.clone());
        if let Some(beyond) = numbers.find(|number| *number >= RANGE_SIZE) {
            return Err(bad(
                "user",
                format!(
                    "{beyond} is beyond the {RANGE_SIZE} numbers of a user namespace: use a lower one, or the host's users"
                ),
            ));
        }
    }
    let context = Context {
        id: request.id.as_str(),
        rootfs: &rootfs,
        cgroup: &request.cgroup,
        user: &user,
        host,
        devices: given,
        own_users: record.user_range.is_some(),
        staged,
        shared,
    };
    let oci = spec::build(spec, &context, &hard_limit).map_err(StartFailure::internal)?;
    let owner = record.user_range.map(UserRange::root);
    root.make_dir(Path::new(&spec.cwd), owner)
        .map_err(|error| bad("cwd", format!("{}: {error}", spec.cwd)))?;
    Ok((oci, user))
}

/// Enters the network namespace that was prepared.
fn enter_network_namespace(prepared: Option<&OwnedFd>) -> Result<(), StartFailure> {
    let prepared = prepared.ok_or_else(|| {
        StartFailure::internal("the network namespace that was prepared did not come along")
    })?;
    nix::sched::setns(prepared, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|error| {
        StartFailure::internal(format!("entering the prepared network namespace: {error}"))
    })
}

/// Whether the swap of `cgroup` is accounted, so that it can be limited.
pub(crate) fn accounts_swap(hierarchies: &Hierarchies, cgroup: &str) -> bool {
    let swap_file = match hierarchies.mode {
        CgroupMode::V2 => "memory.swap.max",
        CgroupMode::V1 | CgroupMode::Hybrid => "memory.memsw.limit_in_bytes",
    };
    hierarchies
        .controller_dir("memory", cgroup)
        .is_some_and(|dir| dir.join(swap_file).exists())
}

/// What can be limited in `cgroup`, or in the containers below it; looked at only as far as `wanted` needs it, for this
/// is on the way of every start.
pub(crate) fn host_limits(hierarchies: &Hierarchies, cgroup: &str, wanted: &Limits) -> HostLimits {
    HostLimits {
        mode: hierarchies.mode,
        swap: accounts_swap(hierarchies, cgroup),
        processors: wanted
            .cpuset
            .as_ref()
            .and_then(|_| hierarchies.processors(cgroup)),
        huge_page_sizes: (!wanted.huge_pages.is_empty()
            && hierarchies.has_controller("hugetlb", cgroup))
        .then(|| hugetlb::of_host(Path::new("/sys"))),
        io_weight: wanted.io_weight.is_some()
            && hierarchies
                .controller_dir("io", cgroup)
                .is_some_and(|dir| settings::has_io_weight(&dir)),
    }
}

/// What of the host decides how specifications are built; it does not change while the launcher lives.
pub(crate) fn host_facts(hierarchies: &Hierarchies) -> HostFacts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    HostFacts {
        cgroups: hierarchies.mode,
        may_raise_limits: has_capability(&status, CAP_SYS_RESOURCE),
        most_files: fs::read_to_string("/proc/sys/fs/nr_open")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(DEFAULT_NR_OPEN),
    }
}

/// The devices of limits, in their order.
pub(crate) fn io_devices(limits: &[IoLimit]) -> Result<Vec<DeviceNumber>, BadSpec> {
    let mut found: Vec<DeviceNumber> = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let bad = |problem| BadSpec {
            field: format!("limits.io_max[{index}].device"),
            problem,
        };
        let number = device::resolve(&limit.device, Path::new("/sys")).map_err(bad)?;
        if found.contains(&number) {
            return Err(bad(format!(
                "is device {number}, which has limits already; put them into one entry"
            )));
        }
        found.push(number);
    }
    Ok(found)
}

/// What the kernel starts with.
const DEFAULT_NR_OPEN: u64 = 1 << 20;

pub(crate) const CAP_SYS_RESOURCE: u32 = 24;

/// Whether the text of a `status` file shows the capability as effective. Pure.
pub(crate) fn has_capability(status: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << number) != 0)
}

pub(crate) fn hard_limit(kind: &str) -> Option<u64> {
    let resource = match kind {
        "RLIMIT_CPU" => Resource::RLIMIT_CPU,
        "RLIMIT_FSIZE" => Resource::RLIMIT_FSIZE,
        "RLIMIT_DATA" => Resource::RLIMIT_DATA,
        "RLIMIT_STACK" => Resource::RLIMIT_STACK,
        "RLIMIT_CORE" => Resource::RLIMIT_CORE,
        "RLIMIT_RSS" => Resource::RLIMIT_RSS,
        "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => Resource::RLIMIT_AS,
        "RLIMIT_LOCKS" => Resource::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => Resource::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => Resource::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => Resource::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => Resource::RLIMIT_RTTIME,
        _ => return None,
    };
    getrlimit(resource).ok().map(|(_, hard)| hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_mask() {
        assert!(!has_capability(
            "CapInh:\t0\nCapEff:\t000001fffeffffff\n",
            CAP_SYS_RESOURCE
        ));
        assert!(has_capability(
            "CapEff:\t000001ffffffffff\n",
            CAP_SYS_RESOURCE
        ));
        assert!(!has_capability("", CAP_SYS_RESOURCE));
    }
}
