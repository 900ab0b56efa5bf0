//! Seccomp and AppArmor profiles: which ones this machine's operator lets tasks ask for, by name. Seccomp profiles are files
//! `NAME.json` of a folder, read when a task starts; AppArmor's are loaded into the kernel by whoever runs the machine.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mezzo_api::model::{ProfileName, Reason, TaskInfo};
use mezzo_runtime::SeccompProfile;

/// Longest file that is read; the runtime's own bound is below.
const MAX_FILE: u64 = 1 << 20;

/// What the operator offers.
#[derive(Debug, Clone)]
pub(crate) struct Profiles {
    seccomp_dir: Option<Arc<Path>>,
    apparmor: Arc<[String]>,
}

/// The profiles of one task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walls {
    pub(crate) seccomp: Option<SeccompProfile>,
    pub(crate) apparmor: Option<String>,
}

impl Profiles {
    pub(crate) fn new(seccomp_dir: Option<PathBuf>, apparmor: Vec<String>) -> Self {
        Self {
            seccomp_dir: seccomp_dir.map(Into::into),
            apparmor: apparmor.into(),
        }
    }

    /// Whether a task asks for any.
    pub(crate) fn are_wanted_by(info: &TaskInfo) -> bool {
        info.container.seccomp_profile.is_some() || info.container.apparmor_profile.is_some()
    }

    /// What a task asks for; the error is for its status and names field and profile. Reads files.
    pub(crate) fn of(&self, info: &TaskInfo) -> Result<Walls, (Reason, String)> {
        let container = &info.container;
        let seccomp = container.seccomp_profile.as_ref();
        let seccomp = seccomp.map(|name| self.seccomp(name)).transpose();
        let seccomp = seccomp.map_err(|problem| {
            (
                Reason::TaskInvalid,
                format!("container.seccomp_profile: {problem}"),
            )
        })?;
        let apparmor = container.apparmor_profile.clone();
        if let Some(name) = &apparmor
            && !self.apparmor.contains(name)
        {
            return Err((
                Reason::TaskUnauthorized,
                format!(
                    "container.apparmor_profile: this agent's operator does not let tasks ask for {name:?} (apparmor_profiles)"
                ),
            ));
        }
        Ok(Walls { seccomp, apparmor })
    }

    fn seccomp(&self, name: &ProfileName) -> Result<SeccompProfile, String> {
        let Some(folder) = &self.seccomp_dir else {
            return Err("this agent has no folder with profiles (seccomp_dir)".to_owned());
        };
        let path = folder.join(format!("{name}.json"));
        let text = read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let profile =
            SeccompProfile::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let unknown = profile.unknown_calls();
        if !unknown.is_empty() {
            tracing::warn!(path = %path.display(), ?unknown, "a seccomp profile names calls that this machine does not know: newer ones, or misspelt");
        }
        Ok(profile)
    }
}

/// The whole file, or a byte more than is read of one.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::a_task;

    #[test]
    fn a_profile_is_found_by_its_name_and_what_is_wrong_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("open.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
        write("bad.json", r#"{"defaultAction": "SCMP_ACT_FROWN"}"#);
        let profiles = Profiles::new(Some(dir.path().into()), vec!["web".to_owned()]);
        let of = |profiles: &Profiles, seccomp: Option<&str>, apparmor: Option<&str>| {
            let mut task = a_task("t");
            task.container.seccomp_profile = seccomp.map(|name| name.parse().unwrap());
            task.container.apparmor_profile = apparmor.map(str::to_owned);
            profiles.of(&task)
        };
        let walls = of(&profiles, Some("open"), Some("web")).unwrap();
        assert!(walls.seccomp.is_some() && walls.apparmor.as_deref() == Some("web"));
        let refuse = |profiles: &Profiles, seccomp, apparmor, word: &str| {
            let (reason, message) = of(profiles, seccomp, apparmor).unwrap_err();
            assert!(message.contains(word), "{message}");
            reason
        };
        let reason = refuse(&profiles, Some("bad"), None, "SCMP_ACT_FROWN");
        assert_eq!(reason, Reason::TaskInvalid);
        refuse(&profiles, Some("missing"), None, "missing.json");
        let reason = refuse(&profiles, None, Some("unconfined"), "apparmor_profiles");
        assert_eq!(reason, Reason::TaskUnauthorized);
        let none = Profiles::new(None, Vec::new());
        refuse(&none, Some("open"), None, "seccomp_dir");
    }
}
