//! The command line as typed: every verb, flag and help text, by clap's derive.
//!
//! Nothing is decided here. What has a syntax of its own (addresses, durations, `K=V`) stays text and is checked in
//! `request.rs`, so that its errors read the same wherever the value comes from. One file per family of verbs.

pub(crate) mod app;
pub(crate) mod change;
pub(crate) mod cluster;
pub(crate) mod events;
pub(crate) mod group;
pub(crate) mod image;
pub(crate) mod job;
pub(crate) mod operating;
pub(crate) mod pod;
pub(crate) mod server;
pub(crate) mod task;
pub(crate) mod volume;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

const AFTER_HELP: &str = "\
Exit codes:
  0  done            1  failed            2  wrong command line or app file
  3  not found       4  server not reachable
`mezzo task exec` exits with the command's own code.

Try it on this machine (as root):
  mezzo dev                         start a whole cluster here
  mezzo app add sleep.json --wait   run an app on it
  mezzo status                      what the cluster does, at a glance";

/// Makes a data centre look like one big computer.
#[derive(Debug, Parser)]
#[command(name = "mezzo", version, about, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// `table` for people, `json` for programs (for `image pack` and `image export`: a file name writes the image there)
    #[arg(short, long, global = true, value_name = "FORMAT", value_parser = OutputArg::parse, default_value = "table")]
    pub(crate) output: OutputArg,
    /// The master, host:port, or several with commas between them [default: 127.0.0.1:5050]
    #[arg(long, global = true, env = "MEZZO_MASTER", value_name = "ADDRESS")]
    pub(crate) master: Option<String>,
    /// A file with `NAME:SECRET`, for a master that asks for a credential
    #[arg(long, global = true, env = "MEZZO_CREDENTIAL", value_name = "FILE")]
    pub(crate) credential: Option<PathBuf>,
    /// The scheduler's URL [default: http://127.0.0.1:8080]
    #[arg(long, global = true, env = "MEZZO_SCHEDULER", value_name = "URL")]
    pub(crate) scheduler: Option<String>,
}

/// What `-o` was given: a format, or for `image pack` and `image export` a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputArg {
    Table,
    Json,
    File(PathBuf),
}

impl OutputArg {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            other if other == "-" || other.contains(['.', '/']) => {
                Ok(Self::File(PathBuf::from(other)))
            }
            other => Err(format!(
                "`{other}` is not an output format; known are table and json"
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cluster on this machine: master, agent and scheduler, until Ctrl-C
    Dev(server::DevArgs),
    /// Run a master: it offers the agents' resources to frameworks; or back up, restore and watch one
    Master(server::MasterArgs),
    /// Run an agent: it runs containers on this machine (needs root)
    Agent(server::AgentArgs),
    /// Run the Marathon-style scheduler: it keeps apps running
    Scheduler(server::SchedulerArgs),
    /// Deploy, scale, update and remove apps
    #[command(subcommand)]
    App(app::AppCommand),
    /// Run jobs at set times, after each other, or now
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Look at and into running tasks
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// The machines of the cluster
    #[command(subcommand)]
    Node(cluster::NodeCommand),
    /// Persistent volumes: reserved disk whose content outlives tasks
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// The frameworks that share the cluster
    #[command(subcommand)]
    Framework(cluster::FrameworkCommand),
    /// Roles and their weights
    #[command(subcommand)]
    Role(cluster::RoleCommand),
    /// Changes under way
    #[command(subcommand)]
    Deployment(app::DeploymentCommand),
    /// Follow what happens to apps, tasks and deployments
    Events(events::EventsArgs),
    /// Groups of apps that are deployed, scaled and removed together
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Deploy and look after pods: containers that run together on one node
    #[command(subcommand)]
    Pod(pod::PodCommand),
    /// Make images and look after the local image store
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// The cluster at a glance: nodes, what is used, services, what fails and why
    Status(cluster::StatusArgs),
    /// The busiest tasks and nodes, as they change
    Top(task::TopArgs),
    /// What this machine lacks to run mezzo, and the fix
    Doctor(cluster::DoctorArgs),
    /// Print a completion script for a shell
    Completions(cluster::CompletionsArgs),
    /// Write the manual pages of all verbs into a folder (for packaging)
    #[command(hide = true)]
    Man(ManArgs),
    /// Print the version
    Version,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  mezzo man target/man1")]
pub(crate) struct ManArgs {
    /// A folder that is there
    pub(crate) dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("mezzo").chain(line.split(' ')))
    }

    /// Every verb with the words that lead to it.
    fn verbs() -> Vec<(String, clap::Command)> {
        fn collect(path: &str, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                let path = format!("{path} {}", sub.get_name());
                all.push((path.clone(), sub.clone()));
                collect(&path, sub, all);
            }
        }
        let mut command = Cli::command();
        command.build();
        let mut all = Vec::new();
        collect("mezzo", &command, &mut all);
        all
    }

    #[test]
    fn the_definition_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_every_verb_says_what_it_does_and_shows_how() {
        let verbs = verbs();
        assert!(verbs.len() > 40, "{}", verbs.len());
        for (path, mut verb) in verbs {
            let help = verb.render_long_help().to_string();
            assert!(verb.get_about().is_some(), "{path} has no description");
            let has_example = help.contains("Example") && help.contains(&path);
            assert!(
                has_example || verb.has_subcommands() || path == "mezzo version",
                "{path} has no example:\n{help}"
            );
        }
    }

    #[test]
    fn every_example_is_a_valid_command_line() {
        let mut checked = 0;
        for (path, verb) in verbs() {
            let after = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for line in after
                .lines()
                .filter_map(|line| line.trim().strip_prefix("mezzo "))
            {
                let line = line.split(" | ").next().unwrap_or_default();
                let line = line.split(" > ").next().unwrap_or_default();
                // What a person reads beside the command stands two spaces away.
                let line = line
                    .split("  ")
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .replace('\'', "");
                let parsed = parse(&line);
                assert!(
                    parsed.is_ok(),
                    "{path}: `mezzo {line}`: {}",
                    parsed.unwrap_err()
                );
                checked += 1;
            }
        }
        assert!(checked > 40, "{checked}");
    }

    #[test]
    fn wrong_lines_are_refused() {
        let wrong = [
            "",
            "app",
            "app add",
            "app scale sleep",
            "app scale sleep -1",
            "app scale sleep many",
            "task exec x",
            "task kill",
            "task log",
            "task log x --stdout --stderr",
            "node show",
            "role weight batch",
            "image pack x",
            "completions tcsh",
            "dev --master-port 70000",
            "app list -o jsn",
            "nonsense",
        ];
        for line in wrong {
            assert_eq!(
                parse(line).map(drop).map_err(|error| error.exit_code()),
                Err(2),
                "{line}"
            );
        }
    }

    #[test]
    fn flags_of_all_verbs_stand_before_or_after_the_verb() {
        for line in ["-o json app list", "app list -o json", "app -o json list"] {
            assert_eq!(
                parse(line).unwrap().global.output,
                OutputArg::Json,
                "{line}"
            );
        }
        let cli = parse("image pack x -t y:1 -o out.tar").unwrap();
        assert_eq!(cli.global.output, OutputArg::File("out.tar".into()));
        assert_eq!(
            parse("task list --master m:1")
                .unwrap()
                .global
                .master
                .as_deref(),
            Some("m:1")
        );
    }

    #[test]
    fn a_command_to_run_inside_keeps_its_own_flags() {
        let Command::Task(task::TaskCommand::Exec(args)) =
            parse("task exec -it x -- ls -l --color").unwrap().command
        else {
            panic!("not exec");
        };
        assert!(args.interactive && args.tty);
        assert_eq!(args.command, ["ls", "-l", "--color"]);
    }
}
