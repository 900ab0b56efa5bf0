//! What the scripted master answers.

use super::*;

#[tonic::async_trait]
impl OperatorService for Scripted {
    async fn get_cluster(&self, _: Request<proto::GetClusterRequest>) -> Answer<proto::Cluster> {
        Ok(Response::new(proto::Cluster {
            version: "9.9".into(),
            agents_connected: 1,
            ..Default::default()
        }))
    }

    async fn list_agents(
        &self,
        _: Request<proto::ListAgentsRequest>,
    ) -> Answer<proto::ListAgentsResponse> {
        let here = self.address.lock().unwrap().clone();
        let agents = vec![agent(self.node_elsewhere.clone().unwrap_or(here))];
        Ok(Response::new(proto::ListAgentsResponse {
            agents,
            ..Default::default()
        }))
    }

    async fn get_agent(&self, request: Request<proto::GetAgentRequest>) -> Answer<proto::Agent> {
        match request.into_inner().agent.as_str() {
            "n1" => Ok(Response::new(agent(self.address.lock().unwrap().clone()))),
            other => Err(Status::not_found(format!("no agent `{other}`"))),
        }
    }

    async fn list_frameworks(
        &self,
        _: Request<proto::ListFrameworksRequest>,
    ) -> Answer<proto::ListFrameworksResponse> {
        let info = |id: &str, name: &str| proto::FrameworkInfo {
            framework_id: id.into(),
            name: name.into(),
            ..Default::default()
        };
        let framework = |id, name| proto::Framework {
            info: Some(info(id, name)),
            connected: true,
            tasks: 3,
            ..Default::default()
        };
        let frameworks = vec![
            framework("framework-1", "marathon"),
            framework("framework-2", "batch"),
        ];
        Ok(Response::new(proto::ListFrameworksResponse {
            frameworks,
            ..Default::default()
        }))
    }

    /// Two pages, to see that both are read.
    async fn list_tasks(
        &self,
        request: Request<proto::ListTasksRequest>,
    ) -> Answer<proto::ListTasksResponse> {
        use proto::TaskState::{TaskFailed, TaskRunning};
        let request = request.into_inner();
        let (tasks, next_page_token) = match (request.page_token.as_str(), request.include_ended) {
            ("", _) => (
                vec![task("sleep.instance-a1._app.1", TaskRunning, "")],
                "2".to_owned(),
            ),
            (_, false) => (
                vec![
                    task("sleep.instance-a2._app.1", TaskRunning, ""),
                    task("web.b", TaskRunning, ""),
                ],
                String::new(),
            ),
            (_, true) => (
                vec![
                    task("sleep.instance-a2._app.1", TaskRunning, ""),
                    task("web.b", TaskRunning, ""),
                    task("web.c", TaskFailed, "\u{1b}[2Jexit code 7"),
                ],
                String::new(),
            ),
        };
        Ok(Response::new(proto::ListTasksResponse {
            tasks,
            next_page_token,
            ..proto::ListTasksResponse::default()
        }))
    }

    async fn list_roles(
        &self,
        _: Request<proto::ListRolesRequest>,
    ) -> Answer<proto::ListRolesResponse> {
        let role = |name: &str| proto::Role {
            name: name.into(),
            weight_millis: 1000,
            ..Default::default()
        };
        Ok(Response::new(proto::ListRolesResponse {
            roles: ["*", "eng", "eng/web"].map(role).into(),
            ..Default::default()
        }))
    }

    async fn update_weights(
        &self,
        request: Request<proto::UpdateWeightsRequest>,
    ) -> Answer<proto::UpdateWeightsResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::UpdateWeightsResponse {}))
    }

    async fn update_quotas(
        &self,
        request: Request<proto::UpdateQuotasRequest>,
    ) -> Answer<proto::UpdateQuotasResponse> {
        let request = request.into_inner();
        if !request.force && request.quotas.iter().any(|quota| quota.role == "greedy") {
            return Err(Status::failed_precondition(
                "the quotas cannot be set: too much; ask with force to have it nevertheless",
            ));
        }
        self.note(request);
        Ok(Response::new(proto::UpdateQuotasResponse {}))
    }

    async fn explain_framework(
        &self,
        request: Request<proto::ExplainFrameworkRequest>,
    ) -> Answer<proto::ExplainFrameworkResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ExplainFrameworkResponse {
            connected: true,
            roles: vec![proto::RoleExplanation {
                role: "*".into(),
                reasons: vec!["3 of 4 agents it has declined".into()],
                ..proto::RoleExplanation::default()
            }],
        }))
    }

    async fn kill_task(
        &self,
        request: Request<proto::KillTaskRequest>,
    ) -> Answer<proto::KillTaskResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::KillTaskResponse {}))
    }

    async fn teardown_framework(
        &self,
        request: Request<proto::TeardownFrameworkRequest>,
    ) -> Answer<proto::TeardownFrameworkResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::TeardownFrameworkResponse {}))
    }

    async fn remove_agent(
        &self,
        request: Request<proto::RemoveAgentRequest>,
    ) -> Answer<proto::RemoveAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::RemoveAgentResponse {}))
    }

    async fn drain_agent(
        &self,
        request: Request<proto::DrainAgentRequest>,
    ) -> Answer<proto::DrainAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::DrainAgentResponse {}))
    }

    async fn deactivate_agent(
        &self,
        request: Request<proto::DeactivateAgentRequest>,
    ) -> Answer<proto::DeactivateAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::DeactivateAgentResponse {}))
    }

    async fn activate_agent(
        &self,
        request: Request<proto::ActivateAgentRequest>,
    ) -> Answer<proto::ActivateAgentResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ActivateAgentResponse {}))
    }

    type WatchEventsStream = Stream_<proto::OperatorEvent>;

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        self.note(request.into_inner());
        Ok(Response::new(Box::pin(operating::events())))
    }

    type BackupStream = Stream_<proto::BackupChunk>;

    async fn backup(&self, _: Request<proto::BackupRequest>) -> Answer<Self::BackupStream> {
        Err(Status::unimplemented("no backup here"))
    }

    async fn schedule_maintenance(
        &self,
        request: Request<proto::ScheduleMaintenanceRequest>,
    ) -> Answer<proto::ScheduleMaintenanceResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ScheduleMaintenanceResponse {}))
    }

    async fn cancel_maintenance(
        &self,
        request: Request<proto::CancelMaintenanceRequest>,
    ) -> Answer<proto::CancelMaintenanceResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::CancelMaintenanceResponse {}))
    }

    async fn list_maintenance(
        &self,
        _: Request<proto::ListMaintenanceRequest>,
    ) -> Answer<proto::ListMaintenanceResponse> {
        Ok(Response::new(proto::ListMaintenanceResponse::default()))
    }

    async fn change_pools(
        &self,
        request: Request<proto::ChangePoolsRequest>,
    ) -> Answer<proto::ChangePoolsResponse> {
        self.note(request.into_inner());
        Ok(Response::new(proto::ChangePoolsResponse {}))
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Answer<proto::ListVolumesResponse> {
        self.note(request.into_inner());
        let volume = proto::PersistentVolume {
            volume_id: "orders".into(),
            ..Default::default()
        };
        Ok(Response::new(proto::ListVolumesResponse {
            volumes: vec![proto::VolumeOnAgent {
                agent_id: "agent-1".into(),
                hostname: "n1".into(),
                volume: Some(volume),
                ..Default::default()
            }],
            ..Default::default()
        }))
    }
}
