//! No instance is launched on an offer of a role that is not its app's, nor of resources that its app does not accept.

use std::collections::BTreeSet;

use mezzo_api::model::RoleName;
use mezzo_scheduler::app::role::{Accepts, of_group};
use mezzo_scheduler::core::{Call, Settings};

use super::runs::{seeds, storm_in};
use super::sim::Sim;

pub(crate) fn check_launched(sim: &mut Sim, call: &Call) {
    let Call::Accept { offer, tasks, .. } = call else {
        return;
    };
    let Some(role) = sim.world.role_of(offer).cloned() else {
        return;
    };
    if !tasks.is_empty() {
        sim.roles_met.insert(role.clone());
    }
    let apps = sim.core.state().apps.values();
    for task in tasks {
        let found = apps.clone().find_map(|app| {
            let mut instances = app.instances.values();
            let instance = instances.find(|one| one.names().any(|name| *name == task.task_id))?;
            Some((app, instance))
        });
        let Some((app, instance)) = found else {
            continue;
        };
        let Some(version) = app.versions.get(&instance.version) else {
            continue;
        };
        let spec = &version.app;
        let resident = Settings::default().resident_role;
        let wanted = match instance.holding.and_then(|id| app.holdings.get(&id)) {
            Some(holding) => holding.stack.role(),
            None if spec.residency.is_some() && spec.role == RoleName::any() => &resident,
            None => &spec.role,
        };
        assert_eq!(
            *wanted, role,
            "{} is launched in a role that is not its app's",
            task.task_id
        );
        let may_have = [RoleName::any()].into_iter().chain(of_group(&spec.id));
        assert!(may_have.collect::<BTreeSet<_>>().contains(&spec.role));
        if instance.holding.is_some() {
            continue;
        }
        let reserved = task.reserved.iter().map(|pool| &pool.resources);
        let reserved: i64 = reserved.map(|part| part.scalar("cpus").millis()).sum();
        let all = task.resources.scalar("cpus").millis();
        let right = match spec.accepts {
            Accepts::Both => reserved <= all,
            Accepts::Unreserved => reserved == 0,
            Accepts::Reserved => reserved == all,
        };
        assert!(
            right,
            "{} takes what its app does not accept: {reserved} of {all} reserved",
            task.task_id
        );
    }
}

#[test]
fn apps_of_several_roles_start_in_their_own() {
    let mut seen = BTreeSet::new();
    for seed in seeds(60) {
        seen.extend(storm_in(seed, None));
    }
    let names: Vec<&str> = seen.iter().map(RoleName::as_str).collect();
    assert_eq!(names, ["*", "apps", "b"], "all of them were met");
}
