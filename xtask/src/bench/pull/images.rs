//! The images that are pulled: cut from this machine's own /usr, packed by tar and gzip or zstd, and kept in the
//! registry of the benchmark for the next run.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use mezzo_integration::registry::{Layer, Registry};
use mezzo_integration::{images, paths, process};
use serde_json::json;

/// How many small files a layered image is cut down to.
const SMALL_FILES: usize = 20_000;

/// What an image is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One static program of less than 3 MB.
    Small,
    /// About 500 MB in 8 layers, 5 of them of small files.
    Layers,
    /// About 1 GB in 4 layers of two files each.
    Large,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Layers => "layers",
            Self::Large => "large",
        }
    }
}

/// How its layers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Compression {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// An image in the registry.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) reference: String,
    pub(super) compression: Compression,
    /// Where its layers are.
    pub(super) urls: Vec<String>,
    bytes: u64,
}

impl Image {
    pub(super) fn describe(&self) -> String {
        let layers = self.urls.len();
        format!(
            "{:.1} MB packed, {layers} layer{}",
            self.bytes as f64 / 1e6,
            if layers == 1 { "" } else { "s" }
        )
    }
}

/// Makes an image unless the registry has it; none without the program that packs it.
pub(super) fn prepare(
    registry: &Registry,
    dir: &Path,
    kind: Kind,
    compression: Compression,
) -> Result<Option<Image>> {
    if paths::on_path(compression.program()).is_none() {
        return Ok(None);
    }
    let (repository, tag) = (kind.name(), compression.program());
    if registry.manifest(repository, tag).is_err() {
        println!("making the image {repository}:{tag}");
        let work = dir.join("making");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        }
        fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
        let layers = match kind {
            Kind::Small => vec![small(&work)?],
            Kind::Layers => layered(&work)?,
            Kind::Large => large(&work)?,
        };
        let mut packed = Vec::new();
        for tar in layers {
            packed.push(pack(tar, compression)?);
        }
        let config = json!({ "Cmd": ["/sleep"] });
        registry.push(repository, tag, &config, &packed)?;
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    let manifest = registry.manifest(repository, tag)?;
    let layers = manifest.json["layers"]
        .as_array()
        .context("the manifest has no layers")?;
    let urls = layers.iter().filter_map(|layer| {
        let digest = layer["digest"].as_str()?;
        Some(format!(
            "http://{}/v2/{repository}/blobs/{digest}",
            registry.address()
        ))
    });
    Ok(Some(Image {
        reference: registry.reference(&format!("{repository}:{tag}")),
        compression,
        urls: urls.collect(),
        bytes: layers
            .iter()
            .filter_map(|layer| layer["size"].as_u64())
            .sum(),
    }))
}

fn pack(tar: PathBuf, compression: Compression) -> Result<Layer> {
    let diff_id = images::digest_of(&tar)?;
    let suffix = compression.program();
    let packed = tar.with_extension(suffix);
    let script = format!("{suffix} -c \"$1\" > \"$2\"");
    process::output(
        Command::new("sh")
            .args(["-c", &script, "sh"])
            .args([&tar, &packed]),
    )?;
    fs::remove_file(&tar).with_context(|| format!("remove {}", tar.display()))?;
    Ok(Layer {
        file: packed,
        media_type: compression.media_type(),
        diff_id,
    })
}

fn small(work: &Path) -> Result<PathBuf> {
    let program = images::build_sleep()?;
    let folder = program.parent().context("the program has no folder")?;
    let name = program.file_name().context("the program has no name")?;
    let tar = work.join("sleep.tar");
    let mut command = Command::new("tar");
    command
        .arg("--create")
        .arg("--file")
        .arg(&tar)
        .arg("-C")
        .arg(folder)
        .arg(name);
    process::output(&mut command)?;
    Ok(tar)
}

/// Files of this machine, by name, with their sizes.
fn files(sizes: std::ops::RangeInclusive<u64>) -> Result<Vec<(u64, String)>> {
    let listed = process::output(Command::new("find").args([
        "/usr", "-xdev", "-type", "f", "-links", "1", "-printf", "%s %P\\n",
    ]))?;
    let mut found: Vec<(u64, String)> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(size, name)| Some((size.parse().ok()?, name.to_owned())))
        .filter(|(size, _)| sizes.contains(size))
        .collect();
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

/// Takes files from the front until they have `bytes`.
fn take(from: &mut Vec<(u64, String)>, bytes: u64) -> Vec<String> {
    let mut sum = 0;
    let enough = from.iter().position(|(size, _)| {
        sum += size;
        sum > bytes
    });
    let rest = from.split_off(enough.unwrap_or(from.len()));
    let taken = std::mem::replace(from, rest);
    taken.into_iter().map(|(_, name)| name).collect()
}

fn layered(work: &Path) -> Result<Vec<PathBuf>> {
    let small = files(1..=64 << 10)?;
    // An even stride over all, so that the mix does not hang on one folder.
    let step = (small.len() / SMALL_FILES).max(1);
    let mut small: Vec<_> = small.into_iter().step_by(step).take(SMALL_FILES).collect();
    let mut big = files(1_000_000..=40_000_000)?;
    ensure!(
        small.len() > SMALL_FILES / 4 && big.len() > 20,
        "this machine's /usr is too small to cut an image from: {} small files, {} large ones",
        small.len(),
        big.len()
    );
    let each = small.iter().map(|(size, _)| size).sum::<u64>() / 5 + 1;
    let mut layers = Vec::new();
    for n in 0..8 {
        let names = if n < 5 {
            take(&mut small, each)
        } else {
            take(&mut big, 130_000_000)
        };
        let tar = work.join(format!("layer-{n}.tar"));
        cut(&names, &tar)?;
        layers.push(tar);
    }
    Ok(layers)
}

/// A tar of files of /usr and of the folders above them.
fn cut(names: &[String], tar: &Path) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut list = String::new();
    for name in names {
        let ends = name.match_indices('/').map(|(at, _)| &name[..at]);
        for entry in ends.chain([name.as_str()]) {
            if seen.insert(entry) {
                list.push_str(entry);
                list.push('\0');
            }
        }
    }
    let file = tar.with_extension("list");
    fs::write(&file, list).with_context(|| format!("write {}", file.display()))?;
    let mut command = Command::new("tar");
    command.args([
        "--create",
        "--no-recursion",
        "--null",
        "--verbatim-files-from",
        "-C",
        "/usr",
        "--file",
    ]);
    command.arg(tar).arg("--files-from").arg(&file);
    process::output(&mut command)?;
    Ok(())
}

/// Files of 128 MB, put together from what is large on this machine, so that they pack as programs do.
fn large(work: &Path) -> Result<Vec<PathBuf>> {
    const EACH: u64 = 128 << 20;
    let sources = files(1_000_000..=40_000_000)?;
    ensure!(
        !sources.is_empty(),
        "this machine's /usr has no large file to make an image of"
    );
    let mut sources = sources.iter().cycle();
    let mut layers = Vec::new();
    for n in 0..4 {
        let folder = work.join(format!("large-{n}"));
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        for part in 0..2 {
            let path = folder.join(format!("data-{n}-{part}"));
            let mut file =
                fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
            let mut left = EACH;
            while let (Some((size, name)), true) = (sources.next(), left > 0) {
                let source = Path::new("/usr").join(name);
                let opened = fs::File::open(&source)
                    .with_context(|| format!("open {}", source.display()))?;
                let mut bounded = std::io::Read::take(opened, left.min(*size));
                left -= std::io::copy(&mut bounded, &mut file).context("copy a large file")?;
            }
        }
        let tar = work.join(format!("layer-{n}.tar"));
        let mut command = Command::new("tar");
        command
            .args(["--create", "--file"])
            .arg(&tar)
            .arg("-C")
            .arg(&folder)
            .arg(".");
        process::output(&mut command)?;
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        layers.push(tar);
    }
    Ok(layers)
}
