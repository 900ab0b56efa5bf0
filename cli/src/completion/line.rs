//! What a command line says as far as it goes: where the servers are, and what it has named.
//!
//! Read with the definition of all verbs, so that flags, their variables and defaults are as in the verb itself; what is
//! wrong or missing on a line that is not finished is passed over.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgMatches, CommandFactory as _};
use mezzo_api::credential::Credential;

use crate::{
    args::Cli,
    client::{master::Master, scheduler::Scheduler},
    failure::{Failure, chain},
    request::Servers,
};

/// The words before the one that is completed.
#[derive(Debug)]
pub(super) struct Line {
    /// `None`: not even a beginning can be read.
    read: Option<ArgMatches>,
}

impl Line {
    pub(super) fn new(words: impl Iterator<Item = OsString>) -> Self {
        let command = Cli::command().ignore_errors(true);
        Self {
            read: command.try_get_matches_from(words).ok(),
        }
    }

    /// The value of an argument of the verb; of several the first.
    pub(super) fn value(&self, arg: &str) -> Option<&str> {
        let mut matches = self.read.as_ref()?;
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        let value = matches.try_get_one::<String>(arg).ok().flatten();
        value.map(String::as_str)
    }

    pub(super) fn scheduler(&self) -> Result<Scheduler, Failure> {
        Scheduler::new(&self.servers()?.scheduler)
    }

    pub(super) async fn master(&self) -> Result<Master, Failure> {
        let path = self.read.as_ref().and_then(|read| {
            let path = read.try_get_one::<PathBuf>("credential");
            path.ok().flatten()
        });
        let credential = Credential::read(path.map(PathBuf::as_path))
            .map_err(|error| Failure::usage(chain(&error)))?;
        Master::connect(&self.servers()?.master, &credential).await
    }

    fn servers(&self) -> Result<Servers, Failure> {
        Servers::new(self.value("master"), self.value("scheduler"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Line {
        Line::new(words.split(' ').map(OsString::from))
    }

    #[test]
    fn servers_are_named_before_or_behind_the_verb() {
        for words in [
            "mezzo --master m:1 --scheduler s:2 app scale",
            "mezzo app --master=m:1 scale --scheduler s:2",
            "mezzo app scale --scheduler s:2 a --master m:1 --timeout",
        ] {
            let servers = line(words).servers().expect(words);
            assert_eq!(
                (servers.master.as_str(), servers.scheduler.as_str()),
                ("m:1", "http://s:2"),
                "{words}"
            );
        }
    }

    #[test]
    fn what_is_wrong_or_missing_does_not_hide_the_rest() {
        for words in [
            "mezzo app rollback sleep",
            "mezzo app rollback sleep --nonsense",
            "mezzo app rollback sleep --timeout",
        ] {
            assert_eq!(line(words).value("id"), Some("sleep"), "{words}");
        }
        assert_eq!(line("mezzo app rollback").value("id"), None);
        assert_eq!(line("mezzo nonsense").value("id"), None);
        assert_eq!(
            line("mezzo job log nightly -f").value("name"),
            Some("nightly")
        );
    }
}
