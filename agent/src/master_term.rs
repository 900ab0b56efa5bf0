//! The highest term of a master that this agent has seen, in a small file: one of a lower term was a leader once, froze
//! or was cut off, and is heeded no more, also by an agent that was restarted meanwhile.

use std::{io, path::PathBuf};

use crate::{Error, store::write_atomically};

/// Read once, written when it grows.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    path: PathBuf,
    highest: u64,
}

impl Term {
    /// None seen yet where there is no file.
    pub(crate) fn load(path: PathBuf) -> Result<Self, Error> {
        let highest = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|error| Error::Identity {
                path: path.clone(),
                problem: format!("{text:?} is no term: {error}"),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => {
                return Err(Error::State {
                    operation: "read",
                    path,
                    source,
                });
            }
        };
        Ok(Self { path, highest })
    }

    /// Takes the term of a master that answers a registration; `true` if it is to be saved before the master is heeded.
    pub(crate) fn check(&mut self, term: u64) -> Result<bool, String> {
        if term < self.highest {
            return Err(format!(
                "its term {term} is lower than {}, which another master told: it leads no longer (if all of the masters' \
                 state was lost and their clock went back, remove {})",
                self.highest,
                self.path.display()
            ));
        }
        let raised = term > self.highest;
        self.highest = term;
        Ok(raised)
    }

    pub(crate) fn save(&self) -> Result<(), String> {
        write_atomically(&self.path, format!("{}\n", self.highest).as_bytes())
            .map_err(|error| format!("cannot write {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_term_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master-term");
        let mut term = Term::load(path.clone()).unwrap();
        assert_eq!(term.check(7), Ok(true));
        term.save().unwrap();
        assert_eq!(term.check(7), Ok(false));
        let mut term = Term::load(path.clone()).unwrap();
        assert!(term.check(6).unwrap_err().contains("master-term"));
        assert_eq!(term.check(8), Ok(true));
        std::fs::write(&path, "x").unwrap();
        assert!(Term::load(path).is_err());
    }
}
