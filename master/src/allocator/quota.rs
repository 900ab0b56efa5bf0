//! Quotas: what a role with all roles below it is guaranteed, and what it may have at most.
//!
//! Scalars only. A guarantee holds back enough of what is free for whoever is owed something; a limit is never passed,
//! offers included. Both hold for the whole subtree: what `eng/web` holds counts for `eng` too. A quota set is looked
//! at as a whole: what is promised below must be within what is promised, or allowed, above.

use std::collections::BTreeMap;

use mezzo_api::model::{RoleName, Scalar};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Quantities;

/// By name of the resource; a limit of zero is none of it, a name that is not there has no limit and no guarantee.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// At least, if it can use it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guarantees: BTreeMap<String, Scalar>,
    /// At most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Scalar>,
}

impl Quota {
    /// Says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.guarantees.is_empty() && self.limits.is_empty()
    }
}

/// Why a set of quotas cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuotaProblem {
    /// No order of offers could keep it. Not to be forced.
    #[error("role {role}: the guarantee of {guarantee} {name} is more than its limit of {limit}")]
    AboveOwnLimit {
        /// Whose.
        role: RoleName,
        /// Which resource.
        name: String,
        /// Promised.
        guarantee: Scalar,
        /// Allowed.
        limit: Scalar,
    },
    /// No order of offers could keep it. Not to be forced.
    #[error(
        "role {role}: the roles below it are guaranteed {promised} {name}, more than its own {allowed}"
    )]
    BelowDoesNotFit {
        /// The upper one.
        role: RoleName,
        /// Which resource.
        name: String,
        /// The sum below.
        promised: Scalar,
        /// Its guarantee, or where it has none its limit.
        allowed: Scalar,
    },
    /// Agents may come. May be forced.
    #[error(
        "all guarantees together are {promised} {name}, and the cluster has {total}: they cannot all be kept now"
    )]
    MoreThanTheCluster {
        /// Which resource.
        name: String,
        /// All of them.
        promised: Scalar,
        /// Of all admitted agents.
        total: Scalar,
    },
    /// Nothing is taken back for it. May be forced.
    #[error(
        "role {role} holds {held} {name}, more than a limit of {limit}: it keeps that until tasks end"
    )]
    HeldAlready {
        /// Whose.
        role: RoleName,
        /// Which resource.
        name: String,
        /// By its tasks.
        held: Scalar,
        /// Asked for.
        limit: Scalar,
    },
}

impl QuotaProblem {
    /// Whether an operator may have it nevertheless.
    #[must_use]
    pub fn may_be_forced(&self) -> bool {
        match self {
            Self::AboveOwnLimit { .. } | Self::BelowDoesNotFit { .. } => false,
            Self::MoreThanTheCluster { .. } | Self::HeldAlready { .. } => true,
        }
    }
}

/// The roles above, nearest first: `a/b/c` has `a/b` and `a`.
pub fn ancestors(role: &str) -> impl Iterator<Item = &str> {
    role.rmatch_indices('/').map(|(at, _)| &role[..at])
}

/// Whether `role` is `top` or below it.
#[must_use]
pub fn is_within(role: &str, top: &str) -> bool {
    role.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Everything that is wrong with these quotas, in a cluster that has `total`, where tasks of `roles` hold that much.
#[must_use]
pub fn check(
    quotas: &BTreeMap<RoleName, Quota>,
    total: &Quantities,
    roles: &BTreeMap<RoleName, Quantities>,
) -> Vec<QuotaProblem> {
    let mut problems = Vec::new();
    for (role, quota) in quotas {
        for (name, guarantee) in &quota.guarantees {
            if let Some(limit) = quota.limits.get(name).filter(|limit| *limit < guarantee) {
                problems.push(QuotaProblem::AboveOwnLimit {
                    role: role.clone(),
                    name: name.clone(),
                    guarantee: *guarantee,
                    limit: *limit,
                });
            }
        }
    }
    // Longest names first: everything below a role is summed up before the role itself.
    let mut by_depth: Vec<(&RoleName, &Quota)> = quotas.iter().collect();
    by_depth.sort_by_key(|(role, _)| std::cmp::Reverse(role.as_str().matches('/').count()));
    let mut below: BTreeMap<&str, BTreeMap<&str, i128>> = BTreeMap::new();
    let mut top: BTreeMap<&str, i128> = BTreeMap::new();
    for (role, quota) in by_depth {
        let mut promised: BTreeMap<&str, i128> = below.remove(role.as_str()).unwrap_or_default();
        for (name, sum) in &promised {
            let allowed = quota.guarantees.get(*name).or(quota.limits.get(*name));
            if let Some(allowed) = allowed.filter(|allowed| *sum > i128::from(allowed.millis())) {
                problems.push(QuotaProblem::BelowDoesNotFit {
                    role: role.clone(),
                    name: (*name).to_owned(),
                    promised: scalar(*sum),
                    allowed: *allowed,
                });
            }
        }
        for (name, guarantee) in &quota.guarantees {
            let sum = promised.entry(name).or_default();
            *sum = (*sum).max(i128::from(guarantee.millis()));
        }
        let above = ancestors(role.as_str()).find(|above| quotas.contains_key(*above));
        let sums = above.map_or(&mut top, |above| below.entry(above).or_default());
        for (name, sum) in promised {
            *sums.entry(name).or_default() += sum;
        }
    }
    for (name, promised) in top {
        if promised > total.get(name) {
            problems.push(QuotaProblem::MoreThanTheCluster {
                name: name.to_owned(),
                promised: scalar(promised),
                total: scalar(total.get(name)),
            });
        }
    }
    for (role, quota) in quotas {
        for (name, limit) in &quota.limits {
            let held: i128 = roles
                .iter()
                .filter(|(other, _)| is_within(other.as_str(), role.as_str()))
                .map(|(_, held)| held.get(name))
                .sum();
            if held > i128::from(limit.millis()) {
                problems.push(QuotaProblem::HeldAlready {
                    role: role.clone(),
                    name: name.clone(),
                    held: scalar(held),
                    limit: *limit,
                });
            }
        }
    }
    problems
}

fn scalar(millis: i128) -> Scalar {
    Scalar::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn amounts(text: &str) -> BTreeMap<String, Scalar> {
        text.split(';')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once(':').unwrap())
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    fn problems(quotas: &[(&str, &str, &str)]) -> Vec<String> {
        let quotas = quotas
            .iter()
            .map(|(role, guarantees, limits)| {
                let (guarantees, limits) = (amounts(guarantees), amounts(limits));
                (role.parse().unwrap(), Quota { guarantees, limits })
            })
            .collect();
        let total = Quantities::of(&"cpus:10;mem:100".parse().unwrap());
        let held = Quantities::of(&"cpus:2".parse().unwrap());
        let roles = BTreeMap::from([("busy/x".parse().unwrap(), held)]);
        check(&quotas, &total, &roles)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn quotas_must_fit_their_limits_their_parents_and_the_cluster() {
        for good in [
            &[
                ("a", "cpus:4", "cpus:4"),
                ("a/b", "cpus:3", ""),
                ("a/c/d", "cpus:1", ""),
            ][..],
            &[("a", "", "cpus:4"), ("a/b", "cpus:4", "")],
            &[("a/b", "cpus:10", ""), ("a/c", "mem:100", "")],
            &[("busy", "", "cpus:2")],
        ] {
            assert_eq!(problems(good), [""; 0], "{good:?}");
        }
        for (bad, part) in [
            (
                &[("a", "cpus:4", "cpus:3.999")][..],
                "role a: the guarantee of 4 cpus",
            ),
            (
                &[
                    ("a", "cpus:4", ""),
                    ("a/b", "cpus:3", ""),
                    ("a/c/d", "cpus:1.001", ""),
                ],
                "role a: the roles below it are guaranteed 4.001 cpus",
            ),
            (
                &[("a", "", "cpus:4"), ("a/b", "cpus:4.5", "")],
                "more than its own 4",
            ),
            (
                &[("a/b", "cpus:6", ""), ("a/c", "cpus:5", "")],
                "all guarantees together are 11 cpus",
            ),
            (&[("gpu", "gpus:1", "")], "the cluster has 0"),
            (&[("busy", "", "cpus:1")], "role busy holds 2 cpus"),
        ] {
            let told = problems(bad);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains(part), "{told:?}");
        }
    }

    #[test]
    fn a_role_is_within_itself_and_those_above() {
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a/b", "a"]);
        assert_eq!(ancestors("a").count(), 0);
        assert!(is_within("a/b", "a") && is_within("a", "a"));
        assert!(!is_within("ab", "a") && !is_within("a", "a/b"));
    }
}
