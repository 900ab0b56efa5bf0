//! NodeService: this machine asked directly. Thin: questions go to the owner and the runtime; `log` reads logs, `exec`
//! carries sessions, `attach` what is typed on a task's terminal, `copy` moves files, `stats` tells what tasks use, `update` changes limits.

mod attach;
mod copy;
mod exec;
mod log;
mod stats;
mod update;

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use mezzo_api::{
    model::{AgentInfo, TaskUsage},
    proto::{self, node_service_server::NodeService},
};
use tokio::sync::{Semaphore, oneshot};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    actor::{Command, Found, Handle, Stopped},
    node::Runtime,
    stats::Stats,
};

/// The service.
pub(crate) struct NodeApi {
    pub(crate) handle: Handle,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) info: AgentInfo,
    pub(crate) stats: Stats,
    pub(crate) capacity: proto::Capacity,
    pub(crate) copies: Arc<Semaphore>,
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

    async fn find_running(&self, task_id: &str) -> Result<Found, Status> {
        let found = self.find(task_id).await?;
        if found.alive {
            return Ok(found);
        }
        let state = if found.ended {
            "has ended"
        } else {
            "is not running yet"
        };
        Err(Status::failed_precondition(format!(
            "task {task_id:?} {state}"
        )))
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
            capacity: Some(self.capacity),
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

    async fn get_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Result<Response<proto::StatsRound>, Status> {
        let request = request.into_inner();
        stats::check(&request)?;
        let node = self.handle.ask(Command::NodeUsage).await?;
        Ok(Response::new(stats::round(&self.stats, &request, node)))
    }

    type WatchStatsStream = Answers<proto::StatsRound>;

    async fn watch_stats(
        &self,
        request: Request<proto::GetStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let request = request.into_inner();
        stats::check(&request)?;
        Ok(Response::new(stats::watch(
            self.handle.clone(),
            self.stats.clone(),
            request,
        )))
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

    type AttachStream = Answers<proto::LogChunk>;

    async fn attach(
        &self,
        request: Request<Streaming<proto::AttachInput>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut input = request.into_inner();
        let start = attach::first(&mut input).await?;
        let found = self.find_running(&start.task_id).await?;
        let terminal = attach::terminal(self.runtime.as_ref(), &found.container)?;
        let (begun, reading) = oneshot::channel();
        let output = log::read_terminal(
            self.handle.clone(),
            Arc::clone(&self.runtime),
            found.container,
            start.task_id.clone(),
            begun,
        );
        let typing = attach::Typing {
            terminal,
            start,
            input,
            reading,
        };
        Ok(Response::new(typing.beside(output)))
    }

    type CopyFromStream = Answers<proto::CopyFromPart>;

    async fn copy_from(
        &self,
        request: Request<proto::CopyFromRequest>,
    ) -> Result<Response<Self::CopyFromStream>, Status> {
        let request = request.into_inner();
        let found = self.find_running(&request.task_id).await?;
        let place = copy::place(&self.copies)?;
        let (root, _) = copy::root(self.runtime.as_ref(), &found.container)?;
        Ok(Response::new(copy::read(root, request.path, place)))
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<proto::CopyToPart>>,
    ) -> Result<Response<proto::Copied>, Status> {
        let mut parts = request.into_inner();
        let start = copy::first(&mut parts).await?;
        let found = self.find_running(&start.task_id).await?;
        let place = copy::place(&self.copies)?;
        let root = copy::root(self.runtime.as_ref(), &found.container)?;
        let copied = copy::write(root, start.path, parts).await;
        drop(place);
        copied.map(Response::new)
    }

    type ExecStream = Answers<proto::ExecOutput>;

    async fn exec(
        &self,
        request: Request<Streaming<proto::ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        let start = exec::first(&mut input).await?;
        let found = self.find_running(&start.task_id).await?;
        Ok(Response::new(
            exec::open(self.runtime.as_ref(), &found.container, start, input).await?,
        ))
    }
}
