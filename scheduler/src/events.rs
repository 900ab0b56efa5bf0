//! What happens, told as it happens: Marathon's events, kept for a while so that a reader who was cut off misses none.
//!
//! ```text
//! core (pure) ──Event──► driver, after the commit ──► Hub ──► Ring (bounded) ◄── a cursor per reader (`http::events`)
//! ```
//!
//! [`event`] (pure) says what there is to tell, `json` (pure) writes it as Marathon does, [`ring`] (pure) keeps the
//! latest with an id each. `hub` is the edge: it wakes readers. A reader has no queue of its own, only a place in
//! the ring; one that falls behind by more than the ring holds is cut off and comes back with its last id.

pub mod event;
pub(crate) mod hub;
pub(crate) mod json;
pub mod ring;

pub use event::{EVENT_TYPES, Event, EventKind, Origin};
pub(crate) use json::condition;
pub use json::to_json;
