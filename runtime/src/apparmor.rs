//! AppArmor, where the kernel has it: the default profile, which is loaded when a runtime is opened, and which profiles
//! there are. libcontainer's init puts a program under its profile as the last thing before it is executed.
//!
//! When a process comes under a profile the kernel clears its parent-death signal (`apparmor_bprm_committing_creds`): of a
//! keeper that dies while no runtime is open, a confined container runs on until the next one is, and ends it. So it is off
//! unless asked for.
//!
//! The profile is a second wall behind masked paths, read-only mounts, capabilities and seccomp. What it denies no
//! capability gives back.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::{ContainerSpec, GroupPart};
use crate::spec::validate::BadSpec;

/// Which profile containers get that do not name one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// [`DEFAULT`], where the kernel has AppArmor and `apparmor_parser` is installed; else none, with a word in the log.
    Auto,
    /// None.
    #[default]
    Off,
    /// This one, which must be loaded.
    Profile(String),
}

/// The name of the profile that comes with the runtime.
pub const DEFAULT: &str = "mezzo-default";

/// What stands for no profile at all.
const UNCONFINED: &str = "unconfined";

/// May do what files and capabilities let it, but: mount; write to the kernel's settings; look at or signal processes that
/// are not of a container.
const TEXT: &str = "
profile mezzo-default flags=(attach_disconnected, mediate_deleted) {
  capability,
  file,
  network,
  umount,
  deny mount,

  signal (receive) peer=unconfined,
  signal (send, receive) peer=mezzo-default,
  ptrace (trace, read, tracedby, readby) peer=mezzo-default,

  deny /proc/{kcore,kmem,mem,kmsg,sysrq-trigger,kallsyms,acpi/**,bus/**,fs/**,irq/**,scsi/**} wklx,
  deny /proc/sys/{abi,debug,dev,user,vm}/** w,
  deny /proc/sys/fs/[^m]** w,
  deny /proc/sys/kernel/[^ms]** w,
  deny /proc/sys/kernel/{modprobe,modules_disabled,sched*,softlockup*,stack*,sysrq,sysctl*} w,

  deny /sys/{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// Where administrators' programs are, whatever our PATH says.
const PARSERS: [&str; 4] = [
    "/usr/sbin/apparmor_parser",
    "/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
    "/bin/apparmor_parser",
];
const PARSER_DEADLINE: Duration = Duration::from_secs(30);

/// How far AppArmor is of use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// The kernel has none, or it is switched off.
    None,
    /// It is on, but nothing can be told to it: this is missing.
    Without(&'static str),
    /// It is on, and this is the parser.
    Ready(&'static str),
}

/// Looks.
pub(crate) fn support() -> Support {
    if !fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y')) {
        return Support::None;
    }
    if fs::metadata(PROFILES).is_err() {
        return Support::Without("securityfs is not mounted on /sys/kernel/security");
    }
    match PARSERS.into_iter().find(|path| fs::metadata(path).is_ok()) {
        Some(parser) => Support::Ready(parser),
        None => Support::Without("apparmor_parser is not installed"),
    }
}

/// The profile for containers that name none; loads the default one.
///
/// # Errors
///
/// What is wrong with the configuration.
pub(crate) fn set_up(wanted: &AppArmor) -> Result<Option<String>, String> {
    match wanted {
        AppArmor::Off => Ok(None),
        AppArmor::Profile(name) => is_loaded(name).map(|()| Some(name.clone())),
        AppArmor::Auto => match support() {
            Support::None => Ok(None),
            Support::Without(what) => {
                tracing::warn!(
                    "containers are not confined by AppArmor, which this kernel has: {what}"
                );
                Ok(None)
            }
            Support::Ready(parser) => match load(parser) {
                Ok(()) => Ok(Some(DEFAULT.to_owned())),
                Err(error) => {
                    tracing::warn!(%error, parser, "containers are not confined by AppArmor: its profile was not loaded");
                    Ok(None)
                }
            },
        },
    }
}

/// Gives a container that is to be started its profile: the one it names, or `default`. What comes of it is what its record
/// says, so that programs executed in it later are under the same.
pub(crate) fn confine(spec: &mut ContainerSpec, default: Option<&str>) -> Result<(), BadSpec> {
    let executes = !matches!(spec.group, Some(GroupPart::Holder));
    spec.apparmor = match spec.apparmor.take() {
        None if spec.privileged || !executes => None,
        None => default.map(str::to_owned),
        Some(name) if name == UNCONFINED => None,
        Some(name) => {
            is_loaded(&name).map_err(|problem| BadSpec {
                field: "apparmor".to_owned(),
                problem,
            })?;
            Some(name)
        }
    };
    Ok(())
}

/// Whether there is such a profile; the error is for whoever named it.
fn is_loaded(name: &str) -> Result<(), String> {
    let profiles = match fs::read_to_string(PROFILES) {
        Ok(profiles) => profiles,
        Err(error) => {
            return Err(format!(
                "AppArmor is not to be had here: {PROFILES}: {error}"
            ));
        }
    };
    if names(&profiles).any(|known| known == name) {
        return Ok(());
    }
    Err(format!(
        "no AppArmor profile {name:?} is loaded; load it with apparmor_parser -r"
    ))
}

/// Of lines like `mezzo-default (enforce)`.
fn names(profiles: &str) -> impl Iterator<Item = &str> {
    profiles
        .lines()
        .filter_map(|line| Some(line.rsplit_once(" (")?.0))
}

/// Puts the default profile in force, over one of its name.
fn load(parser: &str) -> io::Result<()> {
    // Neither a cache, which we do not own, nor a configuration of the machine's.
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let told = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(TEXT.as_bytes()));
    let status = await_end(&mut child)?;
    told?;
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(1000).read_to_string(&mut words)?;
    }
    Err(io::Error::other(format!("{status}: {}", words.trim())))
}

fn await_end(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let limit = Instant::now() + PARSER_DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_with_spaces_in_their_names() {
        let text = "/usr/bin/man (enforce)\nmezzo-default (enforce)\nodd (name) (complain)\n\n";
        let read: Vec<&str> = names(text).collect();
        assert_eq!(read, ["/usr/bin/man", "mezzo-default", "odd (name)"]);
    }
}
