//! After the agent died: what it had written down, compared with what really runs.
//!
//! [`checkpoint`] is the form on disk, [`plan`] decides (pure), [`execute`] carries the plan out.

pub(crate) mod checkpoint;
pub(crate) mod execute;
pub(crate) mod plan;
