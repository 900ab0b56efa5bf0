//! `mezzo man`: manual pages from the definition that the help texts come from, for packaging. Hidden, and so are
//! pages of hidden verbs.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory as _, builder::Resettable};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use crate::{args::Cli, failure::Failure};

const SOURCE: &str = concat!("mezzo ", env!("CARGO_PKG_VERSION"));

/// Writes one page per verb into `dir`.
pub(crate) fn run(dir: &Path) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_tree(command, dir).map_err(|error| {
        Failure::failed(format!(
            "cannot write manual pages to {}: {error}",
            dir.display()
        ))
    })
}

fn write_tree(command: Command, dir: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_tree(verb.clone(), dir)?;
    }
    let (name, text) = page(command)?;
    fs::write(dir.join(name), text)
}

/// A page's file name and text. What stands after the help is a section of its own, line by line as it is.
fn page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let after = command.get_after_help().map(ToString::to_string);
    let man = Man::new(command.after_help(Resettable::Reset))
        .source(SOURCE)
        .manual("mezzo");
    let mut text = Vec::new();
    man.render(&mut text)?;
    if let Some(after) = after {
        let title = if after.starts_with("Example") {
            "EXAMPLES"
        } else {
            "NOTES"
        };
        let mut section = Roff::new();
        section.control("SH", [title]).control("nf", []);
        section.text([roman(after)]).control("fi", []);
        section.to_writer(&mut text)?;
    }
    Ok((man.get_filename(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_a_hidden_one_has_none() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path()).unwrap();
        let page = |name: &str| fs::read_to_string(dir.path().join(name));
        let add = page("mezzo-app-add.1").unwrap();
        assert!(
            add.contains(".SH EXAMPLES\n.nf\nExamples:\n  mezzo app add"),
            "{add}"
        );
        assert!(page("mezzo.1").is_ok() && page("mezzo-agent.1").is_ok());
        assert!(page("mezzo-man.1").is_err() && page("mezzo-help.1").is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let failure = run(Path::new("/nonexistent/man1")).unwrap_err();
        assert!(
            failure.to_string().contains("/nonexistent/man1"),
            "{failure}"
        );
    }
}
