//! `mezzo task …`: verbs that find a task through the master and talk to its node.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks with their state and use
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  mezzo task list
  mezzo task list --app sleep --all
  mezzo task list -o json | jq -r '.[].id'"
    )]
    List(ListArgs),
    /// Show one task: state, container, limits and use
    #[command(after_help = "Example:\n  mezzo task show sleep.instance-1a")]
    Show(TaskArg),
    /// Print what a task wrote
    #[command(
        visible_alias = "logs",
        after_help = "\
Examples:
  mezzo task log sleep.instance-1a --tail 100
  mezzo task log sleep.instance-1a --since 10m --follow
  mezzo task log -f sleep.instance-1a"
    )]
    Log(LogArgs),
    /// Watch what a task writes from now on, and exit with its code; type on its terminal, if it has one
    #[command(after_help = "\
Examples:
  mezzo task attach sleep.instance-1a
  mezzo task attach -it shell.instance-1a

An app's task has a terminal with \"tty\": true. Ctrl-P Ctrl-Q leaves it and lets it run on. Another command in the
task's container: `mezzo task exec -it`.")]
    Attach(AttachArgs),
    /// Copy files between this machine and a running task's container
    #[command(after_help = "\
Examples:
  mezzo task cp web.instance-1a:/var/log/app.log .
  mezzo task cp settings.json web.instance-1a:/etc/app/
  mezzo task cp site/. web.instance-1a:/srv/www

Into a directory that is there, else under that name; `DIR/.` copies what is in DIR. Links are copied as links and never
followed below what is named. In the container everything belongs to root.")]
    Cp(CopyArgs),
    /// Run a command inside a task's container
    #[command(after_help = "\
Examples:
  mezzo task exec -it sleep.instance-1a -- /bin/sh
  mezzo task exec sleep.instance-1a -- cat /etc/hosts")]
    Exec(ExecArgs),
    /// Show what running tasks use: processors, memory, disk, network, how long they wait
    #[command(
        visible_alias = "stat",
        after_help = "\
Examples:
  mezzo task stats
  mezzo task stats --watch sleep.instance-1a
  mezzo task stats -o json | jq '.[] | {id, cpus}'"
    )]
    Stats(StatsArgs),
    /// Change limits of a running task, all of them or none
    #[command(after_help = "\
What is not named stays; `none` takes a limit away. The answer comes when the kernel enforces the new limits and the
agent has them on disk. What the task has booked (cpus, mem) stays: to change that, update the app.

Examples:
  mezzo task limit sleep.instance-1a --memory-high 100M --io-weight 200
  mezzo task limit sleep.instance-1a --cpu 1.5 --pids 500 --swap none
  mezzo task limit sleep.instance-1a --io-max /var/lib,wbps=10M,riops=500
  mezzo task limit sleep.instance-1a --memory 1G -o json")]
    Limit(LimitArgs),
    /// Kill tasks; their framework decides what follows (the scheduler starts replacements)
    #[command(after_help = "\
Examples:
  mezzo task kill sleep.instance-1a
  mezzo task kill --grace 0s sleep.instance-1a")]
    Kill(KillArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TaskArg {
    /// A task's id or the beginning of one
    pub(crate) task: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only tasks of this app
    #[arg(long, value_name = "ID")]
    pub(crate) app: Option<String>,
    /// Only tasks of this framework (id, the beginning of one, or name)
    #[arg(long, value_name = "FRAMEWORK")]
    pub(crate) framework: Option<String>,
    /// Only tasks on this node (id, the beginning of one, or hostname)
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Also tasks that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// A task's id or the beginning of one
    pub(crate) task: String,
    /// Go on until the task ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u64>,
    /// Only what was written in this time, like 10m; up to a second more may come before it
    #[arg(long, value_name = "DURATION")]
    pub(crate) since: Option<String>,
    /// Only standard output
    #[arg(long, conflicts_with = "stderr")]
    pub(crate) stdout: bool,
    /// Only standard error
    #[arg(long)]
    pub(crate) stderr: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Pass standard input on to the task's terminal
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Key by key, and with the size of this terminal
    #[arg(short, long, requires = "interactive")]
    pub(crate) tty: bool,
    /// A task's id or the beginning of one
    pub(crate) task: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// An environment variable for the command
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// uid, uid:gid or a name of the image's /etc/passwd
    #[arg(short, long, default_value = "")]
    pub(crate) user: String,
    /// Where the command starts
    #[arg(short, long, value_name = "DIR", default_value = "")]
    pub(crate) workdir: String,
    /// A task's id or the beginning of one
    pub(crate) task: String,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// A task's id or the beginning of one
    pub(crate) task: String,
    /// Most processor time, in processors, like 1.5
    #[arg(long, value_name = "CPUS|none")]
    pub(crate) cpu: Option<String>,
    /// Hard memory limit, at least what the task has booked, like 1G
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) memory: Option<String>,
    /// Memory above which the task is slowed down and nothing killed (cgroup v2)
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) memory_high: Option<String>,
    /// Memory that is taken back last (cgroup v2)
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) memory_low: Option<String>,
    /// Swap on top of the memory limit
    #[arg(long, value_name = "SIZE|none")]
    pub(crate) swap: Option<String>,
    /// Most processes and threads
    #[arg(long, value_name = "N|none")]
    pub(crate) pids: Option<String>,
    /// Share of a busy disk, 1 to 10000 (cgroup v2)
    #[arg(long, value_name = "N|none")]
    pub(crate) io_weight: Option<String>,
    /// Most per second on one disk: bytes read and written (rbps, wbps), operations (riops, wiops); `none`: no disk is
    /// limited any more (cgroup v2)
    #[arg(long, value_name = "DEVICE,RATE=N...|none")]
    pub(crate) io_max: Vec<String>,
    /// Most huge pages of one size, like 2M=64M; `none`: no size is limited any more
    #[arg(long, value_name = "PAGE=SIZE|none")]
    pub(crate) huge_pages: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Task ids or beginnings of them
    #[arg(required = true, value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// Time between SIGTERM and SIGKILL [default: the task's own]
    #[arg(long, value_name = "DURATION")]
    pub(crate) grace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Task ids or beginnings of them; none for all
    #[arg(value_name = "TASK")]
    pub(crate) tasks: Vec<String>,
    /// Go on until Ctrl-C; in a pipe one table, or one line of JSON, after another
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// By what `mezzo top` sorts.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum TopSort {
    /// Processors
    Cpu,
    /// Memory that cannot simply be taken back
    Mem,
    /// Read from and written to disks
    Io,
    /// Received and sent
    Net,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mezzo top
  mezzo top --sort mem
  mezzo top --once -o json

Keys: up and down scroll, left and right change the order, q leaves.")]
pub(crate) struct TopArgs {
    /// By what tasks are sorted, the most first
    #[arg(short, long, value_enum, default_value = "cpu")]
    pub(crate) sort: TopSort,
    /// Print once and leave, as it is done when the output is no terminal
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// A path here, or TASK:PATH
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// TASK:PATH, or a path here
    #[arg(value_name = "TO")]
    pub(crate) to: String,
}
