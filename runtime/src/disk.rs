//! What trees of files take on the disk: counted by a walk, or by the file system itself where it has project quotas.
//! Whose trees they are and what follows from the figures is the caller's business.

mod project;
mod walk;

pub use project::{Project, Projects, QuotaError};
pub use walk::{Bounds, End, Walked, files, walk};

/// Lets everybody else go first, on the processors and on the disks: the calling thread alone.
pub fn yield_to_everybody() {
    crate::sys::disk::yield_to_everybody();
}
