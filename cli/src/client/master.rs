//! Calls to the master's operator API.

use std::time::Duration;

use mezzo_api::{
    credential::{Authorized, Credential},
    masters::{self, Masters},
    proto::{self, operator_service_client::OperatorServiceClient},
};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::{LARGEST_MESSAGE, channel, refused};
use crate::failure::Failure;

const HINT: &str =
    "start one with `mezzo dev` or `mezzo master`, or name it with --master or MEZZO_MASTER";

/// An election takes less.
const ELECTION: Duration = Duration::from_secs(10);

/// A connection to the master.
#[derive(Debug, Clone)]
pub(crate) struct Master {
    address: String,
    client: OperatorServiceClient<Authorized>,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskFilter {
    pub(crate) framework_id: String,
    pub(crate) agent_id: String,
    pub(crate) include_ended: bool,
}

/// A stream of events.
#[derive(Debug)]
pub(crate) struct Watch {
    address: String,
    stream: tonic::Streaming<proto::OperatorEvent>,
}

impl Watch {
    /// `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<proto::OperatorEvent>, Failure> {
        let event = self.stream.message().await;
        event.map_err(|status| refused("master", &self.address, &status))
    }
}

impl Master {
    /// Connects to the master that leads: of a list, or named by one that does not. For a while, until there is one.
    pub(crate) async fn connect(addresses: &str, credential: &Credential) -> Result<Self, Failure> {
        let mut masters = Masters::parse(addresses)
            .map_err(|error| Failure::usage(format!("--master: {error}")))?;
        let deadline = Instant::now() + ELECTION;
        loop {
            let (failure, leader) = match Self::try_connect(masters.current(), credential).await {
                Ok(Ok(master)) => return Ok(master),
                Ok(Err(status)) => {
                    let failure = refused("master", masters.current(), &status);
                    (failure, masters::leader_named(&status))
                }
                // A list may have others.
                Err(failure) if masters.n_known() > 1 => (failure, None),
                Err(failure) => return Err(failure),
            };
            let pause = masters.failed(leader, 1.0);
            if Instant::now() + pause >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
        }
    }

    /// The inner error: it does not lead.
    async fn try_connect(
        address: &str,
        credential: &Credential,
    ) -> Result<Result<Self, tonic::Status>, Failure> {
        let channel = channel("master", address, HINT).await?;
        let channel = Authorized::new(channel, credential.clone());
        let client = OperatorServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let mut master = Self {
            address: address.to_owned(),
            client,
        };
        let asked = master.client.get_cluster(proto::GetClusterRequest {}).await;
        match asked {
            Err(status) if status.code() == Code::Unavailable => Ok(Err(status)),
            // Whatever else it says, it says to the call that is to come.
            Ok(_) | Err(_) => Ok(Ok(master)),
        }
    }

    fn refused(&self, status: &tonic::Status) -> Failure {
        refused("master", &self.address, status)
    }

    pub(crate) async fn cluster(&mut self) -> Result<proto::Cluster, Failure> {
        let answer = self.client.get_cluster(proto::GetClusterRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// Those that the filters of `wanted` admit; its page is not used.
    pub(crate) async fn agents(
        &mut self,
        wanted: &proto::ListAgentsRequest,
    ) -> Result<Vec<proto::Agent>, Failure> {
        let mut agents = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListAgentsRequest {
                page_size: 0,
                page_token,
                ..wanted.clone()
            };
            let page = self
                .client
                .list_agents(request)
                .await
                .map_err(|status| self.refused(&status))?
                .into_inner();
            agents.extend(page.agents);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(agents);
            }
        }
    }

    pub(crate) async fn agent(&mut self, agent: &str) -> Result<proto::Agent, Failure> {
        let answer = self
            .client
            .get_agent(proto::GetAgentRequest {
                agent: agent.to_owned(),
            })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn remove_agent(&mut self, agent_id: &str) -> Result<(), Failure> {
        let request = proto::RemoveAgentRequest {
            agent_id: agent_id.to_owned(),
        };
        self.client
            .remove_agent(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn drain_agent(
        &mut self,
        agent_id: &str,
        deadline: Option<std::time::Duration>,
        mark_gone: bool,
    ) -> Result<(), Failure> {
        let request = proto::DrainAgentRequest {
            agent_id: agent_id.to_owned(),
            deadline_ms: deadline.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            mark_gone,
        };
        self.client
            .drain_agent(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    /// Reservations and volumes of a node, changed one after the other.
    pub(crate) async fn change_pools(
        &mut self,
        agent_id: &str,
        changes: Vec<proto::pool_change::Change>,
    ) -> Result<(), Failure> {
        let request = proto::ChangePoolsRequest {
            agent_id: agent_id.to_owned(),
            changes: changes
                .into_iter()
                .map(|change| proto::PoolChange {
                    change: Some(change),
                })
                .collect(),
        };
        self.client
            .change_pools(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    /// All volumes, or those of one node.
    pub(crate) async fn volumes(
        &mut self,
        agent_id: &str,
    ) -> Result<Vec<proto::VolumeOnAgent>, Failure> {
        let mut volumes = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListVolumesRequest {
                page_size: 0,
                page_token,
                agent_id: agent_id.to_owned(),
            };
            let page = self
                .client
                .list_volumes(request)
                .await
                .map_err(|status| self.refused(&status))?
                .into_inner();
            volumes.extend(page.volumes);
            if page.next_page_token.is_empty() {
                return Ok(volumes);
            }
            page_token = page.next_page_token;
        }
    }

    pub(crate) async fn deactivate_agent(&mut self, agent_id: &str) -> Result<(), Failure> {
        let request = proto::DeactivateAgentRequest {
            agent_id: agent_id.to_owned(),
        };
        self.client
            .deactivate_agent(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn activate_agent(&mut self, agent_id: &str) -> Result<(), Failure> {
        let request = proto::ActivateAgentRequest {
            agent_id: agent_id.to_owned(),
        };
        self.client
            .activate_agent(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    /// Those that the filters of `wanted` admit; its page is not used.
    pub(crate) async fn frameworks(
        &mut self,
        wanted: &proto::ListFrameworksRequest,
    ) -> Result<Vec<proto::Framework>, Failure> {
        let mut frameworks = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListFrameworksRequest {
                page_size: 0,
                page_token,
                ..wanted.clone()
            };
            let page = self
                .client
                .list_frameworks(request)
                .await
                .map_err(|status| self.refused(&status))?
                .into_inner();
            frameworks.extend(page.frameworks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(frameworks);
            }
        }
    }

    pub(crate) async fn tasks(&mut self, filter: &TaskFilter) -> Result<Vec<proto::Task>, Failure> {
        let mut tasks = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListTasksRequest {
                page_size: 0,
                page_token,
                framework_id: filter.framework_id.clone(),
                agent_id: filter.agent_id.clone(),
                include_ended: filter.include_ended,
                task_id: String::new(),
                ..proto::ListTasksRequest::default()
            };
            let page = self
                .client
                .list_tasks(request)
                .await
                .map_err(|status| self.refused(&status))?
                .into_inner();
            tasks.extend(page.tasks);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(tasks);
            }
        }
    }

    pub(crate) async fn roles(&mut self) -> Result<Vec<proto::Role>, Failure> {
        let mut roles = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = proto::ListRolesRequest {
                page_token,
                ..proto::ListRolesRequest::default()
            };
            let page = self
                .client
                .list_roles(request)
                .await
                .map_err(|status| self.refused(&status))?
                .into_inner();
            roles.extend(page.roles);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(roles);
            }
        }
    }

    /// Follows what happens; the first message is `Started`.
    pub(crate) async fn watch_events(
        &mut self,
        request: proto::WatchEventsRequest,
    ) -> Result<Watch, Failure> {
        let answer = self.client.watch_events(request).await;
        let stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        Ok(Watch {
            address: self.address.clone(),
            stream,
        })
    }

    /// The file of all that is durable.
    pub(crate) async fn backup(&mut self) -> Result<Vec<u8>, Failure> {
        let answer = self.client.backup(proto::BackupRequest {}).await;
        let mut stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        let mut file = Vec::new();
        loop {
            let chunk = stream.message().await;
            match chunk.map_err(|status| self.refused(&status))? {
                Some(chunk) => file.extend(chunk.data),
                None => return Ok(file),
            }
        }
    }

    pub(crate) async fn windows(&mut self) -> Result<Vec<proto::MaintenanceWindow>, Failure> {
        let mut windows = Vec::new();
        let mut request = proto::ListMaintenanceRequest::default();
        loop {
            let page = self.client.list_maintenance(request.clone()).await;
            let page = page.map_err(|status| self.refused(&status))?.into_inner();
            windows.extend(page.windows);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(windows);
            }
        }
    }

    pub(crate) async fn schedule_window(
        &mut self,
        window: proto::MaintenanceWindow,
    ) -> Result<(), Failure> {
        let request = proto::ScheduleMaintenanceRequest {
            window: Some(window),
        };
        self.client
            .schedule_maintenance(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn cancel_window(&mut self, name: &str) -> Result<(), Failure> {
        let request = proto::CancelMaintenanceRequest {
            name: name.to_owned(),
        };
        self.client
            .cancel_maintenance(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn set_weight(
        &mut self,
        role: &str,
        weight_millis: u64,
    ) -> Result<(), Failure> {
        let weight = proto::update_weights_request::Weight {
            role: role.to_owned(),
            weight_millis,
        };
        let request = proto::UpdateWeightsRequest {
            weights: vec![weight],
        };
        self.client
            .update_weights(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn set_quota(
        &mut self,
        quota: proto::update_quotas_request::Quota,
        force: bool,
    ) -> Result<(), Failure> {
        let request = proto::UpdateQuotasRequest {
            quotas: vec![quota],
            force,
        };
        self.client
            .update_quotas(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn explain(
        &mut self,
        framework_id: &str,
    ) -> Result<proto::ExplainFrameworkResponse, Failure> {
        let request = proto::ExplainFrameworkRequest {
            framework_id: framework_id.to_owned(),
        };
        self.client
            .explain_framework(request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn kill_task(
        &mut self,
        framework_id: &str,
        task_id: &str,
        grace_ms: Option<u64>,
    ) -> Result<(), Failure> {
        let request = proto::KillTaskRequest {
            framework_id: framework_id.to_owned(),
            task_id: task_id.to_owned(),
            grace_ms,
        };
        self.client
            .kill_task(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn teardown(&mut self, framework_id: &str) -> Result<(), Failure> {
        let request = proto::TeardownFrameworkRequest {
            framework_id: framework_id.to_owned(),
        };
        self.client
            .teardown_framework(request)
            .await
            .map(drop)
            .map_err(|status| self.refused(&status))
    }
}
