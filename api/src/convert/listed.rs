//! A page of a master's tasks, written from what the master keeps: no message is made of each task in between.
//!
//! A master lists tasks by the hundred thousand beside the launches of others. A [`proto::Task`] of each would be some twenty
//! texts and lists, copied to be encoded and dropped at once; here they go straight from the books to the wire. Protobuf lets
//! fields stand in any order, and a part that is kept encoded is a part of the message as it is.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};

use super::{Description, common, health};
use crate::{
    model::{FrameworkId, Resources, RoleName, TaskStatus, Value},
    proto,
};

/// `mezzo.v1.ListTasksResponse`, as generated but for what is encoded already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListTasksResponse {
    /// Of the page.
    pub tasks: Vec<proto::Task>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// More of the page, behind the others. Whoever reads the answer finds them among `tasks`.
    pub encoded: EncodedTasks,
}

const TASKS: u32 = 1;
const NEXT_PAGE_TOKEN: u32 = 2;

impl Message for ListTasksResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::message::encode_repeated(TASKS, &self.tasks, buf);
        buf.put_slice(&self.encoded.0);
        if !self.next_page_token.is_empty() {
            encoding::string::encode(NEXT_PAGE_TOKEN, &self.next_page_token, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let (field, merged) = match tag {
            TASKS => (
                "tasks",
                encoding::message::merge_repeated(wire_type, &mut self.tasks, buf, context),
            ),
            NEXT_PAGE_TOKEN => (
                "next_page_token",
                encoding::string::merge(wire_type, &mut self.next_page_token, buf, context),
            ),
            _ => return encoding::skip_field(wire_type, tag, buf, context),
        };
        merged.map_err(|mut error| {
            error.push("ListTasksResponse", field);
            error
        })
    }

    fn encoded_len(&self) -> usize {
        let token = match self.next_page_token.is_empty() {
            true => 0,
            false => encoding::string::encoded_len(NEXT_PAGE_TOKEN, &self.next_page_token),
        };
        encoding::message::encoded_len_repeated(TASKS, &self.tasks) + self.encoded.0.len() + token
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Tasks of a page as they are on the wire. Made by a [`TaskWriter`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedTasks(Vec<u8>);

/// A task as whoever keeps it has it.
#[derive(Debug, Clone, Copy)]
pub struct ListedTask<'a> {
    /// What was asked for.
    pub info: &'a Description,
    /// By whom.
    pub framework_id: &'a FrameworkId,
    /// The role of the offer.
    pub role: &'a RoleName,
    /// The latest.
    pub status: &'a TaskStatus,
    /// When it reached `TASK_RUNNING`, Unix milliseconds.
    pub started_at_ms: Option<u64>,
}

/// Writes tasks one behind the other.
#[derive(Debug, Default)]
pub struct TaskWriter {
    page: Vec<u8>,
    /// The task at hand.
    task: Vec<u8>,
    /// A message in it.
    part: Vec<u8>,
}

impl TaskWriter {
    /// Writes one more. Its fields are those of `proto::Task`.
    pub fn push(&mut self, task: ListedTask<'_>) {
        let ListedTask {
            info,
            framework_id,
            role,
            status,
            started_at_ms,
        } = task;
        let Self { page, task, part } = self;
        task.clear();
        part.clear();
        info.write(part);
        nested(1, part, task);
        text(2, framework_id.as_str(), task);
        text(3, role.as_str(), task);
        part.clear();
        write_status(status, part);
        nested(4, part, task);
        if let Some(at) = started_at_ms {
            encoding::uint64::encode(5, &at, task);
        }
        nested(TASKS, task, page);
    }

    /// All of them.
    #[must_use]
    pub fn finish(self) -> EncodedTasks {
        EncodedTasks(self.page)
    }
}

impl Description {
    /// The fields of `proto::TaskInfo`.
    fn write(&self, into: &mut Vec<u8>) {
        text(1, self.task_id.as_str(), into);
        text(3, self.agent_id.as_str(), into);
        write_resources(4, &self.resources, into);
        into.extend_from_slice(&self.rest);
    }
}

/// The fields of `proto::TaskStatus`: the ids, which every one has, as they are, what few have as messages.
fn write_status(status: &TaskStatus, into: &mut Vec<u8>) {
    // All by name: a field that is new must be thought of here.
    let TaskStatus {
        task_id,
        framework_id,
        agent_id,
        state,
        reason,
        source,
        message,
        timestamp_ms,
        update_id,
        healthy,
        health_results,
        container,
        exit,
        usage,
        readiness,
        check_result,
    } = status;
    text(1, task_id.as_str(), into);
    text(2, framework_id.as_str(), into);
    text(3, agent_id.as_ref().map_or("", |id| id.as_str()), into);
    text(7, message, into);
    text(9, update_id.as_ref().map_or("", |id| id.as_str()), into);
    let reason = reason.map_or(proto::Reason::Unspecified, Into::into);
    let rest = proto::TaskStatus {
        task_id: String::new(),
        framework_id: String::new(),
        agent_id: String::new(),
        state: proto::TaskState::from(*state).into(),
        reason: reason.into(),
        source: proto::StatusSource::from(*source).into(),
        message: String::new(),
        timestamp_ms: *timestamp_ms,
        update_id: String::new(),
        healthy: *healthy,
        health_results: health::results(health_results),
        container: container.as_deref().cloned().map(Into::into),
        exit: exit.as_deref().cloned().map(Into::into),
        usage: usage.clone().map(|usage| Box::new((*usage).into())),
        readiness: readiness.as_deref().cloned().map(Into::into),
        check_result: check_result.as_deref().cloned().map(Into::into),
    };
    rest.encode_raw(into);
}

fn write_resources(tag: u32, resources: &Resources, into: &mut Vec<u8>) {
    for (name, value) in resources.iter() {
        match value {
            Value::Scalar(scalar) => {
                // Resource { name = 1, scalar = 2 { millis = 1 } }
                let millis = encoding::int64::encoded_len(1, &scalar.millis());
                let named = 1 + encoding::encoded_len_varint(name.len() as u64) + name.len();
                let valued = 1 + encoding::encoded_len_varint(millis as u64) + millis;
                encoding::encode_key(tag, WireType::LengthDelimited, into);
                encoding::encode_varint((named + valued) as u64, into);
                nested(1, name.as_bytes(), into);
                encoding::encode_key(2, WireType::LengthDelimited, into);
                encoding::encode_varint(millis as u64, into);
                encoding::int64::encode(1, &scalar.millis(), into);
            }
            Value::Ranges(_) | Value::Set(_) => {
                encoding::message::encode(tag, &common::resource(name, value), into);
            }
        }
    }
}

/// A text field; empty, it is none.
fn text(tag: u32, text: &str, into: &mut Vec<u8>) {
    if !text.is_empty() {
        nested(tag, text.as_bytes(), into);
    }
}

fn nested(tag: u32, bytes: &[u8], into: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, into);
    encoding::encode_varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Task;

    /// With something in nearly every field.
    fn task() -> proto::Task {
        let info = proto::TaskInfo {
            task_id: "web.1".into(),
            name: "web".into(),
            agent_id: "a".into(),
            resources: (&"cpus:0.5;mem:64;ports:[31000-31001,31005-31005];licences:{x,y}"
                .parse::<Resources>()
                .unwrap())
                .into(),
            pids_limit: Some(7),
            container: Some(proto::ContainerInfo {
                image: "web:3".into(),
                network: proto::NetworkMode::Host.into(),
                args: vec!["--serve".into()],
                ..Default::default()
            }),
            labels: [("team".to_owned(), "web".to_owned())].into(),
            data: vec![0, 255],
            ..Default::default()
        };
        let status = proto::TaskStatus {
            task_id: "web.1".into(),
            framework_id: "f".into(),
            agent_id: "a".into(),
            state: proto::TaskState::TaskFailed.into(),
            reason: proto::Reason::CommandExited.into(),
            source: proto::StatusSource::Agent.into(),
            message: "it went wrong".into(),
            timestamp_ms: 1 << 40,
            update_id: "u".into(),
            healthy: Some(false),
            health_results: vec![
                proto::HealthResult { healthy: None },
                proto::HealthResult {
                    healthy: Some(false),
                },
            ],
            container: Some(proto::ContainerStatus {
                container_id: "c".into(),
                pid: 4711,
                ip_addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
                ..Default::default()
            }),
            exit: Some(proto::ExitInfo {
                how: Some(proto::exit_info::How::Code(3)),
                ..Default::default()
            }),
            usage: Some(Box::default()),
            readiness: None,
            check_result: Some(proto::CheckResult {
                found: Some(proto::check_result::Found::HttpStatus(503)),
                problem: String::new(),
            }),
        };
        proto::Task {
            info: Some(Box::new(info)),
            framework_id: "f".into(),
            role: "eng/web".into(),
            status: Some(status),
            started_at_ms: Some(5),
        }
    }

    fn write(task: Task, into: &mut TaskWriter) {
        let Task {
            info,
            framework_id,
            role,
            status,
            started_at_ms,
        } = task;
        into.push(ListedTask {
            info: &info.into(),
            framework_id: &framework_id,
            role: &role,
            status: &status,
            started_at_ms,
        });
    }

    #[test]
    fn what_is_written_reads_as_if_it_were_generated() {
        let plain = proto::Task {
            info: Some(Box::new(proto::TaskInfo {
                task_id: "t".into(),
                agent_id: "a".into(),
                container: Some(proto::ContainerInfo {
                    image: "sleep:1".into(),
                    ..Default::default()
                }),
                ..Default::default()
            })),
            framework_id: "f".into(),
            role: "*".into(),
            status: Some(proto::TaskStatus {
                task_id: "t".into(),
                framework_id: "f".into(),
                state: proto::TaskState::TaskStaging.into(),
                source: proto::StatusSource::Master.into(),
                ..Default::default()
            }),
            started_at_ms: None,
        };
        let (mut writer, mut wanted) = (TaskWriter::default(), Vec::new());
        for wire in [task(), plain, task()] {
            let task = Task::try_from(wire).unwrap();
            wanted.push(proto::Task::from(task.clone()));
            write(task, &mut writer);
        }
        let page = ListTasksResponse {
            tasks: vec![wanted[1].clone()],
            next_page_token: "next".into(),
            encoded: writer.finish(),
        };
        let bytes = page.encode_to_vec();
        assert_eq!(bytes.len(), page.encoded_len());
        let read = ListTasksResponse::decode(&*bytes).unwrap();
        wanted.insert(0, wanted[1].clone());
        assert_eq!(read.tasks, wanted);
        assert_eq!(read.next_page_token, "next");
        assert_eq!(read.encoded, EncodedTasks::default());
    }

    #[test]
    fn what_is_no_page_is_refused_by_field_and_what_is_newer_passed_over() {
        let error = ListTasksResponse::decode(&[0x0a, 0x02, 0x0a][..]).unwrap_err();
        assert!(
            error.to_string().contains("ListTasksResponse.tasks"),
            "{error}"
        );
        // Field 99, a varint.
        let newer = [0x98, 0x06, 0x01];
        assert_eq!(
            ListTasksResponse::decode(&newer[..]).unwrap(),
            ListTasksResponse::default()
        );
    }
}
