//! Apps as people describe them: Marathon's AppDefinition, read from JSON, checked, and written back.
//!
//! [`spec`] has the checked type, [`parse`] makes it from JSON and collects every problem, [`json`] writes it, [`mod@merge`]
//! overlays an update, [`check`], [`confinement`], [`constraint`], [`readiness`], [`residency`], [`role`] and [`pod`] are parts of it, [`version`] one entry of an app's history. All pure.

pub mod check;
pub mod confinement;
pub mod constraint;
pub mod id;
pub mod json;
pub mod merge;
pub mod parse;
pub mod pod;
pub mod read;
pub mod readiness;
pub mod residency;
pub mod role;
pub mod spec;
pub mod version;

pub use id::{AppId, InvalidAppId};
pub use merge::merge;
pub(crate) use parse::{
    Volumes, confinement as read_confinement, dependencies, fetch, memory, secrets, volumes,
};
pub use parse::{
    check_app_json, check_pod_json, is_pod_json, parse_app, parse_app_or_pod, parse_pod,
};
pub(crate) use read::nearest;
pub use read::{Problem, ProblemKind, Report, Unknown};
pub use spec::App;
pub use version::AppVersion;
