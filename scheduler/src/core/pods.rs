//! Commands that are about pods alone; whatever else can be asked of one is asked as of an app.
//!
//! Pure.

use serde_json::Value;

use super::command::{Refusal, Reply};
use super::order::{Order, Target};
use super::{Core, Ids};
use crate::app::{AppId, parse_pod};

impl Core {
    /// Makes a pod that is there what `body` says, as a whole. `how`: over deployments under way, and only to say what
    /// would be done.
    pub(super) fn update_pod(
        &mut self,
        pod: &AppId,
        body: &Value,
        how: (bool, bool),
        now: u64,
        ids: &mut dyn Ids,
    ) -> Result<Reply, Refusal> {
        if self.state.pod(pod).is_none() {
            return Err(Refusal::NoPod(pod.clone()));
        }
        let (to, report) = parse_pod(&self.with_role(body, Some(pod)), Some(pod));
        let Some(to) = to else {
            return Err(Refusal::Invalid(report));
        };
        let (force, dry_run) = how;
        let order = Order {
            unknown: report.unknown,
            dry_run,
            ..Order::of(vec![Target::app(to)], force)
        };
        self.deploy(order, now, ids)
    }
}
