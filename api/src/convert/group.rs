//! Task groups: what a framework describes, checked as a whole, becomes tasks that each know their membership.

use std::collections::BTreeSet;

use super::{Invalid, Problems, revocable::NOT_IN_A_GROUP};
use crate::{
    model::{GroupId, GroupPolicy, SharedVolume, TaskGroup, TaskInfo, VolumeSource},
    proto,
};

/// Most tasks of one group.
const MOST_MEMBERS: usize = 64;
const MOST_VOLUMES: usize = 64;
const LONGEST_NAME: usize = 64;

impl From<proto::GroupPolicy> for GroupPolicy {
    fn from(policy: proto::GroupPolicy) -> Self {
        match policy {
            proto::GroupPolicy::Unspecified | proto::GroupPolicy::KillGroup => Self::KillGroup,
            proto::GroupPolicy::Keep => Self::Keep,
        }
    }
}

impl From<GroupPolicy> for proto::GroupPolicy {
    fn from(policy: GroupPolicy) -> Self {
        match policy {
            GroupPolicy::KillGroup => Self::KillGroup,
            GroupPolicy::Keep => Self::Keep,
        }
    }
}

fn policy(number: i32) -> Result<GroupPolicy, Invalid> {
    proto::GroupPolicy::try_from(number)
        .map(GroupPolicy::from)
        .map_err(|_| Invalid::new("", format!("{number} is no policy that is known here")))
}

impl TryFrom<proto::SharedVolume> for SharedVolume {
    type Error = Invalid;

    fn try_from(volume: proto::SharedVolume) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let name = volume.name;
        let valid = name.len() <= LONGEST_NAME
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !valid {
            problems.note(
                "name",
                format!(
                    "{name:?} is not a name of 1 to {LONGEST_NAME} letters, digits, `_`, `.` or `-`"
                ),
            );
        }
        if volume.tmpfs_bytes == Some(0) {
            problems.note("tmpfs_bytes", "must be larger than zero");
        }
        problems.finish(Some(Self {
            name,
            tmpfs_bytes: volume.tmpfs_bytes,
        }))
    }
}

impl From<SharedVolume> for proto::SharedVolume {
    fn from(volume: SharedVolume) -> Self {
        Self {
            name: volume.name,
            tmpfs_bytes: volume.tmpfs_bytes,
        }
    }
}

impl TryFrom<proto::TaskGroup> for TaskGroup {
    type Error = Invalid;

    fn try_from(group: proto::TaskGroup) -> Result<Self, Invalid> {
        let mut problems = Problems::default();
        let id: Option<GroupId> = problems.take("group_id", group.group_id.parse());
        let policy = problems.take("policy", policy(group.policy));
        let volumes = problems.list("volumes", group.volumes, MOST_VOLUMES);
        let shares = problems.list("shares", group.shares, MOST_VOLUMES);
        if group.position >= group.n_members {
            problems.note(
                "position",
                format!("{} is not below {}", group.position, group.n_members),
            );
        }
        problems.finish(id.zip(policy).map(|(id, policy)| Self {
            id,
            n_members: group.n_members,
            position: group.position,
            init: group.init,
            policy,
            volumes,
            shares,
        }))
    }
}

impl From<TaskGroup> for proto::TaskGroup {
    fn from(group: TaskGroup) -> Self {
        Self {
            group_id: group.id.into(),
            n_members: group.n_members,
            position: group.position,
            init: group.init,
            policy: proto::GroupPolicy::from(group.policy).into(),
            volumes: group.volumes.into_iter().map(Into::into).collect(),
            shares: group.shares.into_iter().map(Into::into).collect(),
        }
    }
}

/// The tasks of a group that is to be launched, in their order, each with its membership; or every problem with its
/// field, for all of them.
pub fn members(launch: proto::operation::LaunchGroup) -> Result<Vec<TaskInfo>, Invalid> {
    let mut problems = Problems::default();
    let id: Option<GroupId> = problems.take("group_id", launch.group_id.parse());
    let policy = problems.take("policy", policy(launch.policy));
    let volumes: Vec<SharedVolume> = problems.list("volumes", launch.volumes, MOST_VOLUMES);
    let mut names = BTreeSet::new();
    for (n, volume) in volumes.iter().enumerate() {
        if !names.insert(volume.name.as_str()) {
            let field = format!("volumes[{n}].name");
            problems.note(&field, format!("{:?} is there twice", volume.name));
        }
    }
    let n_init = launch.init_tasks.len();
    if launch.tasks.is_empty() {
        problems.note(
            "tasks",
            "is empty; a group has at least one that is no init task",
        );
    }
    if n_init + launch.tasks.len() > MOST_MEMBERS {
        problems.note(
            "tasks",
            format!("more than {MOST_MEMBERS} with the init tasks"),
        );
    }
    for (field, tasks) in [("init_tasks", &launch.init_tasks), ("tasks", &launch.tasks)] {
        for (n, task) in tasks.iter().enumerate() {
            if task.group.is_some() {
                let field = format!("{field}[{n}].group");
                problems.note(&field, "is the master's to fill in");
            }
            // Which each by itself may be.
            if task.revocable {
                problems.note(&format!("{field}[{n}].revocable"), NOT_IN_A_GROUP);
            }
        }
    }
    let mut tasks: Vec<TaskInfo> = problems.list("init_tasks", launch.init_tasks, MOST_MEMBERS);
    tasks.extend(problems.list::<_, TaskInfo>("tasks", launch.tasks, MOST_MEMBERS));
    check_together(&mut problems, &tasks, &names);
    let n_members = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
    let together = id.zip(policy).map(|(id, policy)| {
        for (position, task) in (0..).zip(&mut tasks) {
            task.group = Some(Box::new(TaskGroup {
                id: id.clone(),
                n_members,
                position,
                init: usize::try_from(position).is_ok_and(|position| position < n_init),
                policy,
                volumes: volumes.clone(),
                shares: Vec::new(),
            }));
        }
        tasks
    });
    problems.finish(together)
}

/// What must be alike, and what must differ.
fn check_together(problems: &mut Problems, tasks: &[TaskInfo], volumes: &BTreeSet<&str>) {
    let mut ids = BTreeSet::new();
    for task in tasks {
        let id = &task.task_id;
        if !ids.insert(id) {
            problems.note("tasks", format!("task id {id} is there twice"));
        }
        for volume in &task.container.volumes {
            if let VolumeSource::Group(name) = &volume.source
                && !volumes.contains(name.as_str())
            {
                problems.note(
                    "tasks",
                    format!("task {id} mounts {name:?}, which is none of the group's `volumes`"),
                );
            }
        }
    }
    let Some(first) = tasks.first() else { return };
    for task in &tasks[1..] {
        let (one, other) = (&first.container, &task.container);
        let alike = one.network == other.network
            && one.network_name == other.network_name
            && one.network_labels == other.network_labels;
        if !alike {
            problems.note(
                "tasks",
                format!(
                    "tasks {} and {} ask for different networks; a group has one for all",
                    first.task_id, task.task_id
                ),
            );
        }
        if first.agent_id != task.agent_id {
            problems.note(
                "tasks",
                format!(
                    "tasks {} and {} are for different agents",
                    first.task_id, task.task_id
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str) -> proto::TaskInfo {
        proto::TaskInfo {
            task_id: id.into(),
            agent_id: "a".into(),
            resources: "cpus:1".parse::<crate::model::Resources>().unwrap().into(),
            container: Some(proto::ContainerInfo {
                image: "i".into(),
                ..proto::ContainerInfo::default()
            }),
            ..proto::TaskInfo::default()
        }
    }

    fn launch() -> proto::operation::LaunchGroup {
        proto::operation::LaunchGroup {
            group_id: "pod".into(),
            init_tasks: vec![task("init")],
            tasks: vec![task("one"), task("two")],
            policy: 0,
            volumes: vec![proto::SharedVolume {
                name: "data".into(),
                tmpfs_bytes: None,
            }],
        }
    }

    #[test]
    fn members_know_their_place_and_it_survives_the_wire() {
        let tasks = members(launch()).unwrap();
        let groups: Vec<_> = tasks
            .iter()
            .map(|task| task.group.clone().unwrap())
            .collect();
        let places: Vec<_> = groups.iter().map(|one| (one.position, one.init)).collect();
        assert_eq!(places, [(0, true), (1, false), (2, false)]);
        assert!(
            groups
                .iter()
                .all(|one| one.n_members == 3 && one.policy == GroupPolicy::KillGroup)
        );
        let wire = proto::TaskInfo::from(tasks[1].clone());
        assert_eq!(TaskInfo::try_from(wire).unwrap(), tasks[1]);
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut proto::operation::LaunchGroup), problem: &str) {
        let mut launch = launch();
        change(&mut launch);
        let error = members(launch).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }

    #[test]
    fn what_makes_no_group_is_said_with_the_field() {
        check(|group| group.tasks.clear(), "tasks: is empty");
        check(
            |group| group.tasks[1].task_id = "one".into(),
            "task id one is there twice",
        );
        check(|group| group.group_id = String::new(), "group_id");
        check(|group| group.policy = 9, "policy");
        check(
            |group| group.tasks[0].agent_id = "b".into(),
            "different agents",
        );
        check(
            |group| group.volumes[0].name = "../x".into(),
            "volumes[0].name",
        );
        check(
            |group| group.tasks[0].group = Some(proto::TaskGroup::default()),
            "tasks[0].group",
        );
        check(
            |group| {
                let resources = "cpus:1;mem:64".parse::<crate::model::Resources>();
                group.tasks[1].resources = resources.unwrap().into();
                group.tasks[1].revocable = true;
            },
            "tasks[1].revocable: a task of a group cannot be revocable",
        );
        check(
            |group| {
                let container = group.tasks[0].container.as_mut().unwrap();
                container.network = proto::NetworkMode::None.into();
            },
            "one for all",
        );
        check(
            |group| {
                let container = group.tasks[1].container.as_mut().unwrap();
                container.volumes = vec![proto::Volume {
                    container_path: "/data".into(),
                    read_only: false,
                    source: Some(proto::volume::Source::GroupVolume("other".into())),
                }];
            },
            "none of the group's",
        );
    }
}
