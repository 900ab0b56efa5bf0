//! The API of mezzo: protobuf `mezzo.v1` and the checked types behind it.
//!
//! [`proto`] is generated. [`model`] holds what the rest of the workspace works with: ids, exact resources, tasks,
//! offers, statuses; pure data, no I/O. [`convert`] stands between them: everything from the wire is checked there
//! once, and every problem is named with its field. [`masters`]: how a master names the one that leads, and how it is
//! found; [`credential`]: what a client shows to it; [`table`]: how servers share their state with readers; [`codec`]:
//! how much room a stream's buffers take;
//! [`gather`]: how the messages of many streams leave together.

pub mod codec;
pub mod convert;
pub mod credential;
pub mod gather;
pub mod masters;
pub mod model;
pub mod proto;
pub mod table;
