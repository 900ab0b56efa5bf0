//! UpdateTask: read, handed to the owner, and its answer as a gRPC status.

use mezzo_api::{
    model::{FrameworkId, LimitChange},
    proto,
};
use tonic::Status;

use crate::{
    actor::{Command, Handle},
    task::change::Refused,
};

pub(super) async fn update(
    handle: &Handle,
    request: proto::UpdateTaskRequest,
) -> Result<proto::UpdateTaskResponse, Status> {
    let task = request.task_id.clone();
    let framework: Option<FrameworkId> = match request.framework_id.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error| Status::invalid_argument(format!("framework_id: {error}")))?,
        ),
    };
    let change = Box::new(LimitChange::try_from(request)?);
    let answer = handle
        .ask(|reply| Command::Change {
            framework,
            task: task.clone(),
            change,
            reply,
        })
        .await?;
    match answer {
        Ok(task) => Ok(proto::UpdateTaskResponse {
            task: Some((*task).into()),
        }),
        Err(refused) => Err(status(&task, &refused)),
    }
}

fn status(task: &str, refused: &Refused) -> Status {
    let message = format!("task {task:?}: {refused}");
    match refused {
        Refused::NotFound => Status::not_found(message),
        Refused::NotRunning(_) => Status::failed_precondition(message),
        Refused::Busy => Status::aborted(message),
        Refused::Invalid(_) => Status::invalid_argument(message),
        Refused::Failed(_) => Status::internal(message),
    }
}
