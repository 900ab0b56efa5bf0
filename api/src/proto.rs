//! The generated messages, clients and servers of `proto/mezzo/v1`. Nothing is written by hand here, and of the messages two
//! elsewhere (`convert::{Launch, ListTasksResponse}`); servers and clients convert at their border through `convert` and work on
//! `model` inside.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code; its documentation stands in the .proto files"
)]

tonic::include_proto!("mezzo.v1");

pub use crate::convert::{Launch, ListTasksResponse};

/// The encoded `FileDescriptorSet` of the API, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mezzo.v1.bin"));
