//! Whether tasks that run still fit what the agent is to offer, after its settings or its machine have changed. Pure.
//!
//! More is always fine, and so are other attributes: the master hears of both. Less is fine as long as what runs is
//! covered. Otherwise the books could never balance, and the agent says so instead of offering what is not there.

use mezzo_api::model::{Resources, TaskId};

/// Names the first resource that does not suffice, with who holds it.
///
/// # Errors
///
/// Words for the operator.
pub(crate) fn check<'a>(
    total: &Resources,
    running: impl Iterator<Item = (&'a TaskId, &'a Resources)>,
) -> Result<(), String> {
    let running: Vec<_> = running.collect();
    let mut held = Resources::new();
    for (_, resources) in &running {
        held.add(resources);
    }
    if total.contains(&held) {
        return Ok(());
    }
    let of = |resources: &Resources, name: &str| {
        let value = resources.iter().find(|(other, _)| *other == name);
        value.map_or_else(Resources::new, |(name, value)| {
            Resources::new().with(name, value.clone())
        })
    };
    let short = held
        .iter()
        .map(|(name, _)| name)
        .find(|name| !total.contains(&of(&held, name)));
    let name = short.unwrap_or_default();
    let holders: Vec<&str> = running
        .iter()
        .filter(|(_, resources)| !of(resources, name).is_empty())
        .map(|(task, _)| task.as_str())
        .collect();
    let shown = holders
        .iter()
        .take(5)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let has = of(total, name);
    let has = if has.is_empty() {
        "none".to_owned()
    } else {
        has.to_string()
    };
    Err(format!(
        "{} task(s) that run here hold {}, but the agent is to offer {has} ({shown}{})",
        holders.len(),
        of(&held, name),
        if holders.len() > 5 { ", …" } else { "" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(total: &str, running: &[(&str, &str)]) -> Option<String> {
        let running: Vec<(TaskId, Resources)> = running
            .iter()
            .map(|(task, held)| (task.parse().unwrap(), held.parse().unwrap()))
            .collect();
        let running = running.iter().map(|(task, held)| (task, held));
        check(&total.parse().unwrap(), running).err()
    }

    #[test]
    fn more_and_less_are_fine_while_what_runs_is_covered() {
        let running = [("a", "cpus:1;mem:64;ports:[31000-31000]"), ("b", "cpus:1")];
        for total in [
            "cpus:2;mem:64;ports:[31000-31000]",
            "cpus:8;mem:640;ports:[31000-32000];gpus:2",
        ] {
            assert_eq!(refused(total, &running), None, "{total}");
        }
        assert_eq!(refused("", &[]), None);
    }

    #[test]
    fn what_is_short_is_named_with_its_holders() {
        let running = [("a", "cpus:1;ports:[31000-31000]"), ("b", "cpus:1;mem:64")];
        let words = refused("cpus:1.5;mem:64;ports:[31000-31001]", &running).unwrap();
        assert_eq!(
            words,
            "2 task(s) that run here hold cpus:2, but the agent is to offer cpus:1.5 (a, b)"
        );
        let words = refused("cpus:2;mem:64;ports:[31001-31009]", &running).unwrap();
        assert!(
            words.contains("ports:[31000-31000]") && words.ends_with("(a)"),
            "{words}"
        );
        let words = refused("cpus:2;ports:[31000-31001]", &running).unwrap();
        assert!(words.contains("offer none (b)"), "{words}");
    }
}
