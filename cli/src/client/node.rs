//! Calls to one machine's agent: its tasks' usage, logs and sessions.

use mezzo_api::proto::{self, node_service_client::NodeServiceClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{LARGEST_MESSAGE, channel, refused};
use crate::failure::Failure;

const HINT: &str = "is the agent of that machine running, and may this machine connect to it?";

/// A connection to an agent.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    address: String,
    client: NodeServiceClient<Channel>,
}

impl Node {
    pub(crate) async fn connect(address: &str) -> Result<Self, Failure> {
        if address.is_empty() {
            return Err(Failure::failed(
                "the master does not know the address of the task's agent",
            ));
        }
        let channel = channel("agent", address, HINT).await?;
        let client = NodeServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        Ok(Self {
            address: address.to_owned(),
            client,
        })
    }

    /// A failure of a call or in the middle of a stream.
    pub(crate) fn refused(&self, status: &tonic::Status) -> Failure {
        refused("agent", &self.address, status)
    }

    /// The machine as its agent sees it.
    pub(crate) async fn describe(&mut self) -> Result<proto::Node, Failure> {
        let answer = self.client.get_node(proto::GetNodeRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// A fresh sample of one task; none when the agent has none.
    pub(crate) async fn usage(&mut self, task_id: &str) -> Result<Option<proto::Usage>, Failure> {
        let request = proto::GetUsageRequest {
            task_ids: vec![task_id.to_owned()],
        };
        let answer = self
            .client
            .get_usage(request)
            .await
            .map_err(|status| self.refused(&status))?;
        Ok(answer
            .into_inner()
            .tasks
            .into_iter()
            .find(|task| task.task_id == task_id)
            .and_then(|task| task.usage))
    }

    /// What its tasks use, as last sampled.
    pub(crate) async fn stats(
        &mut self,
        request: proto::GetStatsRequest,
    ) -> Result<proto::StatsRound, Failure> {
        let answer = self.client.get_stats(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// The same after every round of samples.
    pub(crate) async fn watch_stats(
        &mut self,
        request: proto::GetStatsRequest,
    ) -> Result<Streaming<proto::StatsRound>, Failure> {
        let answer = self.client.watch_stats(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// Changes limits; the task as it is afterwards.
    pub(crate) async fn update_task(
        &mut self,
        request: proto::UpdateTaskRequest,
    ) -> Result<proto::Task, Failure> {
        let answer = self.client.update_task(request).await;
        answer
            .map(|answer| answer.into_inner().task.unwrap_or_default())
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn log(
        &mut self,
        request: proto::ReadLogRequest,
    ) -> Result<Streaming<proto::LogChunk>, Failure> {
        let answer = self.client.read_log(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// Files out of a container.
    pub(crate) async fn copy_from(
        &mut self,
        request: proto::CopyFromRequest,
    ) -> Result<Streaming<proto::CopyFromPart>, Failure> {
        let answer = self.client.copy_from(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    /// Files into a container.
    pub(crate) async fn copy_to(
        &mut self,
        parts: mpsc::Receiver<proto::CopyToPart>,
    ) -> Result<proto::Copied, Failure> {
        let answer = self.client.copy_to(ReceiverStream::new(parts)).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn attach(
        &mut self,
        input: mpsc::Receiver<proto::AttachInput>,
    ) -> Result<Streaming<proto::LogChunk>, Failure> {
        let answer = self.client.attach(ReceiverStream::new(input)).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }

    pub(crate) async fn exec(
        &mut self,
        input: mpsc::Receiver<proto::ExecInput>,
    ) -> Result<Streaming<proto::ExecOutput>, Failure> {
        let answer = self.client.exec(ReceiverStream::new(input)).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(&status))
    }
}
