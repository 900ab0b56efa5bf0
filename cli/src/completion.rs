//! Completion of command lines: the scripts of the shells, and the answers to what they ask at each TAB.
//!
//! `mezzo completions SHELL` prints a script. It runs `mezzo` again at each TAB, with the line so far and the shell's name in
//! [`ASKED`]; `main` hands that to [`answer_if_asked`] before it looks at anything else. Verbs and flags come from the
//! definition in `args`. `kind` (pure) says which arguments name what the cluster has, `line` what the line says so far,
//! `ids` asks the servers, `offer` (pure) keeps what may be put on a line. Somebody waits at a prompt: nothing here prints a
//! word beside candidates, and whatever fails or takes longer than [`DEADLINE`] offers nothing.

mod ids;
mod kind;
mod line;
mod offer;

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::{
    engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _},
    env::{CompleteEnv, Elvish, EnvCompleter, Fish, Powershell, Zsh},
};

use self::{
    kind::{Kind, kind},
    line::Line,
};
use crate::{args::Cli, failure::Failure};

/// The variable by which a script asks; its value is the name of the shell.
const ASKED: &str = "MEZZO_COMPLETE";
/// All that servers get for an answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// The script of a shell.
pub(crate) fn script(shell: clap_complete::Shell) -> Result<Vec<u8>, Failure> {
    use clap_complete::Shell;
    let (completer, after): (&dyn EnvCompleter, &str) = match shell {
        Shell::Bash => return Ok(include_bytes!("completion/mezzo.bash").to_vec()),
        Shell::Elvish => (&Elvish, ""),
        Shell::Fish => (&Fish, ""),
        Shell::PowerShell => (&Powershell, ""),
        // As a file of `fpath` it is run at the first TAB, and has to answer it.
        Shell::Zsh => (
            &Zsh,
            "\nif [ \"$funcstack[1]\" = _mezzo ]; then\n    _clap_dynamic_completer_mezzo\nfi\n",
        ),
        other => return Err(Failure::usage(format!("there is no script for {other}"))),
    };
    let mut script = Vec::new();
    completer
        .write_registration(ASKED, "mezzo", "mezzo", "mezzo", &mut script)
        .map_err(|error| Failure::output(&error))?;
    script.extend_from_slice(after.as_bytes());
    Ok(script)
}

/// Answers a script; `None` when this process was started by somebody else.
pub(crate) fn answer_if_asked() -> Option<ExitCode> {
    std::env::var_os(ASKED).filter(|shell| !shell.is_empty())?;
    // A message in the middle of a prompt helps nobody.
    std::panic::set_hook(Box::new(|_| {}));
    let words: Vec<OsString> = std::env::args_os()
        .skip_while(|word| word != "--")
        .skip(1)
        .collect();
    if !words.is_empty() {
        let at = std::env::var("_CLAP_COMPLETE_INDEX").ok();
        let at = at.and_then(|at| at.parse().ok());
        let at = at.unwrap_or(words.len() - 1).min(words.len());
        let current = words.get(at).cloned().unwrap_or_default();
        let line = Arc::new(Line::new(words.into_iter().take(at)));
        let here = std::env::current_dir().ok();
        // A shell that is not known, a line that leads nowhere: there is nothing to offer.
        let _ = CompleteEnv::with_factory(|| definition(&line, &current))
            .var(ASKED)
            .try_complete(std::env::args_os(), here.as_deref());
    }
    Some(ExitCode::SUCCESS)
}

/// The definition of all verbs, with completers on arguments that name what the cluster has.
fn definition(line: &Arc<Line>, current: &OsStr) -> Command {
    let mut command = Cli::command();
    // Flags that clap adds itself are there only after this.
    command.build();
    let hide_flags = !current.as_encoded_bytes().starts_with(b"-");
    with_completers(command, "", line, hide_flags)
}

/// `hide_flags`: flags are offered only where there is nothing else, lest they stand between ids.
fn with_completers(command: Command, verb: &str, line: &Arc<Line>, hide_flags: bool) -> Command {
    command
        .mut_args(|arg| {
            let known = kind(verb, arg.get_id().as_str());
            let arg = match hide_flags && !arg.is_positional() {
                true => arg.hide(true),
                false => arg,
            };
            known.map_or(arg.clone(), |kind| with_completer(arg, kind, line))
        })
        .mut_subcommands(|command| {
            let verb = format!("{verb} {}", command.get_name());
            with_completers(command, verb.trim_start(), line, hide_flags)
        })
}

fn with_completer(arg: Arg, kind: Kind, line: &Arc<Line>) -> Arg {
    let line = Arc::clone(line);
    arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
        candidates(kind, &line, typed)
    }))
}

fn candidates(kind: Kind, line: &Line, typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(text) = typed.to_str() else {
        return Vec::new();
    };
    let found = ask(kind, line).unwrap_or_default();
    let mut candidates: Vec<CompletionCandidate> = offer::fitting(kind, found, text)
        .into_iter()
        .map(CompletionCandidate::new)
        .collect();
    if matches!(kind, Kind::AppOrFile | Kind::TaskPath) {
        candidates.extend(PathCompleter::file().complete(typed));
    }
    candidates
}

/// Nothing when it fails, for whatever reason.
fn ask(kind: Kind, line: &Line) -> Option<offer::Found> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let found =
        runtime.block_on(async { tokio::time::timeout(DEADLINE, ids::of(kind, line)).await });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    found.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every argument with a value, as `verb argument`.
    fn arguments(command: &Command, verb: &str, all: &mut Vec<(String, String)>) {
        for arg in command.get_arguments() {
            let takes_value = arg.get_num_args().is_some_and(|range| range.takes_values());
            if takes_value && !arg.is_global_set() {
                all.push((verb.to_owned(), arg.get_id().to_string()));
            }
        }
        for command in command.get_subcommands() {
            let verb = format!("{verb} {}", command.get_name());
            arguments(command, verb.trim_start(), all);
        }
    }

    #[test]
    fn every_argument_that_names_something_is_completed() {
        let mut command = Cli::command();
        command.build();
        let mut all = Vec::new();
        arguments(&command, "", &mut all);
        // What is named so and is not there yet, or is no name of the cluster's.
        let not: Vec<String> = all
            .iter()
            .filter(|(verb, arg)| kind(verb, arg).is_none() && !verb.starts_with("image"))
            .filter(|(_, arg)| {
                let names = [
                    "id",
                    "name",
                    "node",
                    "nodes",
                    "task",
                    "tasks",
                    "role",
                    "framework",
                    "app",
                ];
                names.contains(&arg.as_str())
            })
            .map(|(verb, arg)| format!("{verb} {arg}"))
            .collect();
        insta::assert_snapshot!(not.join("\n"), @r"
        master credential name
        scheduler role
        node maintenance schedule name
        volume create id
        ");
    }

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        use clap::ValueEnum as _;
        for shell in clap_complete::Shell::value_variants() {
            let script = String::from_utf8(script(*shell).expect("a script")).expect("text");
            assert!(script.contains(ASKED), "{shell}: {script}");
            assert!(script.ends_with('\n'), "{shell}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_has_no_ids() {
        let words = ["mezzo", "--scheduler", "http://127.0.0.1:1", "app", "show"];
        let line = Line::new(words.map(OsString::from).into_iter());
        assert!(candidates(Kind::App, &line, OsStr::new("")).is_empty());
    }
}
