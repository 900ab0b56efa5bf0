//! Roles, quotas and the reasons for offers, as operators read and write them.

use std::collections::BTreeMap;

use mezzo_api::{
    model::{Resources, RoleName, Scalar},
    proto,
};
use tonic::Status;

use super::status::{bounded, invalid, parse, storable};
use crate::{
    allocator::{DEFAULT_WEIGHT_MILLIS, PassRecord, Quota, Share},
    state::{FrameworkView, Operation, RoleView, Snapshot},
};

/// In one call.
const MOST_QUOTAS: usize = 10_000;

/// Of one quota.
const MOST_AMOUNTS: usize = 64;

/// Checks a wish for other quotas.
pub(super) fn quotas(request: proto::UpdateQuotasRequest) -> Result<Operation, Status> {
    bounded("quotas", request.quotas.len(), MOST_QUOTAS)?;
    let mut quotas: BTreeMap<RoleName, Quota> = BTreeMap::new();
    for (i, quota) in request.quotas.into_iter().enumerate() {
        let role: RoleName = parse(&format!("quotas[{i}].role"), quota.role)?;
        let checked = Quota {
            guarantees: amounts(&format!("quotas[{i}].guarantees"), quota.guarantees)?,
            limits: amounts(&format!("quotas[{i}].limits"), quota.limits)?,
        };
        storable(&format!("quotas[{i}]"), &checked)?;
        if quotas.insert(role.clone(), checked).is_some() {
            return Err(invalid(
                &format!("quotas[{i}].role"),
                format!("{role} stands twice"),
            ));
        }
    }
    Ok(Operation::UpdateQuotas {
        quotas: quotas.into_iter().collect(),
        force: request.force,
    })
}

/// Scalars by name; zero counts, unlike in resources.
fn amounts(
    field: &str,
    resources: Vec<proto::Resource>,
) -> Result<BTreeMap<String, Scalar>, Status> {
    bounded(field, resources.len(), MOST_AMOUNTS)?;
    let mut amounts = BTreeMap::new();
    for (i, resource) in resources.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        let Some(proto::resource::Value::Scalar(scalar)) = resource.value else {
            return Err(invalid(&field, "only scalars can have a quota"));
        };
        let name = resource.name.clone();
        Resources::try_from(vec![resource]).map_err(|problem| problem.within(&field))?;
        if amounts.insert(name.clone(), scalar.into()).is_some() {
            return Err(invalid(&field, format!("{name} stands twice")));
        }
    }
    Ok(amounts)
}

fn told(amounts: &BTreeMap<String, Scalar>) -> Vec<proto::Resource> {
    amounts
        .iter()
        .map(|(name, amount)| proto::Resource {
            name: name.clone(),
            value: Some(proto::resource::Value::Scalar((*amount).into())),
        })
        .collect()
}

pub(super) fn role(view: &RoleView, snapshot: &Snapshot) -> proto::Role {
    proto::Role {
        name: view.name.to_string(),
        weight_millis: view.weight_millis,
        framework_ids: view.frameworks.iter().map(ToString::to_string).collect(),
        allocated: view.held.to_resources().into(),
        dominant_share_ppm: Share::dominant(&view.held, &snapshot.total, DEFAULT_WEIGHT_MILLIS)
            .parts_per_million(),
        allocated_within: view.held_within.to_resources().into(),
        guarantees: told(&view.quota.guarantees),
        limits: told(&view.quota.limits),
    }
}

/// Why a framework gets what it gets, by role.
pub(super) fn explanation(
    view: &FrameworkView,
    snapshot: &Snapshot,
) -> proto::ExplainFrameworkResponse {
    let roles = view.info.roles.iter().map(|role| {
        let key = (view.framework_id.clone(), role.clone());
        let records = snapshot.records.get(&key).map_or(&[][..], Vec::as_slice);
        proto::RoleExplanation {
            role: role.to_string(),
            suppressed: view.suppressed.contains(role),
            reasons: reasons(view, role, records.last(), limits_reached(role, snapshot)),
            passes: records.iter().map(pass).collect(),
        }
    });
    proto::ExplainFrameworkResponse {
        connected: view.connected,
        roles: roles.collect(),
    }
}

fn pass(record: &PassRecord) -> proto::PassRecord {
    let tally = record.tally;
    proto::PassRecord {
        at_ms: record.at_ms,
        agents: record.agents,
        offered: tally.offered,
        declined: tally.declined,
        unfit: tally.unfit,
        too_little: tally.too_little,
        over_limit: tally.over_limit,
        kept_for_others: tally.kept_for_others,
        reserved_for_others: tally.reserved_for_others,
    }
}

/// What a role, or one above it, has no more to get of by its quota: offers then come without it, if they come.
fn limits_reached(role: &RoleName, snapshot: &Snapshot) -> Vec<String> {
    let name = role.to_string();
    let ends = name.match_indices('/').map(|(at, _)| at);
    let above = ends.chain([name.len()]).filter_map(|end| {
        let role: RoleName = name[..end].parse().ok()?;
        snapshot.roles.get(&role)
    });
    let reached = above.flat_map(|view| {
        let limits = view.quota.limits.iter();
        let reached = limits.filter(|(what, limit)| {
            let held = view.held_within.get(what);
            held >= i128::from(limit.millis())
        });
        reached.map(|(what, limit)| {
            format!(
                "role {} is at its limit of {limit} {what}, offers included",
                view.name
            )
        })
    });
    reached.collect()
}

fn reasons(
    view: &FrameworkView,
    role: &RoleName,
    last: Option<&PassRecord>,
    limits: Vec<String>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if !view.connected {
        reasons.push("it is not connected: offers are made when it subscribes again".to_owned());
        return reasons;
    }
    if view.suppressed.contains(role) {
        reasons.push("it suppressed offers for this role: it must revive them".to_owned());
        return reasons;
    }
    reasons.extend(limits);
    let offered = view.offered.to_resources();
    if !offered.is_empty() {
        reasons.push(format!("it has not answered offers of {offered}"));
    }
    let Some(last) = last else {
        reasons.push(
            "no pass over all agents has been made for it yet: right after a start, with quotas set, the master \
             waits for agents to come back"
                .to_owned(),
        );
        return reasons;
    };
    if last.agents == 0 {
        reasons.push("no agent had anything free that is worth an offer".to_owned());
        return reasons;
    }
    let tally = last.tally;
    let seen = [
        tally.offered,
        tally.declined,
        tally.unfit,
        tally.too_little,
        tally.over_limit,
        tally.kept_for_others,
        tally.reserved_for_others,
    ];
    let seen: u32 = seen.iter().fold(0, |sum, n| sum.saturating_add(*n));
    let mut counted = [
        (tally.offered, "were offered to it"),
        (
            tally.declined,
            "it has declined: their filters end with their time, or when it revives",
        ),
        (tally.unfit, "its offer filter does not admit"),
        (
            tally.too_little,
            "have less free than the minimum of its offer filter",
        ),
        (
            tally.over_limit,
            "were not for it: its role, or one above, is at its limit",
        ),
        (
            tally.kept_for_others,
            "are kept for guarantees of other roles",
        ),
        (
            tally.reserved_for_others,
            "have only what is reserved for other roles free",
        ),
        (
            last.agents.saturating_sub(seen),
            "went to frameworks with a smaller share",
        ),
    ];
    counted.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    for (n, what) in counted.into_iter().filter(|(n, _)| *n > 0) {
        reasons.push(format!("{n} of {} agents {what}", last.agents));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use mezzo_api::model::FrameworkInfo;

    use super::*;
    use crate::{
        allocator::{Quantities, Tally},
        state::Table,
    };

    fn view() -> FrameworkView {
        let info = proto::FrameworkInfo {
            name: "f".into(),
            roles: vec!["a".into()],
            ..proto::FrameworkInfo::default()
        };
        FrameworkView {
            lent: Default::default(),
            framework_id: "f".parse().unwrap(),
            info: FrameworkInfo::try_from(info).unwrap(),
            connected: true,
            registered_at_ms: 0,
            allocated: Quantities::default(),
            offered: Quantities::default(),
            tasks: Table::default(),
            ended: Table::default(),
            suppressed: Vec::new(),
        }
    }

    fn told(view: &FrameworkView, records: Vec<PassRecord>) -> Vec<String> {
        let key = ("f".parse().unwrap(), "a".parse().unwrap());
        let snapshot = Snapshot {
            records: std::sync::Arc::new([(key, records)].into()),
            ..Snapshot::default()
        };
        explanation(view, &snapshot).roles.remove(0).reasons
    }

    #[test]
    fn reasons_are_told_the_weightiest_first() {
        let tally = Tally {
            declined: 2,
            unfit: 5,
            ..Tally::default()
        };
        let record = PassRecord {
            at_ms: 1,
            agents: 10,
            tally,
        };
        assert_eq!(
            told(&view(), vec![PassRecord::default(), record]),
            [
                "5 of 10 agents its offer filter does not admit",
                "3 of 10 agents went to frameworks with a smaller share",
                "2 of 10 agents it has declined: their filters end with their time, or when it revives",
            ]
        );
    }

    #[test]
    fn what_a_quota_keeps_from_a_role_is_told_with_the_role_that_has_it() {
        let mut view = view();
        view.info.roles = vec!["dev/web".parse().unwrap()];
        let role = |name: &str, held: &str, limits: &[(&str, i64)]| {
            let held_within = Quantities::of(&held.parse().unwrap());
            let limits = limits.iter().map(|(what, amount)| {
                let millis = Scalar::from_millis(amount * 1000);
                ((*what).to_owned(), millis)
            });
            let view = RoleView {
                name: name.parse().unwrap(),
                weight_millis: DEFAULT_WEIGHT_MILLIS,
                frameworks: Vec::new(),
                held: Quantities::default(),
                held_within,
                quota: Quota {
                    limits: limits.collect(),
                    ..Quota::default()
                },
            };
            (view.name.clone(), view)
        };
        let roles = [
            role("dev", "cpus:2;mem:10", &[("cpus", 2), ("mem", 64)]),
            role("dev/web", "cpus:1", &[("gpus", 0)]),
            // No role above.
            role("de", "cpus:1", &[("cpus", 1)]),
        ];
        let snapshot = Snapshot {
            roles: std::sync::Arc::new(roles.into()),
            ..Snapshot::default()
        };
        let told = explanation(&view, &snapshot).roles.remove(0).reasons;
        assert_eq!(
            told[..2],
            [
                "role dev is at its limit of 2 cpus, offers included",
                "role dev/web is at its limit of 0 gpus, offers included",
            ]
        );
        assert!(told[2].starts_with("no pass"), "{told:?}");
    }

    #[test]
    fn what_comes_before_any_pass_is_told_alone() {
        let mut view = view();
        assert!(told(&view, vec![])[0].starts_with("no pass"));
        assert!(told(&view, vec![PassRecord::default()])[0].starts_with("no agent"));
        view.suppressed = view.info.roles.clone();
        assert!(told(&view, vec![])[0].starts_with("it suppressed"));
        view.connected = false;
        assert!(told(&view, vec![])[0].starts_with("it is not connected"));
    }

    #[test]
    fn the_largest_quota_there_can_be_is_stored() {
        let amount = |n: usize| proto::Resource {
            name: format!("{n:x<255}"),
            value: Some(proto::resource::Value::Scalar(proto::Scalar {
                millis: 1_000_000_000_000,
            })),
        };
        let all: Vec<proto::Resource> = (100..100 + MOST_AMOUNTS).map(amount).collect();
        let request = |guarantees: Vec<proto::Resource>| proto::UpdateQuotasRequest {
            quotas: vec![proto::update_quotas_request::Quota {
                role: "a".into(),
                guarantees,
                limits: all.clone(),
            }],
            force: false,
        };
        quotas(request(all.clone())).unwrap();
        let mut longer = all.clone();
        longer[0].name.push('x');
        quotas(request(longer)).unwrap_err();
    }

    #[test]
    fn a_quota_of_anything_but_scalars_is_refused_with_its_place() {
        let request = |resources: &str| proto::UpdateQuotasRequest {
            quotas: vec![proto::update_quotas_request::Quota {
                role: "a".into(),
                guarantees: Vec::new(),
                limits: resources.parse::<Resources>().unwrap().into(),
            }],
            force: false,
        };
        let told = quotas(request("cpus:1;ports:[1-2]")).unwrap_err();
        assert!(told.message().contains("quotas[0].limits[1]"), "{told}");
        let mut none = request("cpus:1");
        none.quotas[0].limits[0].value =
            Some(proto::resource::Value::Scalar(proto::Scalar { millis: 0 }));
        let Ok(Operation::UpdateQuotas { quotas, .. }) = quotas(none) else {
            panic!()
        };
        assert_eq!(quotas[0].1.limits["cpus"], Scalar::ZERO);
    }
}
