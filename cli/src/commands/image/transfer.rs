//! `mezzo image import|export|push`: images from and to files, and from the store to a registry.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use mezzo_images::{
    ImportOptions, ImportSource, PackedImage, PullProgress, PushProgress, Reference,
    RegistriesConfig,
};
use serde_json::json;
use tokio::sync::watch;

use super::{brought, flush, of_layers, of_push, open, reference, registries, show};
use crate::{
    args::image::{ExportArgs, ImportArgs, PushArgs},
    commands::Context,
    failure::{Failure, chain},
    render::{bytes, count},
};

/// Standard input or output.
const STDIO: &str = "-";

pub(super) async fn import(context: &Context, args: &ImportArgs) -> Result<(), Failure> {
    let name = args.tag.as_deref().map(reference).transpose()?;
    let store = open(&args.store, RegistriesConfig::default()).await?;
    let source = if args.path == Path::new(STDIO) {
        ImportSource::Stream(Box::new(io::stdin()), "standard input".into())
    } else {
        ImportSource::Path(args.path.clone())
    };
    let options = ImportOptions {
        source,
        name,
        image: args.image.clone(),
    };
    let (sender, receiver) = watch::channel(PullProgress::default());
    let shown = show("importing", receiver, |progress| of_layers(progress, ""));
    let imported = tokio::select! {
        imported = store.import_archive(options, Some(sender)) => imported,
        () = shown => std::future::pending().await,
    };
    let (name, image) = imported.map_err(|error| Failure::failed(chain(&error)))?;
    if !args.no_sync {
        flush(&store, &name).await?;
    }
    let value = brought(&name, &image);
    let line = format!(
        "{name}: {}, {} unpacked, {}",
        count(image.layers.len(), "layer"),
        bytes(image.size_unpacked),
        image.manifest_digest
    );
    context.output.done(&value, &line)
}

pub(super) async fn export(
    context: &Context,
    args: &ExportArgs,
    to: Option<&Path>,
) -> Result<(), Failure> {
    let to = to.ok_or_else(|| {
        Failure::usage("say where to: `-o FILE`, or `-o -` for standard output; a file's name needs a dot or a slash")
    })?;
    let name = reference(&args.image)?;
    let store = open(&args.store, RegistriesConfig::default()).await?;
    let packed = store.export(&name).await;
    let packed = packed.map_err(|error| not_exported(&name, &error))?;
    write(&packed, &name, to)?;
    if to == Path::new(STDIO) {
        return Ok(());
    }
    let value = json!({
        "reference": name.to_string(),
        "digest": packed.digest().to_string(),
        "size_bytes": packed.size(),
        "archive": to,
    });
    let line = format!(
        "{name}: {}, written to {}, packed again as {}",
        bytes(packed.size()),
        to.display(),
        packed.digest()
    );
    context.output.done(&value, &line)
}

pub(super) async fn push(context: &Context, args: &PushArgs) -> Result<(), Failure> {
    let name = reference(&args.image)?;
    let to = match &args.name {
        Some(text) => reference(text)?,
        None => name.clone(),
    };
    let registries = registries(&args.registries)?;
    let store = open(&args.store, registries.clone()).await?;
    let packed = store.export(&name).await;
    let packed = packed.map_err(|error| not_exported(&name, &error))?;
    send(&packed, &to, &registries).await?;
    let value = json!({
        "reference": to.to_string(),
        "digest": packed.digest().to_string(),
        "size_bytes": packed.size(),
    });
    let line = format!(
        "{to}: {}, pushed, packed again as {}",
        bytes(packed.size()),
        packed.digest()
    );
    context.output.done(&value, &line)
}

fn not_exported(name: &Reference, error: &mezzo_images::ExportError) -> Failure {
    if matches!(error, mezzo_images::ExportError::NotHere(_)) {
        return Failure::NotFound(chain(error));
    }
    Failure::failed(format!("cannot export {name}: {}", chain(error)))
}

/// Pushes with a line of progress.
pub(super) async fn send(
    packed: &PackedImage,
    name: &Reference,
    registries: &RegistriesConfig,
) -> Result<(), Failure> {
    let (sender, receiver) = watch::channel(PushProgress::default());
    let shown = show("pushing", receiver, of_push);
    let pushed = tokio::select! {
        pushed = mezzo_images::push(packed, name, registries, Some(sender)) => pushed,
        () = shown => std::future::pending().await,
    };
    pushed
        .map(drop)
        .map_err(|error| Failure::failed(format!("cannot push {name}: {}", chain(&error))))
}

/// Writes an archive: a file is there whole or as it was before.
pub(super) fn write(packed: &PackedImage, name: &Reference, to: &Path) -> Result<(), Failure> {
    if to == Path::new(STDIO) {
        return packed
            .write_archive(name, io::stdout().lock())
            .map_err(|error| Failure::output(&error));
    }
    let failed =
        |error: io::Error| Failure::failed(format!("cannot write {}: {error}", to.display()));
    let special = std::fs::metadata(to).is_ok_and(|found| !found.is_file());
    if special {
        let file = File::options().write(true).open(to).map_err(failed)?;
        return packed.write_archive(name, file).map_err(failed);
    }
    let mut beside = to.as_os_str().to_owned();
    beside.push(format!(".part-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = File::create_new(&beside).and_then(|file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        packed.write_archive(name, &mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        std::fs::rename(&beside, to)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}
