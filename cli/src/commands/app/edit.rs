//! `mezzo app edit`: an app's definition in the person's editor, and back as an update that replaces it.
//!
//! The file lies in a directory that nobody else can read, since environments hold secrets. It is removed when the update
//! is accepted; after a refusal it stays, and its path is told.

use std::io::Write as _;
use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::Method;
use serde_json::Value;

use super::super::{Context, now_ms};
use super::diff::definition;
use super::{change, check, get, read_file};
use crate::{args::change::ChangeArgs, client::scheduler::Scheduler, failure::Failure, request};

pub(super) async fn run(
    context: &Context,
    scheduler: &Scheduler,
    args: &ChangeArgs,
) -> Result<(), Failure> {
    let id = request::app_id(&args.id)?;
    let before = definition(&get(scheduler, &id).await?)?;
    let file = Draft::new(&before)?;
    file.edit(&editor())?;
    let kept = |failure: Failure| super::prefix(failure, &file.path.display().to_string());
    let after = read_file(&file.path).map_err(kept)?;
    if after == before {
        file.remove();
        return context
            .output
            .done(&before, &format!("{id}: nothing changed"));
    }
    check(&file.path.display().to_string(), &after)?;
    if after
        .get("id")
        .and_then(Value::as_str)
        .map(request::app_id)
        .transpose()?
        .as_deref()
        != Some(&*id)
    {
        return Err(Failure::usage(format!(
            "{}: /id: must stay {id}; another app is made with `mezzo app add`",
            file.path.display()
        )));
    }
    // What was taken out of the file is to go, so this is no partial update.
    let suffix = if args.change.force {
        "?partialUpdate=false&force=true"
    } else {
        "?partialUpdate=false"
    };
    let mut how = args.change.clone();
    how.force = false;
    let sentence = format!("{id}: updating");
    change(
        context,
        scheduler,
        Method::PUT,
        &id,
        suffix,
        Some(&after),
        &how,
        &sentence,
    )
    .await
    .map_err(kept)?;
    file.remove();
    Ok(())
}

/// The editor's command line, as other programs find it.
fn editor() -> String {
    let named = |name: &str| env::var(name).ok().filter(|text| !text.trim().is_empty());
    named("VISUAL")
        .or_else(|| named("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned())
}

struct Draft {
    directory: PathBuf,
    path: PathBuf,
}

impl Draft {
    fn new(app: &Value) -> Result<Self, Failure> {
        let name = format!("mezzo-edit-{}-{}", std::process::id(), now_ms());
        let directory = env::temp_dir().join(name);
        let path = directory.join("app.json");
        let write = || -> std::io::Result<()> {
            fs::DirBuilder::new().mode(0o700).create(&directory)?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            writeln!(file, "{app:#}")
        };
        write().map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        Ok(Self { directory, path })
    }

    /// Until the editor ends. Its command may have arguments, so a shell takes it apart.
    fn edit(&self, editor: &str) -> Result<(), Failure> {
        let status = Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(&self.path)
            .status()
            .map_err(|error| Failure::failed(format!("cannot run `{editor}`: {error}")))?;
        if status.success() {
            return Ok(());
        }
        self.remove();
        Err(Failure::failed(format!(
            "`{editor}` ended with {status}: nothing changed; another editor is named with EDITOR"
        )))
    }

    fn remove(&self) {
        remove(&self.directory);
    }
}

fn remove(directory: &Path) {
    // What cannot be removed is in the temporary directory, for the person alone.
    let _ = fs::remove_dir_all(directory);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_draft_is_for_the_person_alone_and_the_editors_word_counts() {
        use std::os::unix::fs::PermissionsExt as _;
        let draft = Draft::new(&json!({"id": "/a"})).expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&draft.directory), mode(&draft.path)), (0o700, 0o600));
        draft.edit("sed -i s,/a,/b,").expect("edited");
        assert_eq!(read_file(&draft.path).expect("JSON"), json!({"id": "/b"}));
        let refusal = draft
            .edit("false")
            .expect_err("the editor failed")
            .to_string();
        assert!(refusal.contains("nothing changed"), "{refusal}");
        assert!(!draft.directory.exists());
    }
}
