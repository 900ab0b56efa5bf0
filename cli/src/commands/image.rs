//! `mezzo image …`: packs, pushes, pulls; looks after a local store. Talks to registries, never to a master.
//!
//! Here: the store, `pack`, `pull`, `list`, `remove`, `prune`. In files of their own: `transfer` (import, export, push),
//! `show`, `verify`, `mount`.

mod mount;
mod show;
mod transfer;
mod verify;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mezzo_images::{
    Image, ImageStore, ImageSummary, PackOptions, PullPolicy, PullProgress, PushProgress,
    Reference, RegistriesConfig, StoreConfig, StoreReader,
};
use nix::unistd;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::Context;
use crate::{
    args::image::{ImageCommand, PackArgs, PullArgs, RegistriesArgs, RemoveArgs, StoreArgs},
    failure::{Failure, chain},
    output::Progress,
    render::{
        Table, age, bytes, count,
        transfer::{Share, Transfer},
    },
    request,
};

/// Between two looks at a transfer that does not move.
const BEAT: Duration = Duration::from_secs(1);

/// `pack_to` is the file that `-o` named.
pub(crate) fn run(
    context: &Context,
    command: ImageCommand,
    pack_to: Option<PathBuf>,
) -> Result<(), Failure> {
    // Pulls use several threads: to download, verify and unpack at once.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the event loop: {error}")))?;
    let result = runtime.block_on(async {
        match command {
            ImageCommand::Pack(args) => pack(context, &args, pack_to.as_deref()).await,
            ImageCommand::Import(args) => transfer::import(context, &args).await,
            ImageCommand::Export(args) => {
                transfer::export(context, &args, pack_to.as_deref()).await
            }
            ImageCommand::Push(args) => transfer::push(context, &args).await,
            ImageCommand::List(args) => list(context, &args).await,
            ImageCommand::Show(args) => show::run(context, &args).await,
            ImageCommand::Verify(args) => verify::run(context, &args).await,
            ImageCommand::Mount(args) => mount::run(context, &args).await,
            ImageCommand::Umount(args) => mount::undo(context, &args).await,
            ImageCommand::Pull(args) => pull(context, &args).await,
            ImageCommand::Remove(args) => remove(context, &args).await,
            ImageCommand::Prune(args) => prune(context, &args).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

fn reference(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format!(
            "image `{}`: {}",
            crate::render::clean(text),
            chain(&error)
        ))
    })
}

/// What the flags say about registries. The file is read as an agent's settings are, so that one file does for both.
fn registries(args: &RegistriesArgs) -> Result<RegistriesConfig, Failure> {
    let insecure = args.insecure_registry.iter();
    let insecure = insecure
        .map(|text| request::registry(text))
        .collect::<Result<Vec<_>, _>>()?;
    let config = match &args.registries {
        None => RegistriesConfig::default(),
        Some(path) => {
            let wrong = |problem: String| {
                Failure::usage(format!("--registries {}: {problem}", path.display()))
            };
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            let file: mezzo_agent::Config =
                toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            let config = file.registries.with_insecure(&file.insecure_registries);
            config.check().map_err(|error| wrong(error.to_string()))?;
            config
        }
    };
    Ok(config.with_insecure(&insecure))
}

/// The store to look into; whoever has it open goes on.
async fn look(args: &StoreArgs) -> Result<StoreReader, Failure> {
    let root = match &args.store {
        Some(root) => root.clone(),
        None => default_store()?,
    };
    StoreReader::open(root)
        .await
        .map_err(|error| Failure::failed(chain(&error)))
}

async fn open(args: &StoreArgs, registries: RegistriesConfig) -> Result<ImageStore, Failure> {
    open_by_policy(args, registries, None).await
}

async fn open_by_policy(
    args: &StoreArgs,
    registries: RegistriesConfig,
    signature_policy: Option<PathBuf>,
) -> Result<ImageStore, Failure> {
    let root = match &args.store {
        Some(root) => root.clone(),
        None => default_store()?,
    };
    let config = StoreConfig {
        root,
        registries,
        signature_policy,
        ..StoreConfig::default()
    };
    ImageStore::open(config)
        .await
        .map_err(|error| Failure::failed(chain(&error)))
}

fn default_store() -> Result<PathBuf, Failure> {
    if unistd::geteuid().is_root() {
        return Ok(StoreConfig::default().root);
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let data = data.or_else(home);
    data.map(|data| data.join("mezzo/images"))
        .ok_or_else(|| Failure::usage("there is no HOME; say --store DIR"))
}

async fn pack(context: &Context, args: &PackArgs, archive: Option<&Path>) -> Result<(), Failure> {
    let name = reference(&args.tag)?;
    let registries = registries(&args.registries)?;
    let options = PackOptions {
        source: args.source.clone(),
        entrypoint: args.entrypoint.clone(),
        cmd: args.cmd.clone(),
        env: request::pairs("--env", &args.env)?,
        labels: request::pairs("--label", &args.label)?
            .into_iter()
            .collect(),
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        stop_signal: None,
        exposed_ports: Vec::new(),
        created: SystemTime::now(),
    };
    let packed = tokio::task::spawn_blocking(move || mezzo_images::pack(&options)).await;
    let packed =
        packed.map_err(|error| Failure::failed(format!("packing was interrupted: {error}")))?;
    let packed = packed.map_err(|error| Failure::usage(chain(&error)))?;
    let mut done = Vec::new();
    if let Some(path) = archive {
        transfer::write(&packed, &name, path)?;
        done.push(format!("written to {}", path.display()));
    }
    if args.push {
        transfer::send(&packed, &name, &registries).await?;
        done.push("pushed".to_owned());
    }
    if done.is_empty() {
        let store = open(&args.store, registries).await?;
        let imported = store.import(&packed, &name).await;
        imported.map_err(|error| {
            Failure::failed(format!(
                "cannot put {name} into the store: {}",
                chain(&error)
            ))
        })?;
        flush(&store, &name).await?;
        done.push(format!("stored in {}", store.root().display()));
    }
    if archive.is_some_and(|path| path == Path::new("-")) {
        // Standard output is taken.
        return Ok(());
    }
    let (digest, size) = (packed.digest().to_string(), packed.size());
    let value = json!({ "reference": name.to_string(), "digest": digest, "size_bytes": size, "pushed": args.push, "archive": archive });
    context.output.done(
        &value,
        &format!("{name}: {}, {digest}, {}", bytes(size), done.join(", ")),
    )
}

/// Shows progress until it is dropped: a bar on a terminal, a line for each tenth elsewhere.
async fn show<T: Copy>(what: &str, mut progress: watch::Receiver<T>, read: impl Fn(T) -> Share) {
    let start = Instant::now();
    let mut line = Progress::new();
    let mut transfer = Transfer::default();
    loop {
        // Also when nothing comes: the speed and what is left are others then.
        if let Ok(Err(_)) = tokio::time::timeout(BEAT, progress.changed()).await {
            // The transfer is over, and whoever drives it says so.
            return std::future::pending().await;
        }
        let share = read(*progress.borrow_and_update());
        line.show_line(&news(what, &share), |columns| {
            transfer.line(what, &share, start.elapsed(), columns)
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What is worth a line of its own where lines stay.
fn news(what: &str, share: &Share) -> String {
    let news = match share.percent() {
        Some(percent) => format!("{what}: {} % of {}", percent / 10 * 10, bytes(share.total)),
        None => what.to_owned(),
    };
    match &share.waiting {
        Some(waiting) => format!("{news}, {waiting}"),
        None => news,
    }
}

/// How far a pull or an import has come; `registry` is who may make it wait.
fn of_layers(progress: PullProgress, registry: &str) -> Share {
    Share {
        done: progress.bytes_done,
        total: progress.bytes_total,
        aside: match progress.layers_total {
            0 => String::new(),
            total => format!("{} of {total} layers", progress.layers_done),
        },
        waiting: progress.waiting.map(|wait| {
            let seconds = wait.as_secs_f64().round();
            format!("waiting {seconds} s for registry {registry} (rate limit)")
        }),
    }
}

/// How far a push has come.
fn of_push(progress: PushProgress) -> Share {
    Share {
        done: progress.bytes_done,
        total: progress.bytes_total,
        ..Share::default()
    }
}

async fn list(context: &Context, args: &StoreArgs) -> Result<(), Failure> {
    let store = look(args).await?;
    let images = store
        .list()
        .await
        .map_err(|error| Failure::failed(chain(&error)))?;
    let values: Vec<Value> = images.iter().map(summary).collect();
    context.output.emit(&values, |style| {
        if images.is_empty() {
            return format!("no images in {}\n", store.root().display());
        }
        let headings = [
            "IMAGE",
            ">LAYERS",
            ">COMPRESSED",
            ">OWN",
            ">SHARED",
            ">USED",
            "DIGEST",
        ];
        let mut table = Table::new(&headings);
        for image in &images {
            table.row([
                image.reference.to_string().into(),
                image.layers.to_string().into(),
                bytes(image.size_compressed).into(),
                bytes(image.disk.own_bytes).into(),
                bytes(image.disk.shared_bytes).into(),
                image.last_used.map_or_else(|| "-".to_owned(), ago).into(),
                image.manifest_digest.to_string().into(),
            ]);
        }
        let total = format!("{} on the disk\n", bytes(store.disk_bytes()));
        format!("{}{total}", table.render(style, ""))
    })
}

fn summary(image: &ImageSummary) -> Value {
    json!({
        "reference": image.reference.to_string(),
        "digest": image.manifest_digest.to_string(),
        "layers": image.layers,
        "size_compressed_bytes": image.size_compressed,
        "size_unpacked_bytes": image.size_unpacked,
        "disk_own_bytes": image.disk.own_bytes,
        "disk_shared_bytes": image.disk.shared_bytes,
        "pulled_at": image.pulled_at,
        "last_used": image.last_used,
    })
}

/// How long ago some seconds since 1970 are.
fn ago(then: u64) -> String {
    age(then.saturating_mul(1000), super::now_ms())
}

async fn pull(context: &Context, args: &PullArgs) -> Result<(), Failure> {
    let name = reference(&args.image)?;
    let registries = registries(&args.registries)?;
    let store = open_by_policy(&args.store, registries, args.signature_policy.clone()).await?;
    let policy = if args.always {
        PullPolicy::Always
    } else {
        PullPolicy::IfNotPresent
    };
    let (sender, receiver) = watch::channel(PullProgress::default());
    let registry = name.registry();
    let shown = show("pulling", receiver, |progress| {
        of_layers(progress, registry)
    });
    let pulled = tokio::select! {
        pulled = store.pull(&name, policy, Some(sender)) => pulled,
        () = shown => std::future::pending().await,
    };
    let image: Image = pulled
        .map_err(|error| Failure::failed(format!("cannot pull {name}: {}", chain(&error))))?;
    if !args.no_sync {
        flush(&store, &name).await?;
    }
    let value = brought(&name, &image);
    let size = format!(
        "{} compressed, {} unpacked",
        bytes(image.size_compressed),
        bytes(image.size_unpacked)
    );
    context.output.done(
        &value,
        &format!("{name}: {size}, {}", image.manifest_digest),
    )
}

/// A pulled or imported image, for programs.
fn brought(name: &Reference, image: &Image) -> Value {
    json!({
        "reference": name.to_string(),
        "digest": image.manifest_digest.to_string(),
        "layers": image.layers.len(),
        "size_compressed_bytes": image.size_compressed,
        "size_unpacked_bytes": image.size_unpacked,
    })
}

/// Waits until what was brought would survive a power cut: a long-running agent does that by itself, in its own time.
async fn flush(store: &ImageStore, name: &Reference) -> Result<(), Failure> {
    store.flush().await.map_err(|error| {
        Failure::failed(format!(
            "{name} is here, but may be lost when the machine goes down: {}",
            chain(&error)
        ))
    })
}

async fn remove(context: &Context, args: &RemoveArgs) -> Result<(), Failure> {
    let names = args
        .images
        .iter()
        .map(|text| reference(text))
        .collect::<Result<Vec<_>, _>>()?;
    let store = open(&args.store, RegistriesConfig::default()).await?;
    let mut values = Vec::new();
    let mut lines = Vec::new();
    for name in &names {
        let removed = store
            .remove(name)
            .await
            .map_err(|error| Failure::failed(chain(&error)))?;
        if !removed.found {
            return Err(Failure::NotFound(format!(
                "no image `{name}` in {}",
                store.root().display()
            )));
        }
        values.push(json!({ "reference": name.to_string(), "layers_removed": removed.layers, "bytes_freed": removed.bytes }));
        lines.push(format!(
            "{name}: removed, {} and {} freed",
            count(removed.layers, "layer"),
            bytes(removed.bytes)
        ));
    }
    context.output.done(&values, &lines.join("\n"))
}

async fn prune(context: &Context, args: &StoreArgs) -> Result<(), Failure> {
    let store = open(args, RegistriesConfig::default()).await?;
    // Layers of snapshots are kept by the store itself; no name is held by anybody but a running agent, whose store
    // this cannot be: it is locked.
    let pruned = store
        .prune(&BTreeSet::new())
        .await
        .map_err(|error| Failure::failed(chain(&error)))?;
    let names: Vec<String> = pruned.references.iter().map(ToString::to_string).collect();
    let value =
        json!({ "removed": names, "layers_removed": pruned.layers, "bytes_freed": pruned.bytes });
    let line = format!(
        "{} removed, {} freed",
        count(names.len(), "image"),
        bytes(pruned.bytes)
    );
    context.output.done(&value, &line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RegistriesConfig, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        registries(&RegistriesArgs {
            insecure_registry: vec!["10.0.0.1:5000".into()],
            registries: Some(path),
        })
    }

    #[test]
    fn where_lines_stay_there_is_one_for_each_tenth_and_for_waits() {
        let at = |done, waiting: Option<&str>| Share {
            done,
            total: 2048,
            aside: format!("{done} of many layers"),
            waiting: waiting.map(str::to_owned),
        };
        assert_eq!(news("pulling", &Share::default()), "pulling");
        for done in [1024, 1200] {
            let news = news("pulling", &at(done, None));
            assert_eq!(news, "pulling: 50 % of 2.0 KiB");
        }
        assert_eq!(
            news("pulling", &at(1200, Some("waiting 2 s"))),
            "pulling: 50 % of 2.0 KiB, waiting 2 s"
        );
    }

    #[test]
    fn an_agents_settings_say_how_registries_are_reached() {
        let text = "insecure_registries = [\"10.0.0.2:5000\"]\nlisten = \"127.0.0.1:1\"\n\
            [registries.\"docker.io\"]\nmirrors = [\"m.example\"]\n";
        let plain = ["10.0.0.1:5000".to_owned(), "10.0.0.2:5000".to_owned()];
        let mirrors = mezzo_images::RegistryConfig {
            mirrors: vec!["m.example".into()],
            ..mezzo_images::RegistryConfig::default()
        };
        let expected = RegistriesConfig::default()
            .with("docker.io", mirrors)
            .with_insecure(&plain);
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn a_file_that_is_wrong_is_named_with_the_key() {
        for (text, key) in [
            ("[registry.\"docker.io\"]\n", "registry"),
            (
                "[registries.\"docker.io\"]\nmirrors = [\"a/b\"]\n",
                "mirrors[0]",
            ),
            ("[registries.\"docker.io\"]\nmirror = \"m\"\n", "mirror"),
        ] {
            let failure = read(text).unwrap_err();
            assert!(matches!(failure, Failure::Usage(_)), "{failure}");
            let told = failure.to_string();
            assert!(told.contains("x.toml") && told.contains(key), "{told}");
        }
    }
}
