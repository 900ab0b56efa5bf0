//! What libcontainer calls last in a container's own process, after the capabilities are dropped: tie its life
//! to the keeper's, give it clean signals, load the seccomp program, execute. Also says, in a form that can be
//! told apart, why a program cannot be executed: libcontainer hands on only text.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::error::StartFailure;
use crate::sys;

/// Runs in the container's process. The descriptors are inherited over libcontainer's forks and close on exec.
#[derive(Clone)]
pub(crate) struct ContainerExecutor {
    /// A pipe for a [`StartFailure`]; it closes without a word when the program has been executed.
    pub(crate) failure: RawFd,
    /// A pipe whose other end only the keeper (or helper) holds.
    pub(crate) lifeline: RawFd,
    /// The compiled filter.
    pub(crate) seccomp: Option<Rc<Vec<u8>>>,
    /// Execute nothing and wait for the end: the holder of a group.
    pub(crate) holds: bool,
    /// The standard streams are a terminal, which is to be the controlling one.
    pub(crate) terminal: bool,
}

impl ContainerExecutor {
    /// Die with the parent. The parent's death before this call is seen on the lifeline; after it, the kernel
    /// sends the signal.
    fn tie_to_parent(&self) -> Result<(), String> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(|error| format!("set_pdeathsig: {error}"))?;
        if sys::is_hung_up(self.lifeline) {
            Err("the keeper is gone".to_owned())
        } else {
            Ok(())
        }
    }

    fn report(&self, failure: &StartFailure) -> String {
        if let Ok(bytes) = serde_json::to_vec(failure) {
            sys::write_raw(self.failure, &bytes);
        }
        failure.to_string()
    }
}

impl Executor for ContainerExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let run = || {
            self.tie_to_parent().map_err(StartFailure::internal)?;
            if self.holds {
                return Ok(());
            }
            find_program(spec).map(|_| ())
        };
        run().map_err(|failure| ExecutorValidationError::ArgValidationError(self.report(&failure)))
    }

    /// The environment is given to `execve` as it stands in the specification.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let done = if self.holds {
            self.hold()
        } else {
            self.execute(spec)
        };
        let failure = match done {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        Err(ExecutorError::Other(self.report(&failure)))
    }
}

impl ContainerExecutor {
    /// Waits for ever, with nothing open but the standard streams. What this process shows is our own program, sealed, and
    /// nobody is in its pid namespace to look at it.
    fn hold(&self) -> Result<std::convert::Infallible, StartFailure> {
        self.tie_to_parent().map_err(StartFailure::internal)?;
        sys::reset_signals();
        let _ = nix::sys::prctl::set_name(c"mezzo-group");
        self.load_filter()?;
        // With the last of them the keeper knows that all is made.
        sys::close_from_3();
        loop {
            nix::unistd::pause();
        }
    }

    fn load_filter(&self) -> Result<(), StartFailure> {
        let Some(filter) = &self.seccomp else {
            return Ok(());
        };
        sys::load_seccomp(filter).map_err(|error| {
            StartFailure::internal(format!("the seccomp filter was not loaded: {error}"))
        })
    }

    fn execute(&self, spec: &Spec) -> Result<std::convert::Infallible, StartFailure> {
        let program = find_program(spec)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| StartFailure::internal("no process in the spec"))?;
        let strings = |list: &Option<Vec<String>>| -> Result<Vec<CString>, StartFailure> {
            list.iter()
                .flatten()
                .map(|text| CString::new(text.as_str()).map_err(StartFailure::internal))
                .collect()
        };
        let (args, env) = (strings(process.args())?, strings(process.env())?);
        let path = program.to_string_lossy().into_owned();
        let c_path = CString::new(path.as_str()).map_err(StartFailure::internal)?;
        sys::close_on_exec_from_3().map_err(StartFailure::internal)?;
        self.tie_to_parent().map_err(StartFailure::internal)?;
        if self.terminal {
            // By now this process leads a session of its own.
            sys::terminal::set_controlling_terminal(std::io::stdin().as_fd()).map_err(|error| {
                StartFailure::internal(format!("the terminal cannot control the session: {error}"))
            })?;
        }
        sys::reset_signals();
        let _ = nix::sys::prctl::set_thp_disable(false);
        self.load_filter()?;
        let Err(error) = nix::unistd::execve(&c_path, &args, &env);
        let reason = if error == Errno::ENOENT {
            // It was there a moment ago: what is missing is the interpreter that its first line or ELF header names.
            "its interpreter is not in the image"
        } else if error == Errno::ENOEXEC {
            "not a program for this machine (wrong architecture, or a script without '#!')"
        } else {
            error.desc()
        };
        Err(StartFailure::NotExecutable {
            path,
            reason: reason.to_owned(),
        })
    }
}

/// Finds the program as a shell would: as a path if it has a slash, else along PATH. Runs inside the container's
/// root and with its user's rights.
fn find_program(spec: &Spec) -> Result<PathBuf, StartFailure> {
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| StartFailure::internal("no process in the spec"))?;
    let name = process
        .args()
        .as_ref()
        .and_then(|args| args.first())
        .ok_or_else(|| StartFailure::internal("no program in the spec"))?;
    let not_found = || StartFailure::ExecutableNotFound { path: name.clone() };
    if name.contains('/') {
        return match usability(Path::new(name)) {
            Usability::Good => Ok(PathBuf::from(name)),
            Usability::Missing => Err(not_found()),
            Usability::Bad(reason) => Err(StartFailure::NotExecutable {
                path: name.clone(),
                reason,
            }),
        };
    }
    let path = process
        .env()
        .iter()
        .flatten()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let mut unusable = None;
    for dir in path.unwrap_or(crate::model::DEFAULT_PATH).split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match usability(&candidate) {
            Usability::Good => return Ok(candidate),
            Usability::Missing => {}
            Usability::Bad(reason) => {
                let path = candidate.to_string_lossy().into_owned();
                unusable = unusable.or(Some(StartFailure::NotExecutable { path, reason }));
            }
        }
    }
    Err(unusable.unwrap_or_else(not_found))
}

enum Usability {
    Good,
    Missing,
    Bad(String),
}

fn usability(path: &Path) -> Usability {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Usability::Bad("not a regular file".to_owned()),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Usability::Bad("it has no execute permission".to_owned())
        }
        Ok(_) => match nix::unistd::access(path, nix::unistd::AccessFlags::X_OK) {
            Ok(()) => Usability::Good,
            Err(error) => Usability::Bad(error.desc().to_owned()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Usability::Bad(error.to_string())
        }
        Err(_) => Usability::Missing,
    }
}
