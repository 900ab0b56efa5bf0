//! A launch on its way to an agent. Its description stays encoded: a master keeps it nearly so, and an agent reads it where it
//! can answer what is wrong with it.

use prost::{DecodeError, Message};

use super::Description;
use crate::{
    model::{FrameworkId, RoleName},
    proto,
};

/// `mezzo.v1.MasterMessage.Launch`, as generated but for the description.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Launch {
    /// Whose task it is.
    #[prost(string, tag = "1")]
    pub framework_id: String,
    /// The role of the offer.
    #[prost(string, tag = "2")]
    pub role: String,
    /// A `mezzo.v1.TaskInfo`, encoded; nothing where there is none.
    #[prost(bytes = "vec", tag = "3")]
    pub task: Vec<u8>,
}

impl Launch {
    /// Of a task that was described.
    #[must_use]
    pub fn new(framework_id: &FrameworkId, role: &RoleName, task: &Description) -> Self {
        Self {
            framework_id: framework_id.to_string(),
            role: role.to_string(),
            task: task.encoded(),
        }
    }

    /// The description.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn info(&self) -> Result<proto::TaskInfo, DecodeError> {
        proto::TaskInfo::decode(&*self.task)
    }
}
