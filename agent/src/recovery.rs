//! After the agent died: what it had written down, compared with what really runs.
//!
//! [`checkpoint`] is the form on disk, [`versions`] refuses what a newer agent wrote, [`plan`] decides (pure), [`fit`] says
//! whether what runs fits what is offered now (pure), [`execute`] carries the plan out.

pub(crate) mod checkpoint;
pub(crate) mod execute;
mod fit;
pub(crate) mod plan;
pub(crate) mod versions;
