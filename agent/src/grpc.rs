//! NodeService: this machine asked directly. Thin: questions go to the owner and the runtime; `log` reads logs, `exec`
//! carries sessions, `update` changes limits.

mod exec;
mod log;
mod update;

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use mezzo_api::{
    model::{AgentInfo, TaskUsage},
    proto::{self, node_service_server::NodeService},
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    actor::{Command, Found, Handle, Stopped},
    node::Runtime,
};

/// The service.
pub(crate) struct NodeApi {
    pub(crate) handle: Handle,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) info: AgentInfo,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        Self::unavailable(stopped.to_string())
    }
}

impl NodeApi {
    async fn find(&self, task_id: &str) -> Result<Found, Status> {
        let id = task_id.to_owned();
        self.handle
            .ask(|reply| Command::Find(id, reply))
            .await?
            .ok_or_else(|| Status::not_found(format!("no task {task_id:?} on this machine")))
    }
}

#[tonic::async_trait]
impl NodeService for NodeApi {
    async fn get_node(
        &self,
        _: Request<proto::GetNodeRequest>,
    ) -> Result<Response<proto::Node>, Status> {
        let view = self.handle.ask(Command::View).await?;
        Ok(Response::new(proto::Node {
            agent_id: view.agent_id.map(Into::into).unwrap_or_default(),
            info: Some(self.info.clone().into()),
            connected_to_master: view.connected,
            available: view.available.into(),
            tasks: view.tasks.into_iter().map(Into::into).collect(),
            usage: view.usage.map(Into::into),
        }))
    }

    async fn get_usage(
        &self,
        request: Request<proto::GetUsageRequest>,
    ) -> Result<Response<proto::GetUsageResponse>, Status> {
        let wanted = request.into_inner().task_ids;
        let alive = self.handle.ask(Command::Alive).await?;
        let mut tasks = Vec::new();
        for target in alive {
            if !wanted.is_empty() && !wanted.iter().any(|id| id == target.key.task.as_str()) {
                continue;
            }
            // One that ended just now is no error of the others.
            if let Ok(usage) = self.runtime.usage(&target.container).await {
                let usage = TaskUsage {
                    framework_id: target.key.framework,
                    task_id: target.key.task,
                    usage,
                };
                tasks.push(usage.into());
            }
        }
        Ok(Response::new(proto::GetUsageResponse { tasks }))
    }

    async fn update_task(
        &self,
        request: Request<proto::UpdateTaskRequest>,
    ) -> Result<Response<proto::UpdateTaskResponse>, Status> {
        update::update(&self.handle, request.into_inner())
            .await
            .map(Response::new)
    }

    type ReadLogStream = Answers<proto::LogChunk>;

    async fn read_log(
        &self,
        request: Request<proto::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let request = request.into_inner();
        let found = self.find(&request.task_id).await?;
        Ok(Response::new(log::read(
            self.handle.clone(),
            Arc::clone(&self.runtime),
            found.container,
            request,
        )))
    }

    type ExecStream = Answers<proto::ExecOutput>;

    async fn exec(
        &self,
        request: Request<Streaming<proto::ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        let start = exec::first(&mut input).await?;
        let found = self.find(&start.task_id).await?;
        if !found.alive {
            let state = if found.ended {
                "has ended"
            } else {
                "is not running yet"
            };
            return Err(Status::failed_precondition(format!(
                "task {:?} {state}",
                start.task_id
            )));
        }
        Ok(Response::new(
            exec::open(self.runtime.as_ref(), &found.container, start, input).await?,
        ))
    }
}
