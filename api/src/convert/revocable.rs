//! What may be revocable: which resources, and which tasks.
//!
//! Processors and memory can be taken back at any time, by the kernel or by a kill. A port, a device or room on the disk
//! that somebody else was promised cannot; nor can a task live on lent resources that keeps others off them.

use super::{Invalid, Problem, Problems};
use crate::{
    model::{CpuPinning, Resources, TaskInfo, Value},
    proto,
};

/// The names of what can be lent.
pub const REVOCABLE: [&str; 2] = ["cpus", "mem"];

/// Why a task of a group is refused: the machine would take back one of them, and with it all.
pub(super) const NOT_IN_A_GROUP: &str = "a task of a group cannot be revocable, because they start and end together and none can be taken back alone: launch it by itself, or without `revocable`";

/// Resources that an agent lends, checked.
///
/// # Errors
///
/// Names what cannot be lent.
pub fn slack(slack: proto::Slack) -> Result<Resources, Invalid> {
    let mut problems = Problems::default();
    let resources: Option<Resources> = problems.take("resources", slack.resources.try_into());
    for name in resources.iter().flat_map(others) {
        problems.note("resources", format!("{name} cannot be revocable"));
    }
    problems.finish(resources)
}

/// What keeps a task from being revocable; nothing for one that does not want to be.
#[must_use]
pub fn revocable_problems(task: &TaskInfo) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !task.revocable {
        return problems;
    }
    let mut note = |field: &str, message: String| {
        problems.push(Problem {
            field: field.to_owned(),
            message,
        });
    };
    for name in others(&task.resources) {
        let message = format!("a revocable task takes only cpus and mem, not {name}");
        note("resources", message);
    }
    if task.resources.mem().millis() == 0 || task.limits.memory_unlimited {
        let message =
            "a revocable task's memory must be bounded: give it `mem`, and no memory_unlimited";
        note("resources", message.to_owned());
    }
    if task.limits.memory_low_mb.is_some() {
        let message = "a revocable task cannot keep memory from others";
        note("limits.memory_low_mb", message.to_owned());
    }
    if task.limits.cpu_pinning == CpuPinning::Exclusive {
        let message = "a revocable task cannot have processors for itself";
        note("limits.cpu_pinning", message.to_owned());
    }
    if !task.reserved.is_empty() || !task.persistent.is_empty() {
        let message = "a revocable task takes nothing that is reserved, and no volume";
        note("reserved", message.to_owned());
    }
    if task.group.is_some() {
        note("revocable", NOT_IN_A_GROUP.to_owned());
    }
    problems
}

/// The names of what cannot be lent.
fn others(resources: &Resources) -> impl Iterator<Item = &str> {
    let cannot = |(name, value): &(&str, &Value)| {
        !REVOCABLE.contains(name) || !matches!(value, Value::Scalar(_))
    };
    resources.iter().filter(cannot).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_lends_processors_and_memory_and_nothing_else() {
        let of = |text: &str| {
            let resources = text.parse::<Resources>().unwrap().into();
            slack(proto::Slack { resources }).map_err(|invalid| invalid.to_string())
        };
        assert_eq!(
            of("cpus:1.5;mem:64"),
            Ok("cpus:1.5;mem:64".parse().unwrap())
        );
        assert_eq!(of(""), Ok(Resources::new()));
        let refused = of("cpus:1;ports:[1-2]").unwrap_err();
        assert_eq!(refused, "resources: ports cannot be revocable");
        assert!(of("cpus:[1-2]").is_err());
    }

    #[test]
    fn a_revocable_task_holds_nothing_that_cannot_be_taken_back() {
        let refused = |change: fn(&mut proto::TaskInfo)| {
            let mut task = proto::TaskInfo {
                task_id: "t".into(),
                agent_id: "a".into(),
                resources: "cpus:1;mem:64".parse::<Resources>().unwrap().into(),
                container: Some(proto::ContainerInfo {
                    image: "sleep:1".into(),
                    ..Default::default()
                }),
                revocable: true,
                ..Default::default()
            };
            change(&mut task);
            let words = TaskInfo::try_from(task).map(|task| task.revocable);
            words.map_err(|invalid| invalid.to_string())
        };
        assert_eq!(refused(|_| {}), Ok(true));
        let ports: fn(&mut proto::TaskInfo) =
            |task| task.resources = "mem:1;ports:[7-7]".parse::<Resources>().unwrap().into();
        let words = refused(ports).unwrap_err();
        assert_eq!(
            words,
            "resources: a revocable task takes only cpus and mem, not ports"
        );
        assert!(refused(|task| task.resources.truncate(1)).is_err());
        for words in [
            refused(|task| {
                task.limits = Some(proto::TaskLimits {
                    memory_low_mb: Some(1),
                    ..Default::default()
                });
            }),
            refused(|task| {
                task.limits = Some(proto::TaskLimits {
                    cpu_pinning: proto::CpuPinning::Exclusive.into(),
                    ..Default::default()
                });
            }),
        ] {
            assert!(words.unwrap_err().starts_with("limits."));
        }
        assert_eq!(
            refused(|task| {
                task.resources = "ports:[7-7]".parse::<Resources>().unwrap().into();
                task.revocable = false;
            }),
            Ok(false)
        );
    }
}
