//! `mezzo image mount|umount`: an image read-only in a directory, for somebody to look at.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

use super::{ago, open, reference};
use crate::{
    args::image::{MountArgs, StoreArgs, UmountArgs},
    commands::Context,
    failure::{Failure, chain},
    render::Table,
};

pub(super) async fn run(context: &Context, args: &MountArgs) -> Result<(), Failure> {
    let (Some(image), Some(dir)) = (&args.image, &args.dir) else {
        return list(context, &args.store).await;
    };
    need_root("mount")?;
    let name = reference(image)?;
    let target = place(dir)?;
    let store = open(&args.store, Vec::new()).await?;
    let failed = |error: &dyn std::error::Error| {
        Failure::failed(format!(
            "cannot mount {name} on {}: {}",
            target.display(),
            chain(error)
        ))
    };
    let found = store.get(&name).await.map_err(|error| failed(&error))?;
    let image = found.ok_or_else(|| {
        Failure::NotFound(format!(
            "no image `{name}` in {}; pull it first",
            store.root().display()
        ))
    })?;
    let plan = store
        .plan_mount(&image, &target)
        .map_err(|error| failed(&error))?;
    if let Err(error) = mezzo_runtime::mount_read_only(&plan.source, &plan.lowers, &plan.target) {
        if let Err(error) = store.forget_mount(&target) {
            crate::output::say(&format!("mezzo: {}", chain(&error)));
        }
        return Err(failed(&error));
    }
    let value = json!({"reference": name.to_string(), "target": target, "digest": image.manifest_digest.to_string()});
    let line = format!("{name}: mounted read-only on {}", target.display());
    context.output.done(&value, &line)
}

pub(super) async fn undo(context: &Context, args: &UmountArgs) -> Result<(), Failure> {
    need_root("umount")?;
    let target = place(&args.dir)?;
    let store = open(&args.store, Vec::new()).await?;
    let mounts = store
        .mounts()
        .map_err(|error| Failure::failed(chain(&error)))?;
    let Some(mount) = mounts.into_iter().find(|mount| mount.target == target) else {
        return Err(Failure::NotFound(format!(
            "no image of {} is mounted on {}",
            store.root().display(),
            target.display()
        )));
    };
    umount2(&target, MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| {
        Failure::failed(format!(
            "cannot unmount {}: {}",
            target.display(),
            std::io::Error::from(errno)
        ))
    })?;
    store
        .forget_mount(&target)
        .map_err(|error| Failure::failed(chain(&error)))?;
    let value = json!({"reference": mount.reference.to_string(), "target": target});
    let line = format!("{}: unmounted from {}", mount.reference, target.display());
    context.output.done(&value, &line)
}

async fn list(context: &Context, args: &StoreArgs) -> Result<(), Failure> {
    let store = open(args, Vec::new()).await?;
    let mounts = store
        .mounts()
        .map_err(|error| Failure::failed(chain(&error)))?;
    let values: Vec<Value> = mounts
        .iter()
        .map(|mount| {
            json!({
                "reference": mount.reference.to_string(),
                "target": mount.target,
                "mounted_at": mount.mounted_at,
            })
        })
        .collect();
    context.output.emit(&values, |style| {
        if mounts.is_empty() {
            return format!("no image of {} is mounted\n", store.root().display());
        }
        let mut table = Table::new(&["IMAGE", "ON", ">SINCE"]);
        for mount in &mounts {
            table.row([
                mount.reference.to_string().into(),
                mount.target.display().to_string().into(),
                mount.mounted_at.map_or_else(|| "-".to_owned(), ago).into(),
            ]);
        }
        table.render(style, "")
    })
}

/// The directory without links: as the kernel's table of mounts calls it.
fn place(dir: &Path) -> Result<PathBuf, Failure> {
    let target = std::fs::canonicalize(dir)
        .map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?;
    if target.is_dir() {
        Ok(target)
    } else {
        Err(Failure::usage(format!(
            "{} is not a directory",
            dir.display()
        )))
    }
}

fn need_root(verb: &str) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "`mezzo image {verb}` needs root: run it as `sudo mezzo image {verb}`"
    )))
}
