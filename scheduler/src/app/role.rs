//! The role of an app or a job: in whose share its instances run, and which resources of an offer of that role they take.
//!
//! Pure. As in Marathon 1.11: an app has the scheduler's default role or the name of its top-level group, which only the core
//! can tell (`core/roles.rs`); `acceptedResourceRoles` names `*`, the app's role, or both. A job names any role.

use std::borrow::Cow;

use mezzo_api::model::{Offer, Pool, Pools, Resources, RoleName};
use serde_json::{Value, json};

use super::AppId;
use super::read::{Fields, Report};

/// Which resources of an offer instances take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accepts {
    /// What is open to all and what is reserved for the role: the default.
    #[default]
    Both,
    /// Only what is open to all: `["*"]`.
    Unreserved,
    /// Only what is reserved: the role alone.
    Reserved,
}

impl Accepts {
    /// `acceptedResourceRoles` of an app of that role.
    #[must_use]
    pub fn to_json(self, role: &RoleName) -> Value {
        json!(self.names(role))
    }

    /// The same, for people.
    #[must_use]
    pub fn names(self, role: &RoleName) -> Vec<&str> {
        match self {
            Self::Both if *role == RoleName::any() => vec!["*"],
            Self::Both => vec!["*", role.as_str()],
            Self::Unreserved => vec!["*"],
            Self::Reserved => vec![role.as_str()],
        }
    }

    /// What instances may take of `room`.
    #[must_use]
    pub fn amounts(self, room: &Pools) -> Cow<'_, Resources> {
        match self {
            Self::Both if !room.is_open() => Cow::Owned(room.plain()),
            Self::Both | Self::Unreserved => Cow::Borrowed(room.open()),
            Self::Reserved => Cow::Owned(room.clone().with_open(Resources::new()).plain()),
        }
    }

    /// Takes `wanted` out of `room`, and says from where; `None` when it is not there.
    #[must_use]
    pub fn take(self, room: &mut Pools, wanted: &Resources) -> Option<Vec<Pool>> {
        let picked = match self {
            Self::Both => room.pick(wanted)?,
            Self::Unreserved => Pools::open_to_all(room.open().clone()).pick(wanted)?,
            Self::Reserved => room.clone().with_open(Resources::new()).pick(wanted)?,
        };
        *room = room.checked_sub(&picked)?;
        Some(picked.pool_list())
    }
}

/// What a task takes of the reservations of an offer, so that the master does not choose: where none is named it takes what
/// is reserved first. One of nothing says that nothing is taken.
#[must_use]
pub fn named(mut from: Vec<Pool>, offer: &Offer) -> Vec<Pool> {
    let mut plain = offer.reserved.iter().filter(|pool| pool.stack.is_plain());
    if from.is_empty()
        && let Some(pool) = plain.next()
    {
        from.push(Pool {
            stack: pool.stack.clone(),
            resources: Resources::new(),
        });
    }
    from
}

/// `role` and `acceptedResourceRoles`, which `placed` has: the app or job itself, or a pod's placement.
pub(crate) fn read(
    fields: &Fields<'_>,
    placed: Option<&Fields<'_>>,
    report: &mut Report,
) -> (RoleName, Option<Accepts>) {
    let role = match fields.string("role", report).map(|text| text.parse()) {
        Some(Ok(role)) => role,
        Some(Err(problem)) => {
            let problem: mezzo_api::model::InvalidId = problem;
            report.value_problem(fields.path_of("role"), problem.to_string());
            return (RoleName::any(), None);
        }
        None => RoleName::any(),
    };
    let accepts = placed.and_then(|placed| accepts(placed, &role, report));
    (role, accepts)
}

fn accepts(fields: &Fields<'_>, role: &RoleName, report: &mut Report) -> Option<Accepts> {
    let given = fields.strings("acceptedResourceRoles", report)?;
    let is_open = given.iter().any(|name| name == "*");
    let is_own = given.iter().any(|name| name == role.as_str());
    if given
        .iter()
        .any(|name| name != "*" && name != role.as_str())
    {
        let names = Accepts::Both.names(role).join(" and ");
        report.value_problem(
            fields.path_of("acceptedResourceRoles"),
            format!("acceptedResourceRoles can only contain {names}, got {given:?}"),
        );
    }
    match (is_open, is_own) {
        (true, true) => Some(Accepts::Both),
        (true, false) => Some(Accepts::Unreserved),
        (false, true) => Some(Accepts::Reserved),
        (false, false) => None,
    }
}

/// The body of an app, a pod or a job with `role` where it names none.
#[must_use]
pub fn with_default(body: &Value, role: &RoleName) -> Value {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut()
        && fields.get("role").is_none_or(Value::is_null)
    {
        fields.insert("role".to_owned(), role.as_str().into());
    }
    body
}

/// The body as the scheduler may read it: without a role of its own it gets the scheduler's default one, of which the file
/// says no more than that it accepts what is reserved for it.
pub(crate) fn guessed(body: &Value) -> Value {
    let accepted = [
        "/acceptedResourceRoles",
        "/scheduling/placement/acceptedResourceRoles",
    ];
    let mut names = accepted
        .iter()
        .filter_map(|at| body.pointer(at)?.as_array())
        .flatten()
        .filter_map(Value::as_str);
    let named = names.find(|name| *name != "*");
    match named.and_then(|name| name.parse().ok()) {
        Some(role) => with_default(body, &role),
        None => body.clone(),
    }
}

/// The fields of an app, `base`, over which `update` is laid: what it accepts by default goes with its role.
#[must_use]
pub fn without_old_default(mut base: Value, accepts: Accepts, update: &Value) -> Value {
    let says = |name: &str| update.get(name).is_some_and(|value| !value.is_null());
    if accepts == Accepts::Both
        && says("role")
        && let Some(fields) = base.as_object_mut()
    {
        fields.remove("acceptedResourceRoles");
    }
    base
}

/// The role that an app has by its place: the name of its top-level group.
#[must_use]
pub fn of_group(app: &AppId) -> Option<RoleName> {
    let (group, _) = app.as_str().strip_prefix('/')?.split_once('/')?;
    group.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mezzo_api::model::{Reservation, Stack};

    fn role(name: &str) -> RoleName {
        name.parse().expect("valid")
    }

    fn resources(text: &str) -> Resources {
        text.parse().expect("valid")
    }

    /// 2 cpus open to all, 3 reserved for `dev`.
    fn room() -> Pools {
        let stack = Stack::single(Reservation::fixed(role("dev"))).expect("a role");
        Pools::open_to_all(resources("cpus:2")).with_reserved(&stack, resources("cpus:3"))
    }

    #[test]
    fn what_is_accepted_says_from_where_it_is_taken() {
        for (accepts, has, wanted, reserved) in [
            (Accepts::Both, "cpus:5", "cpus:4", Some("cpus:3")),
            (Accepts::Unreserved, "cpus:2", "cpus:2", Some("")),
            (Accepts::Reserved, "cpus:3", "cpus:3", Some("cpus:3")),
            (Accepts::Both, "cpus:5", "cpus:6", None),
            (Accepts::Unreserved, "cpus:2", "cpus:3", None),
            (Accepts::Reserved, "cpus:3", "cpus:4", None),
        ] {
            let mut left = room();
            assert_eq!(*accepts.amounts(&left), resources(has), "{accepts:?}");
            let from = accepts.take(&mut left, &resources(wanted));
            let sum = |from: Vec<Pool>| {
                from.into_iter().fold(Resources::new(), |sum, pool| {
                    sum.checked_add(&pool.resources).expect("small")
                })
            };
            let rest = from
                .as_ref()
                .and_then(|_| room().flat().checked_sub(&resources(wanted)));
            assert_eq!(left.flat(), rest.unwrap_or_else(|| room().flat()));
            assert_eq!(
                from.map(sum),
                reserved.map(resources),
                "{accepts:?} of {wanted}"
            );
        }
    }

    #[test]
    fn the_group_role_is_the_name_of_the_top_level_group() {
        for (app, group) in [
            ("/dev/bigbusiness", Some("dev")),
            ("/bigbusiness", None),
            ("/dev/team1/bigbusiness", Some("dev")),
        ] {
            let app: AppId = app.parse().expect("valid");
            assert_eq!(of_group(&app), group.map(role), "{app}");
        }
    }
}
