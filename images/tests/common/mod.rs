//! What the tests of this crate share: a real registry, one that misbehaves, and a builder of images.
#![expect(
    clippy::unwrap_used,
    reason = "a panic in a helper is the test's report"
)]
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod archive;
pub(crate) mod canary;
mod docker_registry;
pub(crate) mod faulty;
pub(crate) mod tls;

#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use docker_registry::Registry;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mezzo_images::{Digest, ImageStore, PullError, PullPolicy, Reference, StoreConfig};
use serde_json::{Value, json};

#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use archive::Archive;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// True when the test cannot run; says so where it is seen.
pub(crate) fn skip_unless_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    !root
}

pub(crate) fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A store in a folder of its own that gives nobody up on a busy machine.
pub(crate) fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        root: root.to_path_buf(),
        pull_deadline: Duration::from_secs(120),
        stall_timeout: Duration::from_secs(60),
        auth_files: Vec::new(),
        ..StoreConfig::default()
    }
}

pub(crate) async fn open(root: &Path) -> ImageStore {
    ImageStore::open(config(root))
        .await
        .expect("the store opens")
}

/// What the fake registry does with a request.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Status, content type, body.
    Full(u16, String, Vec<u8>),
    /// Says more than it sends, then hangs up.
    Truncated(Vec<u8>, usize),
    /// Says nothing at all.
    Hang,
    /// Status and raw header lines, empty body.
    Headers(u16, String),
    /// Status 206, `Content-Range` if there is one, body.
    Part(Option<String>, Vec<u8>),
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    /// How often this path was asked for before.
    pub(crate) before: usize,
}

/// A registry that does what a test wants.
pub(crate) struct Fake {
    pub(crate) host: String,
    stop: Arc<AtomicBool>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    pub(crate) hung: Arc<AtomicUsize>,
    accept: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub(crate) fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let hung = Arc::new(AtomicUsize::new(0));
        let (stopped, seen, hangs) = (Arc::clone(&stop), Arc::clone(&requests), Arc::clone(&hung));
        let handler: Arc<Handler> = Arc::new(handler);
        let accept = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (handler, seen, hangs, stopped) = (
                    Arc::clone(&handler),
                    Arc::clone(&seen),
                    Arc::clone(&hangs),
                    Arc::clone(&stopped),
                );
                std::thread::spawn(move || serve(stream, &*handler, &seen, &hangs, &stopped));
            }
        });
        Self {
            host,
            stop,
            requests,
            hung,
            accept: Some(accept),
        }
    }

    /// Serves the blobs and manifests of images honestly.
    pub(crate) fn serving(images: &[&TestImage]) -> Self {
        let answers = answers(images);
        Self::start(move |request| {
            answers
                .get(&request.path)
                .cloned()
                .unwrap_or_else(not_found)
        })
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.contains(part))
            .count()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.host);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

pub(crate) fn not_found() -> Answer {
    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    Answer::Full(404, "application/json".into(), body.to_vec())
}

/// Path to answer, for all images.
pub(crate) fn answers(images: &[&TestImage]) -> HashMap<String, Answer> {
    let mut answers = HashMap::new();
    for image in images {
        let name = &image.name;
        for (media_type, bytes) in &image.manifests {
            let answer = Answer::Full(200, media_type.clone(), bytes.clone());
            answers.insert(
                format!("/v2/{name}/manifests/{}", Digest::of(bytes)),
                answer.clone(),
            );
            answers.insert(format!("/v2/{name}/manifests/latest"), answer);
        }
        for blob in &image.blobs {
            let answer = Answer::Full(200, "application/octet-stream".into(), blob.clone());
            answers.insert(format!("/v2/{name}/blobs/{}", Digest::of(blob)), answer);
        }
    }
    answers
}

fn serve(
    stream: TcpStream,
    handler: &Handler,
    seen: &Mutex<Vec<String>>,
    hangs: &AtomicUsize,
    stopped: &AtomicBool,
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut out = stream;
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split(' ').map(str::to_string);
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((key, value)) = line.split_once(':') {
            headers.insert(key.trim().to_lowercase(), value.trim().to_string());
        }
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok());
    let mut sent = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut sent).is_err() {
        return;
    }
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|earlier| **earlier == path).count();
        seen.push(path.clone());
        before
    };
    let head = |status: u16, length: usize, rest: &str| {
        format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{rest}\r\n"
        )
    };
    let answer = handler(&Request {
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&sent).into_owned(),
        before,
    });
    let _ = match answer {
        Answer::Full(status, media_type, body) => out
            .write_all(
                head(
                    status,
                    body.len(),
                    &format!("Content-Type: {media_type}\r\n"),
                )
                .as_bytes(),
            )
            .and_then(|()| out.write_all(&body)),
        Answer::Truncated(body, claimed) => out
            .write_all(head(200, claimed, "").as_bytes())
            .and_then(|()| out.write_all(&body)),
        Answer::Part(range, body) => {
            let range = range.map(|range| format!("Content-Range: {range}\r\n"));
            out.write_all(head(206, body.len(), &range.unwrap_or_default()).as_bytes())
                .and_then(|()| out.write_all(&body))
        }
        Answer::Headers(status, lines) => out.write_all(head(status, 0, &lines).as_bytes()),
        Answer::Hang => {
            hangs.fetch_add(1, Ordering::SeqCst);
            // Until the client hangs up.
            let _ = out.set_read_timeout(Some(Duration::from_millis(50)));
            let mut byte = [0];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(0) = reader.read(&mut byte) {
                    break;
                }
            }
            Ok(())
        }
    };
}

/// An image in memory.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) name: String,
    /// Media type and bytes; the last one is what the tag stands for.
    pub(crate) manifests: Vec<(String, Vec<u8>)>,
    pub(crate) blobs: Vec<Vec<u8>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Packed {
    Plain,
    Gzip,
    Zstd,
}

/// Builds an image of layers that are given as archives.
pub(crate) fn image(name: &str, layers: &[(Vec<u8>, Packed)]) -> TestImage {
    image_for(name, host_arch(), layers)
}

pub(crate) fn image_for(name: &str, architecture: &str, layers: &[(Vec<u8>, Packed)]) -> TestImage {
    let mut blobs = Vec::new();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (archive, packed) in layers {
        let (bytes, suffix) = match packed {
            Packed::Plain => (archive.clone(), ""),
            Packed::Gzip => (gzip(archive), "+gzip"),
            Packed::Zstd => (zstd::encode_all(archive.as_slice(), 3).unwrap(), "+zstd"),
        };
        diff_ids.push(Digest::of(archive).to_string());
        descriptors.push(descriptor(&format!("{LAYER}{suffix}"), &bytes));
        blobs.push(bytes);
    }
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["/x"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG, &config),
        "layers": descriptors});
    blobs.push(config);
    TestImage {
        name: name.into(),
        manifests: vec![(OCI_MANIFEST.into(), manifest.to_string().into_bytes())],
        blobs,
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Pulls one image with these layers into a fresh store below `folder`; returns the topmost layer's directory.
pub(crate) async fn pull_layers(
    folder: &Path,
    layers: &[(Vec<u8>, Packed)],
) -> Result<(ImageStore, Vec<PathBuf>), PullError> {
    let fake = Fake::serving(&[&image("x", layers)]);
    let store = open(&folder.join("store")).await;
    let image = store
        .pull(&fake.reference("x"), PullPolicy::IfNotPresent, None)
        .await?;
    let snapshot = store
        .snapshot(&image, "look")
        .expect("a snapshot of what was just pulled");
    Ok((store, snapshot.lowers))
}
