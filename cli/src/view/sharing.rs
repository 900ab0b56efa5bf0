//! Why a framework gets the offers that it gets, as a program reads it.

use mezzo_api::proto;
use serde::Serialize;

use super::Framework;

/// Of one framework.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Explanation {
    pub(crate) framework: String,
    pub(crate) id: String,
    pub(crate) connected: bool,
    pub(crate) roles: Vec<RoleExplanation>,
}

/// In one of its roles.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct RoleExplanation {
    pub(crate) role: String,
    pub(crate) suppressed: bool,
    pub(crate) reasons: Vec<String>,
    pub(crate) passes: Vec<Pass>,
}

/// What one pass of the master over all agents had, and what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pass {
    pub(crate) at_ms: u64,
    pub(crate) agents: u32,
    pub(crate) offered: u32,
    pub(crate) declined: u32,
    pub(crate) unfit: u32,
    pub(crate) too_little: u32,
    pub(crate) over_limit: u32,
    pub(crate) kept_for_others: u32,
    pub(crate) reserved_for_others: u32,
}

impl Explanation {
    pub(crate) fn new(framework: &Framework, told: &proto::ExplainFrameworkResponse) -> Self {
        Self {
            framework: framework.name.clone(),
            id: framework.id.clone(),
            connected: told.connected,
            roles: told.roles.iter().map(RoleExplanation::from).collect(),
        }
    }
}

impl From<&proto::RoleExplanation> for RoleExplanation {
    fn from(role: &proto::RoleExplanation) -> Self {
        let pass = |pass: &proto::PassRecord| Pass {
            at_ms: pass.at_ms,
            agents: pass.agents,
            offered: pass.offered,
            declined: pass.declined,
            unfit: pass.unfit,
            too_little: pass.too_little,
            over_limit: pass.over_limit,
            kept_for_others: pass.kept_for_others,
            reserved_for_others: pass.reserved_for_others,
        };
        Self {
            role: role.role.clone(),
            suppressed: role.suppressed,
            reasons: role.reasons.clone(),
            passes: role.passes.iter().map(pass).collect(),
        }
    }
}
