//! How an agent's messages become bytes: a registration holds descriptions as they came, encoded.
//!
//! Tens of thousands of agents that all register with a new master are to cost it time, and not the fleet beside it: what is
//! a `TaskInfo` on the wire is kept, and sent, as its bytes.

use mezzo_api::{
    codec::ThriftyCodec,
    proto::{self, AgentMessage, MasterMessage},
};
use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut, Bytes},
    encoding::{DecodeContext, WireType},
};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    codegen::{Body as AnyBody, Bytes as Piece, StdError, http::uri::PathAndQuery},
};

use tokio_stream::Stream;

/// Registrations with a thousand tasks are larger than gRPC's usual 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;

/// `mezzo.v1.AgentMessage`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outgoing {
    /// The first of a stream.
    Register(Attachment),
    /// Any other.
    Message(AgentMessage),
}

/// `mezzo.v1.AgentMessage` with a `register` in it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attachment {
    #[prost(message, optional, tag = "1")]
    pub(crate) register: Option<Register>,
}

/// `mezzo.v1.AgentMessage.Register`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Register {
    #[prost(string, tag = "1")]
    pub(crate) agent_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) info: Option<proto::AgentInfo>,
    #[prost(string, tag = "3")]
    pub(crate) boot_id: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) tasks: Vec<Task>,
}

/// `mezzo.v1.Task`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Task {
    /// An encoded `mezzo.v1.TaskInfo`.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) info: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) framework_id: String,
    #[prost(string, tag = "3")]
    pub(crate) role: String,
    #[prost(message, optional, tag = "4")]
    pub(crate) status: Option<proto::TaskStatus>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) started_at_ms: Option<u64>,
}

/// What a simulated agent wants to know of a `mezzo.v1.TaskInfo`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Wanted {
    #[prost(string, tag = "1")]
    pub(crate) task_id: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) resources: Vec<proto::Resource>,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::Message(AgentMessage::default())
    }
}

impl From<AgentMessage> for Outgoing {
    fn from(message: AgentMessage) -> Self {
        Self::Message(message)
    }
}

impl Message for Outgoing {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Register(attachment) => attachment.encode_raw(buf),
            Self::Message(message) => message.encode_raw(buf),
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match self {
            Self::Register(attachment) => attachment.merge_field(tag, wire_type, buf, context),
            Self::Message(message) => message.merge_field(tag, wire_type, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Register(attachment) => attachment.encoded_len(),
            Self::Message(message) => message.encoded_len(),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Opens a stream, as the generated client does.
pub(crate) async fn attach<T>(
    channel: T,
    outgoing: impl Stream<Item = Outgoing> + Send + 'static,
) -> Result<Response<Streaming<MasterMessage>>, Status>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: AnyBody<Data = Piece> + Send + 'static,
    <T::ResponseBody as AnyBody>::Error: Into<StdError> + Send,
{
    let mut client = Grpc::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(format!("the master is away: {}", error.into())))?;
    let path = PathAndQuery::from_static("/mezzo.v1.AgentService/Attach");
    let codec = ThriftyCodec::<Outgoing, MasterMessage>::default();
    client.streaming(Request::new(outgoing), path, codec).await
}
