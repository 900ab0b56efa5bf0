//! The errors of the public calls. Each names the operation and the container; what a caller must tell apart is
//! a variant of its own.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::spec::validate::BadSpec;

/// Why a runtime cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel lets only root do what containers need.
    #[error("running containers needs root")]
    NotRoot,
    /// Another one has this state directory open.
    #[error("{} is in use by another runtime: stop it, or choose another state directory", path.display())]
    InUse {
        /// The state directory.
        path: PathBuf,
    },
    /// The configuration is wrong.
    #[error("runtime configuration, {field}: {problem}")]
    BadConfig {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// No usable control groups.
    #[error("cannot use control groups")]
    Cgroups(#[source] io::Error),
    /// The state directory cannot be read or written.
    #[error("cannot use state directory {}", path.display())]
    State {
        /// Which directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A newer program has written there.
    #[error(
        "{} has version {found}, this program reads up to {known}: a newer one was here; start that one again, nothing was touched",
        path.display()
    )]
    Newer {
        /// The first such file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest that is read.
        known: u32,
    },
    /// The launcher does not start.
    #[error("cannot start the launcher")]
    Launcher(#[source] io::Error),
}

/// Why a container did not start. Nothing of it is left, except for [`StartError::AlreadyExists`].
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The id is taken, by a running container or by the record of an old one.
    #[error("container {id} already exists")]
    AlreadyExists {
        /// Which.
        id: ContainerId,
    },
    /// A field of the specification cannot be used.
    #[error("container {id}: {problem}")]
    BadSpec {
        /// Which container.
        id: ContainerId,
        /// Which field, and why.
        problem: BadSpec,
    },
    /// The image has no such program.
    #[error("container {id}: there is no {path:?} to execute in its root file system")]
    ExecutableNotFound {
        /// Which container.
        id: ContainerId,
        /// The program.
        path: String,
    },
    /// The program is there and cannot be executed.
    #[error("container {id}: {path:?} cannot be executed: {reason}")]
    NotExecutable {
        /// Which container.
        id: ContainerId,
        /// The program.
        path: String,
        /// Why: permission, wrong architecture, missing interpreter.
        reason: String,
    },
    /// Control groups refused.
    #[error("container {id}: control groups: {reason}")]
    Cgroup {
        /// Which container.
        id: ContainerId,
        /// What they said.
        reason: String,
    },
    /// Something could not be mounted.
    #[error("container {id}: mounts: {reason}")]
    Mount {
        /// Which container.
        id: ContainerId,
        /// What and why.
        reason: String,
    },
    /// It took too long and was given up.
    #[error("container {id} did not start within {seconds} s")]
    TimedOut {
        /// Which container.
        id: ContainerId,
        /// The limit.
        seconds: u64,
    },
    /// The runtime is being closed.
    #[error("container {id}: the runtime is closing")]
    Closed {
        /// Which container.
        id: ContainerId,
    },
    /// Anything else.
    #[error("container {id}: {reason}")]
    Internal {
        /// Which container.
        id: ContainerId,
        /// What happened.
        reason: String,
    },
}

/// Why a program could not be executed in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such container.
    #[error("there is no container {id}")]
    NotFound {
        /// Its id.
        id: ContainerId,
    },
    /// It does not run (any more).
    #[error("container {id} is not running")]
    NotRunning {
        /// Its id.
        id: ContainerId,
    },
    /// A field of the request cannot be used.
    #[error("exec in container {id}: {problem}")]
    BadSpec {
        /// Which container.
        id: ContainerId,
        /// Which field, and why.
        problem: BadSpec,
    },
    /// The container has no such program.
    #[error("exec in container {id}: there is no {path:?}")]
    ExecutableNotFound {
        /// Which container.
        id: ContainerId,
        /// The program.
        path: String,
    },
    /// The program is there and cannot be executed.
    #[error("exec in container {id}: {path:?} cannot be executed: {reason}")]
    NotExecutable {
        /// Which container.
        id: ContainerId,
        /// The program.
        path: String,
        /// Why.
        reason: String,
    },
    /// Anything else.
    #[error("exec in container {id}: {reason}")]
    Internal {
        /// Which container.
        id: ContainerId,
        /// What happened.
        reason: String,
    },
}

/// Why another call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such container.
    #[error("there is no container {id}")]
    NotFound {
        /// Its id.
        id: ContainerId,
    },
    /// It does not run (any more).
    #[error("container {id} is not running")]
    NotRunning {
        /// Its id.
        id: ContainerId,
    },
    /// It runs, and that must end first.
    #[error("container {id} is running: stop it first")]
    StillRunning {
        /// Its id.
        id: ContainerId,
    },
    /// The signal number means nothing.
    #[error("{signal} is not a signal number from 1 to 64")]
    BadSignal {
        /// The number.
        signal: i32,
    },
    /// It was killed and is still there.
    #[error(
        "container {id} did not end within {seconds} s of being killed (a process waits in the kernel)"
    )]
    WillNotDie {
        /// Its id.
        id: ContainerId,
        /// The limit.
        seconds: u64,
    },
    /// The system refused.
    #[error("cannot {operation} {object}")]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a container's limits were not changed. The old ones are in force, except where it is said.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is no such container.
    #[error("there is no container {id}")]
    NotFound {
        /// Its id.
        id: ContainerId,
    },
    /// It does not run (any more).
    #[error("container {id} is not running")]
    NotRunning {
        /// Its id.
        id: ContainerId,
    },
    /// A limit cannot be used, here or anywhere.
    #[error("limits of container {id}: {problem}")]
    BadLimits {
        /// Which container.
        id: ContainerId,
        /// Which field, and why.
        problem: BadSpec,
    },
    /// More memory is in use than the new limit allows, even after the kernel has taken back what it could. To go
    /// on would have been to kill.
    #[error(
        "container {id} uses {used_bytes} bytes of memory and cannot be limited to {wanted_bytes}: it would be killed; stop it, or choose more"
    )]
    MemoryInUse {
        /// Which container.
        id: ContainerId,
        /// The limit that was asked for.
        wanted_bytes: u64,
        /// What is in use.
        used_bytes: u64,
    },
    /// The kernel refused.
    #[error("limits of container {id}: {reason}{}", not_restored(stuck))]
    Cgroup {
        /// Which container.
        id: ContainerId,
        /// Which file and why.
        reason: String,
        /// Files that could not be given their old value back.
        stuck: Vec<PathBuf>,
    },
    /// The new limits could not be recorded, so that a later runtime would not have known them.
    #[error("cannot record the limits of container {id}{}", not_restored(stuck))]
    Record {
        /// Which container.
        id: ContainerId,
        /// Files that could not be given their old value back.
        stuck: Vec<PathBuf>,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn not_restored(files: &[PathBuf]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let names: Vec<_> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    format!("; not put back: {}", names.join(", "))
}

/// Why a keeper or helper failed, as it is told over the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StartFailure {
    ExecutableNotFound { path: String },
    NotExecutable { path: String, reason: String },
    BadSpec(BadSpec),
    Cgroup { reason: String },
    Mount { reason: String },
    NotRunning,
    TimedOut { seconds: u64 },
    Internal { reason: String },
}

impl StartFailure {
    pub(crate) fn internal(reason: impl std::fmt::Display) -> Self {
        Self::Internal {
            reason: reason.to_string(),
        }
    }

    /// The first failure among what a process said before it gave up. Others may follow: libcontainer tells again what its
    /// executor has told it.
    pub(crate) fn first_in(words: &[u8]) -> Self {
        serde_json::Deserializer::from_slice(words)
            .into_iter::<Self>()
            .next()
            .and_then(Result::ok)
            .unwrap_or_else(|| Self::internal("the program's process said nothing sensible"))
    }

    pub(crate) fn into_start_error(self, id: &ContainerId) -> StartError {
        let id = id.clone();
        match self {
            Self::ExecutableNotFound { path } => StartError::ExecutableNotFound { id, path },
            Self::NotExecutable { path, reason } => StartError::NotExecutable { id, path, reason },
            Self::BadSpec(problem) => StartError::BadSpec { id, problem },
            Self::Cgroup { reason } => StartError::Cgroup { id, reason },
            Self::Mount { reason } => StartError::Mount { id, reason },
            Self::TimedOut { seconds } => StartError::TimedOut { id, seconds },
            Self::NotRunning => StartError::Internal {
                id,
                reason: "it ended while it was being started".to_owned(),
            },
            Self::Internal { reason } => StartError::Internal { id, reason },
        }
    }

    pub(crate) fn into_exec_error(self, id: &ContainerId) -> ExecError {
        let id = id.clone();
        match self {
            Self::ExecutableNotFound { path } => ExecError::ExecutableNotFound { id, path },
            Self::NotExecutable { path, reason } => ExecError::NotExecutable { id, path, reason },
            Self::BadSpec(problem) => ExecError::BadSpec { id, problem },
            Self::NotRunning => ExecError::NotRunning { id },
            Self::Cgroup { reason } | Self::Mount { reason } | Self::Internal { reason } => {
                ExecError::Internal { id, reason }
            }
            Self::TimedOut { seconds } => ExecError::Internal {
                id,
                reason: format!("no start within {seconds} s"),
            },
        }
    }
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExecutableNotFound { path } => {
                write!(formatter, "there is no {path:?} to execute")
            }
            Self::NotExecutable { path, reason } => {
                write!(formatter, "{path:?} cannot be executed: {reason}")
            }
            Self::BadSpec(problem) => problem.fmt(formatter),
            Self::Cgroup { reason } => write!(formatter, "control groups: {reason}"),
            Self::Mount { reason } => write!(formatter, "mounts: {reason}"),
            Self::NotRunning => formatter.write_str("the container is not running"),
            Self::TimedOut { seconds } => write!(formatter, "no start within {seconds} s"),
            Self::Internal { reason } => formatter.write_str(reason),
        }
    }
}
