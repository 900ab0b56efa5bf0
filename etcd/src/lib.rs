//! What several servers of one kind need to be one: a client of etcd, and the election of a leader in it.
//!
//! [`Address`] names etcd and a prefix in it. [`Client`] makes the few calls that are needed, each with a deadline, and
//! goes on to another member when one does not answer. [`election`] decides who leads, by a lease: its core is pure, a
//! thin shell around it talks to etcd, and a [`Candidacy`] is one server's part in it. [`Fence`] tells a leader whether it may still act. [`Ledger`] is what a leader writes
//! there, all or nothing, and none but the leader. What was overwritten long ago the leader makes etcd forget. What is
//! stored, and who is elected for what, this crate does not know.
//!
//! The stubs come from a small part of etcd's own protobuf, compiled as our own API is. The crate `etcd-client` needs a
//! `protoc` on each machine that builds it, and leaves to chance which member is asked next.
#![forbid(unsafe_code)]

mod address;
mod candidacy;
mod client;
mod compaction;
pub mod election;
mod fence;
mod ledger;
mod place;

/// Generated from `proto/etcd.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::wildcard_enum_match_arm,
    reason = "generated"
)]
pub mod proto {
    tonic::include_proto!("etcdserverpb");
}

pub use address::{Address, InvalidAddress};
pub use candidacy::Candidacy;
pub use client::{Client, Error, prefix_end};
pub use fence::{Fence, now};
pub use ledger::{Ledger, LedgerError, Rows, Writes};
pub use place::{InvalidStore, StoreAddress};
