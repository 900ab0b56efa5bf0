//! `mezzo image show`: all there is to know of one image.

use mezzo_images::{HistoryEntry, ImageDetails, LayerDetails};
use serde_json::{Value, json};

use super::{ago, open, reference};
use crate::{
    args::image::ShowArgs,
    commands::Context,
    failure::{Failure, chain},
    render::{Style, Table, bytes, facts, or_unknown, section},
};

pub(super) async fn run(context: &Context, args: &ShowArgs) -> Result<(), Failure> {
    let name = reference(&args.image)?;
    let store = open(&args.store, Vec::new()).await?;
    let details = store
        .inspect(&name)
        .await
        .map_err(|error| Failure::failed(chain(&error)))?;
    let details = details.ok_or_else(|| {
        Failure::NotFound(format!("no image `{name}` in {}", store.root().display()))
    })?;
    context
        .output
        .emit(&value(&details), |style| text(&details, style))
}

fn value(details: &ImageDetails) -> Value {
    let config = &details.image.config;
    json!({
        "reference": details.image.reference.to_string(),
        "digest": details.image.manifest_digest.to_string(),
        "config_digest": details.config_digest.to_string(),
        "platform": details.platform,
        "size_compressed_bytes": details.image.size_compressed,
        "size_unpacked_bytes": details.image.size_unpacked,
        "disk_own_bytes": details.disk.own_bytes,
        "disk_shared_bytes": details.disk.shared_bytes,
        "pulled_at": details.pulled_at,
        "last_used": details.last_used,
        "in_use": details.in_use,
        "config": {
            "entrypoint": config.entrypoint,
            "cmd": config.cmd,
            "env": config.env,
            "working_dir": config.working_dir,
            "user": config.user,
            "stop_signal": config.stop_signal,
            "labels": config.labels,
            "exposed_ports": config.exposed_ports,
        },
        "layers": details.layers.iter().map(layer).collect::<Vec<_>>(),
        "history": details.history.iter().map(step).collect::<Vec<_>>(),
    })
}

fn layer(layer: &LayerDetails) -> Value {
    json!({
        "chain_id": layer.chain_id.to_string(),
        "diff_id": layer.diff_id.map(|digest| digest.to_string()),
        "digest": layer.digest.to_string(),
        "size_compressed_bytes": layer.size_compressed,
        "size_unpacked_bytes": layer.size_unpacked,
        "disk_bytes": layer.disk_bytes,
        "entries": layer.entries,
        "shared_with_images": layer.shared_with,
    })
}

fn step(step: &HistoryEntry) -> Value {
    json!({
        "created": step.created,
        "created_by": step.created_by,
        "comment": step.comment,
        "empty_layer": step.empty_layer,
    })
}

fn text(details: &ImageDetails, style: Style) -> String {
    let config = &details.image.config;
    let words = |words: &[String]| words.join(" ");
    let time = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), ago);
    let disk = format!(
        "{} of its own, {} shared",
        bytes(details.disk.own_bytes),
        bytes(details.disk.shared_bytes)
    );
    let mut lines = vec![
        ("image", details.image.reference.to_string()),
        ("digest", details.image.manifest_digest.to_string()),
        ("platform", details.platform.clone()),
        ("compressed", bytes(details.image.size_compressed)),
        ("on disk", disk),
        ("pulled", time(details.pulled_at)),
        ("last used", time(details.last_used)),
        ("in use", if details.in_use { "yes" } else { "no" }.into()),
    ];
    // Empty ones are not shown.
    lines.extend([
        ("entrypoint", words(&config.entrypoint)),
        ("cmd", words(&config.cmd)),
        ("workdir", config.working_dir.clone().unwrap_or_default()),
        ("user", config.user.clone().unwrap_or_default()),
        (
            "stop signal",
            config.stop_signal.clone().unwrap_or_default(),
        ),
        ("ports", words(&config.exposed_ports)),
        ("env", config.env.join(", ")),
    ]);
    let labels = config.labels.iter();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    lines.push(("labels", labels.join(", ")));
    let mut layers = Table::new(&[
        "CHAIN ID",
        ">COMPRESSED",
        ">ON DISK",
        ">FILES",
        ">SHARED BY",
    ]);
    for layer in &details.layers {
        layers.row([
            layer.chain_id.to_string().into(),
            bytes(layer.size_compressed).into(),
            or_unknown(layer.disk_bytes, bytes).into(),
            or_unknown(layer.entries, |entries| entries.to_string()).into(),
            layer.shared_with.to_string().into(),
        ]);
    }
    let mut all = facts(style, &lines);
    all.push_str(&section(style, "layers", &layers.render(style, "  ")));
    if !details.history.is_empty() {
        let mut history = Table::new(&["CREATED", "BY"]);
        for step in &details.history {
            let by = step.created_by.as_deref().unwrap_or("-");
            let by: String = by.chars().take(120).collect();
            history.row([step.created.as_deref().unwrap_or("-").into(), by.into()]);
        }
        all.push_str(&section(style, "history", &history.render(style, "  ")));
    }
    all
}
