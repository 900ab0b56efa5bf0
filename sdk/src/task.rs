//! Descriptions of tasks, and what of them fits into an offer. Pure.

use std::{fmt, time::Duration};

use mezzo_api::{
    convert::Invalid,
    model::{AgentId, NetworkMode, Offer, Ranges, Resources, Scalar, TaskInfo},
    proto,
};
use thiserror::Error;

/// Why a task is not launched on an offer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TaskError {
    /// The description is wrong, whatever the offer.
    #[error("task {task_id}: {}", problems.join("; "))]
    Invalid {
        /// Which task.
        task_id: String,
        /// One sentence each, with the field.
        problems: Vec<String>,
    },
    /// It takes more than the offer still holds.
    #[error("task {task_id} takes {needs}, the offer still holds {left}")]
    TooLarge {
        /// Which task.
        task_id: String,
        /// What it takes.
        needs: String,
        /// What there is.
        left: Resources,
    },
}

/// What is to run, independent of where. Mistakes are told, all at once, when it is placed.
///
/// ```
/// use mezzo_framework::Task;
///
/// let task = Task::new("web-1")
///     .image("registry:5000/web:3")
///     .args(["--listen", "0.0.0.0"])
///     .env("STAGE", "test")
///     .cpus("0.25")
///     .mem(128)
///     .ports(1);
/// assert_eq!(task.id(), "web-1");
/// ```
#[derive(Debug, Clone)]
pub struct Task {
    info: proto::TaskInfo,
    container: proto::ContainerInfo,
    resources: Resources,
    n_ports: u64,
    problems: Vec<String>,
}

impl Task {
    /// The id is the framework's to choose, and never used twice by it.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        let task_id: String = id.into();
        Self {
            info: proto::TaskInfo {
                name: task_id.clone(),
                task_id,
                ..proto::TaskInfo::default()
            },
            container: proto::ContainerInfo {
                network: proto::NetworkMode::Host.into(),
                ..proto::ContainerInfo::default()
            },
            resources: Resources::new(),
            n_ports: 0,
            problems: Vec::new(),
        }
    }

    /// As given to [`Task::new`].
    #[must_use]
    pub fn id(&self) -> &str {
        &self.info.task_id
    }

    /// For people; the id by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.info.name);
        self
    }

    /// The image to run, such as `registry:5000/web:3`.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        image.clone_into(&mut self.container.image);
        self
    }

    /// In place of the image's entrypoint.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.container.command = command.into_iter().map(Into::into).collect();
        self
    }

    /// In place of the image's default arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.container.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// One more variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.container.env.push(proto::EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    /// The machine's own network by default.
    #[must_use]
    pub fn network(mut self, network: NetworkMode) -> Self {
        self.container.network = proto::NetworkMode::from(network).into();
        self
    }

    /// Processors: a decimal number with at most three decimals, such as `0.25`.
    #[must_use]
    pub fn cpus(self, cpus: &str) -> Self {
        self.scalar("cpus", cpus)
    }

    /// MiB of memory.
    #[must_use]
    pub fn mem(mut self, mib: u32) -> Self {
        self.resources = self
            .resources
            .with_scalar("mem", Scalar::from_units(i64::from(mib)));
        self
    }

    /// MiB of disk.
    #[must_use]
    pub fn disk(mut self, mib: u32) -> Self {
        self.resources = self
            .resources
            .with_scalar("disk", Scalar::from_units(i64::from(mib)));
        self
    }

    /// Any amount of an agent's scalar resource, such as `gpus` `1`.
    #[must_use]
    pub fn scalar(mut self, name: &str, amount: &str) -> Self {
        match amount.parse::<Scalar>() {
            Ok(amount) => self.resources = self.resources.with_scalar(name, amount),
            Err(error) => self.problems.push(format!("{name}: {error}")),
        }
        self
    }

    /// So many ports of the machine, chosen from the offer when it is placed: [`Room::place`] puts them into the task's
    /// resources and, as `PORT0`, `PORT1`, … into its environment.
    #[must_use]
    pub fn ports(mut self, n: u32) -> Self {
        self.n_ports = u64::from(n);
        self
    }

    /// Mounts a persistent volume of the offer ([`Offer::volumes`]), or one that an operation before the launch makes. One
    /// that is shared can be had by many tasks at once; any other by one task alone.
    ///
    /// ```
    /// # use mezzo_framework::Task;
    /// let task = Task::new("index-1").volume("/corpus", "corpus");
    /// ```
    #[must_use]
    pub fn volume(self, path: &str, id: &str) -> Self {
        self.mount(path, id, false)
    }

    /// The same, to read only. Tasks that only read a volume can have it at once, whether it is shared or not.
    #[must_use]
    pub fn volume_read_only(self, path: &str, id: &str) -> Self {
        self.mount(path, id, true)
    }

    fn mount(mut self, path: &str, id: &str, read_only: bool) -> Self {
        self.container.volumes.push(proto::Volume {
            container_path: path.to_owned(),
            read_only,
            source: Some(proto::volume::Source::PersistentVolume(id.to_owned())),
        });
        self
    }

    /// Between SIGTERM and SIGKILL.
    #[must_use]
    pub fn kill_grace(mut self, grace: Duration) -> Self {
        self.info.kill_grace_ms = Some(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Opaque to mezzo.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.info.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Anything else that the API knows: changes the message that goes to the master.
    ///
    /// ```
    /// # use mezzo_framework::Task;
    /// let task = Task::new("t").adjust(|info| info.max_completion_ms = Some(60_000));
    /// ```
    #[must_use]
    pub fn adjust(mut self, change: impl FnOnce(&mut proto::TaskInfo)) -> Self {
        self.info.container = Some(self.container);
        change(&mut self.info);
        self.container = self.info.container.take().unwrap_or_default();
        self
    }
}

/// What an offer still has room for.
///
/// ```
/// use mezzo_framework::{Room, Task, model::Offer};
///
/// # let resources: mezzo_framework::model::Resources = "cpus:1;mem:1024;ports:[31000-31009]".parse()?;
/// # let offer = Offer::try_from(mezzo_api::proto::Offer {
/// #     offer_id: "o".to_owned(), framework_id: "f".to_owned(), agent_id: "a".to_owned(), role: "*".to_owned(),
/// #     resources: resources.into(), ..Default::default()
/// # })?;
/// let web = |n: u32| Task::new(format!("web-{n}")).image("web:3").cpus("0.4").mem(128).ports(1);
/// let mut room = Room::of(&offer); // 1 processor
/// let infos: Vec<_> = (0..9).map_while(|n| room.place(&web(n)).ok()).collect();
/// assert_eq!(infos.len(), 2);
/// assert_eq!(room.left().cpus().to_string(), "0.2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Room {
    agent_id: AgentId,
    left: Resources,
}

impl Room {
    /// All of an offer.
    #[must_use]
    pub fn of(offer: &Offer) -> Self {
        Self {
            agent_id: offer.agent_id.clone(),
            left: offer.resources.clone(),
        }
    }

    /// What no task has taken yet.
    #[must_use]
    pub fn left(&self) -> &Resources {
        &self.left
    }

    /// Takes what the task needs; the answer goes into [`crate::Calls::launch`].
    ///
    /// # Errors
    ///
    /// When the description is wrong, or there is too little left; nothing is taken then.
    pub fn place(&mut self, task: &Task) -> Result<TaskInfo, TaskError> {
        let mut resources = task.resources.clone();
        let mut container = task.container.clone();
        if task.n_ports > 0 {
            let ports: Vec<u64> = self
                .left
                .ports()
                .values()
                .take(usize::try_from(task.n_ports).unwrap_or(usize::MAX))
                .collect();
            for (n, port) in ports.iter().enumerate() {
                container.env.push(proto::EnvVar {
                    name: format!("PORT{n}"),
                    value: port.to_string(),
                });
            }
            if ports.len() as u64 != task.n_ports {
                return Err(
                    self.too_large(task, format_args!("{resources}, ports: {}", task.n_ports))
                );
            }
            resources = resources.with_ranges(
                "ports",
                Ranges::new(ports.into_iter().map(|port| (port, port))),
            );
        }
        let mut problems = task.problems.clone();
        let message = proto::TaskInfo {
            agent_id: self.agent_id.to_string(),
            resources: resources.clone().into(),
            container: Some(container),
            ..task.info.clone()
        };
        let info = TaskInfo::try_from(message).map_err(|Invalid { problems: more }| {
            problems.extend(more.iter().map(ToString::to_string));
        });
        if task.container.image.is_empty() {
            problems.push("image: is empty; say what is to run".to_owned());
        }
        if resources.is_empty() {
            problems.push("resources: a task must take something, such as cpus".to_owned());
        }
        let Some(info) = info.ok().filter(|_| problems.is_empty()) else {
            return Err(TaskError::Invalid {
                task_id: task.id().to_owned(),
                problems,
            });
        };
        let Some(left) = self.left.checked_sub(&resources) else {
            return Err(self.too_large(task, format_args!("{resources}")));
        };
        self.left = left;
        Ok(info)
    }

    fn too_large(&self, task: &Task, needs: fmt::Arguments<'_>) -> TaskError {
        TaskError::TooLarge {
            task_id: task.id().to_owned(),
            needs: needs.to_string(),
            left: self.left.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(resources: &str) -> Room {
        Room {
            agent_id: "a".parse().unwrap(),
            left: resources.parse().unwrap(),
        }
    }

    #[test]
    fn ports_are_picked_from_the_offer_and_told_to_the_task() {
        let mut room = room("cpus:1;ports:[31000-31002]");
        let task = Task::new("t").image("i").cpus("0.1").ports(2);
        let info = room.place(&task).unwrap();
        assert_eq!(info.resources.ports().as_slice(), [(31000, 31001)]);
        assert_eq!(info.container.env[1].value, "31001");
        let told = room.place(&task).unwrap_err();
        assert!(matches!(told, TaskError::TooLarge { .. }), "{told}");
        assert_eq!(
            room.left().cpus(),
            "0.9".parse().unwrap(),
            "a refused task takes nothing"
        );
    }

    #[test]
    fn all_mistakes_are_told_with_their_fields() {
        let task = Task::new("a/b").cpus("0.0001");
        let TaskError::Invalid { problems, .. } = room("cpus:1").place(&task).unwrap_err() else {
            panic!("it is invalid")
        };
        for field in ["cpus", "task_id", "image"] {
            assert!(
                problems.iter().any(|problem| problem.contains(field)),
                "{field}: {problems:?}"
            );
        }
    }
}
