//! What can be allowed, and which method is which. A method without a row is refused to everybody but by `*`.

/// Something that a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    /// All lists, events and metrics.
    Read,
    /// Object: the host's name.
    AttachAgent,
    /// And all calls on the subscription. Object: the role.
    Subscribe,
    /// Object: the framework's id.
    KillTask,
    /// Object: the framework's id.
    TeardownFramework,
    /// Object: the agent's id.
    RemoveAgent,
    /// And deactivate and activate. Object: the agent's id.
    DrainAgent,
    /// Object: the window's name.
    Maintain,
    /// Object: the role.
    UpdateWeights,
    /// Object: the role.
    UpdateQuotas,
    /// Object: the agent's id.
    ChangePools,
    /// A copy of the durable state.
    Backup,
    /// A method without a row.
    Unlisted,
}

impl Action {
    /// As rules name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::AttachAgent => "attach-agent",
            Self::Subscribe => "subscribe",
            Self::KillTask => "kill-task",
            Self::TeardownFramework => "teardown-framework",
            Self::RemoveAgent => "remove-agent",
            Self::DrainAgent => "drain-agent",
            Self::Maintain => "maintain",
            Self::UpdateWeights => "update-weights",
            Self::UpdateQuotas => "update-quotas",
            Self::ChangePools => "change-reservations",
            Self::Backup => "backup",
            Self::Unlisted => "call an unlisted method",
        }
    }

    /// Those that rules can name.
    pub(super) const NAMED: [Self; 12] = [
        Self::Read,
        Self::AttachAgent,
        Self::Subscribe,
        Self::KillTask,
        Self::TeardownFramework,
        Self::RemoveAgent,
        Self::DrainAgent,
        Self::Maintain,
        Self::UpdateWeights,
        Self::UpdateQuotas,
        Self::ChangePools,
        Self::Backup,
    ];

    /// Whether `operate` holds it: all that operators do, and nothing that agents and frameworks do.
    pub(super) fn is_operators(self) -> bool {
        match self {
            Self::AttachAgent | Self::Subscribe | Self::Unlisted => false,
            Self::Read
            | Self::KillTask
            | Self::TeardownFramework
            | Self::RemoveAgent
            | Self::DrainAgent
            | Self::Maintain
            | Self::UpdateWeights
            | Self::UpdateQuotas
            | Self::ChangePools
            | Self::Backup => true,
        }
    }
}

/// What the path of a request asks for. `None`: anybody may (health).
pub(super) fn of_path(path: &str) -> Option<Action> {
    let action = match path.trim_start_matches('/') {
        "healthz" => return None,
        "metrics" => Action::Read,
        rpc => {
            let (service, method) = rpc.split_once('/').unwrap_or((rpc, ""));
            match service {
                "grpc.health.v1.Health" => return None,
                "grpc.reflection.v1.ServerReflection" => Action::Read,
                "mezzo.v1.AgentService" => match method {
                    "Attach" => Action::AttachAgent,
                    _ => Action::Unlisted,
                },
                "mezzo.v1.FrameworkService" => of_framework_method(method),
                "mezzo.v1.OperatorService" => of_operator_method(method),
                _ => Action::Unlisted,
            }
        }
    };
    Some(action)
}

fn of_framework_method(method: &str) -> Action {
    match method {
        "Subscribe"
        | "Accept"
        | "AcceptEach"
        | "Decline"
        | "Revive"
        | "Suppress"
        | "Kill"
        | "Acknowledge"
        | "Reconcile"
        | "SendMessage"
        | "UpdateFramework"
        | "AcknowledgeOperation"
        | "ReconcileOperations"
        | "AnswerInverseOffers"
        | "Teardown" => Action::Subscribe,
        _ => Action::Unlisted,
    }
}

fn of_operator_method(method: &str) -> Action {
    match method {
        "GetCluster" | "ListAgents" | "GetAgent" | "ListFrameworks" | "ListTasks" | "ListRoles"
        | "ListVolumes" | "ExplainFramework" | "WatchEvents" | "ListMaintenance" => Action::Read,
        "UpdateWeights" => Action::UpdateWeights,
        "UpdateQuotas" => Action::UpdateQuotas,
        "ChangePools" => Action::ChangePools,
        "KillTask" => Action::KillTask,
        "TeardownFramework" => Action::TeardownFramework,
        "RemoveAgent" => Action::RemoveAgent,
        "DrainAgent" | "DeactivateAgent" | "ActivateAgent" => Action::DrainAgent,
        "ScheduleMaintenance" | "CancelMaintenance" => Action::Maintain,
        "Backup" => Action::Backup,
        _ => Action::Unlisted,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// A new method gets its row, or nobody with rules can call it.
    #[test]
    fn every_method_that_the_master_serves_has_a_row() {
        let set =
            prost_types::FileDescriptorSet::decode(mezzo_api::proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut n_methods = 0;
        for file in set.file {
            for service in file.service {
                // The agent's own.
                if service.name() == "NodeService" {
                    continue;
                }
                for method in &service.method {
                    n_methods += 1;
                    let path = format!(
                        "/{}.{}/{}",
                        file.package.as_deref().unwrap(),
                        service.name(),
                        method.name()
                    );
                    assert_ne!(of_path(&path), Some(Action::Unlisted), "{path}");
                }
            }
        }
        assert!(n_methods > 25, "only {n_methods} methods");
    }

    #[test]
    fn what_is_not_known_is_not_open() {
        for path in [
            "",
            "/",
            "/x",
            "/mezzo.v1.OperatorService/",
            "/mezzo.v1.OperatorService/Y",
            "/metrics/x",
        ] {
            assert_eq!(of_path(path), Some(Action::Unlisted), "{path}");
        }
        assert_eq!(of_path("/healthz"), None);
    }
}
