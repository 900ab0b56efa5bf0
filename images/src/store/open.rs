//! Opening a store: the lock, the format, and what a crash has left behind. Or looking into one, without any of that.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::Semaphore;

use super::content::{self, LayerRecord, Layout};
use super::inner::State;
use super::recorder::{self, Recorder};
use super::write_back::{self, WriteBack};
use super::{ImageStore, Inner, OpenError, StoreConfig, index, mounts};
use crate::digest::Digest;
use crate::platform::Platform;
use crate::registry::client::RegistryClient;
use crate::tree::record::{self, Recorded};

/// What an opened store is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything: one process at a time.
    Own,
    /// Nothing on the disk is changed, and another process may change it meanwhile.
    Look,
}

/// Opens a store, on a thread that may block.
pub(crate) fn open_blocking(
    config: StoreConfig,
    registries: RegistryClient,
    access: Access,
) -> Result<ImageStore, OpenError> {
    let layout = Layout::new(&config.root);
    let io = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io {
            operation,
            path,
            source,
        }
    };
    let lock = match access {
        Access::Own => {
            layout.create().map_err(io("create", layout.root()))?;
            Some(lock(&layout)?)
        }
        Access::Look => None,
    };
    check_format(&layout, access)?;
    let boot_id =
        content::boot_id().map_err(io("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    if access == Access::Own {
        for entry in std::fs::read_dir(layout.tmp()).map_err(io("read", &layout.tmp()))? {
            let path = entry.map_err(io("read", &layout.tmp()))?.path();
            content::delete(&path).map_err(io("remove left-over", &path))?;
        }
        mounts::forget_stale(&layout);
    }
    // Names first: to one who looks while another process pulls, a name's layers are there.
    let records = index::load(&layout, access)?;
    let layers = load_layers(&layout, &boot_id, access)?;
    let root = config.root.clone();
    let permits = Arc::new(Semaphore::new(config.parallel_layers.max(1)));
    let known = load_trees(&layout, &layers);
    let recorder = Recorder::start(layout.clone(), Arc::clone(&permits), known)
        .map_err(io("start a thread for", &root))?;
    let write_back =
        WriteBack::start(Arc::clone(recorder.shared())).map_err(io("start a thread for", &root))?;
    if access == Access::Own {
        // What an earlier process did not come to.
        let (old, young): (Vec<&Digest>, Vec<&Digest>) = layers
            .keys()
            .partition(|chain| write_back::is_durable(&layout.layer(chain)));
        write_back.submit(young.into_iter().map(|chain| layout.layer(chain)).collect());
        for chain in old {
            if recorder.shared().known(chain).is_none() {
                recorder.shared().submit(*chain);
            }
        }
    }
    let mut images = BTreeMap::new();
    let mut last_used = BTreeMap::new();
    for (reference, (record, used)) in records {
        last_used.insert(reference.clone(), used);
        images.insert(reference, record);
    }
    let inner = Inner {
        permits,
        config,
        layout,
        registries,
        host: Platform::host(),
        boot_id,
        flights: Mutex::new(HashMap::new()),
        layer_locks: Mutex::new(HashMap::new()),
        state: Mutex::new(State {
            images,
            last_used,
            layers,
            pins: BTreeMap::new(),
        }),
        names: Mutex::new(()),
        write_back,
        young_files: AtomicBool::new(false),
        recorder,
        _lock: lock,
    };
    Ok(ImageStore {
        inner: Arc::new(inner),
    })
}

/// What is not there is no error to one who only looks: nobody made it, or it went just now.
pub(super) fn is_gone(error: &std::io::Error, access: Access) -> bool {
    access == Access::Look && error.kind() == std::io::ErrorKind::NotFound
}

fn lock(layout: &Layout) -> Result<Flock<File>, OpenError> {
    let path = layout.root().join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(|source| OpenError::Io {
        operation: "open",
        path: path.clone(),
        source,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == Errno::EWOULDBLOCK {
            OpenError::InUse {
                root: layout.root().into(),
            }
        } else {
            OpenError::Io {
                operation: "lock",
                path,
                source: errno.into(),
            }
        }
    })
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Format {
    version: u32,
}

fn check_format(layout: &Layout, access: Access) -> Result<(), OpenError> {
    let path = layout.root().join("store.json");
    let io = |operation| {
        let path = path.clone();
        move |source| OpenError::Io {
            operation,
            path,
            source,
        }
    };
    let text = match content::read_bounded(&path, 4096) {
        Ok(text) => text,
        Err(e) if is_gone(&e, access) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_vec(&Format { version: 1 }).expect("a number serializes");
            return layout.write_atomically(&path, &text).map_err(io("write"));
        }
        Err(e) => return Err(io("read")(e)),
    };
    match serde_json::from_slice(&text) {
        Ok(Format { version: 1 }) => Ok(()),
        Ok(Format { version }) => Err(OpenError::NewerFormat {
            path,
            found: version,
            known: 1,
        }),
        Err(e) => Err(OpenError::Corrupt {
            path,
            root: layout.root().into(),
            problem: e.to_string(),
        }),
    }
}

fn load_layers(
    layout: &Layout,
    boot_id: &str,
    access: Access,
) -> Result<BTreeMap<Digest, LayerRecord>, OpenError> {
    let folder = layout.layers();
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io {
            operation: "read",
            path,
            source,
        }
    };
    let mut layers = BTreeMap::new();
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if is_gone(&e, access) => return Ok(layers),
        other => other.map_err(io(&folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(io(&folder))?;
        let path = entry.path();
        let name = entry.file_name();
        let chain = name.to_str().and_then(|name| Digest::from_hex(name).ok());
        let read = match chain {
            Some(chain) => {
                content::read_layer(&path, &chain, boot_id).map(|record| (chain, record))
            }
            None => Err("its name is no digest".into()),
        };
        match read {
            Ok((chain, record)) => {
                layers.insert(chain, record);
            }
            Err(_) if access == Access::Look => {}
            Err(problem) => {
                tracing::warn!(layer = %path.display(), problem, "removing a layer that cannot be trusted");
                content::delete(&path).map_err(io(&path))?;
            }
        }
    }
    Ok(layers)
}

/// What is known of the layers' files.
fn load_trees(
    layout: &Layout,
    layers: &BTreeMap<Digest, LayerRecord>,
) -> BTreeMap<Digest, Recorded> {
    let mut known = BTreeMap::new();
    for chain in layers.keys() {
        let path = layout.layer(chain).join(recorder::NAME);
        match File::open(&path).and_then(|mut list| record::summary(&mut list)) {
            Ok(recorded) => drop(known.insert(*chain, recorded)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read the list of a layer's files; `mezzo image verify --repair` drops the layer");
            }
        }
    }
    known
}
