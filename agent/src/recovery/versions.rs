//! Before anything of the state is touched: was it written by a newer agent?
//!
//! An older agent cannot know what a newer one means. It must not start: it would take running tasks for broken ones,
//! set their folders aside and kill them. So every `task.json` is looked at for its version, and nothing else is done.

use std::path::Path;

use serde::Deserialize;

use super::checkpoint::VERSION;
use crate::Error;

/// More than this of a file is no record of ours.
const MAX_BYTES: u64 = 4 << 20;

/// Refuses a state folder in which a newer agent has written. What does not parse is not this one's business: recovery
/// sets it aside.
///
/// # Errors
///
/// [`Error::Newer`] with the first such file.
pub(crate) fn refuse_newer(state_dir: &Path) -> Result<(), Error> {
    let tasks = state_dir.join("tasks");
    let Ok(entries) = std::fs::read_dir(&tasks) else {
        // There is none, or recovery will say what is wrong with it.
        return Ok(());
    };
    for entry in entries.flatten() {
        let path = entry.path().join("task.json");
        if let Some(found) = version(&path)
            && found > VERSION
        {
            return Err(Error::Newer {
                path,
                found,
                known: VERSION,
            });
        }
    }
    Ok(())
}

fn version(path: &Path) -> Option<u32> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let is_small =
        std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() <= MAX_BYTES);
    let text = std::fs::read(path).ok().filter(|_| is_small)?;
    Some(serde_json::from_slice::<Head>(&text).ok()?.version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_record_is_refused_by_name_and_all_else_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_newer(dir.path()).is_ok(), "nothing is there");
        let write = |name: &str, text: &str| {
            let folder = dir.path().join("tasks").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("task.json"), text).unwrap();
        };
        write("old", r#"{"version":1}"#);
        write("broken", "{");
        write("this", &format!(r#"{{"version":{VERSION}}}"#));
        assert!(refuse_newer(dir.path()).is_ok());
        write("new", r#"{"version":99,"what":"nobody knows"}"#);
        let error = refuse_newer(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("tasks/new/task.json") && error.contains("99"),
            "{error}"
        );
    }
}
