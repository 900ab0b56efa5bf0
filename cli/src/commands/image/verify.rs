//! `mezzo image verify`: hashes the store again and says what is wrong with it.

use mezzo_images::{LayerState, VerifyOptions, VerifyReport};
use serde_json::{Value, json};

use super::{open, reference};
use crate::{
    args::image::VerifyArgs,
    commands::Context,
    failure::{Failure, chain},
    render::{Style, Table, Tone, bytes, count, toned},
};

pub(super) async fn run(context: &Context, args: &VerifyArgs) -> Result<(), Failure> {
    let names = args.images.iter().map(|text| reference(text));
    let references = names.collect::<Result<Vec<_>, _>>()?;
    let store = open(&args.store, Vec::new()).await?;
    let here = store.list().await;
    let here = here.map_err(|error| Failure::failed(chain(&error)))?;
    for name in &references {
        if !here.iter().any(|image| image.reference == *name) {
            let root = store.root().display();
            return Err(Failure::NotFound(format!("no image `{name}` in {root}")));
        }
    }
    let options = VerifyOptions {
        references,
        repair: args.repair,
    };
    let report = store.verify(options).await;
    let report = report.map_err(|error| Failure::failed(chain(&error)))?;
    context
        .output
        .emit(&value(&report), |style| text(&report, style))?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure::Code(1))
    }
}

fn word(state: LayerState) -> &'static str {
    match state {
        LayerState::Intact => "intact",
        LayerState::NewlyRecorded => "recorded",
        LayerState::Damaged => "damaged",
        LayerState::Dropped => "dropped",
        LayerState::DamagedInUse => "damaged, in use",
    }
}

fn value(report: &VerifyReport) -> Value {
    let images = report.images.iter().map(|image| {
        json!({
            "reference": image.reference.to_string(),
            "problems": image.problems,
            "dropped": image.dropped,
        })
    });
    let layers = report.layers.iter().map(|layer| {
        json!({
            "chain_id": layer.chain_id.to_string(),
            "state": word(layer.state),
            "entries": layer.entries,
            "bytes_hashed": layer.bytes,
            "problems": layer.problems,
            "problems_in_all": layer.n_problems,
        })
    });
    let strays = report.strays.iter().map(
        |stray| json!({"path": stray.path, "problem": stray.problem, "dropped": stray.dropped}),
    );
    json!({
        "clean": report.is_clean(),
        "images": images.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "strays": strays.collect::<Vec<_>>(),
    })
}

fn text(report: &VerifyReport, style: Style) -> String {
    let mut table = Table::new(&["WHAT", "STATE", "DETAIL"]);
    for image in &report.images {
        let state = match (image.problems.is_empty(), image.dropped) {
            (true, _) => toned(Tone::Good, "complete"),
            (false, true) => toned(Tone::Busy, "dropped"),
            (false, false) => toned(Tone::Bad, "damaged"),
        };
        let detail = image.problems.join("; ");
        table.row([image.reference.to_string().into(), state, detail.into()]);
    }
    for layer in &report.layers {
        let tone = match layer.state {
            LayerState::Intact => Tone::Good,
            LayerState::NewlyRecorded | LayerState::Dropped => Tone::Busy,
            LayerState::Damaged | LayerState::DamagedInUse => Tone::Bad,
        };
        let detail = match layer.state {
            LayerState::Intact => format!("{} files, {}", layer.entries, bytes(layer.bytes)),
            LayerState::NewlyRecorded => {
                format!("{} files, for the first time", layer.entries)
            }
            LayerState::Damaged | LayerState::Dropped => problems(layer),
            LayerState::DamagedInUse => format!(
                "{}; not dropped: a container or a mount stands on it",
                problems(layer)
            ),
        };
        let name = format!("layer {}", layer.chain_id.hex());
        table.row([name.into(), toned(tone, word(layer.state)), detail.into()]);
    }
    for stray in &report.strays {
        let state = if stray.dropped { "dropped" } else { "stray" };
        let path = stray.path.display().to_string();
        table.row([
            path.into(),
            toned(Tone::Bad, state),
            stray.problem.clone().into(),
        ]);
    }
    let hashed: u64 = report.layers.iter().map(|layer| layer.bytes).sum();
    let verdict = if report.found_nothing() {
        "nothing is wrong"
    } else if report.is_clean() {
        "what was wrong is dropped; the next pull brings it again"
    } else {
        "something is wrong; `mezzo image verify --repair` drops what is damaged"
    };
    format!(
        "{}{} and {}, {} hashed: {verdict}\n",
        table.render(style, ""),
        count(report.images.len(), "image"),
        count(report.layers.len(), "layer"),
        bytes(hashed)
    )
}

fn problems(layer: &mezzo_images::VerifiedLayer) -> String {
    let told = layer.problems.iter().take(3).cloned().collect::<Vec<_>>();
    let more = layer.n_problems.saturating_sub(told.len() as u64);
    if more == 0 {
        told.join("; ")
    } else {
        format!("{}; {more} more", told.join("; "))
    }
}
