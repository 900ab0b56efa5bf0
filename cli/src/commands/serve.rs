//! `mezzo master|agent|scheduler`: settings from file and flags, logging, signals, and the server until it ends.
//!
//! The settings file is TOML with the fields of the server's `Config`. Flags are laid over it before it is checked,
//! so that a wrong value is refused in the same words wherever it stands.

use std::{fs, io::IsTerminal as _, path::Path, sync::Arc, time::Duration};

use nix::{sys::signal::Signal, unistd};
use serde::de::DeserializeOwned;
use tokio::{
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    sync::Notify,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use toml::{Table, Value};

use crate::{
    args::server::{AgentArgs, LogArgs, LogFormat, MasterArgs, SchedulerArgs, ServerArgs},
    failure::{Failure, chain},
    request,
};

/// A server that was told to stop and has not stopped after this long is left where it is.
const STOP_DEADLINE: Duration = Duration::from_secs(25);

pub(crate) fn master(args: &MasterArgs) -> Result<(), Failure> {
    mezzo_heap::choose_for_server();
    let mut flags = base(&args.server)?;
    add_place(&mut flags, args.store.as_ref(), args.advertise.as_deref())?;
    if let Some(file) = &args.credentials {
        let file = file.display().to_string();
        flags.insert("credentials".to_owned(), Value::String(file));
    }
    if args.allow_anonymous {
        flags.insert("allow_anonymous".to_owned(), Value::Boolean(true));
    }
    let config: mezzo_master::Config = settings(args.server.config.as_deref(), flags)?;
    serve("master", &args.server.log, |shutdown| {
        reloading(|again| mezzo_master::run_reloading(config, shutdown, again))
    })
}

/// Runs a server that can read its credentials again, and tells it to with each SIGHUP.
async fn reloading<F, E>(run: impl FnOnce(Arc<Notify>) -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let again = Arc::new(Notify::new());
    let server = run(Arc::clone(&again));
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => tokio::select! {
            result = server => result,
            () = async {
                while hangup.recv().await.is_some() {
                    again.notify_one();
                }
                std::future::pending().await
            } => Ok(()),
        },
        Err(error) => {
            tracing::warn!(%error, "cannot watch for SIGHUP: credentials are read at the start alone");
            server.await
        }
    }
}

pub(crate) fn agent(args: &AgentArgs, master: Option<&str>) -> Result<(), Failure> {
    let mut flags = base(&args.server)?;
    add_master(&mut flags, master)?;
    let mut set = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            flags.insert(name.to_owned(), Value::String(value.clone()));
        }
    };
    set("resources", args.resources.as_ref());
    set("hostname", args.hostname.as_ref());
    set("cgroup_parent", args.cgroup_parent.as_ref());
    if !args.insecure_registry.is_empty() {
        let registries = args
            .insecure_registry
            .iter()
            .map(|one| request::registry(one));
        let registries = registries
            .map(|one| one.map(Value::String))
            .collect::<Result<Vec<_>, _>>()?;
        flags.insert("insecure_registries".to_owned(), Value::Array(registries));
    }
    if !args.attribute.is_empty() {
        let attributes = request::pairs("--attribute", &args.attribute)?
            .into_iter()
            .map(|(name, value)| {
                let pair = [
                    ("name".to_owned(), Value::String(name)),
                    ("value".to_owned(), Value::String(value)),
                ];
                Value::Table(pair.into_iter().collect())
            });
        flags.insert("attributes".to_owned(), Value::Array(attributes.collect()));
    }
    if !args.allow_capability.is_empty() {
        let names = args
            .allow_capability
            .iter()
            .map(|name| request::capability("--allow-capability", name).map(Value::String))
            .collect::<Result<Vec<_>, _>>()?;
        flags.insert("allow_capabilities".to_owned(), Value::Array(names));
    }
    if args.oversubscribe {
        flags.insert("oversubscribe".to_owned(), Value::Boolean(true));
    }
    if args.kill_tasks_on_shutdown {
        flags.insert("kill_tasks_on_shutdown".to_owned(), Value::Boolean(true));
    }
    if let Some(address) = &args.advertise {
        let address = request::address("--advertise", address)?;
        flags.insert("advertise".to_owned(), Value::String(address));
    }
    let config: mezzo_agent::Config = settings(args.server.config.as_deref(), flags)?;
    need_host("mezzo agent")?;
    let deadline = config.stop_deadline();
    serve_for("agent", &args.server.log, deadline, |shutdown| {
        reloading(|again| mezzo_agent::run_reloading(config, shutdown, again))
    })
}

pub(crate) fn scheduler(args: &SchedulerArgs, master: Option<&str>) -> Result<(), Failure> {
    let mut flags = base(&args.server)?;
    add_master(&mut flags, master)?;
    add_place(&mut flags, args.store.as_ref(), args.advertise.as_deref())?;
    for (key, value) in [
        ("role", &args.role),
        ("new_group_enforce_role", &args.new_group_enforce_role),
    ] {
        if let Some(value) = value {
            flags.insert(key.to_owned(), Value::String(value.clone()));
        }
    }
    let config: mezzo_scheduler::Config = settings(args.server.config.as_deref(), flags)?;
    serve("scheduler", &args.server.log, |shutdown| {
        reloading(|again| mezzo_scheduler::run_reloading(config, shutdown, again))
    })
}

/// Root and a kernel with all that containers need: one line instead of a hundred errors about cgroups and mounts.
pub(crate) fn need_host(verb: &str) -> Result<(), Failure> {
    if !unistd::geteuid().is_root() {
        return Err(Failure::failed(format!(
            "{verb} needs root to make containers: run it as `sudo {verb}`"
        )));
    }
    let checks = mezzo_runtime::inspect_host().checks.into_iter();
    let missing = checks.filter(|check| check.state == mezzo_runtime::CheckState::Missing);
    let missing: Vec<String> = missing
        .map(|check| format!("{}: {}; {}", check.name, check.found, check.fix))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let lines = missing.join("\n  ");
    Err(Failure::failed(format!(
        "{verb} cannot run containers on this machine (`mezzo doctor` tells more):\n  {lines}"
    )))
}

fn add_master(flags: &mut Table, master: Option<&str>) -> Result<(), Failure> {
    if let Some(master) = master.filter(|text| !text.is_empty()) {
        flags.insert(
            "master".to_owned(),
            Value::String(request::masters(master)?),
        );
    }
    Ok(())
}

/// Of a server that may be one of several.
fn add_place(
    flags: &mut Table,
    store: Option<&String>,
    advertise: Option<&str>,
) -> Result<(), Failure> {
    if let Some(store) = store {
        flags.insert("store".to_owned(), Value::String(store.clone()));
    }
    if let Some(address) = advertise {
        let address = request::address("--advertise", address)?;
        flags.insert("advertise".to_owned(), Value::String(address));
    }
    Ok(())
}

/// The flags that all servers have, as settings.
fn base(args: &ServerArgs) -> Result<Table, Failure> {
    let mut flags = Table::new();
    if let Some(listen) = &args.listen {
        flags.insert(
            "listen".to_owned(),
            Value::String(request::address("--listen", listen)?),
        );
    }
    if let Some(dir) = &args.state_dir {
        let dir = std::path::absolute(dir)
            .map_err(|error| Failure::usage(format!("--state-dir {}: {error}", dir.display())))?;
        let text = dir
            .to_str()
            .ok_or_else(|| Failure::usage(format!("--state-dir {}: not UTF-8", dir.display())))?;
        flags.insert("state_dir".to_owned(), Value::String(text.to_owned()));
    }
    Ok(flags)
}

/// Settings from a file, with flags laid over them.
pub(super) fn settings<T: DeserializeOwned>(
    file: Option<&Path>,
    flags: Table,
) -> Result<T, Failure> {
    let mut table = match file {
        None => Table::new(),
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!(
                    "cannot read the settings {}: {error}",
                    path.display()
                ))
            })?;
            // The file is checked by itself first, so that errors name its lines.
            let check: Result<T, toml::de::Error> = toml::from_str(&text);
            check
                .map_err(|error| Failure::usage(format!("settings {}: {error}", path.display())))?;
            toml::from_str(&text)
                .map_err(|error| Failure::usage(format!("settings {}: {error}", path.display())))?
        }
    };
    table.extend(flags);
    T::deserialize(Value::Table(table)).map_err(|error| {
        let error = error.to_string();
        Failure::usage(format!("settings: {}", error.trim().replace('\n', " ")))
    })
}

/// Runs a server until it ends by itself or is told to.
fn serve<F, E>(
    name: &str,
    log: &LogArgs,
    run: impl FnOnce(CancellationToken) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error,
{
    serve_for(name, log, STOP_DEADLINE, run)
}

/// The same, for one that may take so long to stop.
fn serve_for<F, E>(
    name: &str,
    log: &LogArgs,
    deadline: Duration,
    run: impl FnOnce(CancellationToken) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error,
{
    start_logging(log)?;
    if let Some(parent) = log.die_with {
        die_with(parent)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(name)
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the event loop: {error}")))?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let failed =
            |error: std::io::Error| Failure::failed(format!("cannot watch for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut server = std::pin::pin!(run(shutdown.clone()));
        let told = tokio::select! {
            result = &mut server => Some(result),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let result = match told {
            Some(result) => result,
            None => {
                tracing::info!("told to stop");
                shutdown.cancel();
                stop(name, server, deadline, &mut interrupt).await?
            }
        };
        result.map_err(|error| Failure::failed(format!("{name}: {}", chain(&error))))
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Waits for a server that was told to stop: until it has, a deadline, or a second Ctrl-C.
async fn stop<T>(
    name: &str,
    server: impl Future<Output = T>,
    deadline: Duration,
    interrupt: &mut SignalStream,
) -> Result<T, Failure> {
    let begin = Instant::now();
    let mut server = std::pin::pin!(tokio::time::timeout(deadline, server));
    loop {
        tokio::select! {
            result = &mut server => return result.map_err(|_| {
                Failure::failed(format!("{name}: did not stop within {} s", deadline.as_secs()))
            }),
            // What comes at once is the same wish again, sent to us and to our group.
            _ = interrupt.recv() => if begin.elapsed() > Duration::from_secs(1) {
                return Err(Failure::failed(format!("{name}: told twice to stop, left at once")));
            },
        }
    }
}

fn start_logging(args: &LogArgs) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .parse(&args.log)
        .map_err(|error| {
            Failure::usage(format!(
                "--log `{}`: {error}; give one like info or info,mezzo_master=debug",
                args.log
            ))
        })?;
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour);
    let started = match args.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Failure::failed(format!("cannot start logging: {error}")))
}

/// `mezzo dev` must not leave servers behind, not even when it is killed.
fn die_with(parent: i32) -> Result<(), Failure> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| {
        Failure::failed(format!("cannot tie our life to process {parent}: {error}"))
    })?;
    // It may have died before the line above.
    if unistd::getppid().as_raw() == parent {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "process {parent} is not our parent any more"
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        listen: String,
        state_dir: String,
        weight: u32,
    }

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn flags_win_over_the_file() {
        let (_dir, path) = file("listen = \"a:1\"\nweight = 3\n");
        let mut flags = Table::new();
        flags.insert("listen".into(), Value::String("b:2".into()));
        let settings: Settings = settings(Some(&path), flags).unwrap();
        assert_eq!(
            settings,
            Settings {
                listen: "b:2".into(),
                state_dir: String::new(),
                weight: 3
            }
        );
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_line() {
        for (text, part) in [
            ("weigth = 3\n", "weigth"),
            ("\nweight = \"x\"\n", "line 2"),
            ("weight = \n", "line 1"),
        ] {
            let (_dir, path) = file(text);
            let failure = settings::<Settings>(Some(&path), Table::new()).unwrap_err();
            assert!(matches!(failure, Failure::Usage(_)));
            assert!(failure.to_string().contains(part), "{failure}");
            assert!(failure.to_string().contains("x.toml"), "{failure}");
        }
    }

    #[test]
    fn a_settings_file_that_is_not_there_is_named() {
        let failure =
            settings::<Settings>(Some(Path::new("/nonexistent/x.toml")), Table::new()).unwrap_err();
        assert!(
            failure
                .to_string()
                .starts_with("cannot read the settings /nonexistent/x.toml"),
            "{failure}"
        );
    }

    /// A settings file of the package, as it is and with each `#key = value` line put into force.
    fn packaged(name: &str) -> (String, String) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/config");
        let text = fs::read_to_string(dir.join(name)).unwrap();
        let is_key = |rest: &str| rest.starts_with(|first: char| first.is_ascii_lowercase());
        let all = text.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if is_key(rest) => rest,
            Some(_) | None => line,
        });
        let all = all.collect::<Vec<_>>().join("\n");
        (text, all)
    }

    /// The file says what holds anyway, but for `other`; and its commented lines name every key there is, each with
    /// its default where it has one.
    fn tells_the_truth<T>(name: &str, other: impl FnOnce(&mut T))
    where
        T: Default + serde::Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let (shipped, all) = packaged(name);
        let mut expected = T::default();
        let defaults = Table::try_from(&expected).unwrap();
        other(&mut expected);
        assert_eq!(toml::from_str::<T>(&shipped).unwrap(), expected, "{name}");
        toml::from_str::<T>(&all).unwrap_or_else(|error| panic!("{name}: {error}"));
        let told: Table = toml::from_str(&all).unwrap();
        for (key, value) in defaults {
            assert_eq!(told.get(&key), Some(&value), "{key} in {name}");
        }
    }

    #[test]
    fn the_settings_files_of_the_package_name_every_key_with_its_default() {
        tells_the_truth::<mezzo_master::Config>("master.toml", |_| {});
        tells_the_truth::<mezzo_scheduler::Config>("scheduler.toml", |_| {});
        tells_the_truth::<mezzo_agent::Config>("agent.toml", |config| {
            config.cgroup_parent = Some("/system.slice/mezzo-tasks.service".into());
        });
    }
}
