//! Which arguments name what the cluster has. Pure.
//!
//! Goes by the verb and the argument's name in `args`, so that the definition there is only about lines. A test in
//! `completion.rs` finds what was left out.

/// What an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    App,
    /// An app, or a file that describes one.
    AppOrFile,
    /// Of the app on the line.
    AppVersion,
    /// Of the app on the line.
    AppTask,
    /// Where a task of the app on the line is.
    AppHost,
    Pod,
    /// Of the pod on the line.
    PodInstance,
    Group,
    /// Of the group on the line.
    GroupVersion,
    Job,
    /// The number of a run of the job on the line.
    JobRun,
    Deployment,
    /// A task that has not ended.
    Task,
    /// A task, whether it has ended or not.
    AnyTask,
    /// A file, or a task with a colon behind it.
    TaskPath,
    /// By its host name, or by its id.
    Node,
    AgentId,
    /// By its name, or by its id.
    Framework,
    FrameworkId,
    FrameworkName,
    Role,
    /// Of the node on the line.
    Volume,
    /// Planned work.
    Window,
}

/// What argument `arg` of `verb` (`app scale`) names, if that is something to ask for.
pub(super) fn kind(verb: &str, arg: &str) -> Option<Kind> {
    let (family, rest) = verb.split_once(' ').unwrap_or((verb, ""));
    let kind = match (family, rest, arg) {
        ("help" | "image", ..) => return None,
        ("app", _, "id") => Kind::App,
        ("app", "update" | "diff", "target") => Kind::AppOrFile,
        ("app", "diff" | "rollback", "version") => Kind::AppVersion,
        ("app", "wipe", "task") => Kind::AppTask,
        ("app", "wipe", "host") => Kind::AppHost,
        ("pod", _, "id") => Kind::Pod,
        ("pod", _, "instance") => Kind::PodInstance,
        ("group", _, "id") => Kind::Group,
        ("group", "rollback", "version") => Kind::GroupVersion,
        ("job", _, "name") => Kind::Job,
        ("job", "log" | "kill", "run") => Kind::JobRun,
        ("deployment", _, "id") => Kind::Deployment,
        ("task", "show" | "log", "task") => Kind::AnyTask,
        ("task", _, "task" | "tasks") => Kind::Task,
        ("task", "cp", "from" | "to") => Kind::TaskPath,
        ("task", "list", "app") => Kind::App,
        ("master", "events", "agent") => Kind::AgentId,
        ("master", "events", "framework") => Kind::FrameworkId,
        ("framework", "list", "name") => Kind::FrameworkName,
        ("volume", "destroy", "id") => Kind::Volume,
        ("node", "maintenance cancel", "name") => Kind::Window,
        ("scheduler", ..) => return None,
        (_, _, "node" | "nodes") => Kind::Node,
        (_, _, "framework") => Kind::Framework,
        (_, _, "role" | "within") => Kind::Role,
        (..) => return None,
    };
    Some(kind)
}
