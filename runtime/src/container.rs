//! Creating a container with libcontainer: the only file that names its builder. Runs in a short-lived child of
//! the keeper, because libcontainer changes the working directory, the dumpable flag and `oom_score_adj` of the
//! process that calls it and leaves a few hundred KiB of memory touched. With `as_sibling` the container's first
//! process becomes the keeper's own child, so the keeper gets its exit status and the kernel ties its life to
//! the keeper's.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::resource::{Resource, getrlimit};

use crate::cgroup::device::{self, DeviceNumber};
use crate::cgroup::{CgroupMode, Hierarchies, devices, hugetlb, settings, usage};
use crate::error::StartFailure;
use crate::executor::ContainerExecutor;
use crate::layout::{KeeperRecord, RECORD_VERSION, RunningRecord};
use crate::model::{IoLimit, Limits, Network};
use crate::mount;
use crate::process::{self, ProcessRef};
use crate::protocol::StartRequest;
use crate::spec::validate::{BadSpec, HostLimits};
use crate::spec::{self, Context, HostFacts};
use crate::sys;
use crate::user::MAX_FILE_BYTES;

/// What the creating process needs beside the request.
pub(crate) struct Creation {
    pub(crate) keeper: ProcessRef,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) seccomp: Option<Rc<Vec<u8>>>,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// The end of the pipe that the keeper does not hold.
    pub(crate) lifeline: OwnedFd,
    /// Called with the container's process id before its program is executed; returns when the keeper agrees.
    pub(crate) created: Box<dyn FnOnce(i32) -> std::io::Result<()>>,
}

/// How long the program may take from "go" to `execve`.
const EXEC_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes the container and executes its program. On success the running process has been recorded on disk.
pub(crate) fn create(
    request: &StartRequest,
    creation: Creation,
) -> Result<RunningRecord, StartFailure> {
    let io = |what: &'static str| {
        move |error: std::io::Error| StartFailure::internal(format!("{what}: {error}"))
    };
    let dir = &request.dir;
    let keeper_record = |running| KeeperRecord {
        version: RECORD_VERSION,
        keeper: creation.keeper,
        running,
    };
    dir.write_keeper(&keeper_record(None))
        .map_err(io("recording the keeper"))?;
    let record = dir
        .read_spec()
        .map_err(io("reading the specification"))?
        .ok_or_else(|| StartFailure::internal("the specification is not there"))?;
    let spec = &record.spec;

    mount::private_namespace()?;
    let rootfs = dir.rootfs();
    mount::mount_rootfs(&spec.rootfs, &rootfs)?;
    let network_namespace = match spec.network {
        Network::Host => None,
        Network::None => Some(own_network_namespace()?),
    };
    // Ours must not reach the container, and libcontainer clears them only when it is given others.
    nix::unistd::setgroups(&[]).map_err(StartFailure::internal)?;
    let passwd = mount::read_beneath(&rootfs, "etc/passwd", MAX_FILE_BYTES);
    let group = mount::read_beneath(&rootfs, "etc/group", MAX_FILE_BYTES);
    let user = spec.user.resolve(&passwd, &group).map_err(|error| {
        StartFailure::BadSpec(BadSpec {
            field: "user".to_owned(),
            problem: error.to_string(),
        })
    })?;
    let given = spec::devices::look_up(&spec.devices).map_err(StartFailure::BadSpec)?;
    let context = Context {
        id: request.id.as_str(),
        rootfs: &rootfs,
        cgroup: &request.cgroup,
        user: &user,
        network_namespace,
        host: host_facts(&creation.hierarchies, &request.cgroup),
        devices: &given,
    };
    let limited = io_devices(&spec.limits.io_max).map_err(StartFailure::BadSpec)?;
    let oci = spec::build(spec, &context, &hard_limit).map_err(StartFailure::internal)?;
    mount::make_dir_beneath(&rootfs, &spec.cwd).map_err(|error| {
        StartFailure::BadSpec(BadSpec {
            field: "cwd".to_owned(),
            problem: format!("{}: {error}", spec.cwd),
        })
    })?;
    fs::create_dir_all(dir.bundle()).map_err(io("making the bundle"))?;
    oci.save(dir.bundle().join("config.json"))
        .map_err(StartFailure::internal)?;
    fs::create_dir_all(dir.oci_state()).map_err(io("making the state directory"))?;
    creation
        .hierarchies
        .join_unified_beside_v1(&request.cgroup)
        .map_err(|error| StartFailure::Cgroup {
            reason: error.to_string(),
        })?;

    let (failure_reader, failure_writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let executor = ContainerExecutor {
        failure: failure_writer.as_raw_fd(),
        lifeline: creation.lifeline.as_raw_fd(),
        seccomp: creation.seccomp,
    };
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    creation
        .hierarchies
        .create_unified(&request.cgroup)
        .map_err(|error| StartFailure::Cgroup {
            reason: error.to_string(),
        })?;
    let built = ContainerBuilder::new(request.id.to_string(), SyscallType::default())
        .with_root_path(dir.oci_state())
        .map_err(|error| classify(&error))?
        .with_executor(executor)
        .with_stdin(creation.stdin)
        .with_stdout(creation.stdout)
        .with_stderr(creation.stderr)
        .as_init(dir.bundle())
        .with_systemd(false)
        .as_sibling(true)
        .with_detach(true)
        .build();
    drop(failure_writer);
    let mut container =
        built.map_err(|error| read_failure(&failure_reader).unwrap_or_else(|| classify(&error)))?;
    let pid = container
        .pid()
        .ok_or_else(|| StartFailure::internal("the container has no process"))?
        .as_raw();
    let process = ProcessRef::of(pid).map_err(io("looking up the container's process"))?;
    let refused = |error: &dyn std::fmt::Display| StartFailure::Cgroup {
        reason: error.to_string(),
    };
    let wanted = settings::wanted(&spec.limits, context.host.cgroups, &limited);
    if context.host.cgroups != CgroupMode::V2
        && (spec.limits.cpuset.is_some() || !spec.limits.huge_pages.is_empty())
    {
        let dir = |controller: &str| {
            let hierarchies = &creation.hierarchies;
            hierarchies.controller_dir(controller, &request.cgroup)
        };
        let rest = settings::beside_libcontainer(wanted.clone());
        settings::change(&dir, &rest).map_err(|(error, _)| refused(&error))?;
    }
    if context.host.cgroups == CgroupMode::V2
        && let Some(cgroup) = creation.hierarchies.unified_dir(&request.cgroup)
    {
        settings::set(&cgroup, &wanted).map_err(|error| refused(&error))?;
        if !spec.privileged {
            devices::filter(&cgroup, &given).map_err(|error| refused(&error))?;
        }
    }
    (creation.created)(pid).map_err(io("waiting for the keeper"))?;
    // On disk before the program's first instruction: whoever comes later knows that it may have run.
    let running = RunningRecord {
        process,
        started_at_ms: process::now_ms(),
        // Everything is made, the processes that made it are gone, and the one that is left waits for our word: the
        // figure stands still.
        start_cost: usage::start_cost(&creation.hierarchies, &request.cgroup, pid),
    };
    dir.write_keeper(&keeper_record(Some(running.clone())))
        .map_err(io("recording the container's process"))?;
    container.start().map_err(|error| classify(&error))?;
    let ready = sys::wait_readable(failure_reader.as_fd(), Some(EXEC_TIMEOUT))
        .map_err(io("waiting for the program"))?;
    if !ready {
        return Err(StartFailure::TimedOut {
            seconds: EXEC_TIMEOUT.as_secs(),
        });
    }
    match read_failure(&failure_reader) {
        Some(failure) => Err(failure),
        None => Ok(running),
    }
}

/// What the executor said before it gave up, if it said anything. Blocks until every holder of the pipe's other
/// end has executed or ended.
pub(crate) fn read_failure(mut pipe: &std::io::PipeReader) -> Option<StartFailure> {
    let readable = sys::wait_readable(pipe.as_fd(), Some(Duration::from_secs(1))).ok()?;
    let mut bytes = [0_u8; 8192];
    let length = if readable {
        pipe.read(&mut bytes).ok()?
    } else {
        0
    };
    serde_json::from_slice(&bytes[..length]).ok()
}

/// libcontainer's errors, by the words in them: its types do not tell what failed in the container's process,
/// from where only text comes back.
pub(crate) fn classify(error: &dyn std::error::Error) -> StartFailure {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = cause.source();
    }
    // What went wrong afterwards, while libcontainer cleaned up, is not the reason (and we clean up again).
    if let Some((cause, _)) = reason.split_once(" error during cleanup") {
        reason = cause.trim_end_matches(['.', ' ']).to_owned();
    }
    let lower = reason.to_lowercase();
    if lower.contains("cgroup") {
        StartFailure::Cgroup { reason }
    } else if lower.contains("rootfs") || lower.contains("mount") || lower.contains("pivot") {
        StartFailure::Mount { reason }
    } else {
        StartFailure::Internal { reason }
    }
}

/// Makes a network namespace with loopback up and names it so that the container's process can join it.
fn own_network_namespace() -> Result<PathBuf, StartFailure> {
    let failed = |what: &'static str| {
        move |error: &dyn std::fmt::Display| StartFailure::internal(format!("{what}: {error}"))
    };
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed("new network namespace")(&error))?;
    sys::loopback_up().map_err(|error| failed("bringing loopback up")(&error))?;
    Ok(PathBuf::from(format!(
        "/proc/{}/ns/net",
        std::process::id()
    )))
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
    }
}

fn host_facts(hierarchies: &Hierarchies, cgroup: &str) -> HostFacts {
    let parent = cgroup.rsplit_once('/').map_or("/", |(parent, _)| parent);
    let swap = accounts_swap(hierarchies, parent);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    HostFacts {
        cgroups: hierarchies.mode,
        swap,
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

fn hard_limit(kind: &str) -> Option<u64> {
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
