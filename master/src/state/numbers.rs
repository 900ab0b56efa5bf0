//! Ids in order, and chance that is none, for tests.

use mezzo_api::model::{AgentId, FrameworkId, OfferId, OperationId, StreamId};

use super::Source;

#[derive(Debug, Default)]
pub(crate) struct Numbers(u64);

impl Numbers {
    fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self) -> T {
        self.0 += 1;
        format!("n{:04}", self.0).parse().unwrap()
    }
}

impl Source for Numbers {
    fn agent_id(&mut self) -> AgentId {
        self.id()
    }
    fn framework_id(&mut self) -> FrameworkId {
        self.id()
    }
    fn offer_id(&mut self) -> OfferId {
        self.id()
    }
    fn stream_id(&mut self) -> StreamId {
        self.id()
    }
    fn operation_id(&mut self) -> OperationId {
        self.id()
    }
    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
    }
}
