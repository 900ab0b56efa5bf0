//! How messages become bytes on a stream: protobuf as ever, with buffers for many quiet streams rather than a few loud ones.
//!
//! gRPC's usual buffers are 8 KiB in each direction of each call. A master holds a stream for every agent, and on nearly all of
//! them nothing passes but a ping: here a stream that says little holds little. What is large still goes in pieces of up to
//! 32 KiB, and what waits together goes together.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Room that is made at least, in bytes: for one message to a framework or an agent, most of which are smaller.
const OUTGOING: usize = 1024;
/// The same of what arrives, which comes in frames whose size is known.
const INCOMING: usize = 0;
/// Messages that are ready are gathered up to so many bytes.
const PIECE: usize = 32 << 10;

/// What the generated clients and servers use.
#[derive(Debug, Clone)]
pub struct ThriftyCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ThriftyCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ThriftyCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(OUTGOING, PIECE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(INCOMING, PIECE))
    }
}
