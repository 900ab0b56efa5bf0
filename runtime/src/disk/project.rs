//! Trees that the file system itself counts and bounds: project quotas of ext4 and XFS.
//!
//! Each tree gets a project id of its own; the directories carry it, and what is made in them inherits it. Which id a tree
//! has is read from the tree again, so nothing is to be remembered. An id is taken only while nothing on the file system
//! has it: somebody else may use projects too. Taken and given to the tree under one lock; two programs that take from one
//! range at the same moment are kept apart by where each begins to look.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use crate::sys::disk::{self as sys, ProjectUse};

/// Ids that are looked at before giving up.
const TRIES: u32 = 256;

/// Why there are no project quotas.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The file system has none, or counts without refusing anything.
    #[error("{path} has no project quotas in force: {reason}")]
    Absent {
        /// Where they were looked for.
        path: PathBuf,
        /// In words of an operator.
        reason: &'static str,
    },
    /// Something went wrong.
    #[error("cannot {operation} for {path}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Every id that was looked at is in use.
    #[error("no project id of {first} to {last} is free")]
    NoId {
        /// The first of the range.
        first: u32,
        /// The last.
        last: u32,
    },
}

/// One tree's project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Project(u32);

/// The projects of one file system.
#[derive(Clone, Debug)]
pub struct Projects {
    /// Any directory on it.
    on: Arc<File>,
    device: u64,
    path: PathBuf,
    /// First and last id to be given.
    ids: (u32, u32),
    /// The id to look at next.
    next: Arc<Mutex<u32>>,
}

impl Projects {
    /// The project quotas of the file system that `path` is on, with ids of that range (first and last) for its trees;
    /// `random` chooses where in it to begin.
    ///
    /// # Errors
    ///
    /// [`QuotaError::Absent`] where there are none, with what the operator can do.
    pub fn open(path: &Path, ids: (u32, u32), random: u32) -> Result<Self, QuotaError> {
        let absent = |reason| QuotaError::Absent {
            path: path.to_owned(),
            reason,
        };
        let on = File::open(path).map_err(failed("open the file system", path))?;
        match sys::enforces_projects(on.as_fd()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(absent(
                    "they count but refuse nothing; mount it with the option prjquota",
                ));
            }
            Err(_) => {
                return Err(absent(
                    "ext4 (with the features project and quota) and XFS have them, mounted with the option prjquota",
                ));
            }
        }
        sys::project_of(on.as_fd()).map_err(|_| absent("its files belong to no project"))?;
        let device = device(&on).map_err(failed("look at the file system", path))?;
        let span = ids.1.saturating_sub(ids.0).saturating_add(1);
        Ok(Self {
            on: Arc::new(on),
            device,
            path: path.to_owned(),
            ids,
            next: Arc::new(Mutex::new(ids.0.saturating_add(random % span.max(1)))),
        })
    }

    /// Bounds what these directories, with all that will be made in them, may take together. Those that have a project
    /// of ours already get the new bound. They must be empty, or hold only directories that are among them: what is in
    /// them already stays without a project.
    ///
    /// # Errors
    ///
    /// No id is free; a directory is on another file system. Directories may then have a project without a bound.
    pub fn limit(&self, dirs: &[&Path], bytes: u64) -> Result<Project, QuotaError> {
        let mut opened = Vec::new();
        for dir in dirs {
            let file = open_dir(dir).map_err(failed("open the directory", dir))?;
            if device(&file).map_err(failed("look at", dir))? != self.device {
                return Err(QuotaError::Absent {
                    path: dir.to_path_buf(),
                    reason: "it is on another file system",
                });
            }
            opened.push((*dir, file));
        }
        let mut next = self.next.lock().expect("nobody panics while holding it");
        let known = opened.first().and_then(|(_, dir)| self.project_in(dir));
        let project = match known {
            Some(project) => project,
            None => self.free(&mut next)?,
        };
        sys::limit_project(self.on.as_fd(), project, bytes)
            .map_err(failed("set a project's quota", &self.path))?;
        for (path, dir) in &opened {
            sys::give_to_project(dir.as_fd(), project).map_err(failed("give a project", path))?;
        }
        Ok(Project(project))
    }

    /// The project of ours that a directory has.
    #[must_use]
    pub fn project(&self, dir: &Path) -> Option<Project> {
        let file = open_dir(dir).ok()?;
        if device(&file).ok()? != self.device {
            return None;
        }
        self.project_in(&file).map(Project)
    }

    /// Bytes that a project takes.
    ///
    /// # Errors
    ///
    /// The quotas were turned off meanwhile.
    pub fn used(&self, project: Project) -> Result<u64, QuotaError> {
        sys::project_use(self.on.as_fd(), project.0)
            .map(|used| used.bytes)
            .map_err(failed("read a project's quota", &self.path))
    }

    /// Takes a project's bound away, when its files are gone.
    ///
    /// # Errors
    ///
    /// The quotas were turned off meanwhile.
    pub fn forget(&self, project: Project) -> Result<(), QuotaError> {
        sys::limit_project(self.on.as_fd(), project.0, 0)
            .map_err(failed("take back a project's quota", &self.path))
    }

    fn project_in(&self, dir: &File) -> Option<u32> {
        let project = sys::project_of(dir.as_fd()).ok()?;
        (self.ids.0..=self.ids.1)
            .contains(&project)
            .then_some(project)
    }

    /// An id that nothing has. Its first directory must be given to it before the lock on `next` goes.
    fn free(&self, next: &mut u32) -> Result<u32, QuotaError> {
        let (first, last) = self.ids;
        for _ in 0..TRIES.min(last.saturating_sub(first).saturating_add(1)) {
            let candidate = *next;
            *next = following(candidate, self.ids);
            match sys::project_use(self.on.as_fd(), candidate) {
                Ok(ProjectUse {
                    bytes: 0,
                    inodes: 0,
                    ..
                }) => return Ok(candidate),
                Ok(_) => {}
                // XFS: nothing was ever written down for it.
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {
                    return Ok(candidate);
                }
                Err(source) => return Err(failed("read a project's quota", &self.path)(source)),
            }
        }
        Err(QuotaError::NoId { first, last })
    }
}

/// The id after one, round and round. Pure.
fn following(id: u32, (first, last): (u32, u32)) -> u32 {
    if id >= last || id < first {
        first
    } else {
        id + 1
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

fn device(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(file.metadata()?.dev())
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> QuotaError {
    let path = path.to_owned();
    move |source| QuotaError::Io {
        operation,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round() {
        assert_eq!(following(5, (5, 7)), 6);
        assert_eq!(following(7, (5, 7)), 5);
        assert_eq!(following(u32::MAX, (5, u32::MAX)), 5);
        assert_eq!(following(0, (5, 7)), 5);
    }

    #[test]
    fn where_there_are_none_the_operator_is_told_what_has_them() {
        let error = Projects::open(Path::new("/proc"), (5, 7), 0).unwrap_err();
        assert!(matches!(error, QuotaError::Absent { .. }), "{error}");
        assert!(error.to_string().contains("prjquota"), "{error}");
    }
}
