//! The Debian package: the tree, and beside it what dpkg wants to know. `dpkg-deb` does the rest.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use mezzo_integration::process;

use super::{Build, libraries, tree, write};
use crate::Profile;

/// Scripts that dpkg runs, from `packaging/debian`.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the package from the tree at `root`, to which it adds a folder and takes it away again.
pub(super) fn build(build: &Build, root: &Path) -> Result<()> {
    // Before the folder is there: neither sums nor size are to count it.
    let sums = checksums(root)?;
    let control = control(build, root)?;
    let dir = root.join("DEBIAN");
    for script in SCRIPTS {
        let from = tree::packaging().join("debian").join(script);
        tree::install(&from, &dir.join(script), 0o755)?;
    }
    let conffiles = tree::settings()?
        .iter()
        .map(|name| format!("/etc/mezzo/{name}\n"))
        .collect::<String>();
    for (name, text) in [
        ("control", control),
        ("conffiles", conffiles),
        ("md5sums", sums),
    ] {
        write(&dir.join(name), &text)?;
    }
    let mut command = Command::new("dpkg-deb");
    command.env("SOURCE_DATE_EPOCH", build.epoch.to_string());
    command.args(["--root-owner-group", "-Zxz"]);
    if build.profile == Profile::Dev {
        command.arg("-z1");
    }
    command.arg("--build").arg(root).arg(build.deb());
    process::output(&mut command)?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// `packaging/debian/control`, with `@NAME@` where something is to be put in.
pub(super) fn control_template() -> Result<String> {
    let path = tree::packaging().join("debian/control");
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn control(build: &Build, root: &Path) -> Result<String> {
    let values = [
        ("VERSION", Build::package_version()),
        ("ARCHITECTURE", build.architecture.clone()),
        ("INSTALLED_SIZE", installed_size(root)?.to_string()),
        (
            "LIBRARIES",
            libraries::depends(&root.join("usr/bin/mezzo"))?,
        ),
    ];
    fill(&control_template()?, &values)
}

/// Puts values in. Pure.
fn fill(template: &str, values: &[(&str, String)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        let mark = format!("@{name}@");
        if !text.contains(&mark) {
            bail!("packaging/debian/control has no {mark}");
        }
        text = text.replace(&mark, value);
    }
    let fields = text.lines().filter(|line| !line.starts_with("Maintainer:"));
    match fields.into_iter().find(|line| line.contains('@')) {
        Some(line) => bail!("nothing to put into `{line}` of packaging/debian/control"),
        None => Ok(text),
    }
}

/// In KiB, as Debian's policy counts: each file rounded up, each folder as one.
fn installed_size(root: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let entry = entry.with_context(|| format!("list {}", root.display()))?;
        let path = entry.path();
        let found = entry
            .metadata()
            .with_context(|| format!("look at {}", path.display()))?;
        size += if found.is_dir() {
            1 + installed_size(&path)?
        } else {
            found.len().div_ceil(1024)
        };
    }
    Ok(size)
}

/// Of every file that is not settings: a person may change those.
fn checksums(root: &Path) -> Result<String> {
    let script = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    process::output(Command::new("sh").args(["-c", script]).current_dir(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_of_the_control_file_is_filled() {
        let values = ["VERSION", "ARCHITECTURE", "INSTALLED_SIZE", "LIBRARIES"]
            .map(|name| (name, format!("<{name}>")));
        let filled = fill(&control_template().expect("the control file"), &values).expect("filled");
        assert!(
            filled.contains("\nDepends: <LIBRARIES>, ca-certificates, passwd\n"),
            "{filled}"
        );
        assert!(filled.ends_with('\n'));
        assert!(fill("Version: @VERSION@\nDepends: @LIBRARIES@\n", &values[..1]).is_err());
        assert!(fill("Version: 1\n", &values[..1]).is_err());
    }

    #[test]
    fn scripts_stop_at_the_first_error_and_never_restart_tasks() {
        for name in SCRIPTS {
            let path = tree::packaging().join("debian").join(name);
            let script = fs::read_to_string(path).expect("a script");
            assert!(script.contains("\nset -e\n"), "{name}");
            let restarts = script.lines().filter(|line| line.contains("restart"));
            for line in restarts.filter(|line| !line.trim_start().starts_with('#')) {
                assert!(!line.contains("mezzo-tasks"), "{name}: {line}");
            }
        }
    }
}
