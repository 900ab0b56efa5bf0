//! `cargo xtask test vagrant`: whether `vagrant/` can work, without starting a machine.
//!
//! The scripts by shellcheck, the Vagrantfile by its own tests and by `vagrant validate`. Of the providers, libvirt is
//! Debian's own; VirtualBox is played by a program that tells its version, which is all that validation asks of it;
//! VMware's plug-in cannot be had freely, so that `vagrant/test.rb` alone looks at its settings. What is not installed
//! is left out, and said aloud: nobody needs vagrant to work on the rest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use mezzo_integration::{paths, process};

use crate::setup::{self, Need};

/// Presets that make machines; `vagrant/test.rb` knows whether these are all.
const PRESETS: [&str; 2] = ["1+1", "1+3"];
const PROVIDERS: [&str; 2] = ["libvirt", "virtualbox"];

/// Looks at everything, and returns a sentence on what was looked at.
pub(crate) fn check() -> Result<String> {
    if let Err(error) = setup::ensure(&[Need::Vagrant]) {
        println!("  {error:#}");
    }
    let mut done = Vec::new();
    let mut left_out = Vec::new();
    let mut part = |program: &'static str, run: &dyn Fn() -> Result<String>| -> Result<()> {
        if paths::on_path(program).is_some() {
            done.push(run()?);
        } else {
            println!("  SKIPPED: {program} is not installed");
            left_out.push(program);
        }
        Ok(())
    };
    part("shellcheck", &scripts)?;
    part("ruby", &tests_in_ruby)?;
    part("vagrant", &vagrant)?;
    if !left_out.is_empty() {
        done.push(format!("SKIPPED for want of {}", left_out.join(", ")));
    }
    Ok(done.join("; "))
}

fn folder() -> PathBuf {
    paths::workspace().join("vagrant")
}

fn scripts() -> Result<String> {
    for script in ["provision.sh", "smoke.sh"] {
        process::output(Command::new("shellcheck").arg(script).current_dir(folder()))?;
    }
    Ok("scripts".to_owned())
}

fn tests_in_ruby() -> Result<String> {
    let told = process::output(Command::new("ruby").arg("test.rb").current_dir(folder()))?;
    Ok(format!(
        "Vagrantfile: {}",
        told.lines().last().unwrap_or_default()
    ))
}

fn vagrant() -> Result<String> {
    let scratch = Scratch::create()?;
    let mut validated = Vec::new();
    for provider in PROVIDERS {
        match PRESETS
            .iter()
            .try_for_each(|preset| validate(&scratch, provider, preset))
        {
            Ok(()) => validated.push(provider),
            // Vagrant from elsewhere than Debian comes without it.
            Err(error) if format!("{error:#}").contains("could not be found") => {
                println!("  SKIPPED: vagrant has no plug-in for {provider}");
            }
            Err(error) => return Err(error),
        }
    }
    // Asked of VirtualBox, which is not there: nothing could start even if it went on.
    refuses(
        scratch
            .vagrant("virtualbox")
            .env("MEZZO_PRESET", "3+5")
            .arg("up"),
        "mezzo does not have that yet",
    )?;
    refuses(
        scratch
            .vagrant("virtualbox")
            .env("MEZZO_DEB", "/nonexistent.deb")
            .arg("up"),
        "there is no such file",
    )?;
    Ok(format!("validated for {}", validated.join(" and ")))
}

fn validate(scratch: &Scratch, provider: &str, preset: &str) -> Result<()> {
    let mut command = scratch.vagrant(provider);
    command.env("MEZZO_PRESET", preset).arg("validate");
    process::output(&mut command)
        .map(drop)
        .with_context(|| format!("preset {preset}, provider {provider}"))
}

/// It fails, and says why.
fn refuses(command: &mut Command, sentence: &str) -> Result<()> {
    let line = process::command_line(command);
    match process::output(command) {
        Ok(_) => bail!("`{line}` was to be refused"),
        Err(error) if format!("{error:#}").contains(sentence) => Ok(()),
        Err(error) => Err(error.context(format!("not refused with \"{sentence}\""))),
    }
}

/// Everything that vagrant writes; removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Self> {
        let dir = paths::target()?.join(format!("vagrant-{}", std::process::id()));
        let scratch = Self(dir);
        scratch.add_virtualbox()?;
        fs::create_dir_all(scratch.tmp())
            .with_context(|| format!("create {}", scratch.0.display()))?;
        Ok(scratch)
    }

    /// Vagrant believes that VirtualBox is there when this answers.
    fn add_virtualbox(&self) -> Result<()> {
        let path = self.bin().join("VBoxManage");
        fs::create_dir_all(self.bin())
            .and_then(|()| fs::write(&path, "#!/bin/sh\necho 7.0.20r163906\n"))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", path.display()))
    }

    fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// `vagrant` for one provider, away from the person's own boxes, machines and settings.
    fn vagrant(&self, provider: &str) -> Command {
        let mut command = Command::new("vagrant");
        command.current_dir(folder());
        for name in ["MEZZO_PRESET", "MEZZO_BOX", "MEZZO_DEB", "VAGRANT_CWD"] {
            command.env_remove(name);
        }
        command
            .env("VAGRANT_DEFAULT_PROVIDER", provider)
            .env("VAGRANT_HOME", self.0.join("home"))
            .env("VAGRANT_DOTFILE_PATH", self.0.join("machines"))
            .env("VAGRANT_CHECKPOINT_DISABLE", "1")
            .env("HOME", &self.0)
            .env("TMPDIR", self.tmp())
            .env("PATH", in_front(&self.bin()));
        command
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// The PATH with one more folder before all others.
fn in_front(dir: &Path) -> std::ffi::OsString {
    let mut path = dir.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_must_fail_and_say_why() {
        let sh = |code: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", code]);
            command
        };
        assert!(refuses(&mut sh("echo no such luck >&2; exit 1"), "no such luck").is_ok());
        assert!(refuses(&mut sh("echo other >&2; exit 1"), "no such luck").is_err());
        assert!(refuses(&mut sh("echo no such luck >&2"), "no such luck").is_err());
    }
}
