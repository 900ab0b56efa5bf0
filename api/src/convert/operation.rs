//! Changes of reservations and volumes, and what became of them.

use super::{
    Invalid, Problems,
    reservations::{layers, stack},
};
use crate::{
    model::{
        FrameworkId, OperationState, OperationStatus, PoolChange, PoolOperation, Stack, VolumeKey,
    },
    proto::{self, pool_change::Change},
};

impl TryFrom<proto::Reserve> for PoolChange {
    type Error = Invalid;

    fn try_from(reserve: proto::Reserve) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let resources = problems.take("resources", reserve.resources.try_into());
        let with = match reserve.reservation {
            None => problems.take("reservation", Err(Invalid::new("", "is missing"))),
            Some(with) => problems.take("reservation", with.try_into()),
        };
        let from: Option<Option<Stack>> = if reserve.from.is_empty() {
            Some(None)
        } else {
            problems.take("from", stack(reserve.from)).map(Some)
        };
        problems.finish((|| {
            Some(Self::Reserve {
                from: from?,
                with: with?,
                resources: resources?,
            })
        })())
    }
}

impl TryFrom<proto::Unreserve> for PoolChange {
    type Error = Invalid;

    fn try_from(unreserve: proto::Unreserve) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let resources = problems.take("resources", unreserve.resources.try_into());
        let stack = problems.take("stack", stack(unreserve.stack));
        problems.finish((|| {
            Some(Self::Unreserve {
                stack: stack?,
                resources: resources?,
            })
        })())
    }
}

impl TryFrom<proto::CreateVolume> for PoolChange {
    type Error = Invalid;

    fn try_from(create: proto::CreateVolume) -> Result<Self, Invalid> {
        let volume = create
            .volume
            .ok_or_else(|| Invalid::new("volume", "is missing"))?;
        let volume = volume.try_into();
        volume
            .map(Self::Create)
            .map_err(|invalid: Invalid| invalid.within("volume"))
    }
}

impl TryFrom<proto::DestroyVolume> for PoolChange {
    type Error = Invalid;

    fn try_from(destroy: proto::DestroyVolume) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let role = problems.take("role", destroy.role.parse());
        let id = problems.take("volume_id", destroy.volume_id.parse());
        problems.finish((|| {
            Some(Self::Destroy(VolumeKey {
                role: role?,
                id: id?,
            }))
        })())
    }
}

impl TryFrom<proto::PoolChange> for PoolChange {
    type Error = Invalid;

    fn try_from(change: proto::PoolChange) -> Result<Self, Invalid> {
        match change.change {
            None => Err(Invalid::new("", "is empty or unknown here")),
            Some(Change::Reserve(reserve)) => reserve
                .try_into()
                .map_err(|invalid: Invalid| invalid.within("reserve")),
            Some(Change::Unreserve(unreserve)) => unreserve
                .try_into()
                .map_err(|invalid: Invalid| invalid.within("unreserve")),
            Some(Change::CreateVolume(create)) => create
                .try_into()
                .map_err(|invalid: Invalid| invalid.within("create_volume")),
            Some(Change::DestroyVolume(destroy)) => destroy
                .try_into()
                .map_err(|invalid: Invalid| invalid.within("destroy_volume")),
        }
    }
}

impl From<PoolChange> for proto::PoolChange {
    fn from(change: PoolChange) -> Self {
        let change = match change {
            PoolChange::Reserve {
                from,
                with,
                resources,
            } => Change::Reserve(proto::Reserve {
                resources: resources.into(),
                reservation: Some(with.into()),
                from: from.as_ref().map(layers).unwrap_or_default(),
            }),
            PoolChange::Unreserve { stack, resources } => Change::Unreserve(proto::Unreserve {
                resources: resources.into(),
                stack: layers(&stack),
            }),
            PoolChange::Create(volume) => Change::CreateVolume(proto::CreateVolume {
                volume: Some(volume.into()),
            }),
            PoolChange::Destroy(key) => Change::DestroyVolume(proto::DestroyVolume {
                role: key.role.into(),
                volume_id: key.id.into(),
            }),
        };
        Self {
            change: Some(change),
        }
    }
}

/// Empty is an operator.
fn asker(problems: &mut Problems, id: String) -> Option<Option<FrameworkId>> {
    if id.is_empty() {
        Some(None)
    } else {
        problems.take("framework_id", id.parse()).map(Some)
    }
}

impl TryFrom<proto::PoolOperation> for PoolOperation {
    type Error = Invalid;

    fn try_from(operation: proto::PoolOperation) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let id = problems.take("operation_id", operation.operation_id.parse());
        let framework = asker(&mut problems, operation.framework_id);
        let change = match operation.change {
            None => problems.take("change", Err(Invalid::new("", "is missing"))),
            Some(change) => problems.take("change", change.try_into()),
        };
        problems.finish((|| {
            Some(Self {
                id: id?,
                framework: framework?,
                keep: operation.keep,
                change: change?,
            })
        })())
    }
}

impl From<PoolOperation> for proto::PoolOperation {
    fn from(operation: PoolOperation) -> Self {
        Self {
            operation_id: operation.id.into(),
            framework_id: operation.framework.map(Into::into).unwrap_or_default(),
            keep: operation.keep,
            change: Some(operation.change.into()),
        }
    }
}

impl From<OperationState> for proto::OperationState {
    fn from(state: OperationState) -> Self {
        match state {
            OperationState::Pending => Self::OperationPending,
            OperationState::Finished => Self::OperationFinished,
            OperationState::Failed => Self::OperationFailed,
            OperationState::Dropped => Self::OperationDropped,
            OperationState::Recovering => Self::OperationRecovering,
            OperationState::Unknown => Self::OperationUnknown,
        }
    }
}

impl TryFrom<proto::OperationStatus> for OperationStatus {
    type Error = Invalid;

    fn try_from(status: proto::OperationStatus) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let state = match status.state() {
            proto::OperationState::Unspecified => {
                problems.take("state", Err(Invalid::new("", "is missing")))
            }
            proto::OperationState::OperationPending => Some(OperationState::Pending),
            proto::OperationState::OperationFinished => Some(OperationState::Finished),
            proto::OperationState::OperationFailed => Some(OperationState::Failed),
            proto::OperationState::OperationDropped => Some(OperationState::Dropped),
            proto::OperationState::OperationRecovering => Some(OperationState::Recovering),
            proto::OperationState::OperationUnknown => Some(OperationState::Unknown),
        };
        let id = problems.take("operation_id", status.operation_id.parse());
        let framework = asker(&mut problems, status.framework_id);
        let agent_id = if status.agent_id.is_empty() {
            Some(None)
        } else {
            problems.take("agent_id", status.agent_id.parse()).map(Some)
        };
        problems.bound("message", &status.message, 8192);
        problems.finish((|| {
            Some(Self {
                id: id?,
                framework: framework?,
                agent_id: agent_id?,
                state: state?,
                message: status.message,
                keep: status.keep,
            })
        })())
    }
}

impl From<OperationStatus> for proto::OperationStatus {
    fn from(status: OperationStatus) -> Self {
        Self {
            operation_id: status.id.into(),
            framework_id: status.framework.map(Into::into).unwrap_or_default(),
            agent_id: status.agent_id.map(Into::into).unwrap_or_default(),
            state: proto::OperationState::from(status.state).into(),
            message: status.message,
            keep: status.keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reservation;

    #[test]
    fn operations_survive_the_wire() {
        let eng = Reservation::dynamic("eng".parse().unwrap(), "ops");
        for change in [
            PoolChange::Reserve {
                from: None,
                with: eng.clone(),
                resources: "cpus:1".parse().unwrap(),
            },
            PoolChange::Unreserve {
                stack: Stack::single(eng).unwrap(),
                resources: "cpus:1".parse().unwrap(),
            },
            PoolChange::Destroy(VolumeKey {
                role: "eng".parse().unwrap(),
                id: "data".parse().unwrap(),
            }),
        ] {
            let operation = PoolOperation {
                id: "o".parse().unwrap(),
                framework: None,
                keep: true,
                change,
            };
            let wire = proto::PoolOperation::from(operation.clone());
            assert_eq!(PoolOperation::try_from(wire), Ok(operation));
        }
        assert!(PoolOperation::try_from(proto::PoolOperation::default()).is_err());
    }
}
