//! The tree that both package and archive hold: program, units, settings, manual pages, completions, documents.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use mezzo_integration::{images, paths, process};

use super::{Build, write};

const UNITS: &str = "usr/lib/systemd/system";
const DOCUMENTS: &str = "usr/share/doc/mezzo";

/// What the units run beside the program itself.
const HELPERS: [&str; 2] = ["mezzo-reload", "mezzo-tasks"];
/// Completion scripts, each where Debian's packages of the shells look.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/mezzo"),
    ("zsh", "usr/share/zsh/vendor-completions/_mezzo"),
    ("fish", "usr/share/fish/vendor_completions.d/mezzo.fish"),
];

/// The folder of all that is not built.
pub(super) fn packaging() -> PathBuf {
    paths::workspace().join("packaging")
}

/// The names of the units.
pub(super) fn units() -> Result<Vec<String>> {
    files_of(&packaging().join("units"))
}

/// The names of the settings files, below `etc/mezzo`.
pub(super) fn settings() -> Result<Vec<String>> {
    files_of(&packaging().join("config"))
}

/// Lays everything out below `root`.
pub(super) fn lay_out(build: &Build, program: &Path, root: &Path) -> Result<String> {
    let installed = root.join("usr/bin/mezzo");
    install(program, &installed, 0o755)?;
    // A release has no such information; it is two thirds of a program of the other kind.
    process::output(Command::new("strip").arg("--strip-debug").arg(&installed))?;
    let packaging = packaging();
    for unit in units()? {
        let from = packaging.join("units").join(&unit);
        install(&from, &root.join(UNITS).join(&unit), 0o644)?;
    }
    for name in settings()? {
        let from = packaging.join("config").join(&name);
        install(&from, &root.join("etc/mezzo").join(&name), 0o644)?;
    }
    for name in HELPERS {
        let to = root.join("usr/lib/mezzo").join(name);
        install(&packaging.join(name), &to, 0o755)?;
    }
    // Whoever made it first would make it for themselves alone, and the servers have different users.
    make_parents(&root.join("var/lib/mezzo/master"))?;
    let pages = manual_pages(&installed, &root.join("usr/share/man/man1"))?;
    for (shell, path) in COMPLETIONS {
        let script = process::output(Command::new(&installed).args(["completions", shell]))?;
        install_text(&script, &root.join(path))?;
    }
    documents(build, &root.join(DOCUMENTS))?;
    Ok(format!("{pages} manual pages"))
}

/// A copy with all folders above it. Whatever the umask: files as told, folders for all to read.
pub(super) fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    make_parents(to)?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    set_mode(to, mode)
}

/// `gzip` as Debian wants it: best, without name and time. The file gets the ending `.gz`.
pub(super) fn gzip(path: &Path) -> Result<()> {
    process::output(Command::new("gzip").args(["-9", "-n", "-f"]).arg(path)).map(drop)
}

fn install_text(text: &str, to: &Path) -> Result<()> {
    make_parents(to)?;
    write(to, text)?;
    set_mode(to, 0o644)
}

fn make_parents(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|dir| !dir.exists())
        .collect();
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))?;
        set_mode(dir, 0o755)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// The program writes its own, one per verb.
fn manual_pages(program: &Path, dir: &Path) -> Result<usize> {
    make_parents(&dir.join("page"))?;
    process::output(Command::new(program).arg("man").arg(dir))?;
    let pages = files_of(dir)?;
    if pages.len() < 2 {
        bail!("{} man wrote {} pages", program.display(), pages.len());
    }
    for page in &pages {
        set_mode(&dir.join(page), 0o644)?;
        gzip(&dir.join(page))?;
    }
    Ok(pages.len())
}

fn documents(build: &Build, dir: &Path) -> Result<()> {
    install(
        &packaging().join("debian/copyright"),
        &dir.join("copyright"),
        0o644,
    )?;
    install_text(&linked_crates()?, &dir.join("libraries.txt"))?;
    install(
        &paths::workspace().join("docs/install.md"),
        &dir.join("install.md"),
        0o644,
    )?;
    let changes = dir.join("changelog");
    install(&paths::workspace().join("CHANGELOG.md"), &changes, 0o644)?;
    gzip(&changes)?;
    let revisions = dir.join("changelog.Debian");
    install_text(&debian_changelog(build)?, &revisions)?;
    gzip(&revisions)
}

/// Debian's own form, of the one revision that this is.
fn debian_changelog(build: &Build) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", &format!("--date=@{}", build.epoch)]);
    let date = process::output(&mut date)?;
    let control = super::deb::control_template()?;
    let maintainer = control
        .lines()
        .find_map(|line| line.strip_prefix("Maintainer: "))
        .context("packaging/debian/control names no maintainer")?;
    Ok(format!(
        "mezzo ({}) unstable; urgency=medium\n\n  * Built from the sources of that version; its changes are in changelog.gz.\n\n -- {maintainer}  {}\n",
        Build::package_version(),
        date.trim()
    ))
}

/// Every crate that is linked in, with version and licence.
fn linked_crates() -> Result<String> {
    let mut command = images::cargo();
    command.args([
        "tree",
        "--locked",
        "--package",
        "mezzo",
        "--edges",
        "normal",
    ]);
    command.args(["--prefix", "none", "--format", "{p}\t{l}"]);
    Ok(list_crates(&process::output(&mut command)?))
}

/// Without what is ours (named with its path) and what only runs at compile time. Pure.
fn list_crates(told: &str) -> String {
    let lines: BTreeSet<String> = told
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.contains(" (proc-macro)") && !line.contains(" (/"))
        .map(|line| line.replace('\t', "  "))
        .collect();
    let lines: Vec<String> = lines.into_iter().collect();
    format!(
        "The crates that mezzo is linked with, from https://crates.io, with their licences:\n\n{}\n",
        lines.join("\n")
    )
}

/// The names of the files in a folder, sorted.
fn files_of(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let name = entry
            .with_context(|| format!("list {}", dir.display()))?
            .file_name();
        let name = name.into_string();
        names.push(name.map_err(|name| anyhow::anyhow!("{} is not UTF-8", name.display()))?);
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_crates_has_each_once_and_no_path() {
        let told = "mezzo v0.1.0 (/home/a/cli)\tApache-2.0\nb v1.0.0\tMIT\na v2.0.0\tMIT\nb v1.0.0\tMIT (*)\n\
                    c v1.0.0 (proc-macro)\tMIT\n";
        let list = list_crates(told);
        assert!(
            list.ends_with(":\n\na v2.0.0  MIT\nb v1.0.0  MIT\n"),
            "{list}"
        );
    }

    #[test]
    fn the_units_run_files_that_are_in_the_package() {
        let units = units().expect("the units");
        assert_eq!(
            units,
            [
                "mezzo-agent.service",
                "mezzo-master.service",
                "mezzo-scheduler.service",
                "mezzo-tasks.service"
            ]
        );
        for unit in units {
            let path = packaging().join("units").join(&unit);
            let text = fs::read_to_string(&path).expect("a unit");
            let start = text
                .lines()
                .find_map(|line| line.strip_prefix("ExecStart="))
                .expect("a command");
            let words: Vec<&str> = start.split(' ').collect();
            match words.as_slice() {
                ["/usr/lib/mezzo/mezzo-tasks", "hold"] => {}
                ["/usr/bin/mezzo", verb, "--config", settings] => {
                    assert_eq!(unit, format!("mezzo-{verb}.service"));
                    let name = settings.strip_prefix("/etc/mezzo/").expect("our folder");
                    assert!(packaging().join("config").join(name).is_file(), "{name}");
                }
                other => panic!("{unit} starts {other:?}"),
            }
            // Nothing else of the machine's is needed for whatever a unit runs.
            let commands = text.lines().filter_map(|line| {
                let (name, command) = line.split_once('=')?;
                name.starts_with("Exec").then_some(command)
            });
            for command in commands {
                let program = command.split(' ').next().unwrap_or_default();
                let helper = program.strip_prefix("/usr/lib/mezzo/");
                assert!(
                    program == "/usr/bin/mezzo"
                        || helper.is_some_and(|name| HELPERS.contains(&name)),
                    "{unit} runs {program}"
                );
            }
        }
    }

    #[test]
    fn the_agents_settings_name_the_unit_that_holds_the_tasks() {
        let agent = fs::read_to_string(packaging().join("config/agent.toml")).expect("settings");
        assert!(agent.contains("\ncgroup_parent = \"/system.slice/mezzo-tasks.service\"\n"));
        let unit = packaging().join("units/mezzo-agent.service");
        let unit = fs::read_to_string(unit).expect("the agent's unit");
        for line in [
            "Wants=mezzo-tasks.service",
            "After=mezzo-tasks.service",
            "PartOf=mezzo-tasks.service",
        ] {
            assert!(unit.contains(line), "{line}");
        }
    }
}
